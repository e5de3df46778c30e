"""What a run is made of: dataclasses that are both the Python API and Hydra's schema."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, field, fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, nearest
from ..serialization import to_builtins, to_yaml

EXECUTORS = ("local", "ray")
EXECUTOR_GROUP = "carescale.executors"
DTYPES = ("float32", "bfloat16", "float16", "autocast")
TRACKERS = ("none", "mlflow", "tensorboard")
SAVES = ("adversarial_examples",)


@dataclass
class ModelConfig:
    """The classifier under attack; it takes images in [0, 1] and normalises them itself.

    Attributes:
        name: A torchvision classifier, such as ``resnet18``.
        weights: ``auto``, ``bundled`` (the digits classifier that ships with the package),
            ``DEFAULT`` or another of torchvision's weights by name, a file (safetensors, or
            a PyTorch state dict, which is read without running code), or None: untrained.
            ``auto`` takes what fits the data: the bundled weights for digits, DEFAULT for
            data with ImageNet's 1000 classes; otherwise the network stays untrained, and a
            warning says so.
        num_classes: None takes it from the weights, otherwise from the data.
        mean, std: Per-channel normalisation; None takes them from the weights.
        _target_: ``package.module.callable`` of your own, instead of ``name``. It returns a
            ``torch.nn.Module`` or a Foolbox model.
        params: Keyword arguments of the constructor or of ``_target_``.
        dtype: ``float32``; ``bfloat16`` or ``float16``, in which the network computes; or
            ``autocast``, where PyTorch chooses bfloat16 for each operation that stands it.
            Images, logits and gradients stay float32.
    """

    name: str = "shufflenet_v2_x0_5"
    weights: str | None = "auto"
    num_classes: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    _target_: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"


@dataclass
class DataConfig:
    """Images in [0, 1] with labels.

    Attributes:
        name: ``digits`` (bundled, held-out images only), ``foolbox/imagenet`` or another of
            Foolbox's sample sets (20 images each), ``folder`` (one directory per class), or a
            torchvision data set by name, such as ``CIFAR10``.
        root: Directory of ``folder`` and of torchvision's data sets.
        size: Height and width in pixels, cropped from the centre. None takes it, with ``resize``
            and ``interpolation``, from torchvision's weights where the model has them, and
            otherwise keeps the images as they are.
        seed: Chooses which samples are drawn where the data hold more than are asked for.
        _target_: ``package.module.callable`` of your own, instead of ``name``. It returns
            ``(images, labels)`` or a data set of ``(image, label)`` pairs.
        params: Keyword arguments of the data set or of ``_target_``.
        resize: Of the shorter side, in pixels, before the crop; None takes ``size``.
        interpolation: ``bilinear``, ``bicubic``, ``nearest``, ...; None takes bilinear.
        index: A text file with one sample per line: its place in the data set, as in the
            column ``sample`` of the results. Only these are taken, in this order.
        classes: Only samples of these classes, by number or by name.
    """

    name: str = "digits"
    root: str | None = None
    size: int | None = None
    seed: int = 0
    _target_: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    resize: int | None = None
    interpolation: str | None = None
    index: str | None = None
    classes: list[int | str] | None = None


@dataclass
class AttackConfig:
    """One attack, run at each of its epsilons.

    Attributes:
        name: A class of ``foolbox.attacks`` or of this package.
        epsilons: None takes the run's epsilons of the attack's norm.
        repeat: Runs the attack this often and keeps what succeeds.
        params: Keyword arguments of the constructor. In YAML files and on the command line
            they stand beside the other keys: ``attacks.mine.steps=20``.
        _target_: ``package.module.callable`` of your own, which returns a Foolbox attack;
            ``name`` is then only what the results call it.
    """

    name: str = ""
    epsilons: list[float] | None = None
    repeat: int = 1
    params: dict[str, Any] = field(default_factory=dict)
    _target_: str | None = None

    def __post_init__(self) -> None:
        self.name = self.name or self._target_ or ""


@dataclass
class ExecutorConfig:
    """Where the tasks of a run are computed; every executor gives the same results.

    Attributes:
        name: ``local`` (this process), ``ray``, or that of an entry point in the group
            ``carescale.executors``.
        address: Of the Ray cluster; ``auto`` takes the one of this machine, and None starts one.
        cpus: Of each Ray worker.
        gpus: Of each Ray worker; a fraction shares a GPU.
        workers: How many Ray workers; None starts as many as the cluster has room for.
        retries: How often a task whose Ray worker died is tried again, on another one.
        runtime_env: Ray's, for what its nodes lack, such as ``{working_dir: .}`` for modules
            of your own that ``_target_`` names.
    """

    name: str = "local"
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    workers: int | None = None
    retries: int = 3
    runtime_env: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrackingConfig:
    """Where a run is reported besides its folder.

    Attributes:
        name: ``none``, ``mlflow`` or ``tensorboard``.
        uri: MLflow's tracking server or store, such as ``sqlite:///mlflow.db``; None takes
            MLflow's own default, which MLFLOW_TRACKING_URI sets.
        experiment: MLflow's experiment, which is made where it is not there yet.
        run_name: MLflow's name of the run; None takes the run folder's.
        folder: Of TensorBoard's event files; None takes ``tensorboard`` in the run folder.
    """

    name: str = "none"
    uri: str | None = None
    experiment: str = "carescale"
    run_name: str | None = None
    folder: str | None = None


CONFIG_GROUPS: dict[str, type | None] = {
    "model": ModelConfig,
    "data": DataConfig,
    "attack": None,  # its files hold attacks and epsilons, by label and by norm
    "executor": ExecutorConfig,
    "tracking": TrackingConfig,
}
"""Hydra's config groups: folders of ``conf``."""

