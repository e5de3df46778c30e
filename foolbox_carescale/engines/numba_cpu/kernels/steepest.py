"""The exact steepest step, row by row while the row is in the cache."""

# numba infers the types of what it compiles
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import math

import numpy as np

from .compiling import (
    BLOCK,
    CALLED_FROM_PYTHON,
    FAST,
    bits_of,
    clipped,
    compiled,
    room_at,
    row_of,
    value_at,
)
from .passes import (
    NAN_DELTA,
    SAMPLE_RUN,
    find_violations,
    largest_movable,
    sample_size,
    start_of_run,
)
from .powers import FIRST, INFINITE, SQUARE, power
from .roots import SMALLEST_EPS, solve_row, write_in_place, write_row

INTERPOLATIONS = 16  # every other one of so many passes; where they do not help, halving goes on


@compiled(fastmath=FAST)
def _write_signs(x, v, lower, upper, eps, out):
    """clip(x + eps sign(v)): for p = inf no root is needed."""
    zero = x.dtype.type(0)
    for j in range(x.size):
        step = eps if v[j] > 0 else (-eps if v[j] < 0 else zero)
        moved = x[j] + step
        out[j] = clipped(moved, lower, upper, j)


@compiled(fastmath=FAST)
def _write_over(x, v, lower, upper, eta):
    """Write clip(x + eta v) over v: a loop that may alias is run element by element."""
    for j in range(x.size):
        moved = x[j] + eta * v[j]
        v[j] = clipped(moved, lower, upper, j)


@compiled(fastmath=FAST)
def _fill_dual(g, top, smallest, order, scratch):
    """sign(g) (|g| / top)^(1/(p-1)), at least `smallest` where g is not 0; order is of 1/(p-1)."""
    zero = g.dtype.type(0)
    for j in range(g.size):
        size = abs(g[j]) / top
        q = power(size if size < 1 else g.dtype.type(1), order)
        q = q if q > smallest else smallest
        q = q if size > 0 else zero
        scratch[j] = q if g[j] > 0 else -q


@compiled(fastmath=FAST)
def _fill_gains(x, g, lower, upper, scratch):
    """Write |g| where g can move, else 0."""
    zero = x.dtype.type(0)
    for j in range(x.size):
        room = room_at(x, g, lower, upper, j)
        scratch[j] = abs(g[j]) if room > 0 else zero


@compiled(fastmath=FAST)
def _count_block(gains, threshold):
    zero, one = gains.dtype.type(0), gains.dtype.type(1)
    count = zero
    for j in range(gains.size):
        count += one if gains[j] >= threshold else zero
    return count


@compiled(fastmath=FAST)
def _room_from(x, g, lower, upper, gains, threshold):
    total = 0.0
    for j in range(gains.size):
        room = room_at(x, g, lower, upper, j)
        total += float(room) if gains[j] >= threshold else 0.0
    return total


@compiled()
def _count_from(gains, threshold, room_of):
    """Return how many gains are >= threshold, or (room_of is given) how much room they have."""
    if room_of is not None:
        return _room_from(room_of[0], room_of[1], room_of[2], room_of[3], gains, threshold)
    count = 0.0
    for start in range(0, gains.size, BLOCK):
        count += _count_block(gains[start : min(start + BLOCK, gains.size)], threshold)
    return count


@compiled()
def _of_bits(bits, gains):
    """Return the number with these bits, in the type of the gains."""
    kind = type(bits_of(gains.dtype.type(np.inf)))
    return bits_of(kind(bits))


@compiled()
def _threshold_of(gains, count, room_of, guesses):
    """Return the largest t > 0 such that at least ``count`` gains (or their room) are >= t.

    The least positive number where not so many are positive. Halving the bits of t, whose order is
    that of floats >= 0, ends at the exact value, or where any there will do. Before that, guesses
    and every other time interpolation: one that is off costs a pass, no more.
    """
    low, high = 1, int(bits_of(gains.dtype.type(np.inf)))
    most, fewest = _count_from(gains, _of_bits(low, gains), room_of), 0.0
    if most <= count:
        return _of_bits(low, gains)
    k = 0
    while high - low > 1:
        middle = low + (high - low) // 2
        if k < len(guesses):
            middle = int(bits_of(guesses[k]))
        elif k < INTERPOLATIONS and k % 2 == 0:
            part = (most - count) / (most - fewest)
            middle = min(max(low + int(part * (high - low)), low + 1), high - 1)
        k += 1
        if not low < middle < high:
            continue
        found = _count_from(gains, _of_bits(middle, gains), room_of)
        if found == count:
            return _of_bits(middle, gains)
        if found > count:
            low, most = middle, found
        else:
            high, fewest = middle, found
    return _of_bits(low, gains)


@compiled(fastmath=FAST)
def _fill_signs(g, threshold, scratch):
    """Signs of g where the gain in scratch reaches the threshold, else 0."""
    zero, one = g.dtype.type(0), g.dtype.type(1)
    for j in range(g.size):
        sign = one if g[j] > 0 else -one
        scratch[j] = sign if scratch[j] >= threshold else zero


