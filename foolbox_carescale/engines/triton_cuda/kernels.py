"""Triton's kernels: the survey of a row, a pass over it, and the search for its root.

Units, unknown and sums are those of `passes`. The survey reads everything that bounds the search:
the largest ``|v|`` that can move, the largest breakpoint ``r / |v|``, how far the row reaches,
and what is wrong with it. Sums of a few thousand elements run in the dtype of x, scalars in
float64.
"""

# Triton infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import math

import triton
import triton.language as tl

from .. import newton
from .elements import (
    constant,
    inverse_of,
    largest_number,
    last_digit,
    load_block,
    power,
    rounded,
    sizes_of,
    smallest_normal,
)

NOT_FINITE, OUT_OF_BOUNDS = tl.constexpr(1), tl.constexpr(2)

# So many blocks are added up in the dtype of x before float64 takes over: in a longer sum of
# float32 the rounding begins to show.
RUN = tl.constexpr(32)
INFINITE = tl.constexpr(math.inf)
# From `PASSES` on every third step halves the bracket in the logarithm.
PASSES = tl.constexpr(newton.PASSES)
MOST_PASSES = tl.constexpr(newton.PASSES + newton.BRACKETED_PASSES)
SMALLEST_START = tl.constexpr(newton.SMALLEST_START)


# Passes over the columns first..last of a row.


@triton.jit
def _survey(
    x, v, lower, upper, inverse, first, last, n, P: tl.constexpr, HIGH: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TOLERANCE: tl.constexpr, TYPE: tl.constexpr,
    BLOCK: tl.constexpr
):  # fmt: skip
    """Return the largest |v| that decides, the largest r / |v|, sum r^p, and flags.

    It decides with any room, or for p = inf with room for all of eps.
    """
    top = tl.zeros((BLOCK,), TYPE)
    corner = tl.zeros((BLOCK,), TYPE)
    faults = tl.zeros((BLOCK,), tl.int32)
    reach = tl.zeros((), tl.float64)
    tolerance = constant(TOLERANCE, TYPE)
    most = largest_number(TYPE).to(TYPE)
    for start in range(first, last, BLOCK * RUN):
        part = tl.zeros((BLOCK,), TYPE)
        for begin in range(start, tl.minimum(start + BLOCK * RUN, last), BLOCK):
            point, direction, low, high = load_block(
                x, v, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK
            )
            size, room = sizes_of(point, direction, low, high, inverse, P, TYPE)
            # written so that NaN is not fine
            fine = (point == point) & (size <= most)
            outside = (point < low - tolerance) | (point > high + tolerance)
            faults |= tl.where(fine, 0, NOT_FINITE) | tl.where(outside, OUT_OF_BOUNDS, 0)
            movable = room > 0
            point_of_contact = room / tl.where(movable, size, 1.0)
            corner = tl.maximum(corner, tl.where(movable, point_of_contact, 0.0))
            if P == INFINITE:
                top = tl.maximum(top, tl.where(room >= 1.0, size, 0.0))
            else:
                top = tl.maximum(top, tl.where(movable, size, 0.0))
                part += power(room, P, HIGH, TYPE)
        reach += tl.sum(part, 0).to(tl.float64)
    found = tl.max(faults & NOT_FINITE, 0) | tl.max(faults & OUT_OF_BOUNDS, 0)
    corner = tl.minimum(tl.max(corner, 0), most)
    return tl.max(top, 0).to(tl.float64), corner.to(tl.float64), reach, found


