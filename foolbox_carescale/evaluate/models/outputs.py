"""Let a user's module take images in float32 and return logits in float32."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from ...attacks.model import floating_dtypes, logits_of
from ..errors import UserError

WIDE = (torch.float16, torch.bfloat16, torch.float64)
"""Types of logits that become float32, the type of the images."""


def adapt_module(module: torch.nn.Module, name: str) -> None:
    """Let a module take float32 images and return float32 logits, whatever it holds and returns.

    Hooks do so, which leave the names in its state dict as they are.
    """
    if floating_dtypes(module) - {torch.float32}:
        module.register_forward_pre_hook(_cast_inputs)
    module.register_forward_hook(functools.partial(_take_logits, name))


def check_classes(shape: Sequence[int], highest: int, *, model: str, data: str) -> None:
    """Raise a UserError where logits of a shape have no class for the highest label."""
    if len(shape) != 2 or highest >= shape[1]:
        raise UserError(
            f"model: {model} gives logits of shape {tuple(shape[1:])}, but {data} has labels up to"
            f" {highest}; set model.num_classes, or take other data"
        )


def _cast_inputs(module: torch.nn.Module, inputs: tuple[Any, ...]) -> Any:
    dtypes = floating_dtypes(module)
    if len(dtypes) != 1:  # the module's own business
        return inputs
    (dtype,) = dtypes
    return tuple(value.to(dtype) if torch.is_tensor(value) else value for value in inputs)


def _take_logits(name: str, _: torch.nn.Module, __: Any, output: Any) -> torch.Tensor:
    try:
        logits: torch.Tensor = logits_of(output, name)
    except ValueError as error:
        raise UserError(str(error)) from None
    if logits.ndim != 2:
        raise UserError(
            f"model: {name} returns a tensor of shape {tuple(logits.shape)};"
            " return logits, shape (N, classes)"
        )
    return logits.float() if logits.dtype in WIDE else logits
