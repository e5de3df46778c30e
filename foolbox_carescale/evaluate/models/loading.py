"""Models by name with weights from several sources, or one's own."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from foolbox.models import Model, PyTorchModel

from ...attacks.model import module_of
from ..config.types import ModelConfig
from ..config.validation import expand_path
from ..errors import EvaluationWarning, UserError, warn
from .outputs import adapt_module
from .sources import source_of, torchvision
from .sources.preset import Preset
from .targets import call_target, takes
from .weights import load_into, read_notes, read_state

BUNDLED_WEIGHTS = Path(__file__).with_name("digits_shufflenet.safetensors")
"""Made by ``experiments/train_digits.py``."""

IN_FOLDERS = ("model.safetensors", "weights.safetensors")
"""Files of weights in the folders that Hugging Face's libraries and ``carescale train`` write."""


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
    if config._target_ is not None:
        network = made
        if network is None:
            network, config = _from_target(config)
        if isinstance(network, Model):
            raise UserError(
                f"model._target_: {config._target_} returned a Foolbox model; return its module"
            )
        mean, std = _carried(network, config)
    else:
        config = resolve_model(config, data=data, num_classes=num_classes)
        network, preset = _named_model(config, num_classes)
        mean, std = preset.mean, preset.std
        config = dataclasses.replace(config, num_classes=preset.num_classes)
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
    weights = None
    if not takes("model", str(config._target_), "weights"):
        weights = _weights_file(config)  # for the network that is returned
    called = config if weights is None else dataclasses.replace(config, weights="auto")
    made, called = call_target("model", called, inert=("name", "weights", "num_classes"))
    if not isinstance(made, (torch.nn.Module, Model)):
        raise UserError(
            f"model._target_: {config._target_} returned {type(made).__name__};"
            " return a torch.nn.Module or a Foolbox model"
        )
    module = module_of(made) if isinstance(made, Model) else made
    if module is not None:
        adapt_module(module, str(config._target_))
    if weights is None:
        return made, called
    if module is None:
        raise UserError(f"model.weights: {config._target_} returned no PyTorch module to hold them")
    try:
        load_into(module.eval(), weights)
    except RuntimeError as error:
        raise _no_fit(config, f"{config._target_}", error) from error
    notes = read_notes(weights)
    mean, std = (None, None) if isinstance(made, Model) else (notes.mean, notes.std)
    return made, dataclasses.replace(
        called, weights=config.weights, mean=called.mean or mean, std=called.std or std
    )


def _carried(
    network: torch.nn.Module, config: ModelConfig
) -> tuple[list[float] | None, list[float] | None]:
    """Return the lists of numbers ``mean`` and ``std`` that a user's own module carries.

    Tensors are what a module computes with itself. It may do so with lists, too, which nobody can
    tell from here.
    """
    mean, std = ([*map(float, v)] if _are_numbers(v) else None for v in _mean_and_std(network))
    if mean is None or std is None or (config.mean is not None and config.std is not None):
        return None, None
    warn(
        EvaluationWarning(
            f"model.mean and model.std are those that {config._target_} carries, {mean} and {std}",
            "give both in the config; zeros and ones if the model normalises its images itself",
        ),
        stacklevel=4,
    )
    return mean, std


def _mean_and_std(holder: Any) -> tuple[Any, Any]:
    return getattr(holder, "mean", None), getattr(holder, "std", None)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, (tuple, list)) and all(isinstance(v, (int, float)) for v in values)


def _warn_of_normalisation(network: torch.nn.Module, config: ModelConfig) -> None:
    """Warn where pixels are not normalised, but were when weights like these were trained."""
    mean = std = None
    if config._target_ is not None:
        found = getattr(network, "pretrained_cfg", None) or {}  # timm's
        mean, std = found.get("mean"), found.get("std")
    elif config.weights and source_of(config) is torchvision:
        mean, std = torchvision.usual_normalisation(config)
    if _are_numbers(mean) and _are_numbers(std):
        warn(
            EvaluationWarning(
                "model.mean and model.std are missing, though weights of"
                f" {config._target_ or config.name} expect {list(mean or [])} and"
                f" {list(std or [])}",
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
    path = _weights_file(config)
    if config.weights is not None and path is None:
        return dataclasses.replace(config, weights=source_of(config).name_weights(config))
    classes = (path and read_notes(path).num_classes) or num_classes
    if config.num_classes is None and classes:
        return dataclasses.replace(config, num_classes=classes)
    return config


def preset_of(config: ModelConfig) -> Preset | None:
    """Return what a model's weights expect of their images; None where that is not known.

    A file of timm's or Hugging Face's models expects what those of the name do, unless it notes
    what it was trained with; its classes are its own.
    """
    if config._target_ is not None or config.weights in (None, "auto"):
        return None
    path = _weights_file(config)
    if path is None:
        return source_of(config).preset(config)
    if source_of(config) is torchvision or read_notes(path).mean is not None:
        return None
    preset = source_of(config).preset(config)
    return dataclasses.replace(preset, num_classes=None, class_names=None)


def _weights_file(config: ModelConfig) -> Path | None:
    """Return the file that the weights name, or that lies in the folder which they name."""
    if config.weights is None:
        return None
    path = BUNDLED_WEIGHTS if config.weights == "bundled" else expand_path(config.weights)
    paths = (path, *(path / name for name in IN_FOLDERS))
    # os.path: also of a name that is too long
    return next((each for each in paths if os.path.isfile(each)), None)


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
    weights = source_of(config).default_weights(config, data, num_classes)
    if config.weights == "auto":
        if weights is None:
            warn(
                EvaluationWarning(
                    f"{config.name} has no weights for {data}, so it is untrained and its results"
                    " are meaningless",
                    "give model.weights (a file, or the name of torchvision's weights)",
                ),
                stacklevel=3,
            )
        return dataclasses.replace(config, weights=weights)
    if config.weights == "bundled" and config.name != torchvision.BUNDLED_NAME:
        raise UserError(
            f"model.weights: the bundled ones are {torchvision.BUNDLED_NAME}'s, not"
            f" {config.name}'s; give DEFAULT, a file or null"
        )
    return config


def _named_model(config: ModelConfig, data_classes: int) -> tuple[torch.nn.Module, Preset]:
    """Return a model by name, and what its weights expect of their images."""
    source, path = source_of(config), _weights_file(config)
    if config.weights is None:
        classes = config.num_classes or data_classes
        return source.build(config, classes, None), Preset(classes)
    if path is None:
        return source.pretrained(config), source.preset(config)
    notes = read_notes(path)
    classes = config.num_classes or notes.num_classes or data_classes
    try:
        network = source.build(config, classes, read_state(path))
    except RuntimeError as error:
        of = notes.architecture
        known = f"; its network is {of}" if of not in (None, config.name) else ""
        raise _no_fit(config, f"{config.name} with {classes} classes", error, known) from error
    preset = preset_of(config) or Preset(mean=notes.mean, std=notes.std)
    return network, dataclasses.replace(preset, num_classes=classes)


def _no_fit(config: ModelConfig, network: str, error: RuntimeError, known: str = "") -> UserError:
    reason = "; ".join(line.strip() for line in str(error).split("\n")[1:3])
    return UserError(
        f"model.weights: {config.weights} does not fit {network} ({reason[:200]}){known};"
        f" check model.{'_target_' if config._target_ else 'name'} and model.num_classes"
    )
