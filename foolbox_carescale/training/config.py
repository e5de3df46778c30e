"""The config of a training: dataclasses that are both the Python API and Hydra's schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from ..evaluate.config.types import DataConfig, Finite, ModelConfig, TrackingConfig
from ..evaluate.config.validation import (
    CONFIGS,
    Arguments,
    Config,
    ConfigSpec,
    Count,
    Fractional,
    Natural,
    PathText,
    Positive,
    Real,
    Seed,
    Threads,
    checked_by,
    read,
    to_yaml,
)
from ..evaluate.serialization import to_builtins

RecipeName = Literal["clean", "gaussian-naive", "gaussian-exact", "adversarial-noise", "pgd-at"]


def _check_odd(size: int) -> None:
    if size % 2 == 0:
        raise ValueError(f"{size} is not odd")


@dataclass
class RecipeConfig(Config):
    """The recipe of a training."""

    name: RecipeName = "clean"
    """``clean``; ``gaussian-naive``, noise scaled to eps and then clipped, so its norm is
    below eps; ``gaussian-exact``, noise of exactly eps after the clip; ``adversarial-noise``,
    noise of exactly eps from a network that learns to raise the loss (Rusak et al. 2020, arXiv
    2001.06057); ``pgd-at``, images attacked by ``ClipAwarePGD`` (Madry et al. 2018, arXiv
    1706.06083).
    """
    eps: Annotated[Fractional, Field(ge=0), Finite] | None = None
    """Norm of the perturbation in pixel units, with pixels in [0, 1]."""
    p: Positive = 2.0
    """Order of the norm."""
    share: Annotated[Real, Field(gt=0, le=1)] = 0.5
    """Share of each batch that is perturbed; the rest stays clean."""
    steps: Count = 5
    """Steps of the attack."""
    generator_lr: Positive = 1e-2
    """Learning rate of the network that makes the noise."""
    kernel_size: Annotated[Count, checked_by(_check_odd)] = 1
    """Side of its kernel: 1 for noise that is independent between pixels."""

    @field_validator("eps")
    @classmethod
    def _check_eps(cls, eps: float | None, found: ValidationInfo) -> float | None:
        name = found.data.get("name", "clean")
        if eps is None and name != "clean":
            raise ValueError(f"is missing; {name} needs one, e.g. recipe.eps=1.0")
        return eps

    @field_validator("p")
    @classmethod
    def _check_p(cls, p: float, found: ValidationInfo) -> float:
        if p < 1 and found.data.get("name") == "pgd-at":
            raise ValueError(f"{p:g} is not at least 1 (pgd-at)")
        return p


@dataclass
class OptimizerConfig(Arguments):
    """An optimiser of ``torch.optim``."""

    name: str = "AdamW"
    """Name of its class."""
    lr: Annotated[Positive, Finite] = 1e-2
    """Learning rate; with ``OneCycleLR`` the highest."""
    params: dict[str, Any] = field(default_factory=dict)
    """More keyword arguments. In YAML files and on the command line they are on the level of the
    other keys: ``optimizer.momentum=0.9``.
    """


@dataclass
class ScheduleConfig(Arguments):
    """A scheduler of ``torch.optim.lr_scheduler``, which takes a step after each batch."""

    name: str = "OneCycleLR"
    """Name of its class."""
    params: dict[str, Any] = field(default_factory=dict)
    """Its keyword arguments, on the level of the name. The number of steps (``total_steps``,
    ``T_max``, ``total_iters``) defaults to all of them, and ``max_lr`` to the optimiser's ``lr``.
    """


def _untrained() -> ModelConfig:
    return ModelConfig(weights=None)


def _with_decay() -> OptimizerConfig:
    return OptimizerConfig(params={"weight_decay": 0.05})


@dataclass
class Training(Config):
    """A training. ``Training()`` is the bundled default; ``train`` runs it."""

    model: ModelConfig = field(default_factory=_untrained)
    """The network. Training starts from ``weights``, and ``auto`` means none. Unless they or
    ``mean`` and ``std`` say otherwise, pixels are normalised to [-1, 1].
    """
    data: DataConfig = field(default_factory=DataConfig)
    """The images: the training split of digits or of one of torchvision's data sets, or a
    folder or data of your own. They are decoded into memory.
    """
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    """The recipe."""
    optimizer: OptimizerConfig = field(default_factory=_with_decay)
    """The optimiser."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The schedule of the learning rate."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """The tracker, which gets the metrics after each epoch."""
    epochs: Count = 30
    """Number of epochs, at most."""
    batch_size: Count = 64
    """Batch size of all processes together; a smaller last batch is omitted."""
    shift: Natural = 3
    """Each image is moved by up to this many pixels and filled with black."""
    flip: bool = False
    """Mirror half of the images."""
    holdout: Annotated[Real, Field(gt=0, lt=1)] = 0.1
    """Share of the data that is held out from training and evaluated after each epoch."""
    patience: Count | None = None
    """Stop after this many epochs in which the loss on the held-out images, perturbed by the
    recipe, did not decrease, and keep the weights of the best epoch. None never stops and keeps
    the last weights.
    """
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """``float32``, or ``bfloat16`` or ``float16`` where autocast takes it (AMP)."""
    processes: Count = 1
    """Number of processes on this machine, one per GPU if there are GPUs. Processes that
    ``torchrun`` started are used as they are.
    """
    seed: Seed = 0
    """Seed of everything random."""
    device: str = "auto"
    """``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``."""
    threads: Threads | None = None
    """PyTorch's threads on the CPU; None as in ``Evaluation``. Weights are bit-identical only at
    the same number of threads.
    """
    checkpoint_every: Count = 100
    """Steps between checkpoints."""
    output: PathText | None = None
    """The run folder; None makes a new one below ``runs``, named for the time. A training in
    this folder is resumed.
    """

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: ModelConfig) -> ModelConfig:
        if model.dtype != "float32":
            raise ValueError(f"dtype {model.dtype} is for evaluations; set precision instead")
        return model

    @field_validator("processes")
    @classmethod
    def _check_processes(cls, processes: int, found: ValidationInfo) -> int:
        size = found.data.get("batch_size", 0)
        if size % processes:
            raise ValueError(f"batch_size, {size}, cannot be divided among {processes}")
        return processes

    def to_yaml(self) -> str:
        """Return the training as YAML that ``load_training`` reads back, without ``output``."""
        content = to_builtins(self)
        del content["output"]
        return to_yaml(content)


