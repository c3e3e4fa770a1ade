"""Make the held-out narrated clips of data/narration: `make narration` (needs espeak-ng).

A clip's pictures are made again from its seed; what is kept is its sound, a small Opus file, and
its truth in narration.json: the words, the questions that the sound answers and those that the
picture does, and how the sound was spoiled. names.ogg is a person who says what some stamps show.

A narrator keeps to things and names that Whisper tiny.en understood from the same voices in another
sentence: an eggplant that a synthetic voice makes an "end plant" measures the voice, not the chain.

Seed 0; some ten minutes, most of them Whisper's.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from pgvl_core.assets import DATA
from pgvl_core.audio import Listener
from pgvl_core.files import write_text
from pgvl_core.toyworld import categories, make_clip
from pgvl_core.video import read_audio

sys.path.insert(0, str(Path(__file__).parent))
from make_atlas import STAMPS, unpack
from narration import PEOPLE, PETS, Narration, narrate
from sounds import LEVEL, RATE, band, bed, engine, loud, noise, say, write_opus

SEED = 0
CLIPS = 54
SPOILED = ("clean", "clean", "clean", "noise 10 dB", "music 10 dB", "noise 0 dB", "other accents",
           "misleading", "engine 10 dB")  # fmt: skip
BELOW = {"noise": noise, "music": band, "engine": engine}
CLEAR = ("en-us+m3", "en-us+f2")
GAP = 4  # with a pause between words as much more is understood as with a slower voice
OTHER = ("en-gb", "en-gb-x-rp+f4", "en-gb-scotland", "en-gb-x-gbclan+m2", "en-029+f1")
FOLDER = DATA / "narration"
NAMES = 40


def spoil(speech: np.ndarray, how: str, rng: np.random.Generator) -> np.ndarray:
    """Speech with noise, music or an engine so many decibels below it."""
    sound = LEVEL * loud(speech)
    if how.endswith("dB"):
        kind, decibels, _ = how.split()
        under = bed(BELOW[kind], len(speech), rng)
        sound = sound + LEVEL * under * 10 ** (-float(decibels) / 20)
    return np.clip(sound, -1, 1).astype(np.float32)


def understood() -> tuple[set[str], set[str]]:
    """Things heard from both clear voices, and names heard three times of four."""
    rng = np.random.default_rng(5)
    listener = Listener("whisper-tiny.en")
    things = set()
    names: dict[str, list[bool]] = defaultdict(list)
    for noun in tqdm(sorted(categories("compositions")), desc="things", disable=None):
        name = str(rng.choice(PETS + PEOPLE))
        heard = []
        for voice in CLEAR:
            speech = say(f"The {noun} belongs to {name}.", voice, 150, gap=GAP)
            heard.append(listener.listen(spoil(speech, "clean", rng)).prompt())
        if all(noun in text.lower() for text in heard):
            things.add(noun)
        names[name] += [name in text for text in heard]
    return things, {name for name, found in names.items() if np.mean(found) >= 0.75}


def clear(told: Narration, names: set[str]) -> bool:
    """Whether a clear voice is understood: of "Anna owns the" Whisper makes another name."""
    said = set(PETS + PEOPLE).intersection(told.text.replace(".", "").split())
    return said <= names and " owns " not in told.text


def narrated(i: int, things: set[str], names: set[str]) -> dict[str, Any]:
    """A clip's record; its sound is written beside it."""
    rng = np.random.default_rng([SEED, i])
    how = SPOILED[i % len(SPOILED)]
    count = 2 + i % 4 // 3
    arguments: dict[str, Any] = {"split": "compositions", "objects": count}
    arguments |= {"frames": 32, "fps": 8, "shots": count}
    for seed in itertools.count(7000 + 1000 * i):
        clip = make_clip(seed=seed, **arguments)
        shown = [track.category for track in clip.tracks]
        if things.issuperset(shown):
            break
    nouns = [noun for noun in shown if shown.count(noun) == 1]
    absent = ""
    while how == "misleading" and absent in ("", *shown):
        absent = str(rng.choice(sorted(things)))
    told = narrate(nouns, rng, absent)
    while not clear(told, names):
        told = narrate(nouns, rng, absent)
    voice = str(rng.choice(OTHER if how == "other accents" else CLEAR))
    speech = say(told.text, voice, int(rng.integers(130, 160)), gap=GAP)
    write_opus(FOLDER / f"{i:02d}.ogg", spoil(speech, how, rng))
    return {
        "file": f"{i:02d}.ogg",
        "make_clip": {"seed": seed, **arguments},
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
    known = understood()
    records = [narrated(i, *known) for i in tqdm(range(CLIPS), desc="narrated clips")]
    with tempfile.TemporaryDirectory() as folder:
        spoken = names(Path(folder))
    made = {"clips": records, "names": spoken}
    write_text(FOLDER / "narration.json", json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
