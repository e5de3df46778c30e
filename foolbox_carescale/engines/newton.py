"""What the engines compiled by XLA share: units, how rows are cut up, when to stop, Newton's step.

Triton's engine has the same units and numbers. ``ops`` is the module whose functions compute:
``jax.numpy``, or ``tensorflow``, where those that occur here have the same names and meanings.

Everything is measured in units of eps: with ``w_i = (eta / eps) |v_i|`` and
``r_i = min(room_i / eps, most)``, most > 1, the root has ``sum min(w, r)^p = 1`` whatever the
units of x and delta. The unknown is ``h = sqrt(eta / eps)``, multiplied in twice, so that float32
holds it for every finite delta. A pass returns two sums,

    total  = sum_i min(w_i, r_i)^p
    moving = sum_{w_i < r_i} w_i^p        (u d total / d u for u = eta^p)

and Newton's step is ``u <- u (1 + (1 - total) / moving)``. ``total`` is concave in u, so the
iterates rise to the root from any start below it. What decides when a row is done is ``total``
itself, not a difference of large sums: so no cancellation enters where eps is near its reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import pow

# Relative error of the norm at which a row is done: what the rounding of its sums leaves.
RTOL = {"float32": 1.5e-7, "float64": 2e-14}
# Newton takes 4 to 6 passes on images, at most 35 on hard rows.
PASSES = 40
# Halving the 280 binades of float32 down to its last bit takes 32 passes, the 2100 of float64 63;
# Newton takes two of three.
BRACKETED_PASSES = 200
# Rows are added up in a loop over segments, a segment as so many parts element by element: XLA's
# CPU backend vectorises that and distributes it over threads, but not a reduction. (Without the
# loop it merges further steps of the sum into the first one and no longer vectorises.) Measured on
# two cores, 32 rows of 150528: 2 ms for both sums, 22 ms by two reductions over the last axis.
PARTS = 8
# The results of a segment fit the cache.
LANES = 1024
# In a longer sum of float32 the rounding begins to show.
MOST_SEGMENTS = 64
# Parts begin at multiples of a cache line, else they are read three times slower.
ALIGNED = 16
# 1 / eps is not a normal number above, in float32
LARGEST_EPS = 2.0**125
# n^(1/p) overflows for small p; a start that is too low only costs passes
SMALLEST_START = 1e-30


def lanes_of(n: int) -> int:
    """Return the elements of a part, for rows of this length; 0 where there are too few to cut."""
    return min(max(LANES, n // (PARTS * MOST_SEGMENTS)), n // PARTS) // ALIGNED * ALIGNED


def spread(n: int, p: float) -> float:
    """Return the least share of the root in that of the largest term, were all as large."""
    return max(math.pow(n, -0.5 / p), SMALLEST_START)


def sum_rtol(dtype: str, p: float, rtol: Mapping[str, float] = RTOL) -> float:
    """Return how far total may miss 1 where its p-th root, the norm, may miss it by ``rtol``.

    For small p no less than what a number of the dtype can tell from 1; and never so much that a
    total without any moving term would do.
    """
    return min(max(p * rtol[dtype], float(np.finfo(dtype).eps)), 0.5)


def most_room(dtype: str, p: float) -> float:
    """Return the r at which room is cut off, so that powers of it, at most 2, do not overflow.

    More than 1: total would stand still at 1 from the root to the far corner, and the two could
    not be told apart.
    """
    return math.pow(2.0, 1.0 / (p + 1.0)) + 4.0 * float(np.finfo(dtype).eps)


def sizes(
    ops: Any, x: Any, v: Any, low: Any, high: Any, inverse: Any, most: float
) -> tuple[Any, Any]:
    """Return |v| and r = min(room / eps, most), ``inverse`` being 1 / eps."""
    room = ops.where(v > 0, high - x, x - low)
    return ops.abs(v), ops.minimum(ops.maximum(room, 0.0) * inverse, most)


def positive_or_one(ops: Any, a: Any) -> Any:
    """Return a divisor: a where it is positive, and 1 where the quotient is not used."""
    return ops.where(a > 0, a, ops.ones_like(a))


def breakpoints(ops: Any, v: Any, r: Any, largest: float) -> Any:
    """Return ``r / |v|`` where v is not 0, else 0; at most the largest number."""
    points = ops.where(v > 0, r / positive_or_one(ops, v), ops.zeros_like(v))
    return ops.minimum(points, largest)


def step(
    ops: Any,
    state: tuple[Any, ...],
    sums: Callable[[Any], tuple[Any, Any]],
    beyond: Callable[[Any, Any], Any],
    p: float,
    digits: float,
    rtol: float,
) -> tuple[Any, ...]:
    """Take one step of the search for the root from below; where there is none, for the end.

    A row where Newton's step leads nowhere (all is at its bounds, or the terms of the rest
    underflow) or does not arrive goes on from the far corner, from where on nothing moves. That is
    the answer where eps is out of reach; else the steps from there stay inside a bracket and
    halve it, in the logarithm, where Newton's would leave it.

    Args:
        ops: See above.
        state: Steps so far, h, the bracket's ends, and which rows are done; all but the first
            of shape (N, 1). At first 0, the start, the start, inf, and rows that cannot move.
        sums: From h to total and moving.
        beyond: From which rows are stalled, and the upper ends, to upper ends that are the far
            corner for those.
        p: Order of the norm.
        digits: Relative width of a bracket that holds nothing between its ends.
        rtol: What total may miss 1 by.

    Returns:
        The next state.
    """
    count, h, low, high, done = state
    total, moving = sums(h)
    residual = 1.0 - total
    low = ops.where(residual > 0, ops.maximum(low, h), low)
    high = ops.where(residual < 0, ops.minimum(high, h), high)
    share = 1.0 + residual / positive_or_one(ops, moving)
    following = h * ops.maximum(share, 0.0) ** (0.5 / p)
    inside = (moving > 0) & (low <= following) & (following <= high)
    bounded = high < math.inf
    # Newton may creep where almost all is at its bounds
    newton = inside & ~(bounded & (count % 3 == 2))
    following = ops.where(newton, following, ops.sqrt(low) * ops.sqrt(high))
    # nothing between the ends of the bracket, or a step below the last digit
    settled = (high <= low * (1.0 + digits)) | (newton & (following == h))
    lost = residual != residual  # NaN, as x or delta are; eta says so
    done_now = done | (ops.abs(residual) <= rtol) | settled | lost
    h = ops.where(lost & ~done, residual, h)
    stalled = ~(done_now | bounded | (inside & (count < PASSES)))
    high = beyond(stalled, high)
    h = ops.where(done_now, h, ops.where(stalled, high, following))
    return count + 1, h, low, high, done_now


def power(
    ops: Any,
    c: Any,
    p: float,
    split: Callable[[Any], tuple[Any, Any]],
    two_to: Callable[[Any], Any],
) -> Any:
    """Return ``c**p`` for 0 <= c <= 2.

    Args:
        ops: See above.
        c: float32 or float64.
        p: Any order but inf.
        split: From c > 0 in float32 to m and e with ``c = m 2^e``, sqrt(1/2) <= m < sqrt(2).
        two_to: From whole numbers to powers of two, float32.
    """
    if p == 1:
        return c
    if p == 2:
        return c * c
    if p == 3:
        return c * c * c
    if p == 1.5:
        return c * ops.sqrt(c)
    if p == 0.5:
        return ops.sqrt(c)
    if c.dtype == "float64":
        return ops.where(c > 0, positive_or_one(ops, c) ** p, ops.zeros_like(c))
    # `**` is not vectorised by XLA's CPU backend: 20 times the time of the whole pass
    high, rest = pow.split_order(p)
    m, e = split(c)
    f = m - 1.0
    log = f + f * f * (f * _polynomial(f, pow.LOG) - 0.5)
    exact, small = high * e, p * pow.LOG2_E * log + rest * e
    y = exact + small
    # not below: what is no number of the dtype is slow to multiply by
    integer = ops.floor(ops.maximum(y, pow.LEAST_EXPONENT) + 0.5)
    fraction = (exact - integer) + small
    result = _polynomial(fraction, pow.EXP2) * two_to(integer)
    normal = (c >= pow.SMALLEST_NORMAL) & (y >= pow.LEAST_EXPONENT)
    return ops.where(normal, result, ops.zeros_like(result))


def _polynomial(a: Any, coefficients: tuple[float, ...]) -> Any:
    result: Any = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        result = result * a + coefficient
    return result
