"""LiteCLIP: a frozen ImageNet trunk and a frozen sentence encoder, joined by one linear solve.

CLIP learns its two towers together from 400 million captioned images. LiteCLIP starts from two
towers that never met: EfficientNet-Lite2, whose last layer holds one 1,280-dimensional *image*
direction for each of 1,000 class names, and MiniLM, which turns any text into 384 numbers. Each
class name is thus a pair (text vector, image direction), and kernel ridge regression on those pairs
predicts the image direction of words that are no class name.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import BatchNormAct2d
from timm.models import EfficientNet
from torch import nn
from torch.nn.functional import normalize
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from .. import assets

TRUNK_DIM = 1280
STRIDE = 32  # pixels to a cell of the trunk's last map
LEVELS = {4: 24, 8: 48, 16: 120, 32: 352}  # stride of a level of the trunk -> its channels
MEAN, SPREAD = 127.0, 128.0  # the trunk reads (pixels - MEAN) / SPREAD
TEXT_MAP = assets.DATA / "weights" / "liteclip.safetensors"


def published_trunk() -> EfficientNet:
    """EfficientNet-Lite2 as timm has it, with its ImageNet-1k weights, in evaluation mode.

    The checkpoint lists the same tensors in the same order as timm's model, under other names.
    """
    trunk = cast(EfficientNet, timm.create_model("tf_efficientnet_lite2", pretrained=False))
    file = assets.path("efficientnet-lite2")
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    trunk.load_state_dict(dict(zip(trunk.state_dict(), checkpoint.values(), strict=True)))
    return trunk.eval()


def load_trunk(device: str | torch.device = "cpu") -> EfficientNet:
    """`published_trunk`, frozen and laid out to be fast: the same features, to rounding."""
    trunk = published_trunk().requires_grad_(False)
    _fold(trunk)
    # channels_last: the layout in which oneDNN runs depthwise convolutions fastest.
    return trunk.to(device).to(memory_format=torch.channels_last)


def _fold(trunk: EfficientNet) -> None:
    """Put each frozen batch normalisation into the convolution before it: a third less time."""
    for module in list(trunk.modules()):
        for (before, conv), (name, norm) in pairwise(list(module.named_children())):
            if isinstance(norm, BatchNormAct2d):
                setattr(module, before, fuse_conv_bn_eval(cast(nn.Conv2d, conv), norm))
                setattr(module, name, norm.act)


def trunk_map(trunk: EfficientNet, pixels: torch.Tensor) -> torch.Tensor:
    """The trunk's last feature map.

    Parameters
    ----------
    trunk : EfficientNet
        From `load_trunk`.
    pixels : uint8 Tensor ``[T, 3, H, W]``
        RGB; ``H`` and ``W`` multiples of 32.

    Returns
    -------
    Tensor ``[T, 1280, H / 32, W / 32]``, float32
    """
    device = next(trunk.parameters()).device
    pixels = pixels.to(device, torch.float32, memory_format=torch.channels_last)
    with torch.inference_mode():
        return trunk.forward_features((pixels - MEAN) / SPREAD)


def trunk_levels(trunk: EfficientNet, pixels: torch.Tensor) -> list[torch.Tensor]:
    """The trunk's maps at strides 4, 8, 16 and 32, for what needs to know where things end.

    Parameters
    ----------
    trunk : EfficientNet
        From `load_trunk`.
    pixels : float Tensor ``[B, 3, H, W]``
        Already normalised by `MEAN` and `SPREAD`; ``H`` and ``W`` multiples of 32.

    Returns
    -------
    list of Tensor ``[B, C, H / stride, W / stride]``
        ``C`` by `LEVELS`.
    """
    with torch.no_grad():  # not inference_mode: what is trained on top must be able to keep them
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return trunk.forward_intermediates(pixels, indices=4, intermediates_only=True)  # type: ignore[return-value]


class SentenceEncoder:
    """MiniLM (all-MiniLM-L6-v2): the mean of its token vectors, ``[K, 384]`` for ``K`` texts."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        folder = assets.path("minilm")
        transformers_logging.disable_progress_bar()  # for a model that loads in a blink
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval().requires_grad_(False).to(device)

    def __call__(self, texts: list[str], batch_size: int = 64) -> torch.Tensor:
        means = []
        for start in range(0, len(texts), batch_size):
            batch = self.tokenizer(
                texts[start : start + batch_size],
                padding=True,
                truncation=True,
                return_tensors="pt",
            ).to(self.model.device)
            with torch.inference_mode():
                tokens = self.model(**batch).last_hidden_state
            real = batch["attention_mask"].unsqueeze(-1).to(tokens.dtype)
            means.append((tokens * real).sum(1) / real.sum(1))
        return torch.cat(means)


