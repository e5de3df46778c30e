"""What the kernels of the moves share: a row's numbers and faults, its root, where that leads.

A move is one launch, and a row is one program where something is added up over it. Few very long
rows leave most of the GPU idle.
"""

# Triton infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from .. import newton
from .elements import (
    constant,
    largest_number,
    last_digit,
    load_block,
    number_of,
    power,
    sizes_of,
)
from .kernels import first_pass, further_passes
from .sweeps import NOT_FINITE, OUT_OF_BOUNDS, RUN

MOST_PASSES = tl.constexpr(newton.PASSES + newton.BRACKETED_PASSES)


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
    outside = (point - low < -tolerance) | (high - point < -tolerance)
    return tl.where(fine, 0, NOT_FINITE) | tl.where(outside, OUT_OF_BOUNDS, 0)


@triton.jit
def any_fault(faults):
    """Return the flags that any element has."""
    return tl.max(faults & NOT_FINITE, 0) | tl.max(faults & OUT_OF_BOUNDS, 0)


@triton.jit
def report(word, faults):
    """Add the flags of a row to those of all."""
    tl.atomic_or(word, faults, mask=faults != 0, sem="relaxed")


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


@triton.jit
def root_of(
    x, v, lower, upper, wanted, n, P: tl.constexpr, HIGH: tl.constexpr, RTOL: tl.constexpr,
    SAMPLED: tl.constexpr, LARGEST: tl.constexpr, LOWER: tl.constexpr, UPPER: tl.constexpr,
    TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Return eta of a row without faults; p is finite."""
    least, most = lower, upper
    if LOWER is not None:
        least = constant(LOWER, TYPE)
    if UPPER is not None:
        most = constant(UPPER, TYPE)
    low, low_gap, low_moving, high, high_gap, high_moving, a, b, share, _ = first_pass(
        x, v, least, most, wanted, largest_number(TYPE), n, True, SAMPLED, P, HIGH, RTOL, TYPE, 1,
        BLOCK,
    )  # fmt: skip
    share = further_passes(
        x, v, least, most, wanted, low, low_gap, low_moving, high, high_gap, high_moving, a, b,
        share, n, True, P, HIGH, RTOL, TYPE, 1, BLOCK,
    )  # fmt: skip
    return tl.minimum(share * wanted, constant(LARGEST, tl.float64))


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
