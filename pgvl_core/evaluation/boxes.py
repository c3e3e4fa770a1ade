"""How well a predicted place agrees with the true one: in a frame, over a moment, over a video.

Boxes are xyxy in pixels with x2 and y2 exclusive, so that a box's width is x2 - x1; a frame
without a box is a row of NaN, which overlaps with nothing. Masks are stored run-length encoded
(COCO's RLE), one a frame. All overlaps are from 0 (apart) to 1 (the same).

    sIoU   you are told when to look: was it the right place?           mean over the true frames
    tIoU   was it the right time?                                       overlap of two spans
    vIoU   the right place at the right time?    sum over shared frames / frames of either one

A box that is twice as wide as the true one and agrees otherwise has an IoU of 1/2, and so has one
that is half as wide: IoU asks for the size, not only for the place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike
from pycocotools import mask as coco

RLE = dict[str, Any]  # {"size": [height, width], "counts": str}, ready for JSON

NOWHERE = (np.nan,) * 4  # the box of a frame that has none
TOLERANCE = 0.008  # of the frame's diagonal: how far apart DAVIS lets two boundaries be


def _boxes(boxes: ArrayLike) -> np.ndarray:
    array = np.asarray(boxes, dtype=np.float64)
    if array.ndim < 1 or array.shape[-1] != 4:
        raise ValueError(f"boxes are [..., 4] (x1, y1, x2, y2), not of shape {list(array.shape)}")
    return array


def box_area(boxes: ArrayLike) -> np.ndarray:
    """Areas [...] of boxes [..., 4] in square pixels; 0 for one that ends before it begins."""
    array = _boxes(boxes)
    return np.clip(array[..., 2:] - array[..., :2], 0, None).prod(axis=-1)


def box_iou(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Intersection over union of boxes, each of `a` with its partner in `b`.

    Parameters
    ----------
    a, b : array ``[..., 4]``
        xyxy; shapes broadcast, so ``box_iou(a[:, None], b[None])`` compares all with all.

    Returns
    -------
    float64 array ``[...]``, from 0 to 1
        0 where either is NaN or neither has an area.

    Raises
    ------
    ValueError
        When the last axis has not four numbers.
    """
    a, b = _boxes(a), _boxes(b)
    shared = box_area(
        np.concatenate(
            np.broadcast_arrays(
                np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
            ),
            axis=-1,
        )
    )
    union = box_area(a) + box_area(b) - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


