"""Where a model's name leads: torchvision, timm, Hugging Face or RobustBench."""

from __future__ import annotations

from typing import Protocol

import torch

from ...config.types import ModelConfig
from ...errors import UserError, nearest
from . import huggingface, robustbench, timm, torchvision
from .preset import Preset


class ModelSource(Protocol):
    """A library of models by name; each is a module of this package."""

    def default_weights(self, config: ModelConfig, data: str, num_classes: int) -> str | None:
        """Return the weights that ``auto`` stands for; None if there are none.

        Raises:
            UserError: There is no such model.
        """

    def name_weights(self, config: ModelConfig) -> str:
        """Return the full name of weights that are no file.

        Raises:
            UserError: There are no such weights.
        """

    def preset(self, config: ModelConfig) -> Preset:
        """Return what named weights expect of their images."""

    def pretrained(self, config: ModelConfig) -> torch.nn.Module:
        """Return the network with its named weights."""

    def build(
        self, config: ModelConfig, num_classes: int, state: dict[str, torch.Tensor] | None
    ) -> torch.nn.Module:
        """Return the network with the weights of a state dict, or untrained.

        Raises:
            RuntimeError: The state dict does not fit the network.
        """


SOURCES: dict[str, ModelSource] = {
    "hf": huggingface,
    "robustbench": robustbench,
    "timm": timm,
    "torchvision": torchvision,
}


def source_of(config: ModelConfig) -> ModelSource:
    """Return where the model of this name comes from; a bare name is torchvision's."""
    prefix, slash, _ = config.name.partition("/")
    if not slash:
        return torchvision
    if prefix not in SOURCES:
        raise UserError(
            f"model.name: {config.name!r} begins with no library of models;"
            f" {nearest(prefix, SOURCES)} (a model of Hugging Face's hub is hf/{config.name})"
        )
    return SOURCES[prefix]
