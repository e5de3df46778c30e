"""Runs an evaluation: every cell on every block of samples, stored as it is computed."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import eagerpy as ep
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from foolbox_carescale.evaluate import doubts
from foolbox_carescale.evaluate.cells import Cell, Unit, make_cells, make_units
from foolbox_carescale.evaluate.config import Evaluation, ModelConfig
from foolbox_carescale.evaluate.data import Data
from foolbox_carescale.evaluate.errors import UserError
from foolbox_carescale.evaluate.inputs import resolve
from foolbox_carescale.evaluate.models import load_model
from foolbox_carescale.evaluate.results import Results
from foolbox_carescale.evaluate.store import SCHEMA, RunFolder

EXAMPLES = 4
"""Samples whose images are stored, from the first block, at the middle epsilon of each attack."""

SMALL = 64
"""Pixels per side up to which a single thread of PyTorch is used."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Progress:
    """How far a run is, after each unit.

    Attributes:
        cell: The cell that the last unit belongs to; None before the first.
        done, total: Units.
        robust_accuracy: Of the last unit.
    """

    cell: Cell | None
    done: int
    total: int
    robust_accuracy: float = float("nan")


def evaluate(
    evaluation: Evaluation, *, on_progress: Callable[[Progress], None] | None = None
) -> Results:
    """Measure a model's robust accuracy, and the true size of each perturbation.

    Samples that the model gets wrong without an attack are not attacked and count as not
    robust. Everything is judged on what an attack returns, clipped to its epsilon (by
    Foolbox) and to the box [0, 1].

    Args:
        evaluation: What to run; ``Evaluation()`` is the embedded default.
        on_progress: Called before the first unit and after each.

    Returns:
        The results; they are in the run folder too, from which ``Results.load`` reads them.

    Raises:
        UserError: Something in the evaluation cannot be used. Units that were computed
            before stay in the run folder.
    """
    evaluation.validate()
    cells = make_cells(evaluation)
    with doubts.heard() as doubted:
        evaluation, data = resolve(evaluation)
        model, model_config = load_model(evaluation.model, device=evaluation.device)
    threads = evaluation.threads or _threads(data)
    evaluation = dataclasses.replace(evaluation, model=model_config, threads=threads)
    with _torch_threads(threads):
        worker = _worker(model, model_config, data, evaluation.batch_size)
        folder = RunFolder.create(evaluation.output)
        folder.write_config(_header() + evaluation.to_yaml())
        block = slice(0, evaluation.batch_size)
        about_model = doubts.of_model(model, data.images[block], data.labels[block])
        doubts.announce(about_model)
        doubted += about_model
        folder.write_warnings(doubts.to_json(doubted))
        units = list(make_units(cells, len(data), evaluation.batch_size, evaluation.seed))
        _run(worker, units, folder, on_progress or (lambda progress: None))
    results = Results.load(folder.path)
    about_results = doubts.of_results(results)
    doubts.announce(about_results)
    folder.write_warnings(doubts.to_json([*doubted, *about_results]))
    return results


