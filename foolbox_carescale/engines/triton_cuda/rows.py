"""What the kernels of the moves share: a row's numbers and faults, its root, where that leads.

A move is one launch, with one program for each row. Few very long rows leave most of the GPU idle.
"""

# Triton infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from ...core import checks
from .. import newton
from .elements import (
    constant,
    inverse_of,
    largest_number,
    last_digit,
    load_block,
    number_of,
    power,
    sizes_of,
    smallest_normal,
)

NOT_FINITE, OUT_OF_BOUNDS = tl.constexpr(checks.NOT_FINITE), tl.constexpr(checks.OUT_OF_BOUNDS)

# So many blocks are added up in the dtype of x before float64 takes over: in a longer sum of
# float32 the rounding begins to show.
RUN = tl.constexpr(32)
# From `PASSES` on every third step halves the bracket in the logarithm.
PASSES = tl.constexpr(newton.PASSES)
MOST_PASSES = tl.constexpr(newton.PASSES + newton.BRACKETED_PASSES)
SMALLEST_START = tl.constexpr(newton.SMALLEST_START)


@triton.jit
def length_of(eps, row, eps_step, BITS: tl.constexpr):
    """Return eps of a row, from a number's bits or from a tensor."""
    if BITS:  # noqa: SIM108
        wanted = number_of(eps)
    else:
        wanted = tl.load(eps + row * eps_step).to(tl.float64)
    return wanted


@triton.jit
def faults_in(point, size, low, high, TOLERANCE: tl.constexpr, TYPE: tl.constexpr):
    """Return the flags of each element, ``size`` being the |v| that has to be finite."""
    tolerance = constant(TOLERANCE, TYPE)
    # written so that NaN is not fine
    fine = (point == point) & (size <= largest_number(TYPE).to(TYPE))
    outside = (point < low - tolerance) | (point > high + tolerance)
    return tl.where(fine, 0, NOT_FINITE) | tl.where(outside, OUT_OF_BOUNDS, 0)


@triton.jit
def any_fault(faults):
    """Return the flags that any element has."""
    return tl.max(faults & NOT_FINITE, 0) | tl.max(faults & OUT_OF_BOUNDS, 0)


@triton.jit
def room_along(point, v, low, high):
    """Return the distance to the bound that v points at, 0 where v is 0; never negative."""
    room = tl.where(v > 0, high - point, point - low)
    return tl.where(v != 0, tl.maximum(room, 0.0), 0.0)


@triton.jit
def moved_by(point, v, eta, low, high, TYPE: tl.constexpr):
    """Return clip(point + eta v); what eta takes to its bound lies on it, to the last digit."""
    step = tl.abs(v) * eta.to(TYPE)
    rest = 1.0 - (4.0 * last_digit(TYPE)).to(TYPE)
    arrived = (step >= room_along(point, v, low, high) * rest) & (v != 0)
    moved = tl.minimum(tl.maximum(point + eta.to(TYPE) * v, low), high)
    moved = tl.where(arrived, tl.where(v > 0, high, low), moved)
    # a row with faults has eta 0, and v may be infinite there
    return tl.where(eta > 0, moved, point)


# The root: units and Newton's step are those of `newton`, scalars are float64.


