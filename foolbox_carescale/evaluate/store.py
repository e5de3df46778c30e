"""The run folder: config, per-sample results and a few example images."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from foolbox_carescale.evaluate.errors import UserError

SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("data", pa.string()),
        ("cell", pa.int32()),  # number of (attack, epsilon) in the run
        ("attack", pa.string()),  # the label
        ("attack_name", pa.string()),
        ("attack_params", pa.string()),  # JSON
        ("attack_repeat", pa.int32()),
        ("source", pa.string()),  # ours or foolbox
        ("p", pa.float64()),
        ("epsilon", pa.float64()),
        ("block", pa.int32()),
        ("seed", pa.int64()),
        ("sample", pa.int64()),  # index in the data set
        ("input_hash", pa.string()),  # BLAKE2b, 16 bytes, of the clean float32 pixels in C order
        ("label", pa.int64()),
        ("clean_prediction", pa.int64()),
        ("attacked", pa.bool_()),  # false where the model is wrong without an attack
        ("adversarial_prediction", pa.int64()),  # null where not attacked, as all marked *
        ("success", pa.bool_()),  # *
        ("quantised_success", pa.bool_()),  # *; still misclassified after rounding to 8 bits
        ("robust", pa.bool_()),  # right without and with the attack
        ("norm", pa.float64()),  # *; of order p, realised
        ("norm_over_epsilon", pa.float64()),  # *
        ("norm_l1", pa.float64()),  # *
        ("norm_l2", pa.float64()),  # *
        ("norm_linf", pa.float64()),  # *
        ("reachable_norm", pa.float64()),  # largest p-norm from the input to a point of the box
        ("in_bounds", pa.bool_()),  # *; of what the attack returned, before it was clipped
        ("clean_loss", pa.float64()),  # cross-entropy
        ("loss", pa.float64()),  # the clean one where not attacked
        ("forward_passes", pa.float64()),  # *; of the attack, per attacked sample
        ("backward_passes", pa.float64()),  # *
        ("seconds", pa.float64()),  # *; the unit's, shared evenly among its rows
    ]
)
"""One row per cell and sample."""


class RunFolder:
    """Where one run is stored; files appear complete or not at all.

    ``config.yaml``, ``results/*.parquet`` (one file per unit), ``examples/*.npz``,
    ``warnings.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, output: str | None) -> RunFolder:
        """A new run folder.

        Args:
            output: The folder, which may exist but hold no run; None makes one below
                ``runs`` that is named for the time.

        Raises:
            UserError: It holds another run, or cannot be written.
        """
        path = Path(output).expanduser() if output is not None else _timestamped()
        try:
            if any((path / name).exists() for name in ("config.yaml", "results")):
                raise UserError(
                    f"output: {path} already holds a run; choose another folder or remove it"
                )
            for name in ("results", "examples"):
                (path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cls._unwritable(path, error) from error
        return cls(path)

    def write_config(self, text: str) -> None:
        """Store the resolved config."""
        self._write(self.path / "config.yaml", lambda path: path.write_text(text, encoding="utf-8"))

    def write_warnings(self, text: str) -> None:
        """Store what makes the numbers less trustworthy, as ``doubts.to_json`` gives it."""
        path = self.path / "warnings.json"
        self._write(path, lambda path: path.write_text(text, encoding="utf-8"))

    def write_unit(self, name: str, rows: pa.Table) -> None:
        """Store the rows of one unit."""
        self._write(
            self.path / "results" / f"{name}.parquet",
            lambda path: pq.write_table(rows, path, compression="zstd"),
        )

    def write_examples(self, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Store the images of one unit that the picture grid shows."""

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

        self._write(self.path / "examples" / f"{name}.npz", write)

    def read_results(self) -> pa.Table:
        """All rows that are stored.

        Raises:
            UserError: This is no run folder, or nothing is stored in it.
        """
        parts = sorted((self.path / "results").glob("*.parquet"))
        if not parts:
            raise UserError(f"{self.path}: holds no results of a run (results/*.parquet)")
        return pa.concat_tables([pq.read_table(part, schema=SCHEMA) for part in parts])

    def read_examples(self) -> list[dict[str, npt.NDArray[Any]]]:
        """The stored examples, unit by unit."""
        examples = []
        for part in sorted((self.path / "examples").glob("*.npz")):
            with np.load(part, allow_pickle=False) as arrays:
                examples.append(dict(arrays))
        return examples

    def _write(self, path: Path, write: Callable[[Path], Any]) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            write(temporary)
            temporary.replace(path)
        except OSError as error:
            raise self._unwritable(path, error) from error
        finally:
            if temporary.exists():
                temporary.unlink()

    @staticmethod
    def _unwritable(path: Path, error: OSError) -> UserError:
        return UserError(
            f"output: {path} cannot be written ({error.strerror or error});"
            " choose another folder with output=..."
        )


def _timestamped() -> Path:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    path = Path("runs") / now
    number = 1
    while path.exists():  # two runs within a second
        number += 1
        path = Path("runs") / f"{now}_{number}"
    return path
