"""RAM's tags (Zhang et al., 2023), the paper's own, where the package is installed.

The package is written for transformers 4 and its model cannot be imported beside 5. So its list of
tags and their thresholds are read, and its checkpoint is run by timm's Swin and the head below: of
RAM, the part that tags (the rest writes captions).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.swin_transformer import checkpoint_filter_fn
from torch.nn.functional import (
    gelu,
    interpolate,
    layer_norm,
    linear,
    relu,
    scaled_dot_product_attention,
)
from torchvision.transforms.functional import normalize

from .. import assets
from .tags import Tagger

WEIGHTS = "ram_swin_large_14m.pth"
SOURCE = f"https://huggingface.co/xinyu1205/recognize_anything_model/resolve/main/{WEIGHTS}"
SWIN = "swin_large_patch4_window12_384"
HEAD = "tagging_head.encoder.layer."  # two of them
HEADS = 4  # of attention
EPSILON = 1e-12  # of the head's layer norms

Weights = dict[str, torch.Tensor]


class RAM:
    """Tags frames: a `tags.Tagger`.

    Parameters
    ----------
    swin : SwinTransformer
        Without a classifier; its weights are replaced.
    checkpoint : dict of Tensors
        By the names that they have in RAM's.
    names : list of str
        The ``K`` tags.
    thresholds : Tensor ``[K]``
        Probability above which each is seen.

    Raises
    ------
    ValueError
        When the checkpoint is of other tags.
    """

    def __init__(
        self, swin: Any, checkpoint: Weights, names: list[str], thresholds: torch.Tensor
    ) -> None:
        if len(names) != len(checkpoint["label_embed"]):
            raise ValueError(
                f"RAM's checkpoint has {len(checkpoint['label_embed'])} tags, its package lists "
                f"{len(names)}: take {WEIGHTS}"
            )
        # The package's own loader takes the head by either name.
        checkpoint = {k.replace("vision_multi", "tagging_head"): v for k, v in checkpoint.items()}
        found = checkpoint_filter_fn(_under("visual_encoder.", checkpoint), swin)
        swin.load_state_dict({name: found[name] for name in swin.state_dict()})
        self.swin = swin.eval().requires_grad_(False)
        self.device = next(swin.parameters()).device
        self.weights = {
            name: weight.to(self.device)
            for name, weight in checkpoint.items()
            if name.startswith(("image_proj.", "wordvec_proj.", "label_embed", "fc.", HEAD))
        }
        self.names, self.thresholds = names, thresholds

    def __call__(self, images: np.ndarray, top: int = 5) -> list[tuple[str, float]]:
        """The `top` tags that are seen in the most frames, as the paper's evaluation ranks them.

        Parameters
        ----------
        images : uint8 array ``[T, H, W, 3]``
            RGB frames of one shot.

        Returns
        -------
        list of (name, share of the frames)
            Best first, of equal ones the surest. None that is seen in no frame.
        """
        sure = self.probabilities(images)
        share = (sure > self.thresholds).float().mean(dim=0)
        order = np.lexsort((-sure.mean(dim=0).numpy(), -share.numpy()))[:top].tolist()
        return [(self.names[i], float(share[i])) for i in order if share[i] > 0]

    @torch.inference_mode()
    def probabilities(self, images: np.ndarray) -> torch.Tensor:
        """How probable each tag is in each frame: Tensor ``[T, K]`` of uint8 ``[T, H, W, 3]``."""
        w = self.weights
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2) / 255
        size = self.swin.patch_embed.img_size
        pixels = interpolate(pixels, size=size, mode="bilinear", antialias=True)
        cells = self.swin.forward_features(
            normalize(pixels, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        ).flatten(1, 2)
        cells = _linear(w, "image_proj", torch.cat([cells.mean(dim=1, keepdim=True), cells], 1))
        tags = relu(_linear(w, "wordvec_proj", w["label_embed"])).expand(len(images), -1, -1)
        for layer in range(2):
            tags = _attend(w, f"{HEAD}{layer}", tags, cells)
        return _linear(w, "fc", tags)[..., 0].sigmoid().cpu()


def _attend(w: Weights, layer: str, tags: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """One layer of BERT's by which tags ``[T, K, D]`` look at cells, not at each other."""
    look = f"{layer}.crossattention"
    query, key, value = (
        _linear(w, f"{look}.self.{name}", of).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for name, of in (("query", tags), ("key", cells), ("value", cells))
    )
    seen = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    tags = _norm(w, f"{look}.output", _linear(w, f"{look}.output.dense", seen) + tags)
    more = gelu(_linear(w, f"{layer}.intermediate.dense", tags))
    return _norm(w, f"{layer}.output", _linear(w, f"{layer}.output.dense", more) + tags)


def _under(prefix: str, weights: Weights) -> Weights:
    return {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }


def _linear(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _norm(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    scale, shift = w[f"{name}.LayerNorm.weight"], w[f"{name}.LayerNorm.bias"]
    return layer_norm(x, scale.shape, scale, shift, EPSILON)


def installed() -> bool:
    """Whether the package is there, and not another of its name."""
    return assets.packaged("ram", "data/ram_tag_list.txt") is not None


def load(device: str | torch.device = "cpu") -> Tagger:
    """RAM with the package's tags; its weights are `WEIGHTS` in the store.

    Raises
    ------
    AssetError
        When they are not there.
    ValueError
        When they are of other tags.
    """
    file = assets.given(WEIGHTS, SOURCE, "ram")
    weights = torch.load(file, map_location="cpu", weights_only=True)
    names, thresholds = (
        Path(str(assets.packaged("ram", f"data/{file}"))).read_text(encoding="utf-8").splitlines()
        for file in ("ram_tag_list.txt", "ram_tag_list_threshold.txt")
    )
    swin: Any = timm.create_model(SWIN, num_classes=0).to(device)
    limits = torch.tensor([float(line) for line in thresholds])
    return RAM(swin, weights["model"], names, limits)
