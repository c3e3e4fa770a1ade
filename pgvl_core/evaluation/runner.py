"""Measure grounding on a set of samples: hours of work that may be stopped and taken up again.

What is measured is any function from a sample to boxes by frame number, so that the whole system
and a box in the middle of the frame are measured by the same lines. `resume` keeps what is done.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .boxes import NOWHERE, box_area, box_iou, siou, siou_official
from .intervals import mean_interval, wilson
from .resume import one_by_one, present
from .samples import Sample

# By frame number: the box [4] of the one thing meant, or [k, 4] with that box first and whatever
# else is shown after it (which the official metric counts). No entry, or NaN: nothing is there.
Prediction = Mapping[int, ArrayLike]
Ground = Callable[[Sample], Prediction]

SIZES = {"small": 0.04, "medium": 0.25, "large": 1.0}  # of the frame: a fifth, a half of its sides


@dataclass(frozen=True)
class Result:
    """How a sample went; boxes and ious are those of the sample's frames, in order."""

    id: str
    siou: float  # of the one track
    siou_official: float  # of the best box of every frame
    boxes: list[list[float] | None] = field(repr=False)  # the one track's, to 0.1 pixels
    ious: list[float] = field(repr=False)
    error: str = ""  # why it failed; it counts as 0


@dataclass(frozen=True, eq=False)
class Failure:
    """The worst frame of a sample that went wrong, for a gallery."""

    sample: Sample
    result: Result
    frame: int
    truth: list[float]
    predicted: list[float] | None


@dataclass(frozen=True, eq=False)
class Run:
    """Samples and their results, in one order, and the videos that were not there."""

    samples: list[Sample]
    results: list[Result]
    missing: list[Path]

    def __repr__(self) -> str:
        row = self.summary()[0]
        lost = f"; missing videos: {len(self.missing)}" if self.missing else ""
        return (
            f"Run({row['samples']} samples, sIoU {row['sIoU']:.3f} "
            f"[{row['low']:.3f}, {row['high']:.3f}]{lost})"
        )

    def summary(self) -> list[dict[str, Any]]:
        """Rows of a table: all samples, then by question type, category, size and company.

        The size of a thing is its box's share of the frame, averaged over its frames: small below
        a fifth of the frame's width and height (0.04), large above a half (0.25).

        Returns
        -------
        list of dict
            ``by`` and ``value`` name the group; ``sIoU`` with ``low`` and ``high``, the ends of its
            95% interval (`mean_interval` over videos); ``official``, the paper's max over boxes;
            ``above 0.5``, the share of samples with sIoU > 0.5, and the ends of that interval
            (Wilson's, samples taken as independent).
        """
        groups: dict[tuple[str, str], list[int]] = {("all", ""): list(range(len(self.samples)))}
        for i, sample in enumerate(self.samples):
            share = box_area(sample.boxes).mean() / (sample.size[0] * sample.size[1])
            size = next((name for name, most in SIZES.items() if share <= most), "large")
            for by, value in (
                ("question type", sample.kind),
                ("category", sample.category),
                ("object size", size),
                ("objects", "" if sample.objects is None else str(sample.objects)),
            ):
                if value:
                    groups.setdefault((by, value), []).append(i)
        order = list(dict.fromkeys(by for by, _ in groups))
        return [
            self._row(by, value, chosen)
            for (by, value), chosen in sorted(
                groups.items(), key=lambda item: (order.index(item[0][0]), -len(item[1]), item[0])
            )
        ]

    def _row(self, by: str, value: str, chosen: list[int]) -> dict[str, Any]:
        values = [self.results[i].siou for i in chosen]
        videos = [self.samples[i].video.name for i in chosen]
        low, high = mean_interval(values, videos)
        right = sum(v > 0.5 for v in values)
        least, most = wilson(right, len(values))
        return {
            "by": by,
            "value": value,
            "samples": len(values),
            "videos": len(set(videos)),
            "sIoU": float(np.mean(values)),
            "low": low,
            "high": high,
            "official": float(np.mean([self.results[i].siou_official for i in chosen])),
            "above 0.5": right / len(values),
            "above 0.5 low": least,
            "above 0.5 high": most,
        }

    def failures(self, count: int = 12) -> list[Failure]:
        """The samples with the lowest sIoU, worst first, each with its worst frame."""
        found = []
        for i in np.argsort([result.siou for result in self.results], kind="stable")[:count]:
            sample, result = self.samples[i], self.results[i]
            worst = int(np.argmin(result.ious))
            box, frame = result.boxes[worst], int(sample.frames[worst])
            found.append(Failure(sample, result, frame, sample.boxes[worst].tolist(), box))
        return found


