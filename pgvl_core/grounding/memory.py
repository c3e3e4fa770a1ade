"""Masks carried from frame to frame by the frozen trunk's features, with nothing trained for it.

Space-time correspondence as in video object segmentation by DINO's features (Caron et al., 2021,
section 4.2.2): each cell of a frame looks for the cells most like it in frames whose masks are
known, and takes over what these are part of. It is the propagation half of DEVA's decoupled
tracking (Cheng et al., 2023); what appears, and when, is the detector's business. SAM 2's memory
(`sam2`) and DEVA's own (`deva`) stand behind the same face, `Carrier`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from timm.models import EfficientNet
from torch.nn.functional import interpolate, normalize, pad

from ..lite import clip
from ..video import resize

SIDE = 512  # pixels that the longest side of a frame has when it is compared
CELL = 8  # of these to a cell
RECENT = 4  # frames that are remembered beside the anchors
REACH = 0.15  # of the frame's longest side: how far a thing may have moved since a recent frame
BLOCK = 8  # cells a side that are compared together with all that they may have come from
NEIGHBOURS = 20  # cells that each cell takes over from
SHARPNESS = 0.05  # cosine by which one neighbour must be closer to count e times as much


def embed(trunk: EfficientNet, image: np.ndarray) -> torch.Tensor:
    """Unit vectors ``[D, rows, columns]`` of a frame's cells: texture, and what it is part of.

    Parameters
    ----------
    trunk : EfficientNet
        From `clip.load_trunk`; its strides 8 and 16 count equally.
    image : uint8 array ``[H, W, 3]``
        RGB.
    """
    scale = SIDE / max(image.shape[:2]) / clip.STRIDE
    height, width = (max(1, round(side * scale)) * clip.STRIDE for side in image.shape[:2])
    pixels = torch.from_numpy(resize(image[None], height, width).copy()).permute(0, 3, 1, 2)
    pixels = pixels.to(next(trunk.parameters()).device, torch.float32)
    _, eight, sixteen, _ = clip.trunk_levels(trunk, (pixels - clip.MEAN) / clip.SPREAD)
    sixteen = interpolate(normalize(sixteen, dim=1), scale_factor=2.0, mode="bilinear")
    return normalize(torch.cat([normalize(eight, dim=1), sixteen], dim=1), dim=1)[0]


class Carrier(Protocol):
    """Carries the masks of things through one shot; of each frame, first `carry`, then `keep`."""

    def carry(self, image: np.ndarray, cells: torch.Tensor) -> np.ndarray:
        """Masks bool ``[K, H, W]`` in a new frame, uint8 RGB, of the K things that are known.

        `cells` are the frame's, of `embed`. No pixel belongs to two things.
        """
        ...

    def keep(self, cells: torch.Tensor, masks: np.ndarray, anchor: bool = False) -> None:
        """Take over what the masks of that frame became; things that join come after the others.

        `anchor` tells that the frame is worth going back to.
        """
        ...


class Memory:
    """Frames whose masks are known: two to go back to, and the last few."""

    def __init__(self) -> None:
        self.anchors: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.recent: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=RECENT)

    def add(self, cells: torch.Tensor, shares: torch.Tensor, anchor: bool = False) -> None:
        """Remember a frame.

        Parameters
        ----------
        cells : Tensor ``[D, rows, columns]``
            Of `embed`.
        shares : Tensor ``[K, rows, columns]``
            How much of each cell each of K things takes. Things that join later come after these.
        anchor : bool
            Never forget it, or until another such frame comes: where something is seen well. The
            first frame always is one, and stays.
        """
        if anchor or not self.anchors:
            self.anchors = [*self.anchors[:1], (cells, shares)]
        else:
            self.recent.append((cells, shares))

    def carry(self, image: np.ndarray, cells: torch.Tensor) -> np.ndarray:
        """See `Carrier`."""
        if not self.anchors:
            return np.zeros((0, *image.shape[:2]), bool)
        return draw(self.read(cells).cpu(), *image.shape[:2])

    def keep(self, cells: torch.Tensor, masks: np.ndarray, anchor: bool = False) -> None:
        """See `Carrier`."""
        self.add(cells, share(masks, *cells.shape[1:]).to(cells.device), anchor)

    def read(self, cells: torch.Tensor) -> torch.Tensor:
        """How much of each cell of a new frame each thing takes: ``[K, rows, columns]``.

        Raises
        ------
        ValueError
            When nothing is remembered.
        """
        if not self.anchors:
            raise ValueError("a memory without a frame knows no masks; add() one first")
        frames = [*self.anchors, *self.recent]
        size = cells.shape[1:]
        own, near, outside = (table.to(cells.device) for table in reach(*size))
        query = windows(cells).transpose(1, 2).contiguous()  # [blocks, cells of a block, D]
        best, places = [], []
        for number, (known, _) in enumerate(frames):
            recent = number >= len(self.anchors)
            if recent:
                alike = query @ windows(known, far(*size))
                alike = alike.masked_fill_(outside, -torch.inf).flatten(0, 1)
            else:
                alike = query.flatten(0, 1) @ known.flatten(1)
            # The best of each frame first: to rank all frames' cells at once takes far longer.
            closest = alike.topk(min(NEIGHBOURS, alike.shape[1]), dim=1)
            best.append(closest.values)
            place = closest.indices
            if recent:  # counted within the window: the same cell of the grid
                place = near.gather(1, place.reshape(len(near), -1)).view_as(place)
            places.append(place + number * size.numel())
        together = torch.cat(best, dim=1)
        closest = together.topk(min(NEIGHBOURS, together.shape[1]), dim=1)
        weights = (closest.values / SHARPNESS).softmax(dim=1)
        most = max(len(shares) for _, shares in frames)
        values = torch.cat(
            [pad(shares.flatten(1), (0, 0, 0, most - len(shares))) for _, shares in frames], dim=1
        )
        chosen = torch.cat(places, dim=1).gather(1, closest.indices)
        return (values[:, chosen] * weights).sum(dim=2)[:, own].unflatten(1, size)


def far(rows: int, columns: int) -> int:
    """How many cells of a grid a thing may have moved since a recent frame."""
    return int(max(1.0, REACH * max(rows, columns)))


def windows(maps: torch.Tensor, margin: int = 0) -> torch.Tensor:
    """Maps ``[D, rows, columns]`` in blocks of 8 x 8 cells and what is around: ``[blocks, D, n]``.

    Beyond the grid there is 0.
    """
    down, right = (-side % BLOCK for side in maps.shape[1:])
    padded = pad(maps, (margin, margin + right, margin, margin + down))
    side = BLOCK + 2 * margin
    blocks = padded.unfold(1, side, BLOCK).unfold(2, side, BLOCK)  # [D, down, right, side, side]
    return blocks.permute(1, 2, 0, 3, 4).flatten(3).flatten(0, 1)


@lru_cache(maxsize=2)
def reach(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The cells from which a thing may have come, of each cell of a grid; see `windows`.

    Returns
    -------
    own : int64 ``[cells]``
        Where in the blocks each cell is.
    near : int64 ``[blocks, n]``
        Numbers, row by row, of the cells in and around each block; 0 beyond the grid.
    outside : bool ``[blocks, 64, n]``
        Which of them are too far from a block's cell, or no cells.
    """
    most = far(rows, columns)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    grid = torch.stack([y, x, torch.ones_like(y)])
    here, there = windows(grid)[..., None], windows(grid, most)[:, :, None]
    outside = ((here - there)[:, :2].abs() > most).any(dim=1) | (there[:, 2] == 0)
    (own,) = torch.nonzero(here[:, 2].flatten(), as_tuple=True)
    number = (here[:, 0] * columns + here[:, 1]).flatten()[own]
    near = (there[:, 0] * columns + there[:, 1])[:, 0]
    return own[number.argsort()], near, outside


