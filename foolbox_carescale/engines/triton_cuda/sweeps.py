"""Passes over the elements of a row: its survey, its sums, its sample, and the points it becomes.

The first pass over a row also surveys it: the largest ``|v|`` that can move, the largest breakpoint
``r / |v|``, how far the row reaches, and what is wrong with it. Long rows guess their root from a
sample before. Sums of a few thousand elements run in the dtype of x, sums of those in float64.

A program holds ROWS x BLOCK elements at once: blocks of one row, or of many short rows a column
(BLOCK = 1), where each lane adds up a row of its own and nothing is added across lanes.
"""

# Triton infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from ...core import checks
from .elements import (
    BAD_EPS,
    constant,
    largest_number,
    load_at,
    moved_by,
    power,
    sizes_of,
)
from .search import INFINITE, begin, narrow, root, unknown

NOT_FINITE, OUT_OF_BOUNDS = tl.constexpr(checks.NOT_FINITE), tl.constexpr(checks.OUT_OF_BOUNDS)

# So many blocks are added up in the dtype of x before float64 takes over: in a longer sum of
# float32 the rounding begins to show.
RUN = tl.constexpr(32)
# The sample of a row: chunks of a cache line, evenly spread.
SAMPLE, CHUNK = tl.constexpr(1024), tl.constexpr(32)
# The sample's own root need not be found closer: sampling errs by more.
ROUGH, ROUGH_PASSES = tl.constexpr(0.01), tl.constexpr(12)


