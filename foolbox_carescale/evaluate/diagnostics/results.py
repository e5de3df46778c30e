"""Diagnostics of the results of a run, from its stored rows."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...attacks.registry import kind_of
from ...core.fractions import format_epsilon
from ..config.types import norm_name
from ..statistics import chance_of_more, wilson
from ..store.columns import Columns, SettingRows
from ..store.folder import RunFolder
from ..store.results import Results
from .diagnostic import FEW, Array, Diagnostic

SINGLE = 5
"""Fewer samples than that are single images, whatever their share."""

CHANCE = 0.01
"""A difference between two attacks on the same samples is reported only where a fair coin would
give it, or a greater one, less often than this."""

MARGIN, EFFORT = 0.1, 2.0
"""An attack is far behind another if it leaves this much more robust accuracy, though it took
this many times its gradients."""

MIXED = 0.05
"""Difference of a clean image's losses, relative to 1 + the loss, above which two models differ."""

TOLERATED = 1e-4
"""Relative excess over epsilon that rounding in float32 may cause."""

ORDER = {"noise": 0, "single gradient": 1, "gradient": 2, "minimum norm": 2, "ensemble": 2}
"""Kinds of attacks: one should do no worse than any of a lower number."""


WIDEST = 0.5
"""Samples are few where a 95% interval of accuracy 0.5 is wider than this: fewer than 12."""


def of_results(results: Results) -> list[Diagnostic]:
    """Return the diagnostics of a run's results, complete or not."""
    columns = results.columns("attack", "attack_name", "p", "epsilon")
    settings = _settings(columns)
    return [
        *_skipped(results, settings),
        *_few_samples(settings),
        *_mixed_models(columns),
        *_clean_not_finite(columns),
        *_not_finite(settings),
        *_outside(settings),
        *_beyond_epsilon(settings),
        *_beyond_reach(settings),
        *_robust_beyond_reach(settings),
        *_non_monotonic(settings),
        *_weaker_than_expected(settings),
        *_underperforming(settings),
        *_lost_by_rounding(settings),
    ]


@dataclass(frozen=True)
class _Setting:
    """A setting, and what its rows show, column by column.

    Attributes:
        samples: Ascending.
        robust, attacked: Of each of them.
        minimises: Whether it is of a minimum-norm attack.
        overflowed: Perturbed images whose logits are not finite, while those of the clean are.
        outside: Images that the attack returned outside the bounds.
        beyond, longest: Perturbations longer than epsilon that it returned, and the greatest ratio.
        unreachable: Attacked samples whose largest norm inside the bounds is below epsilon.
        survivors: Robust samples although epsilon covers the whole box.
        gradients: Of a sample, on average; NaN if they were not counted.
        adversarial, rounded: Adversarial examples, and those lost by 8-bit quantisation.
    """

    attack: str
    kind: str | None
    p: float
    epsilon: float
    samples: Array
    robust: Array
    attacked: Array
    minimises: bool
    overflowed: int
    outside: int
    beyond: int
    longest: float
    unreachable: int
    survivors: Array
    gradients: float
    adversarial: int
    rounded: int

    @property
    def name(self) -> str:
        return f"{self.attack}, {norm_name(self.p)} {format_epsilon(self.epsilon)}"


