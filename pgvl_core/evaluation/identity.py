"""Identity over time: which found track a true thing is, frame by frame, and when that changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .boxes import box_iou


def one_to_one(fits: np.ndarray) -> dict[int, int]:
    """Rows and columns of ``[K, N]`` that fit best, pair by pair; where they fit by 0, none."""
    fits, pairs = fits.copy(), {}
    while fits.size and fits.max() > 0:
        i, n = np.unravel_index(fits.argmax(), fits.shape)
        pairs[int(i)] = int(n)
        fits[i], fits[:, n] = 0, 0
    return pairs


def identities(truth: ArrayLike, found: ArrayLike, least: float = 0.5) -> np.ndarray:
    """Which found track each true thing is, in each frame.

    As CLEAR MOT (Bernardin and Stiefelhagen, 2008) pairs them: who was a pair the last time, and
    still meets, stays one, whatever else may fit better; of the others the best pair comes first.

    Parameters
    ----------
    truth : array ``[K, T, 4]``
        xyxy; NaN where a thing is not seen.
    found : array ``[M, T, 4]``
        Likewise.
    least : float
        IoU from which two boxes meet.

    Returns
    -------
    int array ``[K, T]``
        The number of the found track; -1 where there is none.
    """
    ious = box_iou(np.asarray(truth, float)[:, None], np.asarray(found, float)[None])  # [K, M, T]
    things, _, frames = ious.shape
    result = np.full((things, frames), -1)
    last = np.full(things, -1)
    for t in range(frames):
        fits = np.where(ious[..., t] >= least, ious[..., t], 0.0)
        stay = [k for k in range(things) if last[k] >= 0 and fits[k, last[k]] > 0]
        for k in stay:  # no IoU is above 1, so that these come before all others
            fits[k, last[k]] += 1
        for k, m in one_to_one(fits).items():
            result[k, t] = last[k] = m
    return result


def switches(identity: np.ndarray) -> np.ndarray:
    """How often each thing becomes another found track: MOTChallenge's IDSW, thing by thing.

    A thing that is lost and found again as the same track has not changed.

    Parameters
    ----------
    identity : int array ``[K, T]``
        From `identities`.

    Returns
    -------
    int array ``[K]``
    """
    return np.array([np.count_nonzero(np.diff(row[row >= 0])) for row in identity], int)
