"""The epsilons that a reader sees first, and what each run withstands there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..config.headline import check_headline
from ..config.types import norm_name
from .aggregate import Run
from .series import Point, Series

HALF = 0.5
"""The least robust accuracy at the epsilon that is taken where nobody chooses: attacks still
differ there."""


def chosen_epsilons(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Return the headline epsilons of the runs, ascending, by norm.

    Raises:
        UserError: One cannot be had from these runs, none of which has tasks left.
    """
    found: dict[str, list[float]] = {}
    for run in runs:
        for norm, epsilons in run.headline.items():
            found[norm] = sorted({*found.get(norm, ()), *epsilons})
    asked, minimum = availability(one for run in runs for one in run.series)
    if found and not any(map(_unfinished, runs)):
        check_headline(found, asked, minimum)
    return {
        norm: [e for e in epsilons if norm in minimum or e in asked[norm]]
        for norm, epsilons in found.items()
        if norm in asked
    }


def availability(series: Iterable[Series]) -> tuple[dict[str, set[float]], set[str]]:
    """Return the epsilons of attacks by norm, and the norms that are known at every epsilon."""
    asked: dict[str, set[float]] = {}
    minimum = set()
    for one in series:
        asked.setdefault(norm_name(one.p), set()).update(point.epsilon for point in one.points)
        if one.norms is not None and one.library:
            minimum.add(norm_name(one.p))
    return asked, minimum


def headline_epsilons(runs: Sequence[Run], p: float) -> list[float]:
    """Return the headline epsilons of a norm: those of the runs, or else one.

    It is the largest that half of the first run's samples withstand, or the least.
    """
    if chosen := chosen_epsilons(runs).get(norm_name(p)):
        return chosen
    run = next(run for run in runs if any(one.p == p for one in run.series))
    epsilons = sorted({point.epsilon for one in run.series if one.p == p for point in one.points})
    outcomes = [(e, strongest(run, p, e)) for e in epsilons]
    withstood = [e for e, found in outcomes if found is not None and found[1].accuracy >= HALF]
    return [max(withstood, default=epsilons[0])]


def strongest(run: Run, p: float, epsilon: float) -> tuple[Series, Point] | None:
    """Return the worst case over attacks at an epsilon, or else the strongest attack there."""
    for series in (run.worst, run.series):
        known = [(one, point) for one in series if one.p == p and (point := one.at(epsilon))]
        if known:
            return min(known, key=lambda pair: pair[1].accuracy)
    return None


def _unfinished(run: Run) -> bool:
    """Return whether a run, whose folder may have lost its record, has tasks left."""
    return (run.results.folder / "run.json").exists() and not run.results.complete
