"""Computes tasks: what an attack does to a batch of samples, and what that takes."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import eagerpy as ep
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from foolbox.attacks.base import Repeated

from ...attacks.counting import CountingModel
from ...attacks.ensemble import ClipAwareAutoAttack, StageResult
from ...attacks.indexing import take_samples
from ...attacks.model import module_of
from .. import diagnostics
from ..config.types import Evaluation, shard_of
from ..data.dataset import Batch, Data
from ..data.decoding import scaled_on
from ..errors import SampleError, UserError, named_memory
from ..models.loading import load_model
from ..models.outputs import check_classes
from ..models.targets import named_errors
from ..models.weights import weights_digest
from ..serialization import to_json_text
from ..store.schema import SCHEMA, TaskResult
from . import measures
from .identity import inputs_digest, logit_mixtures
from .seeding import seed_everything
from .tasks import AttackSetting, Task, Tasks

EXAMPLES = 4
"""Samples whose images are stored, from the first batch, at the middle epsilon of each attack."""

PACKAGES = ("foolbox", "foolbox_carescale")
"""Those whose attacks leave their inputs as they are."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ModelProbe:
    """Facts about the model, before the first task.

    Attributes:
        model: Shows whether two workers have the same one: a digest of its ``weights``,
            and ``logit_mixtures`` of samples of all batches.
        inputs: Shows whether they have the same data: digests of all places and labels that are
            known, and of the images of these samples.
        diagnostics: About the model.
    """

    model: dict[str, Any]
    inputs: dict[str, str]
    diagnostics: list[diagnostics.Diagnostic]


@dataclass(frozen=True)
class _CleanBatch:
    """A batch without an attack: made once, for all of its tasks.

    Attributes:
        samples: All of them.
        predictions: Of the model.
        losses: Of the model.
        attacked: Which the model gets right, and those alone:
        images: as an array,
        labels: theirs, and
        inputs: the images on the model's device, with
        targets: their labels.
        reachable: By norm, of all samples.
    """

    samples: Batch
    predictions: Array
    losses: Array
    attacked: Array
    images: Array
    labels: Array
    inputs: Any
    targets: Any
    reachable: dict[float, Array] = field(default_factory=dict)


