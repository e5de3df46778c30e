"""The config of a training: dataclasses that are both the Python API and Hydra's schema."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..evaluate.config.types import (
    TRACKERS,
    DataConfig,
    ModelConfig,
    TrackingConfig,
    gather,
    gather_arguments,
)
from ..evaluate.errors import UserError, nearest
from ..evaluate.serialization import to_builtins, to_yaml

RECIPES = ("clean", "gaussian-naive", "gaussian-exact", "adversarial-noise", "pgd-at")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass
class RecipeConfig:
    """The recipe of a training.

    Attributes:
        name: ``clean``; ``gaussian-naive``, noise that is scaled to eps and then clipped, so it
            is shorter; ``gaussian-exact``, noise of exactly eps after the clip;
            ``adversarial-noise``, noise of exactly eps from a network that learns to raise the
            loss (Rusak et al. 2020, arXiv 2001.06057); ``pgd-at``, images under
            ``ClipAwarePGD`` (Madry et al. 2018, arXiv 1706.06083).
        eps: Norm of the perturbation, in the units of the images, whose pixels are in [0, 1].
        p: Order of the norm.
        share: Of each batch that is perturbed; the rest stays clean.
        steps: Of the attack.
        generator_lr: Learning rate of the network that makes the noise, and
        kernel_size: the side of its kernel: 1 for noise that is independent between pixels.
    """

    name: str = "clean"
    eps: float | None = None
    p: float = 2.0
    share: float = 0.5
    steps: int = 5
    generator_lr: float = 1e-2
    kernel_size: int = 1


@dataclass
class OptimizerConfig:
    """An optimiser of ``torch.optim``.

    Attributes:
        name: Of its class.
        lr: Learning rate; with ``OneCycleLR`` the highest.
        params: More keyword arguments. In YAML files and on the command line they stand beside
            the other keys: ``optimizer.momentum=0.9``.
    """

    name: str = "AdamW"
    lr: float = 1e-2
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class ScheduleConfig:
    """A scheduler of ``torch.optim.lr_scheduler``, which takes a step after each batch.

    Attributes:
        name: Of its class.
        params: Its keyword arguments, beside the name as those of the optimiser. Where they do
            not say how many steps there are (``total_steps``, ``T_max``, ``total_iters``), it is
            all of them, and ``max_lr`` is the optimiser's ``lr``.
    """

    name: str = "OneCycleLR"
    params: dict[str, Any] = field(default_factory=dict)


def _untrained() -> ModelConfig:
    return ModelConfig(weights=None)


def _with_decay() -> OptimizerConfig:
    return OptimizerConfig(params={"weight_decay": 0.05})


@dataclass
class Training:
    """A training. ``Training()`` is the bundled default; ``train`` runs it.

    Attributes:
        model: The network; ``weights`` are those to start from, and ``auto`` means none. Where
            neither they nor ``mean`` and ``std`` say otherwise, pixels are normalised to [-1, 1].
        data: The images: the training split of digits or of one of torchvision's data sets, or a
            folder or data of your own. They are decoded into memory.
        recipe: What it is trained on.
        optimizer: Its optimiser.
        schedule: How the learning rate changes.
        tracking: Where the training is reported, epoch by epoch, besides its folder.
        epochs: At most this many.
        batch_size: Of all processes together; a last batch that is smaller is left out.
        shift: Each image is moved by up to this many pixels, and black moves in.
        flip: Mirror half of the images.
        holdout: The part of the data that is not trained on but evaluated after each epoch.
        patience: Stop after this many epochs in which the loss on the held-out images, perturbed
            by the recipe, did not fall, and keep the weights of the best epoch. None never stops
            and keeps the last ones.
        precision: ``float32``, or ``bfloat16`` or ``float16`` where autocast takes it (AMP).
        processes: Of this machine, one per GPU where there are GPUs. ``torchrun`` and the like
            start processes themselves; they are used as they are.
        seed: Of everything random.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``.
        threads: Of PyTorch on the CPU; None as in ``Evaluation``. Weights are bit-identical only
            at the same number of threads.
        checkpoint_every: Steps between checkpoints.
        output: The run folder; None makes a new one below ``runs``, named for the time. One that
            holds a part of this very training is completed.
    """

    model: ModelConfig = field(default_factory=_untrained)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    optimizer: OptimizerConfig = field(default_factory=_with_decay)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    epochs: int = 30
    batch_size: int = 64
    shift: int = 3
    flip: bool = False
    holdout: float = 0.1
    patience: int | None = None
    precision: str = "float32"
    processes: int = 1
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    checkpoint_every: int = 100
    output: str | None = None

    def validate(self) -> None:
        """Raise a UserError for values that no training can use, before anything is computed."""
        for key in ("epochs", "batch_size", "processes", "checkpoint_every", "patience", "threads"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"{key}: {value} is not positive")
        for key in ("shift", "seed"):
            if getattr(self, key) < 0:
                raise UserError(f"{key}: {getattr(self, key)} is negative")
        if not 0 < self.holdout < 1:
            raise UserError(f"holdout: {self.holdout} is not a part, between 0 and 1")
        if self.batch_size % self.processes:
            raise UserError(
                f"batch_size: {self.batch_size} cannot be divided among {self.processes} processes"
            )
        if self.model.dtype != "float32":
            raise UserError(
                f"model.dtype: {self.model.dtype} is for evaluations; set precision instead"
            )
        for key, value, valid in (
            ("recipe.name", self.recipe.name, RECIPES),
            ("precision", self.precision, PRECISIONS),
            ("tracking.name", self.tracking.name, TRACKERS),
        ):
            if value not in valid:
                raise UserError(f"{key}: there is no {value!r}; {nearest(value, valid)}")
        self._validate_recipe()
        if not (math.isfinite(self.optimizer.lr) and self.optimizer.lr > 0):
            raise UserError(f"optimizer.lr: {self.optimizer.lr:g} is not a positive number")

    def _validate_recipe(self) -> None:
        recipe = self.recipe
        if recipe.name == "clean":
            return
        if recipe.eps is None:
            raise UserError(f"recipe.eps: is missing; {recipe.name} needs one, e.g. recipe.eps=1.0")
        if not (math.isfinite(recipe.eps) and recipe.eps >= 0):
            raise UserError(f"recipe.eps: {recipe.eps:g} is not a finite number from 0 on")
        if not recipe.p > 0 or (recipe.name == "pgd-at" and recipe.p < 1):
            least = "at least 1 (pgd-at)" if recipe.p > 0 else "positive"
            raise UserError(f"recipe.p: {recipe.p:g} is not {least}")
        if not 0 < recipe.share <= 1:
            raise UserError(f"recipe.share: {recipe.share:g} is not a part, in (0, 1]")
        if recipe.steps < 1:
            raise UserError(f"recipe.steps: {recipe.steps} is not positive")
        if recipe.kernel_size < 1 or recipe.kernel_size % 2 == 0:
            raise UserError(f"recipe.kernel_size: {recipe.kernel_size} is not odd and positive")
        if not recipe.generator_lr > 0:
            raise UserError(f"recipe.generator_lr: {recipe.generator_lr:g} is not positive")

    def to_yaml(self) -> str:
        """Return the training as YAML that ``load_training`` reads back, without ``output``."""
        content = to_builtins(self)
        del content["output"]
        return to_yaml(content)


CONFIG_GROUPS = {
    "model": ModelConfig,
    "data": DataConfig,
    "recipe": RecipeConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "tracking": TrackingConfig,
}
"""Hydra's config groups: folders of ``conf``, here and in ``evaluate``."""

