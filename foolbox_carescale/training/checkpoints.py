"""Checkpoints and weights: one safetensors file each, which is there in full or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..evaluate.errors import StorageError, UserError
from ..evaluate.store.checksums import digest, write_atomically

ENTRY = "carescale"
"""Of the metadata: one only, because safetensors writes several in random order."""

_TENSOR, _TUPLE, _ITEMS = "__tensor__", "__tuple__", "__items__"


def save_checkpoint(path: Path, content: Mapping[str, Any], *, temporary: Path) -> None:
    """Write nested dicts, lists and tuples of tensors, numbers, strings and None.

    Tensors are stored as such and all else as JSON in the file's metadata: one file, and so one
    rename, holds both. The file carries a checksum and can be read without running code.

    Args:
        path: The file.
        content: What to store; state dicts of modules, optimisers and schedulers are such.
        temporary: A folder on the same file system.

    Raises:
        StorageError: It cannot be written; a file that was there before is intact.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _without_tensors(dict(content), tensors, "")
    text = json.dumps({"tree": tree, "checksum": _checksum(tree, tensors)})
    _write(path, save(tensors, metadata={ENTRY: text}), temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What ``save_checkpoint`` has written, tensors on the CPU.

    Raises:
        UserError: The file is no checkpoint, or a byte differs from what was written.
    """
    remedy = "remove it to train from the beginning"
    try:
        with safe_open(path, framework="pt") as file:
            stored = json.loads((file.metadata() or {})[ENTRY])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        tree, checksum = stored["tree"], stored["checksum"]
    except FileNotFoundError:
        raise UserError(f"checkpoint: there is no file {path}") from None
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"checkpoint: {path} is damaged or none ({reason}); {remedy}") from error
    if checksum != _checksum(tree, tensors):
        raise UserError(f"checkpoint: {path} is damaged; {remedy}")
    content: dict[str, Any] = _with_tensors(tree, tensors)
    return content


def save_weights(
    path: Path, state: Mapping[str, torch.Tensor], about: Mapping[str, Any], *, temporary: Path
) -> None:
    """Write weights that ``carescale evaluate model.weights=...`` reads.

    Args:
        path: The file, ending in ``.safetensors``.
        state: State dict of the network without its normalisation.
        about: ``num_classes``, ``mean``, ``std`` and whatever else describes them; JSON.
        temporary: A folder on the same file system.

    Raises:
        StorageError: It cannot be written.
    """
    tensors = {name: _stored(tensor) for name, tensor in state.items()}
    _write(path, save(tensors, metadata={ENTRY: json.dumps(dict(about))}), temporary)


def read_about(path: Path) -> dict[str, Any]:
    """What ``save_weights`` noted beside the weights.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get(ENTRY, "{}"))
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it to train again") from error
    return about


def _write(path: Path, content: bytes, temporary: Path) -> None:
    try:
        write_atomically(path, content, temporary=temporary)
    except OSError as error:
        raise StorageError(
            f"output: {path} cannot be written ({error.strerror or error}); what was stored"
            " before is intact: make room, and run again with the same output"
        ) from error


def _without_tensors(value: Any, tensors: dict[str, torch.Tensor], name: str) -> Any:
    """JSON in which a name stands for each tensor."""
    if isinstance(value, torch.Tensor):
        tensors[name] = _stored(value)
        return {_TENSOR: name}
    if isinstance(value, dict):
        items = [(k, _without_tensors(v, tensors, f"{name}/{k}")) for k, v in value.items()]
        # JSON has no other keys than strings; an optimiser's state has numbers
        return dict(items) if all(isinstance(k, str) for k in value) else {_ITEMS: items}
    if isinstance(value, (list, tuple)):
        inner = [_without_tensors(v, tensors, f"{name}/{i}") for i, v in enumerate(value)]
        return inner if isinstance(value, list) else {_TUPLE: inner}
    return value


def _with_tensors(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_with_tensors(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    if _TUPLE in value:
        return tuple(_with_tensors(value[_TUPLE], tensors))
    if _ITEMS in value:
        return {key: _with_tensors(item, tensors) for key, item in value[_ITEMS]}
    return {key: _with_tensors(item, tensors) for key, item in value.items()}


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU and with memory of its own, as safetensors wants it."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _checksum(tree: Any, tensors: Mapping[str, torch.Tensor]) -> str:
    # through JSON, as it comes back: tuples inside of it are lists then
    parts = [json.dumps(json.loads(json.dumps(tree)), sort_keys=True).encode()]
    for name in sorted(tensors):
        tensor = tensors[name]
        parts.append(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest(b"".join(parts))
