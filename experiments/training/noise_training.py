"""Compare training on clean images, naive and exact Gaussian, and adversarial noise.

    python -m experiments.training.noise_training [--quick] [--output FOLDER]

A torchvision ShuffleNet v2 x0.5 is trained on the digits by each recipe of ``carescale train``, at
one epsilon, with the same batches, epochs and seeds. On images that no training has seen it is then
measured without noise, under noise of several distributions and norms at exactly epsilon, and
under ``L2ClipAwarePGD``. Two trainings run at a time, each on one thread; none resumes.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import eagerpy as ep
import matplotlib.pyplot as plt
import pandas as pd
import torch
from foolbox.models import PyTorchModel
from matplotlib.figure import Figure

from experiments.training.common import Report, images_and_labels, options, side_by_side, table
from foolbox_carescale import perturb
from foolbox_carescale.attacks import L2ClipAwarePGD
from foolbox_carescale.core.norms import sample
from foolbox_carescale.evaluate.config.types import ModelConfig, norm_name
from foolbox_carescale.evaluate.models.loading import build_network
from foolbox_carescale.training.config import RecipeConfig, Training
from foolbox_carescale.training.trainer import train

RECIPES = ("clean", "gaussian-naive", "gaussian-exact", "adversarial-noise")
EPSILON = 12.0  # L2, of 3 x 32 x 32: costs the clean network about a third of its accuracy
NOISES = (
    ("gaussian", 2.0, (8.0, 12.0, 16.0, 20.0)),
    ("uniform", 2.0, (12.0, 20.0)),
    ("laplace", 2.0, (12.0, 20.0)),
    ("laplace", 1.0, (400.0, 600.0)),
    ("uniform", math.inf, (0.5, 0.7)),
)
KEYS = ["perturbation", "p", "epsilon"]
PGD_EPSILONS = (0.5, 1.0)
PGD_STEPS, PGD_SAMPLES = 20, 200
PACKAGES = ("foolbox-carescale", "torch", "torchvision", "lightning-fabric")


@dataclass(frozen=True)
class Size:
    """The size of the experiment."""

    epochs: int
    seeds: int
    holdout: float
    samples: int
    pgd_samples: int
    processes: int


FULL = Size(epochs=20, seeds=3, holdout=0.1, samples=599, pgd_samples=PGD_SAMPLES, processes=2)
QUICK = Size(epochs=1, seeds=1, holdout=0.85, samples=20, pgd_samples=4, processes=1)


def main(arguments: list[str] | None = None) -> None:
    """Train, measure, write."""
    asked = options(__doc__, arguments)
    size = QUICK if asked.quick else FULL
    report = Report(
        "noise_training", "Training on noise: clean, naive, exact, adversarial", PACKAGES
    )
    with tempfile.TemporaryDirectory() as work:
        # the longest first: at the end neither process waits for the other
        jobs = [(r, s, size, Path(work)) for r in reversed(RECIPES) for s in range(size.seeds)]
        for found in side_by_side(run, jobs, size.processes):
            for row in found:
                report.add(**row)
    report.rows.sort(key=lambda row: (RECIPES.index(row["recipe"]), row["seed"]))
    rows = pd.DataFrame(report.rows)
    report.figure = drawn(rows)
    report.write(sections(rows, size), asked.output)


def run(recipe: str, seed: int, size: Size, work: Path) -> list[dict[str, Any]]:
    """Accuracies of one training: a row per kind of noise, attack and epsilon."""
    trained = train(
        Training(
            recipe=RecipeConfig(recipe, eps=None if recipe == "clean" else EPSILON),
            epochs=size.epochs,
            holdout=size.holdout,
            seed=seed,
            device="cpu",
            threads=1,
            output=str(work / f"{recipe}-{seed}"),
        )
    )
    network, _ = build_network(ModelConfig(weights=str(trained.weights)))
    network.eval().requires_grad_(False)  # PGD asks for the gradient of the images only
    images, labels = (part[: size.samples] for part in images_and_labels("test"))
    rows = [("none", 2.0, 0.0, accuracy(network, images, labels))]
    torch.manual_seed(1000 + seed)
    for distribution, p, epsilons in NOISES:
        for epsilon in epsilons:
            noise = sample(ep.astensor(images), distribution).raw
            points = perturb(images, noise, epsilon, p=p)
            rows.append((distribution, p, epsilon, accuracy(network, points, labels)))
    images, labels = images[: size.pgd_samples], labels[: size.pgd_samples]
    attack = L2ClipAwarePGD(steps=PGD_STEPS)
    for epsilon in PGD_EPSILONS:
        fmodel = PyTorchModel(network, bounds=(0, 1), device="cpu")
        points = attack.run(fmodel, images, labels, epsilon=epsilon)
        rows.append(("pgd", 2.0, epsilon, accuracy(network, points, labels)))
    keys = ("perturbation", "p", "epsilon", "accuracy")
    named = [dict(zip(keys, row, strict=True)) for row in rows]
    return [{"recipe": recipe, "seed": seed, **row} for row in named]


def accuracy(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images that the network classifies correctly."""
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).float().mean())


