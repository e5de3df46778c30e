"""Count what each stage of the ensemble breaks on its own, and what it adds to the others.

    python -m experiments.benchmarks.stages --output experiments/results
    python -m experiments.benchmarks.stages --output results --models digits --orders 2

Every stage attacks all samples, with 100 gradients, at the middle epsilon of the strength
benchmark, with the settings of ``version="standard"``. Targeted runs aim at the nearest classes
(the order of ``ClipAwareAutoAttack``) and, for comparison, at the most likely ones (the order of
AutoAttack). A line of ``stages.csv`` is one stage with the samples that it breaks; ``stages.md``
has the tables.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import eagerpy as ep
import numpy as np
import torch
from foolbox.criteria import Misclassification

from experiments.benchmarks.environment import describe
from experiments.benchmarks.models import SAMPLES, Target, load_target
from experiments.benchmarks.strength import EPSILONS
from foolbox_carescale.attacks import ClipAwareAPGD, ClipAwareAutoAttack
from foolbox_carescale.attacks.ensemble import STAGES, VERSIONS, targets_of
from foolbox_carescale.attacks.losses import LossFn, other_classes, targeted_dlr
from foolbox_carescale.evaluate.config.types import norm_name, norm_order

STEPS = 100

Found = dict[str, np.ndarray[Any, np.dtype[np.bool_]]]


def main(arguments: list[str] | None = None) -> None:
    """Measure all stages, and write what they break."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=[*EPSILONS], choices=[*EPSILONS])
    parser.add_argument("--orders", nargs="+", default=["1", "2", "inf"])
    parser.add_argument("--weights", type=Path, default=Path(), help="of the robust models")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    lines = ["# The stages of the ensemble", "", describe(("torch", "foolbox")) + ".", ""]
    rows = []
    for name in options.models:
        target = load_target(name, SAMPLES[name], options.weights)
        for order in options.orders:
            p = norm_order(f"L{order}")
            epsilon = EPSILONS[name][p][len(EPSILONS[name][p]) // 2]
            found = stages(target, p, epsilon)
            title = f"{name}, {norm_name(p)}, epsilon {epsilon:.4g}"
            lines += table(title, found)
            rows += [
                (name, norm_name(p), epsilon, stage, " ".join(map(str, np.flatnonzero(broken))))
                for stage, broken in found.items()
            ]
    with (options.output / "stages.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("model", "norm", "epsilon", "stage", "broken"))
        writer.writerows(rows)
    (options.output / "stages.md").write_text("\n".join(lines), encoding="utf-8")


def stages(target: Target, p: float, epsilon: float) -> Found:
    """Return which samples each stage breaks."""
    settings: dict[str, Any] = {"p": p, "steps": STEPS, "stop_when_broken": True}
    alone = [name for name in STAGES if name != "apgd-t"]
    attacks: dict[str, Any] = {
        name: ClipAwareAutoAttack(p=p, attacks=(name,), steps=STEPS) for name in alone
    }
    targets = VERSIONS["standard"]["targets"]
    x, labels = ep.astensor(target.images), ep.astensor(target.labels)
    likely = other_classes(ep.astensor(target.model(target.images)), labels)
    nearest = targets_of(target.model, x, Misclassification(labels), p, targets)
    for name, order in (("likely", likely), ("nearest", nearest)):
        for rank in range(min(targets, order.shape[1])):
            classes = ep.astensor(torch.as_tensor(order[:, rank]).to(target.labels.device))
            loss = LossFn(targeted_dlr, labels, classes)
            attacks[f"apgd-t{rank + 1}, {name}"] = ClipAwareAPGD(**settings, loss=loss)
    found = {}
    for name, attack in attacks.items():
        torch.manual_seed(0)
        points = attack.run(target.model, target.images, target.labels, epsilon=epsilon)
        with torch.no_grad():
            found[name] = (target.model(points).argmax(-1) != target.labels).cpu().numpy()
    return found


def table(title: str, found: Found) -> list[str]:
    """Return what each stage breaks, alone and beside the minimum-norm run."""
    first = found["minimum-norm"]
    together = np.any(list(found.values()), axis=0)
    lines = [
        f"## {title}: {int(together.sum())} of {len(first)} samples broken by any", "",
        "| stage | breaks | with minimum-norm |", "|---|---|---|",
    ]  # fmt: skip
    groups = {name: broken for name, broken in found.items() if not name.startswith("apgd-t")}
    for order in ("likely", "nearest"):
        runs = [broken for name, broken in found.items() if name.endswith(order)]
        for count in range(1, len(runs) + 1):
            groups[f"apgd-t towards the {count} {order}"] = np.any(runs[:count], axis=0)
    for name, broken in groups.items():
        lines.append(f"| {name} | {broken.sum()} | {(broken | first).sum()} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
