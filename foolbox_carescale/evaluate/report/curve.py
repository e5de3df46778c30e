"""Robust accuracy at any epsilon, from the norms that minimum-norm attacks found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ...core.fractions import parse_fraction
from ..config.types import norm_name
from ..errors import UserError, nearest
from ..statistics import wilson
from ..store.results import Results
from .aggregate import Run

BEYOND = 3
"""A curve is drawn up to this many times beyond the epsilons asked for, as far as norms reach."""

QUANTILES = (0.1, 0.5, 0.9)
"""Shares of the samples whose minimum norms tables show."""

Array = npt.NDArray[Any]
Epsilons: TypeAlias = Sequence[float] | Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class CurvePoint:
    """Robust accuracy under a minimum-norm attack at an epsilon, with its 95% interval."""

    attack: str
    p: float
    epsilon: float
    samples: int
    robust_accuracy: float
    low: float
    high: float


def accuracy_at(results: Results, epsilons: Epsilons) -> list[CurvePoint]:
    """Return robust accuracies of a run's minimum-norm attacks at epsilons of your choice.

    They come from the stored norms; nothing is run.

    Args:
        results: The run.
        epsilons: For every norm, or by name of the norm, such as ``{"L2": [0.1, 0.2]}``.

    Returns:
        By attack, in the run's order, and by epsilon.

    Raises:
        UserError: An epsilon is not positive and finite, there is no such attack in the run, or it
            attacked nothing.
    """
    found = results.minimum_norms()
    if not found:
        if not results.clean_accuracy:
            raise UserError(
                f"epsilons: nothing was attacked in {results.folder}, as the model classifies no"
                " clean sample correctly; its accuracy is 0 at every epsilon"
            )
        raise UserError(
            f"epsilons: {results.folder} has no minimum-norm attack, whose norms serve every"
            " epsilon; evaluate one, such as L2ClipAwareMinimumNorm"
        )
    names = list(dict.fromkeys(norm_name(one.p) for one in found.values()))
    check_epsilons(epsilons)
    chosen = epsilons if isinstance(epsilons, Mapping) else dict.fromkeys(names, epsilons)
    for name in chosen:
        if name not in names:
            raise UserError(
                f"epsilons: no minimum-norm attack in {results.folder} has the norm {name!r};"
                f" {nearest(name, names)}"
            )
    points = []
    for one in found.values():
        for epsilon in sorted(set(chosen.get(norm_name(one.p), ()))):
            robust = one.robust(epsilon)
            interval = wilson(int(robust.sum()), len(robust))
            accuracy = float(robust.mean())
            points.append(CurvePoint(one.attack, one.p, epsilon, len(robust), accuracy, *interval))
    return points


def check_epsilons(epsilons: Epsilons) -> None:
    """Raise a UserError where an epsilon is not positive and finite."""
    lists = epsilons.values() if isinstance(epsilons, Mapping) else [epsilons]
    for value in (value for values in lists for value in values):
        if not 0 < value < math.inf:
            raise UserError(f"epsilons: {value!r} is not positive and finite")


def parse_epsilons(words: Sequence[str], name: str = "epsilons") -> Epsilons:
    """Return what ``accuracy_at`` takes, from words such as 0.1, 8/255 or L2=0.1,0.2.

    Raises:
        UserError: A word is none of these, or only some name a norm.
    """
    named = {
        norm: values for norm, is_named, values in (w.partition("=") for w in words) if is_named
    }
    if not named:
        return [parse_epsilon(text, name) for word in words for text in word.split(",")]
    if len(named) < len(words) or "" in named:
        raise UserError(
            f"{name}: name the norm once for each, as in L2=0.1,0.2 Linf=8/255, or never"
        )
    return {
        norm: [parse_epsilon(text, name) for text in values.split(",")]
        for norm, values in named.items()
    }


def parse_epsilon(text: str, name: str = "epsilons") -> float:
    """Return the number of 0.1 or 8/255; raise a UserError that names it where it is none."""
    try:
        value = float(parse_fraction(text))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"{name}: {text!r} is no positive number; give one such as 0.1 or 8/255")
    return value


def extent(runs: Sequence[Run], p: float) -> tuple[float, float]:
    """Return the least and the greatest epsilon that a chart of one norm shows."""
    series = [one for run in runs for one in run.series if one.p == p]
    asked = [point.epsilon for one in series for point in one.points]
    norms = np.concatenate([asked, *(one.norms for one in series if one.norms is not None)])
    norms = norms[(norms > 0) & (norms < math.inf)]
    low = max(float(norms.min()), min(asked) / BEYOND)
    high = min(float(norms.max()), max(asked) * BEYOND)
    return low, high


def steps(norms: Array, ends: tuple[float, float], most: int) -> tuple[Array, Array]:
    """Return a curve as epsilons and the number of samples that are robust from there on.

    Args:
        norms: Of every sample.
        ends: Where the curve begins and ends.
        most: Number of norms between them; of more, some are left out.
    """
    low, high = ends
    between = np.unique(norms[(norms > low) & (norms < high)])
    if len(between) > most:
        between = between[np.linspace(0, len(between) - 1, most).round().astype(int)]
    epsilons = np.array([low, *between, high])
    ordered = np.sort(norms)
    return epsilons, len(ordered) - np.searchsorted(ordered, epsilons, side="right")