class Worker:
    """A model and its data: runs tasks, in any order, on any machine, with the same results."""

    def __init__(
        self, model: Any, name: str, data: Data, tasks: Tasks, *, keep: bool = False
    ) -> None:
        """Take what the tasks need.

        Args:
            model: A Foolbox model.
            name: Of the model.
            data: The samples of the run, read batch by batch.
            tasks: All tasks of the run.
            keep: Whether parts hold the adversarial examples.
        """
        self._model, self._name, self._data, self._tasks = model, name, data, tasks
        self._keep = keep
        self._clean: tuple[int, _CleanBatch] | None = None

    def probe_model(self, *, diagnose: bool = True) -> ModelProbe:
        """Return what identifies the model and the data, and diagnose the model on request.

        Raises:
            UserError: The model has too few classes for the data.
        """
        module = module_of(self._model)
        weights = None if module is None else weights_digest(module)
        batch, some = len(self._tasks.positions(0)), self._data.batch(self._tasks.probe_positions())
        parts = [self._logits(some.images[i : i + batch]) for i in range(0, len(some), batch)]
        logits = np.concatenate(parts)
        known = some.labels if self._data.labels is None else self._data.labels
        check_classes(logits.shape, int(known.max()), model=self._name, data=self._data.name)
        found = []
        if diagnose:
            more = self._data.batch(self._tasks.probe_positions(diagnose=True))
            found = diagnostics.of_model(self._model, more.images, more.labels, batch_size=batch)
        return ModelProbe(
            {"weights": weights, "logits": logit_mixtures(logits).tolist()},
            inputs_digest(self._data.index, known, some.hashes),
            found,
        )

    def run(self, task: Task) -> TaskResult:
        """Attack a task's samples, and measure what comes out; say why if one cannot be read."""
        with named_memory(self._tasks.batch_size):
            return self._run(task)

    def _run(self, task: Task) -> TaskResult:
        try:
            batch = self._batch(task.batch)
        except SampleError as error:  # other batches may do without
            return TaskResult(task.name, SCHEMA.empty_table(), failure=str(error))
        for number in task.ahead:
            self._data.prefetch(self._tasks.positions(number))
        images, labels = batch.images, batch.labels

        counted = measures.RecordingModel(self._model)
        counted.reports_overflow = counted.is_diagnosed = True  # of all samples at once
        seed_everything(task.seed)
        started = time.perf_counter()
        named = named_errors(f"attacks.{task.settings[0].label}")
        with named, named_memory(self._tasks.batch_size):
            returned, clipped, stages = (
                self._attack(counted, task.settings, batch)
                if len(images)
                else (*([images for _ in task.settings],) * 2, [])
            )
        seconds = time.perf_counter() - started
        cost = {
            "forward_passes": counted.forwards / max(len(images), 1),
            "backward_passes": counted.backwards / max(len(images), 1),
            "seconds": seconds / max(len(images), 1) / len(task.settings),
        }

        minimum = None  # judged once: it is the same for every epsilon
        if task.setting.minimises:
            minimum = self._minimum_norms(images, returned[0], labels, task.setting.p)
        tables, examples = [], None
        kept: dict[str, Array] = {"sample": batch.samples.index[batch.attacked]}
        for setting, raw, moved in zip(task.settings, returned, clipped, strict=True):
            perturbed = np.clip(moved, 0, 1)
            recalled = counted.recall(perturbed)
            logits = self._logits(perturbed) if recalled is None else recalled
            judged, nobody = self._judged(perturbed, logits, labels), np.array(None)
            measured: dict[str, Any] = {
                **judged,
                **measures.measured_norms(images, perturbed, setting.p, setting.epsilon),
                # no epsilon limits the smallest perturbation
                "returned_norm": None
                if setting.minimises
                else measures.perturbation_norms(images, raw, setting.p)[0],
                "minimum_norm": minimum,
                # what draws numbers may answer a stage otherwise
                "broken_by": np.where(judged["success"], _broken_by(stages, len(images)), nobody),
                "in_bounds": np.all(measures.per_sample((moved >= 0) & (moved <= 1)), axis=1),
                **{name: np.full(len(images), value) for name, value in cost.items()},
            }
            tables.append(self._rows(task, setting, batch, measured))
            kept[f"epsilon={setting.epsilon!r}"] = perturbed.astype(np.float32)
            if setting is task.pictured and len(images):
                examples = _examples(setting, images, labels, perturbed, logits)
        rows = pa.concat_tables(tables).combine_chunks()
        saved = kept if self._keep else None
        return TaskResult(task.name, rows, examples, saved, batch.samples.skipped)

    def _batch(self, number: int) -> _CleanBatch:
        if self._clean is None or self._clean[0] != number:
            self._clean = None  # before another takes memory on the device
            seed_everything(self._tasks.batch_seed(number))  # for a model that draws numbers
            samples = self._data.batch(self._tasks.positions(number))
            inputs, targets = self._inputs(samples), self._native(samples.labels)
            logits = self._answers(inputs)
            highest = int(samples.labels.max())
            check_classes(logits.shape, highest, model=self._name, data=self._data.name)
            predictions = logits.argmax(1)
            attacked = predictions == samples.labels
            images, labels = samples.images, samples.labels
            if not attacked.all():
                chosen = np.flatnonzero(attacked)
                images, labels = images[chosen], labels[chosen]
                inputs, targets = (
                    take_samples(ep.astensor(t), chosen).raw for t in (inputs, targets)
                )
            losses = measures.cross_entropy(logits, samples.labels)
            self._clean = (
                number,
                _CleanBatch(
                    samples, predictions, losses, attacked, images, labels, inputs, targets
                ),
            )
        return self._clean[1]

    def _attack(
        self,
        model: CountingModel,
        settings: tuple[AttackSetting, ...],
        batch: _CleanBatch,
    ) -> tuple[list[Array], list[Array], list[StageResult]]:
        """Return points for each setting, the same cut to its epsilon, and an ensemble's stages."""
        attack, inputs, targets = settings[0].attack, batch.inputs, batch.targets
        if settings[0].library not in PACKAGES:  # one of the user's own may write into its inputs
            inputs, targets = self._native(batch.images.copy()), self._native(batch.labels.copy())
        stages: list[StageResult] = []
        if settings[0].minimises:
            # without an epsilon, so that no list of epsilons ends the search early
            (smallest,), _, _ = attack(model, inputs, targets, epsilons=[None])
            clipped = [
                attack.distance.clip_perturbation(inputs, smallest, setting.epsilon)
                for setting in settings
            ]
            raw = [smallest] * len(settings)
        else:
            epsilons = [setting.epsilon for setting in settings]
            single = attack.attack if isinstance(attack, Repeated) else attack
            told = {"on_stage": stages.append} if isinstance(single, ClipAwareAutoAttack) else {}
            raw, clipped, _ = attack(model, inputs, targets, epsilons=epsilons, **told)
        return [_array(t) for t in raw], [_array(t) for t in clipped], stages

    def _minimum_norms(self, images: Array, returned: Array, labels: Array, p: float) -> Array:
        """Return the p-norm of each perturbation; infinity where it is not adversarial."""
        nearest = np.clip(returned, 0, 1)
        adversarial = self._logits(nearest).argmax(1) != labels
        return np.where(adversarial, measures.perturbation_norms(images, nearest, p)[0], np.inf)

    def _judged(self, perturbed: Array, logits: Array, labels: Array) -> dict[str, Array]:
        quantised = self._logits(measures.quantise(perturbed))
        return {
            "adversarial_prediction": logits.argmax(1),
            "success": logits.argmax(1) != labels,
            "quantised_success": quantised.argmax(1) != labels,
            "loss": measures.cross_entropy(logits, labels),
        }

    def _rows(
        self,
        task: Task,
        setting: AttackSetting,
        batch: _CleanBatch,
        measured: dict[str, Any],
    ) -> pa.Table:
        if setting.p not in batch.reachable:
            batch.reachable[setting.p] = measures.reachable_norms(batch.samples.images, setting.p)
        attacked = batch.attacked
        robust, losses = attacked.copy(), batch.losses.copy()
        robust[attacked] = ~measured["success"]
        losses[attacked] = measured.pop("loss")
        same = {
            "model": self._name,
            "data": self._data.name,
            "setting": setting.number,
            "attack": setting.label,
            "attack_name": setting.config.name,
            "attack_params": to_json_text(setting.config.params),
            "attack_repeat": setting.config.repeat,
            "library": setting.library,
            "p": setting.p,
            "epsilon": setting.epsilon,
            "batch": task.batch,
            "seed": task.seed,
        }
        return pa.table(
            {
                **{name: [value] * len(attacked) for name, value in same.items()},
                **{name: _where(attacked, values) for name, values in measured.items()},
                "sample": batch.samples.index,
                "input_hash": batch.samples.hashes,
                "label": batch.samples.labels,
                "clean_prediction": batch.predictions,
                "attacked": attacked,
                "robust": robust,
                "reachable_norm": batch.reachable[setting.p],
                "clean_loss": batch.losses,
                "loss": losses,
            },
            schema=SCHEMA,
        )

    def _logits(self, images: Array) -> Array:
        if len(images) == 0:
            return np.zeros((0, 1))
        return self._answers(self._native(images))

    def _answers(self, inputs: Any) -> Array:
        return _float64(self._model(inputs))

    def _inputs(self, samples: Batch) -> Any:
        """Return the images as a tensor of the model's framework, on its device."""
        device = getattr(self._model.dummy.raw, "device", None)
        if samples.pixels.dtype == np.uint8 and getattr(device, "type", None) == "cuda":
            return scaled_on(device, samples.pixels)  # a quarter of the bytes
        return self._native(samples.images)

    def _native(self, array: Array) -> Any:
        """Return the array as a tensor of the model's framework, on its device."""
        return ep.from_numpy(self._model.dummy, np.ascontiguousarray(array)).raw


