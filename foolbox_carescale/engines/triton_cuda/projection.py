"""The way back onto ball or sphere inside the bounds, one program for each row.

A program first writes ``v = target - x0`` to where the result goes, and works on that; the target
itself is read again where a row stays as it is, which x0 + (x - x0) is not to the last digit.
"""

# Triton infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from .elements import constant, fault_of, largest_number, last_digit, load_block, number_of
from .rows import (
    MOST_PASSES,
    any_fault,
    faults_in,
    length_of,
    moved_by,
    report,
    room_along,
    root_of,
)
from .steepest import fill_row
from .sweeps import RUN

# A factor this close to 1 is the rounding of x0 + eps.
RTOL_INF = tl.constexpr(1e-6)
# Of eps: where no more is missing, that is the rounding of x0 + v.
NORM_ROUNDING = tl.constexpr(1e-5)


@triton.jit
def _target(z, now, before, m, at, there, MIX: tl.constexpr, TYPE: tl.constexpr):
    """Return what a block projects: z, or now + (1 - m) (z - now) + m (now - before)."""
    target = tl.load(z + at, mask=there, other=0.0).to(TYPE)
    if MIX:
        middle = tl.load(now + at, mask=there, other=0.0).to(TYPE)
        behind = tl.load(before + at, mask=there, other=0.0).to(TYPE)
        weight = number_of(m)
        rest = (1.0 - weight).to(TYPE)
        target = middle + rest * (target - middle) + weight.to(TYPE) * (middle - behind)
    return target


