"""Parameters of attacks: declared in the class body, checked wherever they are assigned.

::

    class Attack:
        steps = integer(least=1)

        def __init__(self, steps: int = 10) -> None:
            self.steps = steps  # a ValueError names the parameter, what is expected, and the value
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Generic, TypeVar, get_args, overload

import numpy as np

T = TypeVar("T")


class Parameter(Generic[T]):
    """An attribute that takes the values of one constraint only.

    Args:
        expected: The constraint in words, for the message of the ValueError.
        allows: Whether a value meets it.
    """

    def __init__(self, expected: str, allows: Callable[[Any], bool]) -> None:
        self.expected, self.allows = expected, allows

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Parameter[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Parameter[T] | T:
        if instance is None:
            return self
        value: T = vars(instance)[self.name]
        return value

    def __set__(self, instance: object, value: T) -> None:
        if not self.allows(value):
            raise ValueError(f"{self.name}: expected {self.expected}, got {value!r}")
        number: Any = value
        # NumPy's integers, in which a number of steps could overflow
        vars(instance)[self.name] = int(number) if _is_a(Integral, number) else value

    def or_none(self) -> Parameter[T | None]:
        """Return the same constraint, which None meets too."""
        return Parameter(self.expected, lambda value: value is None or self.allows(value))


def integer(*, least: int) -> Parameter[int]:
    """Return the constraint to integers from ``least`` on."""
    return Parameter(
        f"an integer >= {least}", lambda value: _is_a(Integral, value) and value >= least
    )


def positive(*, above: float = 0) -> Parameter[float]:
    """Return the constraint to finite numbers above a limit."""
    return Parameter(
        f"a finite number > {above}",
        lambda value: _is_a(Real, value) and above < float(value) < math.inf,
    )


def interval(expected: str) -> Parameter[float]:
    """Return the constraint to an interval as mathematics writes it: ``"[0, 1)"``."""
    least, most = map(float, expected[1:-1].split(","))

    def allows(value: Any) -> bool:
        if not _is_a(Real, value):
            return False
        number = float(value)
        above = number >= least if expected[0] == "[" else number > least
        return above and (number <= most if expected[-1] == "]" else number < most)

    return Parameter(f"a number in {expected}", allows)


def boolean() -> Parameter[bool]:
    """Return the constraint to True and False; a text such as "no" is neither."""
    return Parameter("True or False", lambda value: isinstance(value, (bool, np.bool_)))


def one_of(choices: Any) -> Parameter[Any]:
    """Return the constraint to some strings: those of a ``Literal``, or of a sequence."""
    known = get_args(choices) or tuple(choices)
    return Parameter(
        f"one of {', '.join(known)}", lambda value: isinstance(value, str) and value in known
    )


def seed_or_none() -> Parameter[int | None]:
    """Return the constraint to what seeds a generator of random numbers, or None."""
    return Parameter(
        "None or an integer in [0, 2**32)",
        lambda value: value is None or (_is_a(Integral, value) and 0 <= value < 2**32),
    )


def _is_a(kind: type, value: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
