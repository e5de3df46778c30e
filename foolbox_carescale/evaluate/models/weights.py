"""Files of weights, read without running code."""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..errors import UserError


@dataclass(frozen=True)
class WeightsMetadata:
    """Metadata of a weight file about its network; None for what is missing.

    Attributes:
        num_classes: How many it tells apart.
        mean, std: Per-channel normalisation that it was trained with.
    """

    num_classes: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict of a safetensors file, or of one that ``torch.save`` wrote.

    Raises:
        UserError: The file cannot be read, or holds anything but tensors by name.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise _no_safetensors(path, error) from error
    try:
        with warnings.catch_warnings():
            # of pickles that torch.save did not write; what cannot be read is refused below
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"model.weights: {path} cannot be read ({error})") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(
            f"model.weights: {path} is not a plain PyTorch state dict, and anything else is refused"
            " because it could run code; save model.state_dict()"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and torch.is_tensor(value) for name, value in state.items()
    ):
        raise UserError(f"model.weights: {path} holds no state dict; save model.state_dict()")
    return state


def read_notes(path: Path) -> WeightsMetadata:
    """Return what ``carescale train`` and ``experiments.train_digits`` note in safetensors.

    Raises:
        UserError: The file cannot be read, or the note is none of theirs.
    """
    if path.suffix != ".safetensors":
        return WeightsMetadata()
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("carescale", "{}")
    except (SafetensorError, OSError) as error:
        raise _no_safetensors(path, error) from error
    try:
        said = json.loads(text)
        classes = said.get("num_classes")
        notes = WeightsMetadata(
            None if classes is None else int(classes),
            *(None if said.get(key) is None else _numbers(said[key]) for key in ("mean", "std")),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"model.weights: what {path} notes of its network, {text[:80]!r}, cannot be read"
            f" ({error}); save it without the metadata 'carescale'"
        ) from error
    return notes


def _numbers(values: Any) -> list[float]:
    return [float(value) for value in values]


def _no_safetensors(path: Path, error: Exception) -> UserError:
    return UserError(f"model.weights: {path} is not a safetensors file ({error})")


def weights_digest(module: torch.nn.Module) -> str:
    """Return BLAKE2b, 16 bytes in hexadecimal, of parameters and buffers, on whatever device."""
    hashed = hashlib.blake2b(digest_size=16)
    for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
        hashed.update(f"{name} {tensor.dtype}".encode())
        if tensor.layout == torch.strided and not torch.nn.parameter.is_lazy(tensor):
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            hashed.update(f"{tuple(tensor.shape)}".encode())
            hashed.update(flat.view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()
