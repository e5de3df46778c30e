"""Reports a finished run to MLflow or TensorBoard, from its stored results only."""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from foolbox_carescale.evaluate.cells import make_cells
from foolbox_carescale.evaluate.config import Evaluation, TrackingConfig
from foolbox_carescale.evaluate.errors import EvaluationWarning, UserError
from foolbox_carescale.evaluate.results import Results
from foolbox_carescale.evaluate.store import RunFolder

PER_UNIT_OF_EPSILON = 10**6
"""Steps are whole numbers in both trackers: a metric's step is its epsilon in millionths, so that
a metric drawn over its steps is a security curve."""

_FOLDER_TAG = "carescale.folder"

_MODULES = {
    "none": (),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "tensorboard": ("tensorboard",),
}


def check_tracking(config: TrackingConfig) -> None:
    """See that the tracker is installed, before anything is computed.

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

    Nothing is reported before all parts of the run, of other shards too, are there. A failure
    is an ``EvaluationWarning``: the results are in their folder, whatever happens here.
    Running the evaluation again reports what could not be reported.
    """
    if evaluation.tracking.name == "none":
        return
    record = RunFolder(results.folder).record()
    if record is None or results.table.num_rows < record["samples"] * len(make_cells(evaluation)):
        return
    report(evaluation.tracking, results.folder, _page_and_metrics(results, evaluation.tracking))


def _page_and_metrics(results: Results, config: TrackingConfig) -> Iterator[tuple[str, int, float]]:
    """The metrics; before the first of them the page is drawn, to be among MLflow's files."""
    if config.name == "mlflow":
        from foolbox_carescale.evaluate.report import write_report

        write_report(results)
    yield from metrics(results)


def report(config: TrackingConfig, folder: Path, values: Iterable[tuple[str, int, float]]) -> None:
    """Report what a run folder holds, once. A failure is an ``EvaluationWarning``.

    Args:
        config: Where to.
        folder: Of the run, with its ``config.yaml``.
        values: Name, step and value of each metric.
    """
    if config.name == "none":
        return
    tell = _to_mlflow if config.name == "mlflow" else _to_tensorboard
    try:
        check_tracking(config)
        tell(config, folder, values)
    except Exception as error:  # a tracker may raise anything, and the results outlive it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"tracking: {config.name} failed ({reason}); the results are in {folder}."
            " Run the same again to repeat only the tracking",
            EvaluationWarning,
            stacklevel=3,
        )


def metrics(results: Results) -> Iterator[tuple[str, int, float]]:
    """Name, step and value of each metric; a step is an epsilon in millionths."""
    yield "clean_accuracy", 0, results.clean_accuracy
    for cell in results.summary():
        step = round(cell.epsilon * PER_UNIT_OF_EPSILON)
        for quantity in ("robust_accuracy", "loss", "norm_mean", "seconds"):
            value = getattr(cell, quantity)
            if value == value:  # NaN where nothing was attacked
                yield f"{quantity}/{cell.attack}", step, value


def parameters(folder: Path) -> dict[str, str]:
    """The resolved config of a run by dotted keys, without how it is tracked."""
    content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return {k: v for k, v in _flat(content, "") if not k.startswith("tracking.")}


def _flat(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for inner, item in value.items():
            yield from _flat(item, f"{key}.{inner}" if key else str(inner))
    else:
        yield key, str(value)


def _to_mlflow(
    config: TrackingConfig, path: Path, measured: Iterable[tuple[str, int, float]]
) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    folder = str(path.resolve())
    client = MlflowClient(config.uri)
    known = client.get_experiment_by_name(config.experiment)
    experiment = known.experiment_id if known else client.create_experiment(config.experiment)
    query = f"tags.`{_FOLDER_TAG}` = '{folder}' and attributes.status = 'FINISHED'"
    if client.search_runs([experiment], query, max_results=1):
        return
    name = config.run_name or path.name
    run_id = client.create_run(experiment, tags={_FOLDER_TAG: folder}, run_name=name).info.run_id
    try:
        now = round(1000 * time.time())
        values = [Metric(key, value, now, step) for key, step, value in measured]
        params = [Param(key, value) for key, value in parameters(path).items()]
        # a request holds so many at most: mlflow.utils.validation
        for batch in _batches(values, 1000):
            client.log_batch(run_id, metrics=batch)
        for batch in _batches(params, 100):
            client.log_batch(run_id, params=batch)
        client.log_artifacts(run_id, folder)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)


def _to_tensorboard(
    config: TrackingConfig, path: Path, measured: Iterable[tuple[str, int, float]]
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    folder = Path(config.folder).expanduser() / path.name if config.folder else None
    folder = folder or path / "tensorboard"
    if any(folder.glob("events.out.tfevents.*")):
        return
    with SummaryWriter(str(folder)) as writer:
        text = (path / "config.yaml").read_text(encoding="utf-8")
        writer.add_text("config", f"```yaml\n{text}```")
        for key, step, value in measured:
            writer.add_scalar(key, value, step)


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
