"""The root of ``||min(eta |v|, room)||_p = eps`` for one row.

Everything is measured in units of eps: with ``w_i = scale |v_i|`` and ``r_i = inverse room_i``
(``inverse = 1 / eps``, ``eta = scale / inverse``) the root has ``sum min(w, r)^p = 1`` whatever
the units of x and delta, so that float32 neither overflows nor underflows.

A pass returns two sums, of which Newton's step is made:

    total  = sum_i min(w_i, r_i)^p
    moving = sum_{w_i < r_i} w_i^p        (u d total / d u for u = eta^p)
    u <- u (1 + (1 - total) / moving)

``total`` is concave in u, so a step from anywhere lands at or below the root, and from there the
iterates rise. They start at the root of a small sample of the row. Rows that this cannot do in
the array's precision (sums that vanish, unreachable eps, heavy tails) go to `_bracketed`.
"""

# numba infers the types of what it compiles
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import math

import numpy as np

from .compiling import CALLED_FROM_PYTHON, FAST, clipped, compiled, row_of
from .passes import (
    SAMPLE_MAX,
    beyond,
    far_corner,
    find_violations,
    largest_open,
    sample_size,
    sum_row,
    take_sample,
)
from .powers import INFINITE

SOLVE_ONLY, WRITE, WRITE_IN_PLACE = 0, 1, 2

# How far the sample's own root is found: sampling errs by more than that.
SAMPLE_RTOL = 1e-2
SAMPLE_PASSES = np.int64(12)  # a plain integer is a type of its own to numba, compiled for itself
# Start so many standard errors of the sample's sum beyond its root; twice as many after the
# longest sample, where they are short and a start beyond the root saves a pass.
SAMPLE_ERRORS = 1
PASSES = np.int64(40)
# Halving the 2100 binades of float64 down to its last bit takes 64 steps; Newton takes the others.
BRACKETED_PASSES = np.int64(200)
# A relative step in u from which on Newton runs in log u, and its longest step in log eta.
LARGE_STEP = 0.5
LONGEST_STEP = 20.0
# From this pass on a step must halve the bracket, or the bracket is halved instead: hard rows take
# a few passes less without, but nothing else ends a search that creeps.
FREE_PASSES = 20
# Room for the rescaling of a start before float32 ends.
SMALLEST_SCALE, LARGEST_SCALE = 1e-36, 1e36
TINY = 1e-30  # sums below have lost their small terms to float32's underflow
NO_ROOT = -1.0
LENGTHENED = 2.0**300  # makes normal numbers of the smallest
SMALLEST_EPS = float(np.finfo(np.float64).tiny)  # below it 1 / eps overflows: taken as 0


@compiled()
def _newton(
    x, v, lower, upper, target, p, inverse, order, scale, total, moving, low, high, rtol, passes
):
    """Return the scale with |total - target| <= rtol, or NO_ROOT.

    total and moving are the sums at the first scale. low and high are scales on either side of the
    root, 0 and infinity if not known. Elements are computed with in the type of `inverse`.
    """
    moving_high, width = 0.0, np.inf
    for k in range(passes):
        residual = target - total
        if abs(residual) <= rtol:
            return scale
        if residual > 0:
            low = max(low, scale)
            if high == np.inf and not moving > TINY * target:
                return NO_ROOT
        else:
            high = min(high, scale)
            moving_high = moving if moving < np.inf else 0.0
        relative = residual / moving
        if abs(relative) < LARGE_STEP or (k == 0 and residual > 0):
            # The first step starts where next to nothing is saturated, and is nearly exact.
            following = scale * (1 + relative) ** (1 / p)
            if residual > 0 and following < high:
                # `total` is concave in u: up to `high` it rises at least as fast as there, and up
                # to infinity it need not rise at all.
                least = residual * moving_high / moving * (scale / high) ** p
                if residual - least <= rtol:
                    return following
        else:
            # Far away, Newton in log u: directions that span hundreds of binades are nearly
            # linear in it. This step can overshoot; nor need it be a number.
            following = scale * math.exp(max(min(relative / p, LONGEST_STEP), -LONGEST_STEP))
        if high == np.inf:
            following = min(following, LARGEST_SCALE)
        scale = float(type(inverse)(following))
        if high == np.inf and scale <= low:
            return NO_ROOT
        if low > 0 and high < np.inf:
            shrunk = math.log(high) - math.log(low)
            if not low < scale < high or (k >= FREE_PASSES and shrunk > width / 2):
                following = math.sqrt(low) * math.sqrt(high)
                scale = float(type(inverse)(following))
                shrunk = np.inf
                if not low < scale < high:  # nothing in between in this precision
                    return following
            width = shrunk
        total, moving, _ = sum_row(x, v, lower, upper, type(inverse)(scale), inverse, order, None)
    return NO_ROOT


