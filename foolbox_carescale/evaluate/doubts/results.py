"""Doubts about the results of a run, from its stored rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from foolbox_carescale.evaluate.config import norm_name
from foolbox_carescale.evaluate.doubts.doubt import FEW, Array, Doubt
from foolbox_carescale.evaluate.results import Results, by_cell
from foolbox_carescale.evaluate.statistics import chance_of_more

SINGLE = 5
"""Fewer samples than that are single images, whatever their share."""

CHANCE = 0.01
"""A difference between two attacks on the same samples is doubted only where a fair coin would
give it, or a greater one, less often than this."""

MARGIN, EFFORT = 0.1, 2.0
"""An attack is far behind another if it leaves this much more robust accuracy, though it took
this many times its gradients."""

STRENGTH = (
    ("random", r"Noise|SaltAndPepper|Blur|Contrast|Inversion"),
    (
        "iterative",
        r"PGD|BIM|Iterative|ProjectedGradient|SparseL1Descent|MIFGSM|FrankWolfe"
        r"|CarliniWagner|DDN|FMN|AutoAttack",
    ),
    ("one-gradient", r"FGM|FGSM|FastGradient"),
)
"""Kinds of attacks, told by their names; the first pattern that is found counts."""

ORDER = {"random": 0, "one-gradient": 1, "iterative": 2}
"""A kind should do no worse than any kind of a lower number."""


def of_results(results: Results) -> list[Doubt]:
    """Doubts about the results of a run, complete or not."""
    cells = list(_cells(results))
    return [
        *_not_finite(cells),
        *_outside(cells),
        *_beyond_reach(cells),
        *_robust_beyond_reach(cells),
        *_rising(cells),
        *_weaker_than_expected(cells),
        *_far_behind(cells),
        *_lost_by_rounding(cells),
    ]


def kind_of(attack: str) -> str | None:
    """``random``, ``one-gradient`` or ``iterative``; None for attacks of no such kind."""
    return next((kind for kind, pattern in STRENGTH if re.search(pattern, attack)), None)


@dataclass(frozen=True)
class _Cell:
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
        return f"{self.attack}, {norm_name(self.p)} {self.epsilon:g}"


def _cells(results: Results) -> Iterator[_Cell]:
    measured = (
        *("in_bounds", "reachable_norm", "backward_passes", "success", "quantised_success"),
        *("clean_loss", "loss"),
    )
    fixed = ("attack", "attack_name", "p", "epsilon")
    rows = results.select(*fixed, "robust", "attacked", *measured)
    for cell in by_cell(rows):
        attack, name, p, epsilon = (cell[key][0].as_py() for key in fixed)
        yield _Cell(
            attack=attack,
            kind=kind_of(name),
            p=p,
            epsilon=epsilon,
            samples=cell["sample"].to_numpy(),
            robust=cell["robust"].to_numpy(),
            attacked=cell["attacked"].to_numpy(),
            columns={key: cell[key].cast("double").to_numpy() for key in measured},  # NaN: null
        )


def _not_finite(cells: list[_Cell]) -> Iterator[Doubt]:
    """Clean images whose logits are not finite are told before the first attack."""
    found, overflowed, total = [], 0, 0
    for cell in cells:
        clean, loss = cell.columns["clean_loss"], cell.columns["loss"]
        if n := int((np.isfinite(clean) & ~np.isfinite(loss)).sum()):
            found.append(cell.name)
            overflowed, total = overflowed + n, total + int(cell.attacked.sum())
    if found:
        yield Doubt(
            "overflow",
            f"the logits of {overflowed} of {total} perturbed images are not finite"
            f" ({_listed(found)}), so that it is chance which of them count as adversarials",
            "compute in bfloat16 or float32, or scale the logits down; look for 0/0 and log(0)",
        )


def _outside(cells: list[_Cell]) -> Iterator[Doubt]:
    found = [(cell, n) for cell in cells if (n := int((cell.columns["in_bounds"] == 0).sum()))]
    if found:
        total = sum(int(cell.attacked.sum()) for cell, _ in found)
        yield Doubt(
            "bounds",
            f"{sum(n for _, n in found)} of {total} images that an attack returned were outside"
            f" the bounds ({_listed(cell.name for cell, _ in found)}); they were clipped before"
            " they were judged",
            "use an attack that keeps to the model's bounds",
        )


def _beyond_reach(cells: list[_Cell]) -> Iterator[Doubt]:
    found = []
    for cell in cells:
        beyond = cell.epsilon > cell.columns["reachable_norm"] * (1 + 1e-6)
        n = int((beyond & cell.attacked).sum())
        if n:
            found.append((cell, n))
    if found:
        total = sum(int(cell.attacked.sum()) for cell, _ in found)
        yield Doubt(
            "reach",
            f"epsilon is above the norm that the bounds let an image reach for"
            f" {sum(n for _, n in found)} of {total} perturbations"
            f" ({_listed(cell.name for cell, _ in found)})",
            "leave these epsilons out: the perturbation there is smaller than its label says",
        )


def _robust_beyond_reach(cells: list[_Cell]) -> Iterator[Doubt]:
    """Every image of the box is within such an epsilon, that of another class too."""
    for p, epsilon in sorted({(cell.p, cell.epsilon) for cell in cells}):
        same = [c for c in cells if (c.p, c.epsilon) == (p, epsilon) and c.kind != "random"]
        left: set[int] | None = None
        for cell in same:
            reached = epsilon >= cell.columns["reachable_norm"]
            robust = set(cell.samples[reached & cell.robust].tolist())
            left = robust if left is None else left & robust
        if left:
            yield Doubt(
                "reaches_everything",
                f"{len(left)} of {len(same[0].samples)} samples are still robust at"
                f" {norm_name(p)} {epsilon:g}, where every image of the box can be reached,"
                " one of another class too",
                "do not trust the smaller epsilons either: look for masked gradients, and try"
                " more steps, another loss or an attack without gradients",
            )


def _rising(cells: list[_Cell]) -> Iterator[Doubt]:
    for attack in dict.fromkeys(cell.attack for cell in cells):
        own = sorted((c for c in cells if c.attack == attack), key=lambda c: c.epsilon)
        for number, cell in enumerate(own[1:], start=1):
            lowest = min(own[:number], key=lambda c: float(c.robust.mean()))
            more = _significantly_more(cell, lowest)
            if more is not None:
                yield Doubt(
                    "rising",
                    f"robust accuracy under {attack} rises from {more[1]:.3f} at"
                    f" {norm_name(cell.p)} {lowest.epsilon:g} to {more[0]:.3f} at"
                    f" {cell.epsilon:g} ({more[2]} samples)",
                    "a larger ball holds the smaller one, so the attack fails at the larger: give"
                    " it more steps or a smaller step, or report the best over smaller epsilons",
                )
                break


def _weaker_than_expected(cells: list[_Cell]) -> Iterator[Doubt]:
    said = set()
    for strong, weak in _pairs(cells):
        if strong.kind is None or weak.kind is None or ORDER[strong.kind] <= ORDER[weak.kind]:
            continue
        more = _significantly_more(strong, weak)
        if more is not None and (strong.attack, weak.attack) not in said:
            said.add((strong.attack, weak.attack))
            yield Doubt(
                "weaker",
                f"{strong.attack} ({strong.kind}) leaves robust accuracy {more[0]:.3f} at"
                f" {norm_name(strong.p)} {strong.epsilon:g}, where {weak.attack} ({weak.kind})"
                f" leaves {more[1]:.3f} ({more[2]} samples)",
                "this is how masked gradients look: check the gradients, the steps and the step"
                " size, and report the worst case of all attacks",
            )


def _far_behind(cells: list[_Cell]) -> Iterator[Doubt]:
    worst: dict[str, tuple[float, str]] = {}
    for slow, quick in _pairs(cells):
        efforts = [cell.columns["backward_passes"] for cell in (slow, quick)]
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
                f" {slow.epsilon:g} after {gradients:.0f} gradients per sample, where"
                f" {quick.attack} leaves {more[1]:.3f} after {fewer:.0f} ({more[2]} samples)"
            )
            if behind > worst.get(slow.attack, (0.0, ""))[0]:
                worst[slow.attack] = behind, text
    for _, text in worst.values():
        yield Doubt("behind", text, "check its settings before its numbers are quoted")


def _lost_by_rounding(cells: list[_Cell]) -> Iterator[Doubt]:
    found, lost, total = [], 0, 0
    for cell in cells:
        success, kept = cell.columns["success"], cell.columns["quantised_success"]
        of = (success == 1) & ~np.isnan(kept)
        gone = of & (kept == 0)
        if gone.sum() >= SINGLE and gone.sum() > FEW * of.sum():
            found.append(cell.name)
            lost, total = lost + int(gone.sum()), total + int(of.sum())
    if found:
        yield Doubt(
            "rounding",
            f"{lost} of {total} adversarials are none any more after rounding to 8 bits"
            f" ({_listed(found)})",
            "store them as floats, and do not quote these epsilons for image files",
        )


def _pairs(cells: list[_Cell]) -> Iterator[tuple[_Cell, _Cell]]:
    """Ordered pairs of different attacks at the same p and epsilon."""
    groups: dict[tuple[float, float], list[_Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.p, cell.epsilon), []).append(cell)
    for group in groups.values():
        yield from ((a, b) for a in group for b in group if a.attack != b.attack)


def _significantly_more(one: _Cell, other: _Cell) -> tuple[float, float, int] | None:
    """Both robust accuracies on the shared samples, if the first is higher beyond chance."""
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
