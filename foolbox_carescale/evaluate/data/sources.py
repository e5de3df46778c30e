"""The data sets that a config can name: bundled ones, folders, torchvision's, a user's own."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..config.types import DataConfig
from ..config.validation import expand_path
from ..errors import UserError, nearest
from ..models.targets import call_target, check_params
from .dataset import Batch, Data, Labels, Source
from .decoding import image_and_label, in_full_depth, open_image
from .digits import digits

FOOLBOX_SETS = {"imagenet": 1000, "cifar10": 10, "cifar100": 100, "mnist": 10, "fashionMNIST": 10}
"""Foolbox's sample sets and their numbers of classes."""

FOOLBOX_SAMPLES = 20
"""Images in each of them."""

Split = Literal["train", "test"]


def open_data(config: DataConfig, samples: int | None = None) -> Data:
    """Return at most ``samples`` samples of a data set, drawn without replacement, undecoded.

    The same arguments give the same samples, in every process.

    Raises:
        UserError: The data cannot be had.
    """
    return open_source(config).choose(config, samples)


def load_data(config: DataConfig, samples: int | None = None) -> Batch:
    """Return what ``open_data`` does, all decoded into one batch.

    Raises:
        UserError: The data cannot be had, or are not in [0, 1].
    """
    return open_source(config).read(config, samples)


def open_source(config: DataConfig, split: Split = "test") -> Source:
    """Return the data set that a config names.

    Args:
        config: Which data.
        split: Of the bundled digits, and of torchvision's data sets where ``data.params`` does
            not say another; a folder and data of one's own have no splits.

    Raises:
        UserError: It cannot be had.
    """
    if config._target_ is not None:
        return _from_target(config)
    if config.name == "digits":
        images, labels, index = digits(split)
        get = lambda i: (images[i], labels[i])  # noqa: E731
        return Source("digits", len(labels), get, 10, index=index, labels=labels)
    if config.name.startswith("foolbox/"):
        if split == "train":
            raise UserError(
                f"data.name: {config.name} has only {FOOLBOX_SAMPLES} images, for evaluation;"
                " train on digits, folder or one of torchvision's data sets"
            )
        return _from_foolbox(config)
    if config.name == "folder":
        from .folders import open_folder

        return _data_set("folder", open_folder(config), threads=True)
    if config.name == "webdataset":
        from .tars import open_tars

        return open_tars(config)
    if config.name.startswith("hf/"):
        from .huggingface import open_hugging_face

        return open_hugging_face(config, split)
    return _from_torchvision(config, split)


def _from_foolbox(config: DataConfig) -> Source:
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
            return image.convert("RGB"), labels[i]

    labels = [int(file.stem.rpartition("_")[2]) for file in files]
    return Source(
        config.name,
        FOOLBOX_SAMPLES,
        get,
        FOOLBOX_SETS[name],
        labels=labels,
        squashed=224 if name == "imagenet" else None,  # as foolbox.samples does
        threads=True,
    )


def _from_torchvision(config: DataConfig, split: Split) -> Source:
    from torchvision import datasets

    names = [n for n in datasets.__all__ if n not in _NOT_BY_NAME]
    if config.name not in names:
        own = ["digits", "folder", "webdataset", *(f"foolbox/{key}" for key in FOOLBOX_SETS)]
        raise UserError(
            f"data.name: there is no data set {config.name!r}; {nearest(config.name, own + names)}"
        )
    constructor = getattr(datasets, config.name)
    accepted = inspect.signature(constructor).parameters
    params = dict(config.params)
    check_params(config.name, params, accepted)
    if "loader" in accepted:
        params.setdefault("loader", open_image)
    if "root" in accepted and accepted["root"].default is inspect.Parameter.empty:
        if not config.root:
            raise UserError(f"data.root: is missing; {config.name} needs a directory")
        params["root"] = str(expand_path(config.root))
    # never evaluate on training samples because nobody said otherwise
    if "train" in accepted:
        params.setdefault("train", split == "train")
    elif "split" in accepted:
        held_out = "val" if config.name == "ImageNet" else "test"
        params.setdefault("split", held_out if split == "test" else "train")
    try:
        made = constructor(**params)
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise UserError(
            f"data.name: torchvision cannot open {config.name}: {error}"
            " (data.params.download=true downloads it, where the data set allows)"
        ) from error
    return _data_set(config.name, made, threads=config.name != "FakeData")  # which draws numbers


_NOT_BY_NAME = ("DatasetFolder", "ImageFolder", "LSUN", "VisionDataset")
"""LSUN unpickles a file that it does not check; the others are no data sets by themselves."""


def _data_set(name: str, made: Any, *, threads: bool = False) -> Source:
    """Return a map-style data set in PyTorch's manner."""
    class_names = getattr(made, "classes", ())
    return Source(
        name,
        len(made),
        in_full_depth(made),
        len(class_names),
        labels=_labels(made),
        class_names=class_names,
        threads=threads,
    )


def _labels(made: Any) -> Labels | None:
    """Return the labels that a data set holds beside its images, if they are those it gives."""
    if any(getattr(made, key, None) is not None for key in ("target_transform", "transforms")):
        return None
    for key in ("targets", "labels", "_labels"):  # what torchvision's data sets call them
        found: Any = getattr(made, key, None)
        if hasattr(found, "__len__") and len(found) == len(made):
            with contextlib.suppress(ValueError, TypeError):  # lists of several lengths
                labels = np.asarray(found)
                return labels if labels.ndim == 1 and labels.dtype.kind in "iu" else None
    return None


def _from_target(config: DataConfig) -> Source:
    name = str(config._target_)
    made, _ = call_target("data", config, inert=("name", "root"), both=("size", "seed"))
    whole = isinstance(made, Mapping) or (isinstance(made, tuple) and len(made) == 2)
    if whole and (arrays := _arrays(made)):
        images, labels = arrays
        if len(images) != len(labels):
            raise UserError(
                f"data._target_: {name} returned {len(images)} images and {len(labels)} labels;"
                " return one label per image"
            )
        return Source(name, len(labels), lambda i: (images[i], labels[i]), labels=labels)
    if hasattr(made, "__getitem__") and hasattr(made, "__len__") and not isinstance(made, str):
        return _data_set(name, made)
    raise UserError(
        f"data._target_: {name} returned {type(made).__name__};"
        " return (images, labels) or a data set of (image, label) pairs"
    )


def _arrays(made: Any) -> tuple[Any, Any] | None:
    """Return images and labels of a pair or a mapping of two columns; None for two samples."""
    images, labels = image_and_label("what data._target_ returned", made)
    sized = all(hasattr(column, "__len__") for column in (images, labels))
    return (images, labels) if sized and not isinstance(images, tuple) else None
