"""Epsilons as people write them: 8/255."""

from __future__ import annotations

import math
from typing import Any

DENOMINATOR = 255
MOST = 64  # multiples of 1/255 that are shown as such


def parse_fraction(value: Any) -> Any:
    """Return the number of a text such as ``"8/255"`` or ``"0.5"``; other values as they are.

    Raises:
        ValueError: The text is neither a number nor a quotient of two.
    """
    if not isinstance(value, str):
        return value
    above, slash, below = value.partition("/")
    try:
        number = float(above) / (float(below) if slash else 1)
    except (ValueError, ZeroDivisionError):
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"{value[:40]!r} is no number; give one such as 0.1 or 8/255")
    return number


def format_epsilon(epsilon: float) -> str:
    """Return an epsilon as text: 8/255 for multiples of 1/255 that are no short decimals."""
    short = f"{epsilon:g}"
    multiple = f"{epsilon * DENOMINATOR:.3g}"
    is_multiple = float(multiple) <= MOST and float(multiple) / DENOMINATOR == epsilon
    return f"{multiple}/{DENOMINATOR}" if is_multiple and float(short) != epsilon else short