def kernel(a: torch.Tensor, b: torch.Tensor, width: float) -> torch.Tensor:
    """Similarity ``exp((cos - 1) / width)`` of each unit vector of `a` with each of `b`."""
    return torch.exp((a @ b.T - 1) / width)


@dataclass(frozen=True)
class TextMap:
    """The map from text space to image space; made by `fit_text_map`, applied by calling it.

    Attributes
    ----------
    anchors : Tensor ``[M, 384]``
        Unit, centred text vectors of the names that the map was fitted on.
    coefficients : Tensor ``[M, D]``
        What each anchor adds to the image direction of a text close to it.
    text_centre : Tensor ``[384]``
        Mean of the unit text vectors, taken away before comparing.
    image_centre : Tensor ``[D]``
        Mean feature of the trunk over varied images, taken away from a feature before comparing.
    width : float
        Width of the kernel, in cosine.
    """

    anchors: torch.Tensor
    coefficients: torch.Tensor
    text_centre: torch.Tensor
    image_centre: torch.Tensor
    width: float

    def __call__(self, text: torch.Tensor) -> torch.Tensor:
        """Unit image directions ``[K, D]`` of the text vectors ``[K, 384]``."""
        centred = normalize(normalize(text, dim=-1) - self.text_centre, dim=-1)
        return normalize(kernel(centred, self.anchors, self.width) @ self.coefficients, dim=-1)

    def save(self, path: str | Path) -> None:
        tensors = {
            "anchors": self.anchors.half(),
            "coefficients": self.coefficients.half(),
            "text_centre": self.text_centre,
            "image_centre": self.image_centre,
            "width": torch.tensor(self.width),
        }
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)

    @classmethod
    def load(cls, path: str | Path = TEXT_MAP) -> "TextMap":
        if not Path(path).exists():
            raise assets.AssetError(f"{path} is not there; `make weights` builds it")
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        return cls(**{**tensors, "width": tensors["width"].item()})  # type: ignore[arg-type]


def fit_text_map(
    text: torch.Tensor,
    directions: torch.Tensor,
    image_centre: torch.Tensor,
    width: float = 0.3,
    ridge: float = 0.5,
) -> TextMap:
    """Kernel ridge regression from text vectors to image directions: one linear solve.

    Parameters
    ----------
    text : Tensor ``[M, 384]``
        Text vectors of names (or descriptions) whose image direction is known.
    directions : Tensor ``[M, D]``
        Their image directions, unit length.
    image_centre : Tensor ``[D]``
        Mean feature over varied images. Directions are fitted at a right angle to it; zeros leave
        them as they are.
    width, ridge : float
        Width of the kernel, and the weight that keeps coefficients small. Chosen on ImageNet
        classes held out of the fit; the result hardly changes between half and twice these.
    """
    # A bland patch has a feature near zero: centred, it points away from the centre, whatever it
    # shows. Without this, a word whose direction happens to lie there claims every bland patch.
    away = normalize(image_centre, dim=0)
    directions = normalize(directions - (directions @ away)[:, None] * away, dim=-1)

    text = normalize(text, dim=-1)
    text_centre = text.mean(0)
    anchors = normalize(text - text_centre, dim=-1)
    gram = kernel(anchors, anchors, width)
    coefficients = torch.linalg.solve(gram + ridge * torch.eye(len(gram)), directions)
    return TextMap(anchors, coefficients, text_centre, image_centre, width)
