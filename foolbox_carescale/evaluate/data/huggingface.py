"""Data sets of Hugging Face's library ``datasets``: from the hub, from files, or saved to disk."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal

from PIL import ImageOps

from ..config.types import DataConfig
from ..config.validation import expand_path
from ..errors import UserError, describe, nearest
from ..models.targets import check_params
from .dataset import Source
from .decoding import IMAGE_KEYS, LABEL_KEYS, decode_image, open_image

PARAMS = ("name", "split", "revision", "data_dir", "data_files", "cache_dir", "image", "label")
"""Arguments of ``load_dataset`` that a config may give, and the names of two columns."""


def open_hugging_face(config: DataConfig, split: Literal["train", "test"]) -> Source:
    """Return the data set that ``data.name=hf/...`` names: a folder, or a data set on the hub.

    Raises:
        UserError: It, its split or its columns cannot be had.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"data.name: {config.name} needs the package datasets;"
            " run: pip install 'foolbox-carescale[huggingface]'"
        ) from error
    params = dict(config.params)
    check_params(config.name, params, dict.fromkeys(PARAMS))
    columns = params.pop("image", None), params.pop("label", None)
    asked = params.pop("split", None)
    folder = expand_path(config.name.removeprefix("hf/"))
    saved = any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        if saved:
            check_params(config.name, params, {})
            found: Any = datasets.load_from_disk(str(folder))
        else:
            named = str(folder) if folder.is_dir() else config.name.removeprefix("hf/")
            found = datasets.load_dataset(named, **params)
    except UserError:
        raise
    except Exception as error:  # the library's, the hub's and the network's
        raise UserError(f"data.name: {config.name} cannot be opened ({describe(error)})") from error
    if isinstance(found, dict):
        found = _split(config.name, found, asked, split)
    elif asked is not None:
        raise UserError(f"data.params.split: {config.name} has no splits; remove it")
    return _source(config.name, found, *columns)


def _split(name: str, found: Any, asked: str | None, split: str) -> Any:
    """Return one split; never the training samples because nobody said otherwise."""
    usual = ("test", "validation", "val") if split == "test" else ("train",)
    wanted = [asked] if asked is not None else usual
    key = next((key for key in wanted if key in found), None)
    if key is None:
        raise UserError(
            f"data.params.split: {name} has no split {wanted[0]!r}; {nearest(wanted[0], found)}"
        )
    return found[key]


def _source(name: str, found: Any, image: str | None, label: str | None) -> Source:
    from datasets import ClassLabel, Image

    features = found.features
    image = _column(name, "image", image, features, Image, IMAGE_KEYS)
    label = _column(name, "label", label, features, ClassLabel, LABEL_KEYS)
    classes = getattr(features[label], "names", None) or ()
    labels = found.select_columns([label]).with_format("numpy")[:][label]
    if isinstance(features[image], Image):  # its bytes are decoded here, and no address is read
        found = found.cast_column(image, Image(decode=False))
    found = found.select_columns([image, label])

    def get(i: int) -> tuple[Any, Any]:
        sample = found[i]
        content = sample[image]
        if not isinstance(content, dict):
            return content, sample[label]
        if content.get("bytes") is None:
            picture = open_image(str(content["path"]))
        else:
            place = f"sample {i} of {name}" + (f" ({content['path']!r})" if content["path"] else "")
            picture = decode_image(place, io.BytesIO(content["bytes"]))
        return ImageOps.exif_transpose(picture), sample[label]  # as the library itself does

    return Source(
        name, len(found), get, len(classes), labels=labels, class_names=classes, threads=True
    )


def _column(
    name: str, what: str, asked: str | None, features: Any, kind: type, usual: Sequence[str]
) -> str:
    """Return the column that is asked for, or the only one of a kind or of the usual names."""
    of_kind = [column for column, feature in features.items() if isinstance(feature, kind)]
    named = [column for column in usual if column in features]
    for found in ([asked] if asked is not None else [], of_kind, named):
        if len(found) == 1 and found[0] in features:
            return str(found[0])
        if asked is not None:
            break
    listed = ", ".join(map(repr, list(features)[:12]))
    said = f"there is no {asked!r}" if asked is not None else "which it is, is not clear"
    raise UserError(
        f"data.params.{what}: {said}; {name} has the columns {listed};"
        f" name one, e.g. data.params.{what}={next(iter(features))}"
    )
