"""A language model behind an OpenAI-compatible server on this machine, for as long as it is needed.

The server is transformers' own, `transformers serve`. It needs the packages of the extra ``dev``
(fastapi, openai, uvicorn).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 240.0  # seconds that a server may take to start


@contextmanager
def serving(
    model: str | os.PathLike[str], log: str | os.PathLike[str]
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`transformers serve` with a model, from when it answers until the block's end.

    Parameters
    ----------
    model : path or str
        A folder or a name of the hub; the server calls the model by it.
    log : path
        The file that gets all that the server prints.

    Yields
    ------
    str
        The base URL, as OpenAI's clients and `llm_judge.LLMJudge` take it.
    subprocess.Popen
        The server.

    Raises
    ------
    ValueError
        When the command is not there, ends, or does not answer; with the end of what it printed.
    """
    command = shutil.which("transformers", path=str(Path(sys.executable).parent))
    if command is None:
        raise ValueError("the command `transformers` is not beside this Python")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    options = ["--device", "cpu", "--dtype", "float32", "--port", str(port)]
    with Path(log).open("wb") as stream:
        process = subprocess.Popen(
            [command, "serve", str(model), *options], stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        _wait(process, f"http://localhost:{port}/health", Path(log))
        yield f"http://localhost:{port}/v1", process
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    told = log.read_text(errors="replace")[-1500:]
    raise ValueError(f"transformers serve does not answer (pip install pgvl[dev]?): {told}")
