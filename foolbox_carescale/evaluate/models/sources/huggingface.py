"""Models of Hugging Face's hub, or in a folder, by name: ``hf/google/vit-base-patch16-224``."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from ...config.types import ModelConfig
from ...config.validation import expand_path
from ...errors import EvaluationWarning, UserError, nearest, warn
from ..outputs import adapt_module
from .preset import Preset, missing_package, not_loaded, only_default

PARAMS = ("attn_implementation", "revision", "subfolder", "trust_remote_code")
"""Arguments of ``from_pretrained`` that ``model.params`` may give."""

ATTENTION = ("eager", "sdpa")
"""Implementations of attention that PyTorch has: another could be a program on the hub."""

name_weights = only_default


def default_weights(config: ModelConfig, data: str, num_classes: int) -> str:
    """Return ``DEFAULT``: a name is that of weights."""
    return "DEFAULT"


def preset(config: ModelConfig) -> Preset:
    """Return what the model's image processor does to images, and its number of classes."""
    from_hub = _arguments(config)
    found = _config(config)
    classes, names = found.num_labels, _class_names(found.id2label)
    try:
        from transformers import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(_name(config), **from_hub)
    except Exception as error:  # of the hub, the network, the file
        if config.mean is not None and config.std is not None:
            return Preset(classes, class_names=names)
        raise UserError(
            f"model.mean, model.std: {config.name} has no image processor that can be read"
            f" ({str(error).strip().splitlines()[0][:120]}); give both, and data.size"
        ) from error
    said = processor.to_dict()
    mean, std = _normalisation(config, processor)
    size, resize = _sizes(said)
    interpolation = _interpolation(said) if size else None
    return Preset(classes, mean, std, size, resize, interpolation, names)


def _class_names(labels: dict[int, str]) -> list[str] | None:
    """Return names by class; None for those that transformers makes up."""
    names = [str(labels.get(i, i)) for i in range(len(labels))]
    made_up = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return None if made_up else names


def pretrained(config: ModelConfig) -> torch.nn.Module:
    """Return the network with its weights, which are read from safetensors."""
    found = _config(config)
    if config.num_classes not in (None, found.num_labels):
        raise UserError(
            f"model.num_classes: {config.name} has {found.num_labels} classes, not"
            f" {config.num_classes}; leave it out, or give a file as model.weights"
        )
    return _load(config, _name(config), found)


def build(
    config: ModelConfig, num_classes: int, state: dict[str, torch.Tensor] | None
) -> torch.nn.Module:
    """Return the network with the weights of a state dict, or untrained."""
    found = _config(config)
    if num_classes and num_classes != found.num_labels:
        found.num_labels = num_classes
    if state is not None:
        return _load(config, None, found, state_dict=state)
    from transformers import AutoModelForImageClassification

    trusted = bool(config.params.get("trust_remote_code"))
    try:
        made = AutoModelForImageClassification.from_config(found, trust_remote_code=trusted)
    except Exception as error:
        raise not_loaded(config, error) from error
    return _adapted(config, made)


def _load(config: ModelConfig, name: str | None, found: Any, **state: Any) -> torch.nn.Module:
    from transformers import AutoModelForImageClassification

    arguments = _arguments(config)
    # other formats are pickles, which transformers reads without running code only today
    safe = None if arguments["trust_remote_code"] else True
    kind: Any = AutoModelForImageClassification
    try:
        if name is None:  # the automatic class wants a name
            kind = type(kind.from_config(found, trust_remote_code=arguments["trust_remote_code"]))
        network, about = kind.from_pretrained(
            name, config=found, use_safetensors=safe, output_loading_info=True, **state, **arguments
        )
    except Exception as error:  # of the hub, the network, the file
        raise _explained(config, error) from error
    if state and about["missing_keys"]:
        missing = ", ".join(sorted(about["missing_keys"])[:3])
        raise RuntimeError(f"\nmissing keys: {missing}")
    if about["missing_keys"]:
        warn(
            EvaluationWarning(
                f"{config.name} has no weights for {', '.join(sorted(about['missing_keys'])[:4])},"
                " which are random, so its results are meaningless",
                "take a model that was trained to classify images",
            ),
            stacklevel=4,
        )
    return _adapted(config, network)


def _adapted(config: ModelConfig, network: torch.nn.Module) -> torch.nn.Module:
    """Return a network in float32 that returns logits alone."""
    network = network.float()
    adapt_module(network, config.name)
    return network


