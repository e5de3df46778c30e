"""The series of a report, one per attack, read from the rows column by column."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.fractions import format_epsilon
from ..errors import UserError
from ..statistics import wilson
from ..store.columns import Columns
from ..store.results import SETTING_COLUMNS, Results, clean_counts, minimum_norms

QUANTITIES = ("norm_over_epsilon", "loss", "forward_passes", "backward_passes")
"""Columns whose distributions are shown, over the attacked samples."""

NOT_ATTACKED = "not attacked"
"""In the place of a robust accuracy where no sample was left to attack: it is 0 before."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Spread:
    """Mean, least and greatest of a quantity over the attacked samples."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """One attack at one epsilon.

    Attributes:
        epsilon: In the series' norm.
        samples: Ascending indices of the samples.
        robust: Of each of them, whether it is correctly classified without and with the attack.
        attacked: How many were attacked.
        values: By quantity, over the attacked samples; without those that were not measured.
        seconds: Spent in the attack.
        quantised: Share of the adversarial examples that are still adversarial after 8-bit
            quantisation, if known.
        classes: By class, samples and robust samples among them.
    """

    epsilon: float
    samples: Array
    robust: Array
    attacked: int
    values: dict[str, Array] = field(default_factory=dict)
    seconds: float = float("nan")
    quantised: float | None = None
    classes: Array = field(default_factory=lambda: np.zeros((2, 0), int))

    @property
    def accuracy(self) -> float:
        """Return the robust accuracy."""
        return float(np.mean(self.robust))

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95% interval of the robust accuracy."""
        return wilson(int(self.robust.sum()), len(self.robust))

    def spread(self, quantity: str) -> Spread | None:
        """Return the spread of a quantity; None where it was not measured."""
        values = self.values.get(quantity, np.zeros(0))
        if not len(values):
            return None
        return Spread(float(values.mean()), float(values.min()), float(values.max()))


@dataclass(frozen=True)
class Series:
    """One attack at all its epsilons, ascending.

    Attributes:
        norms: Of each sample, the least epsilon at which it is known to be misclassified, of
            minimum-norm attacks and of worst cases with one.
    """

    attack: str
    attack_name: str
    params: str
    library: str
    p: float
    points: list[Point]
    norms: Array | None = None

    def at(self, epsilon: float) -> Point | None:
        """Return the outcome at an epsilon: of the run, or from the norms of what was found.

        The worst case over attacks is no attack: it is known where all of them are.
        """
        for point in self.points:
            if point.epsilon == epsilon:
                return point
        if self.norms is None or not self.library:
            return None
        first = self.points[0]
        return Point(epsilon, first.samples, self.norms > epsilon, first.attacked)


def read_series(
    results: Results,
) -> tuple[list[Series], tuple[int, int], dict[str, str]]:
    """Return series, correctly classified and all samples, and names of model and data.

    Reads one column after the other; all at once would be most of the run.
    """
    columns = results.columns("model", "data", "attack_params", *SETTING_COLUMNS)
    settings = columns.settings
    for one in settings:
        if not np.diff(one.samples).all():
            raise UserError(
                f"{results.folder}: samples of {one.about['attack']!r} at epsilon"
                f" {format_epsilon(one.about['epsilon'])} are stored twice; remove results/ and"
                " tasks/ and run it again"
            )
    norms = {attack: found.norms for attack, found in minimum_norms(columns).items()}
    made: dict[str, Series] = {}
    for one, point in zip(settings, _points(columns), strict=True):
        attack, name, library, p, _ = (one.about[key] for key in SETTING_COLUMNS)
        params = one.about["attack_params"]
        series = Series(attack, name, params, library, float(p), [], norms.get(attack))
        made.setdefault(attack, series).points.append(point)
    for series in made.values():
        series.points.sort(key=lambda point: point.epsilon)
    ordered = sorted(made.values(), key=lambda one: one.p)
    return ordered, clean_counts(columns), settings[-1].about


def _points(columns: Columns) -> list[Point]:
    settings = [one.rows for one in columns.settings]
    robust, attacked = columns.column("robust"), columns.column("attacked")
    labels = columns.column("label")
    classes = int(np.max(labels, initial=-1)) + 1
    counts = [
        np.stack([np.bincount(labels[s], weights, classes) for weights in (None, robust[s])])
        for s in settings
    ]
    del labels
    seconds = columns.column("seconds")
    spent = [float(np.nansum(seconds[s])) for s in settings]
    del seconds
    success, quantised = columns.column("success") == 1, columns.column("quantised_success")
    kept = [_share(quantised[s][success[s]]) for s in settings]
    del quantised
    values: list[dict[str, Array]] = [{} for _ in settings]
    for quantity in QUANTITIES:
        column = columns.column(quantity)
        for s, own in zip(settings, values, strict=True):
            measured = column[s][attacked[s]]
            own[quantity] = _compact(measured[np.isfinite(measured)])
        del column, measured  # before the next one is read
    return [
        Point(
            epsilon=float(one.about["epsilon"]),
            samples=one.samples,
            robust=robust[one.rows],
            attacked=int(attacked[one.rows].sum()),
            values=values[i],
            seconds=spent[i],
            quantised=kept[i],
            classes=counts[i].astype(int),
        )
        for i, one in enumerate(columns.settings)
    ]


def _compact(values: Array) -> Array:
    """Return the same values; equal ones, as most attacks' passes are, take no memory."""
    if len(values) and (values == values[0]).all():
        return np.broadcast_to(values[:1].copy(), values.shape)
    return values


def _share(flags: Array) -> float | None:
    known = flags[~np.isnan(flags)]
    return float(known.mean()) if len(known) else None


def read_inputs(results: Results) -> dict[int, tuple[str, int]]:
    """Return what identifies the image of each sample, and its label."""
    columns = results.columns(*SETTING_COLUMNS)
    labels, (codes, hashes) = columns.column("label"), columns.texts("input_hash")
    known: npt.NDArray[np.int64] = np.empty(0, np.int64)
    inputs: dict[int, tuple[str, int]] = {}
    for one in columns.settings:
        if one.samples is not known:  # of a run that was stopped, settings hold different ones
            known = one.samples
            found = zip(
                (hashes[code] for code in codes[one.rows]), labels[one.rows].tolist(), strict=True
            )
            inputs |= dict(zip(known.tolist(), found, strict=True))
    return inputs
