"""Passes over a row, or a sample of it: what they add up and what they find."""

# numba infers the types of what it compiles
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np

from .compiling import BLOCK, FAST, bits_of, compiled, part_of, room_at, value_at
from .powers import power

NAN_X, NAN_DELTA, OUT_OF_BOUNDS = 1, 2, 4
# Elements of the sample are taken in runs of two cache lines.
SAMPLE_RUN = 32
SAMPLE_MIN = 128
SAMPLE_MAX = 4096
SAMPLE_SHARE = 16


@compiled(fastmath=FAST)
def _block_sums(x, v, lower, upper, scale, inverse, order, tolerance):
    zero, one = type(scale)(0), type(scale)(1)
    largest = np.finfo(v.dtype).max
    total, moving, violations = zero, zero, zero
    for j in range(x.size):
        above, below = value_at(upper, j) - x[j], x[j] - value_at(lower, j)
        r = (above if v[j] > 0 else below) * inverse
        w = abs(v[j]) * scale
        c = w if w < r else r
        c = c if c > zero else zero
        q = power(c, order)
        total += q
        # No `total - saturated`: two independent masks or sums survive re-association.
        moving += q if w < r else zero
        if tolerance is not None:
            fine = (above >= -tolerance) & (below >= -tolerance) & (abs(v[j]) <= largest)
            violations += zero if fine else one
    return total, moving, violations


@compiled()
def sum_row(x, v, lower, upper, scale, inverse, order, tolerance):
    """total, moving, and how many elements are not finite or out of bounds (None: unchecked)."""
    total, moving, violations = 0.0, 0.0, 0.0
    for start in range(0, x.size, BLOCK):
        stop = min(start + BLOCK, x.size)
        a, b, c = _block_sums(
            x[start:stop],
            v[start:stop],
            part_of(lower, start, stop),
            part_of(upper, start, stop),
            scale,
            inverse,
            order,
            tolerance,
        )
        total += a
        moving += b
        violations += c
    return total, moving, violations


@compiled(fastmath=FAST)
def _count_violations(x, v, lower, upper, tolerance):
    largest, one, zero = np.finfo(v.dtype).max, x.dtype.type(1), x.dtype.type(0)
    nan_x, bad_v, outside = zero, zero, zero
    for j in range(x.size):
        nan_x += zero if x[j] == x[j] else one
        bad_v += zero if abs(v[j]) <= largest else one
        above, below = value_at(upper, j) - x[j], x[j] - value_at(lower, j)
        outside += one if (above < -tolerance) | (below < -tolerance) else zero
    return nan_x, bad_v, outside


@compiled()
def find_violations(x, v, lower, upper, tolerance):
    """Flags of a row."""
    nan_x, bad_v, outside = 0.0, 0.0, 0.0
    for start in range(0, x.size, BLOCK):
        stop = min(start + BLOCK, x.size)
        a, b, c = _count_violations(
            x[start:stop],
            v[start:stop],
            part_of(lower, start, stop),
            part_of(upper, start, stop),
            tolerance,
        )
        nan_x += a
        bad_v += b
        outside += c
    return (
        (NAN_X if nan_x > 0 else 0)
        | (NAN_DELTA if bad_v > 0 else 0)
        | (OUT_OF_BOUNDS if outside > 0 else 0)
    )


@compiled(fastmath=FAST)
def _far_block(x, v, lower, upper, inverse, order):
    total, furthest = 0.0, bits_of(0.0)
    largest = furthest
    for j in range(x.size):
        room, size = float(room_at(x, v, lower, upper, j)), float(abs(v[j]))
        live = (size > 0) & (room > 0)
        total += power(room * inverse if live else 0.0, order)
        # The order of the bits of floats >= 0 is theirs; maxima of integers are vectorised.
        furthest = max(furthest, bits_of(room / size if live else 0.0))
        largest = max(largest, bits_of(size if live else 0.0))
    return total, bits_of(furthest), bits_of(largest)


