"""Make the held-out narrated clips of data/narration: `make narration` (needs espeak-ng).

A clip's pictures are made again from its seed; what is kept is its sound, a small Opus file, and
its truth in narration.json: the words, the questions that the sound answers and those that the
picture does, and how the sound was spoiled. names.ogg is a person who says what some stamps show.

Seed 0.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from pgvl_core.assets import DATA
from pgvl_core.files import write_text
from pgvl_core.toyworld import categories, make_clip
from pgvl_core.video import read_audio

sys.path.insert(0, str(Path(__file__).parent))
from make_atlas import STAMPS, unpack
from narration import narrate
from sounds import LEVEL, RATE, band, bed, loud, noise, say, write_opus

SEED = 0
CLIPS = 48
SPOILED = ("clean", "clean", "clean", "noise 10 dB", "music 10 dB", "noise 0 dB", "other accents",
           "misleading")  # fmt: skip
CLEAR = ("en-us+m3", "en-us+f2")  # voices of which Whisper tiny.en gets nine words of ten
OTHER = ("en-gb", "en-gb-x-rp+f4", "en-gb-scotland", "en-gb-x-gbclan+m2", "en-029+f1")
FOLDER = DATA / "narration"
NAMES = 40


def spoil(speech: np.ndarray, how: str, rng: np.random.Generator) -> np.ndarray:
    """Speech with noise or music so many decibels below it."""
    sound = LEVEL * loud(speech)
    if how.startswith(("noise", "music")):
        kind, decibels, _ = how.split()
        under = bed(noise if kind == "noise" else band, len(speech), rng)
        sound = sound + LEVEL * under * 10 ** (-float(decibels) / 20)
    return np.clip(sound, -1, 1).astype(np.float32)


def narrated(i: int) -> dict[str, Any]:
    """A clip's record; its sound is written beside it."""
    rng = np.random.default_rng([SEED, i])
    how = SPOILED[i % len(SPOILED)]
    count = 2 + i % 4 // 3
    arguments: dict[str, Any] = {"seed": 7000 + i, "split": "compositions", "objects": count}
    arguments |= {"frames": 32, "fps": 8, "shots": count}
    clip = make_clip(**arguments)
    shown = [track.category for track in clip.tracks]
    nouns = [noun for noun in shown if shown.count(noun) == 1]
    absent = ""
    while how == "misleading" and absent in ("", *shown):
        absent = str(rng.choice(sorted(categories("train"))))
    told = narrate(nouns, rng, absent)
    voice = str(rng.choice(OTHER if how == "other accents" else CLEAR))
    speech = say(told.text, voice, int(rng.integers(140, 160)))
    write_opus(FOLDER / f"{i:02d}.ogg", spoil(speech, how, rng))
    return {
        "file": f"{i:02d}.ogg",
        "make_clip": arguments,
        "spoiled": how,
        "voice": voice,
        "absent": absent,
        "text": told.text,
        "heard": told.pairs,
        "seen": [(each.question, each.answer) for each in clip.qa],
    }


def names(folder: Path) -> list[str]:
    """names.ogg, a person's voice, and what it says."""
    unpack(["tuxpaint-stamps-default"], folder)
    files = sorted((folder / STAMPS).rglob("*_desc.ogg"))
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, NAMES).astype(int)]
    said, parts = [], []
    for file in chosen:
        text = file.with_name(file.name.replace("_desc.ogg", ".txt"))
        said.append(text.read_text(encoding="utf-8").splitlines()[0].rstrip("."))
        parts += [LEVEL * loud(read_audio(file)), np.zeros(RATE // 2)]
    write_opus(FOLDER / "names.ogg", np.clip(np.concatenate(parts), -1, 1).astype(np.float32))
    return said


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    records = [narrated(i) for i in tqdm(range(CLIPS), desc="narrated clips")]
    with tempfile.TemporaryDirectory() as folder:
        spoken = names(Path(folder))
    made = {"clips": records, "names": spoken}
    write_text(FOLDER / "narration.json", json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
