"""torchvision's classifiers by name, and the bundled one.

torchvision is imported where it is used: it takes as long as all else that a worker imports.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from ...config.types import ModelConfig
from ...errors import UserError, nearest
from .preset import Preset

BUNDLED_NAME = "shufflenet_v2_x0_5"

IMAGENET_CLASSES = 1000


def default_weights(config: ModelConfig, data: str, num_classes: int) -> str | None:
    """Return the bundled weights for digits, and torchvision's for ImageNet's classes."""
    from torchvision import models

    names = models.list_models(module=models)
    if _name(config) not in names:
        raise UserError(
            f"model.name: torchvision has no classifier {_name(config)!r};"
            f" {nearest(_name(config), names)}"
        )
    if _name(config) == BUNDLED_NAME and data == "digits":
        return "bundled"
    return "DEFAULT" if num_classes == IMAGENET_CLASSES else None


def name_weights(config: ModelConfig) -> str:
    """Return the name of the weights in torchvision's enum."""
    name: str = _weights(config).name
    return name


def preset(config: ModelConfig) -> Preset:
    """Return what torchvision's transforms for the weights do."""
    weights = _weights(config)
    found = weights.transforms()
    names = list(weights.meta["categories"])
    return Preset(
        len(names),
        list(found.mean),
        list(found.std),
        size=found.crop_size[0],
        resize=found.resize_size[0],
        interpolation=found.interpolation.value,
        class_names=names,
    )


def usual_normalisation(config: ModelConfig) -> tuple[list[float] | None, list[float] | None]:
    """Return mean and std of torchvision's own weights for ImageNet; None for other classes."""
    if config.num_classes != IMAGENET_CLASSES:
        return None, None
    found = preset(dataclasses.replace(config, weights="DEFAULT"))
    return found.mean, found.std


def pretrained(config: ModelConfig) -> torch.nn.Module:
    """Return torchvision's network with its weights."""
    weights = _weights(config)
    _check_download(config, weights)
    arguments = {"weights": weights}
    if config.num_classes is not None:
        arguments["num_classes"] = config.num_classes
    return _build(config, **arguments)


def build(
    config: ModelConfig, num_classes: int, state: dict[str, torch.Tensor] | None
) -> torch.nn.Module:
    """Return torchvision's network with the weights of a state dict, or untrained."""
    network = _build(config, num_classes=num_classes)
    if state is not None:
        network.load_state_dict(state)
    return network


def _name(config: ModelConfig) -> str:
    return config.name.removeprefix("torchvision/")


def _weights(config: ModelConfig) -> Any:
    """Return the member of torchvision's enum that the weights name."""
    from torchvision.models import get_model_weights

    enum = get_model_weights(_name(config))
    text = str(config.weights)
    name = text.rpartition(".")[2]
    looks_like_file = "/" in text or text.endswith((".safetensors", ".pt", ".pth", ".bin"))
    if looks_like_file or name not in enum.__members__:
        valid = nearest(name, ["bundled", "auto", "DEFAULT", *enum.__members__])
        raise UserError(
            f"model.weights: {config.weights!r} is no such file"
            + ("" if looks_like_file else f", nor weights of {_name(config)}; {valid}")
        )
    return enum[name]


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
    from torchvision.models import get_model

    try:
        network: torch.nn.Module = get_model(_name(config), **arguments, **config.params)
    except (TypeError, ValueError, RuntimeError) as error:  # of the user's params or num_classes
        raise UserError(f"model: torchvision cannot build {_name(config)}: {error}") from error
    return network
