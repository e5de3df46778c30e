"""What a program of Triton's computes with: blocks of a row, numbers of a type, powers."""

# Triton infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from ...core import checks
from .. import newton, pow

BAD_EPS = tl.constexpr(checks.BAD_EPS)
LARGEST_EPS = tl.constexpr(newton.LARGEST_EPS)


@triton.jit
def load_at(x, v, lower, upper, at, there, TYPE: tl.constexpr):
    """Return x, v and the bounds at these places; x on its bounds and v = 0 where there is none.

    A bound is a pointer or a number.
    """
    direction = tl.load(v + at, mask=there, other=0.0).to(TYPE)
    low = _bound_at(lower, at, there, direction, TYPE)
    high = _bound_at(upper, at, there, direction, TYPE)
    point = tl.load(x + at, mask=there, other=0.0).to(TYPE)
    return tl.where(there, point, low), direction, low, high


@triton.jit
def _bound_at(bound, at, there, direction, TYPE: tl.constexpr):
    if bound.dtype.is_ptr():
        values = tl.load(bound + at, mask=there, other=0.0).to(TYPE)
    else:
        values = tl.zeros_like(direction) + bound.to(TYPE)
    return values


@triton.jit
def load_block(
    x, v, lower, upper, first, n, LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr,
    BLOCK: tl.constexpr
):  # fmt: skip
    """Return `load_at` of one block of a row; bounds that are compiled in go before pointers."""
    at = first + tl.arange(0, BLOCK)
    low, high = lower, upper
    if LOWER is not None:
        low = constant(LOWER, TYPE)
    if UPPER is not None:
        high = constant(UPPER, TYPE)
    return load_at(x, v, low, high, at, at < n, TYPE)


