"""Confidence intervals of shares, and of differences between them."""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt


@functools.cache
def wilson(count: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share, count of total; (0, 1) where total is 0."""
    if total == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest  # long to import, and no worker needs it

    interval = binomtest(count, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def difference(
    one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], *, paired: bool
) -> tuple[float, float, float]:
    """Return the difference of two shares, one - other, with its 95% interval.

    Newcombe's hybrid of two Wilson intervals (l, u) around the shares p:
    lower = d - sqrt((p1 - l1)^2 - 2 phi (p1 - l1)(u2 - p2) + (u2 - p2)^2), upper alike, with phi
    the correlation of the pairs (method 10 of the paired paper, phi corrected for continuity),
    and phi = 0 where the samples are not the same.

    Args:
        one: Outcomes.
        other: Outcomes; of the same samples in the same order if ``paired``.
        paired: Whether they are.

    Returns:
        Difference, lower and upper limit.

    Source: Newcombe 1998, Statistics in Medicine 17, 873-890 and 2635-2650.
    """
    p1, p2 = float(np.mean(one)), float(np.mean(other))
    (l1, u1), (l2, u2) = wilson(int(one.sum()), len(one)), wilson(int(other.sum()), len(other))
    phi = _correlation(one, other) if paired else 0.0
    below = math.sqrt(max((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2, 0.0))
    above = math.sqrt(max((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2, 0.0))
    return p1 - p2, p1 - p2 - below, p1 - p2 + above


def quantile(values: npt.NDArray[np.float64], share: float) -> float:
    """Return the least of the values that this share of them, or more, does not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def chance_of_more(more: int, fewer: int) -> float:
    """Return how often a fair coin gives at least ``more`` heads in ``more + fewer`` throws.

    The exact one-sided sign test (McNemar's) of pairs that disagree; 1 where none does.
    """
    if more == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(more, more + fewer, alternative="greater").pvalue)


# scipy has no interval of a paired difference of shares (1.17), nor Newcombe's of an unpaired one.
def _correlation(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    n = len(one)
    both, neither = int((one & other).sum()), int((~one & ~other).sum())
    first, second = int((one & ~other).sum()), int((~one & other).sum())
    product = math.prod((both + first, second + neither, both + second, first + neither))
    if product == 0:
        return 0.0
    concord = both * neither - first * second
    corrected = max(concord - n / 2, 0.0) if concord > 0 else float(concord)
    return corrected / math.sqrt(product)
