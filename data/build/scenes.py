"""Shots to put clips together from: one to three seen cut-outs in other light, three moments each.

A clip that is rendered teaches a dozen pairings and a handful of backgrounds; 15 photographs are
all there are to train on. A shot's features, kept once, can stand in any clip: thousands of clips
in turn, on backgrounds that were recoloured and joined at ragged edges, cost nothing but memory.
Pairs of things, and of things and motions, that training never shows are left out here too.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from composites import background, filmed
from safetensors import safe_open
from torch.nn.functional import adaptive_avg_pool2d

from pgvl_core import train
from pgvl_core.encoder import LiteCLIPEncoder
from pgvl_core.toyworld import categories, held_out
from pgvl_core.toyworld_render import MOTIONS, render_shot

SIZE, MOMENTS = 224, 3


@dataclass(frozen=True, eq=False)
class Scene:
    """A shot of n things."""

    nouns: tuple[str, ...]
    cells: torch.Tensor  # float16 [MOMENTS, N, D]
    cover: torch.Tensor  # float32 [MOMENTS, N, n]: part of a cell that a thing covers

    @property
    def bare(self) -> torch.Tensor:
        """Cells that no thing covers: bool ``[MOMENTS, N]``."""
        return self.cover.sum(2) < 0.02

    def elsewhere(self, rng: np.random.Generator, other: Scene) -> torch.Tensor:
        """Its cells before another shot's background, or partly so: float32 ``[MOMENTS, N, D]``.

        A frame's mean is mostly background, and a photograph is known by it: things that are seen
        before one alone are named by it. The same cell is put in at all moments.
        """
        cells, bare = self.cells.float(), self.bare
        spare = other.cells[other.bare]
        if len(spare):
            taken = torch.from_numpy(rng.random(cells.shape[1]) < rng.uniform(0.5, 1))
            drawn = spare[torch.from_numpy(rng.integers(len(spare), size=cells.shape[1]))].float()
            swapped = (bare & taken).unsqueeze(2)
            cells = torch.where(swapped, drawn, cells)
        return cells


def fits(nouns: Sequence[str], motions: Sequence[str] = ()) -> bool:
    """Whether training may show these things together, and each in its motion."""
    pool = categories("train")
    kinds = set(nouns)
    pairs = [*itertools.combinations(sorted(kinds), 2), *zip(nouns, motions, strict=False)]
    return len({pool[noun][0].group for noun in kinds}) == len(kinds) and not any(
        held_out(*pair) for pair in pairs
    )


def scene(
    rng: np.random.Generator,
    encoder: LiteCLIPEncoder,
    side: int,
    pictures: Sequence[np.ndarray] = (),
) -> Scene:
    """A random shot, before toyworld's backgrounds or the given ones; its features and cover."""
    pool = categories("train")
    count = int(rng.choice([1, 2, 3], p=[0.75, 0.15, 0.1]))
    while True:
        nouns = [str(noun) for noun in rng.choice(sorted(pool), count)]
        motions = [str(motion) for motion in rng.choice(MOTIONS, count)]
        if not fits(nouns, motions):
            continue
        sprites = [pool[noun][rng.integers(len(pool[noun]))] for noun in nouns]
        frames = np.zeros((MOMENTS, SIZE, SIZE, 3), np.uint8)
        full, shown = np.zeros((2, count, MOMENTS, SIZE, SIZE), bool)
        behind = np.rint(background(rng, SIZE, SIZE, pictures)).astype(np.uint8)
        render_shot(rng, frames, full, shown, sprites, motions, behind, crossing=False)
        if (shown.sum((1, 2, 3)) > 0.5 * full.sum((1, 2, 3))).all() and shown.any((2, 3)).all():
            break
    # The moments of a shot are in one light: they are filmed as one tall picture.
    tall = filmed(rng, frames.reshape(-1, SIZE, 3).astype(np.float32))
    cells = encoder.encode(tall.reshape(frames.shape))
    cover = adaptive_avg_pool2d(torch.from_numpy(shown).float(), side).flatten(2)
    return Scene(tuple(nouns), cells.half(), cover.permute(1, 2, 0))


def keep(file: Path, shot: Scene) -> None:
    tensors = {"cells": shot.cells, "cover": shot.cover}
    train.write_tensors(file, tensors, {"nouns": json.dumps(shot.nouns)})


def kept(file: Path) -> Scene:
    with safe_open(file, "pt") as found:
        nouns = tuple(json.loads(found.metadata()["nouns"]))
        return Scene(nouns, found.get_tensor("cells"), found.get_tensor("cover"))


class Scenes:
    """Many scenes, and clips put together from them."""

    def __init__(self, scenes: Sequence[Scene], elsewhere: float = 0.0) -> None:
        self.scenes = scenes
        self.elsewhere = elsewhere  # part of the shots that get another's background
        self.alone: dict[str, list[int]] = {}  # scenes of one thing, by its name
        for i, each in enumerate(scenes):
            if len(each.nouns) == 1:
                self.alone.setdefault(each.nouns[0], []).append(i)
        self.together = [i for i, each in enumerate(scenes) if len(each.nouns) > 1]

    def clip(self, rng: np.random.Generator, frames: int) -> tuple[torch.Tensor, list[str], bool]:
        """Pooled tokens of a clip, what it shows, and whether in turn.

        One to three things alone, one after the other; or, one time in six, up to three at once.
        """
        if rng.random() < 1 / 6:
            shots = [self.scenes[rng.choice(self.together)]]
            nouns = sorted(shots[0].nouns)
        else:
            count = int(rng.choice([1, 2, 3], p=[0.2, 0.4, 0.4]))
            alike = 2 if count > 1 and rng.random() < 0.25 else 1
            while True:
                drawn = [str(n) for n in rng.choice(list(self.alone), count - alike + 1)]
                nouns = drawn[:1] * (alike - 1) + drawn
                if max(Counter(nouns).values()) == alike and fits(nouns):
                    break
            shots = [self.scenes[rng.choice(self.alone[noun])] for noun in nouns]
        jitter = rng.uniform(-0.15, 0.15, len(shots))
        cuts = [frames * (i + jitter[i]) / len(shots) for i in range(1, len(shots))]
        edges = [0, *(round(cut) for cut in cuts), frames]
        cells = []
        for shot, (begin, end) in zip(shots, itertools.pairwise(edges), strict=True):
            at = (torch.arange(end - begin) + 0.5) / (end - begin) * (MOMENTS - 1)
            at = at if rng.random() < 0.5 else (MOMENTS - 1) - at
            low = at.long().clamp(max=MOMENTS - 2)
            part = (at - low)[:, None, None]
            kept = shot.cells.float()
            if self.elsewhere and rng.random() < self.elsewhere:
                kept = shot.elsewhere(rng, self.scenes[int(rng.integers(len(self.scenes)))])
            cells.append((1 - part) * kept[low] + part * kept[low + 1])
        together = torch.cat(cells)
        return torch.cat([together.mean(1), together.mean(0)]), nouns, len(shots) > 1
