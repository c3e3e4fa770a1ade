"""Procedural videos of photographic cut-outs whose truth is known exactly.

One to five sprites (data/sprites) move over photographs and patterns (data/backgrounds), in one or
several shots. Since the renderer places every pixel, masks, boxes, tracks and visibility are exact,
and so are the captions, referring expressions and question/answer pairs drawn from them: a sentence
is kept only when it is plainly true, and an expression only when every other object plainly does
not fit it. `toyworld_formats.write_dataset` writes clips in the formats of the paper's datasets.

Splits: "train" has seen categories; "compositions" the same categories in pairs (two categories, or
a category and a motion) that train never shows together; "unseen" other categories; "style"
drawings. All but train have backgrounds of their own.
"""

from __future__ import annotations

import functools
import itertools
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from pgvl_core.assets import DATA
from pgvl_core.toyworld_text import (
    LONG_ENOUGH,
    Expression,
    Question,
    captions,
    expressions,
    facts,
    questions,
)
from pgvl_core.video import Frames

SPLITS = {"train": "seen", "compositions": "seen", "unseen": "unseen", "style": "style"}
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


@dataclass(eq=False)
class Track:
    """One object of a clip, frame by frame; T frames of H x W pixels."""

    id: int
    category: str
    colour: str | None
    motion: str  # one of MOTIONS
    shot: int  # the shot it is in, from 0
    depth: int  # the greater is nearer
    full: np.ndarray  # bool [T,H,W]: where it is, hidden or not
    visible: np.ndarray  # bool [T,H,W]: where it is seen
    boxes: np.ndarray  # float64 [T,4]: xyxy around `visible`, ends exclusive; NaN when unseen
    visibility: np.ndarray  # float64 [T]: visible / full area within the frame, 0 when absent

    def __repr__(self) -> str:
        return f"Track({self.id}, {self.category!r}, {self.motion!r}, frames {self.span})"

    @property
    def span(self) -> tuple[int, int]:
        """Its longest run of frames in which it is seen, half-open."""
        steps = np.diff(np.r_[0, self.visibility > 0, 0])
        starts, ends = np.nonzero(steps == 1)[0], np.nonzero(steps == -1)[0]
        longest = int(np.argmax(ends - starts))
        return int(starts[longest]), int(ends[longest])


@dataclass(eq=False)
class Clip:
    """A rendered clip with its truth in pixels and in words."""

    frames: np.ndarray  # uint8 [T,H,W,3] RGB
    fps: float
    tracks: list[Track]
    cuts: list[int]  # first frame of every shot but the first
    captions: list[str]  # of the whole clip: in a sentence per shot, and as a list of objects
    expressions: list[Expression]
    qa: list[Question]
    split: str
    name: str  # names its files: split and seed, unless replaced

    def __repr__(self) -> str:
        count, height, width = self.frames.shape[:3]
        return f"Clip({self.name}, {count} frames {width}x{height}: {self.captions[0]})"

    def _repr_html_(self) -> str:
        indices = np.arange(len(self.frames))
        strip = Frames(self.frames, indices / self.fps, indices)._repr_html_()
        return f"{strip}<p>{self.captions[0]}</p>"


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
def categories(split: str) -> dict[str, list[Sprite]]:
    """The sprites a split draws from, by category."""
    if split not in SPLITS:
        raise ValueError(f"no split is called {split!r}; there are {', '.join(SPLITS)}")
    pool: dict[str, list[Sprite]] = {}
    for sprite in atlas():
        if sprite.split == SPLITS[split]:
            pool.setdefault(sprite.name, []).append(sprite)
    return pool


@functools.cache
def _photographs(use: str) -> list[np.ndarray]:
    files = sorted((DATA / "backgrounds" / use).glob("*.webp"))
    return [np.array(Image.open(file).convert("RGB")) for file in files]


