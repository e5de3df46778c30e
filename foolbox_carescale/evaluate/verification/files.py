"""Images and labels as people send them: npy, npz, pt, safetensors, folders of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config.types import DataConfig
from ..config.validation import expand_path
from ..data.decoding import as_pixels, open_image, scaled
from ..data.folders import ENDINGS
from ..errors import UserError, describe, nearest

Array = npt.NDArray[Any]

KINDS = (".npy", ".npz", ".pt", ".pth", ".safetensors")

NAMES = {
    "clean": ("clean", "x", "x_orig", "x_clean", "images", "inputs", "natural"),
    "adversarial": ("adversarial", "adv", "x_adv", "advs", "adv_images", "adv_inputs"),
    "labels": ("labels", "label", "y", "y_orig", "targets"),
}
"""Names of arrays in a file of several, that are taken for what an option asks for."""


def read_array(path: str, option: str) -> Array:
    """Return the array of a file; ``file.npz:name`` takes one of several.

    Args:
        path: A file of ``KINDS``, or a folder of pictures.
        option: One of ``NAMES``: whose array it is.

    Raises:
        UserError: It cannot be read without running code, or holds no such array.
    """
    where, key = expand_path(path), ""
    if not where.exists() and ":" in path:
        name, _, key = path.rpartition(":")
        where = expand_path(name)
    if where.is_dir():
        return _pictures(where, option)
    if not where.is_file():
        raise UserError(f"--{option}: there is no file or folder {path!r}")
    if where.suffix not in KINDS:
        raise UserError(
            f"--{option}: {str(where)!r} is none of {', '.join(KINDS)}, nor a folder of pictures"
        )
    try:
        held = _read(where)
    except Exception as error:  # of damaged files, anything
        raise UserError(
            f"--{option}: {str(where)!r} cannot be read ({describe(error)}); what could run code is"
            " refused: save plain arrays or tensors"
        ) from error
    return _array(_chosen(held, key, option, where), option, where)


def _read(path: Path) -> Any:
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _chosen(held: Any, key: str, option: str, path: Path) -> Any:
    """Return the array among several that is named, or that is called like the option."""
    if isinstance(held, (tuple, list)):
        held = {str(number): value for number, value in enumerate(held)}
    if not isinstance(held, Mapping):
        if key:
            raise UserError(f"--{option}: {path} holds one array; leave out :{key}")
        return held
    if key:
        if key not in held:
            raise UserError(f"--{option}: {path} has no array {key!r}; {nearest(key, held)}")
        return held[key]
    found = [name for name in NAMES[option] if name in held]
    if len(held) == 1 or len(found) == 1:
        return held[found[0]] if found else next(iter(held.values()))
    raise UserError(
        f"--{option}: {path} holds {', '.join(map(repr, list(held)[:8]))}; name one, as in"
        f" {path.name}:{next(iter(held))}"
    )


def _array(value: Any, option: str, path: Path) -> Array:
    if hasattr(value, "detach"):  # NumPy has no bfloat16
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    array: Array = np.asanyarray(value)
    if array.dtype.kind not in "fiub":
        raise UserError(f"--{option}: {path} holds {array.dtype}, not numbers")
    return array


def _pictures(folder: Path, option: str) -> Array:
    """Return the pictures of a folder in the order of their names, channels first."""
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()
    )
    if not paths:
        raise UserError(f"--{option}: {str(folder)!r} holds no pictures ({', '.join(ENDINGS)})")
    arrays = [scaled(as_pixels(str(path), open_image(str(path)), DataConfig())) for path in paths]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise UserError(
            f"--{option}: pictures in {str(folder)!r} differ in size ({sorted(shapes)[:3]});"
            " compare those of one size"
        )
    return np.stack(arrays)
