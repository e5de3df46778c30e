"""Executors, which compute tasks; all give the same rows.

Other packages offer theirs as an entry point of the group ``carescale.executors``: a callable
that takes what ``make_executor`` takes and returns an ``Executor``.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Protocol

from ...config.executors import EXECUTOR_GROUP
from ...config.types import Evaluation
from ...data.dataset import Data
from ...errors import UserError
from ...store.schema import TaskResult
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
    """Return the executor that a resolved run names.

    Raises:
        UserError: The package that offers it cannot be imported.
    """
    if evaluation.executor.name == "ray":
        from .ray import RayExecutor

        return RayExecutor(evaluation, data, tasks)
    if evaluation.executor.name == "local" and evaluation.executor.devices is not None:
        from .devices import DevicesExecutor

        return DevicesExecutor(evaluation)
    if evaluation.executor.name == "local":
        from .local import LocalExecutor

        return LocalExecutor(evaluation, data, tasks)
    (found,) = entry_points(group=EXECUTOR_GROUP, name=evaluation.executor.name)
    try:
        offered = found.load()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"executor.name: {found.name!r} is offered by {found.value}, which cannot be imported"
            f" ({error}); install what it needs, or take executor=local"
        ) from error
    made: Executor = offered(evaluation, data, tasks)
    return made
