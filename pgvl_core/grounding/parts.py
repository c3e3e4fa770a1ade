"""How good the detector and the segmenter are, each on its own, before true masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from segment_anything import SamPredictor

from ..evaluation.boxes import box_iou
from ..toyworld import Clip
from ..toyworld_render import mask_boxes
from .detect import Detector
from .segment import segment
from .track import mask_iou

LEAST_SHOWN, LEAST_PIXELS = 0.25, 64  # less of a thing is not asked for
BOXES = 10  # of a frame, the surest: so many may try to meet a thing
MET = 0.5  # IoU from which a box has met a thing


@dataclass(frozen=True)
class Thing:
    """What became of one thing in one frame."""

    name: str
    mask_iou: float  # of the mask that the segmenter draws, given the true box
    guessed_iou: float  # what the segmenter took that to be
    found: bool  # one of the detector's `BOXES` surest boxes for its name meets it
    named: bool  # the surest of them does


def shown(clip: Clip, frame: int) -> tuple[list[str], np.ndarray]:
    """Names of what can be seen in a frame of a toyworld clip, and masks bool ``[K, H, W]``.

    Things of which less than a quarter, or fewer than 64 pixels, is seen are left out.
    """
    tracks = [
        track
        for track in clip.tracks
        if track.visibility[frame] >= LEAST_SHOWN and track.visible[frame].sum() >= LEAST_PIXELS
    ]
    masks = np.array([track.visible[frame] for track in tracks], bool)
    return [track.category for track in tracks], masks.reshape(-1, *clip.frames.shape[1:3])


def measure(
    detector: Detector,
    predictor: SamPredictor,
    image: np.ndarray,
    names: Sequence[str],
    masks: np.ndarray,
) -> list[Thing]:
    """What detector and segmenter make of the things of one frame.

    Parameters
    ----------
    detector : Detector
        From `detect.load_detector`. It is asked for one name at a time.
    predictor : SamPredictor
        From `segment.load_segmenter`.
    image : uint8 array ``[H, W, 3]``
        RGB.
    names : K str
        What the things are called.
    masks : bool array ``[K, H, W]``
        What is seen of each, none of them empty.

    Raises
    ------
    ValueError
        When there is not a mask for each name, or one is empty.
    """
    if len(names) != len(masks) or not np.all(np.any(masks, axis=(1, 2))):
        raise ValueError(f"{len(names)} names want as many masks, none empty; got {len(masks)}")
    if not len(names):
        return []
    boxes = mask_boxes(masks)
    drawn = segment(predictor, image, boxes=boxes)
    ious = np.diagonal(mask_iou(drawn.masks, masks))
    boxes_of = {
        name: detector(image, [name], threshold=0)["boxes"][:BOXES].numpy() for name in set(names)
    }
    things = []
    for name, box, iou, guess in zip(names, boxes, ious, drawn.iou, strict=True):
        met = box_iou(box, boxes_of[name]) >= MET
        things.append(Thing(name, float(iou), float(guess), bool(met.any()), bool(met[:1].any())))
    return things
