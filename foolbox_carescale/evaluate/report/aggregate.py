"""From the rows of runs to what tables, figures and the page show: counts, means, histograms."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...attacks.registry import kind_of
from .. import diagnostics
from ..config.types import ReportConfig, norm_name
from ..config.validation import read
from ..errors import UserError, printable
from ..serialization import flatten_keys, from_yaml
from ..statistics import difference
from ..store.folder import RunFolder
from ..store.results import Results
from .series import Point, Series, read_inputs, read_series

BINS = 40

MANY_CLASSES = 40
"""More than that are shown as a sorted profile and its two ends, not one by one."""

WORST_CASE = "worst case over attacks"
"""Name of the curve that counts a sample as robust if it withstands every attack."""

GRADIENT_KINDS = ("single gradient", "gradient", "minimum norm", "ensemble")
"""Kinds of attacks without which there is no worst case."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Run:
    """A run, ready to be shown.

    Attributes:
        name: Of its folder; unique among the runs that are shown together.
        results: Its rows.
        clean: Correctly classified samples, and samples.
        series: Norms ascending, then the run's order of attacks.
        worst: By p, robust to every attack at this epsilon or a smaller one.
        config: The YAML text.
        headline: By norm, the epsilons that the config chooses for the first screen.
        versions: Of the packages that made it, as one line.
        made: When, on what and from which commit, as one line.
        diagnostics: Reasons not to trust its numbers.
        class_names: By label; empty where neither the data nor the weights name them.
    """

    name: str
    results: Results
    model: str
    data: str
    clean: tuple[int, int]
    series: list[Series]
    worst: list[Series]
    config: str
    headline: dict[str, list[float]]
    versions: str
    made: str
    diagnostics: list[diagnostics.Diagnostic]
    class_names: list[str]

    @property
    def clean_accuracy(self) -> float:
        """Return the share of correctly classified samples."""
        return self.clean[0] / self.clean[1]

    @functools.cached_property
    def inputs(self) -> dict[int, tuple[str, int]]:
        """Return by sample what identifies its image and label: 250 MiB of a million samples."""
        return read_inputs(self.results)

    def class_text(self, label: int, longest: int = 30) -> str:
        """Return a class's number, with the first of its names behind it where it has any."""
        if not 0 <= label < len(self.class_names):
            return str(label)
        name = self.class_names[label].partition(",")[0]
        return f"{label} {name if len(name) <= longest else f'{name[: longest - 1]}…'}"


@dataclass(frozen=True)
class Difference:
    """Robust accuracy of a run minus that of the first run, for the same setting.

    Attributes:
        samples: That the difference is over: those that both runs have, if they have the same.
        paired: Whether they have.
        value, low, high: The difference and its 95% interval.
    """

    run: str
    base: str
    attack: str
    p: float
    epsilon: float
    samples: int
    paired: bool
    accuracy: float
    base_accuracy: float
    value: float
    low: float
    high: float

    @property
    def beyond_chance(self) -> bool:
        """Tell whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def aggregate(results: Sequence[Results]) -> list[Run]:
    """Aggregate runs that are shown together, and give them names that differ."""
    names = [printable(one.folder.resolve().name) for one in results]
    names = [
        printable(str(one.folder)) if names.count(name) > 1 else name
        for name, one in zip(names, results, strict=True)
    ]
    if len(set(names)) < len(names):
        names = [f"{name} ({i})" for i, name in enumerate(names, start=1)]
    return [_run(name, one) for name, one in zip(names, results, strict=True)]


def differences(runs: Sequence[Run]) -> list[Difference]:
    """Compare every run with the first, setting by setting, for the settings that both have."""
    base, found = runs[0], []
    for run in runs[1:]:
        shared = [s for s in run.inputs if base.inputs.get(s) == run.inputs[s]]
        # of few shared samples, the difference of all says more
        paired = 2 * len(shared) >= min(len(run.inputs), len(base.inputs))
        known = {
            (series.attack, series.p, point.epsilon): point
            for series in (*base.series, *base.worst)
            for point in series.points
        }
        for series in (*run.series, *run.worst):
            for point in series.points:
                other = known.get((series.attack, series.p, point.epsilon))
                if other is None:
                    continue
                one, two = _outcomes(point, other, np.array(shared) if paired else None)
                if not len(one) or not len(two):
                    continue
                found.append(
                    Difference(
                        run.name,
                        base.name,
                        series.attack,
                        series.p,
                        point.epsilon,
                        len(one),
                        paired,
                        float(one.mean()),
                        float(two.mean()),
                        *difference(one, two, paired=paired),
                    )
                )
    return found


def config_differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return the keys of the configs whose values are not the same in all runs.

    An attack that some run lacks is one key, with the attack's name as its value.
    """
    contents = [from_yaml(run.config) for run in runs]
    shared = set.intersection(*(set(_attacks(content)) for content in contents))
    leaves = []
    for content in contents:
        named = {
            label: attack if label in shared or not isinstance(attack, dict) else attack.get("name")
            for label, attack in _attacks(content).items()
        }
        leaves.append(
            flatten_keys({**content, "attacks": named} if named else content) if content else {}
        )
    shown = [{key: json.dumps(leaf, default=str) for key, leaf in one.items()} for one in leaves]
    keys = dict.fromkeys(key for one in shown for key in one)
    return [
        (key, [one.get(key, "") for one in shown])
        for key in keys
        if len({one.get(key, "") for one in shown}) > 1
    ]


