"""Shots: stretches of video between two cuts, found on frames that are already decoded."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from ..video import Frames

THUMBNAIL = (32, 18)
FLASH = 4  # frames that a flash lasts at most


@dataclass(frozen=True)
class Shot:
    """Frames ``start`` to ``end`` (zero-based, half-open) and their times in seconds."""

    start: int
    end: int
    start_time: float
    end_time: float


def find_shots(
    frames: Frames | Iterable[Frames], fps: float, min_seconds: float = 0.4
) -> list[Shot]:
    """Cut a video into shots with PySceneDetect's adaptive detector.

    Parameters
    ----------
    frames : Frames, or several, of which one is kept at a time
        Consecutive frames at `fps` frames a second. Small frames (a short side of 128) do.
    fps : float
        Frames a second, used for the shortest shot allowed.
    min_seconds : float
        No cut follows another sooner than this.

    Returns
    -------
    list of Shot
        At least one; together they cover every frame once. A video without a cut is one shot.

    Notes
    -----
    The official code runs the `scenedetect` command, whose default is this detector (a cut is a
    change that stands out from its neighbours, so that a fast pan is none).
    """
    detector = AdaptiveDetector(min_scene_len=max(1, round(min_seconds * fps)))
    cuts: list[int] = []
    times: list[float] = []
    small: list[np.ndarray] = []
    for block in [frames] if isinstance(frames, Frames) else frames:
        for when, image in zip(block.times.tolist(), block.images, strict=True):
            found = detector.process_frame(FrameTimecode(len(times), fps), image[..., ::-1])
            cuts += [cut.frame_num for cut in found]
            times.append(when)
            small.append(cv2.resize(image, THUMBNAIL, interpolation=cv2.INTER_AREA))
    cuts = [cut for cut in cuts if not _flash(small, cut)]
    edges = [0, *cuts, len(times)]
    times.append(times[-1] + 1 / fps)
    return [Shot(start, end, times[start], times[end]) for start, end in pairwise(edges)]


def _flash(images: list[np.ndarray], cut: int) -> bool:
    """Whether the picture before a cut is back soon after it: it was a flash, and no cut."""

    def apart(a: int, b: int) -> float:
        return float(cv2.absdiff(images[a], images[b]).mean())

    before, after = range(max(0, cut - FLASH), cut), range(cut, min(len(images), cut + FLASH + 1))
    return min(apart(a, b) for a in before for b in after) < apart(cut - 1, cut) / 3
