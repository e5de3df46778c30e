"""Checkpoints and weights: one file each, which is there in full or not at all."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..evaluate.errors import StorageError, UserError
from ..evaluate.store.checksums import IntegrityError, digest, read_file, write_atomically
from ..evaluate.store.folder import MOST_IMAGES

ENTRY = "carescale"
"""The key of the metadata: one only, because safetensors writes several in random order."""

_DIGITS = 64
"""Length of the digest that follows what ``torch.save`` writes, whose own checksums
``torch.load`` does not compare."""


def save_checkpoint(path: Path, content: Mapping[str, Any], *, temporary: Path) -> None:
    """Write state dicts and plain values with ``torch.save``, followed by a digest.

    Args:
        path: The file.
        content: What ``torch.load(weights_only=True)`` accepts.
        temporary: A folder on the same file system.

    Raises:
        StorageError: It cannot be written; a file that was there before is intact.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    written = buffer.getvalue()
    _write(path, written + digest(written).encode(), temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return what ``save_checkpoint`` has written, tensors on the CPU.

    Raises:
        UserError: The file is no checkpoint, or a byte differs from what was written.
    """
    remedy = "remove it to train from the beginning"
    try:
        stored = read_file(path, MOST_IMAGES)
    except FileNotFoundError:
        raise UserError(f"checkpoint: there is no file {path}") from None
    except IntegrityError as error:
        raise UserError(f"checkpoint: {path}: {error}; {remedy}") from None
    written = stored[:-_DIGITS]
    if stored[-_DIGITS:] != digest(written).encode():
        raise UserError(f"checkpoint: {path} is damaged; {remedy}")
    try:
        content: dict[str, Any] = torch.load(
            io.BytesIO(written), map_location="cpu", weights_only=True
        )
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise UserError(
            f"checkpoint: {path} holds more than tensors and numbers; {remedy}"
        ) from error
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
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    _write(path, save(tensors, metadata={ENTRY: json.dumps(dict(about))}), temporary)


def read_about(path: Path) -> dict[str, Any]:
    """Return what ``save_weights`` noted beside the weights.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("it is not a file")
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get(ENTRY, "{}"))
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
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