@triton.jit
def _places(left, n, valid, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Return where the elements of a block are in their rows, and which of them exist."""
    if ROWS == 1:
        at = left + tl.arange(0, BLOCK)
        there = at < n
    else:
        at = left + tl.zeros((ROWS,), tl.int32)
        there = valid
    return at, there


@triton.jit
def _over_lanes(lanes, ROWS: tl.constexpr, LARGEST: tl.constexpr):
    """Return one number for each row: the sum, or the largest."""
    if ROWS > 1:
        found = lanes
    elif LARGEST:
        found = tl.max(lanes, 0)
    else:
        found = tl.sum(lanes, 0)
    return found


@triton.jit
def sweep(
    x, v, lower, upper, inverse, tolerance, a, b, first, last, n, valid, SUMS: tl.constexpr,
    SURVEY: tl.constexpr, P: tl.constexpr, HIGH: tl.constexpr, TYPE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Return the sums at a and b, total and moving each, and after them the survey.

    The survey: the largest |v| that decides, the largest r / |v|, sum r^p, and flags. It decides
    with any room, or for p = inf with room for all of eps.
    """
    top = tl.zeros((ROWS * BLOCK,), TYPE)
    corner = tl.zeros((ROWS * BLOCK,), TYPE)
    faults = tl.zeros((ROWS * BLOCK,), tl.int32)
    most = largest_number(TYPE).to(TYPE)
    zero = _over_lanes(top, ROWS, False).to(tl.float64)
    total_a, moving_a, total_b, moving_b, reach = zero, zero, zero, zero, zero
    for start in range(first, last, BLOCK * RUN):
        sum_a = tl.zeros((ROWS * BLOCK,), TYPE)
        free_a = tl.zeros((ROWS * BLOCK,), TYPE)
        sum_b = tl.zeros((ROWS * BLOCK,), TYPE)
        free_b = tl.zeros((ROWS * BLOCK,), TYPE)
        far = tl.zeros((ROWS * BLOCK,), TYPE)
        for left in range(start, tl.minimum(start + BLOCK * RUN, last), BLOCK):
            at, there = _places(left, n, valid, ROWS, BLOCK)
            point, direction, low, high = load_at(x, v, lower, upper, at, there, TYPE)
            size, room = sizes_of(point, direction, low, high, inverse, P, TYPE)
            if SURVEY:
                # written so that NaN is not fine
                fine = (point == point) & (size <= most)
                outside = (point - low < -tolerance) | (high - point < -tolerance)
                faults |= tl.where(fine, 0, NOT_FINITE) | tl.where(outside, OUT_OF_BOUNDS, 0)
                movable = room > 0
                contact = room / tl.where(movable, size, 1.0)
                corner = tl.maximum(corner, tl.where(movable, contact, 0.0))
                enough = room >= 1.0 if P == INFINITE else movable
                top = tl.maximum(top, tl.where(enough, size, 0.0))
            if P != INFINITE:
                if SURVEY:
                    far += power(room, P, HIGH, TYPE)
                if SUMS:
                    q, free = _moved(size, room, a, P, HIGH, TYPE)
                    sum_a += q
                    free_a += free
                    q, free = _moved(size, room, b, P, HIGH, TYPE)
                    sum_b += q
                    free_b += free
        total_a += _over_lanes(sum_a, ROWS, False).to(tl.float64)
        moving_a += _over_lanes(free_a, ROWS, False).to(tl.float64)
        total_b += _over_lanes(sum_b, ROWS, False).to(tl.float64)
        moving_b += _over_lanes(free_b, ROWS, False).to(tl.float64)
        reach += _over_lanes(far, ROWS, False).to(tl.float64)
    fault = any_fault(faults, ROWS)
    top = _over_lanes(top, ROWS, True)
    corner = tl.minimum(_over_lanes(corner, ROWS, True), most)
    return total_a, moving_a, total_b, moving_b, top, corner, reach, fault


@triton.jit
def any_fault(faults, ROWS: tl.constexpr):
    """Return the flags of each row."""
    found = _over_lanes(faults & NOT_FINITE, ROWS, True)
    found |= _over_lanes(faults & OUT_OF_BOUNDS, ROWS, True)
    return found | _over_lanes(faults & BAD_EPS, ROWS, True)


@triton.jit
def _moved(size, room, h, P: tl.constexpr, HIGH: tl.constexpr, TYPE: tl.constexpr):
    """Return min(w, r)^p, and the same where w < r, else 0."""
    w = size * h * h
    q = power(tl.minimum(w, room), P, HIGH, TYPE)
    return q, tl.where(w < room, q, 0.0)


@triton.jit
def guess(
    x, v, lower, upper, inverse, n, P: tl.constexpr, HIGH: tl.constexpr, TYPE: tl.constexpr
):  # fmt: skip
    """Return two points that the root of a long row is likely to lie between, from a sample."""
    lane = tl.arange(0, SAMPLE)
    apart = (n - CHUNK) // (SAMPLE // CHUNK - 1) // CHUNK * CHUNK
    at = lane // CHUNK * apart + lane % CHUNK
    point, direction, low, high = load_at(x, v, lower, upper, at, at < n, TYPE)
    size, room = sizes_of(point, direction, low, high, inverse, P, TYPE)
    movable = room > 0
    top = tl.max(tl.where(movable, size, 0.0), 0)
    corner = tl.max(tl.where(movable, room / tl.where(movable, size, 1.0), 0.0), 0)
    corner = tl.minimum(corner, largest_number(TYPE).to(TYPE))
    scale = (tl.full((), 0, tl.int64) + n).to(tl.float64) * constant(1.0 / SAMPLE, tl.float64)
    reach = tl.sum(power(room, P, HIGH, TYPE), 0).to(tl.float64) * scale
    one = constant(1.0, tl.float64)
    fine = tl.zeros((), tl.int32)
    low, high, share = begin(top, corner, reach, fine, one, n, P, ROUGH, TYPE)
    low_gap, low_moving, high_moving = unknown(low)
    high_gap = (1.0 - reach).to(TYPE)
    a, b = low, tl.sqrt(low) * tl.sqrt(high)
    count = 0
    while (share < 0) & (count < ROUGH_PASSES):
        q, free = _moved(size, room, a, P, HIGH, TYPE)
        gap_a = (1.0 - tl.sum(q, 0).to(tl.float64) * scale).to(TYPE)
        moving_a = (tl.sum(free, 0).to(tl.float64) * scale).to(TYPE)
        q, free = _moved(size, room, b, P, HIGH, TYPE)
        gap_b = (1.0 - tl.sum(q, 0).to(tl.float64) * scale).to(TYPE)
        moving_b = (tl.sum(free, 0).to(tl.float64) * scale).to(TYPE)
        low, low_gap, low_moving, high, high_gap, high_moving, a, b, share = narrow(
            low, low_gap, low_moving, high, high_gap, high_moving, a, b, share,
            gap_a, moving_a, gap_b, moving_b, P, ROUGH, TYPE,
        )  # fmt: skip
        count += 1
    h = tl.where(share < 0, a, tl.sqrt(tl.maximum(share, 0.0)).to(TYPE))
    # three standard deviations of the sum, as far as its moving part makes up for them
    q, free = _moved(size, room, h, P, HIGH, TYPE)
    moving = tl.sum(free, 0)
    growth = 3.0 * tl.sqrt(tl.sum(q * q, 0)) / tl.where(moving > 0, moving, 1.0)
    growth = 1.0 + tl.where(moving > 0, tl.minimum(tl.maximum(growth, 0.001), 3.0), 3.0)
    return h * root(1.0 / growth, P, TYPE), h * root(growth, P, TYPE)


@triton.jit
def write_points(
    x, v, lower, upper, eta, stays, out, first, last, n, valid, TYPE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write the points of the elements first..last; out may be x."""
    for left in range(first, last, BLOCK):
        at, there = _places(left, n, valid, ROWS, BLOCK)
        point, direction, low, high = load_at(x, v, lower, upper, at, there, TYPE)
        moved = moved_by(point, direction, eta, stays, low, high, TYPE)
        tl.store(out + at, moved.to(out.dtype.element_ty), mask=there)
