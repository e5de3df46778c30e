"""Compiled passes over rows: the root of ``||min(eta |v|, room)||_p = eps`` and what follows from it.

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
from typing import Any, TypeVar

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

Function = TypeVar("Function", bound=Callable[..., Any])

NAN_X, NAN_DELTA, OUT_OF_BOUNDS = 1, 2, 4
SOLVE_ONLY, WRITE, WRITE_IN_PLACE = 0, 1, 2

# Sums in the array's precision run over blocks of this many elements and are added up in float64:
# no cost, and right for rows of 12 million elements, where one float32 sum is off by 1e-5.
BLOCK = 4096
# Elements of the sample are taken in runs of two cache lines.
SAMPLE_RUN = 32
SAMPLE_MIN = 512
SAMPLE_MAX = 4096
SAMPLE_SHARE = 16
# How far the sample's own root is found: sampling errs by more than that.
SAMPLE_SLACK = 1e-2
SAMPLE_PASSES = 12
PASSES = 40
# Halving the 2100 binades of float64 down to its last bit takes 64 steps; Newton takes the others.
BRACKETED_PASSES = 200
TINY = 1e-30  # sums below have lost their small terms to float32's underflow
NO_ROOT = -1.0
SMALLEST_EPS = float(np.finfo(np.float64).tiny)  # below it 1 / eps overflows: taken as 0
UNREACHABLE = 1e-5  # relative distance from eps that no rounding of eta explains

# Re-association and contraction only: the checks need NaN and infinity to keep their meaning.
FAST = {"reassoc", "contract", "nsz", "arcp", "afn"}


def compiled(**options: Any) -> Callable[[Function], Function]:
    """`numba.njit`, cached on disk where there is a place to cache."""

    def decorate(function: Function) -> Function:
        try:
            result: Function = njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # no writable place
            result = njit(nogil=True, **options)(function)
        return result

    return decorate


# Bounds are numbers or arrays. These resolve by type when compiling, so that numbers cost nothing.


def _at(bound, j):
    raise NotImplementedError


def _part(bound, start, stop):
    raise NotImplementedError


def _row(bound, i):
    raise NotImplementedError


@overload(_at, inline="always")
def _at_overload(bound, j):
    if isinstance(bound, types.Array):
        return lambda bound, j: bound[j]
    return lambda bound, j: bound


@overload(_part, inline="always")
def _part_overload(bound, start, stop):
    if isinstance(bound, types.Array):
        return lambda bound, start, stop: bound[start:stop]
    return lambda bound, start, stop: bound


@overload(_row, inline="always")
def _row_overload(bound, i):
    if isinstance(bound, types.Array):
        return lambda bound, i: bound[i if bound.shape[0] > 1 else 0]
    return lambda bound, i: bound


# Powers. `order` is (p,) * kind: the length of a tuple is part of its type, so each kind is
# compiled for itself, and (unlike a function as argument or closure) it can be cached on disk.
# For a general p, order[0] is p rounded to 12 bits, so that its product with an exponent is exact,
# and order[1] the rest: p in float32 alone would bias all terms one way.

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
    return _general_power(c, order[0], order[1])


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
    return _general_power(c, order[0] - one, order[1])


def _general_power(c, p, rest):
    raise NotImplementedError


@overload(_general_power)
def _general_power_overload(c, p, rest):
    if c == types.float32:
        return lambda c, p, rest: _power32(c, p, rest)
    return lambda c, p, rest: _power64(c, p, rest)


_SAME_BITS = {
    types.float32: types.int32,
    types.float64: types.int64,
    types.int32: types.float32,
    types.int64: types.float64,
}


@intrinsic
def _bits(typing, value):
    """The bits of a float as an integer, and back."""
    return _SAME_BITS[value](value), _bitcast


def _bitcast(context, builder, signature, args):
    return builder.bitcast(args[0], context.get_value_type(signature.return_type))


# 2^f = sum (ln 2)^k / k! f^k with |f| <= 1/2, cut where the next term is below the last bit.
_EXP = tuple(math.log(2) ** k / math.factorial(k) for k in range(13))
_EXP32 = tuple(np.float32(c) for c in _EXP[:8])
# log2(m) = 2 / ln 2 * (t + t^3/3 + t^5/5 + ...), t = (m - 1) / (m + 1), sqrt(1/2) <= m < sqrt(2).
_LOG = tuple(2 / math.log(2) / (2 * k + 1) for k in range(10))
_LOG32 = tuple(np.float32(c) for c in _LOG[:5])
_ROOT_HALF32 = np.int32(np.float32(math.sqrt(0.5)).view(np.int32))
_ROOT_HALF64 = np.int64(np.float64(math.sqrt(0.5)).view(np.int64))
_ONE32, _ONE64 = np.float32(1), np.float64(1)
_BIAS32, _BIAS64 = np.int32(127), np.int64(1023)
_MANTISSA32, _MANTISSA64 = np.int32(23), np.int64(52)
_NORMAL32, _NORMAL64 = np.finfo(np.float32).tiny, np.finfo(np.float64).tiny
_EXPONENTS32 = np.float32(-126), np.float32(127)
_EXPONENTS64 = -1022.0, 1023.0


@compiled(fastmath={"contract"})
def _power32(c, p, rest):
    bits = _bits(c)
    exponent = (bits - _ROOT_HALF32) >> _MANTISSA32
    m = _bits(np.int32(bits - (exponent << _MANTISSA32)))
    t = (m - _ONE32) / (m + _ONE32)
    q = t * t
    log = _LOG32[3] + q * _LOG32[4]
    log = _LOG32[1] + q * (_LOG32[2] + q * log)
    log = t * (_LOG32[0] + q * log)
    exact = p * np.float32(exponent)
    y = exact + (p * log + rest * (np.float32(exponent) + log))
    whole = np.floor(min(y, _EXPONENTS32[1]) + np.float32(0.5))
    f = (exact - whole) + (p * log + rest * (np.float32(exponent) + log))
    e = _EXP32[4] + f * (_EXP32[5] + f * (_EXP32[6] + f * _EXP32[7]))
    e = _EXP32[0] + f * (_EXP32[1] + f * (_EXP32[2] + f * (_EXP32[3] + f * e)))
    power = e * _bits(np.int32((np.int32(whole) + _BIAS32) << _MANTISSA32))
    return power if (c >= _NORMAL32) & (y >= _EXPONENTS32[0]) else np.float32(0)


@compiled(fastmath={"contract"})
def _power64(c, p, rest):
    bits = _bits(c)
    exponent = (bits - _ROOT_HALF64) >> _MANTISSA64
    m = _bits(bits - (exponent << _MANTISSA64))
    t = (m - _ONE64) / (m + _ONE64)
    q = t * t
    log = _LOG[7] + q * (_LOG[8] + q * _LOG[9])
    log = _LOG[4] + q * (_LOG[5] + q * (_LOG[6] + q * log))
    log = _LOG[1] + q * (_LOG[2] + q * (_LOG[3] + q * log))
    log = t * (_LOG[0] + q * log)
    exact = p * np.float64(exponent)
    y = exact + (p * log + rest * (np.float64(exponent) + log))
    whole = np.floor(min(y, _EXPONENTS64[1]) + 0.5)
    f = (exact - whole) + (p * log + rest * (np.float64(exponent) + log))
    e = _EXP[9] + f * (_EXP[10] + f * (_EXP[11] + f * _EXP[12]))
    e = _EXP[5] + f * (_EXP[6] + f * (_EXP[7] + f * (_EXP[8] + f * e)))
    e = _EXP[0] + f * (_EXP[1] + f * (_EXP[2] + f * (_EXP[3] + f * (_EXP[4] + f * e))))
    power = e * _bits((np.int64(whole) + _BIAS64) << _MANTISSA64)
    return power if (c >= _NORMAL64) & (y >= _EXPONENTS64[0]) else 0.0


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


@compiled()
def _offences(x, v, lower, upper, tolerance):
    """Flags of a row."""
    flags = 0
    for j in range(x.size):
        if np.isnan(x[j]):
            flags |= NAN_X
        elif not (_at(upper, j) - x[j] >= -tolerance and x[j] - _at(lower, j) >= -tolerance):
            flags |= OUT_OF_BOUNDS
        if not np.isfinite(v[j]):
            flags |= NAN_DELTA
    return flags


@compiled()
def _far_corner(x, v, lower, upper, inverse, order):
    """sum r^p over v != 0, the largest breakpoint room / |v|, and the largest |v| with room."""
    reach, furthest, largest = 0.0, 0.0, 0.0
    for start in range(0, x.size, BLOCK):
        part = 0.0
        for j in range(start, min(start + BLOCK, x.size)):
            room = float(_at(upper, j) - x[j] if v[j] > 0 else x[j] - _at(lower, j))
            size = abs(float(v[j]))
            if size > 0 and room > 0:
                part += _power(room * inverse, order)
                furthest = max(furthest, room / size)
                largest = max(largest, size)
        reach += part
    return reach, furthest, largest


@compiled()
def _beyond(x):
    """A factor after which a breakpoint is still passed when rounded to the dtype of x."""
    return 1 + 2 * float(np.finfo(x.dtype).eps)


# Root finding for one row.


@compiled()
def _newton(x, v, lower, upper, target, p, inverse, order, start, slack, passes, tolerance):
    """The scale with |total - target| <= slack, or NO_ROOT; and whether the row has offences."""
    low, high, moving_high = 0.0, np.inf, 0.0
    retreat = 0.25
    scale = float(type(inverse)(start))
    total, moving, offences = _sums(
        x, v, lower, upper, type(inverse)(scale), inverse, order, tolerance
    )
    if offences > 0:
        return NO_ROOT, True
    for k in range(passes):
        gap = target - total
        if abs(gap) <= slack:
            return scale, False
        if gap > 0:
            if not moving > TINY * target:
                return NO_ROOT, False
            low = max(low, scale)
            following = scale * (1 + gap / moving) ** (1 / p)
            if following >= high:
                following = math.sqrt(low * high)
            elif high < np.inf:
                # `total` is concave: between here and `high` it rises at least as fast as at `high`
                least = gap * moving_high / moving * (scale / high) ** p
                if gap - least <= slack:
                    return following, False
        else:
            high = min(high, scale)
            moving_high = moving if moving < np.inf else 0.0
            left = 1 + gap / moving if moving > 0 else 0.0
            following = scale * left ** (1 / p) if left > 0 else 0.0
            if following <= low:
                if low > 0:
                    following = math.sqrt(low * high)
                else:
                    secant = (target / total) ** (1 / p)
                    following = scale * retreat * (secant if secant > 0 else retreat)
                    retreat *= retreat
        scale = float(type(inverse)(following))
        if not 0 < scale < np.inf:
            return NO_ROOT, False
        total, moving, _ = _sums(
            x, v, lower, upper, type(inverse)(scale), inverse, order, None
        )
    return NO_ROOT, False


@compiled()
def _bracketed(x, v, lower, upper, eps, order, slack):
    """Eta by safeguarded Newton in float64: any row, at several times the cost."""
    p, inverse = order[-1], 1 / eps
    reach, furthest, largest = _far_corner(x, v, lower, upper, inverse, order)
    if reach <= 1 + slack:
        return furthest * _beyond(x)
    low = 0.0
    high = furthest * inverse
    # the largest term alone is at most as large as the sum, and n times it at least
    scale = max(1 / (largest * x.size ** (1 / p)), np.finfo(np.float64).tiny)
    for k in range(BRACKETED_PASSES):
        total, moving, _ = _sums(x, v, lower, upper, scale, inverse, order, None)
        gap = 1 - total
        if abs(gap) <= slack:
            break
        if gap > 0:
            low = max(low, scale)
        else:
            high = min(high, scale)
        if low > 0 and high <= low * (1 + 4e-16):
            break
        following = scale * (1 + gap / moving) ** (1 / p) if moving > max(0, -gap) else 0.0
        if not low < following < high or k % 3 == 2:
            following = math.sqrt(max(low, 1e-300)) * math.sqrt(high)
        scale = following
    return scale / inverse


@compiled()
def _take_sample(x, v, lower, upper, room, direction):
    """Fills room and direction = -|v| from evenly spaced runs of the row; returns max |v|.

    The minus makes `room` the distance to a lower bound of 0, so the same passes serve.
    """
    m, n = room.size, x.size
    runs = (m + SAMPLE_RUN - 1) // SAMPLE_RUN
    largest = 0.0
    k = 0
    for run in range(runs):
        start = run * (n - SAMPLE_RUN) // max(runs - 1, 1) if m < n else run * SAMPLE_RUN
        for j in range(start, start + min(SAMPLE_RUN, m - k)):
            space = _at(upper, j) - x[j] if v[j] > 0 else x[j] - _at(lower, j)
            room[k] = space
            direction[k] = -abs(v[j])
            if space > 0:
                largest = max(largest, float(abs(v[j])))
            k += 1
    return largest


@compiled()
def _solve_row(x, v, lower, upper, eps, order, wide, tolerance, slack, room, direction):
    """Eta and flags of one row; room and direction are scratch for the sample."""
    if eps < SMALLEST_EPS:
        return 0.0, _offences(x, v, lower, upper, tolerance)
    p, n, m = wide[-1], x.size, room.size
    inverse = x.dtype.type(1 / eps)
    target = (float(inverse) * eps) ** p
    zero = x.dtype.type(0)
    scale = NO_ROOT
    largest = _take_sample(x, v, lower, upper, room, direction)
    start = 1 / (largest * m ** (1 / p)) if largest > 0 else 0.0
    if 0 < start < np.inf and 0 < inverse < np.inf:
        scale, _ = _newton(
            room, direction, zero, zero, target * m / n, p, inverse, order, start,
            target * m / n * SAMPLE_SLACK, SAMPLE_PASSES, None,
        )  # fmt: skip
        if scale == NO_ROOT:
            scale = start
        scale, bad = _newton(
            x, v, lower, upper, target, p, inverse, order, scale,
            slack, PASSES, tolerance,
        )  # fmt: skip
        if bad:
            return 0.0, _offences(x, v, lower, upper, tolerance)
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


@compiled()
def solve_rows(
    x, x_step, v, v_step, n, lower, upper, eps, order, wide, tolerance, slack, out, out_step, mode,
    eta, flags, first, last,
):  # fmt: skip
    """Rows first..last of flat arrays whose rows are `*_step` elements apart; see `_solve_row`."""
    m = n if n <= SAMPLE_MIN else min(max(n // SAMPLE_SHARE, SAMPLE_MIN), SAMPLE_MAX)
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


@compiled()
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