@compiled()
def far_corner(x, v, lower, upper, inverse, order):
    """Return sum r^p over v != 0, the largest room / |v|, and the largest |v| with room."""
    reach = furthest = largest = 0.0
    for start in range(0, x.size, BLOCK):
        stop = min(start + BLOCK, x.size)
        a, b, c = _far_block(
            x[start:stop],
            v[start:stop],
            part_of(lower, start, stop),
            part_of(upper, start, stop),
            inverse,
            order,
        )
        reach += a
        furthest = max(furthest, b)
        largest = max(largest, c)
    return reach, furthest, largest


@compiled()
def beyond(x):
    """Return a factor after which a breakpoint is still passed when rounded to the dtype of x."""
    return 1 + 2 * float(np.finfo(x.dtype).eps)


@compiled(fastmath=FAST)
def _block_largest(x, v, lower, upper, eps, tolerance):
    """Return the largest |v| with room >= eps, and the number of violations."""
    zero, one = v.dtype.type(0), v.dtype.type(1)
    infinity = bits_of(v.dtype.type(np.inf))
    # Maxima are taken of the bits: those of numbers >= 0 are in the order of the numbers, and
    # the compiler vectorises a maximum of floats only where it may ignore NaN.
    largest, violations = bits_of(zero), zero
    for j in range(x.size):
        above, below = value_at(upper, j) - x[j], x[j] - value_at(lower, j)
        size = bits_of(abs(v[j]))
        open_size = size if (above if v[j] > 0 else below) >= eps else bits_of(zero)
        largest = max(largest, open_size)
        fine = (above >= -tolerance) & (below >= -tolerance) & (size < infinity)
        violations += zero if fine else one
    return bits_of(largest), violations


@compiled()
def largest_open(x, v, lower, upper, eps, tolerance):
    """Return the largest |v| with room >= eps in a row, and the number of violations."""
    largest, violations = v.dtype.type(0), 0.0
    for start in range(0, x.size, BLOCK):
        stop = min(start + BLOCK, x.size)
        a, b = _block_largest(
            x[start:stop],
            v[start:stop],
            part_of(lower, start, stop),
            part_of(upper, start, stop),
            eps,
            tolerance,
        )
        largest = max(largest, a)
        violations += b
    return float(largest), violations


@compiled(fastmath=FAST)
def largest_movable(x, g, lower, upper):
    """Return the largest |g| among what can move along g."""
    largest = bits_of(g.dtype.type(0))
    for j in range(x.size):
        room = room_at(x, g, lower, upper, j)
        largest = max(largest, bits_of(abs(g[j]) if room > 0 else g.dtype.type(0)))
    return bits_of(largest)


@compiled()
def sample_size(n):
    """Return the size of a sample: all of a short row, whole runs of a long one."""
    if n <= SAMPLE_MIN:
        return n
    return min(max(n // SAMPLE_SHARE, SAMPLE_MIN), SAMPLE_MAX) // SAMPLE_RUN * SAMPLE_RUN


@compiled()
def start_of_run(k, runs, n):
    """Return where run k of a sample begins in a row: the first and the last at its ends."""
    return k * (n - SAMPLE_RUN) // (runs - 1)


@compiled(fastmath=FAST)
def _take_run(x, v, lower, upper, room, direction):
    largest = bits_of(v.dtype.type(0))
    for j in range(x.size):
        room[j], direction[j] = room_at(x, v, lower, upper, j), -abs(v[j])
        largest = max(largest, bits_of(abs(v[j]) if room[j] > 0 else v.dtype.type(0)))
    return bits_of(largest)


@compiled()
def take_sample(x, v, lower, upper, room, direction):
    """Fills room and direction = -|v| from evenly spaced runs of the row; returns max |v|.

    The minus makes `room` the distance to a lower bound of 0, so the same passes serve.
    """
    m, n = room.size, x.size
    if m == n:
        return np.float64(_take_run(x, v, lower, upper, room, direction))
    runs = m // SAMPLE_RUN
    largest = np.float64(0)
    for k in range(runs):
        start, to = start_of_run(k, runs, n), k * SAMPLE_RUN
        stop = start + SAMPLE_RUN
        run_largest = _take_run(
            x[start:stop],
            v[start:stop],
            part_of(lower, start, stop),
            part_of(upper, start, stop),
            room[to : to + SAMPLE_RUN],
            direction[to : to + SAMPLE_RUN],
        )
        largest = max(largest, np.float64(run_largest))
    return largest
