"""Data: images in [0, 1] with labels, from several sources, as NumPy arrays."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..config.types import DataConfig
from ..config.validation import expand_path
from ..errors import UserError, describe, nearest
from ..models.targets import call_target, check_params
from ..store.checksums import IntegrityError, read_file
from .decoding import Images, as_array, as_label, image_and_label, in_full_depth, open_image
from .digits import digits

FOOLBOX_SETS = {"imagenet": 1000, "cifar10": 10, "cifar100": 100, "mnist": 10, "fashionMNIST": 10}
"""Foolbox's sample sets and their numbers of classes."""

FOOLBOX_SAMPLES = 20
"""Images in each of them."""

MOST_INDEX = 2**26
"""Bytes of a file of samples."""

ROUNDING = 1e-5
"""How far pixels may lie outside [0, 1]; they are clipped. Twenty steps of float32 at 1 are
2.4e-6, what a resize or a normalisation to and fro leaves."""

Labels = npt.NDArray[np.int64]
Split = Literal["train", "test"]


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

    @functools.cached_property
    def hashes(self) -> list[str]:
        """Return BLAKE2b, 16 bytes in hexadecimal, of each image's float32 pixels in C order."""
        pixels = (np.ascontiguousarray(image, "<f4").tobytes() for image in self.images)
        return [hashlib.blake2b(one, digest_size=16).hexdigest() for one in pixels]


def load_data(config: DataConfig, samples: int | None = None) -> Data:
    """At most ``samples`` samples of a data set, drawn without replacement.

    Raises:
        UserError: The data cannot be had, or are not in [0, 1].
    """
    return open_source(config).read(config, samples)


@dataclass(frozen=True)
class Source:
    """A data set, of which nothing is decoded before samples are asked for.

    Attributes:
        name: Of the data set.
        length: Its number of samples.
        get: The image (PIL, array or tensor) and the label of a sample.
        num_classes: 0 where nobody knows before the labels are read.
        index: Each sample's place in the data set; None where it is its number.
        labels: Where they are known without decoding images.
        class_names: By label.
        squashed: Height and width of images, whatever their shape, where no size is asked for.
    """

    name: str
    length: int
    get: Callable[[int], tuple[Any, Any]]
    num_classes: int = 0
    index: Labels | None = None
    labels: Sequence[Any] | Labels | None = None
    class_names: Sequence[Any] = ()
    squashed: int | None = None

    def sample(self, i: int) -> tuple[Any, int]:
        """Return the image and the label of a sample.

        Raises:
            UserError: It cannot be read, or is no pair of an image and an integral label.
        """
        try:
            sample = self.get(i)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"data: sample {i} of {self.name} cannot be read ({describe(error)})"
            ) from error
        image, label = image_and_label(f"sample {i} of {self.name}", sample)
        return image, as_label(self.name, label)

    def read(self, config: DataConfig, samples: int | None) -> Data:
        """Decode the samples that a config asks for, each once; memory holds these only."""
        if self.length == 0:
            raise UserError(f"data: {self.name} is empty")
        places = np.arange(self.length) if self.index is None else self.index
        chosen = _choose(self, places, config, samples)
        images, labels = np.empty(0, np.float32), np.empty(len(chosen), np.int64)
        for row, i in enumerate(chosen.tolist()):
            image, labels[row] = self.sample(i)
            if self.squashed is not None and config.size is None:
                image = image.resize((self.squashed, self.squashed))
            array = as_array(f"sample {i} of {self.name}", image, config)
            if row == 0:
                images = np.empty((len(chosen), *array.shape), np.float32)
            if array.shape != images.shape[1:]:
                raise UserError(
                    "data.size: is null, but images differ in size"
                    f" ({images.shape[1:]}, {array.shape}); give one, e.g. data.size=224"
                )
            images[row] = array
        low, high = float(images.min()), float(images.max())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise UserError(
                f"data: pixels of {self.name} span [{low:.4g}, {high:.4g}], outside the bounds"
                " [0, 1]; scale them to [0, 1] and leave normalisation to model.mean and model.std"
            )
        if labels.min() < 0:
            raise UserError(f"data: {self.name} has the label {labels.min()}; labels count from 0")
        classes = max(self.num_classes, int(labels.max()) + 1)
        np.clip(images, 0, 1, out=images)
        return Data(self.name, images, labels, places[chosen].astype(np.int64), classes)


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

        return _data_set("folder", open_folder(config))
    return _from_torchvision(config, split)


