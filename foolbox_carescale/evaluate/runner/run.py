"""Run an evaluation: compute and store every task that its folder lacks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from .. import diagnostics
from ..config.types import Evaluation, shard_of
from ..config.validation import expand_path
from ..data.dataset import KEPT, Data
from ..errors import LOGGER, SampleError, UserError
from ..models.loading import find_device, find_devices
from ..store.checksums import IntegrityError
from ..store.folder import RunFolder
from ..store.index import StoredTask
from ..store.results import Results
from ..tracking import check_tracking, track
from . import identity
from .environment import describe
from .executors import Executor, make_executor
from .resolve import resolve
from .tasks import AttackSetting, Task, Tasks, make_settings

SMALL = 64
"""Pixels per side up to which a single thread of PyTorch is used."""


@dataclass(frozen=True)
class Progress:
    """The progress of a run after each task.

    Attributes:
        setting: The setting that the last task belongs to; None before the first. Of a task with
            several epsilons it is that of the largest.
        done, total: Tasks, those of an earlier start included; of this shard, if it is one.
        setting_done, setting_total: Samples of the setting.
        robust_accuracy: Of the setting so far.
        resumed: Tasks that were there before.
        folder: The run folder.
        waiting_for: The name of a task that another process computes, where this one waits for it.
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


def evaluate(
    evaluation: Evaluation, *, on_progress: Callable[[Progress], None] | None = None
) -> Results:
    """Evaluate a model's robust accuracy, and the measured norm of each perturbation.

    Samples that the model gets wrong without an attack are not attacked and count as not
    robust. Evaluated is what an attack returns, clipped to its epsilon (by Foolbox) and to
    the box [0, 1].

    A folder with an incomplete run is completed, by any number of processes. A
    complete one is only read.

    Args:
        evaluation: What to run; ``Evaluation()`` is the bundled default.
        on_progress: Called before the first task, after each, and before waiting for another
            process.

    Returns:
        The results; they are in the run folder too, from which ``Results.load`` reads them.

    Raises:
        UserError: Something in the evaluation cannot be used, or the folder holds another run.
            Tasks that were computed before stay in the run folder.
        StorageError: The folder cannot be written; the same holds.
    """
    evaluation = evaluation.validated()
    check_tracking(evaluation.tracking)
    results = _evaluate(evaluation, on_progress)
    track(results, evaluation)
    return results


def _evaluate(evaluation: Evaluation, on_progress: Callable[[Progress], None] | None) -> Results:
    make_settings(evaluation)  # report a wrong attack before data are read
    folder = None
    if evaluation.output is not None:
        folder = RunFolder(expand_path(evaluation.output))
    record = folder.record() if folder is not None else None
    if folder is not None and record is not None:
        evaluation = identity.reconcile(evaluation, record, folder.path)
        log = _open(folder, evaluation, record["samples"])
        if log.complete:
            (on_progress or _ignore)(log.progress(None))
            return _finish(folder, [])

    with diagnostics.capture_warnings() as captured:
        resolved, data = _resolve(evaluation)
    tasks = Tasks(make_settings(resolved), len(data), resolved.batch_size, resolved.seed)
    executor = make_executor(resolved, data, tasks)
    try:
        probe = executor.start()
        diagnostics.emit(probe.diagnostics)
        captured += probe.diagnostics
        if folder is None or record is None:
            made = identity.record_of(evaluation, resolved, probe.inputs, tasks, probe.model)
            folder = folder or RunFolder.new()
            if not folder.start(made):
                record = folder.record()
                assert record is not None
                if not identity.same_choices(
                    identity.reconcile(evaluation, record, folder.path), resolved
                ):
                    executor.stop()
                    return _evaluate(evaluation, on_progress)
            log = _open(folder, resolved, len(data))
        if record is not None:
            identity.check_same(record, resolved, probe.inputs, folder.path)
            where = f"that the run in {folder.path} was started with"
            identity.check_same_model(record["model"], probe.model, where)
        folder.write_config(_header(resolved) + resolved.to_yaml())
        if folder.diagnosed:  # what is computed again is diagnosed again
            folder.write_warnings([])
        _add_warnings(folder, captured)
        _compute(executor, log, on_progress or _ignore)
        return _finish(folder, captured)
    finally:
        executor.stop()
        data.close()
        if folder is not None:
            folder.close()


def _finish(folder: RunFolder, about_model: list[diagnostics.Diagnostic]) -> Results:
    """Compact what is stored, and diagnose it if it is the whole run and nobody has."""
    folder.compact()
    results = Results(folder.path)
    _add_warnings(folder, about_model)  # again: other shards may have written meanwhile
    if folder.complete and not folder.diagnosed:
        about_results = diagnostics.of_results(results)
        diagnostics.emit(about_results)
        _add_warnings(folder, about_results, diagnosed=True)
    folder.close()
    return results


