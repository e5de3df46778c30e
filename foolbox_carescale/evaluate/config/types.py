"""The config of an evaluation: dataclasses, whose annotations pydantic checks."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from ..errors import UserError, nearest
from ..serialization import to_builtins
from .executors import ExecutorConfig
from .validation import (
    CONFIGS,
    OPTIONS,
    OWN_TARGET,
    Arguments,
    Config,
    ConfigSpec,
    Count,
    Fractional,
    Integer,
    Natural,
    PathText,
    Positive,
    Real,
    Resize,
    Seed,
    TargetArguments,
    Threads,
    checked_by,
    read,
    to_yaml,
)


def norm_order(name: str) -> float:
    """Return the order p of a norm's name: 2.0 for ``L2``, inf for ``Linf``, 1.5 for ``L1.5``."""
    match = re.fullmatch(r"L(inf|\d+(?:\.\d+)?)", name)
    if not match or float(match[1]) == 0:
        raise UserError(f"{name!r} is not a norm; {nearest(name, ('L1', 'L2', 'Linf'))}")
    return float(match[1])


def norm_name(p: float) -> str:
    """Return the name of the norm of order p: ``Linf`` for inf, ``L2`` for 2.0."""
    return f"L{p:g}"


def shard_of(shard: str | None) -> tuple[int, int]:
    """Return a shard's number, and how many there are: (1, 4) for ``1/4``, (0, 1) for None."""
    if shard is None:
        return 0, 1
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard)
    if match is None:
        raise UserError(f"{shard[:40]!r} is not i/n; write 0/4 for the first shard of four")
    number, count = int(match[1]), int(match[2])
    if number >= count:
        raise UserError(f"{shard} is not one of {count}; they count from 0")
    return number, count


