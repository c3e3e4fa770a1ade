"""The pictures of toyworld: sprites, backgrounds, paths, and a shot drawn with its masks."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from pgvl_core.assets import DATA

TRAVEL = ("left", "right", "up", "down")
MOTIONS = (*TRAVEL, "still", "approach", "bounce", "circle")
SIZES = {1: (0.35, 0.6), 2: (0.3, 0.45), 3: (0.26, 0.38), 4: (0.23, 0.33), 5: (0.2, 0.3)}
# number of objects in a shot -> longest side of one, as a part of the frame's shorter side


@dataclass(frozen=True, eq=False)
class Sprite:
    """One cut-out: its picture and what is true of it."""

    name: str  # category, lower case: "teddy bear"
    split: str  # "seen", "unseen" or "style"
    colour: str | None  # when one colour plainly dominates
    group: str  # categories of one group could share a name ("car", "race car")
    image: np.ndarray  # uint8 [h,w,4], straight alpha, longest side at most 128
    source: str  # file in the package it came from

    def __repr__(self) -> str:
        return f"Sprite({self.name!r}, {self.split!r}, colour={self.colour!r})"


# ------------------------------------------------------------------------------------ the sources
@functools.cache
def atlas() -> tuple[Sprite, ...]:
    """Every shipped sprite, of the three splits of categories: seen, unseen, style."""
    folder = DATA / "sprites"
    entries = json.loads((folder / "atlas.json").read_text(encoding="utf-8"))
    names = {entry["sheet"] for entry in entries}
    sheets = {name: np.array(Image.open(folder / name)) for name in names}
    sprites = []
    for e in entries:
        x, y, w, h = e["rect"]
        image = sheets[e["sheet"]][y : y + h, x : x + w]
        sprites.append(Sprite(e["name"], e["split"], e["colour"], e["group"], image, e["source"]))
    return tuple(sprites)


@functools.cache
def _photographs(use: str) -> list[np.ndarray]:
    files = sorted((DATA / "backgrounds" / use).glob("*.webp"))
    return [np.array(Image.open(file).convert("RGB")) for file in files]


def backgrounds(
    rng: np.random.Generator, use: str, count: int, height: int, width: int
) -> list[np.ndarray]:
    """Crops of different photographs or, one time in three, patterns: uint8 [height,width,3]."""
    photos = _photographs(use)
    drawn = rng.permutation(len(photos))[:count]
    return [
        crop(rng, photos[i], height, width)
        if rng.random() < 2 / 3
        else _pattern(rng, use, height, width)
        for i in drawn
    ]


def crop(rng: np.random.Generator, photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """A random part of a photograph, mirrored at times: uint8 [height,width,3]."""
    scale = rng.uniform(0.6, 1) * min(photo.shape[0] / height, photo.shape[1] / width)
    h, w = round(scale * height), round(scale * width)
    y, x = rng.integers(photo.shape[0] - h + 1), rng.integers(photo.shape[1] - w + 1)
    crop = photo[y : y + h, x : x + w]
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    return cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)


def _pattern(rng: np.random.Generator, use: str, height: int, width: int) -> np.ndarray:
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(16, 60)
    along = xs * np.cos(angle) + ys * np.sin(angle)
    across = ys * np.cos(angle) - xs * np.sin(angle)
    # Checks and tiles are kept for the test splits.
    kind = rng.choice(["gradient", "noise", "stripes"] if use == "train" else ["checks", "tiles"])
    if kind == "gradient":
        mix = (along - along.min()) / np.ptp(along)
    elif kind == "noise":  # of spectrum 1/f, as photographs have
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
        spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / (frequency + 1 / width)
        noise = np.fft.irfft2(spectrum, (height, width))
        mix = (noise - noise.min()) / np.ptp(noise)
    elif kind == "stripes":
        mix = (along / period % 1 < 0.5).astype(np.float32)
    elif kind == "checks":
        mix = ((along // period + across // period) % 2).astype(np.float32)
    else:
        mix = ((along % period < 3) | (across % period < 3)).astype(np.float32)
    first, second = rng.uniform(40, 225, (2, 3))
    return np.rint(first + (second - first) * mix[..., None]).astype(np.uint8)


# -------------------------------------------------------------------------------------- rendering
def _path(
    rng: np.random.Generator,
    motion: str,
    time: np.ndarray,
    cell: np.ndarray,
    half: np.ndarray,
    room: np.ndarray,
    through: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Centre [n,2] and scale [n] of a sprite of half size (x, y) at times in [0, 1]."""
    scale = np.ones_like(time)
    if motion in TRAVEL:
        axis = TRAVEL.index(motion) // 2
        enters, leaves = (rng.random(2) < 0.35) | through
        near, far = half[axis], room[axis] - half[axis]
        begin = -half[axis] - 2 if enters else near + rng.uniform(0, 0.1) * (far - near)
        end = room[axis] + half[axis] + 2 if leaves else far - rng.uniform(0, 0.1) * (far - near)
        delay = rng.uniform(0, 0.3) * enters
        along = begin + (end - begin) * np.clip((time - delay) / (1 - delay), 0, 1)
        path = np.tile(np.clip(cell, half, room - half), (len(time), 1))
        path[:, axis] = room[axis] - along if motion in ("left", "up") else along
        return path, scale
    if motion == "circle":
        radius = rng.uniform(0.1, 0.16) * room.min()
        angle = (
            rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * 2 * np.pi * (1 + rng.random()) * time
        )
        centre = np.clip(cell, half + radius, room - half - radius)
        return centre + radius * np.stack([np.cos(angle), np.sin(angle)], 1), scale
    if motion == "bounce":
        height = rng.uniform(0.2, 0.3) * room[1]
        x = np.clip(cell[0], half[0], room[0] - half[0])
        floor = np.clip(cell[1] + height / 2, half[1] + height, room[1] - half[1])
        bounces = min(int(rng.integers(2, 5)), max(1, len(time) // 6))
        y = floor - height * np.abs(np.sin(np.pi * bounces * time))
        return np.stack([np.full_like(time, x), y], 1), scale
    if motion == "approach":
        scale = 0.4 ** (1 - time)
    return np.tile(np.clip(cell, half, room - half), (len(time), 1)), scale


def _prepare(sprite: Sprite, side: float, mirror: bool, brightness: float) -> np.ndarray:
    """A sprite at the size it is drawn at: float32 [h,w,4], colours 0-255 times alpha 0-1."""
    image = sprite.image[:, :: -1 if mirror else 1].astype(np.float32)
    image[..., 3] /= 255
    image[..., :3] = np.minimum(image[..., :3] * brightness, 255) * image[..., 3:]
    scale = side / max(image.shape[:2])
    size = [max(1, round(n * scale)) for n in image.shape[1::-1]]
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC  # the cubic overshoots
    resized = np.asarray(cv2.resize(image, size, interpolation=way))
    alpha = np.clip(resized[..., 3:], 0, 1)
    return np.concatenate([np.clip(resized[..., :3], 0, 255 * alpha), alpha], axis=2)


def _draw(
    frame: np.ndarray,
    mask: np.ndarray,
    sprite: np.ndarray,
    at: np.ndarray,
    scale: float,
    tilt: float,
) -> None:
    """Blend a prepared sprite into a frame, its centre at (x, y), and mark its pixels in a mask."""
    h, w = sprite.shape[:2]
    c, s = scale * np.cos(tilt), scale * np.sin(tilt)
    reach = np.array([abs(c) * w + abs(s) * h, abs(s) * w + abs(c) * h]) / 2 + 1
    limit = frame.shape[1::-1]
    (x0, y0), (x1, y1) = np.clip([at - reach, at + reach + 1], 0, limit).astype(int)
    if x0 >= x1 or y0 >= y1:
        return
    # Pixel centres are whole numbers to OpenCV, halves here.
    u, v = (w - 1) / 2, (h - 1) / 2
    x, y = at - 0.5 - (x0, y0)
    turn = np.array([[c, -s, x - c * u + s * v], [s, c, y - s * u - c * v]])
    patch = cv2.warpAffine(sprite, turn, (int(x1 - x0), int(y1 - y0)))
    region = frame[y0:y1, x0:x1]
    region[:] = np.rint(patch[..., :3] + (1 - patch[..., 3:]) * region)
    mask[y0:y1, x0:x1] = patch[..., 3] >= 0.5


def crosses(motions: Sequence[str]) -> bool:
    """Whether the first of several objects can pass the second: one travels, the other stays."""
    return len(motions) > 1 and motions[0] in TRAVEL and motions[1] in ("still", "approach")


def render_shot(
    rng: np.random.Generator,
    frames: np.ndarray,
    full: np.ndarray,
    visible: np.ndarray,
    sprites: list[Sprite],
    motions: list[str],
    background: np.ndarray,
    crossing: bool,
) -> np.ndarray:
    """Fill a shot's frames [n,H,W,3] and masks [k,n,H,W]; gives the depths of its k objects.

    Objects have a row and a column of the frame each; with `crossing`, the first that travels
    takes the row or column of the second if that stays, and passes all of it.
    """
    count = len(sprites)
    room = np.array(frames.shape[2:0:-1], float)
    places = np.stack([rng.permutation(count), rng.permutation(count)], 1)
    cells = (places + rng.uniform(0.2, 0.8, (count, 2))) / count * room
    crossing = crossing and crosses(motions)
    if crossing:
        axis = 1 - TRAVEL.index(motions[0]) // 2
        cells[0, axis] = cells[1, axis]
    time = (np.arange(len(frames)) + 0.5) / len(frames)
    actors = []
    for k, (sprite, motion) in enumerate(zip(sprites, motions, strict=True)):
        h, w = sprite.image.shape[:2]
        # A long thin sprite is let be longer, or little of it would be seen.
        side = rng.uniform(*SIZES[count]) * (max(h, w) / min(h, w)) ** 0.25
        side = min(side * (1.3 if motion == "approach" else 1), 0.7) * room.min()
        tilt = rng.uniform(-0.2, 0.2)
        c, s = np.cos(tilt), abs(np.sin(tilt))
        half = np.array([c * w + s * h, s * w + c * h]) / 2 * side / max(h, w)
        picture = _prepare(sprite, side, rng.random() < 0.5, rng.uniform(0.85, 1.15))
        path = _path(rng, motion, time, cells[k], half, room, crossing and k == 0)
        actors.append((picture, *path, tilt))
    depths = rng.permutation(count)
    frames[:] = background
    full[:] = False
    for k in np.argsort(depths):
        picture, centres, scales, tilt = actors[k]
        for frame, mask, at, scale in zip(frames, full[k], centres, scales, strict=True):
            _draw(frame, mask, picture, at, scale, tilt)
    nearer = np.zeros(full.shape[1:], bool)
    for k in np.argsort(-depths):
        visible[k] = full[k] & ~nearer
        nearer |= full[k]
    return depths


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """Tight boxes of masks, bool [T,H,W]: float64 [T,4], xyxy with exclusive ends, NaN if empty."""
    boxes = np.full((len(masks), 4), np.nan)
    for low, axis in ((0, 1), (1, 2)):
        line = np.any(masks, axis=axis)
        some = line.any(1)
        boxes[some, low] = line[some].argmax(1)
        boxes[some, low + 2] = line.shape[1] - line[some, ::-1].argmax(1)
    return boxes
