"""Count the passes of every attack, for the catalogue in the docs.

python -m experiments.attack_costs --output experiments/results
"""

from __future__ import annotations

import argparse
import csv
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import eagerpy as ep
import foolbox
import torch
from foolbox.attacks.base import MinimizationAttack

from foolbox_carescale import attacks

COLUMNS = ("attack", "gradients", "forward_passes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the passes of each attack with its defaults to a CSV file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("experiments/results"))
    path = parser.parse_args(arguments).output / "attack_costs.csv"
    families = sorted((*attacks.FAMILIES, attacks.MinimalEpsilon), key=lambda a: a.__name__)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for attack in families:
            writer.writerow((attack.__name__, *cost(attack)))


def cost(attack: type[Any]) -> tuple[int, int]:
    """Return the gradients and forward passes on one sample whose class no attack changes."""
    if "queries" not in inspect.signature(attack).parameters:
        return _passes(attack)
    # thousands of queries would take most of the time: as many passes for each
    (gradients, few), (_, more) = (_passes(attack, queries=n) for n in (100, 200))
    return gradients, few + (more - few) * (attack().queries - 100) // 100


def _passes(attack: type[Any], **arguments: Any) -> tuple[int, int]:
    """Return the gradients and forward passes of a run of an attack."""

    def unshakable(x: torch.Tensor) -> torch.Tensor:
        # more classes than the ensemble ranks
        slopes = torch.linspace(-0.01, 0.01, 16 * 40).reshape(16, 40)
        return x.flatten(1) @ slopes + torch.eye(40)[0] * 5

    module = torch.nn.Module()
    module.forward = unshakable  # type: ignore[assignment]
    model = foolbox.PyTorchModel(module.eval(), bounds=(0, 1), device="cpu")
    counting = attacks.CountingModel(model)
    epsilons = None if issubclass(attack, MinimizationAttack) else 1.0
    start = (attacks.L2ClipAwarePGD(),) if attack is attacks.MinimalEpsilon else ()
    made = attack(*start, **arguments)
    x, y = ep.astensors(torch.full((1, 1, 4, 4), 0.5), torch.zeros(1, dtype=torch.int64))
    counting.forwards = counting.backwards = 0
    made(counting, x, y, epsilons=epsilons)
    # Foolbox itself calls the model once more, to see which samples are fooled
    return counting.backwards, counting.forwards - 1


if __name__ == "__main__":
    main()
