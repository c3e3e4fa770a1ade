"""Train the tag head on Whisper's encoder (`make weights`): data/weights/tags.safetensors.

Windows of up to 30 s hold several sounds one after the other, some of them mixed: speech (espeak-ng
and people), music (synthesised, and of games), singing voices (synthesised: harmonics of a tune
under the formants of vowels, which are music and not speech), animals, instruments, household
things and vehicles (recorded, and synthesised engines and sirens), and noise. The head is a
logistic regression for each tag on the mean and spread of the encoder's states. What it is measured
on uses other files, other tracks, other voices and other languages than what it learned from. All
effects are one tag: the recordings are too few to tell one kind from another on files that were not
learned from.

Seed 0.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import whisper
from safetensors.torch import load_file
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm.auto import tqdm

from pgvl_core import assets
from pgvl_core.lite.audio_tags import states, summary
from pgvl_core.train import write_tensors
from pgvl_core.video import read_audio

sys.path.insert(0, str(Path(__file__).parent))
from make_atlas import STAMPS, unpack
from sounds import (
    ACCENTS,
    RATE,
    SPEAKERS,
    band,
    engine,
    loud,
    noise,
    say,
    singing,
    stretch,
)

SEED = 0
TAGS = ("Speech", "Music", "Sound effect", "Not English")
WINDOWS = {"train": 700, "held out": 200}
WEIGHTS = assets.DATA / "weights" / "tags.safetensors"
FOLDER = assets.DATA.parent / "build" / "tags"
GAMES = ("frozen-bubble-data", "asc-music", "extremetuxracer-data", "neverball-data")
LANGUAGES = {
    "train": ("de", "fr-fr", "es", "ru", "pt", "nl", "sv", "fi", "tr", "cmn"),
    "held out": ("it", "pl", "hu", "ro"),
}
SPOKEN = {"train": ("fr", "ru", "ca", "bg", "be", "da"), "held out": ("es", "el", "ro", "nl")}
VEHICLES = ("firetruck", "bathyscape", "apollo_lander")
MUSICAL = ("hobbies/music", "final-roll-call")
HOUSEHOLD = ("household", "camera_35mm", "fireworks", "gift")


# ---------------------------------------------------------------------------------------- windows
def every_fourth(files: list[Path], split: str) -> list[Path]:
    """Three of four files to learn from, the others held out."""
    files = sorted(files)
    return [f for i, f in enumerate(files) if (i % 4 == 3) == (split == "held out")]


class Sounds:
    """What a split's windows are made of: for each kind, its tags and a maker."""

    def __init__(self, split: str, folder: Path, sentences: list[str]) -> None:
        self.split, self.sentences = split, sentences
        stamps = folder / STAMPS
        effects = [f for f in stamps.rglob("*.ogg") if "_desc" not in f.name]
        kinds: dict[str, list[Path]] = {"animals": [], "instruments": [], "household": []}
        vehicles: list[Path] = []
        for file in effects:
            name = file.relative_to(stamps).as_posix()
            if any(word in name for word in VEHICLES):
                vehicles.append(file)
            for kind, words in (
                ("animals", ("animals/",)),
                ("instruments", MUSICAL),
                ("household", HOUSEHOLD),
            ):
                if any(word in name for word in words):
                    kinds[kind].append(file)
        self.recorded = {
            kind: [read_audio(f) for f in every_fourth(files, split)]
            for kind, files in kinds.items()
        }
        self.vehicles = [read_audio(f) for f in (vehicles if split == "held out" else [])]
        people = every_fourth(list(stamps.rglob("*_desc.ogg")), split)
        self.people = [read_audio(f) for f in people]
        rng = np.random.default_rng(SEED)
        self.foreign = []
        for language in SPOKEN[split]:
            files = sorted(stamps.rglob(f"*_desc_{language}.ogg"))
            chosen = rng.permutation(len(files))[:40]
            self.foreign += [read_audio(files[i]) for i in chosen]
        tracks = [f for g in GAMES for s in ("*.ogg", "*.mp3") for f in (folder / g).rglob(s)]
        tracks = [f for f in tracks if f.stat().st_size > 300_000]
        self.tracks = [read_audio(f) for f in every_fourth(tracks, split)]

    def english(self, rng: np.random.Generator, seconds: float) -> np.ndarray:
        """A person, or one of espeak's voices; the last accent and two speakers are held out."""
        if rng.random() < 0.4:
            return stretch(rng, self.people[rng.integers(len(self.people))], seconds)
        held = self.split == "held out"
        accents = ACCENTS[-1:] if held else ACCENTS[:-1]
        speakers = SPEAKERS[-2:] if held else SPEAKERS[:-2]
        voice = str(rng.choice(accents)) + str(rng.choice(speakers))
        words = str(rng.choice(self.sentences))
        spoken = say(words, voice, int(rng.integers(120, 200)), int(rng.integers(25, 75)))
        return stretch(rng, spoken, seconds)

    def other(self, rng: np.random.Generator, seconds: float) -> np.ndarray:
        """Speech that is not English."""
        if rng.random() < 0.6:
            return stretch(rng, self.foreign[rng.integers(len(self.foreign))], seconds)
        voice = str(rng.choice(LANGUAGES[self.split]))
        # Numbers are spelled out in the voice's language.
        text = " ".join(str(n) for n in rng.integers(0, 3000, 6))
        return stretch(rng, say(text, voice, int(rng.integers(120, 200))), seconds)

    def music(self, rng: np.random.Generator, seconds: float) -> np.ndarray:
        """A game's track, a synthesised band, or a song."""
        which = rng.random()
        if which < 0.5:
            return stretch(rng, self.tracks[rng.integers(len(self.tracks))], seconds)
        return band(rng, seconds) if which < 0.75 else singing(rng, seconds)

    def effect(self, rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, set[str]]:
        """An animal, an instrument, a household thing or a vehicle, and its tags."""
        which = ("animals", "instruments", "household", "vehicles")[rng.integers(4)]
        if which == "vehicles":
            if self.vehicles and rng.random() < 0.3:
                sound = stretch(rng, self.vehicles[rng.integers(len(self.vehicles))], seconds)
            else:
                sound = engine(rng, seconds)
        else:
            files = self.recorded[which]
            sound = stretch(rng, files[rng.integers(len(files))], seconds)
        return sound, {"Music" if which == "instruments" else "Sound effect"}

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, set[str]]:
        """A sound of one to eight seconds, and its tags."""
        seconds = float(rng.uniform(1, 8))
        kind = rng.choice(5, p=[0.35, 0.2, 0.2, 0.2, 0.05])
        if kind == 4:
            return noise(rng, seconds) * rng.choice([0.001, 0.1]), set()
        if kind == 3:
            sound, tags = self.effect(rng, seconds)
            return loud(sound), tags
        if kind == 2:
            return loud(self.music(rng, seconds)), {"Music"}
        foreign = kind == 1
        speech = loud(self.other(rng, seconds) if foreign else self.english(rng, seconds))
        tags = {"Speech", "Not English"} if foreign else {"Speech"}
        below = rng.random()
        if below < 0.5:
            return speech, tags
        seconds = len(speech) / RATE
        if below < 0.65:
            bed, more = noise(rng, seconds), set()
        elif below < 0.85:
            bed, more = self.music(rng, seconds), {"Music"}
        else:
            bed, more = self.effect(rng, seconds)
        bed = loud(bed)[: len(speech)]
        speech[: len(bed)] += bed * 10 ** (-rng.uniform(0, 15) / 20)
        return speech, tags | more

    def window(self, rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[float, float, set]]]:
        """Up to 30 s of sounds, and when each is heard."""
        parts, heard, at = [], [], 0.0
        while True:
            sound, tags = self.draw(rng)
            gap = rng.uniform(0, 0.6)
            if at + gap + len(sound) / RATE > 30:
                break
            parts += [np.zeros(int(gap * RATE)), sound * rng.uniform(0.02, 0.15)]
            begin = sum(map(len, parts[:-1])) / RATE
            at = begin + len(sound) / RATE
            heard.append((begin, at, tags))
        whole = np.concatenate(parts).astype(np.float32)
        return np.clip(whole, -1, 1), heard


