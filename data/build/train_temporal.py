"""Train what gives pocket a sense of motion (`make weights`): data/weights/temporal.safetensors.

Seed 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tqdm.auto import tqdm

from pgvl_core import assets, toyworld_motion, train
from pgvl_core.encoder import LiteCLIPEncoder
from pgvl_core.pooling import pool
from pgvl_core.toyworld import Clip, make_clip
from pgvl_core.video import sample_indices

SEED = 0
CLIPS, HELD = 2400, 600
FRAMES, TEMPORAL, WIDTH = 16, 8, 128
FOLDER = assets.DATA.parent / "build" / "temporal"
HELD_FROM = 9000  # seeds of the held-out clips, of split "compositions"

ALONE = {  # how often a thing that is alone moves how: what is counted or mixed up, more often
    "left": 0.13,
    "right": 0.13,
    "up": 0.13,
    "down": 0.13,
    "still": 0.09,
    "approach": 0.11,
    "circle": 0.12,
    "bounce": 0.16,
}
TRAVEL = toyworld_motion.TRAVEL


def compose(seed: int, split: str) -> tuple[Clip, int, int]:
    """A clip, and the stretch of it that is shown.

    Half have one thing; of those that travel, half are shown slowed down, so that a speed is to be
    seen. Three in ten have two or three things in turn, the others two at once.
    """
    rng = np.random.default_rng([seed, 10])
    draw = rng.random()
    if draw >= 0.5:
        count = 2 if draw < 0.72 or draw >= 0.8 else 3
        shots = count if draw < 0.8 else 1
        return make_clip(seed, split, frames=32, fps=8, objects=count, shots=shots), 0, 32
    motion = str(rng.choice(list(ALONE), p=list(ALONE.values())))
    shown = int(rng.choice([64, 64, 32, 16])) if motion in TRAVEL else 32
    frames = max(shown, 64) if motion in TRAVEL else 32
    clip = make_clip(seed, split, frames=frames, motions=[motion], shots=1)
    begin = int(rng.integers(frames - shown + 1))
    return clip, begin, begin + shown


def describe(clip: Clip, begin: int, end: int, indices: np.ndarray) -> dict[str, Any]:
    """The truth of what is shown, to be kept beside its features."""
    whole = (begin, end) == (0, len(clip.frames))
    more = toyworld_motion.questions(clip, begin, None if whole else end)
    shots = np.searchsorted(clip.cuts, indices, "right")
    return {
        "qa": [(q.kind, q.question, q.answer) for q in (*clip.qa, *more)],
        "motions": [t.motion for t in clip.tracks],
        "categories": [t.category for t in clip.tracks],
        "shot_of": [t.shot for t in clip.tracks],
        "shots": [int(s) for s in shots],
        "visible": [[round(float(v), 2) for v in t.visibility[indices]] for t in clip.tracks],
        "speed": toyworld_motion.speed(clip.tracks[0], begin, end)
        if len(clip.tracks) == 1 and clip.tracks[0].motion in TRAVEL
        else None,
        "bounces": toyworld_motion.bounces(clip.tracks[0])
        if clip.tracks[0].motion == "bounce" and len(clip.tracks) == 1
        else None,
        "fraction": (end - begin) / len(clip.frames),
    }


def fit_reduction(encoder: LiteCLIPEncoder) -> dict[str, torch.Tensor]:
    """The first principal directions ``[WIDTH, D]`` of features, and their mean."""
    file = FOLDER / "pca.safetensors"
    if not file.exists():
        cells = []
        for seed in tqdm(range(100_000, 100_150), desc="reduction"):
            clip = make_clip(seed, frames=4, objects=1 + seed % 3, shots=1, height=224, width=224)
            cells.append(encoder.encode(clip.frames[1:3]).flatten(0, 1))
        features = torch.cat(cells)
        mean = features.mean(0)
        values, vectors = torch.linalg.eigh((features - mean).T @ (features - mean))
        share = values[-WIDTH:].sum() / values.sum()
        print(f"{WIDTH} of {len(mean)} directions hold {share:.1%} of the spread", flush=True)
        train.write_tensors(file, {"rows": vectors[:, -WIDTH:].T.flip(0), "mean": mean})
    return load_file(file)


def compute(encoder: LiteCLIPEncoder, seeds: range, split: str) -> None:
    """Features of clips, once: reduced in full, and the pooled tokens as they are."""
    reduction = fit_reduction(encoder)
    folder = FOLDER / split
    folder.mkdir(parents=True, exist_ok=True)
    for seed in tqdm(seeds, desc=split, mininterval=30):
        file = folder / f"{seed}.safetensors"
        if file.exists():
            continue
        clip, begin, end = compose(seed, split)
        indices = begin + sample_indices(end - begin, FRAMES)
        features = encoder.encode(clip.frames[indices])
        kept = {
            "reduced": ((features - reduction["mean"]) @ reduction["rows"].T).half(),
            "pooled": pool(features, TEMPORAL).half(),
        }
        train.write_tensors(file, kept, {"truth": json.dumps(describe(clip, begin, end, indices))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default="0/1", help="encode only each n-th clip: 0/2, 1/2")
    part, parts = map(int, parser.parse_args().part.split("/"))
    FOLDER.mkdir(parents=True, exist_ok=True)
    encoder = LiteCLIPEncoder()
    compute(encoder, range(HELD_FROM + part, HELD_FROM + HELD, parts), "compositions")
    compute(encoder, range(part, CLIPS, parts), "train")


if __name__ == "__main__":
    main()
