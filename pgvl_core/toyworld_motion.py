"""What toyworld's questions leave out because pooling cannot answer it: how fast, how many times.

They are asked apart, so that a seed's clip and its questions stay what they are.
"""

from __future__ import annotations

import numpy as np

from .toyworld import Clip, Track
from .toyworld_text import CLEAR, NUMBERS, Question

TRAVEL = ("left", "right", "up", "down")
SLOW, FAST = 0.35, 0.6  # sides of the frame in the time shown; what lies between is not asked


def speed(track: Track, begin: int = 0, end: int | None = None) -> float:
    """How far a thing that travels would go in the frames shown, in sides of the frame.

    A step is that of its faster edge, since the frame's border holds back the other of a thing that
    comes in. It is taken over an eighth of the frames, since boxes are of whole pixels, and the
    median of the steps counts, since a thing may wait outside.

    Parameters
    ----------
    track : Track
        Its motion is left, right, up or down.
    begin, end : the frames that are shown, half-open; all of the clip if not given

    Returns
    -------
    float
        0 or more; NaN when the thing is not seen for an eighth of the frames.

    Raises
    ------
    ValueError
        When it does not travel: a circle's speed is no question of toyworld's.
    """
    if track.motion not in TRAVEL:
        raise ValueError(f"speed() is of a thing that travels; this one's motion: {track.motion}")
    axis = TRAVEL.index(track.motion) // 2
    edges = track.boxes[begin:end, axis::2]
    apart = max(1, len(edges) // 8)
    steps = np.abs(edges[apart:] - edges[:-apart]).max(1)
    steps = steps[np.isfinite(steps)] / apart
    side = track.full.shape[2 - axis]
    return float(np.median(steps) * len(edges) / side) if len(steps) else float("nan")


def bounces(track: Track) -> int:
    """How many times a thing that bounces leaves the floor, read off its boxes.

    A jump is a stretch of frames above half of its height; toyworld's things jump twice to four
    times, all equally high, and rest on nothing in between.

    Raises
    ------
    ValueError
        When it does not bounce.
    """
    if track.motion != "bounce":
        raise ValueError(f"bounces() is of a thing that bounces; its motion: {track.motion}")
    bottom = track.boxes[track.visibility > CLEAR, 3]
    high = bottom < (bottom.min() + bottom.max()) / 2
    return int(np.count_nonzero(np.diff(np.r_[0, high]) == 1))


def questions(clip: Clip, begin: int = 0, end: int | None = None) -> list[Question]:
    """Speed and bounces of a clip's only thing, as far as they are plain.

    Parameters
    ----------
    clip : of one thing; of another, what is asked for would need a name
    begin, end : the frames that are shown; bounces are counted in whole clips alone
    """
    if len(clip.tracks) != 1:
        return []
    (track,) = clip.tracks
    if track.motion in TRAVEL:
        value = speed(track, begin, end)
        answer = "Slowly." if value < SLOW else "Fast." if value > FAST else None
        question = f"How fast does the {track.category} move?"
        return [Question("speed", question, answer)] if answer else []
    if track.motion == "bounce" and end is None and not begin:
        question = f"How many times does the {track.category} bounce?"
        return [Question("events", question, f"{NUMBERS[bounces(track)].capitalize()}.")]
    return []
