"""LiteDetector: where things are, whatever they are, from the frozen trunk's features.

A small head without anchors, after FCOS (Tian et al., 2019): each cell of the strides 8, 16 and 32
says how surely it lies in the middle of a thing, and how far it is to the four sides of the thing's
box. How sure it is stands for the box's IoU with the truth too, as in generalized focal loss (Li et
al., 2020), so that of two boxes of one thing the better is kept. An image is seen twice, plain and
as a smaller mirror image, and what both say goes into one. What a thing is called is not its
concern: names are given to boxes by text vectors (`grounding.detect`), so they need no training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from segment_anything.utils.transforms import ResizeLongestSide
from timm.layers import LayerNorm2d
from timm.models import EfficientNet
from torch import nn
from torch.nn.functional import interpolate, pad
from torchvision.ops import box_iou, nms

from .. import assets
from . import clip

SIDE = 512  # pixels of the square that an image is fitted into, as LiteSAM's
SMALLER = 416  # of the square that its mirror image is
STRIDES = (8, 16, 32)
DIM = 128
OVERLAP = 0.5  # IoU from which two boxes are taken for one thing
TOP = 150  # cells of a view, the surest, that are heard
VOTE = 0.02  # how fast the say of a cell in another's box falls with their IoU
WEIGHTS = assets.DATA / "weights" / "detector.safetensors"


class Block(nn.Module):
    """A depthwise 5 x 5 convolution and a pointwise one, added to what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(DIM, DIM, 5, padding=2, groups=DIM),
            LayerNorm2d(DIM),
            nn.Conv2d(DIM, DIM, 1),
            nn.GELU(),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + self.inner(maps)


class BoxHead(nn.Module):
    """The trained part: from the trunk's strides 8, 16 and 32 to objectness and boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(clip.LEVELS[stride], DIM, 1), LayerNorm2d(DIM))
            for stride in STRIDES
        )
        self.tower = nn.Sequential(*(Block() for _ in range(4)), LayerNorm2d(DIM))
        self.objectness = nn.Conv2d(DIM, 1, 1)
        self.reach = nn.Conv2d(DIM, 4, 1)
        state = self.state_dict()
        state["objectness.bias"].fill_(-4.6)  # one cell in a hundred, as focal loss wants
        state["reach.bias"].fill_(1.1)  # three cells to each side

    def forward(self, levels: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """What each cell says, the cells of all levels in a row.

        Parameters
        ----------
        levels : list of Tensor ``[B, C, h, w]``
            At `STRIDES`: the last three of `clip.trunk_levels`.

        Returns
        -------
        logits : Tensor ``[B, cells]``
            Of being the middle of a thing.
        boxes : Tensor ``[B, cells, 4]``
            xyxy in pixels of the square.
        """
        maps = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        for finer in (1, 0):  # what is known of the whole goes down to where it can be placed
            maps[finer] = maps[finer] + interpolate(maps[finer + 1], scale_factor=2.0)
        logits, boxes = [], []
        for stride, joined in zip(STRIDES, maps, strict=True):
            seen = self.tower(joined)
            logits.append(self.objectness(seen).flatten(1))
            reach = stride * self.reach(seen).flatten(2).transpose(1, 2).clamp(max=6).exp()
            centres = cell_centres(seen.shape[2], seen.shape[3], stride).to(reach.device)
            boxes.append(torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], dim=-1))
        return torch.cat(logits, dim=1), torch.cat(boxes, dim=1)


def cell_centres(rows: int, columns: int, stride: int) -> torch.Tensor:
    """Middle (x, y) of each cell of a map, ``[rows * columns, 2]``, in pixels."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return (torch.stack([x, y], dim=-1).flatten(0, 1) + 0.5) * stride


