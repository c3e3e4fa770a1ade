"""What grounding is measured on: a sentence, a moment of a video, and boxes for what is meant.

A moment has more frames than anyone needs to look at, so `schedule` says which ones count. And four
numbers of a file may be two corners (xyxy) or a corner with a width and a height (xywh), which
`with_corners` tells from the whole file, since most boxes make sense as one only: as xyxy a box
must not end before it begins, as xywh it must not reach out of its frame. Where both make sense,
it asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

RATE = 5.0  # frames a second that the paper's code looks at
MOST = 100  # frames of a moment that it looks at
LAYOUTS = ("xyxy", "xywh")
MARGIN = 0.05  # of the frame's width or height: a box drawn by hand may reach out by this much
SLIPS = 0.1  # share of boxes that may be wrong for a reading to be possible


class AnnotationError(ValueError):
    """An annotation file that cannot be read as what it should be; names the file and record."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A sentence about one thing in a video, and where that thing is, at the frames that count.

    Attributes
    ----------
    id : str, its number in the official processed file, in which every sentence is an item
    video : Path, which need not exist
    text : str, the caption or question
    kind : str, "declarative" or "interrogative"
    moment : (begin, end), frames from 0, half-open
    frames : int64 [n], the frames of the moment that are scored (see `schedule`)
    boxes : float64 [n, 4], xyxy, pixels, ends exclusive: the truth at these frames
    fps : float
    size : (width, height) of the video in pixels
    category : str, what the thing is; "" when the file does not say
    objects : int, how many annotated things the video shows; None when the file does not say
    """

    id: str
    video: Path
    text: str
    kind: str
    moment: tuple[int, int]
    frames: np.ndarray
    boxes: np.ndarray
    fps: float
    size: tuple[int, int]
    category: str = ""
    objects: int | None = None

    def __repr__(self) -> str:
        begin, end = self.moment
        return f"Sample({self.id}, {self.video.name} frames {begin} to {end}: {self.text!r})"


def schedule(begin: int, end: int, fps: float, rate: float = RATE, most: int = MOST) -> np.ndarray:
    """The frames of a moment that are looked at: about `rate` a second, and no more than `most`.

    A clock ticks `rate` times a second from the video's start; the first frame after each tick is
    taken, and the moment's first frame always. Of too many, evenly spread ones are kept. These are
    the frames of TubeDETR (`datasets/vidstg.py`, with 200 at most) and of the paper's code.

    Returns
    -------
    int64 array ``[n]``, ascending, from `begin` to before `end`

    Raises
    ------
    ValueError
        When the moment is empty or a number that must be positive is not.
    """
    if not (0 <= begin < end and fps > 0 and rate > 0 and most > 0):
        raise ValueError(
            f"frames {begin} to {end} at {fps} frames a second are no moment, or {rate} and {most} "
            "no schedule"
        )
    ticks = (np.arange(begin, end) * (rate / fps)).astype(np.int64)
    frames = begin + np.unique(ticks, return_index=True)[1]
    return frames if len(frames) <= most else frames[np.arange(most) * len(frames) // most]


def make_sample(
    *,
    moment: tuple[int, int],
    track: Mapping[int, Sequence[float]],
    rate: float,
    fps: float,
    size: tuple[int, int],
    text: str,
    kind: str,
    **rest: Any,
) -> Sample:
    """A sample whose boxes are still as the file has them.

    Parameters
    ----------
    moment, fps, size, text, kind, and rest
        As `Sample` has them.
    track : mapping
        Boxes of four numbers by frame; where a frame has none, it is not scored.
    rate : float
        Frames a second to score.

    Raises
    ------
    ValueError
        Says what is wrong with it.
    """
    if kind not in ("declarative", "interrogative"):
        raise ValueError(f"a sentence is declarative or interrogative, not {kind!r}")
    if not (isinstance(text, str) and text.strip()):
        raise ValueError(f"its sentence is {text!r}")
    if min(size) <= 0:
        raise ValueError(f"its size is {size}")
    frames = np.array([t for t in schedule(*moment, fps, rate) if t in track], dtype=np.int64)
    boxes = np.array([track[t] for t in frames.tolist()], dtype=np.float64)
    if boxes.shape != (len(frames), 4) or not np.isfinite(boxes).all():
        raise ValueError(f"frames {moment[0]} to {moment[1]} have no boxes of four numbers")
    return Sample(
        moment=moment, frames=frames, boxes=boxes, fps=fps, size=size, text=text, kind=kind, **rest
    )


def with_corners(
    found: Sequence[tuple[str, Sample]], layout: str | None, path: Path
) -> list[Sample]:
    """The samples of a file with their boxes as xyxy.

    Parameters
    ----------
    found : sequence of (what the record is called, Sample with boxes as in the file)
    layout : "xyxy" or "xywh", optional
        Told from all boxes of the file together when it is not given.
    path : Path
        The file, for errors.

    Raises
    ------
    AnnotationError
        When the boxes make no sense, make sense both ways and `layout` is not given, or one of
        them ends before it begins.
    """
    if not found:
        raise AnnotationError(f"{path}: no record, or none with a question")
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"a layout is one of {', '.join(LAYOUTS)}, not {layout!r}")
    boxes = np.concatenate([sample.boxes for _, sample in found])
    counts = [len(sample.boxes) for _, sample in found]
    sizes = np.repeat([sample.size for _, sample in found], counts, axis=0)
    ends = {"xyxy": boxes[:, 2:], "xywh": boxes[:, :2] + boxes[:, 2:]}
    wrong = {
        name: ((end < boxes[:, :2]) | (end > sizes * (1 + MARGIN))).any(axis=1).mean()
        for name, end in ends.items()
    }
    possible = [name for name in LAYOUTS if wrong[name] <= SLIPS]
    shares = ", ".join(f"{wrong[name]:.0%} as {name}" for name in LAYOUTS)
    if not possible or (layout and layout not in possible):
        raise AnnotationError(
            f"{path}: too many boxes end before they begin, or out of their frame: {shares}; are "
            "the boxes, widths and heights of one video?"
        )
    if not layout and len(possible) > 1:
        raise AnnotationError(
            f"{path}: its boxes make sense as xyxy and as xywh; say which they are with layout="
        )
    chosen = ends[layout or possible[0]]
    backwards = (chosen < boxes[:, :2]).any(axis=1)
    if backwards.any():
        label = found[int(np.repeat(np.arange(len(found)), counts)[backwards.argmax()])][0]
        raise AnnotationError(f"{path}: {label} has a box that ends before it begins")
    corners = np.split(np.concatenate([boxes[:, :2], chosen], axis=1), np.cumsum(counts)[:-1])
    return [replace(each, boxes=xyxy) for (_, each), xyxy in zip(found, corners, strict=True)]
