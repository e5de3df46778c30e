"""Powers: the usual ones by hand, all others so that the compiler vectorises them."""

# numba infers the types of what it compiles
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from .compiling import FAST, bits_of, compiled

# `order` is (p,) * kind: the length of a tuple is part of its type, so each kind is
# compiled for itself, and (unlike a function as argument or closure) it can be cached on disk.
# For a general p it holds p in two parts, the limits of c, and p: see `general_order`.

FIRST, SQUARE, CUBE, THREE_HALVES, GENERAL, INFINITE = 1, 2, 3, 4, 5, 6
KINDS = {1.0: FIRST, 2.0: SQUARE, 3.0: CUBE, 1.5: THREE_HALVES, math.inf: INFINITE}


@compiled(fastmath=FAST)
def power(c, order):
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
def lowered_power(c, order):
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
    """Return the numbers that a general power takes.

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
    bits = bits_of(clamped if clamped < most else most)
    # numba widens integer arithmetic to 64 bits, which would halve the speed
    scaled = np.int32(np.int32(bits - _ROOT_HALF_BITS32) & _EXPONENT_BITS32)
    t = bits_of(np.int32(bits - scaled)) - _ONE32
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
    power = bits_of(np.int32(bits_of(power) + np.int32(bits_of(rounded) << _MANTISSA32)))
    return power if c > least else np.float32(0)


@compiled(fastmath={"contract"})
def _power64(c, high, low, p, least, most):
    """Return what `_power32` returns, in float64."""
    clamped = c if c > least else least
    bits = bits_of(clamped if clamped < most else most)
    exponent = (bits - _ROOT_HALF_BITS64) >> _MANTISSA64
    m = bits_of(bits - (exponent << _MANTISSA64))
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
    power = e * bits_of((np.int64(whole) + _BIAS64) << _MANTISSA64)
    return power if c > least else 0.0
