"""The search for a row's root, by a bracket that every pass over the row narrows from both ends.

Units and sums are those of `newton`; the unknown is h. In ``u = h^(2p)`` the sum over a row is
concave, piecewise linear and rising. So its tangents meet 1 below the root, and the chord between
two points around the root meets it above. A pass takes the sums at two points a <= b, from which
follow a bracket of about the square of the last one's width, and in it the next two points. Where
the chord is of little use b halves the bracket in the logarithm, which bounds the passes: images
need two or three from a sample's root, the hardest rows of the tests nine.

A state is the bracket's ends with 1 - sum and the moving part of the sum there (-1 below, as long
as nothing is known of the lower end), a and b, and ``share = eta / eps``, -1 until it is known.
All are scalars of a row, or vectors of scalars of many rows; in the dtype that computes, but for
``share``, which is float64.
"""

# Triton infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import math

import triton
import triton.language as tl

from .. import newton
from .elements import constant, last_digit, smallest_normal

INFINITE = tl.constexpr(math.inf)
SMALLEST_START = tl.constexpr(newton.SMALLEST_START)
# Halving takes 31 passes at most in float32, 63 in float64.
MOST_PASSES = tl.constexpr(100)


@triton.jit
def begin(
    top, corner, reach, faults, eps, n, P: tl.constexpr, RTOL: tl.constexpr, TYPE: tl.constexpr
):  # fmt: skip
    """Return the bracket's ends and ``share`` from what the survey of a row found."""
    nothing = (faults != 0) | (eps < smallest_normal(TYPE)) | (corner == 0)
    some = tl.where(top > 0, top, 1.0)
    far = tl.sqrt(corner)
    furthest = corner.to(tl.float64)
    if P == INFINITE:
        low = far
        share = tl.where(top > 0, 1.0 / some.to(tl.float64), furthest)
    else:
        # the largest term alone is at most as large as the sum, and n times it at least
        count = (tl.full((), 0, tl.int64) + n).to(TYPE)  # Triton makes an n of 1 a constant
        spread = tl.exp2(tl.log2(count) * constant(-0.5 / P, TYPE))
        # a little lower: a start that rounding takes beyond the root costs digits
        spread = tl.maximum(0.999 * spread, constant(SMALLEST_START, TYPE))
        low = tl.maximum(spread * tl.sqrt(1.0 / some), smallest_normal(TYPE).to(TYPE))
        low = tl.minimum(low, far)
        share = tl.where(reach <= 1.0 + constant(RTOL, tl.float64), furthest, -1.0)
    return low, far, tl.where(nothing, 0.0, share)


@triton.jit
def unknown(low):
    """Return what is known of the ends at first: gap and moving below, moving above."""
    return low * 0.0 - 1.0, low * 0.0, low * 0.0


@triton.jit
def narrow(
    low, low_gap, low_moving, high, high_gap, high_moving, a, b, share, gap_a, moving_a, gap_b,
    moving_b, P: tl.constexpr, RTOL: tl.constexpr, TYPE: tl.constexpr
):  # fmt: skip
    """Return the state after a pass that found 1 - sum and the moving part at a and b."""
    low, low_gap, low_moving = _end(
        (gap_a >= 0) & (a >= low), a, gap_a, moving_a, low, low_gap, low_moving
    )
    low, low_gap, low_moving = _end(
        (gap_b >= 0) & (b >= low), b, gap_b, moving_b, low, low_gap, low_moving
    )
    high, high_gap, high_moving = _end(
        (gap_b < 0) & (b <= high), b, gap_b, moving_b, high, high_gap, high_moving
    )
    high, high_gap, high_moving = _end(
        (gap_a < 0) & (a <= high), a, gap_a, moving_a, high, high_gap, high_moving
    )
    least = tl.maximum(low, tl.minimum(_tangent(low, low_gap, low_moving, P, TYPE), high))
    least = tl.maximum(least, tl.minimum(_tangent(high, high_gap, high_moving, P, TYPE), high))
    chord = _chord(low, low_gap, high, high_gap, P, TYPE)
    most = tl.maximum(least, tl.minimum(chord, high))

    rtol = constant(RTOL, TYPE)
    hit_a, hit_b = tl.abs(gap_a) <= rtol, tl.abs(gap_b) <= rtol
    # what the norm may miss is RTOL / P, h is the root of eta
    settled = most <= least * constant(1.0 + 0.5 * RTOL / P, TYPE)
    # nothing between the ends of the bracket
    settled = settled | (high <= low * (1.0 + 2.0 * last_digit(TYPE)).to(TYPE))
    h = tl.where(hit_a, a, b).to(tl.float64)
    found = tl.where(hit_a | hit_b, h * h, least.to(tl.float64) * most.to(tl.float64))
    share = tl.where((share < 0) & (hit_a | hit_b | settled), found, share)

    width = most / least
    b = tl.where(width * width < high / low, most, tl.sqrt(least) * tl.sqrt(most))
    return low, low_gap, low_moving, high, high_gap, high_moving, least, b, share


@triton.jit
def root(c, P: tl.constexpr, TYPE: tl.constexpr):
    """Return c^(1 / (2 P)), by which h grows where u grows by c > 0."""
    return tl.exp2(tl.log2(c) * constant(0.5 / P, TYPE))


@triton.jit
def _end(here, h, gap, moving, end, end_gap, end_moving):
    return tl.where(here, h, end), tl.where(here, gap, end_gap), tl.where(here, moving, end_moving)


@triton.jit
def _tangent(h, gap, moving, P: tl.constexpr, TYPE: tl.constexpr):
    """Return where the tangent at h meets 1; 0 where it does not, or nothing is known of h."""
    growth = 1.0 + gap / tl.where(moving > 0, moving, 1.0)
    meets = (moving > 0) & (growth > 0)
    return tl.where(meets, h * root(tl.where(meets, growth, 1.0), P, TYPE), 0.0)


@triton.jit
def _chord(low, low_gap, high, high_gap, P: tl.constexpr, TYPE: tl.constexpr):
    """Return where the chord between the ends meets 1; the upper end where that is too far."""
    binades = tl.log2(high / low) * constant(2.0 * P, TYPE)
    usable = (low_gap >= 0) & (binades < 100.0)
    part = tl.where(usable, low_gap, 0.0) / tl.where(usable, low_gap - high_gap, 1.0)
    rise = tl.exp2(tl.where(usable, binades, 0.0)) - 1.0
    return tl.where(usable, low * root(1.0 + part * rise, P, TYPE), high)
