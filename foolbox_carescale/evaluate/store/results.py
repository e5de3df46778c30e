"""The results of a run and their summary, from the stored rows alone."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import UserError, printable
from ..statistics import quantile
from .columns import Columns, read_part
from .folder import RunFolder
from .index import ResultsFile
from .parquet import pandas_types
from .schema import MOST_CHARACTERS, SCHEMA


@dataclass(frozen=True)
class SettingSummary:
    """One attack at one epsilon, over all samples.

    Attributes:
        attacked: Number of samples that are correctly classified without the attack.
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
    attacked: int
    robust_accuracy: float
    norm_mean: float
    norm_min: float
    loss: float
    seconds: float


SETTING_COLUMNS = ("attack", "attack_name", "library", "p", "epsilon")
"""Columns that ``summary`` and ``minimum_norms`` tell settings by."""


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
        results = cls(path)
        if (path / "run.json").exists():
            results._store.record()
        if not results._store.stored():
            results._store.parts()  # says why not
        return results

    @functools.cached_property
    def table(self) -> pa.Table:
        """Return one row per setting and sample, read on first use; columns: ``SCHEMA``."""
        parts = self._store.parts()
        rows = pa.concat_tables(read_part(part, SCHEMA.names).cast(SCHEMA) for part in parts)
        return rows.replace_schema_metadata(pandas_types(SCHEMA))

    @functools.cached_property
    def _store(self) -> RunFolder:
        return RunFolder(self.folder)  # kept: it compares each file with its checksum once

    @property
    def complete(self) -> bool:
        """Return whether all tasks of the run are there, those of other shards too."""
        return self._store.complete

    @property
    def class_names(self) -> list[str]:
        """Return names by label, of the data or of the model's weights; empty if neither has any.

        Those of ImageNet may name several synonyms, parted by commas.
        """
        if not (self.folder / "run.json").exists():
            return []
        found = (self._store.record() or {}).get("class_names")
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            return []
        return [printable(name[:MOST_CHARACTERS]) for name in found]

    @property
    def clean_accuracy(self) -> float:
        """Return the share of samples that are correctly classified without an attack."""
        correct, samples = clean_counts(self.columns())
        return correct / samples

    def columns(self, *about: str) -> Columns:
        """Return all rows, of which columns are read when asked for, and not kept.

        Args:
            about: Columns that say which setting one is.
        """
        return Columns(self._parts(), about)

    def select(self, *names: str) -> pa.Table:
        """Return some columns of all rows, with setting and sample, by which they are ordered.

        Texts are dictionaries. Other columns are not kept in memory.
        """
        chosen = list(dict.fromkeys(("setting", "sample", *names)))
        rows = pa.concat_tables(read_part(part, chosen) for part in self._parts())
        return rows.unify_dictionaries().sort_by(
            [("setting", "ascending"), ("sample", "ascending")]
        )

    def minimum_norms(self) -> dict[str, MinimumNorms]:
        """Return what the run's minimum-norm attacks found, by attack; empty without any."""
        return minimum_norms(self.columns("attack", "p", "epsilon"))

    def summary(self) -> list[SettingSummary]:
        """Return one entry per setting: norms in ascending order, then the run's order."""
        return summary(self.columns(*SETTING_COLUMNS))

    def _parts(self) -> list[ResultsFile | pa.Table]:
        return [self.table] if "table" in vars(self) else self._store.parts()


def summary(columns: Columns) -> list[SettingSummary]:
    """Return ``Results.summary`` of columns about which ``SETTING_COLUMNS`` were asked."""
    robust, attacked, loss = (columns.column(name) for name in ("robust", "attacked", "loss"))
    seconds, ratio = columns.column("seconds"), columns.column("norm_over_epsilon")
    settings = []
    for one in columns.settings:
        ratios = ratio[one.rows][attacked[one.rows]]
        settings.append(
            SettingSummary(
                **{name: one.about[name] for name in SETTING_COLUMNS},
                samples=len(one.samples),
                attacked=int(attacked[one.rows].sum()),
                robust_accuracy=float(robust[one.rows].mean()),
                norm_mean=float(ratios.mean()) if len(ratios) else float("nan"),
                norm_min=float(ratios.min()) if len(ratios) else float("nan"),
                loss=float(loss[one.rows].mean()),
                seconds=float(np.nansum(seconds[one.rows])),
            )
        )
    return sorted(settings, key=lambda setting: setting.p)


def clean_counts(columns: Columns) -> tuple[int, int]:
    """Return how many samples are correctly classified without an attack, and all samples."""
    attacked = columns.column("attacked")
    known: npt.NDArray[np.int64] = np.empty(0, np.int64)
    correct = 0
    for one in columns.settings:
        if one.samples is not known:  # of a run that was stopped, settings hold different ones
            new = ~np.isin(one.samples, known, assume_unique=True)
            correct += int(attacked[one.rows][new].sum())
            known = np.union1d(known, one.samples) if len(known) else one.samples
    return correct, len(known)


def minimum_norms(columns: Columns) -> dict[str, MinimumNorms]:
    """Return the norms that minimum-norm attacks found, by attack.

    What is adversarial at an epsilon asked for counts too: an example cut to it may still be.

    Args:
        columns: About which attack, p and epsilon were asked.

    Raises:
        UserError: The settings of an attack hold different samples, which no run stores.
    """
    found: dict[str, MinimumNorms] = {}
    robust, attacked = columns.column("robust"), columns.column("attacked")
    minimum_norm = columns.column("minimum_norm")
    for one in columns.settings:
        minimum = minimum_norm[one.rows]
        if np.isnan(minimum).all():
            continue
        attack, p, epsilon = (one.about[name] for name in ("attack", "p", "epsilon"))
        norms = np.where(robust[one.rows], minimum, np.fmin(minimum, epsilon))
        norms[~attacked[one.rows]] = 0
        if attack in found:
            if not np.array_equal(one.samples, found[attack].samples):
                raise UserError(
                    f"results: the epsilons of {attack!r} hold different samples;"
                    " remove results/ and tasks/ and run it again"
                )
            norms = np.minimum(norms, found[attack].norms)
        found[attack] = MinimumNorms(attack, p, one.samples, norms)
    return found
