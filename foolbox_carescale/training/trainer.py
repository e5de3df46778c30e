"""``carescale train``: a training that resumes, wherever it was killed, with the same weights."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..evaluate.config.types import TrackingConfig
from ..evaluate.config.validation import expand_path
from ..evaluate.data.dataset import Batch
from ..evaluate.data.sources import open_source
from ..evaluate.errors import LOGGER, StorageError, UserError
from ..evaluate.models.loading import find_device, resolve_model
from ..evaluate.runner.identity import check_config, check_inputs, inputs_digest, versions
from ..evaluate.runner.resolve import view_of
from ..evaluate.runner.run import SMALL
from ..evaluate.serialization import flatten_keys, to_builtins
from ..evaluate.store.checksums import IntegrityError, read_file, write_atomically
from ..evaluate.store.folder import MOST_JSON, RunFolder
from ..evaluate.tracking import check_tracking, following, report
from .checkpoints import load_checkpoint, read_about, save_checkpoint, save_weights
from .config import Training
from .loop import Epoch, Loop

if TYPE_CHECKING:
    from lightning_fabric import Fabric

NON_IDENTITY_KEYS = ("tracking", "output", "checkpoint_every")
"""Keys that change no weight."""

_RECORD, _CHECKPOINT, _HISTORY = "train.json", "checkpoint.pt", "history.csv"
_OLD_CHECKPOINT = "checkpoint.safetensors"
_WEIGHTS, _UNFINISHED = "weights.safetensors", ".unfinished"

# Fabric logs at length how many processes there are, once per process. Not in a function: this
# must hold in spawned processes before it starts.
for _name in ("distributed", "rank_zero"):
    logging.getLogger(f"lightning_fabric.utilities.{_name}").setLevel(logging.WARNING)

_AMP = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        folder: Its run folder.
        weights: The safetensors file, which ``carescale evaluate model.weights=...`` reads.
        epochs: The measurements after each.
        about: What is stored beside the weights: architecture, accuracy, recipe, ...
    """

    folder: Path
    weights: Path
    epochs: tuple[Epoch, ...]
    about: dict[str, Any]


def train(training: Training, *, progress: bool = False) -> Trained:
    """Train a network, or resume a training from its last checkpoint.

    On the CPU the weights are bit for bit those of a training that nobody interrupted. The
    processes of one machine are started by Lightning Fabric; those of ``torchrun`` are used.

    Args:
        training: What to train; ``Training()`` is the bundled default.
        progress: Show a bar.

    Raises:
        UserError: Something in the training cannot be used, or the folder holds another one.
        StorageError: The folder cannot be written.
        KeyboardInterrupt: Ctrl-C; the message says how to resume.
    """
    training = training.validated()
    check_tracking(training.tracking)
    if _rank() is not None and training.output is None:
        raise UserError("output: is missing; give the folder that all processes share")
    resolved, data, run, store = _start(training)
    folder = store.path
    try:
        if not (folder / _WEIGHTS).exists():
            images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
            work: Any = _work  # Fabric's type for it has no further arguments
            failed = _fabric(resolved).launch(work, resolved, folder, run, images, labels, progress)
            if failed is not None:
                raise UserError(failed)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the same command with output={folder} resumes from the last checkpoint"
        ) from None
    finally:
        store.close()
    trained = Trained(
        folder, folder / _WEIGHTS, _read_history(folder), read_about(folder / _WEIGHTS)
    )
    if not _rank():
        report(training.tracking, folder, _metrics(trained.epochs))
    return trained


def _rank() -> int | None:
    """Return the rank of a process that ``torchrun`` or the like has started, else None."""
    return (
        int(os.environ["RANK"]) if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= set(os.environ) else None
    )