def kept(split: str) -> Path:
    """Where a split's examples are kept."""
    return FOLDER / f"{split.replace(' ', '_')}.safetensors"


def examples(
    split: str, folder: Path, model: whisper.Whisper, sentences: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summaries [n, D] and tags [n, K] of a split's sounds; kept in build/tags."""
    file = kept(split)
    if file.exists():
        found = load_file(file)
        return found["x"], found["y"]
    sounds = Sounds(split, folder, sentences)
    rng = np.random.default_rng([SEED, len(split)])
    inputs, wanted = [], []
    for _ in tqdm(range(WINDOWS[split]), desc=split):
        audio, heard = sounds.window(rng)
        layers = states(model, audio)
        for begin, end, tags in heard:
            inputs.append(summary(layers, begin, end))
            wanted.append([float(name in tags) for name in TAGS])
    x, y = torch.stack(inputs), torch.tensor(wanted)
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_tensors(file, {"x": x, "y": y}, {})
    return x, y


def fit(x: torch.Tensor, y: torch.Tensor, decay: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logistic regression on standardised inputs; weight and bias for the inputs as they are."""
    mean, std = x.mean(0), x.std(0) + 1e-4
    weight = torch.zeros(y.shape[1], x.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    standard = (x - mean) / std
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = binary_cross_entropy_with_logits(standard @ weight.T + bias, y)
        value = value + decay * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    with torch.no_grad():
        return weight / std, bias - (weight / std) @ mean


def clear(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The sounds whose tags can be heard: an effect below speech mostly cannot."""
    audible = (y[:, TAGS.index("Speech")] == 0) | (y[:, TAGS.index("Sound effect")] == 0)
    return x[audible], y[audible]


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = whisper.load_model(str(assets.path("whisper-tiny.en")), device="cpu")
    lines = (Path(__file__).parent / "questions.txt").read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not all(kept(split).exists() for split in WINDOWS):
            unpack(["tuxpaint-stamps-default", *GAMES], folder)
        x, y = clear(*examples("train", folder, model, lines[::2]))
        test, truth = clear(*examples("held out", folder, model, lines[1::2]))
    weight, bias = fit(x, y, 1e-3)
    said = test @ weight.T + bias > 0
    scores = []
    for k, tag in enumerate(TAGS):
        hits = (said[:, k] & (truth[:, k] > 0)).sum().item()
        scores.append(2 * hits / (said[:, k].sum().item() + truth[:, k].sum().item()))
        logging.info("%-20s F1 %.3f of %d", tag, scores[-1], int(truth[:, k].sum()))
    logging.info("macro F1 %.3f on %d sounds", np.mean(scores), len(test))
    tensors = {"weight": weight.half(), "bias": bias.half()}
    write_tensors(WEIGHTS, tensors, {"names": "|".join(TAGS)})


if __name__ == "__main__":
    main()