def _add_warnings(
    folder: RunFolder, found: list[diagnostics.Diagnostic], *, diagnosed: bool = False
) -> None:
    """Store diagnostics beside those that other processes have found."""
    there = folder.read_warnings()
    together = diagnostics.to_dicts([*diagnostics.from_dicts(there), *found])
    if diagnosed or together != there:
        folder.write_warnings(together, diagnosed=diagnosed or folder.diagnosed)


class _CompletionLog:
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


def _open(folder: RunFolder, evaluation: Evaluation, samples: int) -> _CompletionLog:
    folder.open()
    tasks = Tasks(make_settings(evaluation), samples, evaluation.batch_size, evaluation.seed)
    return _CompletionLog(folder, tasks, evaluation.shard)


def _compute(executor: Executor, log: _CompletionLog, report: Callable[[Progress], None]) -> None:
    """Compute what is missing; what other processes have claimed is left to them."""
    folder = log.folder
    started, running = set[int](), set[int]()

    def by_batch() -> Iterator[int]:
        # whole batches that no other process is at, so that each is decoded once
        for batch in log.batches:
            claim = len(log.tasks) + batch
            if next(log.missing_in(batch), None) is not None and folder.claim(claim):
                yield from log.missing_in(batch)
                folder.release(claim)
        yield from log.missing()  # and what is left of the others

    def free() -> Iterator[Task]:
        for number in by_batch():
            if number not in running and folder.claim(number):
                if log.look(number):  # another process was faster
                    folder.release(number)
                else:
                    task = log.tasks[number]
                    if task.setting.number not in started:
                        started.add(task.setting.number)
                        LOGGER.info("%s, epsilon %g: started", *_named(task.setting))
                    running.add(number)
                    yield dataclasses.replace(task, ahead=log.ahead(task.batch))

    report(log.progress(None))
    waiting = False
    while next(log.missing(), None) is not None:
        for task, part in executor.run(free()):
            waiting = False
            if part.failure is not None:
                log.failed[task.batch] = part.failure
                folder.release(task.number)
                running.remove(task.number)
                continue
            stored = StoredTask.of(task.name, part.rows, {})
            if not log.same_images(task, stored):
                raise UserError(
                    f"data: the images of batch {task.batch} are not those that earlier tasks of"
                    f" the run in {folder.path} have seen; choose another folder with output=..."
                )
            folder.write(part)
            folder.release(task.number)
            running.remove(task.number)
            log.add(task, stored)
            state = log.progress(task)
            if state.setting_done == state.setting_total:
                robust = state.robust_accuracy
                LOGGER.info("%s, epsilon %g: robust accuracy %.3f", *_named(task.setting), robust)
            report(state)
        left = next(log.missing(), None)
        if left is not None:  # another process computes it, or dies and leaves it
            if not folder.claim(left):
                if not waiting:
                    name, waiting = log.tasks[left].name, True
                    LOGGER.info("waiting for task %s, which another process computes", name)
                    report(dataclasses.replace(log.progress(None), waiting_for=name))
                folder.claim(left, wait=True)
            log.look(left)
            folder.release(left)
    if log.failed:
        number, line = next(iter(log.failed.items()))
        raise SampleError(
            f"{line}; all but {len(log.failed)} of {len(log.batches)} batches are computed, the"
            f" first that is not is {number}: run again, or with data.on_error=skip"
        )


def _named(setting: AttackSetting) -> tuple[str, float]:
    return setting.label, setting.epsilon


def _resolve(evaluation: Evaluation) -> tuple[Evaluation, Data]:
    """Return the run with resolved defaults, the same in each of its processes, and its data."""
    settings = evaluation.executor
    if settings.devices is not None:  # report a wrong one before data are read
        kind = find_devices(settings.devices)[0].partition(":")[0]
        if evaluation.device.partition(":")[0] not in ("auto", kind):
            raise UserError(
                f"executor.devices: {settings.devices} are of type {kind}, but the run's device is"
                f" {evaluation.device!r}; give devices of that type"
            )
        evaluation = dataclasses.replace(evaluation, device=kind)
    resolved, data = resolve(evaluation)
    device, threads = resolved.device, resolved.threads
    if settings.name == "ray":
        device = ("cuda" if settings.gpus else "cpu") if device == "auto" else device
        available = max(1, int(settings.cpus))
    else:
        device = device if settings.devices is not None else str(find_device(device))
        available = torch.get_num_threads()
    if threads is None:
        # measured on two cores with the bundled model, a second thread costs up to 50 times
        # the time where another process wants that core
        threads = 1 if max(data.shape[1:], default=1) <= SMALL else available
    return dataclasses.replace(resolved, device=device, threads=threads), data


def _header(evaluation: Evaluation) -> str:
    """Return what makes a run, as comments: versions; date, hardware, commit and seed."""
    versions = ", ".join(" ".join(item) for item in identity.versions().items())
    made = describe(evaluation.device, Path.cwd())
    return f"# {versions}\n# {made}, seed {evaluation.seed}\n"


def _ignore(progress: Progress) -> None:
    pass
