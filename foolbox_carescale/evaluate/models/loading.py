"""Models: torchvision's by name with weights from several sources, or one's own."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from foolbox.models import Model, PyTorchModel

from ...attacks.model import module_of
from ..config.types import ModelConfig
from ..config.validation import expand_path
from ..errors import EvaluationWarning, UserError, nearest, warn
from .outputs import adapt_module
from .targets import call_target
from .weights import read_notes, read_state

BUNDLED_WEIGHTS = Path(__file__).with_name("digits_shufflenet.safetensors")
"""Made by ``experiments/train_digits.py``."""

BUNDLED_NAME = "shufflenet_v2_x0_5"

IMAGENET_CLASSES = 1000


class Normalized(torch.nn.Module):
    """A model on ``(x - mean) / std``, so that its own input stays in [0, 1]."""

    def __init__(self, model: torch.nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape (N, classes), of images in [0, 1], shape (N, C, H, W)."""
        logits: torch.Tensor = self.model((x - self.mean) / self.std)
        return logits


class CastModel(torch.nn.Module):
    """A model that computes in another type than that of its float32 images and logits."""

    def __init__(self, model: torch.nn.Module, dtype: str) -> None:
        super().__init__()
        self.dtype = None if dtype == "autocast" else getattr(torch, dtype)
        self.model = model if self.dtype is None else model.to(self.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape (N, classes), in the type of x."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.dtype is None):
            logits: torch.Tensor = self.model(x if self.dtype is None else x.to(self.dtype))
        return logits.to(x.dtype)


def load_model(
    config: ModelConfig, *, data: str = "digits", num_classes: int = 10, device: str = "auto"
) -> tuple[Any, ModelConfig]:
    """Return the Foolbox model that a config describes, in evaluation mode, with bounds (0, 1).

    Args:
        config: Which model.
        data: Name of the data, and
        num_classes: their number of classes: what ``weights="auto"`` must fit.
        device: As in ``Evaluation``.

    Returns:
        The Foolbox model, and the config with ``auto`` and None resolved.

    Raises:
        UserError: The model, its weights or the device cannot be had.
    """
    where = find_device(device)
    made = None
    if config._target_ is not None:
        made, config = _from_target(config)
    if isinstance(made, Model):
        return _foolbox_model(made, config), config
    if made is not None:
        _set_to_eval(made)
    network, config = build_network(config, data=data, num_classes=num_classes, made=made)
    return PyTorchModel(network.eval(), bounds=(0, 1), device=where), config


def build_network(
    config: ModelConfig,
    *,
    data: str = "digits",
    num_classes: int = 10,
    made: torch.nn.Module | None = None,
) -> tuple[torch.nn.Module, ModelConfig]:
    """Return the module that a config describes, on the CPU: from images in [0, 1] to logits.

    Args:
        config: Which model.
        data: As in ``load_model``.
        num_classes: As there.
        made: What ``_target_`` has returned, where that was called already.

    Returns:
        The module, and the config with ``auto`` and None resolved.

    Raises:
        UserError: The model or its weights cannot be had.
    """
    mean: list[float] | None = None
    std: list[float] | None = None
    if config._target_ is not None:
        network = made
        if network is None:
            network, config = _from_target(config)
        if isinstance(network, Model):
            raise UserError(
                f"model._target_: {config._target_} returned a Foolbox model; return its module"
            )
    else:
        config = resolve_model(config, data=data, num_classes=num_classes)
        network, mean, std, classes = _torchvision_model(config, num_classes)
        config = dataclasses.replace(config, num_classes=classes)
    if (mean, std, config.mean, config.std) == (None,) * 4:
        _warn_of_normalisation(network, config)
    if config.dtype != "float32":
        network = CastModel(network, config.dtype)
    mean, std = config.mean or mean, config.std or std
    if mean is not None or std is not None:
        mean = mean or [0.0] * len(std or ())
        std = std or [1.0] * len(mean)
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise UserError(
                f"model.mean, model.std: {mean} and {std} do not fit each other;"
                " give one number per channel, and positive ones as std"
            )
        network = Normalized(network, mean, std)
        config = dataclasses.replace(config, mean=list(mean), std=list(std))
    return network, config


def _from_target(config: ModelConfig) -> tuple[Any, ModelConfig]:
    """Return the user's own module or Foolbox model, and the config without what it took."""
    made, config = call_target("model", config, inert=("name", "weights", "num_classes"))
    if not isinstance(made, (torch.nn.Module, Model)):
        raise UserError(
            f"model._target_: {config._target_} returned {type(made).__name__};"
            " return a torch.nn.Module or a Foolbox model"
        )
    module = module_of(made) if isinstance(made, Model) else made
    if module is not None:
        adapt_module(module, str(config._target_))
    return made, config


def _warn_of_normalisation(network: torch.nn.Module, config: ModelConfig) -> None:
    """Warn where pixels are not normalised, but were when weights like these were trained."""
    found = getattr(network, "pretrained_cfg", None)  # timm's
    if config._target_ is None and config.num_classes == IMAGENET_CLASSES and config.weights:
        found = vars(torchvision.models.get_model_weights(config.name).DEFAULT.transforms())
    mean, std = ((found or {}).get(key) for key in ("mean", "std"))
    if isinstance(mean, (tuple, list)) and isinstance(std, (tuple, list)):
        warn(
            EvaluationWarning(
                "model.mean and model.std are missing, though weights of"
                f" {config._target_ or config.name} expect {[*mean]} and {[*std]}",
                "give both, unless the model normalises its images itself",
            ),
            stacklevel=4,
        )


def _foolbox_model(made: Any, config: ModelConfig) -> Any:
    """Return a Foolbox model of the user's own, on [0, 1]."""
    if config.mean is not None or config.std is not None or config.dtype != "float32":
        raise UserError(
            f"model.mean, model.std, model.dtype: {config._target_} returned a Foolbox model,"
            " which has its own preprocessing and type; set them there"
        )
    if (module := module_of(made)) is not None:
        _set_to_eval(module)
    return made if tuple(made.bounds) == (0, 1) else made.transform_bounds((0, 1))


def _set_to_eval(module: torch.nn.Module) -> None:
    if any(part.training for part in module.modules()):
        module.eval()
        warn(
            EvaluationWarning("the model was in training mode and is set to evaluation mode"),
            stacklevel=4,
        )


def resolve_model(config: ModelConfig, *, data: str, num_classes: int) -> ModelConfig:
    """Return the config with ``auto`` and ``DEFAULT`` replaced by the weights that they stand for.

    Args:
        config: Which model.
        data: Name of the data, and
        num_classes: their number of classes, 0 if unknown: what ``auto`` must fit.
    """
    if config._target_ is not None:
        return config
    config = _choose_weights(config, data, num_classes)
    weights = named_weights(config)
    if weights is not None:
        return dataclasses.replace(config, weights=weights.name)
    path = _weights_file(config)
    classes = (path and read_notes(path).num_classes) or num_classes
    if config.num_classes is None and classes:
        return dataclasses.replace(config, num_classes=classes)
    return config


def named_weights(config: ModelConfig) -> Any:
    """Return the member of torchvision's enum that the weights name; None for other weights."""
    if config._target_ is not None or config.weights in (None, "auto", "bundled"):
        return None
    assert config.weights is not None
    if _weights_file(config) is not None:
        return None
    enum = torchvision.models.get_model_weights(config.name)
    name = config.weights.rpartition(".")[2]
    looks_like_file = "/" in config.weights or config.weights.endswith(
        (".safetensors", ".pt", ".pth", ".bin")
    )
    if looks_like_file or name not in enum.__members__:
        valid = nearest(name, ["bundled", "auto", "DEFAULT", *enum.__members__])
        raise UserError(
            f"model.weights: {config.weights!r} is no such file"
            + ("" if looks_like_file else f", nor weights of {config.name}; {valid}")
        )
    return enum[name]


def _weights_file(config: ModelConfig) -> Path | None:
    if config.weights is None:
        return None
    path = BUNDLED_WEIGHTS if config.weights == "bundled" else expand_path(config.weights)
    return path if os.path.isfile(path) else None  # also of a name that is too long


def find_device(name: str, *, key: str = "device") -> torch.device:
    """Return the device of a name; ``auto`` is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{key}: {name!r} cannot be used ({reason}); try device=cpu") from error
    return device


def find_devices(names: Sequence[int | str] | str) -> list[str]:
    """Return the devices of a run on several: numbers of GPUs, other names, or ``all`` GPUs.

    Nothing is put on a GPU, where a context alone takes memory.
    """
    gpus = torch.cuda.device_count()
    if names == "all" and gpus == 0:
        raise UserError("executor.devices: all are none, for there is no GPU; leave it out")
    chosen = range(gpus) if names == "all" else names
    found = [f"cuda:{name}" if isinstance(name, int) else name for name in chosen]
    for name in found:
        match = re.fullmatch(r"cuda(?::(\d+))?", name)
        if match is None:
            find_device(name, key="executor.devices")
        elif int(match[1] or 0) >= gpus:
            valid = f"give numbers below {gpus}" if gpus else "leave it out, or give [cpu, cpu]"
            raise UserError(f"executor.devices: there is no {name} among {gpus} GPUs; {valid}")
    if len({name.partition(":")[0] for name in found}) > 1:
        raise UserError(
            f"executor.devices: {', '.join(found)} are of several types, whose results differ in"
            " the last bits; give devices of one type"
        )
    return found


def _choose_weights(config: ModelConfig, data: str, num_classes: int) -> ModelConfig:
    names = torchvision.models.list_models(module=torchvision.models)
    if config.name not in names:
        raise UserError(
            f"model.name: torchvision has no classifier {config.name!r};"
            f" {nearest(config.name, names)}"
        )
    if config.weights == "auto":
        if config.name == BUNDLED_NAME and data == "digits":
            return dataclasses.replace(config, weights="bundled")
        if num_classes == IMAGENET_CLASSES:
            return dataclasses.replace(config, weights="DEFAULT")
        warn(
            EvaluationWarning(
                f"{config.name} has no weights for {data}, so it is untrained and its results are"
                " meaningless",
                "give model.weights (a file, or the name of torchvision's weights)",
            ),
            stacklevel=3,
        )
        return dataclasses.replace(config, weights=None)
    if config.weights == "bundled" and config.name != BUNDLED_NAME:
        raise UserError(
            f"model.weights: the bundled ones are {BUNDLED_NAME}'s, not {config.name}'s;"
            " give DEFAULT, a file or null"
        )
    return config


def _torchvision_model(
    config: ModelConfig, data_classes: int
) -> tuple[torch.nn.Module, list[float] | None, list[float] | None, int]:
    if config.weights is None:
        classes = config.num_classes or data_classes
        return _build(config, num_classes=classes), None, None, classes
    path = _weights_file(config)
    if path is not None:
        state, notes = read_state(path), read_notes(path)
        classes = config.num_classes or notes.num_classes or data_classes
        network = _build(config, num_classes=classes)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            reason = "; ".join(line.strip() for line in str(error).split("\n")[1:3])
            raise UserError(
                f"model.weights: {config.weights} does not fit {config.name} with {classes} classes"
                f" ({reason[:200]}); check model.name and model.num_classes"
            ) from error
        return network, notes.mean, notes.std, classes
    weights = named_weights(config)
    _check_download(config, weights)
    arguments = {"weights": weights}
    if config.num_classes is not None:
        arguments["num_classes"] = config.num_classes
    network = _build(config, **arguments)
    preset = weights.transforms()
    return network, list(preset.mean), list(preset.std), len(weights.meta["categories"])


def _check_download(config: ModelConfig, weights: Any) -> None:
    """Download the file if it is not there yet, and see that reading it runs no code.

    torchvision itself unpickles what is in the cache without restriction.
    """
    try:
        weights.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except OSError as error:  # URLError is one
        raise UserError(
            f"model.weights: {config.weights} of {config.name} could not be downloaded ({error});"
            " give a local file, or null for an untrained network"
        ) from error
    except Exception as error:  # as in read_state
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"model.weights: {folder / Path(weights.url).name} is not a plain PyTorch state dict,"
            " and anything else is refused because it could run code; remove it"
        ) from error


def _build(config: ModelConfig, **arguments: Any) -> torch.nn.Module:
    try:
        network: torch.nn.Module = torchvision.models.get_model(
            config.name, **arguments, **config.params
        )
    except (TypeError, ValueError, RuntimeError) as error:  # of the user's params or num_classes
        raise UserError(f"model: torchvision cannot build {config.name}: {error}") from error
    return network
