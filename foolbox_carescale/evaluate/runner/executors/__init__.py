"""Where tasks are computed: in this process, or on a Ray cluster. The rows are the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ...config.types import Evaluation
from ...data.sources import Data
from ...store.folder import TaskResult
from ..tasks import Task, Tasks
from ..worker import ModelProbe


class Executor(Protocol):
    """Computes tasks of one run."""

    def start(self) -> ModelProbe:
        """Make a worker ready.

        Raises:
            UserError: The model cannot be had, or cannot classify the data.
        """
        ...

    def run(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, TaskResult]]:
        """Compute tasks, in any order; they are taken as there is room for them."""
        ...

    def stop(self) -> None:
        """Give back what ``start`` took."""
        ...


def make_executor(evaluation: Evaluation, data: Data, tasks: Tasks) -> Executor:
    """The executor that a resolved run names."""
    if evaluation.executor.name == "ray":
        from .ray import RayExecutor

        return RayExecutor(evaluation, data, tasks)
    from .local import LocalExecutor

    return LocalExecutor(evaluation, data, tasks)
