"""SAM 2's video memory (Ravi et al., 2024) through transformers, in the place of our propagation.

SAM 2 remembers each thing by its mask in the frame where it was first seen, by its last few masks
and by a pointer for each of its last frames. Here it is fed one frame at a time, the tracker's
masks correct what it carried, and what it no longer looks back to is let go, so that memory stays
flat however long a shot is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from .. import assets
from .memory import Carrier, Memory
from .track import apart, mask_iou

CORRECTED = 0.9  # mask IoU below which the tracker's mask takes the place of what was carried


class Sam2Memory:
    """One shot as SAM 2 remembers it: a `memory.Carrier`.

    Parameters
    ----------
    model : Sam2VideoModel
    processor : Sam2VideoProcessor
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.session = processor.init_video_session(
            inference_device=model.device, dtype=model.dtype
        )
        self.number = -1  # of the frame
        self.carried = np.zeros((0, 0, 0), bool)

    def carry(self, image: np.ndarray, cells: torch.Tensor) -> np.ndarray:
        """See `memory.Carrier`; SAM 2 has features of its own and does without `cells`."""
        self.number += 1
        inputs = self.processor(images=image, return_tensors="pt")
        self.frame = inputs.pixel_values[0].to(self.model.device, self.model.dtype)
        self.size = image.shape[:2]
        self.carried = np.zeros((0, *self.size), bool)
        if self.session.obj_ids:
            self.carried = apart(self._run())
        return self.carried.copy()

    def keep(self, cells: torch.Tensor, masks: np.ndarray, anchor: bool = False) -> None:
        """See `memory.Carrier`. A thing's first frame is its anchor, whatever `anchor` says."""
        told = [*corrected(self.carried, masks), *range(len(self.carried), len(masks))]
        if told:
            self.processor.add_inputs_to_inference_session(
                self.session, self.number, told, input_masks=[masks[i] for i in told]
            )
            self._run()
        self._let_go()

    def _run(self) -> np.ndarray:
        """The masks bool ``[K, H, W]`` of all things in the frame."""
        out = self.model(self.session, frame_idx=self.number, frame=self.frame)
        masks = self.processor.post_process_masks([out.pred_masks], [self.size])[0]
        return masks[:, 0].cpu().numpy()

    def _let_go(self) -> None:
        """Forget the frames that are too old to be looked at again."""
        session, config = self.session, self.model.config
        old = self.number - max(config.num_maskmem, config.max_object_pointers_in_encoder)
        session.processed_frames = {}
        for i in range(session.get_obj_num()):
            session.mask_inputs_per_obj[i].clear()
            session.output_dict_per_obj[i]["non_cond_frame_outputs"].pop(old, None)
            session.frames_tracked_per_obj[i].pop(old, None)


def corrected(carried: np.ndarray, masks: np.ndarray) -> list[int]:
    """Which things of bool ``[K, H, W]`` are seen elsewhere by ``[N, H, W]``, N at least K."""
    masks = masks[: len(carried)]
    same = np.diagonal(mask_iou(carried, masks))
    return np.nonzero((same < CORRECTED) & masks.any(axis=(1, 2)))[0].tolist()


def load_carrier(name: str, device: str | torch.device = "cpu") -> Callable[[], Carrier]:
    """What makes the carrier of a profile, one for each shot.

    Parameters
    ----------
    name : str
        "propagation", "deva", or SAM 2 by an asset, a hub name or a folder in transformers' layout.
    """
    if name == "propagation":
        return Memory
    if name == "deva":
        from .deva import load  # which takes `corrected` from here

        return load(device)
    from transformers import Sam2VideoModel, Sam2VideoProcessor  # half a second that pocket spares

    where = assets.path(name) if name in assets.ASSETS else name
    model: Any = Sam2VideoModel.from_pretrained(where)
    model = model.to(device).eval().requires_grad_(False)
    return partial(Sam2Memory, model, Sam2VideoProcessor.from_pretrained(where))
