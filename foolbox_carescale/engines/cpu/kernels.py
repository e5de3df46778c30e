"""Compiled passes over rows: the root of ``||min(eta |v|, room)||_p = eps``, and its gradient.

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

This is one module because numba's disk cache only looks at the file of the outermost function.
"""

# numba infers the types of what it compiles
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

NAN_X, NAN_DELTA, OUT_OF_BOUNDS = 1, 2, 4
SOLVE_ONLY, WRITE, WRITE_IN_PLACE = 0, 1, 2

# Sums in the array's precision run over blocks of this many elements and are added up in float64:
# no cost, and right for rows of 12 million elements, where one float32 sum is off by 1e-5.
BLOCK = 4096
# Elements of the sample are taken in runs of two cache lines.
SAMPLE_RUN = 32
SAMPLE_MIN = 128
SAMPLE_MAX = 4096
SAMPLE_SHARE = 16
# How far the sample's own root is found: sampling errs by more than that.
SAMPLE_SLACK = 1e-2
SAMPLE_PASSES = 12
# Start so many standard errors of the sample's sum beyond its root; twice as many after the
# longest sample, where they are short and a start beyond the root saves a pass.
SAMPLE_ERRORS = 1
PASSES = 40
# Halving the 2100 binades of float64 down to its last bit takes 64 steps; Newton takes the others.
BRACKETED_PASSES = 200
# A relative step in u from which on Newton runs in log u, and its longest step in log eta.
LARGE_STEP = 0.5
LONGEST_STEP = 20.0
# From this pass on a step must halve the bracket, or the bracket is halved instead.
FREE_PASSES = 4
# Room for the rescaling of a start before float32 ends.
SMALLEST_SCALE, LARGEST_SCALE = 1e-36, 1e36
TINY = 1e-30  # sums below have lost their small terms to float32's underflow
NO_ROOT = -1.0
SMALLEST_EPS = float(np.finfo(np.float64).tiny)  # below it 1 / eps overflows: taken as 0
SLACK_INF = 1e-6  # a factor this close to 1 is the rounding of x0 + eps
UNREACHABLE = 1e-5  # relative distance from eps that no rounding of eta explains

# Re-association and contraction only: the checks need NaN and infinity to keep their meaning.
FAST = {"reassoc", "contract", "nsz", "arcp", "afn"}


