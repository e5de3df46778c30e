"""The results of a run and their summary, from the stored rows alone."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import UserError
from ..statistics import quantile
from .folder import RunFolder

_AT_ONCE = 256
"""Parts that are held as they were read before they become one."""


@dataclass(frozen=True)
class SettingSummary:
    """One attack at one epsilon, over all samples.

    Attributes:
        robust_accuracy: Share of all samples that are correctly classified both without and with
            the attack.
        norm_mean, norm_min: Measured norm / epsilon over the attacked samples; NaN if none was.
        loss: Mean cross-entropy over all samples; the clean one where not attacked.
        seconds: Time of the attack.
    """

    attack: str
    attack_name: str
    library: str
    p: float
    epsilon: float
    samples: int
    robust_accuracy: float
    norm_mean: float
    norm_min: float
    loss: float
    seconds: float


NORM_COLUMNS = ("attack", "p", "epsilon", "attacked", "robust", "minimum_norm")
"""Columns that ``minimum_norms`` reads."""


@dataclass(frozen=True)
class MinimumNorms:
    """The norms that a minimum-norm attack found: its robust accuracy at every epsilon.

    Attributes:
        p: Order of the norm.
        samples: Ascending indices of the samples.
        norms: Norm of the nearest adversarial example of each sample: 0 where the model is wrong
            without an attack, infinity where none was found.
    """

    attack: str
    p: float
    samples: npt.NDArray[np.int64]
    norms: npt.NDArray[np.float64]

    def robust(self, epsilon: float) -> npt.NDArray[np.bool_]:
        """Return which samples have no adversarial example within epsilon."""
        return self.norms > epsilon

    def quantile(self, share: float) -> float:
        """Return the least epsilon within which this share of all samples is misclassified."""
        return quantile(self.norms, share)


@dataclass(frozen=True)
class Results:
    """A run, complete or not.

    Attributes:
        folder: The run folder.
    """

    folder: Path

    @classmethod
    def load(cls, folder: str | Path) -> Results:
        """Return the results in a run folder, complete or not.

        Raises:
            UserError: It holds none.
        """
        path = Path(folder)
        if (path / "run.json").exists():
            RunFolder(path).record()
        if not any(RunFolder(path).stored()):
            raise UserError(f"{path}: holds no results of a run (results/*.parquet)")
        return cls(path)

    @functools.cached_property
    def table(self) -> pa.Table:
        """Return one row per setting and sample, read on first use; columns: ``SCHEMA``."""
        return RunFolder(self.folder).read_results()

    @property
    def complete(self) -> bool:
        """Return whether all tasks of the run are there, those of other shards too."""
        folder = RunFolder(self.folder)
        record = folder.record()
        return record is not None and sum(1 for _ in folder.stored()) >= int(record["tasks"])

    @property
    def clean_accuracy(self) -> float:
        """Return the share of samples that are correctly classified without an attack."""
        rows = self.select("attacked")
        _, first = np.unique(rows["sample"].to_numpy(), return_index=True)
        return float(np.mean(rows["attacked"].to_numpy()[first]))

    def select(self, *names: str) -> pa.Table:
        """Return some columns of all rows, with setting and sample, by which they are ordered.

        Texts are dictionaries. Other columns are not kept in memory.
        """
        parts = [self.table] if "table" in vars(self) else RunFolder(self.folder).tables()
        rows = _gathered(_encoded(part, ("setting", "sample", *names)) for part in parts)
        return rows.unify_dictionaries().sort_by(
            [("setting", "ascending"), ("sample", "ascending")]
        )

    def minimum_norms(self) -> dict[str, MinimumNorms]:
        """Return what the run's minimum-norm attacks found, by attack; empty without any."""
        return minimum_norms(self.select(*NORM_COLUMNS))

    def summary(self) -> list[SettingSummary]:
        """Return one entry per setting: norms in ascending order, then the run's order.

        Reads one task after the other, unless the table is in memory.
        """
        sums: dict[int, _Sums] = {}
        read = "table" in vars(self)
        for table in [self.table] if read else RunFolder(self.folder).tables():
            for number in pc.unique(table["setting"]).to_pylist():
                of_setting = table.filter(pc.equal(table["setting"], number))
                sums.setdefault(number, _Sums(of_setting)).add(of_setting)
        settings = [sums[number].summary() for number in sorted(sums)]
        return sorted(settings, key=lambda setting: setting.p)


