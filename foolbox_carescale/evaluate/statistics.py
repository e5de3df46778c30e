"""Confidence intervals of shares, and of differences between them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import betainc

Z = 1.959963984540054
"""Two-sided 95%."""


def wilson(count: float, total: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share: count successes of total.

    (k + z^2/2 +- z sqrt(k (n - k) / n + z^2/4)) / (n + z^2), which stays inside [0, 1] and has a
    width at 0 and 1 too. (0, 1) where total is 0.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22.
    """
    if total == 0:
        return 0.0, 1.0
    centre = count + Z * Z / 2
    half = Z * math.sqrt(count * (total - count) / total + Z * Z / 4)
    scale = total + Z * Z
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


def difference(
    one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], *, paired: bool
) -> tuple[float, float, float]:
    """The difference of two shares, one - other, with its 95% interval.

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
    (l1, u1), (l2, u2) = wilson(one.sum(), len(one)), wilson(other.sum(), len(other))
    phi = _correlation(one, other) if paired else 0.0
    below = math.sqrt(max((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2, 0.0))
    above = math.sqrt(max((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2, 0.0))
    return p1 - p2, p1 - p2 - below, p1 - p2 + above


def chance_of_more(more: int, fewer: int) -> float:
    """How often a fair coin gives at least ``more`` heads in ``more + fewer`` throws.

    The exact one-sided sign test (McNemar's) of pairs that disagree; 1 where none does.
    """
    return float(betainc(more, fewer + 1, 0.5)) if more else 1.0


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