@triton.jit
def root_of(
    x, v, lower, upper, wanted, n, P: tl.constexpr, HIGH: tl.constexpr, RTOL: tl.constexpr,
    LARGEST: tl.constexpr, LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr,
    BLOCK: tl.constexpr
):  # fmt: skip
    """Return eta of a row without faults; p is finite."""
    inverse = inverse_of(wanted, TYPE)
    top, corner, reach = _survey(
        x, v, lower, upper, inverse, n, P, HIGH, LOWER, UPPER, TYPE, BLOCK
    )  # fmt: skip
    # the largest term alone is at most as large as the sum, and n times it at least
    count = (tl.full((), 0, tl.int64) + n).to(tl.float64)  # Triton makes an n of 1 a constant
    spread = tl.exp2(tl.log2(count) * constant(-0.5 / P, tl.float64))
    spread = tl.maximum(spread, constant(SMALLEST_START, tl.float64))
    low, high = spread * tl.sqrt(1.0 / tl.where(top > 0, top, 1.0)), tl.sqrt(corner)
    nothing = (wanted < smallest_normal(TYPE)) | (corner == 0)
    beyond = reach <= 1.0 + constant(RTOL, tl.float64)
    h = tl.where(nothing, 0.0, tl.where(beyond, high, low.to(TYPE).to(tl.float64)))
    done = (nothing | beyond).to(tl.int32)
    passes = 0
    while (done == 0) & (passes < MOST_PASSES):
        scale = h.to(TYPE)
        total, moving = sums(
            x, v, lower, upper, inverse, scale, scale, n, P, HIGH, LOWER, UPPER, TYPE, BLOCK
        )
        residual = 1.0 - total
        low = tl.where(residual > 0, tl.maximum(low, h), low)
        high = tl.where(residual < 0, tl.minimum(high, h), high)
        share = 1.0 + residual / tl.where(moving > 0, moving, 1.0)
        positive = (moving > 0) & (share > 0)
        growth = tl.exp2(tl.log2(tl.where(positive, share, 1.0)) * constant(0.5 / P, tl.float64))
        following = (h * growth).to(TYPE).to(tl.float64)
        newton = positive & (low <= following) & (following <= high)
        newton = newton & ((passes < PASSES) | (passes % 3 != 2))
        halved = (tl.sqrt(low) * tl.sqrt(high)).to(TYPE).to(tl.float64)
        following = tl.where(newton, following, halved)
        # nothing between the ends of the bracket, or a step below the last digit
        settled = (high <= low * (1.0 + 2.0 * last_digit(TYPE))) | (following == h)
        settled = settled | (tl.abs(residual) <= constant(RTOL, tl.float64))
        h = tl.where(settled, h, following)
        done = settled.to(tl.int32)
        passes += 1
    # h h eps may overflow: cut before multiplying
    most = constant(LARGEST, tl.float64)
    return tl.minimum(h * tl.minimum(h * wanted, most / tl.maximum(h, 1.0)), most)


@triton.jit
def _survey(
    x, v, lower, upper, inverse, n, P: tl.constexpr, HIGH: tl.constexpr, LOWER: tl.constexpr,
    UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Return the largest |v| that can move, the largest breakpoint r / |v|, and sum r^p."""
    top = tl.zeros((BLOCK,), TYPE)
    corner = tl.zeros((BLOCK,), TYPE)
    reach = tl.zeros((), tl.float64)
    for start in range(0, n, BLOCK * RUN):
        part = tl.zeros((BLOCK,), TYPE)
        for begin in range(start, tl.minimum(start + BLOCK * RUN, n), BLOCK):
            point, direction, low, high = load_block(
                x, v, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK
            )
            size, room = sizes_of(point, direction, low, high, inverse, P, TYPE)
            movable = room > 0
            top = tl.maximum(top, tl.where(movable, size, 0.0))
            corner = tl.maximum(corner, tl.where(movable, room / tl.where(movable, size, 1.0), 0.0))
            part += power(room, P, HIGH, TYPE)
        reach += tl.sum(part, 0).to(tl.float64)
    furthest = tl.minimum(tl.max(corner, 0), largest_number(TYPE).to(TYPE))
    return tl.max(top, 0).to(tl.float64), furthest.to(tl.float64), reach


@triton.jit
def sums(
    x, v, lower, upper, inverse, scale, again, n, P: tl.constexpr, HIGH: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Return the sums of min(w, r)^p, and of it where w < r, for w = |v| scale again."""
    total = tl.zeros((), tl.float64)
    moving = tl.zeros((), tl.float64)
    for start in range(0, n, BLOCK * RUN):
        part = tl.zeros((BLOCK,), TYPE)
        free = tl.zeros((BLOCK,), TYPE)
        for begin in range(start, tl.minimum(start + BLOCK * RUN, n), BLOCK):
            point, direction, low, high = load_block(
                x, v, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK
            )
            size, room = sizes_of(point, direction, low, high, inverse, P, TYPE)
            w = size * scale * again
            q = power(tl.minimum(w, room), P, HIGH, TYPE)
            part += q
            free += tl.where(w < room, q, 0.0)
        total += tl.sum(part, 0).to(tl.float64)
        moving += tl.sum(free, 0).to(tl.float64)
    return total, moving