def _background(rng: np.random.Generator, use: str, height: int, width: int) -> np.ndarray:
    """A crop of a photograph or, one time in three, a pattern: uint8 [height,width,3]."""
    if rng.random() < 2 / 3:
        photos = _photographs(use)
        photo = photos[rng.integers(len(photos))]
        scale = rng.uniform(0.6, 1) * min(photo.shape[0] / height, photo.shape[1] / width)
        h, w = round(scale * height), round(scale * width)
        y, x = rng.integers(photo.shape[0] - h + 1), rng.integers(photo.shape[1] - w + 1)
        crop = photo[y : y + h, x : x + w]
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        return cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
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


# ---------------------------------------------------------------------------------- the composition
def held_out(first: str, second: str) -> bool:
    """Whether train never shows two things together: two categories, or a category and a motion.

    One pair in five, by the CRC-32 of the two names in alphabetical order joined by "+".
    """
    return zlib.crc32("+".join(sorted((first, second))).encode()) % 5 == 0


def _suits(split: str, names: Sequence[str], motions: Sequence[str], occlusion: bool) -> bool:
    """Whether a composition belongs to a split and nothing in it is doubtful."""
    groups = {name: categories(split)[name][0].group for name in names}
    if len(set(groups.values())) < len(groups):
        return False
    for name in groups:
        alike = [motion for other, motion in zip(names, motions, strict=True) if other == name]
        if len(set(alike)) < len(alike) and alike != ["still", "still"]:
            return False  # nothing but their motions (or sides, for two) tells these apart
    if occlusion and not _cross(motions):
        return False
    pairs = [*itertools.combinations(names, 2), *zip(names, motions, strict=True)]
    novel = any(held_out(*pair) for pair in pairs)
    return SPLITS[split] != "seen" or novel == (split == "compositions")


def _cross(motions: Sequence[str]) -> bool:
    """Whether the first of several objects can pass the second: one travels, the other stays."""
    return len(motions) > 1 and motions[0] in TRAVEL and motions[1] in ("still", "approach")


