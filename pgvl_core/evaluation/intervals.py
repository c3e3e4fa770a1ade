"""How far a measured share, a mean, or a difference between two conditions can be trusted."""

from collections.abc import Sequence
from math import comb, nan, sqrt

import numpy as np


def wilson(right: int, asked: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of the share `right / asked`: at z = 1.96, a 95% interval.

    Unlike the usual plus-minus it stays within 0 and 1, and is right for few trials (Wilson, 1927).

    Raises
    ------
    ValueError
        When nothing was asked.
    """
    if asked < 1:
        raise ValueError("a share of no trials has no interval")
    share, spread = right / asked, z * z / asked
    middle = (share + spread / 2) / (1 + spread)
    half = z * sqrt(share * (1 - share) / asked + spread / (4 * asked)) / (1 + spread)
    # Rounding must not push an end past 0, 1 or the share itself.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def mean_interval(
    values: Sequence[float], clusters: Sequence[str], resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """A 95% interval of a mean whose values come in clusters, such as the questions of one video.

    Ten questions about one video are nearly one question: a video that goes wrong takes all ten
    along. So whole videos are drawn, with replacement, and the mean is taken of what they hold;
    the interval is where the middle 95% of such means lie (Efron's percentile bootstrap).

    Parameters
    ----------
    values : n numbers
    clusters : n names, of the cluster that each value belongs to
    resamples, seed : int
        How many means are drawn, and by which seed.

    Returns
    -------
    (low, high)
        NaN for a single cluster, which says nothing of any other.

    Raises
    ------
    ValueError
        When there are no values, or not a cluster for each.
    """
    if not len(values) or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values in {len(clusters)} clusters have no interval")
    names, where = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        return nan, nan
    sums, counts = np.bincount(where, values), np.bincount(where)
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided p of McNemar's test (1947): two conditions, the same questions.

    Only questions that are right in one and wrong in the other count; if the conditions were worth
    the same, each of these would fall to either side like a fair coin. The questions are taken as
    independent: where several are about one video, p comes out too small.

    Raises
    ------
    ValueError
        When the conditions have not the same questions.
    """
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    tail = sum(comb(gained + lost, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2 ** (gained + lost))


def sign_flip(
    differences: Sequence[float], clusters: Sequence[str], flips: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p that paired differences are of mean 0, by giving them signs at random.

    Were there no difference, each might as well have had the other sign (Fisher, 1935). What
    belongs to one cluster, such as the questions of one video, gets one sign, as in
    `mean_interval`. The given signs count as one of the patterns, so that p is never 0.

    Parameters
    ----------
    differences : n numbers
    clusters : n names, of the cluster that each difference belongs to
    flips, seed : int
        How many patterns are drawn, and by which seed.

    Raises
    ------
    ValueError
        When there are no differences, or not a cluster for each.
    """
    if not len(differences) or len(differences) != len(clusters):
        raise ValueError(f"{len(differences)} differences in {len(clusters)} clusters have no p")
    sums = np.bincount(np.unique(clusters, return_inverse=True)[1], differences)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(flips, len(sums)))
    as_far = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-12
    return (1 + int(as_far.sum())) / (1 + flips)
