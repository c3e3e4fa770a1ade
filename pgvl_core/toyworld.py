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
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pgvl_core.toyworld_render import (
    MOTIONS,
    Sprite,
    atlas,
    backgrounds,
    crosses,
    mask_boxes,
    render_shot,
)
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
    if occlusion and not crosses(motions):
        return False
    pairs = [*itertools.combinations(names, 2), *zip(names, motions, strict=True)]
    novel = any(held_out(*pair) for pair in pairs)
    return SPLITS[split] != "seen" or novel == (split == "compositions")


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
        "is held out from it, two could not be told apart, or none passes the other"
    )


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
    """Render a clip; the same arguments give the same bytes (by the same NumPy and OpenCV).

    What is None is drawn by the seed.

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
    pool, use = categories(split), "train" if split == "train" else "test"
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
    scenes = backgrounds(rng, use, shots, height, width)
    video = np.zeros((frames, height, width, 3), np.uint8)
    full, visible = np.zeros((2, count, frames, height, width), bool)
    present = np.zeros((count, frames), bool)
    depths = np.zeros(count, int)
    for _ in range(50):
        sprites = [pool[name][rng.integers(len(pool[name]))] for name in names]
        for shot, (begin, end) in enumerate(itertools.pairwise([0, *cuts, frames])):
            first, last = np.searchsorted(shot_of, (shot, shot + 1))
            present[first:last, begin:end] = True
            depths[first:last] = render_shot(
                rng,
                video[begin:end],
                full[first:last, begin:end],
                visible[first:last, begin:end],
                sprites[first:last],
                moves[first:last],
                scenes[shot],
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