DEFAULT_CHOICES = {
    "model": "digits",
    "data": "digits",
    "recipe": "clean",
    "optimizer": "adamw",
    "schedule": "one-cycle",
    "tracking": "none",
}


def load_training(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Training:
    """Return the training that a YAML file, config groups and overrides describe.

    Args:
        path: A YAML file, which may have a Hydra defaults list; None for the default training. An
            optimiser or schedule that it names has none of the default's arguments.
        overrides: Hydra's override grammar, as ``load_evaluation`` takes it: ``recipe=pgd-at``
            chooses a file of a config group, ``recipe.eps=0.5`` sets a value.

    Raises:
        UserError: The file or an override cannot be used; the message says which and why.
    """
    from ..evaluate.config.compose import CONFIGS, ConfigSpec, compose_tree, typed

    folders = (CONFIGS, Path(__file__).with_name("conf"))
    spec = ConfigSpec("train", Training, CONFIG_GROUPS, DEFAULT_CHOICES, folders)
    tree = gather_arguments(compose_tree(spec, path, overrides))
    tree["optimizer"] = gather(tree["optimizer"], OptimizerConfig, "optimizer")
    tree["schedule"] = gather(tree["schedule"], ScheduleConfig, "schedule")
    bare = Training(optimizer=OptimizerConfig())
    training = typed(spec, tree, bare, path)
    assert isinstance(training, Training)
    if training.model.weights == "auto":
        training.model.weights = None
    training.validate()
    return training
