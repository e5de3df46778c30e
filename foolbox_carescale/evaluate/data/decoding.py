"""One sample: from what a data set returns to an array in [0, 1] and a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..config.types import DataConfig
from ..errors import SampleError, UserError, describe

Images = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.float32 | np.uint8]

IMAGE_KEYS = ("image", "images", "img", "pixel_values")
LABEL_KEYS = ("label", "labels", "fine_label", "target")
"""Where samples that are mappings hold the image and the label, as in Hugging Face's data sets."""


def image_and_label(where: str, sample: Any) -> tuple[Any, Any]:
    """Return the first two items of a tuple, or the image and the label of a mapping."""
    if isinstance(sample, Mapping):
        keys = [[key for key in of if key in sample] for of in (IMAGE_KEYS, LABEL_KEYS)]
        if all(len(found) == 1 for found in keys):
            return sample[keys[0][0]], sample[keys[1][0]]
        said = f"has the keys {', '.join(map(repr, list(sample)[:8]))}; name them image and label"
    elif isinstance(sample, (tuple, list)) and len(sample) >= 2:
        return sample[0], sample[1]
    else:
        said = f"is {type(sample).__name__}; return (image, label)"
    raise UserError(f"data: {where} {said}")


def as_label(name: str, label: Any) -> int:
    """Return a label as an integer; raise a UserError where it is none."""
    try:
        value = label.item() if hasattr(label, "item") else label
        number = int(value)
        if number == float(value):
            return number
        said = f"has the label {value!r}, which is no class; give integers that count from 0"
    except (TypeError, ValueError, OverflowError, RuntimeError):
        said = (
            f"has no class per image, but {type(label).__name__} ({str(label)[:40]!r});"
            " take a data set for classification, with one integer per image"
        )
    raise UserError(f"data: {name} {said}")


def as_pixels(where: str, image: Any, config: DataConfig) -> Pixels:
    """Return an image, channels first; PIL images become RGB, arrays keep their values.

    Images of 8 bits stay uint8, which ``scaled`` takes to [0, 1]; others are float32.
    """
    if hasattr(image, "convert") and not _is_deep(image):
        pixels = np.asarray(_fit(image.convert("RGB"), config))
        return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    array = _deep_rgb(image) if hasattr(image, "convert") else _plain_array(where, image)
    if config.size is None or array.ndim != 3:
        return array
    import torch

    fitted: Images = _fit(torch.from_numpy(array), config).numpy()
    return fitted.clip(array.min(), array.max())  # bicubic interpolation of floats overshoots


def scaled(pixels: Pixels) -> Images:
    """Return float32; 8 bits are divided by 255."""
    if pixels.dtype == np.uint8:
        pixels = np.divide(pixels, np.float32(255), dtype=np.float32)
    return pixels.astype(np.float32, copy=False)


def scaled_on(device: Any, pixels: Pixels) -> Any:
    """Return what ``scaled`` does, bit by bit, on a device, to which the 8 bits are copied."""
    import torch

    there = torch.from_numpy(pixels)
    if device.type == "cuda":
        there = there.pin_memory().to(device, non_blocking=True)
    # by a tensor: PyTorch on a GPU takes a number for its rounded reciprocal
    return there.float() / torch.tensor(255.0, device=device)


def _plain_array(where: str, image: Any) -> Images:
    try:
        if hasattr(image, "detach"):  # NumPy takes no tensor with a gradient, and no bfloat16
            image = image.detach().cpu().float()
        if not np.ndim(image):
            raise TypeError("a single value")  # NumPy makes a pixel of None and of texts
        array: Images = np.ascontiguousarray(image, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"data: {where} holds {type(image).__name__}, which is no image ({describe(error)});"
            " return (image, label) with a PIL image, an array or a tensor"
        ) from error
    return array


def _is_deep(image: Any) -> bool:
    """Return whether Pillow would cut a grey image's values to 8 bits in place of scaling them."""
    return str(image.mode).startswith(("I", "F"))


def _deep_rgb(image: Any) -> Images:
    """Return a grey image of 16 bits, scaled to [0, 1], or of floats in [0, 1] as RGB."""
    grey = np.asarray(image).astype(np.float32)
    if image.mode != "F":
        grey /= np.float32(65535)
    known = image.mode != "I" or image.format in ("PNG", "PPM")  # of no more than 16 bits
    if not known or not 0 <= grey.min() <= grey.max() <= 1:
        raise SampleError(
            f"data: {getattr(image, 'filename', None) or 'an image'} has 32 bits per pixel, whose"
            " scale is unknown; save it with 8 or 16 bits, or as floats in [0, 1]"
        )
    return np.repeat(grey[None], 3, axis=0)


def _fit(image: Any, config: DataConfig) -> Any:
    """Resize and crop as torchvision's presets do: an 8-bit image stays one."""
    if config.size is None:
        return image
    from torchvision.transforms import InterpolationMode, functional

    mode = InterpolationMode(config.interpolation or "bilinear")
    sides = config.resize or config.size
    resized = functional.resize(image, sides if isinstance(sides, list) else [sides], mode)
    return functional.center_crop(resized, [config.size, config.size])


def open_image(path: str) -> Any:
    """Return a decoded image; what cannot be decoded is named."""
    if Path(path).is_file():  # a pipe would be waited for
        return decode_image(repr(path), path, empty=not Path(path).stat().st_size)
    said = "it is no file" if Path(path).exists() else "there is no such file"
    raise SampleError(f"data: {path!r} cannot be read as an image ({said}); repair or remove it")


def decode_image(where: str, file: str | BinaryIO, *, empty: bool = False) -> Any:
    """Return an image as Pillow reads it from a file, as RGB unless it has more than 8 bits."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
            return image if _is_deep(image) else image.convert("RGB")
    except Exception as error:  # a damaged image may raise anything
        said = "it is empty" if empty else describe(error)
        raise SampleError(
            f"data: {where} cannot be read as an image ({said}); repair or remove it"
        ) from error


def in_full_depth(data_set: Any) -> Callable[[int], Any]:
    """Return how samples of a data set are read, also where torchvision cuts 16 bits to 8."""
    if not type(data_set).__module__.startswith("torchvision."):
        get: Callable[[int], Any] = data_set.__getitem__
        return get
    from PIL import Image

    # each class has a name of its own for its list of paths, or of tuples that begin with one
    lists = [v for v in vars(data_set).values() if isinstance(v, list) and len(v) == len(data_set)]

    def read(i: int) -> Any:
        image, *rest = data_set[i]
        items = (one[i][0] if isinstance(one[i], tuple) else one[i] for one in lists)
        paths = (Path(item) for item in items if isinstance(item, (str, Path)))
        path = next((path for path in paths if path.is_file()), None)  # others: names of classes
        cut = hasattr(image, "convert") and not _is_deep(image)
        if cut and path is not None and getattr(data_set, "transform", None) is None:
            with Image.open(path) as header:
                deep = _is_deep(header)
            image = open_image(str(path)) if deep else image
        return image, *rest

    return read
