"""A doubt: how it is said, collected and stored."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from foolbox_carescale.evaluate.errors import EvaluationWarning

FEW = 0.05
"""Share of the samples up to which something may be an oddity of single images."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Doubt:
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


def announce(doubts: Iterable[Doubt]) -> None:
    """Say each doubt once, as an EvaluationWarning."""
    for message in dict.fromkeys(map(str, doubts)):
        warnings.warn(message, EvaluationWarning, stacklevel=2)


@contextmanager
def heard() -> Iterator[list[Doubt]]:
    """Collect the EvaluationWarnings of a block of code, and pass them on when it ends."""
    said: list[Doubt] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EvaluationWarning)
        yield said
    for warning in caught:
        if issubclass(warning.category, EvaluationWarning):
            seen, _, remedy = str(warning.message).partition("; ")
            said.append(Doubt("model", seen, remedy))
        warnings.warn_explicit(
            warning.message, warning.category, warning.filename, warning.lineno, source=None
        )


def to_json(doubts: Iterable[Doubt]) -> str:
    """Doubts as JSON: a list of objects with code, seen and remedy."""
    unique = dict.fromkeys(doubts)
    listed = [dataclasses.asdict(doubt) for doubt in unique]
    return json.dumps(listed, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> list[Doubt]:
    """What ``to_json`` wrote."""
    return [Doubt(**fields) for fields in json.loads(text)]


def share(flags: Array) -> str:
    """How many of how many."""
    return f"{int(flags.sum())} of {len(flags)}"
