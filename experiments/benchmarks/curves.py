"""Compare the curve of one minimum-norm run with eight runs of PGD, one per epsilon.

    python -m experiments.benchmarks.curves --output experiments/results
    python -m experiments.benchmarks.curves --output results --models digits --orders 2

``ClipAwareMinimumNorm`` with 100 gradients gives the number of robust samples at every epsilon:
those whose smallest perturbation is longer. PGD with 40 gradients, Foolbox's and ours, runs at
each of eight epsilons, which are quantiles of the smallest norms, from 0.1 to 0.9. A third PGD is
ours with ``stop_when_broken``; its backward passes show what that saves. Models are those of
``experiments.benchmarks.models``. A line of ``curves.csv`` is one attack at one epsilon.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foolbox
import numpy as np
import torch

from experiments.benchmarks.environment import describe
from experiments.benchmarks.models import SAMPLES, Target, load_target
from foolbox_carescale import attacks
from foolbox_carescale.evaluate.config.types import norm_name, norm_order

GRADIENTS, STEPS, EPSILONS = 100, 40, 8
OURS, FOOLBOX, PGD, STOPPING = "minimum norm", "Foolbox PGD", "PGD", "PGD, stop_when_broken"


@dataclasses.dataclass(frozen=True)
class Row:
    """One attack at one epsilon; passes are per sample, those of the minimum norm for all."""

    model: str
    norm: str
    attack: str
    epsilon: float
    samples: int
    robust: int
    forwards: float
    backwards: float


def main(arguments: list[str] | None = None) -> None:
    """Measure the curves, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(SAMPLES), choices=list(SAMPLES))
    parser.add_argument("--orders", nargs="+", default=["1", "2", "inf"])
    parser.add_argument("--weights", type=Path, default=Path(), help="of the robust models")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.models:
        target = load_target(name, SAMPLES[name], options.weights)
        for order in options.orders:
            rows += curves(target, norm_order(f"L{order}"))
    with (options.output / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Row)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in rows)
    text = "\n".join(tables(rows)) + "\n"
    (options.output / "curves.md").write_text(text, encoding="utf-8")


def curves(target: Target, p: float) -> list[Row]:
    """Return the curves of all attacks on one model in one norm."""
    norm, samples = norm_name(p), len(target.images)

    def run(attack: Callable[..., Any], **epsilon: float) -> tuple[Any, tuple[float, float]]:
        torch.manual_seed(0)
        target.model.forwards = target.model.backwards = 0
        found = attack(target.model, target.images, target.labels, **epsilon)
        points = (found[1] if epsilon else found).detach().clamp(0, 1)
        passes = target.model.forwards / samples, target.model.backwards / samples
        with torch.no_grad():
            found = target.model(points).argmax(-1) != target.labels
        moved = (points.double() - target.images.double()).flatten(1)
        norms = torch.linalg.vector_norm(moved, ord=p, dim=1)
        return torch.where(found, norms, torch.inf), passes

    smallest = attacks.ClipAwareMinimumNorm(p=p, steps=GRADIENTS // 2)
    norms, passes = run(smallest.run)
    shares = np.linspace(0.1, 0.9, EPSILONS)
    epsilons = [float(e) for e in np.quantile(norms.numpy(), shares, method="lower")]
    rows = []
    for epsilon in epsilons:
        robust = int((norms > epsilon).sum())
        rows.append(Row(target.name, norm, OURS, epsilon, samples, robust, *passes))
        for name, attack in fixed(norm).items():
            found, spent = run(attack, epsilons=epsilon)
            robust = int(found.isinf().sum())
            rows.append(Row(target.name, norm, name, epsilon, samples, robust, *spent))
    return rows


def fixed(norm: str) -> dict[str, Any]:
    """Return the attacks that run once per epsilon."""
    return {
        FOOLBOX: getattr(foolbox.attacks, f"{norm}ProjectedGradientDescentAttack")(steps=STEPS),
        PGD: getattr(foolbox.attacks, f"{norm}ClipAwarePGD")(steps=STEPS),
        STOPPING: getattr(foolbox.attacks, f"{norm}ClipAwarePGD")(
            steps=STEPS, stop_when_broken=True
        ),
    }


def tables(rows: list[Row]) -> list[str]:
    """Return a table per model and norm: robust samples by epsilon, and passes for all."""
    lines = ["# One minimum-norm run and eight runs of PGD", ""]
    lines += [describe(("torch", "foolbox")) + ".", ""]
    lines += [
        f"Robust samples at {EPSILONS} epsilons: of one run of `ClipAwareMinimumNorm` with"
        f" {GRADIENTS} gradients, and of a run of PGD with {STEPS} gradients at each. Most above:"
        " by how many samples the minimum norm's curve is at most above that of this row.", "",
    ]  # fmt: skip
    places = dict.fromkeys((row.model, row.norm) for row in rows)
    for model, norm in places:
        own = [row for row in rows if (row.model, row.norm) == (model, norm)]
        epsilons = list(dict.fromkeys(row.epsilon for row in own))
        counts = {
            name: np.array([row.robust for row in own if row.attack == name])
            for name in dict.fromkeys(row.attack for row in own)
        }
        lines += [
            f"## {model}, {norm}, {own[0].samples} samples", "",
            "| attack | " + " | ".join(f"{e:.4g}" for e in epsilons)
            + " | mean | most above | backward passes |",
            "|---" * (len(epsilons) + 4) + "|",
        ]  # fmt: skip
        for name, robust in counts.items():
            spent = [row.backwards for row in own if row.attack == name]
            total = spent[0] if name == OURS else sum(spent)
            above = "" if name == OURS else str(int((counts[OURS] - robust).max()))
            lines.append(
                f"| {name} | " + " | ".join(map(str, robust))
                + f" | {robust.mean():.1f} | {above} | {total:.0f} |"
            )  # fmt: skip
        lines.append("")
    return lines


if __name__ == "__main__":
    main()