def _choose(source: Source, places: Labels, config: DataConfig, samples: int | None) -> Labels:
    """Numbers of the samples that a config asks for."""
    chosen: Labels = np.arange(source.length)
    if config.index is not None:
        numbers = {place: number for number, place in enumerate(places.tolist())}
        asked = _read_index(expand_path(config.index))
        if unknown := [place for place in asked if place not in numbers]:
            raise UserError(f"data.index: {source.name} has no sample {unknown[0]}")
        chosen = np.array([numbers[place] for place in asked])
    if config.classes is not None:
        wanted = [_class_number(source, value) for value in config.classes]
        if source.labels is not None:
            known = [source.labels[i] for i in chosen.tolist()]
            labels = np.array([as_label(source.name, label) for label in known])
        else:
            labels = np.array([source.sample(i)[1] for i in chosen.tolist()])
        picked = np.isin(labels, wanted)
        if not picked.any():
            raise UserError(f"data.classes: {source.name} has no sample of {config.classes}")
        chosen = chosen[picked]
    if samples is not None and samples < len(chosen):
        drawn = np.random.default_rng(config.seed).permutation(len(chosen))[:samples]
        chosen = chosen[np.sort(drawn)]
    return chosen


def _read_index(path: Path) -> list[int]:
    try:
        lines = read_file(path, MOST_INDEX).decode().split("\n")
    except (OSError, IntegrityError, UnicodeDecodeError) as error:
        raise UserError(f"data.index: {str(path)!r} cannot be read ({error})") from error
    asked: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not (text := line.partition("#")[0].strip()):
            continue
        if not re.fullmatch(r"\d{1,18}", text):
            raise UserError(
                f"data.index: line {number} of {path} is {text[:40]!r};"
                " write one sample's number per line"
            )
        asked.append(int(text))
    if not asked or len(set(asked)) < len(asked):
        what = "names a sample twice" if asked else "names no sample"
        raise UserError(f"data.index: {path} {what}")
    return asked


def _class_number(source: Source, value: int | str) -> int:
    names = {
        str(name): number
        for number, same in enumerate(source.class_names)
        for name in (same if isinstance(same, (tuple, list)) else [same])  # ImageNet's synonyms
    }
    if str(value) in names:
        return names[str(value)]
    known = source.num_classes or np.inf
    if re.fullmatch(r"\d{1,18}", str(value)) and int(value) < known:
        return int(value)
    valid = nearest(str(value), names) if names else f"give numbers below {source.num_classes}"
    raise UserError(f"data.classes: {source.name} has no class {value!r}; {valid}")


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
    )


def _from_torchvision(config: DataConfig, split: Split) -> Source:
    from torchvision import datasets

    names = [n for n in datasets.__all__ if n not in _NOT_BY_NAME]
    if config.name not in names:
        own = ["digits", "folder", *(f"foolbox/{key}" for key in FOOLBOX_SETS)]
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
    return _data_set(config.name, made)


_NOT_BY_NAME = ("DatasetFolder", "ImageFolder", "LSUN", "VisionDataset")
"""LSUN unpickles a file that it does not check; the others are no data sets by themselves."""


def _data_set(name: str, made: Any) -> Source:
    """Return a map-style data set in PyTorch's manner."""
    class_names = getattr(made, "classes", ())
    # what torchvision's data sets call their labels
    known = (getattr(made, key, None) for key in ("targets", "labels", "_labels"))
    sized: list[Any] = [one for one in known if hasattr(one, "__len__")]
    labels = next((one for one in sized if len(one) == len(made)), None)
    if labels is not None and np.ndim(labels) != 1:
        labels = None
    return Source(
        name,
        len(made),
        in_full_depth(made),
        len(class_names),
        labels=labels,
        class_names=class_names,
    )


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
