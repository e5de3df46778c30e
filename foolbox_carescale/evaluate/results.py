"""The results of a run, and their summary; made from the stored rows alone."""

from __future__ import annotations

import csv
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from foolbox_carescale.evaluate.store import RunFolder


@dataclass(frozen=True)
class CellSummary:
    """One attack at one epsilon, over all samples.

    Attributes:
        robust_accuracy: Share of all samples that are right without and with the attack.
        norm_mean, norm_min: Realised norm / epsilon over the attacked samples; NaN if none was.
        loss: Mean cross-entropy over all samples; the clean one where not attacked.
        seconds: Spent in the attack.
    """

    attack: str
    attack_name: str
    source: str
    p: float
    epsilon: float
    samples: int
    robust_accuracy: float
    norm_mean: float
    norm_min: float
    loss: float
    seconds: float


@dataclass(frozen=True)
class Results:
    """A run that was computed.

    Attributes:
        folder: The run folder.
        table: One row per cell and sample; see ``store.SCHEMA`` for the columns.
    """

    folder: Path
    table: pa.Table

    @classmethod
    def load(cls, folder: str | Path) -> Results:
        """The results in a run folder, complete or not."""
        return cls(Path(folder), RunFolder(Path(folder)).read_results())

    @property
    def clean_accuracy(self) -> float:
        """Share of the samples that the model classifies correctly without an attack."""
        attacked = dict(zip(self.column("sample"), self.column("attacked"), strict=True))
        return float(np.mean(list(attacked.values())))

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column as a NumPy array; nulls of numbers are NaN."""
        values: npt.NDArray[Any] = self.table[name].to_numpy(zero_copy_only=False)
        return values

    def rows_by_cell(self) -> list[npt.NDArray[np.intp]]:
        """Row numbers of each cell, in the run's order."""
        numbers = self.column("cell")
        return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]

    def summary(self) -> list[CellSummary]:
        """One entry per cell: norms in ascending order, then the run's order."""
        table = {f: self.column(f) for f in ("attack", "attack_name", "source", "p", "epsilon")}
        robust, losses = self.column("robust"), self.column("loss")
        ratios, seconds = self.column("norm_over_epsilon"), self.column("seconds")
        cells = []
        for rows in self.rows_by_cell():
            realised = ratios[rows][~np.isnan(ratios[rows])]
            cells.append(
                CellSummary(
                    **{name: values[rows[0]] for name, values in table.items()},
                    samples=len(rows),
                    robust_accuracy=float(np.mean(robust[rows])),
                    norm_mean=float(realised.mean()) if len(realised) else float("nan"),
                    norm_min=float(realised.min()) if len(realised) else float("nan"),
                    loss=float(np.mean(losses[rows])),
                    seconds=float(np.nansum(seconds[rows])),
                )
            )
        return sorted(cells, key=lambda cell: cell.p)

    def write_summary(self, path: Path) -> None:
        """The summary as a CSV file."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(field.name for field in fields(CellSummary))
            writer.writerows(astuple(cell) for cell in self.summary())