class Worker:
    """A model and its data: runs units, in any order, on any machine, with the same results."""

    def __init__(self, model: Any, name: str, data: Data, batch_size: int) -> None:
        """Classify the clean samples.

        Raises:
            UserError: The model cannot take these images, or has too few classes for them.
        """
        self._model, self._name, self._data = model, name, data
        logits = [
            self._logits(data.images[i : i + batch_size]) for i in range(0, len(data), batch_size)
        ]
        classes = logits[0].shape[1] if logits[0].ndim == 2 else 0
        if data.labels.max() >= classes:
            raise UserError(
                f"model: {name} gives logits of shape {logits[0].shape[1:]}, but {data.name} has"
                f" labels up to {data.labels.max()}; set model.num_classes, or take other data"
            )
        self._clean_predictions = np.concatenate(logits).argmax(1)
        self._clean_losses = cross_entropy(np.concatenate(logits), data.labels)

    def run(self, unit: Unit) -> tuple[pa.Table, Array]:
        """The rows of a unit, and the perturbed images of its attacked samples."""
        cell, data = unit.cell, self._data
        labels = data.labels[unit.samples]
        clean_predictions = self._clean_predictions[unit.samples]
        attacked = clean_predictions == labels
        chosen = unit.samples[attacked]
        images = data.images[chosen]

        seed_everything(unit.seed)
        started = time.perf_counter()
        returned = self._attack(cell, images, data.labels[chosen]) if len(chosen) else images
        seconds = time.perf_counter() - started

        perturbed = np.clip(returned, 0, 1)
        logits = self._logits(perturbed) if len(chosen) else np.zeros((0, 1))
        predictions = logits.argmax(1)
        norms = perturbation_norms(images, perturbed, cell.p)
        in_bounds = np.all(_per_sample((returned >= 0) & (returned <= 1)), axis=1)
        success = predictions != data.labels[chosen]
        quantised = self._logits(quantise(perturbed)) if len(chosen) else logits
        quantised_success = quantised.argmax(1) != data.labels[chosen]
        robust = np.zeros(len(unit.samples), bool)
        robust[attacked] = ~success
        losses = self._clean_losses[unit.samples].copy()
        losses[attacked] = cross_entropy(logits, data.labels[chosen])

        def same(value: Any) -> list[Any]:
            return [value] * len(unit.samples)

        def where_attacked(values: Any) -> list[Any]:
            column: list[Any] = same(None)
            for position, value in zip(np.flatnonzero(attacked), values.tolist(), strict=True):
                column[position] = value
            return column

        columns = {
            "model": same(self._name),
            "data": same(data.name),
            "cell": same(cell.number),
            "attack": same(cell.label),
            "attack_name": same(cell.config.name),
            "attack_params": same(json.dumps(cell.config.params, sort_keys=True, default=repr)),
            "attack_repeat": same(cell.config.repeat),
            "source": same(cell.source),
            "p": same(cell.p),
            "epsilon": same(cell.epsilon),
            "block": same(unit.block),
            "seed": same(unit.seed),
            "sample": data.index[unit.samples],
            "input_hash": [input_hash(image) for image in data.images[unit.samples]],
            "label": labels,
            "clean_prediction": clean_predictions,
            "attacked": attacked,
            "adversarial_prediction": where_attacked(predictions),
            "success": where_attacked(success),
            "quantised_success": where_attacked(quantised_success),
            "robust": robust,
            "norm": where_attacked(norms),
            "norm_over_epsilon": where_attacked(norms / cell.epsilon),
            "norm_l1": where_attacked(perturbation_norms(images, perturbed, 1)),
            "norm_l2": where_attacked(perturbation_norms(images, perturbed, 2)),
            "norm_linf": where_attacked(perturbation_norms(images, perturbed, np.inf)),
            "reachable_norm": reachable_norms(data.images[unit.samples], cell.p),
            "in_bounds": where_attacked(in_bounds),
            "clean_loss": self._clean_losses[unit.samples],
            "loss": losses,
            "forward_passes": same(None),
            "backward_passes": same(None),
            "seconds": where_attacked(np.full(len(chosen), seconds / max(len(chosen), 1))),
        }
        return pa.table(columns, schema=SCHEMA), perturbed

    def examples(self, unit: Unit, perturbed: Array) -> dict[str, Array]:
        """The first few attacked samples of a unit, with what identifies them."""
        labels = self._data.labels[unit.samples]
        chosen = unit.samples[self._clean_predictions[unit.samples] == labels][:EXAMPLES]
        return {
            "attack": np.array(unit.cell.label),
            "source": np.array(unit.cell.source),
            "p": np.array(unit.cell.p),
            "epsilon": np.array(unit.cell.epsilon),
            "label": self._data.labels[chosen],
            "prediction": self._logits(perturbed[: len(chosen)]).argmax(1),
            "clean": self._data.images[chosen],
            "perturbed": perturbed[: len(chosen)],
        }

    def _attack(self, cell: Cell, images: Array, labels: Array) -> Array:
        """What the attack returns, clipped to epsilon by Foolbox, as it comes otherwise."""
        _, clipped, _ = cell.attack(
            self._model, self._native(images), self._native(labels), epsilons=[cell.epsilon]
        )
        array: Array = ep.astensor(clipped[0]).numpy()
        return array

    def _logits(self, images: Array) -> Array:
        logits: Array = ep.astensor(self._model(self._native(images))).numpy()
        return logits.astype(np.float64)

    def _native(self, array: Array) -> Any:
        """The array as a tensor of the model's framework, on its device."""
        return ep.from_numpy(self._model.dummy, np.ascontiguousarray(array)).raw


