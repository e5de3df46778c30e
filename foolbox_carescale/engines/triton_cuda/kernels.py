"""The kernels of eta and `perturb`: rows of any length by one program, or by several in turns.

Numbers come as their bits, see `elements.number_of`; LOWER, UPPER and EPS say what is a tensor.
"""

# Triton infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from .elements import constant, fault_of, inverse_of, number_of
from .search import INFINITE, MOST_PASSES, begin, narrow, unknown
from .sweeps import any_fault, guess, sweep, write_points

# What several programs for a row leave for the next launch, in float64: two states, of which one
# launch reads what the one before has written; what the parts found; their sums, twice likewise.
_STATE, _FOUND, _SUMS = 10, 4, 4
STATE, FOUND, SUMS = tl.constexpr(_STATE), tl.constexpr(_FOUND), tl.constexpr(_SUMS)


def space_of(parts: int) -> int:
    """Return how many float64 a row takes."""
    return 2 * _STATE + parts * (_FOUND + 2 * _SUMS)


BITS = ["low_bits", "high_bits", "eps_bits", "tolerance_bits"]


@triton.jit(do_not_specialize=[*BITS, "rows"])
def row_kernel(
    x, v, lower, upper, eps, space, eta, word, out, x_step, v_step, lower_step, upper_step,
    eps_step, out_step, n, size, parts, rows, low_bits: tl.int64, high_bits: tl.int64,
    eps_bits: tl.int64, tolerance_bits: tl.int64, PASSED: tl.constexpr, WRITE: tl.constexpr,
    SAMPLED: tl.constexpr, LOWER: tl.constexpr, UPPER: tl.constexpr,
    EPS: tl.constexpr, P: tl.constexpr, HIGH: tl.constexpr, RTOL: tl.constexpr,
    TYPE: tl.constexpr, LARGEST: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    PARTS: tl.constexpr
):  # fmt: skip
    """Store eta and, if asked for, the points of a row or of ROWS; make the passes that it takes.

    After PASSED passes by several programs each writes its part. Of a row that needs more passes
    the first one does all: so nobody writes over an x that somebody else still reads.
    """
    part = tl.program_id(1)
    row = tl.program_id(0).to(tl.int64)
    valid = row >= 0
    if ROWS > 1:
        row = row * ROWS + tl.arange(0, ROWS)
        valid = row < rows
        row = tl.where(valid, row, 0)
    x, v = x + row * x_step, v + row * v_step
    lower = lower + row * lower_step if LOWER else number_of(low_bits)
    upper = upper + row * upper_step if UPPER else number_of(high_bits)
    wanted = tl.load(eps + row * eps_step).to(tl.float64) if EPS else number_of(eps_bits)
    if ROWS > 1:
        wanted += tl.zeros((ROWS,), tl.float64)
    if PASSED > 0:
        low, low_gap, low_moving, high, high_gap, high_moving, a, b, share, fault = _resume(
            space + row * (2 * STATE + parts * (FOUND + 2 * SUMS)), parts, wanted, n, PASSED, P,
            RTOL, TYPE, PARTS,
        )  # fmt: skip
        mine = (share >= 0) | (part == 0)
        first = tl.where(share >= 0, part * size, 0)
        last = tl.where(share >= 0, tl.minimum(first + size, n), tl.where(mine, n, 0))
    else:
        low, low_gap, low_moving, high, high_gap, high_moving, a, b, share, fault = first_pass(
            x, v, lower, upper, wanted, number_of(tolerance_bits), n, valid, SAMPLED, P, HIGH,
            RTOL, TYPE, ROWS, BLOCK,
        )  # fmt: skip
        mine, first, last = valid, 0, n
        tl.atomic_or(word + row * 0, fault, mask=valid & (fault != 0), sem="relaxed")
    share = further_passes(
        x, v, lower, upper, wanted, low, low_gap, low_moving, high, high_gap, high_moving, a, b,
        share, n, mine, P, HIGH, RTOL, TYPE, ROWS, BLOCK,
    )  # fmt: skip
    found = tl.minimum(share * wanted, constant(LARGEST, tl.float64)).to(TYPE)
    tl.store(eta + row, found, mask=valid & (part == 0))
    if WRITE:
        write_points(
            x, v, lower, upper, found, fault != 0, out + row * out_step, first, last, n, valid,
            TYPE, ROWS, BLOCK,
        )  # fmt: skip


