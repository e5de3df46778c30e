"""Data: images in [0, 1] with labels, from several sources, as NumPy arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foolbox_carescale.evaluate.config import DataConfig
from foolbox_carescale.evaluate.digits import digits
from foolbox_carescale.evaluate.errors import UserError, nearest

FOOLBOX_SETS = {"imagenet": 1000, "cifar10": 10, "cifar100": 100, "mnist": 10, "fashionMNIST": 10}
"""Foolbox's sample sets and their numbers of classes."""

FOOLBOX_SAMPLES = 20
"""Images in each of them."""

ROUNDING = 1e-5
"""How far pixels may lie outside [0, 1]; they are clipped. Twenty steps of float32 at 1 are
2.4e-6, what a resize or a normalisation to and fro leaves."""

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Data:
    """Samples of a data set.

    Attributes:
        name: Of the data set.
        images: Shape (N, C, H, W), in [0, 1].
        labels: Shape (N,).
        index: Shape (N,): each sample's place in the data set.
        num_classes: Of the data set, not only of these samples.
    """

    name: str
    images: Images
    labels: Labels
    index: Labels
    num_classes: int

    def __len__(self) -> int:
        return len(self.labels)


def load_data(config: DataConfig, samples: int | None = None) -> Data:
    """At most ``samples`` samples of a data set, drawn without replacement.

    Raises:
        UserError: The data cannot be had, or are not in [0, 1].
    """
    name = config._target_ or config.name
    if config._target_ is not None:
        source = _from_target(config)
    elif config.name == "digits":
        images, labels, index = digits("test")
        source = _Source(len(labels), lambda i: (images[i], int(labels[i])), 10, index)
    elif config.name.startswith("foolbox/"):
        source = _from_foolbox(config)
    elif config.name == "folder":
        source = _from_folder(config)
    else:
        source = _from_torchvision(config)
    return _collect(name, source, config, samples)


@dataclass(frozen=True)
class _Source:
    """Something to draw samples from; ``index`` where the place is not the number."""

    length: int
    get: Callable[[int], tuple[Any, int]]
    num_classes: int
    index: Labels | None = None