def _compose(
    rng: np.random.Generator,
    split: str,
    count: int,
    objects: Sequence[str] | None,
    motions: Sequence[str] | None,
    look_alikes: int | None,
    occlusion: bool,
) -> tuple[list[str], list[str]]:
    """Draw the categories and motions that are not given, until the split allows them."""
    pool = sorted(categories(split))
    alike = look_alikes or (2 if count > 1 and rng.random() < 0.2 else 1)
    unknown = set(objects or ()) - set(pool) | set(motions or ()) - set(MOTIONS)
    if unknown:
        raise ValueError(f"split {split!r} has no {', '.join(sorted(unknown))}")
    if not 1 <= alike <= count or len(motions or range(count)) != count:
        raise ValueError(f"{count} objects cannot have {alike} alike and the motions {motions}")
    for _ in range(2000):
        drawn = [str(name) for name in rng.choice(pool, count - alike + 1, replace=False)]
        names = list(objects or drawn[:1] * (alike - 1) + drawn)
        moves = list(motions or (str(motion) for motion in rng.choice(MOTIONS, count)))
        if _suits(split, names, moves, occlusion):
            return names, moves
    raise ValueError(
        f"split {split!r} has no clip of objects {objects or count} with motions {motions}: a pair "
        "is held out from it, or two objects could not be told apart"
    )


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
        bounces = min(rng.integers(2, 5), max(1, len(time) // 6))
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


def _render_shot(
    rng: np.random.Generator,
    frames: np.ndarray,
    full: np.ndarray,
    visible: np.ndarray,
    sprites: list[Sprite],
    motions: list[str],
    use: str,
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
    crossing = crossing and _cross(motions)
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
    frames[:] = _background(rng, use, *frames.shape[1:3])
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


def make_clip(
    seed: int,
    split: str = "train",
    *,
    frames: int = 64,
    height: int = 224,
    width: int = 224,
    fps: float = 16,
    objects: int | Sequence[str] | None = None,
    motions: Sequence[str] | None = None,
    shots: int | None = None,
    look_alikes: int | None = None,
    occlusion: bool | None = None,
) -> Clip:
    """Render a clip; the same arguments give the same bytes. What is None is drawn by the seed.

    Parameters
    ----------
    seed : int
    split : str
        A key of `SPLITS`.
    frames, height, width, fps
        Of the clip; motions and their order are put in words only where a shot is long enough.
    objects : int or sequence of str
        How many (one to five), or the category of each.
    motions : sequence of str
        The motion of each object, of `MOTIONS`.
    shots : int
        The objects are dealt to this many shots in order: as many shots as objects shows them one
        after the other.
    look_alikes : int
        How many of the objects are of one category, told apart by motion or place.
    occlusion : bool
        Whether the first object of a shot passes over or behind the second; it must travel and
        the second stay.

    Raises
    ------
    ValueError
        When the arguments do not agree, or the split has no such composition.
    """
    rng = np.random.default_rng([seed, list(SPLITS).index(split)])
    if isinstance(objects, int):
        count, given = objects, None
    elif objects is not None:
        count, given = len(objects), objects
    else:
        count, given = len(motions or range(rng.integers(1, 6))), None
    if not 1 <= count <= 5:
        raise ValueError(f"a clip has one to five objects, not {count}")
    if shots is None:
        most = 1 if occlusion else min(count, max(1, frames // LONG_ENOUGH))
        shots = 1 if rng.random() < 0.6 else int(rng.integers(1, most + 1))
    if not 1 <= shots <= min(count, frames) or (occlusion and shots == count):
        pair = ", two in the first" if occlusion else ""
        raise ValueError(f"{count} objects and {frames} frames do not fill {shots} shots{pair}")
    names, moves = _compose(rng, split, count, given, motions, look_alikes, bool(occlusion))
    crossing = rng.random() < 0.4 if occlusion is None else occlusion

    jitter = rng.uniform(-0.15, 0.15, shots)
    cuts = [round(frames * (shot + jitter[shot]) / shots) for shot in range(1, shots)]
    shot_of = np.arange(count) * shots // count
    pool, use = categories(split), "train" if split == "train" else "test"
    video = np.zeros((frames, height, width, 3), np.uint8)
    full, visible = np.zeros((2, count, frames, height, width), bool)
    present = np.zeros((count, frames), bool)
    depths = np.zeros(count, int)
    for _ in range(50):
        sprites = [pool[name][rng.integers(len(pool[name]))] for name in names]
        for shot, (begin, end) in enumerate(itertools.pairwise([0, *cuts, frames])):
            first, last = np.searchsorted(shot_of, (shot, shot + 1))
            present[first:last, begin:end] = True
            depths[first:last] = _render_shot(
                rng,
                video[begin:end],
                full[first:last, begin:end],
                visible[first:last, begin:end],
                sprites[first:last],
                moves[first:last],
                use,
                crossing,
            )
        seen = np.count_nonzero(visible, axis=(2, 3))
        visibility = seen / np.maximum(np.count_nonzero(full, axis=(2, 3)), 1)
        # Another throw when an object is hidden, or outside, for most of its shot.
        if ((visibility > 0.5).sum(1) >= 0.4 * present.sum(1)).all():
            break
    else:
        raise ValueError(f"seed {seed}: no throw shows all of {', '.join(names)}")
    tracks = [
        Track(
            id=i,
            category=sprite.name,
            colour=sprite.colour,
            motion=moves[i],
            shot=int(shot_of[i]),
            depth=int(depths[i]),
            full=full[i],
            visible=visible[i],
            boxes=mask_boxes(visible[i]),
            visibility=visibility[i],
        )
        for i, sprite in enumerate(sprites)
    ]
    known = facts(tracks)
    groups = {sprite.group for sprite in sprites}
    absent = sorted(name for name, (sprite, *_) in pool.items() if sprite.group not in groups)
    return Clip(
        frames=video,
        fps=fps,
        tracks=tracks,
        cuts=cuts,
        captions=captions(tracks, known),
        expressions=expressions(tracks, known),
        qa=questions(tracks, known, fps, absent[rng.integers(len(absent))]),
        split=split,
        name=f"{split}-{seed}",
    )