@triton.jit
def number_of(bits):
    """Return the float64 with these bits: Triton would round a number to float32 on its way."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def moved_by(point, direction, eta, stays, low, high, TYPE: tl.constexpr):
    """Return clip(point + eta direction), or the point where it stays.

    What eta takes to its bound lies on it, also where rounding stops a digit short of it.
    """
    room = tl.where(direction > 0, high - point, point - low)
    nearly = room * (1.0 - 4.0 * last_digit(TYPE)).to(TYPE)
    step = eta * tl.abs(direction)
    arrived = (step >= nearly) & (step > 0)
    moved = tl.minimum(tl.maximum(point + eta * direction, low), high)
    moved = tl.where(arrived, tl.where(direction > 0, high, low), moved)
    return tl.where(stays, point, moved)


@triton.jit
def sizes_of(point, direction, low, high, inverse, P: tl.constexpr, TYPE: tl.constexpr):
    """Return |v| and min(room / eps, most), which is 0 where v is; see `newton.most_room`."""
    room = tl.where(direction > 0, high - point, point - low)
    room = tl.where(direction != 0, tl.maximum(room, 0.0), 0.0)
    most = constant(2.0 ** (1.0 / (P + 1.0)), TYPE) + (4.0 * last_digit(TYPE)).to(TYPE)
    return tl.abs(direction), tl.minimum(room * inverse, most)


@triton.jit
def constant(value: tl.constexpr, TYPE: tl.constexpr):
    """Return a number that has not been rounded to float32 on its way."""
    return tl.full((), value, TYPE)


@triton.jit
def fault_of(eps):
    """Return the flag of a row by its eps."""
    return tl.where((eps >= 0) & (eps < float("inf")), 0, BAD_EPS)


@triton.jit
def inverse_of(eps, TYPE: tl.constexpr):
    """Return 1 / eps in the dtype that computes."""
    usable = eps >= smallest_normal(TYPE)
    if TYPE == tl.float32:  # noqa: SIM300
        eps = tl.minimum(eps, constant(LARGEST_EPS, tl.float64))
    return (1.0 / tl.where(usable, eps, 1.0)).to(TYPE)


@triton.jit
def smallest_normal(TYPE: tl.constexpr):
    """Return the smallest normal number."""
    if TYPE == tl.float32:  # noqa: SIM300
        return constant(2.0**-126, tl.float64)
    return constant(2.0**-1022, tl.float64)


@triton.jit
def largest_number(TYPE: tl.constexpr):
    """Return the largest finite number."""
    if TYPE == tl.float32:  # noqa: SIM300
        return constant((2.0 - 2.0**-23) * 2.0**127, tl.float64)
    return constant((2.0 - 2.0**-52) * 2.0**1023, tl.float64)


@triton.jit
def last_digit(TYPE: tl.constexpr):
    """Return the distance from 1 to the next number."""
    if TYPE == tl.float32:  # noqa: SIM300
        return constant(2.0**-23, tl.float64)
    return constant(2.0**-52, tl.float64)


# Powers.

_ROOT_HALF_BITS = tl.constexpr(pow.ROOT_HALF_BITS)
_MANTISSA_BITS = tl.constexpr(pow.MANTISSA_BITS)
_EXPONENT_BIAS = tl.constexpr(pow.EXPONENT_BIAS)
_LEAST_EXPONENT = tl.constexpr(pow.LEAST_EXPONENT)
_SMALLEST_NORMAL = tl.constexpr(pow.SMALLEST_NORMAL)
_LOG2_E = tl.constexpr(pow.LOG2_E)
# Triton takes globals one by one
L0, L1, L2, L3, L4, L5, L6, L7, L8 = (tl.constexpr(c) for c in pow.LOG)
E0, E1, E2, E3, E4, E5, E6, E7 = (tl.constexpr(c) for c in pow.EXP2)


@triton.jit
def power(c, P: tl.constexpr, HIGH: tl.constexpr, TYPE: tl.constexpr):
    """c^P for 0 <= c <= 2."""
    if P == 1.0:
        q = c
    elif P == 2.0:
        q = c * c
    elif P == 3.0:
        q = c * c * c
    elif P == 1.5:
        q = c * tl.sqrt(c)
    elif P == 0.5:
        q = tl.sqrt(c)
    elif TYPE == tl.float32:  # noqa: SIM300
        q = _power32(c, P, HIGH)
    else:
        positive = c > 0
        q = tl.exp2(constant(P, tl.float64) * tl.log2(tl.where(positive, c, 1.0)))
        q = tl.where(positive, q, 0.0)
    return q


@triton.jit
def _power32(c, P: tl.constexpr, HIGH: tl.constexpr):
    """See `pow`; the hardware's own exp2 and log2 are good to 1e-6 here at most."""
    bits = c.to(tl.int32, bitcast=True)
    exponent = (bits - _ROOT_HALF_BITS) >> _MANTISSA_BITS
    e = exponent.to(tl.float32)
    f = (bits - (exponent << _MANTISSA_BITS)).to(tl.float32, bitcast=True) - 1.0
    log = ((((((L8 * f + L7) * f + L6) * f + L5) * f + L4) * f + L3) * f + L2) * f + L1
    log = log * f + L0
    log = f + f * f * (f * log - 0.5)
    exact = e * HIGH
    small = log * (P * _LOG2_E) + e * (P - HIGH)
    y = exact + small
    integer = tl.floor(tl.maximum(y, _LEAST_EXPONENT) + 0.5)
    fraction = (exact - integer) + small
    power = (((E7 * fraction + E6) * fraction + E5) * fraction + E4) * fraction + E3
    power = ((power * fraction + E2) * fraction + E1) * fraction + E0
    scale = (integer.to(tl.int32) + _EXPONENT_BIAS) << _MANTISSA_BITS
    normal = (c >= _SMALLEST_NORMAL) & (y >= _LEAST_EXPONENT)
    return tl.where(normal, power * scale.to(tl.float32, bitcast=True), 0.0)