def _name(config: ModelConfig) -> str:
    """Return the hub's name, or the path of a folder."""
    name = config.name.partition("/")[2]
    if not name.startswith((".", "/", "~")):
        return name
    folder = str(expand_path(name))
    if not os.path.isdir(folder):
        raise UserError(f"model.name: there is no folder {folder} for {config.name}")
    return folder


def _arguments(config: ModelConfig) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained``, none of which runs code unless it is allowed.

    ``config.permissions`` asks for ``--allow-code`` where a config sets ``trust_remote_code``.
    """
    for key in config.params.keys() - set(PARAMS):
        raise UserError(f"model.params.{key}: there is no such argument; {nearest(key, PARAMS)}")
    attention = config.params.get("attn_implementation")
    if attention not in (None, *ATTENTION):
        raise UserError(
            f"model.params.attn_implementation: there is no {attention!r};"
            f" {nearest(str(attention), ATTENTION)}"
        )
    return {**config.params, "trust_remote_code": bool(config.params.get("trust_remote_code"))}


def _config(config: ModelConfig) -> Any:
    """Return the ``config.json`` of a model as transformers reads it."""
    arguments = _arguments(config)
    try:
        from transformers import AutoConfig
    except ImportError as error:
        command = "pip install 'foolbox-carescale[huggingface]'"
        raise missing_package(config, "transformers", command) from error
    try:
        found = AutoConfig.from_pretrained(_name(config), **arguments)
    except UserError:
        raise
    except Exception as error:  # of the hub, the network, the file
        raise _explained(config, error) from error
    if found._attn_implementation not in (None, *ATTENTION):  # what a stranger's file says
        found._attn_implementation = "eager"
    if getattr(found, "quantization_config", None) is not None:
        raise UserError(
            f"model.name: {config.name} is quantised, and attacks need its gradients; take the"
            " model that it was made from"
        )
    return found


def _explained(config: ModelConfig, error: Exception) -> UserError:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return UserError(
            f"model.name: {config.name} brings code of its own; set"
            " model.params.trust_remote_code=true and add --allow-code if you trust it"
        )
    if "safetensors" in text:
        return UserError(
            f"model.name: {config.name} has no weights in safetensors, and other formats could run"
            " code; download them and give the file as model.weights"
        )
    return not_loaded(config, error)


def _normalisation(config: ModelConfig, processor: Any) -> tuple[list[float], list[float]]:
    """Return mean and std of pixels in [0, 1], as measured on black, white and red.

    That takes into account how pixels are scaled, shifted and normalised, once or twice.
    """
    colours = np.zeros((3, 32, 32, 3), np.uint8)
    colours[1], colours[2, ..., 0] = 255, 255
    pixels = processor(list(colours), return_tensors="pt")["pixel_values"]
    black, white, red = (value.double().numpy() for value in pixels.mean((2, 3)))
    if not np.allclose(red[1:], black[1:]):
        raise UserError(
            f"model.name: {config.name} takes its colours in another order than red, green, blue;"
            " write a function that reorders them, and name it as model._target_"
        )
    std = 1 / (white - black)
    return _rounded(-black * std), _rounded(std)


def _rounded(values: Any) -> list[float]:
    """Return numbers with as many digits as float32 has."""
    return [float(f"{value:.6g}") + 0.0 for value in values.tolist()]  # 0.0 and no -0.0


def _sizes(said: dict[str, Any]) -> tuple[int | None, int | list[int] | None]:
    """Return ``data.size`` and ``data.resize`` of an image processor; (None, None) if unknown."""
    size, crop = said.get("size") or {}, said.get("crop_size") or {}
    edge, height = size.get("shortest_edge"), size.get("height")
    resize: int | list[int] | None = edge or (height and [height, size["width"]])
    if edge and said.get("crop_pct"):  # ConvNeXt's: large images are not cropped
        resize = int(edge / said["crop_pct"]) if edge < 384 else [edge, edge]
        crop = {}
    elif said.get("do_center_crop"):
        edge, height = crop.get("shortest_edge"), crop.get("height")
    else:
        crop = {}
    side = crop.get("height") or edge or height
    square = crop.get("height") == crop.get("width") and size.get("height") == size.get("width")
    if not said.get("do_resize", True) or side is None or not square:
        return None, None
    return side, resize


def _interpolation(said: dict[str, Any]) -> str | None:
    from PIL.Image import Resampling

    resample = said.get("resample")
    return None if resample is None else Resampling(resample).name.lower()