# ------------------------------------------------------------------------------------- over time
def siou(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Spatial IoU of the one predicted track: the mean IoU over the frames with a true box.

    A frame in which nothing is predicted counts as 0. TubeDETR (`datasets/vidstg_eval.py`) calls
    it gt_viou; the figure this workbook reports is this one.

    Parameters
    ----------
    truth, predicted : array ``[T, 4]``
        At the same frames; NaN where there is no box.

    Raises
    ------
    ValueError
        When no frame has a true box: there is nothing to average.
    """
    truth, predicted = _paired(truth, predicted)
    there = ~np.isnan(truth).any(axis=1)
    if not there.any():
        raise ValueError("sIoU is a mean over frames with a true box, and no frame has one")
    return float(box_iou(truth, predicted)[there].mean())


def siou_official(truth: ArrayLike, candidates: Sequence[ArrayLike]) -> float:
    """Spatial IoU as the paper's code takes it: in each frame, the best of all boxes shown.

    Of many boxes, one is bound to be near, and the truth itself chooses which (`eval_grounding.py`
    of PG-Video-LLaVA): this is never below `siou` of a track that is among the candidates.

    Parameters
    ----------
    truth : array ``[T, 4]``
    candidates : sequence of T arrays ``[k, 4]``
        ``k`` may differ from frame to frame, and be 0.

    Raises
    ------
    ValueError
        As `siou`.
    """
    best = np.full((len(candidates), 4), np.nan)
    for row, true, boxes in zip(best, _boxes(truth), candidates, strict=True):
        if np.size(boxes):
            row[:] = _boxes(boxes)[box_iou(boxes, true).argmax()]
    return siou(truth, best)


def tiou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Temporal IoU of two half-open spans ``(begin, end)``, in frames or in seconds.

    Frames 10 to 20 are 10 of them, not 11. (HC-STVG's own script counts ends as inclusive, which
    makes every span one frame longer.)

    Raises
    ------
    ValueError
        When a span does not end after it begins.
    """
    for begin, end in (a, b):
        if not begin < end:
            raise ValueError(f"a span ends after it begins; {(begin, end)} does not")
    shared = max(0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / (a[1] - a[0] + b[1] - b[0] - shared)


def viou(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Video IoU of two tubes: IoUs of the frames that have both, over the frames that have either.

    A frame that is predicted too early or too late costs as much as one that is missed. The
    figure vIoU@0.3 of a test set is ``share_above(vious, 0.3)``.

    Parameters
    ----------
    truth, predicted : array ``[T, 4]``
        At the same frames of the whole video, not of the moment alone; NaN where a tube is not.

    Raises
    ------
    ValueError
        When neither tube has a box.
    """
    truth, predicted = _paired(truth, predicted)
    either = ~np.isnan(truth).any(axis=1) | ~np.isnan(predicted).any(axis=1)
    if not either.any():
        raise ValueError("vIoU of two tubes without a box is not defined")
    return float(box_iou(truth, predicted).sum() / either.sum())


def share_above(values: ArrayLike, threshold: float) -> float:
    """Share of values above a threshold, as in vIoU@0.5; one that equals it is not above it."""
    values = np.asarray(values, dtype=np.float64)
    if not values.size:
        raise ValueError("a share of no values is not defined")
    return float((values > threshold).mean())


def _paired(truth: ArrayLike, predicted: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    truth, predicted = _boxes(truth), _boxes(predicted)
    if truth.ndim != 2 or truth.shape != predicted.shape:
        raise ValueError(
            f"two tubes are boxes [T, 4] at the same frames, not {list(truth.shape)} and "
            f"{list(predicted.shape)}"
        )
    return truth, predicted


# ------------------------------------------------------------------------------------------ masks
def to_rle(masks: np.ndarray) -> list[RLE]:
    """Masks, bool ``[T, H, W]``, as T run-length encodings that JSON can hold."""
    encoded = coco.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
    return [{"size": list(e["size"]), "counts": e["counts"].decode("ascii")} for e in encoded]


def from_rle(masks: Sequence[RLE]) -> np.ndarray:
    """Encoded masks as bool ``[T, H, W]``; at least one."""
    return coco.decode(list(masks)).transpose(2, 0, 1).astype(bool)


def rle_boxes(masks: Sequence[RLE]) -> np.ndarray:
    """The tight box of each mask, float64 ``[T, 4]``, ends exclusive; NaN where it is empty.

    The ends matter: the paper's code takes torchvision's `masks_to_boxes`, whose right and bottom
    edges are the last pixel's own number, so that each box is a pixel short.
    """
    boxes = coco.toBbox(list(masks)).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes[coco.area(list(masks)) == 0] = np.nan
    return boxes


def mask_iou(a: Sequence[RLE], b: Sequence[RLE]) -> np.ndarray:
    """Intersection over union of masks, frame by frame: DAVIS' region similarity J.

    Returns
    -------
    float64 array ``[T]``, from 0 to 1
        1 where both are empty: they agree that nothing is there.

    Raises
    ------
    ValueError
        When two masks of a frame differ in size, or there are more of one than of the other.
    """
    values = np.ones(len(a))
    for t, (p, q) in enumerate(zip(a, b, strict=True)):
        _same_size(p, q)
        if union := coco.area(coco.merge([p, q])):
            values[t] = coco.area(coco.merge([p, q], intersect=True)) / union
    return values


def boundary_f(a: Sequence[RLE], b: Sequence[RLE], tolerance: float = TOLERANCE) -> np.ndarray:
    """How well the outlines of masks agree, frame by frame: DAVIS' contour accuracy F.

    Precision is the share of one outline's pixels that have the other's near them, recall the
    share of the other's that have this one's; F is their harmonic mean. An outline is the pixels
    that differ from the one to the right, below, or both (`davis2017/metrics.py`).

    Parameters
    ----------
    a, b : sequences of T masks
    tolerance : float
        How far "near" is, as a share of the frame's diagonal, rounded up to whole pixels.

    Returns
    -------
    float64 array ``[T]``, from 0 to 1
        1 where both are without an outline, as an empty mask and a full one are; 0 where one is.

    Raises
    ------
    ValueError
        As `mask_iou`.
    """
    values = np.zeros(len(a))
    for t, (p, q) in enumerate(zip(a, b, strict=True)):
        _same_size(p, q)
        first, second = (_outline(mask) for mask in from_rle([p, q]))
        radius = np.ceil(tolerance * np.hypot(*first.shape))
        if not (first.any() and second.any()):
            values[t] = float(first.any() == second.any())
            continue
        precision = (_distance_to(second)[first] <= radius).mean()
        recall = (_distance_to(first)[second] <= radius).mean()
        values[t] = 2 * precision * recall / max(precision + recall, np.finfo(float).tiny)
    return values


def j_and_f(truth: Sequence[RLE], predicted: Sequence[RLE]) -> tuple[float, float]:
    """Mean J and mean F of a predicted track over all frames given.

    DAVIS leaves out the first and the last frame of a clip; give it the frames you mean.
    """
    return float(mask_iou(truth, predicted).mean()), float(boundary_f(truth, predicted).mean())


def _same_size(p: RLE, q: RLE) -> None:
    if list(p["size"]) != list(q["size"]):
        raise ValueError(f"masks of one frame have one size, not {p['size']} and {q['size']}")


def _outline(mask: np.ndarray) -> np.ndarray:
    wider = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, across = wider[:-1, 1:], wider[1:, :-1], wider[1:, 1:]
    return (mask != right) | (mask != below) | (mask != across)


def _distance_to(outline: np.ndarray) -> np.ndarray:
    """Of each pixel, how far the nearest pixel of an outline is."""
    elsewhere = (~outline).astype(np.uint8)
    return cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
