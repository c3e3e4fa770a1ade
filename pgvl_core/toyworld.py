"""Procedural videos of photographic cut-outs whose truth is known exactly.

The sprites (data/sprites, built by `make atlas`) move over photographs and patterns.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pgvl_core.assets import DATA


@dataclass(frozen=True, eq=False)
class Sprite:
    """One cut-out: its picture and what is true of it."""

    name: str  # category, lower case: "teddy bear"
    split: str  # "seen", "unseen" or "style"
    colour: str | None  # when one colour plainly dominates
    group: str  # categories of one group could share a name ("car", "race car")
    image: np.ndarray  # uint8 [h,w,4], straight alpha, longest side at most 128
    source: str  # file in the package it came from


@functools.cache
def atlas() -> tuple[Sprite, ...]:
    """Every shipped sprite, of the three splits of categories: seen, unseen, style."""
    folder = DATA / "sprites"
    entries = json.loads((folder / "atlas.json").read_text(encoding="utf-8"))
    names = {e["sheet"] for e in entries}
    sheets = {name: np.array(Image.open(folder / name)) for name in names}
    sprites = []
    for e in entries:
        x, y, w, h = e["rect"]
        image = sheets[e["sheet"]][y : y + h, x : x + w]
        sprites.append(Sprite(e["name"], e["split"], e["colour"], e["group"], image, e["source"]))
    return tuple(sprites)
