"""Report a run to MLflow or TensorBoard: one that is stored, or one in progress.

What a tracker holds already is not logged again. So a report may be repeated, and a run that was
interrupted continues the same run of MLflow, or the same folder of TensorBoard.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from .config.types import Evaluation, TrackingConfig
from .config.validation import expand_path
from .errors import EvaluationWarning, UserError, warn
from .serialization import flatten_keys, from_yaml
from .store.checksums import digest
from .store.results import Results

PER_UNIT_OF_EPSILON = 10**6
"""Steps are whole numbers in both trackers: a metric's step is its epsilon in millionths, so that
a metric drawn over its steps is a security curve."""

Values = Iterable[tuple[str, int, float]]
"""Name, step and value of each metric."""

_FOLDER_TAG = "carescale.folder"
_RUN_TAG = "carescale.run"
"""A digest of folder and config: another run in a folder that was emptied is another run."""

_MODULES = {
    "none": (),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "tensorboard": ("tensorboard",),
}


def check_tracking(config: TrackingConfig) -> None:
    """Check that the tracker is installed, before anything is computed.

    Raises:
        UserError: It is not; the message says what to install.
    """
    name = config.name
    missing = [module for module in _MODULES[name] if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(
            f"tracking.name: {name} needs {', '.join(missing)};"
            f" run: pip install 'foolbox-carescale[{name}]'"
        )


def track(results: Results, evaluation: Evaluation) -> None:
    """Report a run, once: parameters, metrics per epsilon, and the files of the run folder.

    Nothing is reported before all tasks of the run, of other shards too, are done. A failure
    is an ``EvaluationWarning``: the results are in their folder, whatever happens here.
    Running the evaluation again reports what could not be reported.
    """
    if evaluation.tracking.name == "none":
        return
    if not results.complete:
        return
    report(evaluation.tracking, results.folder, _page_and_metrics(results, evaluation.tracking))


def _page_and_metrics(results: Results, config: TrackingConfig) -> Iterator[tuple[str, int, float]]:
    """Yield the metrics; before the first of them the page is drawn, to be among MLflow's files."""
    if config.name == "mlflow":
        from .report import write_report

        write_report(results)
    yield from metrics(results)


def report(config: TrackingConfig, folder: Path, values: Values) -> None:
    """Report what a run folder holds, once. A failure is an ``EvaluationWarning``.

    Args:
        config: Where to.
        folder: Of the run, with its ``config.yaml``.
        values: Of each metric; asked for only where something is to be reported.
    """
    if config.name == "none":
        return
    tracker = None
    try:
        check_tracking(config)
        tracker = _open(config, folder)
        if not tracker.finished:
            tracker.log(values)
            tracker.finish()
    except Exception as error:  # a tracker may raise anything, and the results outlive it
        if tracker is not None:
            _leave(tracker, "FAILED")
        remedy = "Run the same command again to repeat only the tracking"
        _warn(config, error, f"the results are in {folder}. {remedy}")


@contextlib.contextmanager
def following(config: TrackingConfig, folder: Path) -> Iterator[Callable[[Values], None]]:
    """Report a run in progress; ``report`` completes it afterwards.

    Yields:
        A function to call with all values so far, whenever there are new ones. After a failure,
        which is an ``EvaluationWarning``, it does nothing more: a server that does not answer
        holds up the run once.

    Args:
        config: Where to.
        folder: Of the run, with its ``config.yaml``.
    """
    tracker: _Mlflow | _TensorBoard | None = None
    ended = config.name == "none"

    def log(values: Values) -> None:
        nonlocal tracker, ended
        if ended:
            return
        try:
            tracker = tracker or _open(config, folder)
            if not tracker.finished:
                tracker.log(values)
        except Exception as error:  # as in report
            ended = True
            _warn(config, error, "nothing is lost: everything is logged at the end of the run")

    status = "FAILED"
    try:
        yield log
        status = "RUNNING"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if tracker is not None and not tracker.finished:
            _leave(tracker, status)


def metrics(results: Results) -> Iterator[tuple[str, int, float]]:
    """Yield name, step and value of each metric; a step is an epsilon in millionths."""
    yield "clean_accuracy", 0, results.clean_accuracy
    for setting in results.summary():
        step = round(setting.epsilon * PER_UNIT_OF_EPSILON)
        for quantity in ("robust_accuracy", "loss", "norm_mean", "seconds"):
            value = getattr(setting, quantity)
            if value == value:  # NaN where nothing was attacked
                yield f"{quantity}/{setting.attack}", step, value


