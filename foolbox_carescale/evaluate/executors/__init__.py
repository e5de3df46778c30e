"""Where units are computed: in this process, or on a Ray cluster. The rows are the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from foolbox_carescale.evaluate.cells import Unit, Units
from foolbox_carescale.evaluate.config import Evaluation
from foolbox_carescale.evaluate.data import Data
from foolbox_carescale.evaluate.store import Part
from foolbox_carescale.evaluate.worker import Introduction


class Executor(Protocol):
    """Computes units of one run."""

    def start(self) -> Introduction:
        """Make a worker ready.

        Raises:
            UserError: The model cannot be had, or cannot classify the data.
        """
        ...

    def run(self, units: Iterator[Unit]) -> Iterator[tuple[Unit, Part]]:
        """Compute units, in any order; they are taken as there is room for them."""
        ...

    def stop(self) -> None:
        """Give back what ``start`` took."""
        ...


def make_executor(evaluation: Evaluation, data: Data, units: Units) -> Executor:
    """The executor that a resolved run names."""
    if evaluation.executor.name == "ray":
        from foolbox_carescale.evaluate.executors.ray import RayExecutor

        return RayExecutor(evaluation, data, units)
    from foolbox_carescale.evaluate.executors.local import LocalExecutor

    return LocalExecutor(evaluation, data, units)
