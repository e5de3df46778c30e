"""Models of RobustBench's zoo by name, such as ``robustbench/Carmon2019Unlabeled``.

They normalise their images themselves.
"""

from __future__ import annotations

import torch

from ...config.types import ModelConfig
from ...errors import UserError, nearest
from .preset import Preset, missing_package, not_loaded, only_default

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
"""Data sets of the zoo, and their numbers of classes."""

PARAMS = ("dataset", "threat_model", "model_dir")
"""Arguments of ``robustbench.utils.load_model`` that ``model.params`` may give."""

name_weights = only_default


def default_weights(config: ModelConfig, data: str, num_classes: int) -> str:
    """Return ``DEFAULT``: every model of the zoo has weights."""
    return "DEFAULT"


def preset(config: ModelConfig) -> Preset:
    """Return the classes of the model's data set; for ImageNet also the usual crop."""
    data = config.params.get("dataset", "cifar10")
    if data not in CLASSES:
        raise UserError(
            f"model.params.dataset: there is no {data!r}; {nearest(str(data), CLASSES)}"
        )
    if data == "imagenet":
        return Preset(CLASSES[data], size=224, resize=256, interpolation="bilinear")
    return Preset(CLASSES[data])


def pretrained(config: ModelConfig) -> torch.nn.Module:
    """Return a network of the zoo, which takes images in [0, 1]."""
    for key in config.params.keys() - set(PARAMS):
        raise UserError(f"model.params.{key}: there is no such argument; {nearest(key, PARAMS)}")
    try:
        from robustbench.utils import load_model
    except ImportError as error:
        raise missing_package(config, "robustbench", "pip install robustbench") from error
    try:
        network: torch.nn.Module = load_model(config.name.partition("/")[2], **config.params)
    except Exception as error:  # of names, of the download, of the file
        raise not_loaded(config, error) from error
    return network


def build(
    config: ModelConfig, num_classes: int, state: dict[str, torch.Tensor] | None
) -> torch.nn.Module:
    """Raise a UserError: the zoo gives its networks with their weights only."""
    raise UserError(
        f"model.weights: {config.name} comes with its own weights; leave it out, or give DEFAULT"
    )