def _collect(name: str, source: _Source, config: DataConfig, samples: int | None) -> Data:
    if source.length == 0:
        raise UserError(f"data: {name} is empty")
    chosen = np.arange(source.length)
    if samples is not None and samples < source.length:
        drawn = np.random.default_rng(config.seed).permutation(source.length)[:samples]
        chosen = np.sort(drawn)
    images, labels = [], []
    for i in chosen.tolist():
        image, label = source.get(i)
        images.append(_as_array(image, config.size))
        labels.append(int(label))
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise UserError(
            f"data.size: is null, but images differ in size ({shapes[0]}, {shapes[-1]});"
            " give one, e.g. data.size=224"
        )
    stacked = np.stack(images)
    low, high = float(stacked.min()), float(stacked.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise UserError(
            f"data: pixels of {name} span [{low:.4g}, {high:.4g}], outside the bounds [0, 1];"
            " scale them to [0, 1] and leave normalisation to model.mean and model.std"
        )
    target = np.asarray(labels, dtype=np.int64)
    if target.min() < 0:
        raise UserError(f"data: {name} has the label {target.min()}; labels count from 0")
    places = chosen if source.index is None else source.index[chosen]
    return Data(
        name,
        np.clip(stacked, 0, 1),
        target,
        places.astype(np.int64),
        max(source.num_classes, int(target.max()) + 1),
    )


def _as_array(image: Any, size: int | None) -> Images:
    """Channels first, float32; PIL images become RGB in [0, 1], arrays keep their values."""
    if hasattr(image, "convert"):
        pixels: Images = np.asarray(image.convert("RGB"), dtype=np.float32)
        array: Images = np.moveaxis(pixels, -1, 0) / np.float32(255)
    else:
        array = np.asarray(image, dtype=np.float32)
    if array.ndim == 3 and size is not None:
        import torch
        from torchvision.transforms.v2 import functional

        resized = functional.resize(torch.from_numpy(np.ascontiguousarray(array)), [size])
        array = functional.center_crop(resized, [size, size]).numpy()
    return array


def _from_foolbox(config: DataConfig) -> _Source:
    """Foolbox's own samples; read from its files, because its reader gives one size only."""
    import foolbox
    from PIL import Image

    name = config.name.partition("/")[2]
    if name not in FOOLBOX_SETS:
        valid = nearest(config.name, [f"foolbox/{key}" for key in FOOLBOX_SETS])
        raise UserError(f"data.name: Foolbox has no samples {name!r}; {valid}")
    folder = Path(foolbox.__file__).parent / "data"
    files = [next(folder.glob(f"{name}_{i:02d}_*")) for i in range(FOOLBOX_SAMPLES)]

    def get(i: int) -> tuple[Any, int]:
        with Image.open(files[i]) as image:
            pixels = image.convert("RGB")
        if name == "imagenet" and config.size is None:
            pixels = pixels.resize((224, 224))  # as foolbox.samples does
        return pixels, int(files[i].stem.rpartition("_")[2])

    return _Source(FOOLBOX_SAMPLES, get, FOOLBOX_SETS[name])


def _from_folder(config: DataConfig) -> _Source:
    from torchvision.datasets import ImageFolder

    if config.root is None:
        raise UserError("data.root: is missing; data.name=folder needs a directory")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise UserError(f"data.root: there is no directory {str(root)!r}")
    try:
        folder = ImageFolder(str(root), **config.params)
    except FileNotFoundError as error:
        raise UserError(
            f"data.root: {str(root)!r} does not hold one directory of images per class ({error})"
        ) from error
    return _Source(len(folder), folder.__getitem__, len(folder.classes))


def _from_torchvision(config: DataConfig) -> _Source:
    from torchvision import datasets

    names = [n for n in datasets.__all__ if n not in ("ImageFolder", "DatasetFolder")]
    if config.name not in names:
        own = ["digits", "folder", *(f"foolbox/{key}" for key in FOOLBOX_SETS)]
        raise UserError(
            f"data.name: there is no data set {config.name!r}; {nearest(config.name, own + names)}"
        )
    constructor = getattr(datasets, config.name)
    accepted = inspect.signature(constructor).parameters
    params = dict(config.params)
    for key in params:
        if key not in accepted:
            raise UserError(
                f"data.params.{key}: {config.name} has no such argument; {nearest(key, accepted)}"
            )
    if "root" in accepted and accepted["root"].default is inspect.Parameter.empty:
        if config.root is None:
            raise UserError(f"data.root: is missing; {config.name} needs a directory")
        params["root"] = str(Path(config.root).expanduser())
    # never evaluate on training samples because nobody said otherwise
    if "train" in accepted:
        params.setdefault("train", False)
    elif "split" in accepted:
        params.setdefault("split", "val" if config.name == "ImageNet" else "test")
    try:
        made = constructor(**params)
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise UserError(
            f"data.name: torchvision cannot open {config.name}: {error}"
            " (data.params.download=true downloads it, where the data set allows)"
        ) from error
    return _Source(len(made), made.__getitem__, len(getattr(made, "classes", ())))


def _from_target(config: DataConfig) -> _Source:
    from foolbox_carescale.evaluate.models import call_target

    assert config._target_ is not None
    made = call_target("data", config._target_, config.params)
    if isinstance(made, tuple) and len(made) == 2 and len(made[0]) == len(made[1]):
        images, labels = made
        return _Source(len(labels), lambda i: (images[i], int(labels[i])), 0)
    if isinstance(made, Sequence) or (hasattr(made, "__getitem__") and hasattr(made, "__len__")):
        return _Source(len(made), made.__getitem__, len(getattr(made, "classes", ())))
    raise UserError(
        f"data._target_: {config._target_} returned {type(made).__name__};"
        " return (images, labels) or a data set of (image, label) pairs"
    )