@triton.jit
def _write_difference(
    x, z, now, before, m, lower, upper, out, n, MIX: tl.constexpr, TOLERANCE: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write target - x0, and return the row's flags."""
    faults = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        there = at < n
        point, _, low, high = load_block(x, z, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK)
        target = _target(z, now, before, m, at, there, MIX, TYPE)
        v = tl.where(there, target - point, 0.0)
        tl.store(out + at, v, mask=there)
        faults |= faults_in(point, tl.abs(v), low, high, TOLERANCE, TYPE)
    return any_fault(faults)


@triton.jit
def _parts_of(t, TYPE: tl.constexpr):
    """Return a float64 as two numbers of TYPE: float32 alone would shift a long row's sum."""
    first = t.to(TYPE)
    return first, (t - first.to(tl.float64)).to(TYPE)


@triton.jit
def _over(v, t, TYPE: tl.constexpr):
    """Return max(|v| - t, 0)."""
    first, second = _parts_of(t, TYPE)
    return tl.maximum((tl.abs(v) - first) - second, 0.0)


@triton.jit
def _shrunk(
    x, v, lower, upper, t, n, LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr,
    BLOCK: tl.constexpr
):  # fmt: skip
    """Return sum min(max(|v| - t, 0), room), how many terms change with t, the largest |v|."""
    total = tl.zeros((), tl.float64)
    active = tl.zeros((), tl.float64)
    largest = tl.zeros((BLOCK,), TYPE)
    for start in range(0, n, BLOCK * RUN):
        part = tl.zeros((BLOCK,), TYPE)
        count = tl.zeros((BLOCK,), TYPE)
        for begin in range(start, tl.minimum(start + BLOCK * RUN, n), BLOCK):
            point, direction, low, high = load_block(
                x, v, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK
            )
            room = room_along(point, direction, low, high)
            over = _over(direction, t, TYPE)
            part += tl.minimum(over, room)
            count += tl.where((over > 0) & (over < room), 1.0, 0.0).to(TYPE)
            largest = tl.maximum(largest, tl.where(room > 0, tl.abs(direction), 0.0))
        total += tl.sum(part, 0).to(tl.float64)
        active += tl.sum(count, 0).to(tl.float64)
    return total, active, tl.max(largest, 0)


@triton.jit
def _rtol(TYPE: tl.constexpr):
    """Return the relative error of the norm at which a threshold is good enough."""
    # above the rounding of the sums
    return constant(4e-7 if TYPE == tl.float32 else 1e-13, tl.float64)  # noqa: SIM300


@triton.jit
def _threshold(
    x, v, lower, upper, wanted, start, largest, n, LOWER: tl.constexpr, UPPER: tl.constexpr,
    TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Return the t > 0 with sum min(max(|v| - t, 0), room) = eps; at t = 0 it is more than eps.

    Newton on a piecewise linear function, and halving where that leads out of the bracket.
    """
    low = tl.zeros((), tl.float64)
    high = largest.to(tl.float64)
    t = start
    count = 0
    done = (wanted == 0).to(tl.int32)
    while (done == 0) & (count < MOST_PASSES):
        t = tl.where((low < t) & (t < high), t, low + (high - low) / 2)
        between = (low < t) & (t < high)
        total, active, _ = _shrunk(x, v, lower, upper, t, n, LOWER, UPPER, TYPE, BLOCK)
        residual = total - wanted
        settled = (tl.abs(residual) <= _rtol(TYPE) * wanted) | (between == 0)
        low = tl.where(residual > 0, t, low)
        high = tl.where(residual > 0, high, t)
        # low itself has the bracket halved
        following = tl.where(active > 0, t + residual / tl.maximum(active, 1.0), low)
        t = tl.where(settled, t, following)
        done = settled.to(tl.int32)
        count += 1
    # eps 0: just below the largest, where that still changes: what the derivative is taken of
    return tl.where(wanted == 0, high * (1.0 - 0.5 * last_digit(TYPE)), t)


@triton.jit(do_not_specialize=["eps", "m"])
def project_kernel(
    x, z, now, before, m, lower, upper, eps, direction, out, threshold, missing, flags, x_step,
    z_step, now_step, before_step, lower_step, upper_step, eps_step, direction_step, out_step, n,
    BITS: tl.constexpr, MIX: tl.constexpr, SPHERE: tl.constexpr, FILL: tl.constexpr,
    P: tl.constexpr, HIGH: tl.constexpr, RTOL: tl.constexpr,
    SAMPLED: tl.constexpr, TOLERANCE: tl.constexpr, LARGEST: tl.constexpr, LOWER: tl.constexpr,
    UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write the projection of a row, p < inf: on to eps if SPHERE, along `direction` if FILL."""
    row = tl.program_id(0).to(tl.int64)
    x, z, out = x + row * x_step, z + row * z_step, out + row * out_step
    now, before = now + row * now_step, before + row * before_step
    lower, upper = lower + row * lower_step, upper + row * upper_step
    wanted = length_of(eps, row, eps_step, BITS)
    faults = _write_difference(
        x, z, now, before, m, lower, upper, out, n, MIX, TOLERANCE, LOWER, UPPER, TYPE, BLOCK
    )
    faults |= fault_of(wanted)
    tl.debug_barrier()
    t = tl.zeros((), tl.float64)
    root = tl.zeros((), tl.float64)
    if P == 1.0:
        total, active, largest = _shrunk(x, out, lower, upper, t, n, LOWER, UPPER, TYPE, BLOCK)
        outside = (faults == 0) & (total > wanted)
        if outside:
            start = (total - wanted) / tl.maximum(active, 1.0)
            t = _threshold(
                x, out, lower, upper, wanted, start, largest, n, LOWER, UPPER, TYPE, BLOCK
            )
        searches = (faults == 0) & (total <= wanted)
        stays = searches
    else:
        outside = faults < 0
        searches = faults == 0
        stays = outside
    if SPHERE or P != 1.0:
        if searches:
            root = root_of(
                x, out, lower, upper, wanted, n, P, HIGH, RTOL, SAMPLED, LARGEST, LOWER, UPPER,
                TYPE, BLOCK,
            )  # fmt: skip
        stays = root >= 1.0
    if SPHERE:
        stays = faults < 0
    tl.debug_barrier()
    total = _write_projection(
        x, z, now, before, m, lower, upper, out, n, t, root, outside, stays, wanted, MIX, LOWER,
        UPPER, TYPE, BLOCK,
    )  # fmt: skip
    if P == 1.0:
        rest = tl.where(searches, wanted - total, 0.0) if SPHERE else tl.zeros((), tl.float64)
        tl.store(threshold + row, t)
        tl.store(missing + row, rest)
        if FILL:  # noqa: SIM102
            if rest > constant(NORM_ROUNDING, tl.float64) * wanted:
                tl.debug_barrier()
                fill_row(
                    x, direction + row * direction_step, lower, upper, rest, out, out, n, True,
                    LOWER, UPPER, TYPE, BLOCK,
                )  # fmt: skip
    report(flags, faults)


@triton.jit
def _write_projection(
    x, z, now, before, m, lower, upper, out, n, t, root, outside, stays, wanted,
    MIX: tl.constexpr, LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr,
    BLOCK: tl.constexpr
):  # fmt: skip
    """Write the points over v, and return the sum of what they have moved."""
    total = tl.zeros((), tl.float64)
    read = tl.where(stays, n, 0)  # of the target: nothing where it is not used
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        there = at < n
        point, v, low, high = load_block(x, out, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK)
        over = tl.where(wanted > 0, _over(v, t, TYPE), 0.0)
        shrunk = point + tl.where(v > 0, over, -over)
        target = _target(z, now, before, m, at, at < read, MIX, TYPE)
        clipped = tl.minimum(tl.maximum(tl.where(stays, target, shrunk), low), high)
        moved = moved_by(point, v, root, low, high, TYPE)
        moved = tl.where(outside | stays, clipped, moved)
        tl.store(out + at, moved, mask=there)
        distance = tl.minimum(tl.abs(moved - point), room_along(point, v, low, high))
        total += tl.sum(tl.where(there, distance, 0.0), 0).to(tl.float64)
    return total


@triton.jit(do_not_specialize=["eps", "m"])
def limit_kernel(
    x, z, now, before, m, lower, upper, eps, out, flags, x_step, z_step, now_step, before_step,
    lower_step, upper_step, eps_step, out_step, n, BITS: tl.constexpr, MIX: tl.constexpr,
    SPHERE: tl.constexpr, TOLERANCE: tl.constexpr,
    LARGEST: tl.constexpr, LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr,
    BLOCK: tl.constexpr
):  # fmt: skip
    """Write the projection of a row for p = inf: two clips, then growth to eps if SPHERE."""
    row = tl.program_id(0).to(tl.int64)
    x, z, out = x + row * x_step, z + row * z_step, out + row * out_step
    now, before = now + row * now_step, before + row * before_step
    lower, upper = lower + row * lower_step, upper + row * upper_step
    wanted = length_of(eps, row, eps_step, BITS)
    bound = wanted.to(TYPE)
    faults = tl.zeros((BLOCK,), tl.int32)
    largest = tl.zeros((BLOCK,), TYPE)
    top = tl.zeros((BLOCK,), TYPE)
    corner = tl.zeros((BLOCK,), TYPE)
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        there = at < n
        point, _, low, high = load_block(x, z, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK)
        target = _target(z, now, before, m, at, there, MIX, TYPE)
        faults |= faults_in(point, tl.abs(target), low, high, TOLERANCE, TYPE)
        moved = tl.minimum(tl.maximum(target, point - bound), point + bound)
        moved = tl.minimum(tl.maximum(moved, low), high)
        tl.store(out + at, moved, mask=there)
        v = tl.where(there, moved - point, 0.0)
        size = tl.abs(v)
        largest = tl.maximum(largest, size)
        if SPHERE:
            room = room_along(point, v, low, high)
            top = tl.maximum(top, tl.where(room >= bound, size, 0.0))
            contact = room / tl.where(v != 0, size, 1.0)
            corner = tl.maximum(corner, tl.where(v != 0, contact, 0.0))
    found = any_fault(faults) | fault_of(wanted)
    report(flags, found)
    grows = tl.max(largest, 0).to(tl.float64) < wanted * (1.0 - constant(RTOL_INF, tl.float64))
    again = found != 0
    if SPHERE:
        again = again | grows
    if again:
        tl.debug_barrier()
        first = tl.max(top, 0).to(tl.float64)
        far = tl.minimum(tl.max(corner, 0), largest_number(TYPE).to(TYPE)).to(tl.float64)
        root = tl.where(first > 0, wanted / tl.where(first > 0, first, 1.0), far)
        root = tl.where(found != 0, 0.0, tl.minimum(root, constant(LARGEST, tl.float64)))
        for begin in range(0, n, BLOCK):
            at = begin + tl.arange(0, BLOCK)
            point, moved, low, high = load_block(
                x, out, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK
            )
            moved = moved_by(point, moved - point, root, low, high, TYPE)
            tl.store(out + at, moved, mask=at < n)
