"""A folder of images with a folder for each class, in the manner of torchvision's ImageFolder."""

from __future__ import annotations

import inspect
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from ..config.types import DataConfig
from ..config.validation import expand_path
from ..errors import EvaluationWarning, UserError, warn
from ..models.targets import check_params
from .decoding import open_image

ENDINGS = (*IMG_EXTENSIONS, ".gif")
"""Endings of the files that are read as images; an animation gives its first picture."""

LISTED = 12
"""Classes or endings that a warning names."""


def open_folder(config: DataConfig) -> ImageFolder:
    """Return the data set of the folder ``data.root``.

    Raises:
        UserError: It is no folder with one folder of images for each class.
    """
    if not config.root:
        raise UserError("data.root: is missing; data.name=folder needs a directory")
    root = expand_path(config.root)
    if not os.path.isdir(root):
        raise UserError(f"data.root: there is no directory {str(root)!r}")
    params = {"loader": open_image, **config.params}
    check_params("folder", params, inspect.signature(ImageFolder).parameters)
    try:
        return _ClassFolders(str(root), **params)
    except OSError as error:
        raise UserError(
            f"data.root: {str(root)!r} does not hold one directory of images per class ({error})"
        ) from error


class _ClassFolders(ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """Labels in the order of numbers, nothing hidden, and no links from class to class."""

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        found = sorted(Path(directory).iterdir())
        found = [path for path in found if not path.name.startswith(".")]
        for path in found:
            if not path.exists():  # it may have been meant as a class, and labels count classes
                raise UserError(
                    f"data.root: {str(path)!r} is a link to {os.readlink(path)!r}, which does not"
                    " exist; mend it, or remove it"
                )
        visible = [path for path in found if path.is_dir()]
        for path in visible:
            if Path(directory).resolve().is_relative_to(path.resolve()):
                raise UserError(f"data.root: {str(path)!r} is a link to a folder above; remove it")
        _warn_of_shared(visible)
        names = _ordered([path.name for path in visible])
        if not names:
            raise FileNotFoundError("no folder inside it")
        return names, {name: label for label, name in enumerate(names)}

    @staticmethod
    def make_dataset(
        directory: str,
        class_to_idx: dict[str, int],
        extensions: Any = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> list[tuple[str, int]]:
        samples, left_out, empty = [], Counter[str](), []
        for name in sorted(class_to_idx):  # as torchvision does: samples keep their numbers
            images = []
            for path in _paths(Path(directory, name)):
                if is_valid_file(path) if is_valid_file else _is_image(path):
                    images.append((path, class_to_idx[name]))
                else:
                    left_out[_kind(path)] += 1
            samples += images
            empty += [] if images else [name]
        if empty and not allow_empty:
            raise FileNotFoundError(f"no image in {', '.join(map(repr, empty[:LISTED]))}")
        if left_out and not is_valid_file:
            kinds = ", ".join(f"{kind}: {count}" for kind, count in left_out.most_common(LISTED))
            warn(
                EvaluationWarning(
                    f"{left_out.total()} of {left_out.total() + len(samples)} entries of the class"
                    f" folders are left out, because they are no image files ({kinds})",
                    f"remove them, or save them as one of {', '.join(ENDINGS)}",
                ),
                stacklevel=6,
            )
        return samples


def _warn_of_shared(folders: list[Path]) -> None:
    """Warn of class folders of which one holds the files of another, by a link."""
    names: dict[Path, str] = {}
    for folder in folders:
        names.setdefault(folder.resolve(), folder.name)
    shared = []
    for folder in folders:
        reached = folder.resolve()
        holders = {names[path] for path in (reached, *reached.parents) if path in names}
        shared += [f"{holder!r} and {folder.name!r}" for holder in holders - {folder.name}]
    if shared:
        more = ", ..." if len(shared) > LISTED else ""
        warn(
            EvaluationWarning(
                f"class folders hold the same files, by links: {', '.join(shared[:LISTED])}{more}",
                "remove the links, or take the classes for one",
            ),
            stacklevel=7,
        )


def _paths(folder: Path) -> list[str]:
    """Return the visible files below a class folder, and links to folders, which lead elsewhere."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        visible = [name for name in files if not name.startswith(".")]
        found.append((where, sorted(visible + links)))
    return [os.path.join(where, name) for where, names in sorted(found) for name in names]


def _is_image(path: str) -> bool:
    return path.lower().endswith(ENDINGS)


def _kind(path: str) -> str:
    if os.path.isdir(path):
        return "links to folders"
    return Path(path).suffix.lower() or "without an ending"


def _ordered(names: list[str]) -> list[str]:
    """Return the names of classes in the order of their labels: numbers by value, then others."""
    numbers = [name for name in names if re.fullmatch("-?[0-9]+", name)]
    numbers.sort(key=lambda name: (int(name), name))
    ordered = [*numbers, *sorted(set(names) - set(numbers))]
    if numbers and [int(name) for name in numbers] != list(range(len(ordered))):
        labels = [f"{label} for {name!r}" for label, name in enumerate(ordered)]
        if len(labels) > LISTED:
            labels = [*labels[: LISTED - 1], "...", labels[-1]]
        mixed = len(numbers) < len(ordered)
        what = "mix numbers and names" if mixed else f"are numbers, but not 0 to {len(names) - 1}"
        warn(
            EvaluationWarning(
                f"the class folders {what}: their labels are {', '.join(labels)}",
                "name the folders by the model's classes, with a folder for each and no other",
            ),
            stacklevel=7,
        )
    return ordered