def fit(image: np.ndarray, side: int = SIDE) -> torch.Tensor:
    """An RGB image, uint8 ``[H, W, 3]``, in the upper left of a normalised square.

    Gives ``[1, 3, side, side]``. The longest side fills it, as `SamPredictor` has it; the rest is
    0.
    """
    small = ResizeLongestSide(side).apply_image(image)
    pixels = torch.from_numpy(small).permute(2, 0, 1)[None].float()
    pixels = (pixels - clip.MEAN) / clip.SPREAD
    return pad(pixels, (0, side - pixels.shape[3], 0, side - pixels.shape[2]))


def agree(
    boxes: torch.Tensor, scores: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The surest boxes, each thing once, and each where all that speak of it have it on average.

    A box counts in the mean by its score and by how much of it is the same, ``exp(-(1 - IoU)^2 /
    0.02)``: variance voting (He et al., 2019, section 3.3), without the variance.

    Parameters
    ----------
    boxes : Tensor ``[M, 4]``
        xyxy.
    scores : Tensor ``[M]``
        From 0 to 1.
    count : int
        At most so many are kept.

    Returns
    -------
    boxes : Tensor ``[N, 4]``
    scores : Tensor ``[N]``
        The highest first.
    """
    say = torch.exp(-((1 - box_iou(boxes, boxes)) ** 2) / VOTE) * scores
    boxes = say @ boxes / say.sum(dim=1, keepdim=True)
    kept = nms(boxes, scores, OVERLAP)[:count]
    return boxes[kept], scores[kept]


class LiteDetector(nn.Module):
    """The trunk and the head.

    Parameters
    ----------
    trunk : EfficientNet
        From `clip.load_trunk`.
    """

    def __init__(self, trunk: EfficientNet) -> None:
        super().__init__()
        self.trunk, self.head = trunk, BoxHead()

    @torch.no_grad()
    def find(self, image: np.ndarray, count: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Boxes of the things in an image, seen plain and mirrored, the surest first.

        Parameters
        ----------
        image : uint8 array ``[H, W, 3]``
            RGB.
        count : int
            At most so many.

        Returns
        -------
        boxes : float32 array ``[N, 4]``
            xyxy in pixels of the image, within it, ends exclusive.
        objectness : float32 array ``[N]``
            From 0 to 1.
        """
        boxes, scores = self._view(image, SIDE)
        mirrored, more = self._view(np.ascontiguousarray(image[:, ::-1]), SMALLER)
        mirrored[:, [0, 2]] = image.shape[1] - mirrored[:, [2, 0]]
        found, scores = agree(torch.cat([boxes, mirrored]), torch.cat([scores, more]), count)
        return found.cpu().numpy(), scores.cpu().numpy()

    def _view(self, image: np.ndarray, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The surest cells' boxes ``[N, 4]``, in pixels of the image, and their scores ``[N]``."""
        height, width = image.shape[:2]
        pixels = fit(image, side).to(next(self.head.parameters()).device)
        logits, boxes = self.head(clip.trunk_levels(self.trunk, pixels)[1:])
        scores, cells = logits[0].float().sigmoid().sort(descending=True)
        rows, columns = ResizeLongestSide.get_preprocess_shape(height, width, side)
        found = boxes[0, cells[:TOP]].float()
        found = found * found.new_tensor([width / columns, height / rows] * 2)
        limits = found.new_tensor([width, height] * 2)
        found = found.clamp(min=0).minimum(limits)
        real = (found[:, 2:] - found[:, :2] > 1).all(dim=1)
        return found[real], scores[:TOP][real]


def load(trunk: EfficientNet, path: Path = WEIGHTS) -> LiteDetector:
    """The detector with its weights, frozen, on the trunk's device.

    Raises
    ------
    AssetError
        When the weights are not there, or are not the detector's.
    """
    if not path.exists():
        raise assets.AssetError(f"{path} is not there; `make weights` builds it")
    detector = LiteDetector(trunk)
    found = load_file(path)
    if wrong := found.keys() ^ detector.head.state_dict().keys():
        raise assets.AssetError(
            f"{path} is not the detector's: {min(wrong)} is there or in the model, not in both; "
            "`make weights` builds it anew"
        )
    detector.head.load_state_dict(found)
    return detector.to(next(trunk.parameters()).device).eval().requires_grad_(False)