def score(sample: Sample, predicted: Prediction) -> Result:
    """Compare a prediction with a sample's truth, at the sample's frames.

    Raises
    ------
    ValueError
        When there are boxes, but none at any of the sample's frames, or some are not [4] or [k, 4].
    """
    if predicted and not set(predicted) & set(sample.frames.tolist()):
        raise ValueError(
            f"{sample}: boxes at frames {sorted(predicted)[:3]}..., of which none is scored; give "
            f"them at sample.frames: {sample.frames[:3].tolist()}..."
        )
    shown = [np.reshape(predicted.get(t, ()), (-1, 4)) for t in sample.frames.tolist()]
    track = np.array([boxes[0] if len(boxes) else NOWHERE for boxes in shown], dtype=np.float64)
    return Result(
        id=sample.id,
        siou=siou(sample.boxes, track),
        siou_official=siou_official(sample.boxes, shown),
        boxes=[None if np.isnan(box).any() else box.round(1).tolist() for box in track],
        ious=box_iou(sample.boxes, track).tolist(),
    )


def run(
    samples: Sequence[Sample],
    ground: Ground,
    out: str | os.PathLike[str],
    setup: Mapping[str, Any],
    limit: int | None = None,
    workers: int = 1,
) -> Run:
    """Ground every sample whose video is there, and write a line for each to a file.

    Parameters
    ----------
    samples : sequence of Sample
        From `grounding_sets`; no two with the same id.
    ground : callable
        From a sample to a `Prediction`. A ValueError (a video that cannot be read, a sentence
        without a thing in it) is a result too: it is written down and counts as 0, as nothing was
        found. Any other exception ends the run, and what is done stays done.
    out : path
        The file of results. If it is there, what it holds is not measured again; a last line that
        was cut short is.
    setup : mapping
        What tells this measurement from others, for JSON: profile, thresholds, seed, version.
    limit : int, optional
        Ground no more than this many, drawn at random by a fixed seed (files are sorted by video,
        so that the first hundred would be of a few). A greater limit takes up a smaller one's.
    workers : int
        Threads; more than one for a `ground` that is safe to call from several at a time.

    Returns
    -------
    Run
        Missing videos are in ``missing`` and in a warning; their samples are not scored.

    Raises
    ------
    ValueError
        When ids are not unique, no video is there, the limit is below 1, or the file holds
        something else or results of another setup.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"a limit of {limit} samples leaves nothing to measure")
    chosen, missing = present(samples)
    drawn = np.random.default_rng(0).permutation(len(chosen))[:limit]
    chosen = [chosen[i] for i in sorted(drawn)]
    setup = {**setup, "samples": _digest(samples)}
    results = one_by_one(
        chosen, lambda sample: _one(sample, ground), out, setup, Result, "grounded", workers
    )
    return Run(chosen, results, missing)


def _one(sample: Sample, ground: Ground) -> Result:
    try:
        predicted = ground(sample)
    except ValueError as error:
        nothing = len(sample.frames)
        return Result(sample.id, 0.0, 0.0, [None] * nothing, [0.0] * nothing, str(error))
    return score(sample, predicted)


def _digest(samples: Sequence[Sample]) -> str:
    """What is measured on, in a word; where the videos lie on this machine is no part of it."""
    digest = hashlib.sha256()
    for s in samples:
        about = [s.id, s.video.name, s.text, s.frames.tolist(), s.boxes.tolist()]
        digest.update(json.dumps(about).encode())
    return digest.hexdigest()[:16]
