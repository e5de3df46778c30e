"""Diagnostics of the results of a run, from its stored rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ...attacks.registry import kind_of
from ...core.fractions import format_epsilon
from ..config.types import norm_name
from ..statistics import chance_of_more, wilson
from ..store.results import Results, by_setting
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
    settings = list(_settings(results))
    return [
        *_few_samples(settings),
        *_mixed_models(settings),
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
    attack: str
    kind: str | None
    p: float
    epsilon: float
    samples: Array  # ascending
    robust: Array
    attacked: Array
    columns: dict[str, Array]

    @property
    def name(self) -> str:
        return f"{self.attack}, {norm_name(self.p)} {format_epsilon(self.epsilon)}"


def _settings(results: Results) -> Iterator[_Setting]:
    measured = (
        *("in_bounds", "returned_norm", "minimum_norm", "reachable_norm"),
        *("backward_passes", "success", "quantised_success"),
        *("clean_loss", "loss"),
    )
    fixed = ("attack", "attack_name", "p", "epsilon")
    rows = results.select(*fixed, "robust", "attacked", *measured)
    for setting in by_setting(rows):
        attack, name, p, epsilon = (setting[key][0].as_py() for key in fixed)
        yield _Setting(
            attack=attack,
            kind=kind_of(name),
            p=p,
            epsilon=epsilon,
            samples=setting["sample"].to_numpy(),
            robust=setting["robust"].to_numpy(),
            attacked=setting["attacked"].to_numpy(),
            columns={key: setting[key].cast("double").to_numpy() for key in measured},  # NaN: null
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


def _mixed_models(settings: list[_Setting]) -> Iterator[Diagnostic]:
    """Find samples whose clean images lost differently under different attacks."""
    if not settings:
        return
    losses = np.concatenate([setting.columns["clean_loss"] for setting in settings])
    samples = np.concatenate([setting.samples for setting in settings])
    names, position = np.unique(samples, return_inverse=True)
    least, most = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    np.fmin.at(least, position, losses)
    np.fmax.at(most, position, losses)
    with np.errstate(invalid="ignore"):  # infinite ones are another diagnostic
        differ = most - least > MIXED * (1 + np.abs(least))
    if differ.any():
        first = int(np.flatnonzero(differ)[0])
        yield Diagnostic(
            "mixed_models",
            f"{int(differ.sum())} of {len(names)} clean images have different losses in different"
            f" attacks, sample {names[first]} from {least[first]:.3g} to {most[first]:.3g}, so the"
            " rows come from different models",
            "compute the run again in a new folder; make the model answer the same each time",
        )


def _not_finite(settings: list[_Setting]) -> Iterator[Diagnostic]:
    """Find overflow under attack; that of clean images is found before the first attack."""
    found, overflowed, total = [], 0, 0
    for setting in settings:
        clean, loss = setting.columns["clean_loss"], setting.columns["loss"]
        if n := int((np.isfinite(clean) & ~np.isfinite(loss)).sum()):
            found.append(setting.name)
            overflowed, total = overflowed + n, total + int(setting.attacked.sum())
    if found:
        yield Diagnostic(
            "overflow",
            f"the logits of {overflowed} of {total} perturbed images are not finite"
            f" ({_listed(found)}), so chance decides which of them are adversarial",
            "compute in float32, scale the logits down, or look for 0/0 and log(0)",
        )


def _outside(settings: list[_Setting]) -> Iterator[Diagnostic]:
    found = [
        (setting, n)
        for setting in settings
        if (n := int((setting.columns["in_bounds"] == 0).sum()))
    ]
    if found:
        total = sum(int(setting.attacked.sum()) for setting, _ in found)
        yield Diagnostic(
            "bounds",
            f"{sum(n for _, n in found)} of {total} images that an attack returned were outside"
            f" the bounds ({_listed(setting.name for setting, _ in found)}); they were clipped"
            " before they were evaluated",
            "use an attack that respects the model's bounds",
        )


def _beyond_epsilon(settings: list[_Setting]) -> Iterator[Diagnostic]:
    """Find attacks that return more than epsilon, which Foolbox cuts before it judges."""
    found, total, most = [], 0, 1.0
    for setting in settings:
        ratios = setting.columns["returned_norm"] / setting.epsilon
        n = int((ratios > 1 + TOLERATED).sum())
        if n:
            found.append((setting, n))
            total, most = total + int(setting.attacked.sum()), max(most, float(np.nanmax(ratios)))
    if found:
        yield Diagnostic(
            "oversteps_epsilon",
            f"{sum(n for _, n in found)} of {total} perturbations that an attack returned were"
            f" longer than epsilon, by up to {most - 1:.2%}"
            f" ({_listed(setting.name for setting, _ in found)}); they were cut to epsilon before"
            " they were evaluated",
            "use an attack that keeps to epsilon: what is cut may no longer be adversarial",
        )


def _beyond_reach(settings: list[_Setting]) -> Iterator[Diagnostic]:
    found = []
    for setting in settings:
        beyond = setting.epsilon > setting.columns["reachable_norm"] * (1 + 1e-6)
        n = int((beyond & setting.attacked).sum())
        if n:
            found.append((setting, n))
    if found:
        total = sum(int(setting.attacked.sum()) for setting, _ in found)
        yield Diagnostic(
            "unreachable_epsilon",
            f"epsilon is above the largest norm inside the bounds for"
            f" {sum(n for _, n in found)} of {total} perturbations"
            f" ({_listed(setting.name for setting, _ in found)})",
            "leave these epsilons out: the measured norm there is below epsilon",
        )


def _robust_beyond_reach(settings: list[_Setting]) -> Iterator[Diagnostic]:
    """Find samples that are robust at an epsilon within which every image of the box lies."""
    for p, epsilon in sorted({(setting.p, setting.epsilon) for setting in settings}):
        same = [c for c in settings if (c.p, c.epsilon) == (p, epsilon) and c.kind != "noise"]
        left: set[int] | None = None
        for setting in same:
            reached = epsilon >= setting.columns["reachable_norm"]
            robust = set(setting.samples[reached & setting.robust].tolist())
            left = robust if left is None else left & robust
        if left:
            yield Diagnostic(
                "reaches_everything",
                f"{len(left)} of {len(same[0].samples)} samples are still robust at"
                f" {norm_name(p)} {format_epsilon(epsilon)}, although epsilon covers the whole box,"
                " with images of other classes",
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
        efforts = [setting.columns["backward_passes"] for setting in (slow, quick)]
        if any(np.isnan(effort).all() for effort in efforts):
            continue
        gradients, fewer = (float(np.nanmean(effort)) for effort in efforts)
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
        if not np.isnan(setting.columns["minimum_norm"]).all():
            continue  # the nearest adversarial examples lie on the boundary by intent
        success, kept = setting.columns["success"], setting.columns["quantised_success"]
        of = (success == 1) & ~np.isnan(kept)
        gone = of & (kept == 0)
        if gone.sum() >= SINGLE and gone.sum() > FEW * of.sum():
            found.append(setting.name)
            lost, total = lost + int(gone.sum()), total + int(of.sum())
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
