"""The exact steepest step, one program for each row; for p = inf several for a long one."""

# Triton infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from .elements import constant, fault_of, largest_number, load_block, power, smallest_normal
from .rows import any_fault, faults_in, length_of, moved_by, report, room_along, root_of
from .sweeps import RUN


@triton.jit
def _finite(g, TYPE: tl.constexpr):
    """Return g with 0 for what is not finite."""
    return tl.where(tl.abs(g) <= largest_number(TYPE).to(TYPE), g, 0.0)


@triton.jit
def _faults(
    point, g, low, high, LENIENT: tl.constexpr, TOLERANCE: tl.constexpr, TYPE: tl.constexpr
):
    """Return the flags of each element; if LENIENT, of gradients that are not finite none."""
    size = tl.abs(g)
    if LENIENT:
        size = tl.abs(_finite(g, TYPE))
    return faults_in(point, size, low, high, TOLERANCE, TYPE)


@triton.jit(do_not_specialize=["eps"])
def signs_kernel(
    x, g, lower, upper, eps, out, flags, x_step, g_step, lower_step, upper_step, eps_step,
    out_step, n, BITS: tl.constexpr, LENIENT: tl.constexpr,
    TOLERANCE: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write clip(x + eps sign(g)): no root is needed, and a program does a part of a row."""
    row = tl.program_id(0).to(tl.int64)
    x, g, out = x + row * x_step, g + row * g_step, out + row * out_step
    lower, upper = lower + row * lower_step, upper + row * upper_step
    wanted = length_of(eps, row, eps_step, BITS)
    step = tl.where(fault_of(wanted) == 0, wanted, 0.0).to(TYPE)
    faults = tl.zeros((BLOCK,), tl.int32)
    # every so many blocks: whose turn it is does not matter
    for begin in range(tl.program_id(1) * BLOCK, n, tl.num_programs(1) * BLOCK):
        at = begin + tl.arange(0, BLOCK)
        point, v, low, high = load_block(x, g, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK)
        faults |= _faults(point, v, low, high, LENIENT, TOLERANCE, TYPE)
        v = _finite(v, TYPE)
        moved = point + tl.where(v > 0, step, tl.where(v < 0, -step, 0.0))
        tl.store(out + at, tl.minimum(tl.maximum(moved, low), high), mask=at < n)
    report(flags, any_fault(faults) | fault_of(wanted))


@triton.jit
def _largest(
    x, g, lower, upper, n, LENIENT: tl.constexpr, TOLERANCE: tl.constexpr, LOWER: tl.constexpr,
    UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Return the largest |g| that can move, and the row's flags."""
    faults = tl.zeros((BLOCK,), tl.int32)
    top = tl.zeros((BLOCK,), TYPE)
    for begin in range(0, n, BLOCK):
        point, v, low, high = load_block(x, g, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK)
        faults |= _faults(point, v, low, high, LENIENT, TOLERANCE, TYPE)
        top = tl.maximum(top, _gain(point, v, low, high, TYPE))
    return tl.max(top, 0), any_fault(faults)


@triton.jit
def _gain(point, g, low, high, TYPE: tl.constexpr):
    """Return |g| where it is finite and can move, else 0."""
    g = _finite(g, TYPE)
    return tl.where(room_along(point, g, low, high) > 0, tl.abs(g), 0.0)


@triton.jit(do_not_specialize=["eps"])
def dual_kernel(
    x, g, lower, upper, eps, out, flags, x_step, g_step, lower_step, upper_step, eps_step,
    out_step, n, BITS: tl.constexpr, LENIENT: tl.constexpr,
    DUAL: tl.constexpr,
    DUAL_HIGH: tl.constexpr, SMALLEST: tl.constexpr, P: tl.constexpr, HIGH: tl.constexpr,
    RTOL: tl.constexpr, SAMPLED: tl.constexpr, TOLERANCE: tl.constexpr, LARGEST: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write x + s for 1 < p < inf: the rescaling of sign(g) |g|^DUAL, DUAL = 1 / (p - 1)."""
    row = tl.program_id(0).to(tl.int64)
    x, g, out = x + row * x_step, g + row * g_step, out + row * out_step
    lower, upper = lower + row * lower_step, upper + row * upper_step
    top, faults = _largest(
        x, g, lower, upper, n, LENIENT, TOLERANCE, LOWER, UPPER, TYPE, BLOCK
    )  # fmt: skip
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        v = _finite(tl.load(g + at, mask=at < n, other=0.0).to(TYPE), TYPE)
        # what cannot move may be larger than the largest that can
        size = tl.minimum(tl.abs(v) / tl.where(top > 0, top, 1.0), 1.0)
        dual = tl.maximum(power(size, DUAL, DUAL_HIGH, TYPE), constant(SMALLEST, TYPE))
        dual = tl.where(v != 0, dual, 0.0)
        tl.store(out + at, tl.where(v > 0, dual, -dual), mask=at < n)
    tl.debug_barrier()
    _write_rescaled(
        x, out, lower, upper, eps, flags, row, eps_step, n, faults, BITS, P, HIGH, RTOL,
        SAMPLED, LARGEST, LOWER, UPPER, TYPE, BLOCK,
    )  # fmt: skip


@triton.jit
def _write_rescaled(
    x, out, lower, upper, eps, flags, row, eps_step, n, faults, BITS: tl.constexpr,
    P: tl.constexpr, HIGH: tl.constexpr, RTOL: tl.constexpr,
    SAMPLED: tl.constexpr, LARGEST: tl.constexpr, LOWER: tl.constexpr, UPPER: tl.constexpr,
    TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write clip(x + eta v) over v, which is in `out`; and the flags."""
    wanted = length_of(eps, row, eps_step, BITS)
    faults |= fault_of(wanted)
    root = tl.zeros((), tl.float64)
    if faults == 0:
        root = root_of(
            x, out, lower, upper, wanted, n, P, HIGH, RTOL, SAMPLED, LARGEST, LOWER, UPPER, TYPE,
            BLOCK,
        )  # fmt: skip
    tl.debug_barrier()
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        point, v, low, high = load_block(x, out, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK)
        tl.store(out + at, moved_by(point, v, root, low, high, TYPE), mask=at < n)
    report(flags, faults)


# p = 1: gains are |g| where they can move; a threshold on them decides what moves.


@triton.jit
def _bits_of(gain, TYPE: tl.constexpr):
    """Return numbers >= 0 as integers, whose order is theirs."""
    if TYPE == tl.float32:  # noqa: SIM300
        bits = gain.to(tl.int32, bitcast=True).to(tl.int64)
    else:
        bits = gain.to(tl.int64, bitcast=True)
    return bits


@triton.jit
def _gains(
    x, g, kept, lower, upper, begin, n, MASKED: tl.constexpr, LOWER: tl.constexpr,
    UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Return bits of the gains of a block, 0 if MASKED where `kept` is not x; points, ends."""
    point, v, low, high = load_block(x, g, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK)
    gain = _gain(point, v, low, high, TYPE)
    if MASKED:
        at = begin + tl.arange(0, BLOCK)
        gain = tl.where(tl.load(kept + at, mask=at < n, other=0.0).to(TYPE) == point, gain, 0.0)
    end = tl.where(v > 0, high, low)
    return _bits_of(gain, TYPE), point, end


@triton.jit
def _from(
    x, g, kept, lower, upper, first, second, third, n, COUNT: tl.constexpr, MASKED: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Return how many gains (if COUNT) reach each of three thresholds, or how much room."""
    a = tl.zeros((), tl.float64)
    b = tl.zeros((), tl.float64)
    c = tl.zeros((), tl.float64)
    for start in range(0, n, BLOCK * RUN):
        a_part = tl.zeros((BLOCK,), TYPE)
        b_part = tl.zeros((BLOCK,), TYPE)
        c_part = tl.zeros((BLOCK,), TYPE)
        for begin in range(start, tl.minimum(start + BLOCK * RUN, n), BLOCK):
            bits, point, end = _gains(
                x, g, kept, lower, upper, begin, n, MASKED, LOWER, UPPER, TYPE, BLOCK
            )
            weight = tl.abs(end - point)
            if COUNT:
                weight = tl.full((BLOCK,), 1.0, TYPE)
            a_part += tl.where(bits >= first, weight, 0.0)
            b_part += tl.where(bits >= second, weight, 0.0)
            c_part += tl.where(bits >= third, weight, 0.0)
        a += tl.sum(a_part, 0).to(tl.float64)
        b += tl.sum(b_part, 0).to(tl.float64)
        c += tl.sum(c_part, 0).to(tl.float64)
    return a, b, c


@triton.jit
def _least_gain(
    x, g, kept, lower, upper, budget, n, COUNT: tl.constexpr, MASKED: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Return bits of the largest t > 0 such that gains >= t are, or have room for, the budget.

    Those of the least positive number where all are less. A pass quarters the bits that are left,
    so that 16 passes (in float64 32) end at the exact value.
    """
    infinity: tl.constexpr = 0x7F800000 if TYPE == tl.float32 else 0x7FF0000000000000  # noqa: SIM300
    low = tl.full((), 1, tl.int64)
    high = tl.full((), infinity, tl.int64)
    while high - low > 1:
        width = high - low
        second = low + width // 2
        first = low + width // 4
        third = second + (high - second) // 2
        a, b, c = _from(
            x, g, kept, lower, upper, first, second, third, n, COUNT, MASKED, LOWER, UPPER, TYPE,
            BLOCK,
        )  # fmt: skip
        high = tl.where(c >= budget, high, third)
        high = tl.where(b >= budget, high, second)
        high = tl.where((a >= budget) | (first == low), high, first)
        low = tl.where(a >= budget, first, low)
        low = tl.where(b >= budget, second, low)
        low = tl.where(c >= budget, third, low)
    return low


@triton.jit
def fill_row(
    x, g, lower, upper, budget, kept, out, n, MASKED: tl.constexpr, LOWER: tl.constexpr,
    UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Give gains all their room, from the largest on, until the budget is spent.

    Equal ones share what is left. If MASKED, only where `kept` (which may be `out`) is still x,
    and nothing else is written.
    """
    least = _least_gain(
        x, g, kept, lower, upper, budget, n, False, MASKED, LOWER, UPPER, TYPE, BLOCK
    )
    with_least, above, _ = _from(
        x, g, kept, lower, upper, least, least + 1, least + 1, n, False, MASKED, LOWER, UPPER,
        TYPE, BLOCK,
    )  # fmt: skip
    shared = tl.maximum(with_least - above, smallest_normal(tl.float64))
    part = tl.minimum((budget - above) / shared, 1.0).to(TYPE)
    tl.debug_barrier()
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        bits, point, end = _gains(
            x, g, kept, lower, upper, begin, n, MASKED, LOWER, UPPER, TYPE, BLOCK
        )
        share = tl.where(bits > least, 1.0, part)
        moved = tl.where(share == 1.0, end, point + share * (end - point))
        moves = bits >= least
        there = at < n
        if MASKED:
            there = there & moves
        tl.store(out + at, tl.where(moves, moved, point), mask=there)


@triton.jit(do_not_specialize=["eps"])
def fill_kernel(
    x, g, lower, upper, eps, out, flags, x_step, g_step, lower_step, upper_step, eps_step,
    out_step, n, BITS: tl.constexpr, LENIENT: tl.constexpr,
    TOLERANCE: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write x + s for p = 1; see `fill_row`."""
    row = tl.program_id(0).to(tl.int64)
    x, g, out = x + row * x_step, g + row * g_step, out + row * out_step
    lower, upper = lower + row * lower_step, upper + row * upper_step
    _, faults = _largest(
        x, g, lower, upper, n, LENIENT, TOLERANCE, LOWER, UPPER, TYPE, BLOCK
    )  # fmt: skip
    wanted = length_of(eps, row, eps_step, BITS)
    faults |= fault_of(wanted)
    report(flags, faults)
    budget = tl.where(faults == 0, wanted, 0.0)
    fill_row(x, g, lower, upper, budget, x, out, n, False, LOWER, UPPER, TYPE, BLOCK)


@triton.jit(do_not_specialize=["eps"])
def sparse_kernel(
    x, g, lower, upper, eps, counts, out, flags, x_step, g_step, lower_step, upper_step, eps_step,
    out_step, n, BITS: tl.constexpr, LENIENT: tl.constexpr, P: tl.constexpr,
    HIGH: tl.constexpr,
    RTOL: tl.constexpr, SAMPLED: tl.constexpr, TOLERANCE: tl.constexpr, LARGEST: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write x moved by eps, evenly along the signs of the counts[i] largest gains; p = 1."""
    row = tl.program_id(0).to(tl.int64)
    x, g, out = x + row * x_step, g + row * g_step, out + row * out_step
    lower, upper = lower + row * lower_step, upper + row * upper_step
    _, faults = _largest(
        x, g, lower, upper, n, LENIENT, TOLERANCE, LOWER, UPPER, TYPE, BLOCK
    )  # fmt: skip
    count = tl.load(counts + row).to(tl.float64)
    least = _least_gain(x, g, x, lower, upper, count, n, True, False, LOWER, UPPER, TYPE, BLOCK)
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        bits, point, end = _gains(x, g, x, lower, upper, begin, n, False, LOWER, UPPER, TYPE, BLOCK)
        sign = tl.where(end > point, 1.0, -1.0).to(TYPE)
        tl.store(out + at, tl.where(bits >= least, sign, 0.0), mask=at < n)
    tl.debug_barrier()
    _write_rescaled(
        x, out, lower, upper, eps, flags, row, eps_step, n, faults, BITS, P, HIGH, RTOL,
        SAMPLED, LARGEST, LOWER, UPPER, TYPE, BLOCK,
    )  # fmt: skip