def _attacks(content: Any) -> dict[str, Any]:
    attacks = content.get("attacks") if isinstance(content, dict) else None
    return attacks if isinstance(attacks, dict) else {}


def _run(name: str, results: Results) -> Run:
    series, clean, about = read_series(results)
    folder = RunFolder(results.folder)
    config = _config(folder)
    # as the runner writes them, in comments
    comments = [line[2:] for line in config.split("\n")[:2] if line.startswith("# ")]
    versions, made = [*comments, "", ""][:2]
    return Run(
        name=name,
        results=results,
        model=about["model"],
        data=about["data"],
        clean=clean,
        series=series,
        worst=_worst(series),
        config=config,
        headline=_headline(folder, config),
        versions=versions,
        made=made,
        diagnostics=_diagnostics(folder),
        class_names=results.class_names,
    )


def _config(folder: RunFolder) -> str:
    text = folder.read_config()
    try:
        from_yaml(text)
    except ValueError as error:
        raise _damaged(folder, "config.yaml") from error
    return text


def _headline(folder: RunFolder, config: str) -> dict[str, list[float]]:
    content = from_yaml(config)
    report = content.get("report") if isinstance(content, dict) else None
    try:
        return read(ReportConfig, report or {}).epsilons
    except UserError as error:
        raise UserError(f"{folder.path / 'config.yaml'}: report.{error.args[0]}") from None


def _diagnostics(folder: RunFolder) -> list[diagnostics.Diagnostic]:
    try:
        return diagnostics.from_dicts(folder.read_warnings())
    except (TypeError, AttributeError) as error:
        raise _damaged(folder, "warnings.json") from error


def _damaged(folder: RunFolder, name: str) -> UserError:
    return UserError(f"{folder.path / name}: is damaged; remove it to report the run without it")


def _worst(series: list[Series]) -> list[Series]:
    """Return the worst case of each norm with several attacks, one of which uses gradients.

    Noise alone is no worst case. An adversarial example of a smaller epsilon, or norm, counts at
    larger ones.
    """
    found = []
    for p in sorted({one.p for one in series}):
        own = [one for one in series if one.p == p]
        if len(own) < 2 or not any(map(_uses_gradients, own)):
            continue
        settings = sorted((point for one in own for point in one.points), key=lambda c: c.epsilon)
        samples = settings[0].samples
        for setting in settings:  # of a run that was stopped, settings may hold different samples
            samples = np.intersect1d(samples, setting.samples, assume_unique=True)
        if not len(samples):
            continue
        norms = np.full(len(samples), np.inf)
        for setting in settings:
            robust = setting.robust[np.searchsorted(setting.samples, samples)]
            norms = np.where(robust, norms, np.minimum(norms, setting.epsilon))
        for one in own:
            if one.norms is not None:
                places = np.searchsorted(one.points[0].samples, samples)
                norms = np.minimum(norms, one.norms[places])
        points = {
            c.epsilon: Point(c.epsilon, samples, norms > c.epsilon, c.attacked) for c in settings
        }
        name = json.dumps([one.attack for one in own])
        every = list(points.values())
        stepped = any(one.norms is not None for one in own)
        found.append(Series(WORST_CASE, "", name, "", p, every, norms if stepped else None))
    return found


def _uses_gradients(series: Series) -> bool:
    """Return whether an attack follows gradients, or looks for a minimum norm."""
    passes = [point.spread("backward_passes") for point in series.points]
    return (
        series.norms is not None
        or kind_of(series.attack_name) in GRADIENT_KINDS
        or any(spread is not None and spread.high > 0 for spread in passes)
    )


def _outcomes(one: Point, other: Point, shared: Array | None) -> tuple[Array, Array]:
    if shared is None:
        return one.robust, other.robust
    both = np.intersect1d(one.samples, other.samples, assume_unique=True)
    both = np.intersect1d(both, shared, assume_unique=True)
    return (
        one.robust[np.searchsorted(one.samples, both)],
        other.robust[np.searchsorted(other.samples, both)],
    )


def title(runs: Sequence[Run]) -> str:
    """Return models and data of the runs, in one line."""
    subjects = dict.fromkeys(f"{run.model} on {run.data}" for run in runs)
    return "; ".join(subjects)


def norms(runs: Sequence[Run]) -> list[tuple[float, str]]:
    """Return orders and names of the norms that any of the runs has."""
    orders = sorted({series.p for run in runs for series in run.series})
    return [(p, norm_name(p)) for p in orders]
