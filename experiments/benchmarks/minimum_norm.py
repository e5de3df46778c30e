"""Compare minimum-norm attacks at equal numbers of gradients, sample by sample.

    python -m experiments.benchmarks.minimum_norm --output experiments/results
    python -m experiments.benchmarks.minimum_norm --output results --models digits --orders 2
    python -m experiments.benchmarks.minimum_norm --output results --render

Peers: DDN, FMN, ALMA, FAB, PDPGD and minimal APGD of adv-lib (``pip install adv-lib --no-deps``,
and ``tqdm``), with their default parameters; PDPGD also with a tenth of its first step, as its
default does not come below 0.1 in Linf. FAB needs a gradient for each class in an iteration, so it
has a tenth of the iterations on digits, and none on ImageNet. Minimal APGD searches ten epsilons.
Models are those of ``experiments.benchmarks.models``. Every forward and backward pass is counted.
These attacks but minimal APGD draw no random numbers, so there is one run of each.

A line of ``minimum_norm.csv`` is one attack on one model with the norm of each sample; one that is
there is not computed again. ``minimum_norm.md`` has the tables. An attack's local optimality
(Cinà et al., arXiv 2404.19460) is 1 less the area between its curve of robust accuracy by epsilon
and the lower envelope of all attacks' curves, divided by that between the clean accuracy and the
envelope, up to the epsilon at which the envelope is 0. Of norms n_i with the least known n*_i,
and e the greatest of these: ``1 - (mean min(n_i, e) - mean n*_i) / (e - mean n*_i)``.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import math
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import wilcoxon

from experiments.benchmarks.environment import describe
from experiments.benchmarks.models import SAMPLES, Target, load_target
from foolbox_carescale.attacks import ClipAwareMinimumNorm, ClipAwarePGD, MinimalEpsilon
from foolbox_carescale.evaluate.config.types import norm_name, norm_order

GRADIENTS = (100, 200)
OURS = "ours"
CHANCE = 0.05  # of the paired test
SEARCH = 10  # epsilons of minimal APGD's binary search
MOST = {1.0: 64.0, 2.0: 4.0, math.inf: 0.25}  # its greatest epsilons

Attack = Callable[[Any, torch.Tensor, torch.Tensor, float, int], torch.Tensor]
Array = np.ndarray[Any, Any]


@dataclasses.dataclass
class Row:
    """One attack on one model; passes are per sample, norms infinite where nothing was found."""

    model: str
    norm: str
    attack: str
    gradients: int
    samples: int
    forwards: float
    backwards: float
    seconds: float
    norms: str

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """Return what identifies a row."""
        return self.model, self.norm, self.attack, int(self.gradients), int(self.samples)

    @property
    def found(self) -> Array:
        """Return the norms as numbers."""
        return np.array([float(n) for n in self.norms.split()])


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(SAMPLES), choices=list(SAMPLES))
    parser.add_argument("--orders", nargs="+", default=["1", "2", "inf"])
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--gradients", nargs="+", type=int, default=GRADIENTS)
    parser.add_argument("--weights", type=Path, default=Path(), help="of the robust models")
    parser.add_argument("--render", action="store_true", help="write the tables again, no more")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "minimum_norm.csv"
    done = {row.key for row in read(path)}
    for model in [] if options.render else options.models:
        target: Target | None = None
        cells = itertools.product(options.orders, options.gradients, options.attacks)
        for order, gradients, name in cells:
            p = norm_order(f"L{order}")
            attack, orders = ATTACKS[name]
            key = (model, norm_name(p), name, gradients, SAMPLES[model])
            few = name == "fab" and model == "imagenet"  # no iteration is left
            if p not in orders or few or key in done:
                continue
            target = target or load_target(model, SAMPLES[model], options.weights)
            row = measure(target, name, attack, p, gradients)
            append(path, row)
            print(*row.key, f"{row.found.mean():.5g}, {row.seconds:.1f} s", file=sys.stderr)
    write(path, options.output)


def measure(target: Target, name: str, attack: Attack, p: float, gradients: int) -> Row:
    """Return one row; what the attack returns is clipped to the box and judged again."""
    torch.manual_seed(0)
    counting = target.model
    counting.forwards = counting.backwards = 0
    started = time.perf_counter()
    points = attack(counting, target.images, target.labels, p, gradients)
    seconds = time.perf_counter() - started
    forwards, backwards = counting.forwards, counting.backwards
    points = points.detach().clamp(0, 1)
    with torch.no_grad():
        found = counting(points).argmax(-1) != target.labels
    moved = (points.double() - target.images.double()).flatten(1)
    norms = torch.linalg.vector_norm(moved, ord=p, dim=1)
    n = len(points)
    return Row(
        target.name, norm_name(p), name, gradients, n, forwards / n, backwards / n,
        round(seconds, 2), " ".join(f"{x:.7g}" for x in torch.where(found, norms, math.inf)),
    )  # fmt: skip


def _ours(model: Any, x: torch.Tensor, y: torch.Tensor, p: float, gradients: int) -> torch.Tensor:
    attack = ClipAwareMinimumNorm(p=p, steps=gradients // 2)
    result: torch.Tensor = attack.run(model, x, y)
    return result


def _search(warm: bool) -> Attack:
    def run(model: Any, x: torch.Tensor, y: torch.Tensor, p: float, gradients: int) -> torch.Tensor:
        runs = 5 if warm else 10
        start = {"init_attack": ClipAwareMinimumNorm(p=p, steps=gradients // 4)} if warm else {}
        attack = MinimalEpsilon(ClipAwarePGD(p=p, steps=gradients // 10), max_runs=runs, **start)
        result: torch.Tensor = attack.run(model, x, y)
        return result

    return run


def _stub_visdom() -> None:
    """Stand in for a package of plots that adv-lib imports, and that nothing here needs."""
    visdom = types.ModuleType("visdom")
    visdom.Visdom = object  # type: ignore[attr-defined]
    sys.modules.setdefault("visdom", visdom)


def _adv_lib(name: str, **parameters: Any) -> Attack:
    def run(model: Any, x: torch.Tensor, y: torch.Tensor, p: float, gradients: int) -> torch.Tensor:
        _stub_visdom()
        from adv_lib import attacks

        steps = "steps" if name in ("ddn", "fmn") else "num_steps"
        norm: dict[str, Any] = {"norm": p} if name in ("fmn", "pdpgd") else {}
        if name == "alma":
            # epsilon of the first step: those of the paper's experiments
            norm = {"distance": f"l{p:g}", "init_lr_distance": {1.0: 0.5, 2.0: 0.1}[p]}
        attack = getattr(attacks, name)
        settings = {steps: gradients, **norm}
        if name == "fab":  # an iteration has a gradient for each class
            settings = {"norm": p, "n_iter": gradients // model(x[:1]).shape[1]}
        result: torch.Tensor = attack(model, x, y, **settings, **parameters)
        return result

    return run


def _apgd(model: Any, x: torch.Tensor, y: torch.Tensor, p: float, gradients: int) -> torch.Tensor:
    _stub_visdom()
    from adv_lib.attacks.auto_pgd import minimal_apgd

    result: torch.Tensor = minimal_apgd(
        model, x, y, p, max_eps=MOST[p] / 2, binary_search_steps=SEARCH,
        n_iter=gradients // SEARCH, use_large_reps=p == 1,
    )  # fmt: skip
    return result


ATTACKS: dict[str, tuple[Attack, tuple[float, ...]]] = {
    OURS: (_ours, (1.0, 2.0, math.inf)),
    "ours, MinimalEpsilon of PGD": (_search(warm=False), (1.0, 2.0, math.inf)),
    "ours, the same after half of ours": (_search(warm=True), (1.0, 2.0, math.inf)),
    "ddn": (_adv_lib("ddn"), (2.0,)),
    "fmn": (_adv_lib("fmn"), (1.0, 2.0, math.inf)),
    "alma": (_adv_lib("alma"), (1.0, 2.0)),
    "fab": (_adv_lib("fab"), (1.0, 2.0, math.inf)),
    "minimal apgd": (_apgd, (1.0, 2.0, math.inf)),
    "pdpgd": (_adv_lib("pdpgd"), (1.0, 2.0, math.inf)),
    "pdpgd, first step 0.01": (_adv_lib("pdpgd", primal_lr=0.01), (1.0, 2.0, math.inf)),
}


def read(path: Path) -> list[Row]:
    """The rows so far."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [Row(**row) for row in csv.DictReader(file)]  # type: ignore[arg-type]
    for row in rows:
        row.gradients, row.samples = int(row.gradients), int(row.samples)
    return rows


