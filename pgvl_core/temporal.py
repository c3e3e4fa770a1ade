"""Beyond averaging: three ways to turn patch features of frames into tokens that know of time.

The paper's pooling (`pooling.pool`) averages over places in each frame, and over frames at each
place. Either mean is the same whichever way a thing moves. Here are the alternatives that the
paper's experiments leave open: attention over time, convolution over space and time, and each
frame's own coarse grid, with its time. All read features ``[T, N, D]`` of any number of frames,
reduced to `WIDTH` numbers by one matrix, and write tokens ``[K, width]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

from .pooling import pool

SLOTS = 8  # stretches of time that tokens are kept apart in
COARSE = 4  # side of the grid that each frame keeps, where frames are kept
HEADS = 4
KEY = "temporal."  # of a temporal model's weights in a file


def time_embedding(frames: int, width: int) -> torch.Tensor:
    """Where in the video each frame is: float32 ``[frames, width]``.

    Sines and cosines of half a turn, one, two, four ... over the whole video, at the frames'
    middles. Time is relative, so a model reads videos of more or fewer frames than it was trained
    with (sinusoids as in Vaswani et al., 2017; there they count positions).
    """
    time = (torch.arange(frames) + 0.5) / frames
    angles = math.pi * time[:, None] * 2.0 ** (torch.arange(width) // 2 % 8)
    return torch.where(torch.arange(width) % 2 == 0, angles.sin(), angles.cos())


def square(places: int) -> int:
    """Side of a square grid of so many places.

    Raises
    ------
    ValueError
        When they fill no square.
    """
    side = math.isqrt(places)
    if side * side != places:
        raise ValueError(f"{places} patches are no square grid: average them to one first")
    return side


class TemporalModel(nn.Module):
    """What the variants share: the door, and the reduction of features to fewer numbers.

    Parameters
    ----------
    dim : int
        ``D``, the size of a patch feature.
    width : int
        The size that the variant works in, and of its tokens.
    out : int
        0, or the size that tokens are brought to at the end: ``D``, for a projector that reads
        features.
    """

    frames = 16  # that a video is read in, for these models

    def __init__(self, dim: int, width: int, out: int = 0) -> None:
        super().__init__()
        self.reduce, self.norm = nn.Linear(dim, width), nn.LayerNorm(width)
        self.out = nn.Linear(width, out) if out else nn.Identity()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Tokens ``[..., K, width]`` of features ``[..., T, N, D]``, with or without a batch.

        Raises
        ------
        ValueError
            If `features` is empty, of another shape, or its patches fill no square.
        """
        if features.ndim not in (3, 4) or 0 in features.shape:
            raise ValueError(
                "a temporal model wants non-empty features [T, N, D] or [B, T, N, D], got shape "
                f"{list(features.shape)}"
            )
        if features.shape[-1] != self.reduce.in_features:
            raise ValueError(
                f"this temporal model reads features of {self.reduce.in_features} numbers, the "
                f"encoder gave {features.shape[-1]}"
            )
        square(features.shape[-2])
        batch = features if features.ndim == 4 else features[None]
        tokens = self.out(self.tokens(self.reduce(batch.to(self.reduce.weight.dtype))))
        return tokens if features.ndim == 4 else tokens[0]

    def changes(self, reduced: torch.Tensor) -> torch.Tensor:
        """Each place's features less their mean over time, ``[B, T, N, width]``.

        The mean is what pooling tells anyhow; what stands still in all frames goes with it, and
        what is left is where something comes and goes.
        """
        normal = self.norm(reduced)
        return normal - normal.mean(1, keepdim=True)

    def tokens(self, reduced: torch.Tensor) -> torch.Tensor:
        """Tokens ``[B, K, width]`` of reduced features ``[B, T, N, width]``."""
        raise NotImplementedError


class Average(TemporalModel):
    """The paper's pooling, as a row of the same table: `SLOTS` temporal tokens, ``N`` spatial."""

    def tokens(self, reduced: torch.Tensor) -> torch.Tensor:
        return torch.stack([pool(each, SLOTS) for each in reduced])