def parameters(folder: Path) -> dict[str, str]:
    """Return the resolved config of a run by dotted keys, without how it is tracked."""
    content = from_yaml((folder / "config.yaml").read_text(encoding="utf-8"))
    content.pop("tracking", None)
    return {key: str(leaf) for key, leaf in flatten_keys(content).items()}


def _open(config: TrackingConfig, path: Path) -> _Mlflow | _TensorBoard:
    return _Mlflow(config, path) if config.name == "mlflow" else _TensorBoard(config, path)


def _leave(tracker: _Mlflow | _TensorBoard, status: str) -> None:
    """Close a run that is not complete; the tracker may fail to record that."""
    with contextlib.suppress(Exception):
        tracker.leave(status)


def _warn(config: TrackingConfig, error: Exception, then: str) -> None:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    found = EvaluationWarning(f"tracking: {config.name} failed ({reason})", then)
    warn(found, stacklevel=4)


class _Mlflow:
    """The MLflow run of this folder and config, or a new one."""

    def __init__(self, config: TrackingConfig, path: Path) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._path, self._client = path, MlflowClient(config.uri)
        client, params, folder = self._client, parameters(path), str(path.resolve())
        known = client.get_experiment_by_name(config.experiment)
        experiment = known.experiment_id if known else client.create_experiment(config.experiment)
        run = digest(json.dumps([folder, params]).encode())
        found = client.search_runs([experiment], f"tags.`{_RUN_TAG}` = '{run}'", max_results=1)
        name = config.run_name or path.name
        tags = {_FOLDER_TAG: folder, _RUN_TAG: run}
        entity = found[0] if found else client.create_run(experiment, tags=tags, run_name=name)
        self._id = entity.info.run_id
        self.finished = entity.info.status == "FINISHED"
        if self.finished:
            return
        self._logged = {
            (key, metric.step)
            for key in entity.data.metrics
            for metric in client.get_metric_history(self._id, key)
        }
        if entity.info.status != "RUNNING":
            client.update_run(self._id, "RUNNING")
        # a request holds so many at most: mlflow.utils.validation
        for batch in _batches([Param(key, value) for key, value in params.items()], 100):
            client.log_batch(self._id, params=batch)

    def log(self, values: Values) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        new = [
            (key, value, now, step)
            for key, step, value in values
            if (key, step) not in self._logged
        ]
        for batch in _batches(new, 1000):  # as above
            self._client.log_batch(self._id, metrics=[Metric(*metric) for metric in batch])
            self._logged |= {(key, step) for key, _, _, step in batch}

    def finish(self) -> None:
        self._client.log_artifacts(self._id, str(self._path))
        self._client.set_terminated(self._id)

    def leave(self, status: str) -> None:
        if status != "RUNNING":
            self._client.set_terminated(self._id, status)


class _TensorBoard:
    """A TensorBoard folder, with the events of earlier processes and of this one."""

    finished = False

    def __init__(self, config: TrackingConfig, path: Path) -> None:
        own = path / "tensorboard"
        if own.is_symlink():
            raise UserError(f"{own} is a symbolic link, through which nothing is written")
        self._folder = expand_path(config.folder) / path.name if config.folder else own
        content = from_yaml((path / "config.yaml").read_text(encoding="utf-8"))
        content.pop("tracking", None)
        self._config = f"```yaml\n{yaml.safe_dump(content, sort_keys=False)}```"
        self._writer: Any = None
        self._logged = self._read_logged()

    def _read_logged(self) -> set[tuple[str, int]]:
        """Return names and steps of what earlier processes have written."""
        if not any(self._folder.glob("events.out.tfevents.*")):
            return set()
        from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]
            event_accumulator,
        )

        everything = {event_accumulator.SCALARS: 0, event_accumulator.TENSORS: 0}
        events = event_accumulator.EventAccumulator(str(self._folder), everything).Reload()
        tags, text = events.Tags(), "config/text_summary"
        if text in tags["tensors"]:
            (config,) = events.Tensors(text)[0].tensor_proto.string_val
            if config.decode() != self._config:
                raise UserError(
                    f"{self._folder} holds another run; set output or tracking.folder to another"
                    " folder, or remove it"
                )
        return {(key, event.step) for key in tags["scalars"] for event in events.Scalars(key)}

    def log(self, values: Values) -> None:
        new = [metric for metric in values if metric[:2] not in self._logged]
        if not new:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
            if not self._logged:
                self._writer.add_text("config", self._config)
        for key, step, value in new:
            self._writer.add_scalar(key, value, step)
            self._logged.add((key, step))
        self._writer.flush()

    def finish(self) -> None:
        self.leave("FINISHED")

    def leave(self, status: str) -> None:
        if self._writer is not None:
            self._writer.close()


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