def append(path: Path, row: Row) -> None:
    """One more row."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Row)])
        if new:
            writer.writeheader()
        writer.writerow(dataclasses.asdict(row))


def local_optimality(norms: Array, least: Array) -> float:
    """Return how near an attack's curve comes to the envelope, from 0 to 1."""
    end = least[np.isfinite(least)].max()
    area = (np.minimum(norms, end) - np.minimum(least, end)).mean()
    return float(1 - area / (end - np.minimum(least, end).mean()))


def write(path: Path, folder: Path) -> None:
    """The tables: where a peer is ahead, then every cell, of its rows with the most samples."""
    rows = read(path)
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.model, row.norm), []).append(row)
    ahead, tables = [], []
    for (model, norm), every in cells.items():
        own = [row for row in every if row.samples == max(one.samples for one in every)]
        least = np.min([row.found for row in own], axis=0)
        ours = next((r for r in own if r.attack == OURS and r.gradients == GRADIENTS[0]), None)
        tables += [
            f"## {model}, {norm}, {own[0].samples} samples", "",
            f"| attack | gradients | forward passes | mean | median | failed | local optimality |"
            f" {OURS} at {GRADIENTS[0]} is |",
            "|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for row in sorted(own, key=lambda r: (r.found.mean(), np.median(r.found))):
            verdict = "" if ours is None or row is ours else _verdict(ours.found, row.found)
            mean = row.found.mean()
            if ours is not None and not row.attack.startswith(OURS) and mean <= ours.found.mean():
                ahead.append(
                    f"| {model}, {norm} | {row.attack}, {row.gradients} gradients | {mean:.5g} |"
                    f" {ours.found.mean():.5g} | {verdict} |"
                )
            tables.append(
                f"| {row.attack} | {float(row.backwards):.0f} | {float(row.forwards):.0f} |"
                f" {mean:.5g} | {np.median(row.found):.5g} |"
                f" {np.isinf(row.found).sum()} | {local_optimality(row.found, least):.3f} |"
                f" {verdict} |"
            )
        tables.append("")
    lines = [
        "# Minimum-norm attacks", "",
        f"{describe(('torch', 'foolbox', 'adv-lib'))}, when the tables were written; rows that were"
        " there already are older.", "",
    ]  # fmt: skip
    if ahead:
        lines += [
            f"Cells in which a peer's mean norm is not above that of {OURS} at {GRADIENTS[0]}"
            " gradients:", "",
            f"| cell | peer | its mean norm | {OURS} | {OURS} is |", "|---|---|---|---|---|",
            *ahead, "",
        ]  # fmt: skip
    else:
        lines += [
            f"No peer's mean norm is below that of {OURS} at {GRADIENTS[0]} gradients, at"
            f" {' or '.join(map(str, GRADIENTS))} gradients.", "",
        ]  # fmt: skip
    lines += [
        "Better or worse: by Wilcoxon's signed-rank test of the norms, sample by sample, at"
        f" {CHANCE:.0%}; level: neither.", "", *tables,
    ]  # fmt: skip
    (folder / "minimum_norm.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _verdict(ours: Array, other: Array) -> str:
    """Return whether ours is better than the other attack, or worse, or level with it."""
    most = 10 * max(ours[np.isfinite(ours)].max(), other[np.isfinite(other)].max(initial=0))
    difference = np.minimum(ours, most) - np.minimum(other, most)
    if not difference.any():
        return "level"
    for verdict, side in (("better", "less"), ("worse", "greater")):
        if wilcoxon(difference, alternative=side).pvalue <= CHANCE / 2:
            return verdict
    return "level"


if __name__ == "__main__":
    main()
