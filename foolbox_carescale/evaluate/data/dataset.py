"""A data set, the samples of it that a run takes, and batches of them, decoded on demand."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config.types import DataConfig
from ..config.validation import expand_path
from ..errors import EvaluationWarning, SampleError, UserError, describe, nearest, warn
from ..store.checksums import IntegrityError, read_file
from .decoding import Images, Pixels, as_label, as_pixels, image_and_label, scaled

Labels = npt.NDArray[np.int64]

MOST_INDEX = 2**26
"""Bytes of a file of samples."""

ROUNDING = 1e-5
"""How far pixels may lie outside [0, 1]; they are clipped. Twenty steps of float32 at 1 are
2.4e-6, what a resize or a normalisation to and fro leaves."""

KEPT = 2
"""Batches that stay in memory after they were read, and that are decoded ahead at most."""

MOST_WORKERS = 8
"""Threads that decode unless a config says otherwise: attacks take longer than eight cores need."""


@dataclass(frozen=True)
class Batch:
    """Decoded samples of a data set.

    Attributes:
        name: Of the data set.
        pixels: Shape (N, C, H, W); uint8 where all images are of 8 bits, otherwise as ``images``.
        labels: Shape (N,).
        index: Shape (N,): each sample's place in the data set.
        num_classes: Of the data set, as far as it and these labels tell.
        skipped: Why samples could not be read and are left out, by their places.
    """

    name: str
    pixels: Pixels
    labels: Labels
    index: Labels
    num_classes: int
    skipped: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def images(self) -> Images:
        """Return the pixels as float32 in [0, 1]."""
        return scaled(self.pixels)

    @functools.cached_property
    def hashes(self) -> list[str]:
        """Return BLAKE2b, 16 bytes in hexadecimal, of each image's float32 pixels in C order."""
        pixels = (np.ascontiguousarray(image, "<f4").tobytes() for image in self.images)
        return [hashlib.blake2b(one, digest_size=16).hexdigest() for one in pixels]


_Decoded = tuple[Pixels, int] | SampleError
"""Pixels and label of a sample, or why it is skipped."""


