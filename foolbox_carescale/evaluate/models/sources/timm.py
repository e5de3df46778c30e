"""Models of timm by name, such as ``timm/resnet50.a1_in1k``."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...config.types import ModelConfig
from ...errors import UserError, nearest
from .preset import Preset, check_params, missing_package, not_loaded, only_default

_WEIGHTS = "model.weights takes DEFAULT, a file, or null for an untrained network"

REFUSED = {
    "pretrained": _WEIGHTS,
    "pretrained_cfg": _WEIGHTS,
    "pretrained_cfg_overlay": _WEIGHTS,
    "checkpoint_path": _WEIGHTS,
    "num_classes": "set model.num_classes",
    "features_only": "attacks need logits",
    "cache_dir": "set the environment variable HF_HOME",
}
"""Arguments of ``timm.create_model`` that would load other weights, or none that attacks can use,
and the remedies."""

name_weights = only_default


def default_weights(config: ModelConfig, data: str, num_classes: int) -> str | None:
    """Return ``DEFAULT`` if timm has weights of this name."""
    return "DEFAULT" if _pretrained_cfg(config).has_weights else None


def preset(config: ModelConfig) -> Preset:
    """Return what timm's ``pretrained_cfg`` says of the images."""
    from timm.data import resolve_data_config

    found = _pretrained_cfg(config)
    said = resolve_data_config({}, pretrained_cfg=found.to_dict())
    _, height, width = said["input_size"]
    resize = math.floor(height / said["crop_pct"])
    interpolation = said["interpolation"]
    square = height == width
    return Preset(
        found.num_classes,
        list(said["mean"]),
        list(said["std"]),
        size=height if square else None,
        resize=([resize] * 2 if said["crop_mode"] == "squash" else resize) if square else None,
        interpolation="bilinear" if interpolation == "random" else interpolation,
        class_names=_class_names(found),
    )


def _class_names(found: Any) -> list[str] | None:
    """Return names by class: those of the weights, or those of the ImageNet that has as many."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if found.label_names:
        return [str(name) for name in found.label_names]
    subset = infer_imagenet_subset(found.to_dict())
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return [info.index_to_description(i) for i in range(info.num_classes())]


def pretrained(config: ModelConfig) -> torch.nn.Module:
    """Return timm's network with its weights."""
    found = _pretrained_cfg(config)
    if not found.has_weights or not found.num_classes:
        has = "no classifier" if found.has_weights else "no weights"
        raise UserError(
            f"model.name: timm has {has} for {config.name}; take another, or give a file as"
            " model.weights"
        )
    if config.num_classes not in (None, found.num_classes):
        raise UserError(
            f"model.num_classes: the weights of {config.name} have {found.num_classes} classes, not"
            f" {config.num_classes}; leave it out, or give a file as model.weights"
        )
    try:
        return _create(config, pretrained=True)
    except UserError:
        raise
    except Exception as error:  # of the hub, the network, the file
        raise not_loaded(config, error) from error


def build(
    config: ModelConfig, num_classes: int, state: dict[str, torch.Tensor] | None
) -> torch.nn.Module:
    """Return timm's network with the weights of a state dict, or untrained."""
    _pretrained_cfg(config)
    network = _create(config, pretrained=False, num_classes=num_classes)
    if state is not None:
        network.load_state_dict(state)
    return network


def _create(config: ModelConfig, **arguments: Any) -> torch.nn.Module:
    import timm

    check_params(config, REFUSED)
    try:
        network: torch.nn.Module = timm.create_model(_name(config), **arguments, **config.params)
    except (TypeError, ValueError, AssertionError) as error:  # of the user's params
        raise UserError(f"model: timm cannot build {config.name}: {error}") from error
    return network


def _name(config: ModelConfig) -> str:
    return config.name.partition("/")[2]


def _pretrained_cfg(config: ModelConfig) -> Any:
    """Return what timm knows of a model that it has: no other repository can be named."""
    try:
        import timm
    except ImportError as error:
        raise missing_package(config, "timm", "pip install 'foolbox-carescale[timm]'") from error
    name = _name(config)
    if not timm.is_model(name):
        raise UserError(
            f"model.name: timm has no model {name!r}; {nearest(name, timm.list_models())}"
        )
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # of the part behind the dot
        known = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise UserError(
            f"model.name: timm has no weights {name!r}; {nearest(name, known)}"
        ) from error