@triton.jit
def first_pass(
    x, v, lower, upper, wanted, tolerance, n, valid, SAMPLED: tl.constexpr, P: tl.constexpr,
    HIGH: tl.constexpr, RTOL: tl.constexpr, TYPE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Return the state after the pass that also surveys whole rows, and their flags."""
    inverse = inverse_of(wanted, TYPE)
    a, b = inverse * 0.0, inverse * 0.0
    if SAMPLED:
        a, b = guess(x, v, lower, upper, inverse, n, P, HIGH, TYPE)
    total_a, moving_a, total_b, moving_b, top, corner, reach, fault = sweep(
        x, v, lower, upper, inverse, tolerance.to(TYPE), a, b, 0, n, n, valid, SAMPLED, True, P,
        HIGH, TYPE, ROWS, BLOCK,
    )  # fmt: skip
    fault |= fault_of(wanted)
    low, high, share = begin(top, corner, reach, fault, wanted, n, P, RTOL, TYPE)
    low_gap, low_moving, high_moving = unknown(low)
    high_gap = (1.0 - reach).to(TYPE)
    if SAMPLED:
        low, low_gap, low_moving, high, high_gap, high_moving, a, b, share = narrow(
            low, low_gap, low_moving, high, high_gap, high_moving, a, b, share,
            (1.0 - total_a).to(TYPE), moving_a.to(TYPE), (1.0 - total_b).to(TYPE),
            moving_b.to(TYPE), P, RTOL, TYPE,
        )  # fmt: skip
    else:
        a, b = low, tl.sqrt(low) * tl.sqrt(high)
    return low, low_gap, low_moving, high, high_gap, high_moving, a, b, share, fault


@triton.jit
def further_passes(
    x, v, lower, upper, wanted, low, low_gap, low_moving, high, high_gap, high_moving, a, b, share,
    n, mine, P: tl.constexpr, HIGH: tl.constexpr, RTOL: tl.constexpr,
    TYPE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Return eta / eps of whole rows from the state of their search."""
    if P != INFINITE:
        inverse = inverse_of(wanted, TYPE)
        count = 0
        while _some((share < 0) & mine, ROWS) & (count < MOST_PASSES):
            total_a, moving_a, total_b, moving_b, _, _, _, _ = sweep(
                x, v, lower, upper, inverse, inverse, a, b, 0, n, n, mine, True, False, P, HIGH,
                TYPE, ROWS, BLOCK,
            )  # fmt: skip
            low, low_gap, low_moving, high, high_gap, high_moving, a, b, share = narrow(
                low, low_gap, low_moving, high, high_gap, high_moving, a, b, share,
                (1.0 - total_a).to(TYPE), moving_a.to(TYPE), (1.0 - total_b).to(TYPE),
                moving_b.to(TYPE), P, RTOL, TYPE,
            )  # fmt: skip
            count += 1
        # never in practice: the bracket is halved again and again
        share = tl.where(share < 0, a.to(tl.float64) * a.to(tl.float64), share)
    return share


@triton.jit
def _some(rows, ROWS: tl.constexpr):
    some = rows
    if ROWS > 1:
        some = tl.max(rows.to(tl.int32), 0) > 0
    return some


@triton.jit(do_not_specialize=BITS)
def pass_kernel(
    x, v, lower, upper, eps, space, word, x_step, v_step, lower_step, upper_step, eps_step, n,
    size, parts, low_bits: tl.int64, high_bits: tl.int64, eps_bits: tl.int64,
    tolerance_bits: tl.int64, COUNT: tl.constexpr, LOWER: tl.constexpr,
    UPPER: tl.constexpr, EPS: tl.constexpr, P: tl.constexpr, HIGH: tl.constexpr,
    RTOL: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr,
    PARTS: tl.constexpr
):  # fmt: skip
    """Make pass COUNT over a part of a row, from what the launch before left."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    x, v = x + row * x_step, v + row * v_step
    lower = lower + row * lower_step if LOWER else number_of(low_bits)
    upper = upper + row * upper_step if UPPER else number_of(high_bits)
    wanted = tl.load(eps + row * eps_step).to(tl.float64) if EPS else number_of(eps_bits)
    inverse = inverse_of(wanted, TYPE)
    space += row * (2 * STATE + parts * (FOUND + 2 * SUMS))
    first = part * size
    last = tl.minimum(first + size, n)
    if COUNT == 0:
        a, b = inverse * 0.0, inverse * 0.0
        if P != INFINITE:
            a, b = guess(x, v, lower, upper, inverse, n, P, HIGH, TYPE)
        if part == 0:
            tl.store(space + 6, a.to(tl.float64))
            tl.store(space + 7, b.to(tl.float64))
    else:
        low, low_gap, low_moving, high, high_gap, high_moving, a, b, share, fault = _resume(
            space, parts, wanted, n, COUNT, P, RTOL, TYPE, PARTS
        )
        if part == 0:
            _store_state(
                space + COUNT % 2 * STATE, low, low_gap, low_moving, high, high_gap, high_moving,
                a, b, share, fault,
            )  # fmt: skip
        last = tl.where(share < 0, last, 0)  # of a row that is done nothing is read
    total_a, moving_a, total_b, moving_b, top, corner, reach, fault = sweep(
        x, v, lower, upper, inverse, number_of(tolerance_bits).to(TYPE), a, b, first, last, n,
        True, True, COUNT == 0, P, HIGH, TYPE, 1, BLOCK,
    )  # fmt: skip
    if COUNT == 0:
        fault |= fault_of(wanted)
        tl.atomic_or(word, fault, mask=fault != 0, sem="relaxed")
        found = space + 2 * STATE + part * FOUND
        tl.store(found, top.to(tl.float64))
        tl.store(found + 1, corner.to(tl.float64))
        tl.store(found + 2, reach)
        tl.store(found + 3, fault.to(tl.float64))
    sums = space + 2 * STATE + parts * (FOUND + COUNT % 2 * SUMS) + part * SUMS
    tl.store(sums, total_a)
    tl.store(sums + 1, moving_a)
    tl.store(sums + 2, total_b)
    tl.store(sums + 3, moving_b)


# What a launch leaves for the next one.


@triton.jit
def _resume(
    space, parts, wanted, n, COUNT: tl.constexpr, P: tl.constexpr, RTOL: tl.constexpr,
    TYPE: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """Return the state after pass COUNT - 1, and the row's flags."""
    part = tl.arange(0, PARTS)
    there = part < parts
    state = space + (COUNT - 1) % 2 * STATE
    a, b = tl.load(state + 6).to(TYPE), tl.load(state + 7).to(TYPE)
    if COUNT == 1:
        found = space + 2 * STATE + part * FOUND
        top = tl.max(tl.load(found, mask=there, other=0.0), 0).to(TYPE)
        corner = tl.max(tl.load(found + 1, mask=there, other=0.0), 0).to(TYPE)
        reach = tl.sum(tl.load(found + 2, mask=there, other=0.0), 0)
        fault = any_fault(tl.load(found + 3, mask=there, other=0.0).to(tl.int32), 1)
        low, high, share = begin(top, corner, reach, fault, wanted, n, P, RTOL, TYPE)
        low_gap, low_moving, high_moving = unknown(low)
        high_gap = (1.0 - reach).to(TYPE)
    else:
        low, low_gap = tl.load(state).to(TYPE), tl.load(state + 1).to(TYPE)
        low_moving, high = tl.load(state + 2).to(TYPE), tl.load(state + 3).to(TYPE)
        high_gap, high_moving = tl.load(state + 4).to(TYPE), tl.load(state + 5).to(TYPE)
        share, fault = tl.load(state + 8), tl.load(state + 9).to(tl.int32)
    if P != INFINITE:
        sums = space + 2 * STATE + parts * (FOUND + (COUNT - 1) % 2 * SUMS) + part * SUMS
        gap_a = (1.0 - tl.sum(tl.load(sums, mask=there, other=0.0), 0)).to(TYPE)
        moving_a = tl.sum(tl.load(sums + 1, mask=there, other=0.0), 0).to(TYPE)
        gap_b = (1.0 - tl.sum(tl.load(sums + 2, mask=there, other=0.0), 0)).to(TYPE)
        moving_b = tl.sum(tl.load(sums + 3, mask=there, other=0.0), 0).to(TYPE)
        low, low_gap, low_moving, high, high_gap, high_moving, a, b, share = narrow(
            low, low_gap, low_moving, high, high_gap, high_moving, a, b, share,
            gap_a, moving_a, gap_b, moving_b, P, RTOL, TYPE,
        )  # fmt: skip
    return low, low_gap, low_moving, high, high_gap, high_moving, a, b, share, fault


@triton.jit
def _store_state(
    state, low, low_gap, low_moving, high, high_gap, high_moving, a, b, share, fault
):  # fmt: skip
    tl.store(state, low.to(tl.float64))
    tl.store(state + 1, low_gap.to(tl.float64))
    tl.store(state + 2, low_moving.to(tl.float64))
    tl.store(state + 3, high.to(tl.float64))
    tl.store(state + 4, high_gap.to(tl.float64))
    tl.store(state + 5, high_moving.to(tl.float64))
    tl.store(state + 6, a.to(tl.float64))
    tl.store(state + 7, b.to(tl.float64))
    tl.store(state + 8, share)
    tl.store(state + 9, fault.to(tl.float64))
