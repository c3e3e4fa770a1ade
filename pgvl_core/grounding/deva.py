"""DEVA's memory (Cheng et al., 2023), the paper's own tracker, where the package is installed.

What DEVA decides besides, which of the things found are new and which are gone, is the tracker's
business here (`track`): DEVA is told of masks by the way that it has for those of an image model.
Its long-term memory condenses what is old, so that memory stays flat however long a shot is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import DEFAULT, patch

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.transforms.functional import normalize

from .. import assets
from .memory import Carrier
from .sam2 import corrected

WEIGHTS = "DEVA-propagation.pth"
SOURCE = (
    f"https://github.com/hkchengrex/Tracking-Anything-with-DEVA/releases/download/v1.0/{WEIGHTS}"
)
EVERY = 5  # frames from one that is remembered to the next, if none is corrected (theirs too)
NETWORK = {"key_dim": 64, "value_dim": 512, "pix_feat_dim": 512}
CONFIG: dict[str, Any] = {  # as in the paper's evaluation, but for the infinities
    **NETWORK,
    "mem_every": math.inf,  # `DevaMemory.keep` tells what is remembered
    "top_k": 30,
    "enable_long_term": True,
    "enable_long_term_count_usage": True,
    "max_mid_term_frames": 10,
    "min_mid_term_frames": 5,
    "max_long_term_elements": 10_000,
    "num_prototypes": 128,
    "chunk_size": 4,  # things at a time
    "max_num_objects": -1,  # no limit: the tracker has one
    "max_missed_detection_count": math.inf,  # and it knows what is gone
}


class DevaMemory:
    """One shot as DEVA remembers it: a `memory.Carrier`.

    Parameters
    ----------
    network : deva.model.network.DEVA
    """

    def __init__(self, network: Any) -> None:
        from deva.inference.inference_core import DEVAInferenceCore

        self.core = DEVAInferenceCore(network, CONFIG)
        self.device = next(network.parameters()).device
        self.number = self.kept = -1  # of the frame, and of the last that is remembered
        self.carried = np.zeros((0, 0, 0), bool)

    @torch.inference_mode()
    def carry(self, image: np.ndarray, cells: torch.Tensor) -> np.ndarray:
        """See `memory.Carrier`; DEVA has features of its own and does without `cells`."""
        self.number += 1
        pixels = torch.from_numpy(image).to(self.device).permute(2, 0, 1) / 255
        self.frame = normalize(pixels, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        self.carried = np.zeros((0, *image.shape[:2]), bool)
        if things := self.core.object_manager.num_obj:
            shares = self.core.step(self.frame, image_ti_override=self.number, delete_buffer=False)
            owner = self.core.object_manager.tmp_to_obj_cls(shares.argmax(dim=0)).cpu()
            self.carried = (owner == torch.arange(1, things + 1)[:, None, None]).numpy()
        return self.carried.copy()

    @torch.inference_mode()
    def keep(self, cells: torch.Tensor, masks: np.ndarray, anchor: bool = False) -> None:
        """See `memory.Carrier`. A frame with a new or corrected mask is remembered in any case."""
        known = len(self.carried)
        due = known > 0 and self.number - self.kept >= EVERY
        if due or len(masks) > known or corrected(self.carried, masks):
            self._remember(masks)
        self.core.image_feature_store.delete(self.number)

    def _remember(self, masks: np.ndarray) -> None:
        """Have the frame's features remembered with these masks; a thing's id is its number + 1."""
        from deva.inference.object_info import ObjectInfo
        from deva.utils.tensor_utils import pad_divide_by

        known = len(self.carried)
        ids = torch.arange(1, len(masks) + 1)
        owner = (torch.from_numpy(masks) * ids[:, None, None]).amax(dim=0)
        place = torch.zeros(len(masks) + 1, dtype=torch.int64)  # DEVA's own order of what it knows
        for where, thing in enumerate(self.core.object_manager.all_obj_ids, start=1):
            place[thing] = where
        self.core.incorporate_detection(
            self.frame,
            (owner * (owner > known)).to(self.device),
            [ObjectInfo(id=thing) for thing in ids[known:].tolist()],
            image_ti_override=self.number,
            forward_mask=pad_divide_by(place[owner], 16)[0].to(self.device),
        )
        self.kept = self.number


def installed() -> bool:
    """Whether the package is there; one of another kind has its name on PyPI."""
    return assets.packaged("deva", "inference/inference_core.py") is not None


def load(device: str | torch.device = "cpu") -> Callable[[], Carrier]:
    """What makes DEVA's carrier, one for each shot; its weights are `WEIGHTS` in the store.

    Raises
    ------
    AssetError
        When they are not there.
    """
    file = assets.given(WEIGHTS, SOURCE, "deva")
    weights = torch.load(file, map_location="cpu", weights_only=True)
    from deva.model import resnet
    from deva.model.network import DEVA

    # It would fetch ResNets of ImageNet's, which these weights replace.
    with patch.multiple(resnet, model_zoo=DEFAULT, load_weights_add_extra_dim=DEFAULT):
        network = DEVA(NETWORK)
    network.load_weights(weights)
    return partial(DevaMemory, network.to(device).eval().requires_grad_(False))