def make_worker(
    evaluation: Evaluation, data: Data, tasks: Tasks, *, diagnose: bool = True
) -> tuple[Worker, ModelProbe]:
    """Return the worker of a resolved run, and what it found about the model.

    The model is diagnosed, on request, where the first batch is computed: in one shard of all.

    Raises:
        UserError: The model cannot be had, or cannot classify the data.
    """
    seed_everything(evaluation.seed)  # an untrained network is the same in every process
    with diagnostics.capture_warnings() as captured:
        model, config = load_model(evaluation.model, device=evaluation.device)
    name = config._target_ or config.name
    worker = Worker(model, name, data, tasks, keep=evaluation.save == "adversarial_examples")
    try:
        first = 0 in tasks.in_shard(*shard_of(evaluation.shard))
        named = named_errors(f"model._target_: {name}") if config._target_ else nullcontext()
        with named, named_memory(tasks.batch_size):
            probe = worker.probe_model(diagnose=diagnose and first)
    except (RuntimeError, AssertionError) as error:
        shape = "x".join(map(str, data.shape))
        reason = str(error).split("\n")[0]
        raise UserError(
            f"model.name: {name} cannot classify images of shape {shape} ({reason});"
            " try data.size=224"
        ) from error
    return worker, ModelProbe(probe.model, probe.inputs, [*captured, *probe.diagnostics])


def _examples(
    setting: AttackSetting, clean: Array, labels: Array, perturbed: Array, logits: Array
) -> dict[str, Array]:
    return {
        "setting": np.array(setting.number),
        "label": labels[:EXAMPLES],
        "prediction": logits[:EXAMPLES].argmax(1),
        "clean": clean[:EXAMPLES],
        "perturbed": perturbed[:EXAMPLES],
    }


def _broken_by(stages: list[StageResult], samples: int) -> Array:
    """Return the stage of an ensemble that broke each sample, None where none did."""
    names = np.full(samples, None, object)
    for stage in reversed(stages):  # of repeats the first counts
        names[stage.samples[stage.broken]] = stage.name
    return names


def _float64(tensor: Any) -> Array:
    return _array(tensor).astype(np.float64)


def _array(tensor: Any) -> Array:
    return np.asarray(ep.astensor(tensor).numpy())


def _where(attacked: Array, values: Array | None) -> pa.Array:
    """Return values where attacked and null elsewhere; null everywhere for None."""
    if values is None:
        return pa.nulls(len(attacked))
    column = np.full(len(attacked), None if values.dtype == object else 0, values.dtype)
    column[attacked] = values
    return pa.array(column, mask=~attacked)