DEFAULT_CHOICES = {
    "model": "digits",
    "data": "digits",
    "attack": None,  # ``default``, unless a file has attacks of its own
    "executor": "local",
    "tracking": "none",
}


def default_attacks() -> dict[str, AttackConfig]:
    """Foolbox's attacks and ours, side by side, by label."""
    attacks = gather_arguments({"attacks": _default_group()["attacks"]})["attacks"]
    return {label: AttackConfig(**attack) for label, attack in attacks.items()}


def default_epsilons() -> dict[str, list[float]]:
    """Epsilons that take the bundled model from about 0.9 to 0 robust accuracy."""
    return {norm: list(values) for norm, values in _default_group()["epsilons"].items()}


@functools.cache
def _default_group() -> dict[str, Any]:
    """Return the file that ``attack=default`` chooses, which Hydra is not needed to read."""
    path = Path(__file__).with_name("conf") / "attack" / "default.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


@dataclass
class Evaluation:
    """A run. ``Evaluation()`` is the bundled default; ``evaluate`` runs it.

    Attributes:
        model: The classifier.
        data: The images.
        attacks: By label; the label names the curve and the rows of the table.
        epsilons: By norm: ``L1``, ``L2``, ``Linf``; an attack's own list overrides them.
            In the units of the images, whose pixels are in [0, 1].
        samples: At most this many; None takes all.
        batch_size: Samples that are attacked together. Random attacks draw again per batch,
            so another batch size gives other draws.
        seed: Of everything random in the attacks.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda:0``, ...
        threads: Of PyTorch on the CPU. None takes one for images of up to 64 x 64 pixels, where
            more gain little and cost much on a busy machine, and otherwise leaves PyTorch's
            choice. Results are bit-identical only at the same number of threads.
        executor: Where the run is computed.
        tracking: Where the finished run is reported besides its folder.
        save: ``adversarial_examples`` stores them too, as float32, one safetensors file per task.
        shard: ``i/n`` computes part i of n, counted from 0, for job arrays. All parts write into
            one folder, in any order, at any time.
        output: The run folder; None makes a new one below ``runs``, named for the time. A folder
            that holds a part of this very run is completed.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    attacks: dict[str, AttackConfig] = field(default_factory=default_attacks)
    epsilons: dict[str, list[float]] = field(default_factory=default_epsilons)
    samples: int | None = 100
    batch_size: int = 100
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    save: str | None = None
    shard: str | None = None
    output: str | None = None

    def validate(self) -> None:
        """Raise a UserError for values that no run can use, before anything is computed."""
        for key in ("samples", "batch_size", "threads"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"{key}: {value} is not positive")
        if self.data.size is not None and self.data.size < 1:
            raise UserError(f"data.size: {self.data.size} is not positive")
        if self.data.resize is not None and self.data.resize < (self.data.size or math.inf):
            raise UserError(
                f"data.resize: {self.data.resize} is smaller than data.size, {self.data.size},"
                " which is cropped from it"
            )
        _check_choice("model.dtype", self.model.dtype, DTYPES)
        _check_choice("executor.name", self.executor.name, executor_names())
        _check_choice("tracking.name", self.tracking.name, TRACKERS)
        if self.save is not None:
            _check_choice("save", self.save, SAVES)
        shard_of(self.shard)
        if self.shard is not None and self.output is None:
            raise UserError("output: is missing; give the folder that all shards share")
        for key, least in (("cpus", 0), ("gpus", 0), ("retries", 0), ("workers", 1)):
            value = getattr(self.executor, key)
            if value is not None and value < least:
                raise UserError(f"executor.{key}: {value} is less than {least}")
        if self.seed < 0:
            raise UserError(f"seed: {self.seed} is negative; give an integer from 0 on")
        if not self.attacks:
            raise UserError("attacks: there is none; give one, e.g. attacks.mine.name=L2PGD")
        for norm, values in self.epsilons.items():
            norm_order(norm)
            _check_epsilons(f"epsilons.{norm}", values)
        for label, attack in self.attacks.items():
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", label):  # it becomes a file name
                raise UserError(
                    f"attacks: the label {label!r} is not made of letters, digits, _ . and -"
                )
            if not attack.name:
                others = [other for other in self.attacks if other != label]
                raise UserError(
                    f"attacks.{label}.name: is missing; give one, e.g. L2PGD,"
                    f" or if {label!r} is misspelt: {nearest(label, others)}"
                )
            if attack.repeat < 1:
                raise UserError(f"attacks.{label}.repeat: {attack.repeat} is not positive")
            if attack.epsilons is not None:
                _check_epsilons(f"attacks.{label}.epsilons", attack.epsilons)

    def to_yaml(self) -> str:
        """Return YAML that ``load_evaluation`` reads back, without ``output`` and ``shard``."""
        content = to_builtins(self)
        for key in ("output", "shard"):  # where a run is stored is no part of what it computes
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


def executor_names() -> tuple[str, ...]:
    """Return the names of the executors that ship, and of those that other packages offer."""
    return (*EXECUTORS, *(found.name for found in entry_points(group=EXECUTOR_GROUP)))


def gather_arguments(content: dict[str, Any]) -> dict[str, Any]:
    """Move arguments that stand beside the keys of attacks and of ``_target_`` below ``params``."""
    gathered = dict(content)
    for key, config in (("model", ModelConfig), ("data", DataConfig)):
        if gathered.get(key, {}).get("_target_") is not None:
            gathered[key] = gather(gathered[key], config, key)
    if "attacks" in gathered:
        gathered["attacks"] = {
            label: gather(attack, AttackConfig, f"attacks.{label}")
            for label, attack in gathered["attacks"].items()
        }
    return gathered


def gather(node: dict[str, Any], config: type, key: str) -> dict[str, Any]:
    """Return a node whose keys that its config class does not know went below ``params``."""
    known = field_names(config)
    beside = {k: v for k, v in node.items() if k not in known}
    params = node.get("params") or {}
    if not isinstance(params, dict):
        raise UserError(f"{key}.params: {params!r} is not a mapping")
    return {**{k: v for k, v in node.items() if k in known}, "params": {**params, **beside}}


def field_names(config: type) -> list[str]:
    """Return the keys that a config class knows."""
    return [f.name for f in fields(config)]


def shard_of(shard: str | None) -> tuple[int, int]:
    """Return a shard's number, and how many there are: (1, 4) for ``1/4``, (0, 1) for None."""
    if shard is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None:
        raise UserError(f"shard: {shard!r} is not i/n; write 0/4 for the first part of four")
    number, count = int(match[1]), int(match[2])
    if number >= count:
        raise UserError(f"shard: {shard} is not one of {count}; they count from 0")
    return number, count


def norm_order(name: str) -> float:
    """Return the order p of a norm's name: 2.0 for ``L2``, inf for ``Linf``, 1.5 for ``L1.5``."""
    match = re.fullmatch(r"L(inf|\d+(?:\.\d+)?)", name)
    if not match or float(match[1]) == 0:
        raise UserError(
            f"epsilons.{name}: {name!r} is not a norm; {nearest(name, ('L1', 'L2', 'Linf'))}"
        )
    return float(match[1])


def norm_name(p: float) -> str:
    """Return the name of the norm of order p: ``Linf`` for inf, ``L2`` for 2.0."""
    return f"L{p:g}"


def _check_choice(key: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise UserError(f"{key}: there is no {value!r}; {nearest(value, valid)}")


def _check_epsilons(key: str, values: list[float]) -> None:
    if not values:
        raise UserError(f"{key}: the list is empty; give at least one epsilon, e.g. [0.5, 1.0]")
    for value in values:
        if not isinstance(value, float):  # OmegaConf lets mappings into lists of floats
            raise UserError(f"{key}: {value!r} is not a number")
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{key}: {value:g} is not a positive, finite number")
    if len(set(values)) < len(values):
        raise UserError(f"{key}: {values} holds an epsilon twice")