def share(masks: np.ndarray, rows: int, columns: int) -> torch.Tensor:
    """How much of each cell each thing takes: ``[K, rows, columns]`` of bool ``[K, H, W]``."""
    planes = torch.from_numpy(masks).float()[:, None]
    return interpolate(planes, size=(rows, columns), mode="area")[:, 0]


def draw(shares: torch.Tensor, height: int, width: int) -> np.ndarray:
    """Masks bool ``[K, H, W]`` of shares: each pixel goes to whom it is most of, or to nobody."""
    planes = interpolate(shares[None], size=(height, width), mode="bilinear")[0]
    nobody = 1 - planes.sum(dim=0, keepdim=True)
    owner = torch.cat([nobody, planes]).argmax(dim=0)
    return (owner == torch.arange(1, len(shares) + 1)[:, None, None]).numpy()


def propagate(
    trunk: EfficientNet, images: Iterable[np.ndarray], masks: np.ndarray
) -> Iterator[np.ndarray]:
    """Carry the masks of the first frame through those that follow.

    Parameters
    ----------
    trunk : EfficientNet
        From `clip.load_trunk`.
    images : uint8 arrays ``[H, W, 3]``
        Consecutive frames of one shot, RGB; they are read one at a time.
    masks : bool array ``[K, H, W]``
        Of the things in the first.

    Yields
    ------
    bool array ``[K, H, W]``
        For each frame; of the first, what was given. No pixel belongs to two things.

    Raises
    ------
    ValueError
        When the masks are not of the frames' size.
    """
    memory = Memory()
    for number, image in enumerate(images):
        if masks.shape[1:] != image.shape[:2]:
            raise ValueError(
                f"masks are {list(masks.shape[1:])}, frame {number} is {list(image.shape[:2])}"
            )
        cells = embed(trunk, image)
        if number:
            masks = memory.carry(image, cells)
        yield masks
        memory.keep(cells, masks)