def minimum_norms(rows: pa.Table) -> dict[str, MinimumNorms]:
    """Return the norms that minimum-norm attacks found, by attack.

    What is adversarial at an epsilon asked for counts too: an example cut to it may still be.

    Args:
        rows: What ``Results.select`` returned, with at least ``NORM_COLUMNS``.

    Raises:
        UserError: The settings of an attack hold different samples, which no run stores.
    """
    found: dict[str, MinimumNorms] = {}
    for setting in by_setting(rows):
        minimum = setting["minimum_norm"].to_numpy()
        if np.isnan(minimum).all():
            continue
        attack, p, epsilon = (setting[name][0].as_py() for name in NORM_COLUMNS[:3])
        norms = np.where(setting["robust"].to_numpy(), minimum, np.fmin(minimum, epsilon))
        norms[~setting["attacked"].to_numpy()] = 0
        samples = setting["sample"].to_numpy()
        if attack in found:
            if not np.array_equal(samples, found[attack].samples):
                raise UserError(
                    f"results: the epsilons of {attack!r} hold different samples;"
                    " remove results/ and run it again"
                )
            norms = np.minimum(norms, found[attack].norms)
        found[attack] = MinimumNorms(attack, p, samples, norms)
    return found


def _gathered(parts: Iterable[pa.Table]) -> pa.Table:
    """Return one table; many small ones at once would take ten times the memory of their rows."""
    gathered: list[pa.Table] = []
    for part in parts:
        gathered.append(part)
        if len(gathered) == _AT_ONCE:
            gathered = [pa.concat_tables(gathered).unify_dictionaries().combine_chunks()]
    return pa.concat_tables(gathered)


def by_setting(rows: pa.Table) -> Iterator[pa.Table]:
    """Return the rows of each setting of what ``Results.select`` returned."""
    numbers = rows["setting"].to_numpy()
    ends = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    for first, last in itertools.pairwise(ends):
        yield rows.slice(first, last - first)


def _encoded(table: pa.Table, names: Sequence[str]) -> pa.Table:
    columns = {name: table[name] for name in dict.fromkeys(names)}
    texts = [name for name, column in columns.items() if pa.types.is_string(column.type)]
    return pa.table(columns | {name: columns[name].dictionary_encode() for name in texts})


class _Sums:
    """A summary that grows with the rows of its setting."""

    def __init__(self, rows: pa.Table) -> None:
        names = ("attack", "attack_name", "library", "p", "epsilon")
        self._setting = {name: rows[name][0].as_py() for name in names}
        self._samples = self._robust = self._attacked = 0
        self._loss = self._ratio = self._seconds = 0.0
        self._least = float("inf")

    def add(self, rows: pa.Table) -> None:
        ratios = rows["norm_over_epsilon"].drop_null().to_numpy()
        self._samples += rows.num_rows
        self._robust += pc.sum(rows["robust"]).as_py()
        self._loss += pc.sum(rows["loss"]).as_py()
        self._attacked += len(ratios)
        self._ratio += float(ratios.sum())
        self._least = min(self._least, float(ratios.min(initial=self._least)))
        self._seconds += pc.sum(rows["seconds"]).as_py() or 0.0

    def summary(self) -> SettingSummary:
        attacked = self._attacked > 0
        return SettingSummary(
            **self._setting,
            samples=self._samples,
            robust_accuracy=self._robust / self._samples,
            norm_mean=self._ratio / self._attacked if attacked else float("nan"),
            norm_min=self._least if attacked else float("nan"),
            loss=self._loss / self._samples,
            seconds=self._seconds,
        )
