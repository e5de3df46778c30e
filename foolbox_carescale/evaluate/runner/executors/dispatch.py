"""The worker in each process of an executor that has several, and the tasks that it gets."""

from __future__ import annotations

import dataclasses
import warnings
from collections import deque
from collections.abc import Hashable, Iterator
from itertools import groupby
from typing import Any

import torch

from ...config.types import Evaluation
from ...data.sources import open_data
from ...errors import EvaluationWarning
from ...store.schema import TaskResult
from ..tasks import Task, Tasks, make_settings
from ..worker import ModelProbe, Worker, make_worker

PREFETCH = 2
"""Tasks that a worker holds: one that it computes, and one so that it need not wait."""


class BatchQueue:
    """Tasks by batch: a worker takes all of a batch, so that one worker alone decodes it.

    It gets to know its next batch with the last task of one, so that it can be decoded in time.
    Only where no batch is left to begin, a worker takes from the one with the most tasks left.
    """

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._batches = (deque(same) for _, same in groupby(tasks, key=lambda task: task.batch))
        self._held: dict[Hashable, deque[Task]] = {}

    def __bool__(self) -> bool:
        """Return whether tasks were taken from the run that no worker has taken from here."""
        return any(self._held.values())

    def take(self, worker: Hashable) -> Task | None:
        """Return the next task for a worker; None where there is none."""
        held = self._held.setdefault(worker, deque())
        while len(held) < 2 and (batch := next(self._batches, None)):
            held.extend(batch)
        most = max(self._held.values(), key=len)
        if not most:
            return None
        task = held.popleft() if held else most.pop()
        ahead = {held[-1].batch} - {task.batch} if held else ()
        return dataclasses.replace(task, ahead=tuple(ahead))

    def give_back(self, task: Task) -> None:
        """Put back a task that was not computed, for any worker."""
        self._held.setdefault(None, deque()).append(task)


class RemoteWorker:
    """A worker in a process of its own."""

    def start(
        self, evaluation: Evaluation, data: Any = None, *, diagnose: bool = True
    ) -> ModelProbe:
        """Load the model as a resolved run says, and open the data where they are not given."""
        torch.set_num_threads(evaluation.threads or 1)
        data = data or open_data(evaluation.data, evaluation.samples)
        settings = make_settings(evaluation)
        self._tasks = Tasks(settings, len(data), evaluation.batch_size, evaluation.seed)
        self._worker: Worker
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EvaluationWarning)  # they are in the probe
            self._worker, probe = make_worker(evaluation, data, self._tasks, diagnose=diagnose)
        return probe

    def run(self, number: int, ahead: tuple[int, ...] = ()) -> TaskResult:
        """Compute the task of a number; batches that come next are decoded meanwhile."""
        return self._worker.run(dataclasses.replace(self._tasks[number], ahead=ahead))
