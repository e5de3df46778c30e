"""The way back onto ball or sphere inside the bounds, row by row while the row is in the cache.

What works in place has one argument for it: of two that may be the same array the compiler has
to expect any overlap.
"""

# numba infers the types of what it compiles
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np

from .compiling import (
    BLOCK,
    CALLED_FROM_PYTHON,
    FAST,
    bits_of,
    clipped,
    compiled,
    part_of,
    room_at,
    row_of,
    value_at,
)
from .momentum import mix
from .passes import find_violations, largest_movable, sample_size, take_sample
from .powers import FIRST, INFINITE
from .roots import BRACKETED_PASSES, SAMPLE_RTOL, solve_row, solve_row_inf, write_row

RTOL_INF = 1e-6  # a factor this close to 1 is the rounding of x0 + eps


@compiled(fastmath=FAST)
def _fill_difference(center, a, scratch):
    for j in range(center.size):
        scratch[j] = a[j] - center[j]


@compiled(fastmath=FAST)
def _clip(a, lower, upper):
    for j in range(a.size):
        a[j] = clipped(a[j], lower, upper, j)


@compiled(fastmath=FAST)
def _limit_block(center, a, lower, upper, eps, tolerance):
    """Two clips, the projection for p = inf; what they do not touch stays to the last digit.

    Returns the largest |a - center| left, and the number of violations, with which a stays.
    """
    zero, one = a.dtype.type(0), a.dtype.type(1)
    infinity = bits_of(a.dtype.type(np.inf))
    violations = zero
    for j in range(a.size):
        above, below = value_at(upper, j) - center[j], center[j] - value_at(lower, j)
        fine = (above >= -tolerance) & (below >= -tolerance)
        violations += zero if fine & (bits_of(abs(a[j])) < infinity) else one
    if violations > 0:
        return zero, violations
    largest = bits_of(zero)
    for j in range(a.size):
        low, high = center[j] - eps, center[j] + eps
        moved = a[j] if a[j] > low else low
        moved = moved if moved < high else high
        a[j] = clipped(moved, lower, upper, j)
        largest = max(largest, bits_of(abs(a[j] - center[j])))
    return bits_of(largest), violations


@compiled()
def _limit(center, a, lower, upper, eps, tolerance):
    """Run `_limit_block` over a row, and stop at the first block with a violation."""
    largest = a.dtype.type(0)
    for start in range(0, a.size, BLOCK):
        stop = min(start + BLOCK, a.size)
        size, violations = _limit_block(
            center[start:stop],
            a[start:stop],
            part_of(lower, start, stop),
            part_of(upper, start, stop),
            eps,
            tolerance,
        )
        if violations > 0:
            return largest, False
        largest = max(largest, size)
    return largest, True


@compiled(fastmath=FAST)
def _shrunk_block(x, v, lower, upper, t):
    """Return sum min(max(|v| - t, 0), room), and how many terms still change with t."""
    zero, one = 0.0, 1.0
    size, active = zero, zero
    for j in range(x.size):
        room = float(room_at(x, v, lower, upper, j))
        room = room if room > zero else zero
        over = abs(float(v[j])) - t
        c = over if over < room else room
        size += c if c > zero else zero
        active += one if (over > zero) & (over < room) else zero
    return size, active


@compiled()
def _threshold_l1(x, v, lower, upper, eps, start, high, rtol):
    """Return the t > 0 with sum min(max(|v| - t, 0), room) = eps; at t = 0 it is more than eps.

    Newton on a piecewise linear function, and halving where that leads out of the bracket. In
    float64: where a hundred thousand terms change with t, its rounding to float32 is seen in their
    sum.
    """
    low, t = 0.0, start
    for _ in range(BRACKETED_PASSES):
        if not low < t < high:
            t = low + (high - low) / 2
            if not low < t < high:
                break
        size, active = _shrunk_block(x, v, lower, upper, t)
        residual = size - eps
        if abs(residual) <= rtol * eps:
            break
        if residual > 0:
            low = t
        else:
            high = t
        t = t + residual / active if active > 0 else low  # the latter has the bracket halved
    return t


