"""How far a measured share can be trusted."""

from math import sqrt


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