def _start(training: Training) -> tuple[Training, Batch, str, RunFolder]:
    """Return the training with all defaults resolved, its data, its identity and its folder."""
    folder = expand_path(training.output) if training.output else None
    record = None if folder is None else _read_record(folder)
    if folder is not None and record is not None:
        if _identity(training) != record["resolved"]:
            check_config(record["asked"], _identity(training), folder)
        chosen = record["resolved"]
        training = dataclasses.replace(training, threads=chosen["threads"], device=chosen["device"])
    resolved, data = _resolve(training)
    config = _identity(resolved)
    inputs = inputs_digest(data.index, data.labels, data.hashes)
    identity = {"config": config, "inputs": inputs}
    run = hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()
    if folder is not None and record is not None and record["run"] != run:
        check_config(record["resolved"], config, folder)
        check_inputs(record["inputs"], inputs, f"the training in {folder}")
    store = RunFolder.new() if folder is None else RunFolder(folder)
    if not _rank():
        made = {"run": run, "asked": _identity(training), "resolved": config, "inputs": inputs}
        _open(store, None if record else {**made, "versions": versions()}, resolved.to_yaml())
    return resolved, data, run, store


def _open(store: RunFolder, record: dict[str, Any] | None, config: str) -> None:
    """Claim a folder for this process, and record in it what is trained if it is new."""
    unfinished = store.path / _UNFINISHED
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        if not store.claim(0):
            raise UserError(
                f"output: another process trains in {store.path}; choose another folder"
            )
        if record is not None:
            noted = {"config.yaml": config, _RECORD: json.dumps(record, indent=2)}
            for name, text in noted.items():
                write_atomically(store.path / name, text.encode(), temporary=unfinished)
    except OSError as error:
        raise StorageError(
            f"output: {store.path} cannot be written ({error.strerror or error});"
            " choose another folder"
        ) from error


def _read_record(folder: Path) -> dict[str, Any] | None:
    if (folder / "run.json").exists():
        raise UserError(f"output: {folder} holds an evaluation; choose another folder")
    if (folder / _OLD_CHECKPOINT).exists():
        raise UserError(
            f"checkpoint: {folder / _OLD_CHECKPOINT} is of an older format, which is not resumed;"
            " remove it to train from the beginning, or choose another folder"
        )
    try:
        record: dict[str, Any] = json.loads(read_file(folder / _RECORD, MOST_JSON))
        for key in ("asked", "resolved", "inputs"):
            flatten_keys(dict(record[key]))  # of any depth that readers can follow
        str(record["run"]), int(record["resolved"]["threads"]), str(record["resolved"]["device"])
    except FileNotFoundError:
        return None
    except (IntegrityError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"output: {folder / _RECORD} is damaged, so it is not known which training the folder"
            " holds; choose another folder"
        ) from error
    return record


def _identity(training: Training) -> dict[str, Any]:
    content: dict[str, Any] = to_builtins(training)
    for key in NON_IDENTITY_KEYS:
        del content[key]
    del content["data"]["workers"]
    content["device"] = content["device"].partition(":")[0]  # which of several GPUs is no matter
    return content


def _resolve(training: Training) -> tuple[Training, Batch]:
    source = open_source(training.data, "train")
    model = resolve_model(training.model, data=source.name, num_classes=source.num_classes)
    view = view_of(training.data, model)
    data = source.read(view, None)
    channels = data.images.shape[1]
    if model._target_ is None and model.weights is None:
        model = dataclasses.replace(model, num_classes=model.num_classes or data.num_classes)
        if model.mean is None and model.std is None:
            model = dataclasses.replace(model, mean=[0.5] * channels, std=[0.5] * channels)
    held_out = round(training.holdout * len(data))
    if not (held_out and training.batch_size <= len(data) - held_out):
        raise UserError(
            f"batch_size, holdout: {data.name} has {len(data)} images, too few for batches of"
            f" {training.batch_size} beside {held_out} that are held out"
        )
    small = max(data.images.shape[2:]) <= SMALL
    threads = training.threads or (1 if small else torch.get_num_threads())
    device = str(find_device(training.device))
    resolved = dataclasses.replace(training, model=model, data=view, threads=threads, device=device)
    return resolved, data


