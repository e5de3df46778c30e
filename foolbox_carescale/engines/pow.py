"""``c**p`` in float32 for a general p: the numbers that the engines' own powers are made of.

A power as ``exp(p * log(c))`` is off by 1e-6 where ``log(c)`` is large, and p itself, rounded
to float32, biases all terms of a sum one way. So ``c = m 2^e`` and ``p = high + rest``, where
high has so few bits that ``high * e`` is exact:

    log2(c^p) = high e + (p log2(m) + rest e)

The integer part of this becomes the exponent of the result, the fraction goes through a series.
"""

from __future__ import annotations

import math

# 24 bits of float32 less the 8 of an exponent, and some to spare
HIGH_BITS = 12

# log(1 + f) = f - f^2/2 + f^3 * (polynomial in f), sqrt(1/2) <= 1 + f < sqrt(2), within one unit in
# the last place; coefficients of `logf` in S. Moshier's Cephes library. It does not divide: XLA
# would store a quotient that is used twice instead of computing it in the one loop.
LOG = (
    3.3333331174e-1,
    -2.4999993993e-1,
    2.0000714765e-1,
    -1.6668057665e-1,
    1.4249322787e-1,
    -1.2420140846e-1,
    1.1676998740e-1,
    -1.1514610310e-1,
    7.0376836292e-2,
)
LOG2_E = 1 / math.log(2)
# 2^f = sum (ln 2)^k / k! f^k with |f| <= 1/2
EXP2 = tuple(math.log(2) ** k / math.factorial(k) for k in range(8))

# The layout of a float32
MANTISSA_BITS = 23
EXPONENT_BIAS = 127
LEAST_EXPONENT = -126.0
SMALLEST_NORMAL = 2.0**-126
ROOT_HALF_BITS = 0x3F3504F3  # sqrt(1/2) as an integer: where the mantissas are cut


def split_order(p: float) -> tuple[float, float]:
    """Return ``(high, rest)`` with ``high + rest = p`` and high of few bits."""
    fraction, exponent = math.frexp(p)
    high = math.ldexp(round(math.ldexp(fraction, HIGH_BITS)), exponent - HIGH_BITS)
    return high, p - high