def _settings(columns: Columns) -> list[_Setting]:
    """Read one column after the other; all at once would be most of the run."""
    settings = columns.settings
    robust, attacked = columns.column("robust"), columns.column("attacked")
    epsilons = [one.about["epsilon"] for one in settings]
    facts: list[dict[str, Any]] = [{} for _ in settings]

    def each(name: str) -> Iterator[tuple[dict[str, Any], SettingRows, float, Array]]:
        column = columns.column(name)
        for fact, one, epsilon in zip(facts, settings, epsilons, strict=True):
            yield fact, one, epsilon, column[one.rows]

    for fact, _, _, minimum in each("minimum_norm"):
        fact["minimises"] = not np.isnan(minimum).all()
    finite = np.isfinite(columns.column("clean_loss"))
    for fact, one, _, loss in each("loss"):
        fact["overflowed"] = int((finite[one.rows] & ~np.isfinite(loss)).sum())
    for fact, _, _, inside in each("in_bounds"):
        fact["outside"] = int((inside == 0).sum())
    for fact, _, epsilon, returned in each("returned_norm"):
        ratios = returned / epsilon
        fact["beyond"] = int((ratios > 1 + TOLERATED).sum())
        fact["longest"] = float(np.fmax.reduce(ratios, initial=1.0))
    for fact, one, epsilon, reachable in each("reachable_norm"):
        beyond = epsilon > reachable * (1 + 1e-6)
        fact["unreachable"] = int((beyond & attacked[one.rows]).sum())
        fact["survivors"] = one.samples[(epsilon >= reachable) & robust[one.rows]]
    for fact, _, _, gradients in each("backward_passes"):
        counted = not np.isnan(gradients).all()
        fact["gradients"] = float(np.nanmean(gradients)) if counted else float("nan")
    success = columns.column("success") == 1
    for fact, one, _, kept in each("quantised_success"):
        fact["adversarial"] = int((success[one.rows] & ~np.isnan(kept)).sum())
        fact["rounded"] = int((success[one.rows] & (kept == 0)).sum())
    return [
        _Setting(
            attack=one.about["attack"],
            kind=kind_of(one.about["attack_name"]),
            p=one.about["p"],
            epsilon=epsilon,
            samples=one.samples,
            robust=robust[one.rows],
            attacked=attacked[one.rows],
            **fact,
        )
        for one, epsilon, fact in zip(settings, epsilons, facts, strict=True)
    ]


def _skipped(results: Results, settings: list[_Setting]) -> Iterator[Diagnostic]:
    skipped = RunFolder(results.folder).skipped()
    if skipped:
        count = max((len(setting.samples) for setting in settings), default=0)
        yield Diagnostic(
            "skipped",
            f"{len(skipped)} of {count + len(skipped)} samples could not be read and are left out"
            f" of all numbers: {_listed(map(str, skipped))} ({next(iter(skipped.values()))})",
            "skipped/ in the run folder names each; repair or remove them",
        )