def _fabric(training: Training) -> Fabric:
    from lightning_fabric import Fabric

    device = torch.device(training.device)
    if device.type == "cpu" and training.precision == "float16":
        raise UserError("precision: float16 does not train on the CPU; take bfloat16")
    launched = _rank() is not None
    devices: Any = int(os.environ["LOCAL_WORLD_SIZE"]) if launched else training.processes
    if devices == 1 and device.index is not None:
        devices = [device.index]
    # spawned processes, not a second call of the command: a caller's own program is not run again
    several = "ddp" if launched else "ddp_spawn"
    try:
        return Fabric(
            accelerator=device.type,
            devices=devices,
            num_nodes=int(os.environ.get("WORLD_SIZE", 1)) // devices if launched else 1,
            strategy=several if launched or training.processes > 1 else "auto",
            precision=_AMP[training.precision],  # type: ignore[arg-type]
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"device, processes, precision: cannot be used ({reason})") from error


def _work(
    fabric: Fabric,
    training: Training,
    folder: Path,
    run: str,
    images: torch.Tensor,
    labels: torch.Tensor,
    progress: bool,
) -> str | None:
    """Train in one process; return the message of a UserError, which can cross processes."""
    assert training.threads is not None
    torch.set_num_threads(training.threads)
    try:
        loop = Loop(fabric, training, images, labels)
        checkpoint = folder / _CHECKPOINT
        if checkpoint.exists():
            loop.restore(load_checkpoint(checkpoint), run, checkpoint)
        tracking = training.tracking if fabric.is_global_zero else TrackingConfig()
        with (
            _bar(progress and fabric.is_global_zero) as show,
            following(tracking, folder) as log_metrics,
        ):
            log_metrics(_metrics(loop.history))
            log = LOGGER.info if fabric.is_global_zero else LOGGER.debug
            log("training in %s: %d of %d epochs done", folder, loop.epoch, training.epochs)
            for step in loop.steps():
                show(loop)
                if step % training.checkpoint_every == 0 or loop.between_epochs:
                    content = loop.content(run)
                    if fabric.is_global_zero:
                        _write_history(folder, loop.history)
                        save_checkpoint(checkpoint, content, temporary=folder / _UNFINISHED)
                if loop.between_epochs:
                    log("%s", loop.history[-1])
                    log_metrics(_metrics(loop.history))
        if fabric.is_global_zero:
            save_weights(
                folder / _WEIGHTS, loop.weights(), loop.about(), temporary=folder / _UNFINISHED
            )
            checkpoint.unlink()
        fabric.barrier()
    except UserError as error:
        return str(error)
    return None


def _write_history(folder: Path, history: Sequence[Epoch]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in dataclasses.fields(Epoch)])
    writer.writeheader()
    writer.writerows(dataclasses.asdict(epoch) for epoch in history)
    write_atomically(folder / _HISTORY, text.getvalue().encode(), temporary=folder / _UNFINISHED)


def _read_history(folder: Path) -> tuple[Epoch, ...]:
    try:
        text = read_file(folder / _HISTORY, MOST_JSON).decode()
        return tuple(
            Epoch(int(row.pop("epoch")), **{key: float(value) for key, value in row.items()})
            for row in csv.DictReader(io.StringIO(text, newline=""))
        )
    except (IntegrityError, FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"output: {folder / _HISTORY} is missing or damaged; choose another folder"
        ) from error


def _metrics(epochs: Sequence[Epoch]) -> Iterator[tuple[str, int, float]]:
    """Yield name, step and value; a step is an epoch."""
    for epoch in epochs:
        for key, value in dataclasses.asdict(epoch).items():
            if key != "epoch":
                yield key, epoch.epoch, value


@contextlib.contextmanager
def _bar(shown: bool) -> Iterator[Callable[[Loop], None]]:
    """Show a bar with the time left, or nothing."""
    if not shown:
        yield lambda _: None
        return
    from rich import progress

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        transient=True,
    )
    with bar:
        task = bar.add_task("training", total=None)

        def show(loop: Loop) -> None:
            text = f"epoch {loop.epoch + (not loop.between_epochs)}"
            if loop.history:
                last = loop.history[-1]
                text += f": accuracy {last.accuracy:.2f}, perturbed {last.perturbed_accuracy:.2f}"
            done = loop.epoch * loop.per_epoch + loop.position
            total = loop.training.epochs * loop.per_epoch
            bar.update(task, completed=done, total=total, description=text)

        yield show