def sections(rows: pd.DataFrame, size: Size) -> list[str]:
    """Return the description, the table (mean and deviation over seeds), and the differences."""
    about = (
        f"ShuffleNet v2 x0.5 on digits, {size.epochs} epochs of 64 images a batch, half of each"
        f" perturbed at L2 epsilon {EPSILON:g} (naive: scaled to it, then clipped); {size.seeds}"
        " seeds, mean ± standard deviation. Every recipe makes the same number of updates of the"
        " network; adversarial noise costs one more forward and backward pass of the perturbed"
        f" half, for its generator. Accuracy on {size.samples} held-out images, perturbed at"
        f" exactly epsilon; under PGD ({PGD_STEPS} steps) on {size.pgd_samples}. The time above"
        f" includes all trainings and evaluations, {size.processes} at a time, on one thread each."
    )
    lines = []
    for setting in rows[KEYS].drop_duplicates().itertuples(index=False):
        chosen = rows[(rows[KEYS] == list(setting)).all(axis=1)]
        shown = [_spread(chosen[chosen.recipe == recipe].accuracy) for recipe in RECIPES]
        lines.append([_named(setting.perturbation, setting.p), f"{setting.epsilon:g}", *shown])
    accuracies = table(["perturbation", "epsilon", *RECIPES], lines)
    return [about, accuracies, _differences(rows), "![Accuracy](noise_training.png)"]


def drawn(rows: pd.DataFrame) -> Figure:
    """Accuracy over epsilon under Gaussian noise, and in the other rows at the largest epsilon."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.6, 3.6), layout="constrained", width_ratios=(2, 3)
    )
    gaussian = rows[(rows.perturbation == "gaussian") | (rows.perturbation == "none")]
    last = rows[~rows.perturbation.isin(["gaussian", "none"])]
    last = last[last.epsilon == last.groupby(["perturbation", "p"]).epsilon.transform("max")]
    settings = list(last[KEYS].drop_duplicates().itertuples(index=False))
    for i, (recipe, color) in enumerate(
        zip(RECIPES, ("0.6", "tab:orange", "tab:blue", "tab:green"), strict=True)
    ):
        over = gaussian[gaussian.recipe == recipe].groupby("epsilon").accuracy
        left.errorbar(
            over.mean().index, over.mean(), over.std(ddof=0), marker="o", color=color, label=recipe
        )
        at = [last[(last[list(c._fields)] == list(c)).all(axis=1)] for c in settings]
        found = [one[one.recipe == recipe].accuracy for one in at]
        places = [k + (i - 1.5) * 0.2 for k in range(len(settings))]
        spreads = [f.std(ddof=0) for f in found]
        right.bar(places, [f.mean() for f in found], 0.2, yerr=spreads, color=color)
    left.axvline(EPSILON, color="0.8", zorder=0)
    left.set(xlabel="L2 epsilon of Gaussian noise (line: trained at)", ylabel="accuracy")
    left.legend(frameon=False)
    labels = [f"{_named(c.perturbation, c.p)}\n{c.epsilon:g}" for c in settings]
    right.set_xticks(range(len(settings)), labels, fontsize="small")
    for axes in (left, right):
        axes.set_ylim(0, 1)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _differences(rows: pd.DataFrame) -> str:
    """Return the differences of recipes in the mean over all rows with noise, seed by seed."""
    noisy = rows[~rows.perturbation.isin(["none", "pgd"])]
    means = noisy.groupby(["recipe", "seed"]).accuracy.mean().unstack("recipe")
    lines = ["Mean over all rows with noise, differences seed by seed:", ""]
    for better, worse in (
        ("gaussian-naive", "clean"),
        ("gaussian-exact", "gaussian-naive"),
        ("adversarial-noise", "gaussian-exact"),
    ):
        gain = means[better] - means[worse]
        higher = f"higher in {(gain > 0).sum()} of {len(gain)} seeds"
        lines.append(f"- {better} minus {worse}: {_spread(gain)}; {higher}")
    return "\n".join(lines)


def _spread(values: pd.Series) -> str:
    return f"{values.mean():.3f} ± {values.std(ddof=0):.3f}"


def _named(perturbation: str, p: float) -> str:
    return perturbation if perturbation == "none" else f"{perturbation}, {norm_name(p)}"


if __name__ == "__main__":
    main()
