"""What is done of a run, and how far it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from ..config.types import shard_of
from ..data.dataset import KEPT
from ..store.checksums import IntegrityError
from ..store.folder import RunFolder
from ..store.index import StoredTask
from .tasks import AttackSetting, Task, Tasks


@dataclass(frozen=True)
class Progress:
    """The progress of a run after each task.

    Attributes:
        setting: The setting that the last task belongs to; None before the first. Of a task with
            several epsilons it is that of the largest.
        done, total: Tasks, those of an earlier start included; of this shard, if it is one. The
            last two that are done may still be on their way to the folder.
        setting_done, setting_total: Samples of the setting.
        robust_accuracy: Of the setting so far.
        resumed: Tasks that were there before.
        folder: The run folder.
        waiting_for: The name of a task that another process computes, where this one waits for it.
        seconds_left: What the attacks of the missing tasks will take one worker, by the stored
            seconds of those that are done; NaN but at the start of a run that is resumed.
    """

    setting: AttackSetting | None
    done: int
    total: int
    setting_done: int = 0
    setting_total: int = 0
    robust_accuracy: float = math.nan
    resumed: int = 0
    folder: Path = Path()
    waiting_for: str = ""
    seconds_left: float = math.nan


class CompletionLog:
    """The finished tasks of a shard, and the robust accuracy of each setting so far.

    It grows by a byte per task, not with what they hold.
    """

    def __init__(self, folder: RunFolder, tasks: Tasks, shard: str | None) -> None:
        self.folder, self.tasks = folder, tasks
        self.batches = tasks.in_shard(*shard_of(shard))
        self._total = sum(len(tasks.in_batch(batch)) for batch in self.batches)
        self._done, self._how_many = bytearray(len(tasks)), 0
        self._counted = np.zeros((len(tasks.settings), 2), np.int64)  # robust samples, samples
        self._images: dict[int, str] = {}  # by batch, what shows which its tasks have seen
        self.failed: dict[int, str] = {}  # batches of which a sample cannot be read, and why
        self._resumed = self._skipped = 0
        self._read_index()
        for name in folder.waiting():
            task = tasks.named(name)
            if task is None:
                folder.quarantine(name, "it does not belong to this run")
            elif task.batch in self.batches:
                self.look(task.number)
        self._resumed = self._how_many

    @property
    def complete(self) -> bool:
        """Return whether nothing is missing."""
        return self._how_many == self._total

    def missing(self) -> Iterator[int]:
        """Numbers of the tasks that are not done, as things stand when each is asked for."""
        return chain.from_iterable(map(self.missing_in, self.batches))

    def missing_in(self, batch: int) -> Iterator[int]:
        """Numbers of those on one batch."""
        numbers = self.tasks.in_batch(batch)
        return (n for n in numbers if not self._done[n] and batch not in self.failed)

    def ahead(self, batch: int) -> tuple[int, ...]:
        """Return those of the next ``KEPT`` batches on which something is missing."""
        coming = (number for number in range(batch + 1, batch + 1 + KEPT) if number in self.batches)
        return tuple(n for n in coming if next(self.missing_in(n), None) is not None)

    def look(self, number: int) -> bool:
        """Return whether a task is done, here or elsewhere; quarantine a damaged one."""
        if not self._done[number]:
            task = self.tasks[number]
            try:
                stored = self.folder.read(task.name)
                if stored is not None:
                    self._check(task, stored)
                    self.add(task, stored)
            except IntegrityError as error:
                # not while another process may be writing it again
                if self.folder.claim(number):
                    self.folder.quarantine(task.name, str(error))
                    self.folder.release(number)
            else:
                if stored is None:  # it was compacted, or never there
                    self._read_index()
        return bool(self._done[number])

    def _read_index(self) -> None:
        """Count the tasks that were compacted since the last time."""
        damaged = []
        for stored in self.folder.news():
            task = self.tasks.named(stored.task)
            try:
                if task is None:
                    raise IntegrityError("it does not belong to this run")
                if task.batch in self.batches and not self._done[task.number]:
                    self._check(task, stored)
                    self.folder.check_files(stored)
                    self.add(task, stored)
            except IntegrityError as error:
                damaged.append((stored.task, str(error)))
        for name, reason in damaged:
            self.folder.quarantine(name, reason)

    def _check(self, task: Task, stored: StoredTask) -> None:
        found = sorted((setting, samples) for setting, samples, _ in stored.counts)
        expected = [(setting.number, len(task.samples)) for setting in task.settings]
        if found != expected:
            left = len(task.samples) - len(self.folder.skipped(task.batch))
            expected = [(number, left) for number, _ in expected]
        if found != expected:
            raise IntegrityError("its rows are not those of its task")
        if not self.same_images(task, stored):
            raise IntegrityError("it saw other images than the tasks of its batch before it")

    def same_images(self, task: Task, stored: StoredTask) -> bool:
        """Return whether a task saw the images that those of its batch before it have seen."""
        return self._images.setdefault(task.batch, stored.images) == stored.images

    def add(self, task: Task, stored: StoredTask) -> None:
        """Count a task that is done."""
        self._done[task.number], self._how_many = 1, self._how_many + 1
        for setting, samples, robust in stored.counts:
            self._counted[setting] += robust, samples
        if task.number == self.tasks.in_batch(task.batch)[0]:  # once per batch
            self._skipped += len(task.samples) - stored.counts[0][1]

    def progress(self, task: Task | None) -> Progress:
        """Return how far the run is after a task."""
        done, total = self._how_many, self._total
        if task is None:
            return Progress(None, done, total, resumed=self._resumed, folder=self.folder.path)
        robust, samples = self._counted[task.setting.number].tolist()
        return Progress(
            task.setting,
            done,
            total,
            setting_done=samples,
            setting_total=self.tasks.samples - self._skipped,
            robust_accuracy=robust / samples,
            resumed=self._resumed,
            folder=self.folder.path,
        )

    def plan(self) -> Progress:
        """Return how far a run that is resumed is, and how long its missing tasks will take."""
        return dataclasses.replace(self.progress(None), seconds_left=self._seconds_left())

    def _seconds_left(self) -> float:
        if not self._how_many:
            return math.nan
        seconds, rows = np.zeros((2, len(self.tasks.settings)))
        for stored in self.folder.peek("setting", "seconds"):
            settings = stored["setting"].to_numpy()
            known = (settings >= 0) & (settings < len(rows))  # a stranger's folder may hold others
            spent = np.nan_to_num(stored["seconds"].to_numpy())[known]
            seconds += np.bincount(settings[known], spent, len(rows))
            rows += np.bincount(settings[known], minlength=len(rows))
        # settings of which nothing is done may take as long as the others
        mean = seconds.sum() / max(rows.sum(), 1)
        per_row = np.where(rows > 0, seconds / np.maximum(rows, 1), mean)
        own = sum(len(self.tasks.positions(batch)) for batch in self.batches)
        missing = np.maximum(own - self._counted[:, 1], 0)
        return float(per_row @ missing)