@compiled()
def _bracketed(x, v, lower, upper, eps, order, rtol):
    """Return eta for any row, at several times the cost: in float64, between known bounds."""
    p, inverse, lengthened = order[-1], 1 / eps, 1.0
    reach, furthest, largest = far_corner(x, v, lower, upper, inverse, order)
    if largest < SMALLEST_EPS:  # 1 / largest overflows
        # In the dtype of v, for which all is compiled anyway: of float32 only 0 is so small.
        longer = np.empty_like(v)
        for j in range(v.size):
            longer[j] = v[j] * LENGTHENED
        v, lengthened = longer, LENGTHENED
        reach, furthest, largest = far_corner(x, v, lower, upper, inverse, order)
    if reach <= 1 + rtol:
        return furthest * beyond(x) * lengthened
    high = min(furthest * inverse, float(np.finfo(np.float64).max))
    low = max(1 / (largest * x.size ** (1 / p)), SMALLEST_EPS)
    total, moving, _ = sum_row(x, v, lower, upper, low, inverse, order, None)
    scale = _newton(
        x, v, lower, upper, 1.0, p, inverse, order, low, total, moving, 0.0, high,
        rtol, BRACKETED_PASSES,
    )  # fmt: skip
    return (scale / inverse if scale > 0 else furthest) * lengthened


@compiled()
def solve_row(x, v, lower, upper, eps, order, wide, tolerance, rtol, room, direction):
    """Return eta and flags of one row; room and direction are scratch for the sample."""
    if eps < SMALLEST_EPS:
        return 0.0, find_violations(x, v, lower, upper, tolerance)
    p, n, m = wide[-1], x.size, room.size
    inverse = x.dtype.type(1 / eps)
    zero = x.dtype.type(0)
    largest = take_sample(x, v, lower, upper, room, direction)
    # The sum of powers is at least its largest term, and at most n times that.
    start = 1 / (largest * n ** (1 / p))  # or infinite
    if SMALLEST_SCALE < start < LARGEST_SCALE and 0 < inverse < np.inf:
        # 1 but for the rounding of `inverse`, which large p raises
        target = (float(inverse) * eps) ** p
        share = target * m / n
        guess = float(x.dtype.type(start))
        total, moving, _ = sum_row(
            room, direction, zero, zero, x.dtype.type(guess), inverse, order, None
        )
        guess = _newton(
            room, direction, zero, zero, share, p, inverse, order, guess, total, moving,
            0.0, np.inf, share * SAMPLE_RTOL, SAMPLE_PASSES,
        )  # fmt: skip
        if guess == NO_ROOT:
            guess = start
        elif m < n:
            # A first pass beyond the root tells how fast `total` rises at most from then on.
            guess *= 1 + SAMPLE_ERRORS * (1 + m / SAMPLE_MAX) * math.sqrt(2 / m) / p
        guess = float(x.dtype.type(guess))
        total, moving, violations = sum_row(
            x, v, lower, upper, x.dtype.type(guess), inverse, order, tolerance
        )
        if violations > 0:
            return 0.0, find_violations(x, v, lower, upper, tolerance)
        scale = _newton(
            x, v, lower, upper, target, p, inverse, order, guess, total, moving,
            0.0, np.inf, target * rtol, PASSES,
        )  # fmt: skip
        if scale > 0:
            return scale / float(inverse), 0
    else:
        flags = find_violations(x, v, lower, upper, tolerance)
        if flags:
            return 0.0, flags
    return _bracketed(x, v, lower, upper, eps, wide, rtol), 0


@compiled()
def solve_row_inf(x, v, lower, upper, eps, wide, tolerance):
    """Return eta and flags of one row for p = inf, in closed form."""
    largest, violations = largest_open(x, v, lower, upper, x.dtype.type(eps), tolerance)
    if violations > 0:
        return 0.0, find_violations(x, v, lower, upper, tolerance)
    if largest == 0:
        # the sum that eps is the unit of is not used
        return far_corner(x, v, lower, upper, eps, (eps,))[1] * beyond(x), 0
    return eps / largest, 0


@compiled(fastmath=FAST)
def write_row(x, v, lower, upper, eta, out):
    """clip(x + eta v)."""
    for j in range(x.size):
        moved = x[j] + eta * v[j]
        out[j] = clipped(moved, lower, upper, j)


@compiled(fastmath=FAST)
def write_in_place(x, v, lower, upper, eta):
    """Write clip(x + eta v) over x: a loop that may alias is run element by element."""
    for j in range(x.size):
        moved = x[j] + eta * v[j]
        x[j] = clipped(moved, lower, upper, j)


@compiled(**CALLED_FROM_PYTHON)
def solve_rows(
    x, x_step, v, v_step, n, lower, upper, eps, order, wide, tolerance, rtol, out, out_step, mode,
    eta, flags, first, last,
):  # fmt: skip
    """Rows first..last of flat arrays whose rows are `*_step` elements apart; see `solve_row`."""
    m = sample_size(n)
    room, direction = np.empty(m, x.dtype), np.empty(m, x.dtype)
    ceiling = float(np.finfo(x.dtype).max)
    for i in range(first, last):
        xi, vi = x[i * x_step : i * x_step + n], v[i * v_step : i * v_step + n]
        low, high = row_of(lower, i), row_of(upper, i)
        if len(order) == INFINITE:
            root, flag = solve_row_inf(xi, vi, low, high, eps[i], wide, tolerance)
        else:
            root, flag = solve_row(
                xi, vi, low, high, eps[i], order, wide, tolerance, rtol, room, direction
            )
        eta[i], flags[i] = min(root, ceiling), flag
        if mode == WRITE:
            start = i * out_step
            write_row(xi, vi, low, high, x.dtype.type(eta[i]), out[start : start + n])
        elif mode == WRITE_IN_PLACE:
            write_in_place(xi, vi, low, high, x.dtype.type(eta[i]))