TRAINING = ConfigSpec(
    "train",
    Training,
    groups={
        "model": ModelConfig,
        "data": DataConfig,
        "recipe": RecipeConfig,
        "optimizer": OptimizerConfig,
        "schedule": ScheduleConfig,
        "tracking": TrackingConfig,
    },
    choices={
        "model": "digits",
        "data": "digits",
        "recipe": "clean",
        "optimizer": "adamw",
        "schedule": "one-cycle",
        "tracking": "none",
    },
    folders=(CONFIGS, Path(__file__).with_name("conf")),
)


def load_training(
    path: str | Path | None = None, overrides: Sequence[str] = (), *, allow_code: bool = False
) -> Training:
    """Return the training that a YAML file, config groups and overrides describe.

    Args:
        path: A YAML file, which may have a Hydra defaults list; None for the default training. An
            optimiser or schedule that it names has none of the default's arguments.
        overrides: Hydra's override grammar, as ``load_evaluation`` takes it: ``recipe=pgd-at``
            chooses a file of a config group, ``recipe.eps=0.5`` sets a value.
        allow_code: As there.

    Raises:
        UserError: The file or an override cannot be used; the message says which and why.
    """
    from ..evaluate.config.compose import compose_tree

    composed = compose_tree(TRAINING, path, overrides, allow_code=allow_code)
    training = read(Training, composed)
    if training.model.weights == "auto":
        training.model.weights = None
    return training