def _few_samples(settings: list[_Setting]) -> Iterator[Diagnostic]:
    count = max((len(setting.samples) for setting in settings), default=0)
    low, high = wilson(count // 2, count)
    if count and high - low > WIDEST:
        yield Diagnostic(
            "few_samples",
            f"there are only {count} samples, so 95% intervals are up to {high - low:.2f} wide",
            "evaluate more samples before you compare or quote numbers",
        )


def _mixed_models(columns: Columns) -> Iterator[Diagnostic]:
    """Find samples whose clean images lost differently under different attacks."""
    losses, names = columns.column("clean_loss"), np.empty(0, np.int64)
    for setting in columns.settings:
        if setting.samples is not names:
            names = np.union1d(names, setting.samples) if len(names) else setting.samples
    least, most = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for setting in columns.settings:
        places, own = np.searchsorted(names, setting.samples), losses[setting.rows]
        least[places] = np.fmin(least[places], own)
        most[places] = np.fmax(most[places], own)
    with np.errstate(invalid="ignore"):  # infinite ones are another diagnostic
        differ = most - least > MIXED * (1 + np.abs(least))
    if differ.any():
        first = int(np.flatnonzero(differ)[0])
        yield Diagnostic(
            "mixed_models",
            f"{int(differ.sum())} of {len(names)} clean images have different losses in different"
            f" attacks, sample {names[first]} from {least[first]:.3g} to {most[first]:.3g}, so the"
            " rows come from different models",
            "compute the run again in a new folder, with a model that answers the same each time",
        )


def _clean_not_finite(columns: Columns) -> Iterator[Diagnostic]:
    """Find overflow of clean images, all of them: a few were tried before the first attack."""
    bad = ~np.isfinite(columns.column("clean_loss"))
    if bad.any():
        names = np.unique(np.concatenate([one.samples[bad[one.rows]] for one in columns.settings]))
        yield Diagnostic(
            "overflow",
            f"the logits of {len(names)} clean images are not finite (sample"
            f" {_listed(map(str, names))}), so their predictions mean nothing",
            "look at these images; compute in float32, or look for 0/0 and log(0)",
        )


def _not_finite(settings: list[_Setting]) -> Iterator[Diagnostic]:
    """Find overflow under attack."""
    found, overflowed, total = [], 0, 0
    for setting in settings:
        if setting.overflowed:
            found.append(setting.name)
            overflowed += setting.overflowed
            total += int(setting.attacked.sum())
    if found:
        yield Diagnostic(
            "overflow",
            f"the logits of {overflowed} of {total} perturbed images are not finite"
            f" ({_listed(found)}), so chance decides which of them are adversarial",
            "compute in float32, scale the logits down, or look for 0/0 and log(0)",
        )


def _outside(settings: list[_Setting]) -> Iterator[Diagnostic]:
    found = [setting for setting in settings if setting.outside]
    if found:
        total = sum(int(setting.attacked.sum()) for setting in found)
        yield Diagnostic(
            "bounds",
            f"{sum(setting.outside for setting in found)} of {total} images that an attack"
            f" returned were outside the bounds ({_listed(setting.name for setting in found)});"
            " they were clipped before they were evaluated",
            "use an attack that respects the model's bounds",
        )


def _beyond_epsilon(settings: list[_Setting]) -> Iterator[Diagnostic]:
    """Find attacks that return more than epsilon, which Foolbox cuts before it judges."""
    found = [setting for setting in settings if setting.beyond]
    if found:
        total = sum(int(setting.attacked.sum()) for setting in found)
        longest = max(setting.longest for setting in found)
        yield Diagnostic(
            "oversteps_epsilon",
            f"{sum(setting.beyond for setting in found)} of {total} perturbations that an attack"
            f" returned were longer than epsilon, by up to {longest - 1:.2%}"
            f" ({_listed(setting.name for setting in found)}); they were cut to epsilon before"
            " they were evaluated",
            "use an attack that keeps to epsilon: what is cut may no longer be adversarial",
        )


def _beyond_reach(settings: list[_Setting]) -> Iterator[Diagnostic]:
    found = [setting for setting in settings if setting.unreachable]
    if found:
        total = sum(int(setting.attacked.sum()) for setting in found)
        yield Diagnostic(
            "unreachable_epsilon",
            f"epsilon is above the largest norm inside the bounds for"
            f" {sum(setting.unreachable for setting in found)} of {total} perturbations"
            f" ({_listed(setting.name for setting in found)})",
            "leave these epsilons out: the measured norm there is below epsilon",
        )


def _robust_beyond_reach(settings: list[_Setting]) -> Iterator[Diagnostic]:
    """Find samples that are robust at an epsilon within which every image of the box lies."""
    for p, epsilon in sorted({(setting.p, setting.epsilon) for setting in settings}):
        same = [c for c in settings if (c.p, c.epsilon) == (p, epsilon) and c.kind != "noise"]
        left = functools.reduce(np.intersect1d, [c.survivors for c in same]) if same else ()
        if len(left):
            yield Diagnostic(
                "reaches_everything",
                f"{len(left)} of {len(same[0].samples)} samples are still robust at"
                f" {norm_name(p)} {format_epsilon(epsilon)}, although epsilon covers the whole box,"
                " which contains images of other classes",
                "do not trust the smaller epsilons either: look for masked gradients, and try"
                " more steps, another loss or a gradient-free attack",
            )


def _non_monotonic(settings: list[_Setting]) -> Iterator[Diagnostic]:
    for attack in dict.fromkeys(setting.attack for setting in settings):
        own = sorted((c for c in settings if c.attack == attack), key=lambda c: c.epsilon)
        for number, setting in enumerate(own[1:], start=1):
            lowest = min(own[:number], key=lambda c: float(c.robust.mean()))
            more = _significantly_more(setting, lowest)
            if more is not None:
                yield Diagnostic(
                    "non_monotonic",
                    f"robust accuracy under {attack} rises from {more[1]:.3f} at"
                    f" {norm_name(setting.p)} {format_epsilon(lowest.epsilon)} to {more[0]:.3f} at"
                    f" {format_epsilon(setting.epsilon)} ({more[2]} samples)",
                    "a larger ball contains the smaller one, so the attack fails at the larger one:"
                    " use more steps or a smaller step, or report the best over smaller epsilons",
                )
                break


def _weaker_than_expected(settings: list[_Setting]) -> Iterator[Diagnostic]:
    reported = set()
    for strong, weak in _pairs(settings):
        if strong.kind not in ORDER or weak.kind not in ORDER:
            continue
        if ORDER[strong.kind] <= ORDER[weak.kind]:
            continue
        more = _significantly_more(strong, weak)
        if more is not None and (strong.attack, weak.attack) not in reported:
            reported.add((strong.attack, weak.attack))
            yield Diagnostic(
                "weaker_than_simpler",
                f"{strong.attack} ({strong.kind}) leaves robust accuracy {more[0]:.3f} at"
                f" {norm_name(strong.p)} {format_epsilon(strong.epsilon)}, while {weak.attack}"
                f" ({weak.kind}) leaves {more[1]:.3f} ({more[2]} samples)",
                "this suggests masked gradients: check the gradients, the steps and the step"
                " size, and report the worst case over attacks",
            )


def _underperforming(settings: list[_Setting]) -> Iterator[Diagnostic]:
    worst: dict[str, tuple[float, str]] = {}
    for slow, quick in _pairs(settings):
        gradients, fewer = slow.gradients, quick.gradients
        if np.isnan([gradients, fewer]).any():
            continue
        more = _significantly_more(slow, quick)
        if more is None or more[0] - more[1] < MARGIN:
            continue
        if fewer >= 1 and gradients >= EFFORT * fewer:
            behind = more[0] - more[1]
            text = (
                f"{slow.attack} leaves robust accuracy {more[0]:.3f} at {norm_name(slow.p)}"
                f" {format_epsilon(slow.epsilon)} after {gradients:.0f} gradient evaluations per"
                f" sample, while {quick.attack} leaves {more[1]:.3f} after {fewer:.0f}"
                f" ({more[2]} samples)"
            )
            if behind > worst.get(slow.attack, (0.0, ""))[0]:
                worst[slow.attack] = behind, text
    for _, text in worst.values():
        yield Diagnostic("underperforms", text, "check its settings before you quote its numbers")


def _lost_by_rounding(settings: list[_Setting]) -> Iterator[Diagnostic]:
    found, lost, total = [], 0, 0
    for setting in settings:
        if setting.minimises:
            continue  # the nearest adversarial examples lie on the boundary by intent
        if setting.rounded >= SINGLE and setting.rounded > FEW * setting.adversarial:
            found.append(setting.name)
            lost, total = lost + setting.rounded, total + setting.adversarial
    if found:
        yield Diagnostic(
            "rounding",
            f"{lost} of {total} adversarial examples are no longer adversarial after 8-bit"
            f" quantisation ({_listed(found)})",
            "store them as floats, and do not quote these epsilons for image files",
        )


def _pairs(settings: list[_Setting]) -> Iterator[tuple[_Setting, _Setting]]:
    """Yield ordered pairs of different attacks at the same p and epsilon."""
    groups: dict[tuple[float, float], list[_Setting]] = {}
    for setting in settings:
        groups.setdefault((setting.p, setting.epsilon), []).append(setting)
    for group in groups.values():
        yield from ((a, b) for a in group for b in group if a.attack != b.attack)


def _significantly_more(one: _Setting, other: _Setting) -> tuple[float, float, int] | None:
    """Return both robust accuracies on the shared samples, if the first is higher beyond chance."""
    _, i, j = np.intersect1d(one.samples, other.samples, assume_unique=True, return_indices=True)
    if not len(i):
        return None
    a, b = one.robust[i], other.robust[j]
    if chance_of_more(int((a & ~b).sum()), int((b & ~a).sum())) > CHANCE:
        return None
    return float(a.mean()), float(b.mean()), len(i)


def _listed(names: Iterable[str], few: int = 3) -> str:
    names = list(names)
    rest = f" and {len(names) - few} more" if len(names) > few else ""
    return "; ".join(names[:few]) + rest
