"""Run an evaluation: compute and store every task that its folder lacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from .. import diagnostics
from ..config.types import Evaluation
from ..config.validation import expand_path
from ..data.dataset import Data
from ..errors import LOGGER, SampleError, UserError
from ..models.loading import find_device, find_devices
from ..store.folder import RunFolder
from ..store.index import StoredTask
from ..store.results import Results
from ..tracking import check_tracking, track
from . import identity
from .completion import CompletionLog, Progress
from .environment import describe
from .executors import Executor, make_executor
from .resolve import resolve
from .tasks import AttackSetting, Task, Tasks, make_settings
from .writer import Writer

SMALL = 64
"""Pixels per side up to which a single thread of PyTorch is used."""


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
            process; before all, with its plan, where a run is resumed.

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
        (on_progress or _ignore)(log.plan())

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
            made["class_names"] = data.class_names
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
        with Writer(folder) as writer:
            _compute(executor, log, writer, on_progress or _ignore)
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


def _open(folder: RunFolder, evaluation: Evaluation, samples: int) -> CompletionLog:
    folder.open()
    tasks = Tasks(make_settings(evaluation), samples, evaluation.batch_size, evaluation.seed)
    return CompletionLog(folder, tasks, evaluation.shard)


def _compute(
    executor: Executor, log: CompletionLog, writer: Writer, report: Callable[[Progress], None]
) -> None:
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
            writer.write(task.number, part)
            running.remove(task.number)
            log.add(task, stored)
            state = log.progress(task)
            if state.setting_done == state.setting_total:
                robust = state.robust_accuracy
                LOGGER.info("%s, epsilon %g: robust accuracy %.3f", *_named(task.setting), robust)
            report(state)
        writer.flush()
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
            f"{line}; of {len(log.batches)} batches {len(log.failed)} could not be computed,"
            f" the first of them batch {number}: run again, or with data.on_error=skip"
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