def _check_label(label: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", label):  # it becomes a file name
        raise ValueError(f"the label {label!r} is not made of letters, digits, _ . and -")


def _check_name(name: str) -> None:
    if not name.isprintable():
        raise ValueError(f"{name!r} holds characters that nothing can show; take others")


def _check_channels(values: list[float]) -> None:
    if not values:
        raise ValueError("the list is empty; give a number for each channel, or null")


def _check_epsilons(values: list[float]) -> None:
    if not values:
        raise ValueError("the list is empty; give at least one epsilon, e.g. [0.5, 1.0]")
    if len(set(values)) < len(values):
        raise ValueError(f"{values} holds an epsilon twice")


Finite = Field(allow_inf_nan=False)
Epsilons = Annotated[list[Annotated[Fractional, Field(gt=0), Finite]], checked_by(_check_epsilons)]
Mean = Annotated[list[Annotated[Real, Finite]], checked_by(_check_channels)]
Std = Annotated[list[Annotated[Positive, Finite]], checked_by(_check_channels)]
Interpolation = Literal[
    "nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"
]
Label = Annotated[str, checked_by(_check_label)]
NormName = Annotated[str, checked_by(norm_order)]
Shard = Annotated[str, checked_by(shard_of)]


@dataclass
class ModelConfig(TargetArguments):
    """The classifier under attack; it takes images in [0, 1] and normalises them itself."""

    name: str = "shufflenet_v2_x0_5"
    """A torchvision classifier, such as ``resnet18``; ``timm/resnet50``; Hugging Face's
    ``hf/google/vit-base-patch16-224``, or ``hf/./folder`` of your own; ``robustbench/...``.
    """
    weights: PathText | None = "auto"
    """``auto``, ``bundled`` (the digits classifier that ships with the package), ``DEFAULT`` or
    another of torchvision's weights by name, a file (safetensors, or a PyTorch state dict,
    which is read without running code), a folder with one, or None: untrained. ``auto`` takes
    the weights of a name of timm, Hugging Face or RobustBench, and torchvision's that fit the
    data: bundled for digits, DEFAULT for ImageNet's 1000 classes. Otherwise the network stays
    untrained, with a warning.
    """
    num_classes: Count | None = None
    """Number of classes; None takes it from the weights, or else from the data."""
    mean: Mean | None = None
    """Per-channel normalisation; None takes them from the weights."""
    std: Std | None = None
    """Per-channel normalisation; None takes them from the weights."""
    _target_: str | None = None
    """``package.module.callable`` of your own, instead of ``name``. It returns a
    ``torch.nn.Module`` or a Foolbox model.
    """
    params: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the constructor or of ``_target_``."""
    dtype: Literal["float32", "bfloat16", "float16", "autocast"] = "float32"
    """Type in which the network computes: ``float32``, ``bfloat16``, ``float16``, or ``autocast``,
    where PyTorch chooses bfloat16 for each suitable operation. Images, logits and gradients stay
    float32.
    """


@dataclass
class DataConfig(TargetArguments):
    """Images in [0, 1] with labels."""

    name: str = "digits"
    """``digits`` (bundled, held-out images only), ``foolbox/imagenet`` or another of Foolbox's
    sample sets (20 images each), ``folder`` (one directory per class), a torchvision data
    set by name, such as ``CIFAR10``, ``webdataset`` (tar files), or ``hf/`` and a folder or a data
    set on Hugging Face's hub.
    """
    root: PathText | None = None
    """Directory of ``folder`` and of torchvision's data sets; tar files of ``webdataset``, such as
    ``train/{000..127}.tar``, ``a/*.tar::b/*.tar`` or a directory.
    """
    size: Count | None = None
    """Height and width in pixels, cropped from the centre. None takes it, with ``resize``, from the
    model's named weights; others do not change the images.
    """
    seed: Seed = 0
    """Seed of the draw of samples, if the data hold more than ``samples``."""
    _target_: str | None = None
    """``package.module.callable`` of your own, instead of ``name``. It returns ``(images,
    labels)`` or a data set of ``(image, label)`` pairs; mappings with the keys ``image`` and
    ``label`` are pairs too.
    """
    params: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the data set or of ``_target_``."""
    resize: Resize | None = None
    """Length of the shorter side in pixels, before the crop, or ``[height, width]``, whatever the
    image's shape; None takes ``size``.
    """
    interpolation: Interpolation | None = None
    """``bilinear``, ``bicubic``, ``nearest``, ...; None takes that of the model's named weights, or
    bilinear.
    """
    index: PathText | None = None
    """A text file with one sample per line: its place in the data set, as in the column
    ``sample`` of the results. Only these are taken, in this order.
    """
    classes: list[Integer | str] | None = None
    """Only samples of these classes, by number or by name; where names are numbers, by name."""
    on_error: Literal["raise", "skip"] = "raise"
    """An image that cannot be read: ``raise`` computes the batches without any, and then ends with
    its error; ``skip`` leaves it out of all numbers, with a warning.
    """
    workers: Natural | None = None
    """Threads that decode images, two batches ahead of the attacks. 0 decodes each batch when it
    is needed. None takes as many as there are cores, up to 8, and 0 for arrays and for data of
    your own: threads need code that several may call at once and that draws no random numbers.
    """

    @field_validator("resize")
    @classmethod
    def _check_resize(cls, resize: Any, found: ValidationInfo) -> Any:
        size = found.data.get("size")
        shorter = min(resize) if isinstance(resize, list) else resize
        if shorter is not None and (size is None or shorter < size):
            raise ValueError(
                f"{resize} is smaller than data.size, {size}, which is cropped from it"
            )
        return resize


def _describe_attack(schema: dict[str, Any]) -> None:
    from ...attacks.registry import list_attacks

    by_name = {"properties": {"name": {"enum": list_attacks()}}}
    schema |= {"additionalProperties": True, "if": OWN_TARGET, "then": {}, "else": by_name}


@dataclass
class AttackConfig(Arguments):
    """One attack, run at each of its epsilons."""

    __pydantic_config__: ClassVar[ConfigDict] = {**OPTIONS, "json_schema_extra": _describe_attack}

    name: Annotated[str, checked_by(_check_name)] = ""
    """A class of ``foolbox.attacks`` or of this package."""
    epsilons: Epsilons | None = None
    """None takes the run's epsilons of the attack's norm."""
    repeat: Count = 1
    """Number of runs of the attack; a sample keeps its first success."""
    params: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the constructor. In YAML files and on the command line they are on
    the level of the other keys: ``attacks.mine.steps=20``.
    """
    _target_: str | None = None
    """``package.module.callable`` of your own, which returns a Foolbox attack; ``name`` is then
    only its name in the results.
    """

    def __post_init__(self) -> None:
        self.name = self.name or self._target_ or ""


@dataclass
class TrackingConfig(Config):
    """The tracker that gets a run's results, in addition to its folder."""

    name: Literal["none", "mlflow", "tensorboard"] = "none"
    """``none``, ``mlflow`` or ``tensorboard``."""
    uri: str | None = None
    """MLflow's tracking server or store, such as ``sqlite:///mlflow.db``; None takes MLflow's
    default, which MLFLOW_TRACKING_URI sets.
    """
    experiment: str = "carescale"
    """MLflow's experiment, which is created if it is missing."""
    run_name: str | None = None
    """Name of the run in MLflow; None takes the run folder's."""
    folder: PathText | None = None
    """Folder of TensorBoard's event files; None takes ``tensorboard`` in the run folder."""


@dataclass
class ReportConfig(Config):
    """The report of a run."""

    epsilons: dict[NormName, Epsilons] = field(default_factory=dict)
    """Headline epsilons by norm, which the first screen of the page and tables for papers show:
    of the run, or any where a minimum-norm attack runs. Without them, the page takes the largest
    that at least half of the samples withstand.
    """


def default_attacks() -> dict[str, AttackConfig]:
    """Return attacks of Foolbox and of this package, by name."""
    return {k: read(AttackConfig, attack) for k, attack in _default_group()["attacks"].items()}


def default_epsilons() -> dict[str, list[float]]:
    """Return epsilons that take the bundled model from about 0.9 to 0 robust accuracy."""
    return {norm: list(values) for norm, values in _default_group()["epsilons"].items()}


@functools.cache
def _default_group() -> dict[str, Any]:
    """Return the file that ``attack=default`` chooses, which Hydra is not needed to read."""
    path = CONFIGS / "attack" / "default.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


@dataclass
class Evaluation(Config):
    """A run. ``Evaluation()`` is the bundled default; ``evaluate`` runs it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The classifier."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    attacks: dict[Label, AttackConfig] = field(default_factory=default_attacks)
    """By name, which also names the curve and the rows of the table."""
    epsilons: dict[NormName, Epsilons] = field(default_factory=default_epsilons)
    """By norm: ``L1``, ``L2``, ``Linf``; an attack's own list overrides them. In
    pixel units, with pixels in [0, 1].
    """
    samples: Count | None = 100
    """Number of samples, at most; None takes all."""
    batch_size: Count = 100
    """Samples that are attacked together. Random attacks draw per batch, so another batch size
    gives other draws.
    """
    seed: Seed = 0
    """Seed of everything random in the attacks."""
    device: str = "auto"
    """``auto`` (a GPU where there is one), ``cpu``, ``cuda:0``, ..."""
    threads: Threads | None = None
    """PyTorch's threads on the CPU. None takes one for images of up to 64 x 64 pixels, where more
    gain little and cost much on a busy machine, and otherwise PyTorch's choice. Results are
    bit-identical only at the same number of threads.
    """
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """The executor of the tasks."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """The tracker of the finished run."""
    report: ReportConfig = field(default_factory=ReportConfig)
    """The report."""
    save: Literal["adversarial_examples", None] = None
    """``adversarial_examples`` stores them too, as float32, one safetensors file per task."""
    shard: Shard | None = None
    """``i/n`` computes shard i of n, counted from 0, for job arrays. All shards write into one
    folder, in any order, at any time.
    """
    output: PathText | None = None
    """The run folder; None makes a new one below ``runs``, named for the time. A folder that
    holds this run, complete or not, is completed.
    """

    @field_validator("attacks")
    @classmethod
    def _check_attacks(cls, attacks: dict[str, AttackConfig]) -> dict[str, AttackConfig]:
        if not attacks:
            raise ValueError("there is none; give one, e.g. attacks.mine.name=L2PGD")
        for label, attack in attacks.items():
            if not attack.name:
                others = nearest(label, attacks.keys() - {label})
                raise ValueError(
                    f"{label!r} has no name; give one, e.g. attacks.{label}.name=L2PGD,"
                    f" or if {label!r} is misspelt: {others}"
                )
        return attacks

    @field_validator("output")
    @classmethod
    def _check_output(cls, output: str | None, found: ValidationInfo) -> str | None:
        if output is None and found.data.get("shard") is not None:
            raise ValueError("is missing; give the folder that all shards share")
        return output

    def to_yaml(self) -> str:
        """Return YAML that ``load_evaluation`` reads back, without ``output`` and ``shard``."""
        content = to_builtins(self)
        for key in ("output", "shard"):  # where a run is stored does not change what it computes
            del content[key]
        nodes = [content[key] for key in ("model", "data") if content[key]["_target_"]]
        for attack in content["attacks"].values():
            if attack["_target_"] is None:
                del attack["_target_"]
            nodes.append(attack)
        for node in nodes:  # these take arguments beside their own keys
            params = node.pop("params")
            node.update({"params": params} if set(params) & set(node) else params)
        return to_yaml(content)


EVALUATION = ConfigSpec(
    "evaluate",
    Evaluation,
    groups={
        "model": ModelConfig,
        "data": DataConfig,
        "attack": None,  # its files hold attacks by name and epsilons by norm
        "executor": ExecutorConfig,
        "tracking": TrackingConfig,
    },
    choices={
        "model": "digits",
        "data": "digits",
        "attack": None,  # ``default``, unless a file has attacks of its own
        "executor": "local",
        "tracking": "none",
    },
)
