"""Computes tasks one after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...config.types import Evaluation
from ...data.dataset import Data
from ...store.schema import TaskResult
from ..tasks import Task, Tasks
from ..worker import ModelProbe, make_worker


class LocalExecutor:
    """One worker in this process, with the run's number of PyTorch threads until ``stop``."""

    def __init__(self, evaluation: Evaluation, data: Data, tasks: Tasks) -> None:
        self._evaluation, self._data, self._tasks = evaluation, data, tasks
        self._threads = torch.get_num_threads()

    def start(self) -> ModelProbe:
        """Load the model."""
        torch.set_num_threads(self._evaluation.threads or self._threads)
        self._worker, probe = make_worker(self._evaluation, self._data, self._tasks)
        return probe

    def run(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, TaskResult]]:
        """Compute tasks in their order."""
        for task in tasks:
            yield task, self._worker.run(task)

    def stop(self) -> None:
        """Set the number of threads back."""
        torch.set_num_threads(self._threads)
