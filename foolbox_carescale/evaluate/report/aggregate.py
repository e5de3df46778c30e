"""From the rows of runs to what tables, figures and the page show: counts, means, histograms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...core.fractions import format_epsilon
from .. import diagnostics
from ..config.types import norm_name
from ..errors import UserError, printable
from ..serialization import flatten_keys, from_yaml
from ..statistics import difference, wilson
from ..store.folder import RunFolder
from ..store.results import NORM_COLUMNS, Results, by_setting, minimum_norms

QUANTITIES = ("norm_over_epsilon", "loss", "forward_passes", "backward_passes")
"""Columns whose distributions are shown, over the attacked samples."""

BINS = 40

MANY_CLASSES = 40
"""More than that are shown as a sorted profile and its two ends, not one by one."""

WORST_CASE = "worst case over attacks"
"""Name of the curve that counts a sample as robust if it withstands every attack."""

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
        versions: Of the packages that made it, as one line.
        diagnostics: Reasons not to trust its numbers.
        inputs: By sample, what identifies its image and label.
    """

    name: str
    results: Results
    model: str
    data: str
    clean: tuple[int, int]
    series: list[Series]
    worst: list[Series]
    config: str
    versions: str
    diagnostics: list[diagnostics.Diagnostic]
    inputs: dict[int, tuple[str, int]]

    @property
    def clean_accuracy(self) -> float:
        """Return the share of correctly classified samples."""
        return self.clean[0] / self.clean[1]


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
    series, inputs, clean, about = _read_rows(results)
    folder = RunFolder(results.folder)
    config = _config(folder)
    return Run(
        name=name,
        results=results,
        model=about["model"],
        data=about["data"],
        clean=clean,
        series=series,
        worst=_worst(series),
        config=config,
        versions=config.partition("\n")[0].removeprefix("# ") if config.startswith("# ") else "",
        diagnostics=_diagnostics(folder),
        inputs=inputs,
    )


def _config(folder: RunFolder) -> str:
    text = folder.read_config()
    try:
        from_yaml(text)
    except ValueError as error:
        raise _damaged(folder, "config.yaml") from error
    return text


def _diagnostics(folder: RunFolder) -> list[diagnostics.Diagnostic]:
    try:
        return diagnostics.from_dicts(folder.read_warnings())
    except (TypeError, AttributeError) as error:
        raise _damaged(folder, "warnings.json") from error


def _damaged(folder: RunFolder, name: str) -> UserError:
    return UserError(f"{folder.path / name}: is damaged; remove it to report the run without it")


def _read_rows(
    results: Results,
) -> tuple[list[Series], dict[int, tuple[str, int]], tuple[int, int], dict[str, str]]:
    """Return series, inputs, correctly classified and all samples, and names of model and data."""
    fixed = ("model", "data", "attack", "attack_name", "attack_params", "library", "p", "epsilon")
    flags = ("robust", "attacked", "success", "quantised_success")
    others = (*QUANTITIES, *NORM_COLUMNS, "seconds", "label", "input_hash")
    rows = results.select(*fixed, *flags, *others)
    norms = {attack: found.norms for attack, found in minimum_norms(rows).items()}
    classes = int(np.max(rows["label"].to_numpy(), initial=-1)) + 1
    made: dict[str, Series] = {}
    inputs: dict[int, tuple[str, int]] = {}
    correct: dict[int, bool] = {}
    about: dict[str, Any] = {}
    for setting in by_setting(rows):
        about = {key: setting[key][0].as_py() for key in fixed}
        if not np.diff(setting["sample"].to_numpy()).all():
            raise UserError(
                f"{results.folder}: samples of {about['attack']!r} at epsilon"
                f" {format_epsilon(about['epsilon'])} are stored twice; remove results/ and run it"
                " again"
            )
        attack, name, params, library, p = (about[key] for key in fixed[2:-1])
        own = made.setdefault(
            attack, Series(attack, name, params, library, float(p), [], norms.get(attack))
        )
        own.points.append(_point(setting, float(about["epsilon"]), classes))
        if len(own.points) == 1:  # the other settings hold the same samples, or fewer
            samples = setting["sample"].to_pylist()
            known = zip(
                setting["input_hash"].to_pylist(), setting["label"].to_pylist(), strict=True
            )
            inputs |= dict(zip(samples, known, strict=True))
            correct |= dict(zip(samples, setting["attacked"].to_pylist(), strict=True))
    for one in made.values():
        one.points.sort(key=lambda point: point.epsilon)
    series = sorted(made.values(), key=lambda one: one.p)
    return series, inputs, (sum(correct.values()), len(correct)), about


def _point(setting: pa.Table, epsilon: float, classes: int) -> Point:
    attacked, robust = setting["attacked"].to_numpy(), setting["robust"].to_numpy()
    label = setting["label"].to_numpy()
    numbers = {q: setting[q].cast("double").to_numpy()[attacked] for q in QUANTITIES}
    success = setting["success"].cast("double").to_numpy() == 1
    kept = setting["quantised_success"].cast("double").to_numpy()[success]
    kept = kept[~np.isnan(kept)]
    counts = [np.bincount(label, weights, classes) for weights in (None, robust)]
    return Point(
        epsilon=epsilon,
        samples=setting["sample"].to_numpy(),
        robust=robust,
        attacked=int(attacked.sum()),
        values={q: v[np.isfinite(v)] for q, v in numbers.items()},
        seconds=float(np.nansum(setting["seconds"].to_numpy())),
        quantised=float(kept.mean()) if len(kept) else None,
        classes=np.stack(counts).astype(int),
    )


def _worst(series: list[Series]) -> list[Series]:
    """Return the worst case of each norm with several attacks.

    An adversarial example of a smaller epsilon, or norm, counts at larger ones.
    """
    found = []
    for p in sorted({one.p for one in series}):
        own = [one for one in series if one.p == p]
        if len(own) < 2:
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