@triton.jit
def _sums(
    x, v, lower, upper, inverse, h, first, last, n, P: tl.constexpr, HIGH: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Return the sums of min(w, r)^p, and of it where w < r."""
    total = tl.zeros((), tl.float64)
    moving = tl.zeros((), tl.float64)
    scale = h.to(TYPE)
    for start in range(first, last, BLOCK * RUN):
        part = tl.zeros((BLOCK,), TYPE)
        free = tl.zeros((BLOCK,), TYPE)
        for begin in range(start, tl.minimum(start + BLOCK * RUN, last), BLOCK):
            point, direction, low, high = load_block(
                x, v, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK
            )
            size, room = sizes_of(point, direction, low, high, inverse, P, TYPE)
            w = size * scale * scale
            q = power(tl.minimum(w, room), P, HIGH, TYPE)
            part += q
            free += tl.where(w < room, q, 0.0)
        total += tl.sum(part, 0).to(tl.float64)
        moving += tl.sum(free, 0).to(tl.float64)
    return total, moving


@triton.jit
def _write(
    x, v, lower, upper, eta, out, first, last, n, LOWER: tl.constexpr, UPPER: tl.constexpr,
    TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    for begin in range(first, last, BLOCK):
        point, direction, low, high = load_block(
            x, v, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK
        )
        at = begin + tl.arange(0, BLOCK)
        moved = tl.minimum(tl.maximum(point + eta.to(TYPE) * direction, low), high)
        tl.store(out + at, moved.to(out.dtype.element_ty), mask=at < n)


# The search: all of these are scalars in float64, `done` is 0 or 1.


@triton.jit
def _begin(
    top, corner, reach, faults, eps, n, P: tl.constexpr, RTOL: tl.constexpr, TYPE: tl.constexpr
):  # fmt: skip
    """h, low, high and done from what the survey found."""
    nothing = (faults != 0) | (eps < smallest_normal(TYPE)) | (corner == 0)
    some = tl.where(top > 0, top, 1.0)
    far = tl.sqrt(corner)
    if P == INFINITE:
        h = tl.where(top > 0, tl.sqrt(1.0 / some), far)
        low = h
        done = reach == reach
    else:
        # the largest term alone is at most as large as the sum, and n times it at least
        count = (tl.full((), 0, tl.int64) + n).to(tl.float64)  # Triton makes an n of 1 a constant
        spread = tl.exp2(tl.log2(count) * constant(-0.5 / P, tl.float64))
        spread = tl.maximum(spread, constant(SMALLEST_START, tl.float64))
        low = rounded(spread * tl.sqrt(1.0 / some), TYPE)
        done = reach <= 1.0 + constant(RTOL, tl.float64)
        h = tl.where(done, far, low)
    h = tl.where(nothing, 0.0, h)
    return rounded(h, TYPE), low, far, (done | nothing).to(tl.int32)


@triton.jit
def _advance(
    h, low, high, done, total, moving, count, P: tl.constexpr, RTOL: tl.constexpr,
    TYPE: tl.constexpr
):  # fmt: skip
    """Newton's step, kept inside the bracket; nothing where the row is done."""
    residual = 1.0 - total
    low_ = tl.where(residual > 0, tl.maximum(low, h), low)
    high_ = tl.where(residual < 0, tl.minimum(high, h), high)
    share = 1.0 + residual / tl.where(moving > 0, moving, 1.0)
    positive = (moving > 0) & (share > 0)
    root = tl.exp2(tl.log2(tl.where(positive, share, 1.0)) * constant(0.5 / P, tl.float64))
    following = rounded(h * root, TYPE)
    newton = positive & (low_ <= following) & (following <= high_)
    newton = newton & ((count < PASSES) | (count % 3 != 2))
    halved = rounded(tl.sqrt(low_) * tl.sqrt(high_), TYPE)
    following = tl.where(newton, following, halved)
    # nothing between the ends of the bracket, or a step below the last digit
    settled = (high_ <= low_ * (1.0 + 2.0 * last_digit(TYPE))) | (following == h)
    settled = settled | (tl.abs(residual) <= constant(RTOL, tl.float64))
    h = tl.where((done != 0) | settled, h, following)
    return h, low_, high_, done | settled.to(tl.int32)


@triton.jit
def _eta(h, eps, LARGEST: tl.constexpr):
    # h h eps may overflow: cut before multiplying
    most = constant(LARGEST, tl.float64)
    return tl.minimum(h * tl.minimum(h * eps, most / tl.maximum(h, 1.0)), most)


# One program for each row.


@triton.jit
def row_kernel(
    x, v, lower, upper, eps, eta, flags, out, x_step, v_step, lower_step, upper_step, out_step,
    n, WRITE: tl.constexpr, P: tl.constexpr, HIGH: tl.constexpr, RTOL: tl.constexpr,
    TOLERANCE: tl.constexpr, LARGEST: tl.constexpr, LOWER: tl.constexpr, UPPER: tl.constexpr,
    TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Eta, flags and, if asked for, the points of a row, by one program."""
    row = tl.program_id(0).to(tl.int64)
    x += row * x_step
    v += row * v_step
    lower += row * lower_step
    upper += row * upper_step
    wanted = tl.load(eps + row)
    inverse = inverse_of(wanted, TYPE)
    top, corner, reach, faults = _survey(
        x, v, lower, upper, inverse, 0, n, n, P, HIGH, LOWER, UPPER, TOLERANCE, TYPE, BLOCK
    )
    h, low, high, done = _begin(top, corner, reach, faults, wanted, n, P, RTOL, TYPE)
    if P != INFINITE:
        count = 0
        while (done == 0) & (count < MOST_PASSES):
            total, moving = _sums(
                x, v, lower, upper, inverse, h, 0, n, n, P, HIGH, LOWER, UPPER, TYPE, BLOCK
            )
            h, low, high, done = _advance(h, low, high, done, total, moving, count, P, RTOL, TYPE)
            count += 1
    root = _eta(h, wanted, LARGEST)
    tl.store(eta + row, root.to(TYPE))
    tl.store(flags + row, faults)
    if WRITE:
        out += row * out_step
        _write(x, v, lower, upper, root, out, 0, n, n, LOWER, UPPER, TYPE, BLOCK)


# Several programs for each row, a launch for each pass. `found`, `sums` and `state` are float64 of
# shape (rows, parts, 3), (2, rows, parts, 2) and (2, rows, 4); launches alternate between the two.


@triton.jit
def survey_kernel(
    x, v, lower, upper, eps, found, faults, x_step, v_step, lower_step, upper_step, n, size,
    parts, P: tl.constexpr, HIGH: tl.constexpr, RTOL: tl.constexpr, TOLERANCE: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Survey a part of a row."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    inverse = inverse_of(tl.load(eps + row), TYPE)
    first = part * size
    top, corner, reach, fault = _survey(
        x + row * x_step, v + row * v_step, lower + row * lower_step, upper + row * upper_step,
        inverse, first, tl.minimum(first + size, n), n, P, HIGH, LOWER, UPPER, TOLERANCE, TYPE,
        BLOCK,
    )  # fmt: skip
    place = row * parts + part
    tl.store(found + 3 * place, top)
    tl.store(found + 3 * place + 1, corner)
    tl.store(found + 3 * place + 2, reach)
    tl.store(faults + place, fault)


@triton.jit
def _surveyed(
    found, faults, eps, row, n, parts, P: tl.constexpr, RTOL: tl.constexpr, TYPE: tl.constexpr,
    PARTS: tl.constexpr
):  # fmt: skip
    """Return the start of the search from the parts of the survey."""
    part = tl.arange(0, PARTS)
    there = part < parts
    place = row * parts + part
    top = tl.max(tl.load(found + 3 * place, mask=there, other=0.0), 0)
    corner = tl.max(tl.load(found + 3 * place + 1, mask=there, other=0.0), 0)
    reach = tl.sum(tl.load(found + 3 * place + 2, mask=there, other=0.0), 0)
    fault = _fault(faults, row, parts, PARTS)
    return _begin(top, corner, reach, fault, eps, n, P, RTOL, TYPE)


@triton.jit
def _fault(faults, row, parts, PARTS: tl.constexpr):
    part = tl.arange(0, PARTS)
    fault = tl.load(faults + row * parts + part, mask=part < parts, other=0)
    return tl.max(fault & NOT_FINITE, 0) | tl.max(fault & OUT_OF_BOUNDS, 0)


@triton.jit
def _resumed(
    sums, state, row, rows, parts, count, P: tl.constexpr, RTOL: tl.constexpr,
    TYPE: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """Return the search after the pass of launch `count - 1`."""
    before = ((count - 1) % 2) * rows + row
    h, low = tl.load(state + 4 * before), tl.load(state + 4 * before + 1)
    high, done = tl.load(state + 4 * before + 2), tl.load(state + 4 * before + 3)
    part = tl.arange(0, PARTS)
    place = before * parts + part
    there = part < parts
    # nobody has written sums for a row that is done, and nothing comes of them
    total = tl.sum(tl.load(sums + 2 * place, mask=there, other=0.0), 0)
    moving = tl.sum(tl.load(sums + 2 * place + 1, mask=there, other=0.0), 0)
    return _advance(h, low, high, done.to(tl.int32), total, moving, count - 1, P, RTOL, TYPE)


@triton.jit(do_not_specialize=["count"])
def pass_kernel(
    x, v, lower, upper, eps, found, faults, sums, state, rows, parts, x_step, v_step,
    lower_step, upper_step, n, size, count, P: tl.constexpr, HIGH: tl.constexpr,
    RTOL: tl.constexpr, TOLERANCE: tl.constexpr, LARGEST: tl.constexpr, LOWER: tl.constexpr,
    UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """Make a pass over a part of a row, after the step that the pass before leads to."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    wanted = tl.load(eps + row)
    if count == 0:
        h, low, high, done = _surveyed(found, faults, wanted, row, n, parts, P, RTOL, TYPE, PARTS)
    else:
        h, low, high, done = _resumed(sums, state, row, rows, parts, count, P, RTOL, TYPE, PARTS)
    now = (count % 2) * rows + row
    if part == 0:
        tl.store(state + 4 * now, h)
        tl.store(state + 4 * now + 1, low)
        tl.store(state + 4 * now + 2, high)
        tl.store(state + 4 * now + 3, done.to(tl.float64))
    if done == 0:
        first = part * size
        total, moving = _sums(
            x + row * x_step, v + row * v_step, lower + row * lower_step,
            upper + row * upper_step, inverse_of(wanted, TYPE), h, first,
            tl.minimum(first + size, n), n, P, HIGH, LOWER, UPPER, TYPE, BLOCK,
        )  # fmt: skip
        place = now * parts + part
        tl.store(sums + 2 * place, total)
        tl.store(sums + 2 * place + 1, moving)


@triton.jit
def finish_kernel(
    x, v, lower, upper, eps, found, faults, sums, state, rows, parts, eta, flags, x_step,
    v_step, lower_step, upper_step, n, PASSED: tl.constexpr, P: tl.constexpr,
    HIGH: tl.constexpr, RTOL: tl.constexpr, TOLERANCE: tl.constexpr, LARGEST: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr,
    PARTS: tl.constexpr
):  # fmt: skip
    """Store eta and flags of a row, from what the passes left; make further passes if needed."""
    row = tl.program_id(0).to(tl.int64)
    wanted = tl.load(eps + row)
    h, low, high, done = _surveyed(found, faults, wanted, row, n, parts, P, RTOL, TYPE, PARTS)
    if PASSED > 0:
        h, low, high, done = _resumed(sums, state, row, rows, parts, PASSED, P, RTOL, TYPE, PARTS)
        inverse = inverse_of(wanted, TYPE)
        count = PASSED
        while (done == 0) & (count < MOST_PASSES):
            total, moving = _sums(
                x + row * x_step, v + row * v_step, lower + row * lower_step,
                upper + row * upper_step, inverse, h, 0, n, n, P, HIGH, LOWER, UPPER, TYPE, BLOCK,
            )  # fmt: skip
            h, low, high, done = _advance(h, low, high, done, total, moving, count, P, RTOL, TYPE)
            count += 1
    tl.store(eta + row, _eta(h, wanted, LARGEST).to(TYPE))
    tl.store(flags + row, _fault(faults, row, parts, PARTS))


@triton.jit
def write_kernel(
    x, v, lower, upper, eta, out, x_step, v_step, lower_step, upper_step, out_step, n, size,
    P: tl.constexpr, HIGH: tl.constexpr, RTOL: tl.constexpr, TOLERANCE: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write the points of a part of a row."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first = part * size
    _write(
        x + row * x_step, v + row * v_step, lower + row * lower_step, upper + row * upper_step,
        tl.load(eta + row), out + row * out_step, first, tl.minimum(first + size, n), n,
        LOWER, UPPER, TYPE, BLOCK,
    )  # fmt: skip
