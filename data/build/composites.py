"""Pictures to train LiteSAM and LiteDetector on: seen cut-outs strewn over training backgrounds.

Toyworld's own clips would teach its own habits: one frame size, few scales, clean light. Here one
to six cut-outs of any size, turned, stretched, recoloured, cut off and covered by one another lie
on photographs and patterns, some of them two that meet at a ragged edge; and the whole is dimmed,
blurred, made noisy and compressed, as videos are. Half of the cut-outs keep toyworld's sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import scenery

from pgvl_core.grounding.parts import LEAST_PIXELS, LEAST_SHOWN
from pgvl_core.toyworld import categories
from pgvl_core.toyworld_render import SIZES, mask_boxes

SHAPES = (1.0, 1.0, 1.0, 4 / 3, 16 / 9, 2.35, 3 / 4, 9 / 16)  # width by height


@dataclass(frozen=True, eq=False)
class Picture:
    """A composite and its truth; n things."""

    image: np.ndarray  # uint8 [H,W,3] RGB
    names: tuple[str, ...]
    masks: np.ndarray  # bool [n,H,W]: what of each is seen
    boxes: np.ndarray  # float64 [n,4], xyxy around it


def picture(rng: np.random.Generator, pictures: Sequence[np.ndarray] = ()) -> Picture:
    """A random composite with at least one thing to be seen in it; `pictures` as `background`."""
    longest = 224 if rng.random() < 0.5 else int(rng.integers(192, 513))
    shape = SHAPES[rng.integers(len(SHAPES))]
    height, width = round(longest / max(shape, 1)), round(longest * min(shape, 1))
    while True:
        canvas = background(rng, height, width, pictures)
        count = int(rng.integers(1, 7))
        full, shown = np.zeros((count, height, width), bool), np.zeros((count, height, width), bool)
        names, place = [], rng.uniform(0, 1, 2)
        for i in range(count):
            if rng.random() > 0.3:  # else close to the one before, which it may cover
                place = rng.uniform(0.04, 0.96, 2)
            else:
                place = place + rng.normal(0, 0.12, 2)
            name, full[i] = strew(rng, canvas, place, side(rng, count) * min(height, width))
            names.append(name)
            shown[:i] &= ~full[i]
            shown[i] = full[i]
        seen = shown.sum((1, 2))
        whole = np.maximum(full.sum((1, 2)), 1)
        fine = (seen >= LEAST_SHOWN * whole) & (seen >= LEAST_PIXELS)
        if fine.any():
            told = tuple(name for name, ok in zip(names, fine, strict=True) if ok)
            return Picture(filmed(rng, canvas), told, shown[fine], mask_boxes(shown[fine]))


def side(rng: np.random.Generator, count: int) -> float:
    """Longest side of a thing, as a part of the frame's shorter side."""
    if rng.random() < 0.5:
        return rng.uniform(*SIZES[min(count, 5)])
    return float(np.exp(rng.uniform(np.log(0.08), np.log(0.95))))


def background(
    rng: np.random.Generator, height: int, width: int, pictures: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """A recoloured background, at times two of them, float32 ``[height, width, 3]``.

    They are toyworld's or, most of them, of the given `pictures`.
    """
    first, second = (
        recoloured(rng, scene.astype(np.float32))
        for scene in scenery.draw(rng, pictures, 2, height, width)
    )
    if rng.random() > 0.35:
        return first
    angle, waves = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.15)
    ys, xs = np.mgrid[:height, :width].astype(np.float32) / min(height, width)
    along = (xs - rng.uniform(0, width) / min(height, width)) * np.cos(angle)
    along += (ys - rng.uniform(0, height) / min(height, width)) * np.sin(angle)
    across = ys * np.cos(angle) - xs * np.sin(angle)
    edge = along + waves * np.sin(across * rng.uniform(2, 25) + rng.uniform(0, 6))
    return np.where(edge[..., None] > 0, first, second)


def recoloured(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Other light: brightness, contrast, a tint, less colour; 0 to 255."""
    image = image * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    if rng.random() < 0.3:
        grey = image.mean(axis=2, keepdims=True)
        image = grey + rng.uniform(0, 0.8) * (image - grey)
    image = 128 + rng.uniform(0.6, 1.25) * (image - 128)
    return np.clip(image * rng.uniform(0.6, 1.3), 0, 255).astype(np.float32)


def strew(
    rng: np.random.Generator, canvas: np.ndarray, place: np.ndarray, side: float
) -> tuple[str, np.ndarray]:
    """Draw a seen cut-out on a float32 canvas; gives its name and its pixels, bool ``[H, W]``.

    `place` is its centre as a part of width and height; `side` its longest side in pixels.
    """
    pool = categories("train")
    name = str(rng.choice(sorted(pool)))
    sprites = pool[name]
    cut = sprites[rng.integers(len(sprites))].image.astype(np.float32)
    height, width = canvas.shape[:2]
    alpha = cut[..., 3:] / 255
    cut = np.concatenate([recoloured(rng, cut[..., :3]) * alpha, alpha], axis=2)
    h, w = cut.shape[:2]
    scale = side * (max(h, w) / min(h, w)) ** 0.25 / max(h, w)  # as toyworld: thin ones are longer
    if scale < 0.5:  # warpAffine alone would skip pixels
        smaller = [max(1, round(n * 2 * scale)) for n in (w, h)]
        cut = np.asarray(cv2.resize(cut, smaller, interpolation=cv2.INTER_AREA))
        h, w, scale = smaller[1], smaller[0], 0.5
    angle = rng.uniform(-np.pi, np.pi) if rng.random() < 0.15 else rng.normal(0, 0.15)
    stretch = np.exp(rng.normal(0, 0.12))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slant = np.array([[1, rng.normal(0, 0.08)], [0, 1]])
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1])
    matrix = scale * turn @ slant @ np.diag([stretch, 1 / stretch]) @ mirror
    shift = place * (width, height) - 0.5 - matrix @ np.array([(w - 1) / 2, (h - 1) / 2])
    drawn = cv2.warpAffine(cut, np.column_stack([matrix, shift]), (width, height))
    if rng.random() < 0.3:  # an edge as soft as one that is out of focus
        drawn = cv2.GaussianBlur(drawn, (0, 0), rng.uniform(0.4, 1.2))
    canvas[:] = drawn[..., :3] + (1 - drawn[..., 3:]) * canvas
    return name, drawn[..., 3] >= 0.5


def filmed(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """The canvas as a camera and a codec would have it: uint8."""
    image = recoloured(rng, canvas) if rng.random() < 0.5 else canvas
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.3))
    if rng.random() < 0.4:
        image = image + rng.normal(0, rng.uniform(2, 10), image.shape).astype(np.float32)
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(30, 95))
        _, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return np.ascontiguousarray(image)
