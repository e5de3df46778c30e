"""What executors with several processes share: the worker in each, and which tasks it gets."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from itertools import groupby

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

    Only where no batch is left to begin, a worker takes from the one with the most tasks left.
    """

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._batches = (deque(same) for _, same in groupby(tasks, key=lambda task: task.batch))
        self._held: dict[Hashable, deque[Task]] = {}

    def take(self, worker: Hashable) -> Task | None:
        """Return the next task for a worker; None where there is none."""
        if not self._held.get(worker):
            most: deque[Task] = max(self._held.values(), key=len, default=deque())
            self._held[worker] = next(self._batches, most)
        held = self._held[worker]
        return held.popleft() if held else None

    def give_back(self, tasks: Iterable[Task]) -> None:
        """Put back tasks that were not computed, for any worker."""
        self._held.setdefault(None, deque()).extend(tasks)


class RemoteWorker:
    """A worker in a process of its own, where it opens the data itself."""

    def start(self, evaluation: Evaluation) -> ModelProbe:
        """Open the data and load the model, as a resolved run says."""
        torch.set_num_threads(evaluation.threads or 1)
        data = open_data(evaluation.data, evaluation.samples)
        settings = make_settings(evaluation)
        self._tasks = Tasks(settings, len(data), evaluation.batch_size, evaluation.seed)
        self._worker: Worker
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EvaluationWarning)  # they are in the probe
            self._worker, probe = make_worker(evaluation, data, self._tasks)
        return probe

    def run(self, number: int) -> TaskResult:
        """Compute the task of a number."""
        return self._worker.run(self._tasks[number])