def cross_entropy(logits: Array, labels: Array) -> Array:
    """-log softmax(logits)[label], shape (N,), in float64."""
    shifted = logits - logits.max(axis=1, keepdims=True) if len(logits) else logits
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    losses: Array = log_sum - shifted[np.arange(len(labels)), labels]
    return losses


def perturbation_norms(clean: Array, perturbed: Array, p: float) -> Array:
    """||perturbed - clean||_p per sample, shape (N,), in float64."""
    difference = _per_sample(perturbed.astype(np.float64) - clean.astype(np.float64))
    norms: Array = np.linalg.norm(difference, ord=p, axis=1)
    return norms


def reachable_norms(images: Array, p: float) -> Array:
    """The largest ||z - image||_p over z in [0, 1]^n, per sample, shape (N,), in float64."""
    x = _per_sample(images.astype(np.float64))
    norms: Array = np.linalg.norm(np.maximum(x, 1 - x), ord=p, axis=1)
    return norms


def quantise(images: Array) -> Array:
    """The images as 8-bit files hold them: rounded to the nearest multiple of 1/255."""
    rounded: Array = (np.rint(images * 255) / 255).astype(np.float32)
    return rounded


def input_hash(image: Array) -> str:
    """BLAKE2b, 16 bytes in hexadecimal, of an image's float32 pixels in C order."""
    pixels = np.ascontiguousarray(image, dtype="<f4")
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()


def seed_everything(seed: int) -> None:
    """Seed every generator that an attack may draw from, of frameworks in use only."""
    short = seed % 2**32  # all that NumPy's and TensorFlow's global generators take
    random.seed(seed)
    np.random.seed(short)  # noqa: NPY002 - Foolbox draws from the global generator
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)
    if (tensorflow := sys.modules.get("tensorflow")) is not None:
        tensorflow.random.set_seed(short)
    if (jax := sys.modules.get("jax")) is not None:
        from eagerpy.tensor.jax import JAXTensor

        JAXTensor.key = jax.random.PRNGKey(short)


def _worker(model: Any, config: ModelConfig, data: Data, batch_size: int) -> Worker:
    name = config._target_ or config.name
    try:
        return Worker(model, name, data, batch_size)
    except (RuntimeError, AssertionError) as error:
        if config._target_ is not None:
            raise  # an error in the user's own model, who needs the traceback
        shape = "x".join(map(str, data.images.shape[1:]))
        reason = str(error).split("\n")[0]
        raise UserError(
            f"model.name: {name} cannot classify images of shape {shape} ({reason});"
            " try data.size=224"
        ) from error


def _run(
    worker: Worker, units: list[Unit], folder: RunFolder, report: Callable[[Progress], None]
) -> None:
    shown = _shown(units)
    report(Progress(None, 0, len(units)))
    for done, unit in enumerate(units, start=1):
        rows, perturbed = worker.run(unit)
        folder.write_unit(unit.name, rows)
        if unit.name in shown and len(perturbed):
            folder.write_examples(unit.name, worker.examples(unit, perturbed))
        accuracy = float(np.mean(rows["robust"].to_numpy()))
        report(Progress(unit.cell, done, len(units), accuracy))


def _shown(units: list[Unit]) -> set[str]:
    """Names of the units whose images are stored: each attack's middle epsilon, first block."""
    by_label: dict[str, list[Unit]] = {}
    for unit in units:
        if unit.block == 0:
            by_label.setdefault(unit.cell.label, []).append(unit)
    return {same[len(same) // 2].name for same in by_label.values()}


def _threads(data: Data) -> int:
    """One for small images: measured on two cores with the embedded model, a second thread
    costs up to 50 times the time where another process wants that core.
    """
    import torch

    small = max(data.images.shape[2:], default=1) <= SMALL
    return 1 if small else torch.get_num_threads()


@contextlib.contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _per_sample(array: Array) -> Array:
    return array.reshape(len(array), int(np.prod(array.shape[1:])))


def _header() -> str:
    """The versions that made a run, as a comment."""
    from importlib.metadata import version

    packages = ("foolbox-carescale", "foolbox", "eagerpy", "numpy", "torch", "torchvision")
    return "# " + ", ".join(f"{name} {version(name)}" for name in packages) + "\n"