@compiled(fastmath=FAST)
def _write_shrunk(x, v, lower, upper, t, out):
    for j in range(x.size):
        over = abs(float(v[j])) - t
        over = over if over > 0.0 else 0.0
        moved = x[j] + x.dtype.type(over if v[j] > 0 else -over)
        out[j] = clipped(moved, lower, upper, j)


@compiled()
def _project_l1(x, v, lower, upper, eps, rtol, room, direction, out):
    """Writes the projection and returns its threshold; 0, and nothing written, in the ball."""
    total, active = _shrunk_block(x, v, lower, upper, 0.0)
    if total <= eps:
        return 0.0
    largest = float(largest_movable(x, v, lower, upper))
    start = (total - eps) / max(active, 1.0)
    if room.size < v.size:
        top = take_sample(x, v, lower, upper, room, direction)
        zero = x.dtype.type(0)
        start = _threshold_l1(
            room, direction, zero, zero, eps * room.size / v.size, start, top, SAMPLE_RTOL
        )
    if eps == 0:
        for j in range(x.size):  # assigning slices would compile text for an error message
            out[j] = clipped(x[j], lower, upper, j)
        # just below, where the largest term still changes: what the derivative is taken of
        return float(np.nextafter(x.dtype.type(largest), x.dtype.type(0)))
    t = _threshold_l1(x, v, lower, upper, eps, start, largest, rtol)
    _write_shrunk(x, v, lower, upper, t, out)
    return t


@compiled(**CALLED_FROM_PYTHON)
def project_rows(
    x0, a, b, c, mixed, momentum, lower, upper, eps, order, wide, tolerance, rtol, sphere,
    threshold, missing, flags, first, last,
):  # fmt: skip
    """Rows first..last: a becomes the nearest point to a in ball and box; at eps if `sphere`.

    For other p than 1, 2 and inf the radial point instead. If `mixed` is 1, a is first mixed with b
    and c: `mix`; if it is 2, a is projected, mixed and projected again, while the row is in the
    cache. For p = 1 threshold[i] is what the projection takes off |a - x0|, 0 where a is in the
    ball, and missing[i] what a perturbation that ran out of room lacks to eps.
    """
    n = x0.shape[1]
    m = sample_size(n)
    room, direction = np.empty(m, x0.dtype), np.empty(m, x0.dtype)
    v = np.empty(n, x0.dtype)
    for i in range(first, last):
        center, low, high = x0[i], row_of(lower, i), row_of(upper, i)
        point = a[i]
        for k in range(max(mixed, 1)):
            if k == mixed - 1:
                mix(point, b[i], c[i], momentum)
            if len(order) == INFINITE:
                size, fine = _limit(center, point, low, high, x0.dtype.type(eps[i]), tolerance)
                if not fine:
                    _fill_difference(center, point, v)
                    flags[i] = find_violations(center, v, low, high, tolerance)
                    break
                if sphere and size < eps[i] * (1 - RTOL_INF):
                    _fill_difference(center, point, v)
                    root, _ = solve_row_inf(center, v, low, high, eps[i], wide, tolerance)
                    write_row(center, v, low, high, x0.dtype.type(root), point)
                continue
            _fill_difference(center, point, v)
            if len(order) == FIRST:
                flags[i] = find_violations(center, v, low, high, tolerance)
                if flags[i]:
                    break
                missing[i] = 0
                threshold[i] = _project_l1(
                    center, v, low, high, eps[i], rtol, room, direction, point
                )
                if threshold[i] > 0:
                    continue
                if not sphere:
                    _clip(point, low, high)
                    continue
            root, flags[i] = solve_row(
                center, v, low, high, eps[i], order, wide, tolerance, rtol, room, direction
            )
            if flags[i]:
                break
            if not sphere and root >= 1:
                _clip(point, low, high)
            else:
                root = min(root, float(np.finfo(x0.dtype).max))
                write_row(center, v, low, high, x0.dtype.type(root), point)
                if len(order) == FIRST:
                    _fill_difference(center, point, v)
                    size, _ = _shrunk_block(center, v, low, high, 0.0)
                    missing[i] = eps[i] - size
