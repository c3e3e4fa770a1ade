"""Masks: SAM's predictor, whichever encoder it has; the image is encoded once, prompts are many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from segment_anything import SamPredictor, sam_model_registry

from .. import assets
from ..lite import sam


@dataclass(frozen=True, eq=False)
class Masks:
    """What was found for each of N prompts."""

    masks: np.ndarray  # bool [N,H,W]
    iou: np.ndarray  # float32 [N]: the model's own guess of each mask's IoU with the truth

    def __len__(self) -> int:
        return len(self.masks)


def load_segmenter(name: str, device: str | torch.device = "cpu") -> SamPredictor:
    """The predictor that a profile names: "litesam", or SAM by its size ("sam_vit_b").

    Raises
    ------
    ValueError
        When no segmenter is called so.
    AssetError
        When its weights cannot be had.
    """
    if name == "litesam":
        return sam.TwoViews(sam.load(device=device))
    size = name.removeprefix("sam_")
    if size == name or size not in sam_model_registry:
        known = ", ".join(f"sam_{size}" for size in sam_model_registry if size != "default")
        raise ValueError(f"no segmenter is called {name!r}; there are litesam, {known}")
    model = sam_model_registry[size](checkpoint=assets.path(name))
    return SamPredictor(model.to(device).eval().requires_grad_(False))


def segment(
    predictor: SamPredictor,
    image: np.ndarray,
    boxes: np.ndarray | None = None,
    points: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> Masks:
    """Masks of the things in boxes, or under points, of one image.

    Parameters
    ----------
    predictor : SamPredictor
        From `load_segmenter`. It keeps the image: `prompt` asks more of it at once.
    image : uint8 array ``[H, W, 3]``
        RGB.
    boxes, points, labels
        See `prompt`.

    Raises
    ------
    ValueError
        When the image or a prompt has another shape.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"segment() wants an RGB image, uint8 [H, W, 3]; got {image.dtype} {list(image.shape)}"
        )
    predictor.set_image(image)
    return prompt(predictor, boxes, points, labels)


def prompt(
    predictor: SamPredictor,
    boxes: np.ndarray | None = None,
    points: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> Masks:
    """Masks in the image that the predictor was given last.

    Parameters
    ----------
    boxes : float array ``[N, 4]``
        xyxy in pixels of the image, ends exclusive.
    points : float array ``[N, P, 2]``
        x, y of P points for each of N things; with boxes, they say more of the same things.
    labels : int array ``[N, P]``
        1 where a point is on the thing and 0 where it is beside it; all on it if None.

    Returns
    -------
    Masks
        One for each thing. A single point does not say how much of a thing is meant: SAM then
        draws three masks, and the one that it thinks best is taken (its paper's section 3).

    Raises
    ------
    ValueError
        When nothing is asked for, or a prompt has another shape.
    RuntimeError
        When the predictor was given no image.
    """
    given = [each for each in (boxes, points) if each is not None]
    if not given or len({len(each) for each in given}) > 1:
        raise ValueError("a prompt is boxes [N, 4], points [N, P, 2], or both for the same N")
    if boxes is not None and boxes.shape[1:] != (4,):
        raise ValueError(f"boxes are [N, 4], xyxy; got {list(boxes.shape)}")
    if points is not None and (points.ndim != 3 or points.shape[2] != 2):
        raise ValueError(f"points are [N, P, 2], P for each thing; got {list(points.shape)}")
    if labels is not None and (points is None or labels.shape != points.shape[:2]):
        raise ValueError(f"labels are [N, P], one for each point; got {list(labels.shape)}")
    if not predictor.is_image_set:
        raise RuntimeError("give the predictor an image first: predictor.set_image(image)")
    height, width = predictor.original_size
    if not len(given[0]):
        return Masks(np.zeros((0, height, width), bool), np.zeros(0, np.float32))

    fitted, device = predictor.transform, predictor.device
    box_tensor = point_tensor = label_tensor = None
    if boxes is not None:
        fitted_boxes = fitted.apply_boxes(np.asarray(boxes), (height, width))
        box_tensor = torch.as_tensor(fitted_boxes, dtype=torch.float32, device=device)
    if points is not None:
        fitted_points = fitted.apply_coords(np.asarray(points), (height, width))
        point_tensor = torch.as_tensor(fitted_points, dtype=torch.float32, device=device)
        if labels is None:
            labels = np.ones(points.shape[:2], int)
        label_tensor = torch.as_tensor(labels, dtype=torch.int, device=device)
    vague = boxes is None and points is not None and points.shape[1] == 1
    masks, iou, _ = predictor.predict_torch(
        point_tensor, label_tensor, box_tensor, multimask_output=vague
    )
    best = iou.argmax(dim=1)
    chosen = torch.arange(len(best), device=best.device), best
    return Masks(masks[chosen].cpu().numpy(), iou[chosen].float().cpu().numpy())
