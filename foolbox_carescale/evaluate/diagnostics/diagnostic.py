"""A diagnostic, and how it is emitted, captured and stored."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from ..errors import EvaluationWarning, warn

FEW = 0.05
"""Share of the samples up to which something may be an oddity of single images."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Diagnostic:
    """A reason not to trust a number yet.

    Attributes:
        code: Which check found it, such as ``gradients``.
        message: What was found, and for how many.
        remedy: What to do.
    """

    code: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return str(self.as_warning())

    def as_warning(self) -> EvaluationWarning:
        """Return the warning that carries the message and the remedy."""
        return EvaluationWarning(self.message, self.remedy)


def emit(diagnostics: Iterable[Diagnostic]) -> None:
    """Warn of each diagnostic once."""
    for diagnostic in {str(diagnostic): diagnostic for diagnostic in diagnostics}.values():
        warn(diagnostic.as_warning(), stacklevel=2)


@contextmanager
def capture_warnings() -> Iterator[list[Diagnostic]]:
    """Collect the EvaluationWarnings of a with statement, and pass them on when it ends."""
    captured: list[Diagnostic] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EvaluationWarning)
        yield captured
    for warning in caught:
        if isinstance(warning.message, EvaluationWarning):
            found = warning.message
            captured.append(Diagnostic("model", found.message, found.remedy))
        warnings.warn_explicit(
            warning.message, warning.category, warning.filename, warning.lineno, source=None
        )


def to_dicts(diagnostics: Iterable[Diagnostic]) -> list[dict[str, str]]:
    """Return code, message and remedy of each diagnostic once."""
    return [dataclasses.asdict(diagnostic) for diagnostic in dict.fromkeys(diagnostics)]


def from_dicts(listed: Iterable[Mapping[str, str]]) -> list[Diagnostic]:
    """Return the diagnostics that ``to_dicts`` was given."""
    return [Diagnostic(**{key: str(value) for key, value in one.items()}) for one in listed]


def share(flags: Array) -> str:
    """Return 'k of n' for k flags of n that are set."""
    return f"{int(flags.sum())} of {len(flags)}"
