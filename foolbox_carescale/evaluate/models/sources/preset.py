"""The preprocessing that pretrained weights expect, and errors that all sources share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import UserError, describe

if TYPE_CHECKING:
    from ...config.types import ModelConfig


@dataclass(frozen=True)
class Preset:
    """The images that weights were trained on; None for what is unknown.

    Attributes:
        num_classes: How many they tell apart.
        mean, std: Per-channel normalisation.
        size, resize, interpolation: As in ``DataConfig``.
        class_names: By class.
    """

    num_classes: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    size: int | None = None
    resize: int | list[int] | None = None
    interpolation: Any = None
    class_names: list[str] | None = None


def missing_package(config: ModelConfig, package: str, command: str) -> UserError:
    """Return the error that a model needs a package that is not installed."""
    return UserError(f"model.name: {config.name} needs {package}; run: {command}")


def not_loaded(config: ModelConfig, error: Exception) -> UserError:
    """Return the error that a library raised another one for a model by name."""
    return UserError(
        f"model.name: {config.name} cannot be loaded ({describe(error)}); check the name and the"
        " connection, or give a file as model.weights, or null for an untrained network"
    )


def only_default(config: ModelConfig) -> str:
    """Return the name of the weights of a source that has one set for each name."""
    if config.weights != "DEFAULT":
        raise UserError(
            f"model.weights: {config.weights!r} is no such file; give DEFAULT for those of"
            f" {config.name}, or null for an untrained network"
        )
    return "DEFAULT"


def check_params(config: ModelConfig, refused: dict[str, str]) -> None:
    """Raise a UserError for arguments that a key of the config stands for."""
    for key in refused.keys() & config.params.keys():
        raise UserError(f"model.params.{key}: is not passed on; {refused[key]}")
