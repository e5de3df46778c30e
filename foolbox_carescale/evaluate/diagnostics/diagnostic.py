"""A diagnostic: how it is said, collected and stored."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from ..errors import EvaluationWarning

FEW = 0.05
"""Share of the samples up to which something may be an oddity of single images."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Diagnostic:
    """A reason not to trust a number yet.

    Attributes:
        code: Which check found it, such as ``gradients``.
        seen: What was seen, and for how many.
        remedy: What to do.
    """

    code: str
    seen: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.seen}; {self.remedy}" if self.remedy else self.seen


def announce(diagnostics: Iterable[Diagnostic]) -> None:
    """Say each diagnostic once, as an EvaluationWarning."""
    for message in dict.fromkeys(map(str, diagnostics)):
        warnings.warn(message, EvaluationWarning, stacklevel=2)


@contextmanager
def heard() -> Iterator[list[Diagnostic]]:
    """Collect the EvaluationWarnings of a batch of code, and pass them on when it ends."""
    said: list[Diagnostic] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EvaluationWarning)
        yield said
    for warning in caught:
        if issubclass(warning.category, EvaluationWarning):
            seen, _, remedy = str(warning.message).partition("; ")
            said.append(Diagnostic("model", seen, remedy))
        warnings.warn_explicit(
            warning.message, warning.category, warning.filename, warning.lineno, source=None
        )


def to_json(diagnostics: Iterable[Diagnostic]) -> str:
    """Doubts as JSON: a list of objects with code, seen and remedy."""
    unique = dict.fromkeys(diagnostics)
    listed = [dataclasses.asdict(diagnostic) for diagnostic in unique]
    return json.dumps(listed, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> list[Diagnostic]:
    """What ``to_json`` wrote."""
    return [Diagnostic(**fields) for fields in json.loads(text)]


def share(flags: Array) -> str:
    """How many of how many."""
    return f"{int(flags.sum())} of {len(flags)}"
