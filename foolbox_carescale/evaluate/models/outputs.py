"""What modules of users take and return, made images in float32 and logits in float32."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import UserError

WIDE = (torch.float16, torch.bfloat16, torch.float64)
"""Types of logits that become float32, the type of the images."""


def adapt_module(module: torch.nn.Module, name: str) -> None:
    """Let a module take float32 images and return float32 logits, whatever it holds and returns.

    Hooks do so, which leave the names in its state dict as they are.
    """
    if _dtypes(module) - {torch.float32}:
        module.register_forward_pre_hook(_cast_inputs)
    module.register_forward_hook(functools.partial(_take_logits, name))


def _dtypes(module: torch.nn.Module) -> set[torch.dtype]:
    return {value.dtype for value in module.parameters() if value.is_floating_point()}


def _cast_inputs(module: torch.nn.Module, inputs: tuple[Any, ...]) -> Any:
    dtypes = _dtypes(module)
    if len(dtypes) != 1:  # the module's own business
        return inputs
    (dtype,) = dtypes
    return tuple(value.to(dtype) if torch.is_tensor(value) else value for value in inputs)


def _take_logits(name: str, _: torch.nn.Module, __: Any, output: Any) -> torch.Tensor:
    logits = _find_logits(output)
    if logits is None:
        raise UserError(
            f"model: {name} returns {_listed(output)}; return the logits, shape (N, classes),"
            " alone or as .logits or ['logits']"
        )
    if logits.ndim != 2:
        raise UserError(
            f"model: {name} returns a tensor of shape {tuple(logits.shape)};"
            " return logits, shape (N, classes)"
        )
    return logits.float() if logits.dtype in WIDE else logits


def _find_logits(output: Any) -> torch.Tensor | None:
    """Return what is called logits, or the only tensor."""
    if torch.is_tensor(output):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else None
    for value in (named, getattr(output, "logits", None)):
        if torch.is_tensor(value):
            return value
    tensors = [value for value in _items(output).values() if torch.is_tensor(value)]
    return tensors[0] if len(tensors) == 1 else None


def _items(output: Any) -> dict[str, Any]:
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, (tuple, list)):
        return {str(number): value for number, value in enumerate(output)}
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return {}


def _listed(output: Any) -> str:
    tensors = [
        f"{key}: {tuple(value.shape)}"
        for key, value in _items(output).items()
        if torch.is_tensor(value)
    ]
    kind = type(output).__name__
    return f"{kind} with several tensors ({', '.join(tensors[:6])})" if tensors else kind