class Data:
    """The samples of a run: known by number, and decoded when a batch of them is asked for.

    Memory holds the numbers, the last ``KEPT`` batches and as many that are being decoded ahead.
    Each batch is checked as it is read. What is pickled is the data set and the numbers; another
    process may as well open its own, by ``open_data``.

    Threads decode, not processes: Pillow works without Python's lock, and there is nothing to
    copy, to start or to leave behind. They read only what may be read by several at once and
    draws no random numbers: those of an attack are this process's too.

    Attributes:
        name: Of the data set.
        index: Shape (N,): each sample's place in the data set.
        labels: Shape (N,), where they are known without decoding; None elsewhere. Those of a
            batch are what the samples themselves say.
        num_classes: Of the data set, not only of these samples; 0 where only its samples tell.
        class_names: By label; those of the model's weights where the data set has none.
    """

    def __init__(self, source: Source, config: DataConfig, chosen: Labels) -> None:
        """Take what is to be decoded, and how.

        Args:
            source: The data set.
            config: Says the size of the images.
            chosen: Numbers of the samples in the data set.
        """
        self._source, self._config, self._chosen = source, config, chosen
        self._shape: tuple[int, ...] | None = None
        self._kept: dict[tuple[int, ...], Batch] = {}
        self._coming: dict[tuple[int, ...], Iterator[_Decoded]] = {}
        self._pool: ThreadPoolExecutor | None = None
        usual = min(_cores(), MOST_WORKERS) if source.threads else 0
        self._workers = usual if config.workers is None else config.workers
        self.name = source.name
        self.index = chosen if source.index is None else source.index[chosen].astype(np.int64)
        self.labels = source.known_labels(chosen)
        highest = -1 if self.labels is None else int(self.labels.max())
        self.num_classes = max(source.num_classes, highest + 1)
        self.class_names = [_first(name) for name in source.class_names]

    def __len__(self) -> int:
        return len(self._chosen)

    def __reduce__(self) -> tuple[Any, ...]:
        return Data, (self._source, self._config, self._chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of an image, all of which have the same; decodes one at first."""
        for position in range(len(self)):
            if self._shape is not None:
                break
            try:
                self.batch([position])
            except SampleError:
                if self._config.on_error == "raise" or position == len(self) - 1:
                    raise
        assert self._shape is not None
        return self._shape

    def batch(self, positions: Sequence[int] | Labels) -> Batch:
        """Return some samples, decoded.

        Args:
            positions: Where they are among the samples of the run.

        Raises:
            SampleError: One cannot be read; where these are skipped, none can.
            UserError: One is not in [0, 1], has no class, or differs in size.
        """
        asked = tuple(np.asarray(positions).tolist())
        if asked not in self._kept:
            while len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            decoded = self._coming.pop(asked, None) or self._decode(asked)
            self._kept[asked] = self._checked(asked, decoded)
        return self._kept[asked]

    def prefetch(self, positions: Sequence[int] | Labels) -> None:
        """Begin to decode what ``batch`` will soon be asked for, where threads may do so."""
        asked = tuple(np.asarray(positions).tolist())
        if self._workers and asked not in self._kept and asked not in self._coming:
            while len(self._coming) >= KEPT:
                del self._coming[next(iter(self._coming))]
            self._coming[asked] = self._decode(asked)

    def close(self) -> None:
        """Stop to decode ahead, and end the threads; ``batch`` starts them again."""
        self._coming.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def count_classes(self) -> int:
        """Return the number of classes, for which each sample is decoded where nobody says it."""
        highest = (self._source.sample(i)[1] for i in self._chosen.tolist())
        return self.num_classes or max(highest) + 1

    def _decode(self, positions: tuple[int, ...]) -> Iterator[_Decoded]:
        """Return the pixels and the label of each sample, in time or as they are asked for."""
        numbers = self._chosen[list(positions)].tolist()
        if not self._workers:
            return map(self._sample, numbers)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="carescale-data")
        return self._pool.map(self._sample, numbers)

    def _sample(self, i: int) -> _Decoded:
        try:
            image, label = self._source.sample(i)
            side = self._source.squashed
            if side is not None and self._config.size is None:
                image = image.resize((side, side))
            return as_pixels(f"sample {i} of {self.name}", image, self._config), label
        except SampleError as error:
            if self._config.on_error == "raise":
                raise
            return error

    def _checked(self, positions: tuple[int, ...], decoded: Iterator[_Decoded]) -> Batch:
        read = list(zip(self.index[list(positions)].tolist(), decoded, strict=True))
        skipped = {place: str(one) for place, one in read if isinstance(one, SampleError)}
        if len(skipped) == len(read):
            first = next(iter(skipped.values()))
            raise SampleError(f"data: none of {len(read)} samples of a batch can be read; {first}")
        samples, found = zip(
            *(one for _, one in read if not isinstance(one, SampleError)), strict=True
        )
        labels = np.array(found, np.int64)
        index = np.array([place for place, _ in read if place not in skipped], np.int64)
        self._shape = self._shape or samples[0].shape
        if others := [one.shape for one in samples if one.shape != self._shape]:
            raise UserError(
                "data.size: is null, but images differ in size"
                f" ({self._shape}, {others[0]}); give one, e.g. data.size=224"
            )
        if labels.min() < 0:
            raise UserError(
                f"data: {self.name} has the label {labels.min()}; labels count from 0 (-1 often"
                " stands for one that is kept secret: take another split)"
            )
        classes = max(self.num_classes, int(labels.max()) + 1)
        same = all(one.dtype == np.uint8 for one in samples)
        pixels = np.stack(samples if same else [scaled(one) for one in samples])
        if not same:
            self._check_bounds(pixels)
            np.clip(pixels, 0, 1, out=pixels)
        return Batch(self.name, pixels, labels, index, classes, skipped)

    def _check_bounds(self, images: Pixels) -> None:
        low, high = float(images.min()), float(images.max())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise UserError(
                f"data: pixels of {self.name} span [{low:.4g}, {high:.4g}], outside the bounds"
                " [0, 1]; scale them to [0, 1] and leave normalisation to model.mean and model.std"
            )


def _first(name: Any) -> str:
    """Return a class's name, of several the first."""
    return str(name[0] if isinstance(name, (tuple, list)) and name else name)


def _cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


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
        threads: Whether several may decode at once, and ahead: ``get`` draws no random numbers,
            and it takes long enough.
    """

    name: str
    length: int
    get: Callable[[int], tuple[Any, Any]]
    num_classes: int = 0
    index: Labels | None = None
    labels: Sequence[Any] | Labels | None = None
    class_names: Sequence[Any] = ()
    squashed: int | None = None
    threads: bool = False

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
            raise SampleError(
                f"data: sample {i} of {self.name} cannot be read ({describe(error)})"
            ) from error
        image, label = image_and_label(f"sample {i} of {self.name}", sample)
        return image, as_label(self.name, label)

    def known_labels(self, numbers: Labels) -> Labels | None:
        """Return the labels of samples where they are known without decoding; else None."""
        if self.labels is None:
            return None
        if isinstance(self.labels, np.ndarray) and self.labels.dtype.kind in "iu":
            return self.labels[numbers].astype(np.int64)
        return np.array([as_label(self.name, self.labels[i]) for i in numbers.tolist()], np.int64)

    def choose(self, config: DataConfig, samples: int | None) -> Data:
        """Return the samples that a config asks for, at most as many; decodes none of them.

        Raises:
            UserError: There are none, or what chooses them cannot be used.
        """
        if self.length == 0:
            raise UserError(f"data: {self.name} is empty")
        return Data(self, config, _choose(self, config, samples))

    def read(self, config: DataConfig, samples: int | None) -> Batch:
        """Return the samples that a config asks for, all decoded, each once."""
        data = self.choose(config, samples)
        try:
            batch = data.batch(range(len(data)))
        finally:
            data.close()
        if batch.skipped:
            first = next(iter(batch.skipped.values()))
            left_out = f"{len(batch.skipped)} of {len(data)} samples are left out ({first})"
            warn(EvaluationWarning(left_out, "repair or remove them"), stacklevel=2)
        return batch


def _choose(source: Source, config: DataConfig, samples: int | None) -> Labels:
    """Return the numbers of the samples that a config asks for."""
    chosen: Labels = np.arange(source.length)
    if config.index is not None:
        places = chosen if source.index is None else source.index
        numbers = {place: number for number, place in enumerate(places.tolist())}
        asked = _read_index(expand_path(config.index))
        if unknown := [place for place in asked if place not in numbers]:
            raise UserError(f"data.index: {source.name} has no sample {unknown[0]}")
        chosen = np.array([numbers[place] for place in asked])
    if config.classes is not None:
        wanted = [_class_number(source, value) for value in config.classes]
        labels = source.known_labels(chosen)
        if labels is None:
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
    if re.fullmatch(r"\d{1,18}", str(value)):
        # YAML reads the name 002 as the number 2
        numbers = {int(name): k for name, k in names.items() if re.fullmatch(r"\d{1,18}", name)}
        if int(value) in numbers:
            return numbers[int(value)]
        if not numbers and int(value) < known:
            return int(value)
    valid = nearest(str(value), names) if names else f"give numbers below {source.num_classes}"
    raise UserError(f"data.classes: {source.name} has no class {value!r}; {valid}")
