"""Write down what is said: the workbook's chain against plain openai-whisper, in one run.

Half a minute of a real telephone conversation in so much silence. The plain way is Whisper's own
`transcribe` with word timestamps over the whole file, as the official code does; the chain hears
only where Silero VAD finds speech, and tags it. Both have the same weights. Each run is a process
of its own, so that peak memory is its own. Model loading is not timed.

    python benchmarks/listen.py             # 30 s, 10 min and 1 h
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import whisper
from tqdm.auto import tqdm

from pgvl_core import assets, profiles
from pgvl_core.audio import Listener
from pgvl_core.evaluation.words import read_stm, word_error_rate
from pgvl_core.video import SAMPLE_RATE, read_audio
from pgvl_core.workbook import peak_ram_mb, table

LENGTHS = {"30 s": 30, "10 min": 600, "1 h": 3600}


def ours(listener: Listener, path: Path) -> str:
    """Voice activity, then Whisper on what is speech, then tags."""
    return listener._hear(path, vad=True).prompt()  # and not remembered


def plain(listener: Listener, path: Path) -> str:
    """All of it at once."""
    found = whisper.transcribe(
        listener.whisper,
        read_audio(path),
        beam_size=5,
        temperature=0.0,
        word_timestamps=True,
        fp16=False,
    )
    return found["text"]


WAYS: dict[str, Callable[[Listener, Path], str]] = {"ours": ours, "plain": plain}


def one_run(way: str, path: Path) -> None:
    """Time one way on one file, in a process of its own; print what it took as JSON."""
    listener = profiles.listener("pocket")
    listener.whisper.transcribe(np.zeros(SAMPLE_RATE, np.float32), fp16=False)  # warm
    start = time.perf_counter()
    text = WAYS[way](listener, path)
    taken = {"seconds": time.perf_counter() - start, "peak": peak_ram_mb(), "text": text}
    print(json.dumps(taken))


def write(path: Path, sound: np.ndarray, seconds: int) -> None:
    """A sound and then silence, as a WAV file."""
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        out.writeframes((32767 * sound).astype("<i2").tobytes())
        out.writeframes(bytes(2 * (seconds * SAMPLE_RATE - len(sound))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args().run
    if given:
        return one_run(given[0], Path(given[1]))
    folder = assets.path("conversation")
    sound, spoken = read_audio(folder / "sample.wav"), read_stm(folder / "sample.stm")
    rows = []
    with tempfile.TemporaryDirectory() as other:
        for length, seconds in tqdm(LENGTHS.items()):
            path = Path(other) / f"{seconds}.wav"
            write(path, sound, seconds)
            row: dict[str, object] = {"sound": length}
            for way in WAYS:
                command = [sys.executable, __file__, "--run", way, str(path)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                taken = json.loads(done.stdout.splitlines()[-1])
                row[f"{way} (s)"] = taken["seconds"]
                row[f"{way} (MB peak)"] = taken["peak"]
                row[f"{way}, words wrong"] = f"{word_error_rate(spoken, taken['text']):.1%}"
            rows.append(row)
    print(table(rows))


if __name__ == "__main__":
    main()
