"""Files of weights, read without running code."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..errors import LOGGER, EvaluationWarning, UserError, warn

CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys below which checkpoints hold the state dict."""

PREFIXES = ("module.", "model.", "_orig_mod.")
"""Prefixes that DataParallel, Lightning and torch.compile put before the names of a state dict."""

LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class WeightsMetadata:
    """Metadata of a weight file about its network; None for what is missing.

    Attributes:
        num_classes: How many it tells apart.
        mean, std: Per-channel normalisation that it was trained with.
        architecture: Its name.
    """

    num_classes: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    architecture: str | None = None


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the state dict of a safetensors file, or of one that ``torch.save`` wrote.

    Raises:
        UserError: The file cannot be read, or holds anything but tensors by name.
    """
    _check_whole(path)
    if path.suffix == ".safetensors":
        try:
            return _without_prefix(path, load_file(path))
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
        if isinstance(error, EOFError) or "EOF" in str(error):
            raise _cut(path) from error
        raise UserError(
            f"model.weights: {path} is not a plain PyTorch state dict, and anything else is refused"
            " because it could run code; save model.state_dict()"
        ) from error
    while isinstance(state, dict) and (
        held := [key for key in CONTAINERS if isinstance(state.get(key), dict)]
    ):
        _warn_of_others(path, state, held[0])
        state = state[held[0]]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and torch.is_tensor(value) for name, value in state.items()
    ):
        raise UserError(f"model.weights: {path} holds no state dict; save model.state_dict()")
    return _without_prefix(path, state)


def _warn_of_others(path: Path, holder: dict[Any, Any], taken: str) -> None:
    """Warn where a checkpoint holds other weights beside those that are read."""
    others = [
        repr(key)
        for key, value in holder.items()
        if key != taken
        and isinstance(value, dict)
        and any(torch.is_tensor(inner) or name in CONTAINERS for name, inner in value.items())
    ]
    if others:
        warn(
            EvaluationWarning(
                f"{path} holds weights in {taken!r} and in {', '.join(others[:8])}; {taken!r} is"
                " read",
                "save the state dict that you mean alone",
            ),
            stacklevel=3,
        )


def _check_whole(path: Path) -> None:
    """Refuse files that are no weights for a reason that can be told."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
        if not start:
            raise UserError(f"model.weights: {path} is empty; save or download it again")
        if start == LFS_POINTER:
            raise UserError(
                f"model.weights: {path} is a Git LFS pointer, not the weights; run git lfs pull"
            )
        if start.startswith(b"PK") and not zipfile.is_zipfile(path):
            raise _cut(path)
        if path.suffix == ".safetensors" and path.stat().st_size < 8 + int.from_bytes(
            start[:8], "little"
        ):
            raise _cut(path)
    except OSError as error:
        raise UserError(f"model.weights: {path} cannot be read ({error})") from error


def _without_prefix(path: Path, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state dict of the network itself, where all names begin with a wrapper's."""
    removed = ""
    while found := [
        prefix for prefix in PREFIXES if state and all(key.startswith(prefix) for key in state)
    ]:
        removed += found[0]
        state = {key.removeprefix(found[0]): value for key, value in state.items()}
    if removed:
        LOGGER.info("all names in %s begin with %r, which is left out", path, removed)
    return state


def load_into(module: torch.nn.Module, path: Path) -> None:
    """Load a file into a user's own module, whose own names may begin with a prefix.

    Raises:
        RuntimeError: They do not fit.
    """
    state, names = read_state(path), set(module.state_dict())
    first = next(iter(state), "")
    own = (name.removesuffix(first) for name in names if name.endswith(first))
    prefixed = ({f"{prefix}{name}": value for name, value in state.items()} for prefix in own)
    module.load_state_dict(next((one for one in prefixed if one.keys() == names), state))


def _cut(path: Path) -> UserError:
    return UserError(f"model.weights: {path} is cut off; save or download it again")


def read_notes(path: Path) -> WeightsMetadata:
    """Return what ``carescale train`` and ``experiments.train_digits`` note in safetensors.

    Raises:
        UserError: The file cannot be read, or the note is none of theirs.
    """
    if path.suffix != ".safetensors":
        return WeightsMetadata()
    _check_whole(path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("carescale", "{}")
    except (SafetensorError, OSError) as error:
        raise _no_safetensors(path, error) from error
    try:
        said = json.loads(text)
        classes = said.get("num_classes")
        mean, std = (
            None if said.get(key) is None else _numbers(said[key]) for key in ("mean", "std")
        )
        name = said.get("architecture")
        number = None if classes is None else int(classes)
        notes = WeightsMetadata(number, mean, std, None if name is None else str(name))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"model.weights: what {path} notes of its network, {text[:80]!r}, cannot be read"
            f" ({error}); save it without the metadata 'carescale'"
        ) from error
    return notes


def _numbers(values: Any) -> list[float]:
    numbers = [float(value) for value in values]
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{values} are not finite numbers")
    return numbers


def _no_safetensors(path: Path, error: Exception) -> UserError:
    if "incomplete" in str(error).lower():  # fewer bytes than its header says
        return _cut(path)
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