class Attention(TemporalModel):
    """Each place looks at its own past and future, and then the paper's pooling averages.

    One layer of self-attention over the frames at each place, as the temporal half of TimeSformer's
    divided attention (Bertasius et al., 2021). As many tokens as with pooling alone.
    """

    def __init__(self, dim: int, width: int, out: int = 0) -> None:
        super().__init__(dim, width, out)
        self.attention = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def tokens(self, reduced: torch.Tensor) -> torch.Tensor:
        batch, frames, places, width = reduced.shape
        x = self.changes(reduced) + time_embedding(frames, width).to(reduced)[:, None]
        x = x.transpose(1, 2).flatten(0, 1)  # [B * N, T, width]
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = (x + self.mlp(x)).unflatten(0, (batch, places)).transpose(1, 2)
        return torch.stack([pool(each, SLOTS) for each in x])


class Conv3d(TemporalModel):
    """Convolutions over time, rows and columns: where a thing is meets where it was.

    Three layers of 3 x 3 x 3, of which the second and third halve rows and columns; then the mean
    over places and over each of `SLOTS` stretches of time. (C3D, Tran et al., 2015.)
    """

    def __init__(self, dim: int, width: int, out: int = 0) -> None:
        super().__init__(dim, width, out)
        self.layers = nn.Sequential(
            nn.Conv3d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv3d(width, width, 3, stride=(1, 2, 2), padding=1),
            nn.GELU(),
            nn.Conv3d(width, width, 3, stride=(1, 2, 2), padding=1),
            nn.GELU(),
        )

    def tokens(self, reduced: torch.Tensor) -> torch.Tensor:
        side = square(reduced.shape[2])
        x = self.changes(reduced).unflatten(2, (side, side)).permute(0, 4, 1, 2, 3)
        return adaptive_avg_pool3d(self.layers(x), (SLOTS, 1, 1)).flatten(2).transpose(1, 2)


class FrameTokens(TemporalModel):
    """Nothing is averaged over time: each frame's grid, coarse, with its time and its places.

    ``T * COARSE ** 2`` tokens. The one variant that compares nothing itself: that is left to
    whoever reads the tokens.
    """

    def __init__(self, dim: int, width: int, out: int = 0) -> None:
        super().__init__(dim, width, out)
        self.place = nn.Parameter(torch.randn(COARSE**2, width) * 0.5)

    def tokens(self, reduced: torch.Tensor) -> torch.Tensor:
        batch, frames, places, width = reduced.shape
        side = square(places)
        maps = self.changes(reduced).flatten(0, 1).transpose(1, 2).unflatten(2, (side, side))
        x = adaptive_avg_pool2d(maps, COARSE).flatten(2).transpose(1, 2)
        x = x.unflatten(0, (batch, frames)) + self.place
        return (x + time_embedding(frames, width).to(x)[:, None]).flatten(1, 2)


VARIANTS: dict[str, type[TemporalModel]] = {
    "average": Average,
    "attention": Attention,
    "conv3d": Conv3d,
    "frames": FrameTokens,
}


# --------------------------------------------------------------------------------------- the file
@dataclass
class TemporalFile:
    """What a file of a temporal model holds."""

    model: TemporalModel
    rest: dict[str, torch.Tensor]  # what is not the model: pocket's LoRA for it


def read(path: str | Path, dim: int) -> TemporalFile:
    """Read a temporal model whose tokens have the size of features, and what lies beside it.

    Keys ``temporal.*``, and in the metadata ``variant``, a key of `VARIANTS`. Safetensors alone.

    Parameters
    ----------
    dim : int
        The size of the encoder's features, which it has to fit.

    Raises
    ------
    ValueError
        When the file cannot be read, holds no temporal model, or one that does not fit.
    """
    try:
        with safe_open(path, "pt") as file:
            variant = (file.metadata() or {}).get("variant", "")
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    own = {k.removeprefix(KEY): v.float() for k, v in weights.items() if k.startswith(KEY)}
    if variant not in VARIANTS or "reduce.weight" not in own:
        raise ValueError(f"{path}: no temporal model; its metadata name the variant {variant!r}")
    width, read_dim = own["reduce.weight"].shape
    model = VARIANTS[variant](dim, width, dim)
    try:
        model.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: this {variant} model reads features of {read_dim} numbers, and the encoder "
            f"gives {dim}: {error}"
        ) from error
    return TemporalFile(model, {k: v for k, v in weights.items() if not k.startswith(KEY)})


def tensors(model: TemporalModel) -> dict[str, torch.Tensor]:
    """A temporal model's weights, as `read` reads them."""
    return {f"{KEY}{name}": value for name, value in model.state_dict().items()}
