"""The rows of a run: their columns, and what must hold of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .checksums import IntegrityError

Array = npt.NDArray[Any]

MOST_CLASSES, MOST_MEASURED, MOST_CHARACTERS = 2**20, 1e300, 1000

EXAMPLE_COLUMNS = ("setting", "attack", "library", "p", "epsilon")
"""Columns that ``example_of`` reads."""


def _always(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _if_attacked(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind)  # empty where the model is wrong without an attack


SCHEMA = pa.schema(
    [
        _always("model", pa.string()),
        _always("data", pa.string()),
        _always("setting", pa.int32()),  # number of (attack, epsilon) in the run
        _always("attack", pa.string()),  # the label
        _always("attack_name", pa.string()),
        _always("attack_params", pa.string()),  # JSON
        _always("attack_repeat", pa.int32()),
        _always("library", pa.string()),  # the package of the attack's class
        _always("p", pa.float64()),
        _always("epsilon", pa.float64()),
        _always("batch", pa.int32()),
        _always("seed", pa.int64()),
        _always("sample", pa.int64()),  # index in the data set
        _always("input_hash", pa.string()),  # BLAKE2b, 16 bytes, of the float32 pixels in C order
        _always("label", pa.int64()),
        _always("clean_prediction", pa.int64()),
        _always("attacked", pa.bool_()),  # false where the model is wrong without an attack
        _if_attacked("adversarial_prediction", pa.int64()),
        _if_attacked("success", pa.bool_()),
        _if_attacked("quantised_success", pa.bool_()),  # still misclassified with 8 bits
        _always("robust", pa.bool_()),  # right without and with the attack
        _if_attacked("norm", pa.float64()),  # of order p, measured
        _if_attacked("norm_over_epsilon", pa.float64()),
        _if_attacked("returned_norm", pa.float64()),  # before the cut to epsilon; null: no epsilon
        # nearest adversarial example, whatever epsilon; inf: none found; null: not searched for
        _if_attacked("minimum_norm", pa.float64()),
        _if_attacked("broken_by", pa.string()),  # stage of an ensemble; null: unbroken, or none
        _if_attacked("norm_l1", pa.float64()),
        _if_attacked("norm_l2", pa.float64()),
        _if_attacked("norm_linf", pa.float64()),
        _always("reachable_norm", pa.float64()),  # largest p-norm from the input inside the box
        _if_attacked("in_bounds", pa.bool_()),  # of what the attack returned, not clipped
        _always("clean_loss", pa.float64()),  # cross-entropy
        _always("loss", pa.float64()),  # the clean one where not attacked
        _if_attacked("forward_passes", pa.float64()),  # of the attack, per attacked sample
        _if_attacked("backward_passes", pa.float64()),
        _if_attacked("seconds", pa.float64()),  # the task's, shared evenly among its rows
    ]
)
"""One row per setting and sample."""


_WITHIN = {
    "setting": (0, 2**31 - 1),
    "sample": (0, 2**63 - 1),
    "label": (0, MOST_CLASSES - 1),
    "clean_prediction": (0, MOST_CLASSES - 1),
    "adversarial_prediction": (0, MOST_CLASSES - 1),
    "attack_repeat": (1, 2**31 - 1),
}
_OF_SETTING = (
    *("model", "data", "attack", "attack_name", "attack_params", "attack_repeat"),
    *("library", "p", "epsilon"),
)
_TEXTS = [field.name for field in SCHEMA if pa.types.is_string(field.type)]
_MEASURED = [
    field.name
    for field in SCHEMA
    if field.type == pa.float64() and field.name not in ("p", "epsilon")
]


@dataclass(frozen=True)
class TaskResult:
    """The result of a task.

    Attributes:
        task: Its name.
        rows: One per setting of the task and sample, of ``SCHEMA``.
        examples: Images that pictures of the run show: ``clean``, ``perturbed``, ``label``,
            ``prediction``, and the number of their ``setting``.
        adversarial_examples: By setting, with their samples, where they are saved.
        skipped: Why samples of the batch could not be read and have no rows, by their places.
        failure: Why there are no rows at all.
    """

    task: str
    rows: pa.Table
    examples: Mapping[str, Array] | None = None
    adversarial_examples: Mapping[str, Array] | None = None
    skipped: Mapping[int, str] = field(default_factory=dict)
    failure: str | None = None


def images_digest(rows: pa.Table) -> str:
    """Return BLAKE2b, 16 bytes in hexadecimal, of the images that a task's rows are of.

    All tasks of a batch have the same.
    """
    hashes = pc.unique(rows["input_hash"]).to_pylist()
    return hashlib.blake2b("".join(hashes).encode(), digest_size=16).hexdigest()


def check_rows(rows: pa.Table) -> None:
    """Check what whoever reads the rows relies on.

    Raises:
        IntegrityError: No run has such rows.
    """
    if not len(rows):
        raise IntegrityError("it has no rows")
    for name, (least, most) in _WITHIN.items():
        values = rows[name].drop_null().to_numpy()
        if not ((values >= least) & (values <= most)).all():
            raise IntegrityError(f"its column {name!r} is not within {least} and {most}")
    epsilon, p = rows["epsilon"].to_numpy(), rows["p"].to_numpy()
    if not (np.isfinite(epsilon).all() and (epsilon > 0).all()):
        raise IntegrityError("its column 'epsilon' is not positive and finite")
    if not (p > 0).all():
        raise IntegrityError("its column 'p' is not positive")
    for name in _MEASURED:
        values = rows[name].drop_null().to_numpy()
        values = values[np.isfinite(values)]
        if not ((values >= 0) & (values <= MOST_MEASURED)).all():
            raise IntegrityError(f"its column {name!r} is negative or too large to be averaged")
    for name, holds, otherwise in _relations(rows):
        if not np.all(holds):
            raise IntegrityError(f"its column {name!r} {otherwise}")


def _relations(rows: pa.Table) -> Iterator[tuple[str, Array | bool, str]]:
    """Yield columns, what must hold of them, and what they are like where it does not."""
    names = ("label", "clean_prediction", "attacked", "robust", "norm", "epsilon")
    label, clean, attacked, robust, norm, epsilon = (rows[name].to_numpy() for name in names)
    adversarial = rows["adversarial_prediction"].fill_null(-1).to_numpy()
    success = rows["success"].fill_null(False).to_numpy()
    known = {field.name: rows[field.name].is_valid() for field in SCHEMA if field.nullable}
    coded = {name: _coded(rows[name]) for name in _TEXTS}

    yield "attacked", attacked == (clean == label), "does not fit the clean predictions"
    for name, there in known.items():
        yield name, attacked | ~there.to_numpy(), "has values of samples that were not attacked"
    for name in ("success", "adversarial_prediction"):
        yield name, known[name].to_numpy() | ~attacked, "has no value of an attacked sample"
    fits = success == (adversarial != label)
    yield "success", fits | ~attacked, "does not fit the adversarial predictions"
    yield "robust", robust == (attacked & ~success), "does not fit 'attacked' and 'success'"
    for name in ("seconds", "forward_passes", "backward_passes"):
        yield name, np.isfinite(rows[name].drop_null().to_numpy()), "is not finite"
    for name, texts in coded.items():
        if name != "attack_params":
            longest = pc.max(pc.utf8_length(texts.dictionary)).as_py() or 0
            yield name, longest <= MOST_CHARACTERS, f"is above {MOST_CHARACTERS} characters"

    _, first, group = np.unique(rows["setting"], return_index=True, return_inverse=True)
    for name in _OF_SETTING:
        values = coded[name].indices if name in coded else rows[name]
        alike = values.to_numpy() == values.to_numpy()[first][group]
        yield name, alike, "differs within a setting"
    searched = attacked & known["minimum_norm"].to_numpy()
    counts = [np.bincount(group, which) for which in (searched, attacked)]
    alike = (counts[0] == 0) | (counts[0] == counts[1])
    yield "minimum_norm", alike, "lacks values of some attacked samples of a setting"
    with np.errstate(over="ignore"):
        ratio, stored = norm / epsilon, rows["norm_over_epsilon"].to_numpy()
    fits = np.isclose(stored, ratio, rtol=1e-6, atol=0, equal_nan=True)
    yield "norm_over_epsilon", fits, "is not the norm divided by epsilon"


def _coded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    return column.unify_dictionaries().combine_chunks()


def example_of(arrays: Mapping[str, Array], rows: pa.Table) -> dict[str, Any]:
    """Return the images of ``TaskResult.examples``, and which attack of the rows they are of.

    Raises:
        IntegrityError: They are no examples of these rows.
    """
    try:
        images = {name: arrays[name] for name in ("clean", "perturbed")}
        numbers = {name: arrays[name] for name in ("label", "prediction")}
        setting = rows.filter(pc.equal(rows["setting"], int(arrays["setting"])))
        of_setting = {name: setting[name][0].as_py() for name in EXAMPLE_COLUMNS[1:]}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise IntegrityError("it holds no examples of its rows") from error
    shape = images["clean"].shape
    fit = [image.shape == shape and image.dtype == np.float32 for image in images.values()]
    fit += [n.shape == shape[:1] and n.dtype == np.int64 for n in numbers.values()]
    if not images["clean"].size or not all(fit):
        raise IntegrityError("its images and labels do not fit each other")
    return {**of_setting, **images, **numbers}
