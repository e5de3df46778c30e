"""Tar files of samples, as the library webdataset writes them, read in any order.

The files that differ in their endings only are one sample: an image, and its class as a number in
``.cls``. The library itself reads from the first to the last; here the headers are read once, and
then each image from where it is.
"""

from __future__ import annotations

import glob
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torchvision.datasets.folder import IMG_EXTENSIONS

from ..config.types import DataConfig
from ..config.validation import expand_path
from ..errors import UserError, describe
from ..models.targets import check_params
from .dataset import Labels, Source
from .decoding import as_label, decode_image

MOST_TARS = 2**20
"""Tar files that a pattern may name."""

_LONGEST_LABEL = 32


def open_tars(config: DataConfig) -> Source:
    """Return the samples of the tar files that ``data.root`` names.

    Raises:
        UserError: There are none, or what they hold cannot be used.
    """
    if not config.root:
        raise UserError("data.root: is missing; webdataset needs tar files, such as a/*.tar")
    check_params("webdataset", config.params, {})
    paths = [path for one in config.root.split("::") for path in _named(one)]
    tars = [_index(path) for path in paths]
    ends = np.cumsum([len(tar.labels) for tar in tars])
    labels = np.concatenate([tar.labels for tar in tars])

    def get(i: int) -> tuple[Any, int]:
        number = int(np.searchsorted(ends, i, side="right"))
        tar, row = tars[number], i - ends[number]  # from the end
        with paths[number].open("rb") as file:
            file.seek(tar.starts[row])
            content = file.read(tar.sizes[row])
        place = f"{tar.keys[row].decode()!r} in {str(paths[number])!r}"
        return decode_image(place, io.BytesIO(content), empty=not content), tar.labels[row]

    classes = int(labels.max(initial=-1)) + 1
    return Source("webdataset", len(labels), get, classes, labels=labels, threads=True)


@dataclass(frozen=True)
class _Index:
    """The samples of a tar file: where their images are, and what else is known of them."""

    keys: npt.NDArray[np.bytes_]
    starts: Labels
    sizes: Labels
    labels: Labels


def _index(path: Path) -> _Index:
    found = list(_samples(path))
    for key, _, _, label in found:
        if label is None:
            raise UserError(
                f"data: {key!r} in {str(path)!r} has no class; write it as a number in {key}.cls"
            )
    keys, starts, sizes, labels = zip(*found, strict=True) if found else ((), (), (), ())
    return _Index(
        np.array([key.encode() for key in keys], np.bytes_),
        np.array(starts, np.int64),
        np.array(sizes, np.int64),
        np.array([as_label(str(path), label) for label in labels], np.int64),
    )


def _named(pattern: str) -> list[Path]:
    """Return the files that a pattern names: ``*`` as in a shell, and ``{000..012}``."""
    found = []
    for one in _expanded(str(expand_path(pattern))):
        paths = sorted(glob.glob(f"{glob.escape(one)}/*.tar" if Path(one).is_dir() else one))
        missing = [path for path in paths or [one] if not Path(path).is_file()]
        if missing:
            raise UserError(f"data.root: there is no tar file {missing[0]!r}")
        found += [Path(path) for path in paths]
    return found


def _expanded(pattern: str) -> list[str]:
    patterns = [pattern]
    while braces := re.search(r"\{(\d+)\.\.(\d+)\}", patterns[0]):
        first, last = int(braces[1]), int(braces[2])
        if (last - first + 1) * len(patterns) > MOST_TARS:
            raise UserError(f"data.root: {pattern!r} names more than {MOST_TARS} tar files")
        patterns = [
            f"{one[: braces.start()]}{n:0{len(braces[1])}d}{one[braces.end() :]}"
            for one in patterns
            for n in range(first, last + 1)
        ]
        if not patterns:
            raise UserError(f"data.root: {pattern!r} counts down; write the lower number first")
    return patterns


def _samples(path: Path) -> Iterator[tuple[str, int, int, str | None]]:
    """Yield the name of each sample, where its image starts, its size, and its label."""
    name, image, label = "", None, None
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # which would hold them all
                if not member.isreg() or member.issparse():
                    continue
                folder, _, file = member.name.rpartition("/")
                stem, _, ending = file.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if not stem:  # hidden
                    continue
                if key != name:
                    if image is not None:
                        yield name, *image, label
                    name, image, label = key, None, None
                if f".{ending.lower()}" in IMG_EXTENSIONS:
                    if image is not None:
                        raise UserError(
                            f"data: {key!r} in {str(path)!r} has several images; leave one of them"
                            f" (the last is .{ending})"
                        )
                    image = member.offset_data, member.size
                elif ending == "cls":
                    tar.fileobj.seek(member.offset_data)
                    label = tar.fileobj.read(min(member.size, _LONGEST_LABEL)).decode().strip()
            _check_end(tar)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise UserError(
            f"data.root: {str(path)!r} cannot be read as a tar file ({describe(error)});"
            " copy it again, not compressed"
        ) from error
    if image is not None:
        yield name, *image, label


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise a ReadError where a tar file goes on, or breaks off, after what tarfile read of it.

    tarfile takes a header that is cut or damaged for the end.
    """
    tar.fileobj.seek(tar.offset)
    mark = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(mark) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is cut off: the mark of its end is missing")
    while mark:
        if mark.count(0) != len(mark):
            raise tarfile.ReadError("there is more behind its end, or a header is damaged")
        mark = tar.fileobj.read(2**20)