@compiled(fastmath=FAST)
def _write_filled(x, g, lower, upper, gains, threshold, part, out):
    """Give all their room to gains above the threshold, a part of it to those at it."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for j in range(x.size):
        end = value_at(upper, j) if g[j] > 0 else value_at(lower, j)
        share = one if gains[j] > threshold else (part if gains[j] == threshold else zero)
        moved = x[j] + share * (end - x[j])
        out[j] = end if share == one else moved


@compiled()
def _fill_up(x, g, lower, upper, eps, gains, out):
    """Write the steepest step for p = 1, where ``gains`` are |g| of what can move."""
    room_of = (x, g, lower, upper)
    zero = x.dtype.type(0)
    last = _threshold_of(gains, eps, room_of, (zero, zero))
    with_last = _room_from(x, g, lower, upper, gains, last)
    above = _room_from(x, g, lower, upper, gains, np.nextafter(last, x.dtype.type(np.inf)))
    part = (eps - above) / max(with_last - above, SMALLEST_EPS)
    _write_filled(x, g, lower, upper, gains, last, x.dtype.type(min(part, 1.0)), out)


@compiled()
def _sample_bracket(gains, share, sample):
    """Return two guesses, two standard errors around the gain that this share of them reaches."""
    m, n = sample.size, gains.size
    runs = m // SAMPLE_RUN
    for k in range(runs):
        start, to = start_of_run(k, runs, n), k * SAMPLE_RUN
        for j in range(SAMPLE_RUN):  # assigning slices would compile text for an error message
            sample[to + j] = gains[start + j]
    low = high = gains.dtype.type(0)
    margin = 2 * math.sqrt(share * m) + 1
    for error in (margin, -margin):
        count = min(max(share * m + error, 1.0), float(m))
        low, high = high, _threshold_of(sample, count, None, (low, low))
    return low, high


@compiled()
def _fill_finite(g, out):
    """Write g with 0 in the place of what is not finite, scaled so that the largest is 1."""
    zero, largest = g.dtype.type(0), np.finfo(g.dtype).max
    top = zero
    for j in range(g.size):
        size = abs(g[j])
        top = size if top < size <= largest else top
    top = top if top > 0 else g.dtype.type(1)
    for j in range(g.size):
        out[j] = g[j] / top if abs(g[j]) <= largest else zero


@compiled(**CALLED_FROM_PYTHON)
def steepest_rows(
    x, g, lower, upper, eps, order, wide, dual, smallest, tolerance, rtol, counts, lenient, over,
    out, flags, first, last,
):  # fmt: skip
    """Rows first..last: out = x + s, s = argmax <g, s> over ||s||_p <= eps inside the bounds.

    For p = 1 and counts[i] > 0 the step goes evenly along the signs of the counts[i] largest
    gradients that can move, instead. dual is the order of 1 / (p - 1). If `lenient`, gradients
    that are not finite count as 0. `over`: out is g, for 1 < p < inf, or x, for p = 1 and counts.
    """
    n = x.shape[1]
    m = sample_size(n)
    room, direction = np.empty(m, x.dtype), np.empty(m, x.dtype)
    scratch = room if len(order) in (SQUARE, INFINITE) else np.empty(n, x.dtype)
    cleaned = np.empty(n if lenient else 0, x.dtype)
    zero, ceiling = x.dtype.type(0), float(np.finfo(x.dtype).max)
    for i in range(first, last):
        xi, gi, low, high = x[i], g[i], row_of(lower, i), row_of(upper, i)
        for scaled in range(2):
            flag = 0
            if len(order) != SQUARE:  # there the root finder looks itself
                flag = find_violations(xi, gi, low, high, tolerance)
            if len(order) == INFINITE:
                if flag == 0:
                    _write_signs(xi, gi, low, high, x.dtype.type(eps[i]), out[i])
            elif flag == 0:
                v = gi
                if len(order) == FIRST:
                    _fill_gains(xi, gi, low, high, scratch)
                    if counts[i] == 0:
                        _fill_up(xi, gi, low, high, eps[i], scratch, out[i])
                        flags[i] = 0
                        break
                    guesses = zero, zero
                    if m < n:
                        guesses = _sample_bracket(scratch, counts[i] / n, room)
                    _fill_signs(gi, _threshold_of(scratch, counts[i], None, guesses), scratch)
                    v = scratch
                elif len(order) != SQUARE:
                    # where nothing can move the largest is 0, and so will eta be
                    _fill_dual(gi, largest_movable(xi, gi, low, high), smallest, dual, scratch)
                    v = scratch
                root, flag = solve_row(
                    xi, v, low, high, eps[i], order, wide, tolerance, rtol, room, direction
                )
                if root >= ceiling and scaled == 0:  # a gradient so small that eta is not a number
                    flag = NAN_DELTA
                root = min(root, ceiling)
                if flag == 0 and len(order) == FIRST and over:
                    write_in_place(xi, v, low, high, x.dtype.type(root))
                elif flag == 0 and len(order) == SQUARE and over and scaled == 0:
                    _write_over(xi, v, low, high, x.dtype.type(root))
                elif flag == 0:
                    write_row(xi, v, low, high, x.dtype.type(root), out[i])
            flags[i] = flag
            if flag != NAN_DELTA or not lenient:
                break
            _fill_finite(g[i], cleaned)
            gi = cleaned