# Most functions are called by compiled ones only: a quarter less to compile.
INTERNAL = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit`, cached on disk where there is a place to cache."""
    # Python's error model tests every division for zero, which also prevents vectorisation.
    options = {"nogil": True, "error_model": "numpy", **INTERNAL, **options}

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no writable place
            return njit(**options)(function)

    return decorate


# Bounds are numbers or arrays. These resolve by type when compiling, so that numbers cost nothing.


def _at(bound, j):
    raise NotImplementedError


def _part(bound, start, stop):
    raise NotImplementedError


def _row(bound, i):
    raise NotImplementedError


@overload(_at)
def _at_overload(bound, j):
    if isinstance(bound, types.Array):
        return lambda bound, j: bound[j]
    return lambda bound, j: bound


@overload(_part)
def _part_overload(bound, start, stop):
    if isinstance(bound, types.Array):
        return lambda bound, start, stop: bound[start:stop]
    return lambda bound, start, stop: bound


@overload(_row)
def _row_overload(bound, i):
    if isinstance(bound, types.Array):
        return lambda bound, i: bound[i if bound.shape[0] > 1 else 0]
    return lambda bound, i: bound


# Powers. `order` is (p,) * kind: the length of a tuple is part of its type, so each kind is
# compiled for itself, and (unlike a function as argument or closure) it can be cached on disk.
# For a general p it holds p in two parts, the limits of c, and p: see `general_order`.

FIRST, SQUARE, CUBE, THREE_HALVES, GENERAL, INFINITE = 1, 2, 3, 4, 5, 6
KINDS = {1.0: FIRST, 2.0: SQUARE, 3.0: CUBE, 1.5: THREE_HALVES, math.inf: INFINITE}


@compiled(fastmath=FAST)
def _power(c, order):
    """c^p for c >= 0."""
    if len(order) == FIRST:
        return c
    if len(order) == SQUARE:
        return c * c
    if len(order) == CUBE:
        return c * c * c
    if len(order) == THREE_HALVES:
        return c * np.sqrt(c)
    return _general_power(c, order[0], order[1], order[4], order[2], order[3])


@compiled(fastmath=FAST)
def _lowered_power(c, order):
    """c^(p - 1) for c >= 0; 0 instead of the infinity at c = 0 and p < 1."""
    one = type(c)(1)
    if len(order) == FIRST:
        return one
    if len(order) == SQUARE:
        return c
    if len(order) == CUBE:
        return c * c
    if len(order) == THREE_HALVES:
        return np.sqrt(c)
    return _general_power(c, order[0] - one, order[1], order[4] - one, order[2], order[3])


def general_order(p: float, dtype: np.dtype[Any]) -> tuple[float, ...]:
    """The numbers that a general power takes.

    Returns:
        p rounded to 12 bits, whose product with an exponent is exact, and the rest of p, because
        p in float32 alone would bias all terms one way; the least and the greatest c whose power
        (and whose logarithm) is a normal number; p.
    """
    fraction, exponent = math.frexp(p)
    high = math.ldexp(round(math.ldexp(fraction, 12)), exponent - 12)
    # One less than the exponents' range, for the rounding of the limits themselves.
    binades = np.finfo(dtype).maxexp - 2
    limit = 2.0 ** (binades / max(p, 1.0))
    return high, p - high, 1 / limit, limit, p


def _general_power(c, high, low, p, least, most):
    raise NotImplementedError


@overload(_general_power)
def _general_power_overload(c, high, low, p, least, most):
    if c == types.float32:
        return lambda c, high, low, p, least, most: _power32(c, high, low, p, least, most)
    return lambda c, high, low, p, least, most: _power64(c, high, low, p, least, most)


_SAME_BITS: dict[Any, Any] = {
    types.float32: types.int32,
    types.float64: types.int64,
    types.int32: types.float32,
    types.int64: types.float64,
}


@intrinsic
def _reinterpret(typing, value):
    return _SAME_BITS[value](value), _bitcast


# The bits of a float as an integer, and back.
_bits: Any = _reinterpret


def _bitcast(context, builder, signature, args):
    return builder.bitcast(args[0], context.get_value_type(signature.return_type))


# c^p = 2^(p log2 c) with c = 2^exponent m, sqrt(1/2) <= m < sqrt(2). The compiler vectorises
# these, as it does not the powers of the mathematics library: ten times as fast.
_ROOT_HALF = math.sqrt(0.5)


def _fit(function, low, high, degree, dtype):
    """Coefficients of the polynomial through the function's values at Chebyshev's nodes."""
    fit = np.polynomial.Chebyshev.interpolate(function, degree, domain=[low, high])
    return tuple(dtype(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef)


# In float32 a polynomial for log2(m) / (m - 1) costs less than a division. Both degrees are the
# first whose error is below float32's last bit.
_LOG32 = _fit(
    lambda t: np.log1p(t) / t / math.log(2), _ROOT_HALF - 1, 1 / _ROOT_HALF - 1, 8, np.float32
)
_EXP32 = _fit(np.exp2, -0.5, 0.5, 6, np.float32)
_ROOT_HALF_BITS32 = np.int32(np.float32(_ROOT_HALF).view(np.int32))
_MANTISSA32 = np.int32(23)
_EXPONENT_BITS32 = np.int32(-(1 << 23))
_EXPONENT_UNIT32 = np.float32(2.0**-23)
# A float32 of this size has no bits for fractions, so adding it rounds; its last bits count up.
_ROUND32 = np.float32(1.5 * 2**23)
_ONE32 = np.float32(1)

# In float64: log2(m) = 2 / ln 2 (t + t^3/3 + t^5/5 + ...) with t = (m - 1) / (m + 1), and
# 2^f = sum (ln 2)^k / k! f^k, both cut where the next term is below the last bit.
_LOG = tuple(2 / math.log(2) / (2 * k + 1) for k in range(10))
_EXP = tuple(math.log(2) ** k / math.factorial(k) for k in range(13))
_ROOT_HALF_BITS64 = np.int64(np.float64(_ROOT_HALF).view(np.int64))
_BIAS64, _MANTISSA64 = np.int64(1023), np.int64(52)
_ONE64 = np.float64(1)


@compiled(fastmath={"contract"})
def _power32(c, high, low, p, least, most):
    """c^p for p = high + low; 0 where c <= least, most^p where c > most."""
    clamped = c if c > least else least
    bits = _bits(clamped if clamped < most else most)
    # numba widens integer arithmetic to 64 bits, which would halve the speed
    scaled = np.int32(np.int32(bits - _ROOT_HALF_BITS32) & _EXPONENT_BITS32)
    t = _bits(np.int32(bits - scaled)) - _ONE32
    e = np.float32(scaled)
    log = _LOG32[6] + t * (_LOG32[7] + t * _LOG32[8])
    log = _LOG32[3] + t * (_LOG32[4] + t * (_LOG32[5] + t * log))
    log = t * (_LOG32[0] + t * (_LOG32[1] + t * (_LOG32[2] + t * log)))
    exact = e * (high * _EXPONENT_UNIT32)
    inexact = p * log + e * (low * _EXPONENT_UNIT32)
    rounded = (exact + inexact) + _ROUND32
    f = (exact - (rounded - _ROUND32)) + inexact
    power = _EXP32[3] + f * (_EXP32[4] + f * (_EXP32[5] + f * _EXP32[6]))
    power = _EXP32[0] + f * (_EXP32[1] + f * (_EXP32[2] + f * power))
    power = _bits(np.int32(_bits(power) + np.int32(_bits(rounded) << _MANTISSA32)))
    return power if c > least else np.float32(0)


@compiled(fastmath={"contract"})
def _power64(c, high, low, p, least, most):
    """As `_power32`."""
    clamped = c if c > least else least
    bits = _bits(clamped if clamped < most else most)
    exponent = (bits - _ROOT_HALF_BITS64) >> _MANTISSA64
    m = _bits(bits - (exponent << _MANTISSA64))
    t = (m - _ONE64) / (m + _ONE64)
    q = t * t
    log = _LOG[7] + q * (_LOG[8] + q * _LOG[9])
    log = _LOG[4] + q * (_LOG[5] + q * (_LOG[6] + q * log))
    log = _LOG[1] + q * (_LOG[2] + q * (_LOG[3] + q * log))
    log = t * (_LOG[0] + q * log)
    exact = high * np.float64(exponent)
    inexact = p * log + low * np.float64(exponent)
    whole = np.floor((exact + inexact) + 0.5)
    f = (exact - whole) + inexact
    e = _EXP[9] + f * (_EXP[10] + f * (_EXP[11] + f * _EXP[12]))
    e = _EXP[5] + f * (_EXP[6] + f * (_EXP[7] + f * (_EXP[8] + f * e)))
    e = _EXP[0] + f * (_EXP[1] + f * (_EXP[2] + f * (_EXP[3] + f * (_EXP[4] + f * e))))
    power = e * _bits((np.int64(whole) + _BIAS64) << _MANTISSA64)
    return power if c > least else 0.0


# Passes over a row.


@compiled(fastmath=FAST)
def _block_sums(x, v, lower, upper, scale, inverse, order, tolerance):
    zero, one = type(scale)(0), type(scale)(1)
    largest = np.finfo(v.dtype).max
    total, moving, offences = zero, zero, zero
    for j in range(x.size):
        above, below = _at(upper, j) - x[j], x[j] - _at(lower, j)
        r = (above if v[j] > 0 else below) * inverse
        w = abs(v[j]) * scale
        c = w if w < r else r
        c = c if c > zero else zero
        q = _power(c, order)
        total += q
        # No `total - saturated`: two independent masks or sums survive re-association.
        moving += q if w < r else zero
        if tolerance is not None:
            fine = (above >= -tolerance) & (below >= -tolerance) & (abs(v[j]) <= largest)
            offences += zero if fine else one
    return total, moving, offences


@compiled()
def _sums(x, v, lower, upper, scale, inverse, order, tolerance):
    """total, moving, and how many elements are not finite or out of bounds (None: unchecked)."""
    total, moving, offences = 0.0, 0.0, 0.0
    for start in range(0, x.size, BLOCK):
        stop = min(start + BLOCK, x.size)
        a, b, c = _block_sums(
            x[start:stop],
            v[start:stop],
            _part(lower, start, stop),
            _part(upper, start, stop),
            scale,
            inverse,
            order,
            tolerance,
        )
        total += a
        moving += b
        offences += c
    return total, moving, offences


@compiled(fastmath=FAST)
def _count_offences(x, v, lower, upper, tolerance):
    largest, one, zero = np.finfo(v.dtype).max, x.dtype.type(1), x.dtype.type(0)
    nan_x, bad_v, outside = zero, zero, zero
    for j in range(x.size):
        nan_x += zero if x[j] == x[j] else one
        bad_v += zero if abs(v[j]) <= largest else one
        above, below = _at(upper, j) - x[j], x[j] - _at(lower, j)
        outside += one if (above < -tolerance) | (below < -tolerance) else zero
    return nan_x, bad_v, outside


@compiled()
def _offences(x, v, lower, upper, tolerance):
    """Flags of a row."""
    nan_x, bad_v, outside = 0.0, 0.0, 0.0
    for start in range(0, x.size, BLOCK):
        stop = min(start + BLOCK, x.size)
        a, b, c = _count_offences(
            x[start:stop],
            v[start:stop],
            _part(lower, start, stop),
            _part(upper, start, stop),
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
    total, furthest, largest = 0.0, _bits(0.0), _bits(0.0)
    for j in range(x.size):
        space = _at(upper, j) - x[j] if v[j] > 0 else x[j] - _at(lower, j)
        room, size = float(space), float(abs(v[j]))
        live = (size > 0) & (room > 0)
        total += _power(room * inverse if live else 0.0, order)
        # The order of the bits of floats >= 0 is theirs; maxima of integers are vectorised.
        furthest = max(furthest, _bits(room / size if live else 0.0))
        largest = max(largest, _bits(size if live else 0.0))
    return total, _bits(furthest), _bits(largest)


@compiled()
def _far_corner(x, v, lower, upper, inverse, order):
    """The sum of r^p over v != 0, the largest breakpoint room / |v|, the largest |v| with room."""
    reach, furthest, largest = 0.0, 0.0, 0.0
    for start in range(0, x.size, BLOCK):
        stop = min(start + BLOCK, x.size)
        a, b, c = _far_block(
            x[start:stop],
            v[start:stop],
            _part(lower, start, stop),
            _part(upper, start, stop),
            inverse,
            order,
        )
        reach += a
        furthest = max(furthest, b)
        largest = max(largest, c)
    return reach, furthest, largest


@compiled()
def _beyond(x):
    """A factor after which a breakpoint is still passed when rounded to the dtype of x."""
    return 1 + 2 * float(np.finfo(x.dtype).eps)


# Root finding for one row.


@compiled()
def _newton(
    x, v, lower, upper, target, p, inverse, order, scale, total, moving, low, high, slack, passes
):
    """The scale with |total - target| <= slack, or NO_ROOT.

    total and moving are the sums at the first scale. low and high are scales on either side of the
    root, 0 and infinity if not known. Elements are computed with in the type of `inverse`.
    """
    moving_high, width = 0.0, np.inf
    for k in range(passes):
        gap = target - total
        if abs(gap) <= slack:
            return scale
        if gap > 0:
            low = max(low, scale)
            if high == np.inf and not moving > TINY * target:
                return NO_ROOT
        else:
            high = min(high, scale)
            moving_high = moving if moving < np.inf else 0.0
        relative = gap / moving
        if abs(relative) < LARGE_STEP or (k == 0 and gap > 0):
            # The first step starts where next to nothing is saturated, and is nearly exact.
            following = scale * (1 + relative) ** (1 / p)
            if gap > 0 and following < high < np.inf:
                # `total` is concave in u: up to `high` it rises at least as fast as there.
                least = gap * moving_high / moving * (scale / high) ** p
                if gap - least <= slack:
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
        if not 0 < scale < np.inf:
            return NO_ROOT
        total, moving, _ = _sums(x, v, lower, upper, type(inverse)(scale), inverse, order, None)
    return NO_ROOT


@compiled()
def _bracketed(x, v, lower, upper, eps, order, slack):
    """Eta for any row, at several times the cost: in float64, between bounds known beforehand."""
    p, inverse = order[-1], 1 / eps
    reach, furthest, largest = _far_corner(x, v, lower, upper, inverse, order)
    if reach <= 1 + slack:
        return furthest * _beyond(x)
    greatest = float(np.finfo(np.float64).max)
    high = min(furthest * inverse, greatest)
    ceiling = float(np.finfo(x.dtype).max)
    if furthest > ceiling:
        high = min(ceiling * inverse, greatest)
        total, _, _ = _sums(x, v, lower, upper, high, inverse, order, None)
        if total <= 1:
            return ceiling
    low = max(1 / (largest * x.size ** (1 / p)), SMALLEST_EPS)
    total, moving, _ = _sums(x, v, lower, upper, low, inverse, order, None)
    scale = _newton(
        x, v, lower, upper, 1.0, p, inverse, order, low, total, moving, 0.0, high,
        slack, BRACKETED_PASSES,
    )  # fmt: skip
    return scale / inverse if scale > 0 else furthest


@compiled()
def _sample_size(n):
    """All of a short row, whole runs of a long one."""
    if n <= SAMPLE_MIN:
        return n
    return min(max(n // SAMPLE_SHARE, SAMPLE_MIN), SAMPLE_MAX) // SAMPLE_RUN * SAMPLE_RUN


@compiled(fastmath=FAST)
def _take_run(x, v, lower, upper, room, direction):
    largest = _bits(v.dtype.type(0))
    for j in range(x.size):
        space = _at(upper, j) - x[j] if v[j] > 0 else x[j] - _at(lower, j)
        room[j] = space
        direction[j] = -abs(v[j])
        largest = max(largest, _bits(abs(v[j]) if space > 0 else v.dtype.type(0)))
    return _bits(largest)


@compiled()
def _take_sample(x, v, lower, upper, room, direction):
    """Fills room and direction = -|v| from evenly spaced runs of the row; returns max |v|.

    The minus makes `room` the distance to a lower bound of 0, so the same passes serve.
    """
    m, n = room.size, x.size
    if m == n:
        return float(_take_run(x, v, lower, upper, room, direction))
    runs = m // SAMPLE_RUN
    largest = 0.0
    for k in range(runs):
        start, to = k * (n - SAMPLE_RUN) // (runs - 1), k * SAMPLE_RUN
        stop = start + SAMPLE_RUN
        run_largest = _take_run(
            x[start:stop],
            v[start:stop],
            _part(lower, start, stop),
            _part(upper, start, stop),
            room[to : to + SAMPLE_RUN],
            direction[to : to + SAMPLE_RUN],
        )
        largest = max(largest, float(run_largest))
    return largest


@compiled()
def _solve_row(x, v, lower, upper, eps, order, wide, tolerance, slack, room, direction):
    """Eta and flags of one row; room and direction are scratch for the sample."""
    if eps < SMALLEST_EPS:
        return 0.0, _offences(x, v, lower, upper, tolerance)
    p, n, m = wide[-1], x.size, room.size
    inverse = x.dtype.type(1 / eps)
    zero = x.dtype.type(0)
    largest = _take_sample(x, v, lower, upper, room, direction)
    # The sum of powers is at least its largest term, and at most n times that.
    start = 1 / (largest * n ** (1 / p)) if largest > 0 else 0.0
    if SMALLEST_SCALE < start < LARGEST_SCALE and 0 < inverse < np.inf:
        # exactly 1 but for the rounding of `inverse`
        target = (float(inverse) * eps) ** p
        share = target * m / n
        guess = float(x.dtype.type(start))
        total, moving, _ = _sums(
            room, direction, zero, zero, x.dtype.type(guess), inverse, order, None
        )
        guess = _newton(
            room, direction, zero, zero, share, p, inverse, order, guess, total, moving,
            0.0, np.inf, share * SAMPLE_SLACK, SAMPLE_PASSES,
        )  # fmt: skip
        if guess == NO_ROOT:
            guess = start
        elif m < n:
            # A first pass beyond the root tells how fast `total` rises at most from then on.
            guess *= 1 + SAMPLE_ERRORS * (1 + m / SAMPLE_MAX) * math.sqrt(2 / m) / p
        guess = float(x.dtype.type(guess))
        total, moving, offences = _sums(
            x, v, lower, upper, x.dtype.type(guess), inverse, order, tolerance
        )
        if offences > 0:
            return 0.0, _offences(x, v, lower, upper, tolerance)
        scale = _newton(
            x, v, lower, upper, target, p, inverse, order, guess, total, moving,
            0.0, np.inf, slack, PASSES,
        )  # fmt: skip
        if scale > 0:
            return scale / float(inverse), 0
    else:
        flags = _offences(x, v, lower, upper, tolerance)
        if flags:
            return 0.0, flags
    return _bracketed(x, v, lower, upper, eps, wide, slack), 0


@compiled(fastmath=FAST)
def _write(x, v, lower, upper, eta, out):
    for j in range(x.size):
        moved = x[j] + eta * v[j]
        moved = moved if moved > _at(lower, j) else _at(lower, j)
        out[j] = moved if moved < _at(upper, j) else _at(upper, j)


@compiled(fastmath=FAST)
def _write_in_place(x, v, lower, upper, eta):
    # A separate loop, because one that may alias is run element by element when it does.
    for j in range(x.size):
        moved = x[j] + eta * v[j]
        moved = moved if moved > _at(lower, j) else _at(lower, j)
        x[j] = moved if moved < _at(upper, j) else _at(upper, j)


@compiled(fastmath=FAST)
def _block_largest(x, v, lower, upper, eps, tolerance):
    """The largest |v| with room >= eps, and the number of offences."""
    zero, one = v.dtype.type(0), v.dtype.type(1)
    infinity = _bits(v.dtype.type(np.inf))
    # Maxima are taken of the bits: those of numbers >= 0 are in the order of the numbers, and
    # the compiler vectorises a maximum of floats only where it may ignore NaN.
    largest, offences = _bits(zero), zero
    for j in range(x.size):
        above, below = _at(upper, j) - x[j], x[j] - _at(lower, j)
        size = _bits(abs(v[j]))
        open_size = size if (above if v[j] > 0 else below) >= eps else _bits(zero)
        largest = max(largest, open_size)
        fine = (above >= -tolerance) & (below >= -tolerance) & (size < infinity)
        offences += zero if fine else one
    return _bits(largest), offences


@compiled()
def _largest_open(x, v, lower, upper, eps, tolerance):
    largest, offences = v.dtype.type(0), 0.0
    for start in range(0, x.size, BLOCK):
        stop = min(start + BLOCK, x.size)
        a, b = _block_largest(
            x[start:stop],
            v[start:stop],
            _part(lower, start, stop),
            _part(upper, start, stop),
            eps,
            tolerance,
        )
        largest = max(largest, a)
        offences += b
    return float(largest), offences


@compiled()
def _solve_row_inf(x, v, lower, upper, eps, wide, tolerance):
    """Eta and flags of one row for p = inf, in closed form."""
    largest, offences = _largest_open(x, v, lower, upper, x.dtype.type(eps), tolerance)
    if offences > 0:
        return 0.0, _offences(x, v, lower, upper, tolerance)
    if eps == 0:
        return 0.0, 0
    if largest == 0:
        return _far_corner(x, v, lower, upper, 1.0, (1.0,))[1] * _beyond(x), 0
    return eps / largest, 0


@compiled(no_cpython_wrapper=False)  # called from Python
def solve_rows(
    x, x_step, v, v_step, n, lower, upper, eps, order, wide, tolerance, slack, out, out_step, mode,
    eta, flags, first, last,
):  # fmt: skip
    """Rows first..last of flat arrays whose rows are `*_step` elements apart; see `_solve_row`."""
    m = _sample_size(n)
    room, direction = np.empty(m, x.dtype), np.empty(m, x.dtype)
    ceiling = float(np.finfo(x.dtype).max)
    for i in range(first, last):
        xi, vi = x[i * x_step : i * x_step + n], v[i * v_step : i * v_step + n]
        low, high = _row(lower, i), _row(upper, i)
        if len(order) == INFINITE:
            root, flag = _solve_row_inf(xi, vi, low, high, eps[i], wide, tolerance)
        else:
            root, flag = _solve_row(
                xi, vi, low, high, eps[i], order, wide, tolerance, slack, room, direction
            )
        eta[i], flags[i] = min(root, ceiling), flag
        if mode == WRITE:
            start = i * out_step
            _write(xi, vi, low, high, x.dtype.type(eta[i]), out[start : start + n])
        elif mode == WRITE_IN_PLACE:
            _write_in_place(xi, vi, low, high, x.dtype.type(eta[i]))


# The gradient for one row, in the same units: with k = scale / moving,
#     d eta/d x_i = k r^(p-1) sign(v)         where saturated
#     d eta/d v_i = - eta k w^(p-1) sign(v)   where not
#     d eta/d eps = k


@compiled(fastmath=FAST)
def _write_gradient(x, v, lower, upper, scale, inverse, order, for_x, for_v, grad_x, grad_v):
    zero = type(scale)(0)
    largest = type(scale)(np.finfo(x.dtype).max)
    for j in range(x.size):
        r = (_at(upper, j) - x[j] if v[j] > 0 else x[j] - _at(lower, j)) * inverse
        w = abs(v[j]) * scale
        c = w if w < r else r
        q = _lowered_power(c if c > zero else zero, order)
        q = min(q, largest)
        q = q if v[j] > 0 else (-q if v[j] < 0 else zero)
        a = min(max(q * for_x, -largest), largest)
        b = min(max(q * for_v, -largest), largest)
        grad_x[j] = zero if w < r else a
        grad_v[j] = b if w < r else zero


@compiled()
def _gradient_row(x, v, lower, upper, eps, eta, p, one, order, grad, grad_x, grad_v):
    """Writes the gradient, computing in the type of `one`; False if that takes a wider type."""
    kind = type(one)
    scale, inverse = kind(eta / eps), kind(1 / eps)
    total, moving, _ = _sums(x, v, lower, upper, scale, inverse, order, None)
    if not (0 < scale < np.inf and 0 < inverse < np.inf and TINY < moving < np.inf):
        return 0.0, False
    if total ** (1 / p) < 1 - UNREACHABLE:
        grad_x[:] = 0
        grad_v[:] = 0
        return 0.0, True
    largest = float(np.finfo(x.dtype).max)
    for_eps = max(min(grad * float(scale) / moving, largest), -largest)
    for_v = max(min(-for_eps * eta, largest), -largest)
    _write_gradient(
        x, v, lower, upper, scale, inverse, order, kind(for_eps), kind(for_v), grad_x, grad_v
    )
    return for_eps, True


@compiled()
def _gradient_row_inf(x, v, lower, upper, eps, grad, grad_x, grad_v):
    """Of eta = eps / |v_k|: ties for the largest |v_k| share evenly."""
    grad_x[:] = 0
    grad_v[:] = 0
    infinity = x.dtype.type(np.inf)
    bound = x.dtype.type(eps)
    largest, _ = _largest_open(x, v, lower, upper, bound, infinity)
    if largest == 0 or eps == 0:
        return 0.0
    size, ties = v.dtype.type(largest), 0
    for j in range(x.size):
        room = _at(upper, j) - x[j] if v[j] > 0 else x[j] - _at(lower, j)
        ties += (abs(v[j]) == size) & (room >= bound)
    ceiling = float(np.finfo(x.dtype).max)
    each = max(min(-grad * (eps / largest / largest) / ties, ceiling), -ceiling)
    for j in range(x.size):
        room = _at(upper, j) - x[j] if v[j] > 0 else x[j] - _at(lower, j)
        if abs(v[j]) == size and room >= bound:
            grad_v[j] = each if v[j] > 0 else -each
    return max(min(grad / largest, ceiling), -ceiling)


@compiled(no_cpython_wrapper=False)  # called from Python
def gradient_rows(
    x, x_step, v, v_step, n, lower, upper, eps, eta, order, wide, grad, grad_x, grad_v, grad_eps,
    first, last,
):  # fmt: skip
    """The vector-Jacobian products for rows first..last; grad_x and grad_v are (N, n)."""
    for i in range(first, last):
        xi, vi = x[i * x_step : i * x_step + n], v[i * v_step : i * v_step + n]
        low, high = _row(lower, i), _row(upper, i)
        if len(order) == INFINITE:
            grad_eps[i] = _gradient_row_inf(
                xi, vi, low, high, eps[i], grad[i], grad_x[i], grad_v[i]
            )
            continue
        done = False
        if eps[i] >= SMALLEST_EPS and eta[i] > 0:
            one = x.dtype.type(1)
            grad_eps[i], done = _gradient_row(
                xi, vi, low, high, eps[i], eta[i], wide[-1], one, order, grad[i],
                grad_x[i], grad_v[i],
            )  # fmt: skip
            if not done:
                grad_eps[i], done = _gradient_row(
                    xi, vi, low, high, eps[i], eta[i], wide[-1], 1.0, wide, grad[i],
                    grad_x[i], grad_v[i],
                )  # fmt: skip
        if not done:
            grad_x[i] = 0
            grad_v[i] = 0
            grad_eps[i] = 0


# Of the perturbed point z = x + eta v where not saturated, the bound where it is: upstream g goes
# straight to x, and eta times to v, where z moves; and to eta with the weight v.


@compiled(fastmath=FAST)
def _moving_dot(x, v, lower, upper, eta, g):
    """The sum of g v over what is not saturated."""
    total = 0.0
    for j in range(x.size):
        room = _at(upper, j) - x[j] if v[j] > 0 else x[j] - _at(lower, j)
        total += float(g[j]) * float(v[j]) if abs(v[j]) * eta < room else 0.0
    return total


@compiled(fastmath=FAST)
def _add_direct(x, v, lower, upper, eta, g, grad_x, grad_v):
    zero = x.dtype.type(0)
    for j in range(x.size):
        room = _at(upper, j) - x[j] if v[j] > 0 else x[j] - _at(lower, j)
        moves = (abs(v[j]) * eta < room) | (v[j] == 0) | (eta == 0)
        grad_x[j] += g[j] if moves else zero
        grad_v[j] += eta * g[j] if moves else zero


@compiled(no_cpython_wrapper=False)  # called from Python
def point_gradient_rows(
    x, x_step, v, v_step, n, lower, upper, eps, eta, order, wide, g, grad, grad_x, grad_v, grad_eps,
    first, last,
):  # fmt: skip
    """The vector-Jacobian products of the perturbed point with g, shape (N, n); grad is scratch."""
    for i in range(first, last):
        xi, vi = x[i * x_step : i * x_step + n], v[i * v_step : i * v_step + n]
        low, high = _row(lower, i), _row(upper, i)
        ceiling = float(np.finfo(x.dtype).max)
        dot = _moving_dot(xi, vi, low, high, x.dtype.type(eta[i]), g[i])
        grad[i] = min(max(dot, -ceiling), ceiling)
    gradient_rows(
        x, x_step, v, v_step, n, lower, upper, eps, eta, order, wide, grad, grad_x, grad_v,
        grad_eps, first, last,
    )  # fmt: skip
    for i in range(first, last):
        xi, vi = x[i * x_step : i * x_step + n], v[i * v_step : i * v_step + n]
        low, high = _row(lower, i), _row(upper, i)
        _add_direct(xi, vi, low, high, x.dtype.type(eta[i]), g[i], grad_x[i], grad_v[i])


# Moves of an ascent: the exact steepest step, and the way back onto ball or sphere, row by row
# while the row is in the cache. `scratch` holds the row's direction. What works in place has one
# argument for it: of two that may be the same array the compiler has to expect any overlap.


@compiled(fastmath=FAST)
def _write_signs(x, v, lower, upper, eps, out):
    """clip(x + eps sign(v)): for p = inf no root is needed."""
    zero = x.dtype.type(0)
    for j in range(x.size):
        step = eps if v[j] > 0 else (-eps if v[j] < 0 else zero)
        moved = x[j] + step
        moved = moved if moved > _at(lower, j) else _at(lower, j)
        out[j] = moved if moved < _at(upper, j) else _at(upper, j)


@compiled(fastmath=FAST)
def _largest_movable(x, g, lower, upper):
    """The largest |g| among what can move along g."""
    largest = _bits(g.dtype.type(0))
    for j in range(x.size):
        room = _at(upper, j) - x[j] if g[j] > 0 else x[j] - _at(lower, j)
        largest = max(largest, _bits(abs(g[j]) if room > 0 else g.dtype.type(0)))
    return _bits(largest)


@compiled(fastmath=FAST)
def _fill_dual(x, g, lower, upper, top, smallest, order, scratch):
    """sign(g) (|g| / top)^(1/(p-1)), at least `smallest`, where g can move; order is of 1/(p-1)."""
    zero = x.dtype.type(0)
    for j in range(x.size):
        room = _at(upper, j) - x[j] if g[j] > 0 else x[j] - _at(lower, j)
        size = abs(g[j]) / top
        q = _power(size if size < 1 else x.dtype.type(1), order)
        q = q if q > smallest else smallest
        q = q if (size > 0) & (room > 0) else zero
        scratch[j] = q if g[j] > 0 else -q


@compiled(fastmath=FAST)
def _fill_gains(x, g, lower, upper, scratch):
    """|g| where g can move, else 0."""
    zero = x.dtype.type(0)
    for j in range(x.size):
        room = _at(upper, j) - x[j] if g[j] > 0 else x[j] - _at(lower, j)
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
        room = _at(upper, j) - x[j] if g[j] > 0 else x[j] - _at(lower, j)
        total += float(room) if gains[j] >= threshold else 0.0
    return total


@compiled()
def _count_from(gains, threshold, room_of):
    """How many gains are >= threshold, or (room_of is given) how much room they have."""
    if room_of is not None:
        return _room_from(room_of[0], room_of[1], room_of[2], room_of[3], gains, threshold)
    count = 0.0
    for start in range(0, gains.size, BLOCK):
        count += _count_block(gains[start : min(start + BLOCK, gains.size)], threshold)
    return count


def _with_bits(bits, like):
    raise NotImplementedError


@overload(_with_bits)
def _with_bits_overload(bits, like):
    if like == types.float32:
        return lambda bits, like: _bits(np.int32(bits))
    return lambda bits, like: _bits(np.int64(bits))


@compiled()
def _threshold_of(gains, count, room_of, guess_low, guess_high):
    """The largest t > 0 such that at least ``count`` of the gains (or their room) are >= t.

    The least positive number where not so many are positive. Halving the bits of t, whose order is
    that of floats >= 0, ends at the exact value. The guess of its bracket is not trusted.
    """
    like = gains.dtype.type(0)
    low, high = 1, int(_bits(gains.dtype.type(np.inf)))
    if _count_from(gains, _with_bits(low, like), room_of) <= count:
        return _with_bits(low, like)
    for k in range(BRACKETED_PASSES):
        middle = low + (high - low) // 2
        if k < 2:  # a guess that is off costs a pass, no more
            guess = int(_bits(guess_low)) if k == 0 else int(_bits(guess_high))
            middle = guess if low < guess < high else middle
        if middle == low:
            break
        found = _count_from(gains, _with_bits(middle, like), room_of)
        if found == count:
            return _with_bits(middle, like)
        if found > count:
            low = middle
        else:
            high = middle
    return _with_bits(low, like)


@compiled(fastmath=FAST)
def _fill_signs(g, threshold, scratch):
    """Signs of g where the gain in scratch reaches the threshold, else 0."""
    zero, one = g.dtype.type(0), g.dtype.type(1)
    for j in range(g.size):
        sign = one if g[j] > 0 else -one
        scratch[j] = sign if scratch[j] >= threshold else zero


@compiled(fastmath=FAST)
def _write_filled(x, g, lower, upper, gains, threshold, part, out):
    """All their room to gains above the threshold, a part of it to those at it."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for j in range(x.size):
        end = _at(upper, j) if g[j] > 0 else _at(lower, j)
        share = one if gains[j] > threshold else (part if gains[j] == threshold else zero)
        moved = x[j] + share * (end - x[j])
        out[j] = end if share == one else moved


@compiled()
def _fill_up(x, g, lower, upper, eps, gains, out):
    """The steepest step for p = 1, where ``gains`` are |g| of what can move."""
    room_of = (x, g, lower, upper)
    zero = x.dtype.type(0)
    last = _threshold_of(gains, eps, room_of, zero, zero)
    with_last = _room_from(x, g, lower, upper, gains, last)
    above = _room_from(x, g, lower, upper, gains, np.nextafter(last, x.dtype.type(np.inf)))
    part = 1.0
    if with_last > eps:
        part = max(eps - above, 0.0) / (with_last - above)
    _write_filled(x, g, lower, upper, gains, last, x.dtype.type(part), out)


@compiled()
def _sample_bracket(gains, share, sample):
    """Around the gain that this share of a sample of them reaches; ``sample`` is scratch."""
    m, n = sample.size, gains.size
    runs = m // SAMPLE_RUN
    for k in range(runs):
        start, to = k * (n - SAMPLE_RUN) // (runs - 1), k * SAMPLE_RUN
        sample[to : to + SAMPLE_RUN] = gains[start : start + SAMPLE_RUN]
    ordered = np.sort(sample)
    rank = m - share * m
    margin = 2 * SAMPLE_ERRORS * math.sqrt(share * m) + 1
    low, high = min(max(int(rank - margin), 0), m - 1), min(max(int(rank + margin), 0), m - 1)
    return ordered[low], ordered[high]


@compiled(no_cpython_wrapper=False)  # called from Python
def steepest_rows(
    x, g, lower, upper, eps, order, wide, dual, smallest, tolerance, slack, counts, out, flags,
    first, last,
):  # fmt: skip
    """Rows first..last: out = x + s, s = argmax <g, s> over ||s||_p <= eps inside the bounds.

    For p = 1 and counts[i] > 0 the step goes evenly along the signs of the counts[i] largest
    gradients that can move, instead. dual is the order of 1 / (p - 1).
    """
    n = x.shape[1]
    m = _sample_size(n)
    room, direction = np.empty(m, x.dtype), np.empty(m, x.dtype)
    scratch = np.empty(n if len(order) not in (SQUARE, INFINITE) else 1, x.dtype)
    ceiling = float(np.finfo(x.dtype).max)
    for i in range(first, last):
        xi, gi, low, high = x[i], g[i], _row(lower, i), _row(upper, i)
        if len(order) != SQUARE:  # there the root finder looks itself
            flags[i] = _offences(xi, gi, low, high, tolerance)
            if flags[i]:
                continue
        if len(order) == INFINITE:
            _write_signs(xi, gi, low, high, x.dtype.type(eps[i]), out[i])
            continue
        v = gi
        if len(order) == FIRST:
            _fill_gains(xi, gi, low, high, scratch)
            if counts[i] == 0:
                _fill_up(xi, gi, low, high, eps[i], scratch, out[i])
                continue
            below, above = x.dtype.type(0), x.dtype.type(0)
            if m < n:
                below, above = _sample_bracket(scratch, counts[i] / n, room)
            _fill_signs(gi, _threshold_of(scratch, counts[i], None, below, above), scratch)
            v = scratch
        elif len(order) != SQUARE:
            top = _largest_movable(xi, gi, low, high)
            if top > 0:
                _fill_dual(xi, gi, low, high, top, smallest, dual, scratch)
                v = scratch
        root, flag = _solve_row(
            xi, v, low, high, eps[i], order, wide, tolerance, slack, room, direction
        )
        if root >= ceiling:  # a gradient so small that eta is not a number: scaled by the caller
            flag = NAN_DELTA
        flags[i] = flag
        if flag == 0:
            _write(xi, v, low, high, x.dtype.type(root), out[i])


@compiled(fastmath=FAST)
def _fill_difference(center, a, scratch):
    for j in range(center.size):
        scratch[j] = a[j] - center[j]


@compiled(fastmath=FAST)
def _mix(a, b, c, momentum):
    """Make a of b + (1 - momentum) (a - b) + momentum (b - c)."""
    rest = a.dtype.type(1) - momentum
    for j in range(a.size):
        a[j] = b[j] + rest * (a[j] - b[j]) + momentum * (b[j] - c[j])


@compiled(fastmath=FAST)
def _clip(a, lower, upper):
    for j in range(a.size):
        moved = a[j] if a[j] > _at(lower, j) else _at(lower, j)
        a[j] = moved if moved < _at(upper, j) else _at(upper, j)


@compiled(fastmath=FAST)
def _limit_block(center, a, lower, upper, eps, tolerance):
    """Two clips, the projection for p = inf; what they do not touch stays to the last digit.

    Returns the largest |a - center| left, and the number of offences, with which a stays.
    """
    zero, one = a.dtype.type(0), a.dtype.type(1)
    infinity = _bits(a.dtype.type(np.inf))
    offences = zero
    for j in range(a.size):
        above, below = _at(upper, j) - center[j], center[j] - _at(lower, j)
        fine = (above >= -tolerance) & (below >= -tolerance)
        offences += zero if fine & (_bits(abs(a[j])) < infinity) else one
    if offences > 0:
        return zero, offences
    largest = _bits(zero)
    for j in range(a.size):
        low, high = center[j] - eps, center[j] + eps
        moved = a[j] if a[j] > low else low
        moved = moved if moved < high else high
        moved = moved if moved > _at(lower, j) else _at(lower, j)
        moved = moved if moved < _at(upper, j) else _at(upper, j)
        a[j] = moved
        largest = max(largest, _bits(abs(moved - center[j])))
    return _bits(largest), offences


@compiled()
def _limit(center, a, lower, upper, eps, tolerance):
    """`_limit_block` over a row, which it leaves at the first block with an offence."""
    largest = a.dtype.type(0)
    for start in range(0, a.size, BLOCK):
        stop = min(start + BLOCK, a.size)
        size, offences = _limit_block(
            center[start:stop],
            a[start:stop],
            _part(lower, start, stop),
            _part(upper, start, stop),
            eps,
            tolerance,
        )
        if offences > 0:
            return largest, False
        largest = max(largest, size)
    return largest, True


@compiled(fastmath=FAST)
def _shrunk_block(x, v, lower, upper, t):
    """The sum of min(max(|v| - t, 0), room), and how many of its terms still change with t."""
    zero, one = 0.0, 1.0
    size, active = zero, zero
    for j in range(x.size):
        room = float(_at(upper, j) - x[j] if v[j] > 0 else x[j] - _at(lower, j))
        room = room if room > zero else zero
        over = abs(float(v[j])) - t
        c = over if over < room else room
        size += c if c > zero else zero
        active += one if (over > zero) & (over < room) else zero
    return size, active


@compiled()
def _threshold_l1(x, v, lower, upper, eps, start, high, slack):
    """The t > 0 with sum min(max(|v| - t, 0), room) = eps, which at t = 0 is more than eps.

    Newton on a piecewise linear function, and halving where that does not help. In float64: where
    a hundred thousand terms change with t, its rounding to float32 is seen in their sum.
    """
    low, t, width = 0.0, start, np.inf
    for k in range(BRACKETED_PASSES):
        if not low < t < high:
            t = low + (high - low) / 2
            if not low < t < high:
                break
        size, active = _shrunk_block(x, v, lower, upper, t)
        gap = size - eps
        if abs(gap) <= slack * eps:
            break
        if gap > 0:
            low = t
        else:
            high = t
        following = t + gap / active if active > 0 else low
        if k >= FREE_PASSES and high - low > width / 2:
            following = low  # which is not inside, so that the bracket is halved
        width = high - low
        t = following
    return t


@compiled(fastmath=FAST)
def _write_shrunk(x, v, lower, upper, t, out):
    for j in range(x.size):
        over = abs(float(v[j])) - t
        over = over if over > 0.0 else 0.0
        moved = x[j] + x.dtype.type(over if v[j] > 0 else -over)
        moved = moved if moved > _at(lower, j) else _at(lower, j)
        out[j] = moved if moved < _at(upper, j) else _at(upper, j)


@compiled()
def _project_l1(x, v, lower, upper, eps, slack, room, direction, out):
    """Writes the projection and returns its threshold; 0, and nothing written, in the ball."""
    total, active = _shrunk_block(x, v, lower, upper, 0.0)
    if total <= eps:
        return 0.0
    largest = float(_largest_movable(x, v, lower, upper))
    start = (total - eps) / max(active, 1.0)
    if room.size < v.size:
        top = _take_sample(x, v, lower, upper, room, direction)
        zero = x.dtype.type(0)
        start = _threshold_l1(
            room, direction, zero, zero, eps * room.size / v.size, start, top, SAMPLE_SLACK
        )
    if eps == 0:
        out[:] = x
        _clip(out, lower, upper)
        # just below, where the largest term still changes: what the derivative is taken of
        return float(np.nextafter(x.dtype.type(largest), x.dtype.type(0)))
    t = _threshold_l1(x, v, lower, upper, eps, start, largest, slack)
    _write_shrunk(x, v, lower, upper, t, out)
    return t


@compiled(no_cpython_wrapper=False)  # called from Python
def constrain_rows(
    x0, a, b, c, momentum, lower, upper, eps, order, wide, tolerance, slack, sphere, threshold,
    missing, flags, first, last,
):  # fmt: skip
    """Rows first..last: a becomes the nearest point to a in ball and box; at eps if `sphere`.

    For other p than 1, 2 and inf the radial point instead. Where momentum is not None a is first
    mixed with b and c: `_mix`. For p = 1 threshold[i] is what the projection takes off |a - x0|,
    0 where a is in the ball, and missing[i] what a perturbation that ran out of room lacks to eps.
    """
    n = x0.shape[1]
    m = _sample_size(n)
    room, direction = np.empty(m, x0.dtype), np.empty(m, x0.dtype)
    v = np.empty(n, x0.dtype)
    for i in range(first, last):
        center, low, high = x0[i], _row(lower, i), _row(upper, i)
        point = a[i]
        if momentum is not None:
            _mix(point, b[i], c[i], momentum)
        if len(order) == INFINITE:
            size, fine = _limit(center, point, low, high, x0.dtype.type(eps[i]), tolerance)
            if not fine:
                _fill_difference(center, point, v)
                flags[i] = _offences(center, v, low, high, tolerance)
            elif sphere and size < eps[i] * (1 - SLACK_INF):
                _fill_difference(center, point, v)
                root, _ = _solve_row_inf(center, v, low, high, eps[i], wide, tolerance)
                _write(center, v, low, high, x0.dtype.type(root), point)
            continue
        _fill_difference(center, point, v)
        if len(order) == FIRST:
            flags[i] = _offences(center, v, low, high, tolerance)
            if flags[i]:
                continue
            threshold[i] = _project_l1(center, v, low, high, eps[i], slack, room, direction, point)
            if threshold[i] > 0:
                continue
            if not sphere:
                _clip(point, low, high)
                continue
        root, flag = _solve_row(
            center, v, low, high, eps[i], order, wide, tolerance, slack, room, direction
        )
        flags[i] = flag
        if flag:
            continue
        if not sphere and root >= 1:
            _clip(point, low, high)
        else:
            root = min(root, float(np.finfo(x0.dtype).max))
            _write(center, v, low, high, x0.dtype.type(root), point)
            if len(order) == FIRST:
                _fill_difference(center, point, v)
                size, _ = _shrunk_block(center, v, low, high, 0.0)
                missing[i] = eps[i] - size


@compiled(fastmath=FAST)
def _size_block(g):
    size = g.dtype.type(0)
    for j in range(g.size):
        size += abs(g[j])
    return size


@compiled(fastmath=FAST)
def _decay_and_add(total, decay, g, scale):
    for j in range(g.size):
        total[j] = decay * total[j] + scale * g[j]


@compiled(no_cpython_wrapper=False)  # called from Python
def accumulate_rows(total, decay, g, least, first, last):
    """Rows first..last: total = decay total + g / max(||g||_1, least), g being 0 where not finite.

    The usual row is read for its norm, and for the sum while it is in the cache.
    """
    largest = np.finfo(g.dtype).max
    for i in range(first, last):
        row, size = g[i], 0.0
        for start in range(0, row.size, BLOCK):
            size += _size_block(row[start : start + BLOCK])
        if size < np.inf:
            _decay_and_add(total[i], decay, row, g.dtype.type(1 / max(size, least)))
            continue
        size = 0.0  # a term, or in float32 the sum of a block, is not finite
        for j in range(row.size):
            size += float(abs(row[j])) if abs(row[j]) <= largest else 0.0
        for j in range(row.size):
            part = float(row[j]) / size if abs(row[j]) <= largest else 0.0
            total[i, j] = decay * total[i, j] + g.dtype.type(part)
