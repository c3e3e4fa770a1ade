"""Tags: which words of a list describe a stretch of video, with no training on those words."""

from collections.abc import Callable

import numpy as np
import torch

from ..assets import DATA
from ..encoder import FrameEncoder

# Of frames of one shot, uint8 [T, H, W, 3], so many tags and their shares, best first.
Tagger = Callable[[np.ndarray, int], list[tuple[str, float]]]

ALIKE = 0.6  # cosine of two names' directions from which a word is no rival of a name


def tag_list() -> list[str]:
    """The words that videos are tagged with: everyday things, people, animals and places."""
    lines = (DATA / "tags.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def shares(
    encoder: FrameEncoder, seen: torch.Tensor, names: list[str], rivals: list[str]
) -> torch.Tensor:
    """How probable each name is, held against the words of a list, each on its own.

    A name's share of the softmax over its own cosine and those of the rivals; words that are nearly
    the name are none.

    Parameters
    ----------
    encoder : FrameEncoder
    seen : Tensor ``[N, E]``
        Unit vectors of what is named, from `FrameEncoder.project`.
    names, rivals : list of str

    Returns
    -------
    Tensor ``[N, K]``, from 0 to 1
    """
    words, others = encoder.encode_text(names), encoder.encode_text(rivals)
    mine = (encoder.temperature * seen @ words.T).exp()
    beside = (encoder.temperature * seen @ others.T).exp()
    return mine / (mine + beside @ (others @ words.T < ALIKE).float())


def tag(
    encoder: FrameEncoder, features: torch.Tensor, names: list[str], top: int = 5
) -> list[tuple[str, float]]:
    """The `top` names that take the largest share of the picture.

    Every patch of every frame distributes one vote over all names (a softmax over their cosines,
    sharpened by the encoder's temperature, as CLIP classifies); the votes are averaged.

    Parameters
    ----------
    encoder : FrameEncoder
        The encoder that made `features`.
    features : Tensor ``[T, N, D]``
        Patch features of the frames of one shot.
    names : list of str
        ``K`` candidate names, for example `tag_list()`.
    top : int
        How many to return.

    Returns
    -------
    list of (name, share)
        Best first; shares of all ``K`` names would sum to 1.
    """
    votes = (encoder.similarity(features, names) * encoder.temperature).softmax(dim=1)
    shares = votes.mean(dim=(0, 2))
    best = shares.topk(min(top, len(names)))
    return [(names[i], share) for share, i in zip(best.values.tolist(), best.indices, strict=True)]
