"""Universal perturbations at exactly epsilon per p, and what p does to sparsity and smoothness.

    python -m experiments.training.universal [--quick]

On the bundled digits model, for p from 1 to 2 and inf:

1. Perturbations per image by ``ClipAwarePGD``, at the epsilon where half of the images are still
   classified correctly, found by bisection. All are equally strong; only their shape differs.
2. One ``UniversalPerturbation`` for all images, at multiples of that epsilon, and a random
   direction of the same norm.

Sparsity: the share of the elements that hold 90% of the squared norm (1 of 3072 is sparsest),
and the share that moves by less than 1/255. Smoothness: the total variation, the mean absolute
difference of neighbouring pixels over the mean absolute value; independent noise has about 1.4,
a constant 0. Orders between 1 and 2 as in Duhme et al. 2026, arXiv 2602.06578, on a smaller scale.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import matplotlib.pyplot as plt
import torch

from experiments.training.common import (
    Report,
    digits_network,
    foolbox_model,
    images_and_labels,
    norm,
    options,
    order,
    table,
)
from foolbox_carescale.attacks import ClipAwarePGD
from foolbox_carescale.training import ExactNoise, UniversalPerturbation

ORDERS = (1.0, 1.25, 1.5, 1.75, 2.0, math.inf)
STEPS, IMAGES, HALVINGS = 20, 100, 6
# Brackets of the epsilon that half of the images survive.
BRACKETS = {1.0: (1.0, 16.0), 2.0: (0.05, 1.0), math.inf: (0.002, 0.05)}
MULTIPLES = (2.0, 4.0, 8.0)
LEARNING_STEPS, BATCH, RATE = 60, 64, 0.02
VISIBLE = 1 / 255
MASS = 0.9
FORM = ("90% in", "unmoved", "variation")


def main(arguments: list[str] | None = None) -> None:
    """Measure and write."""
    chosen = options(__doc__, arguments)
    torch.manual_seed(0)
    network = digits_network()
    model = foolbox_model(network)
    train, (images, labels) = images_and_labels("train"), images_and_labels("test")
    few = images[: 16 if chosen.quick else IMAGES], labels[: 16 if chosen.quick else IMAGES]
    orders = (1.5, 2.0) if chosen.quick else ORDERS
    report = Report("training_universal", "Universal perturbations, sparsity and smoothness")
    pictures = []
    for p in orders:
        eps, advs = half_broken(model, *few, p, halvings=2 if chosen.quick else HALVINGS)
        accuracy = _accuracy(network, advs, few[1])
        change = advs - few[0]
        report.add(
            kind="per image", p=p, epsilon=eps, multiple=1.0, accuracy=accuracy, **shape(change),
            **measured_norms(change, p, eps),
        )  # fmt: skip
        pictures.append((p, "per image", change[0]))
        for multiple in MULTIPLES[1:2] if chosen.quick else MULTIPLES:
            size = eps * multiple
            module = learn(network, *train, size, p, steps=2 if chosen.quick else LEARNING_STEPS)
            with torch.no_grad():
                z = module(images)
            noise = ExactNoise(size, p)(images)
            report.add(
                kind="universal", p=p, epsilon=size, multiple=multiple,
                accuracy=_accuracy(network, z, labels), **shape(z - images),
                **measured_norms(z - images, p, size),
                noise_accuracy=_accuracy(network, noise, labels),
            )  # fmt: skip
            if multiple == 4.0:
                pictures.append((p, "universal", (z - images)[0]))
    report.rows = [{"noise_accuracy": "", **row} for row in report.rows]
    report.figure = _figure(pictures)
    report.write(sections(report), chosen.output)


def half_broken(
    model: Any, images: torch.Tensor, labels: torch.Tensor, p: float, *, halvings: int
) -> tuple[float, torch.Tensor]:
    """The epsilon that about half of the images survive, and the adversarial examples."""
    attack = ClipAwarePGD(p=p, steps=STEPS)
    low, high = BRACKETS[p] if p in BRACKETS else _between(p)
    for _ in range(halvings):
        eps = math.sqrt(low * high)
        _, advs, success = attack(model, images, labels, epsilons=eps)
        if success.double().mean() > 0.5:
            high = eps
        else:
            low = eps
    return eps, advs


def learn(
    network: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    p: float,
    *,
    steps: int,
) -> UniversalPerturbation:
    """A universal perturbation that raises the network's loss."""
    torch.manual_seed(0)
    module = UniversalPerturbation(images.shape[1:], eps, p)
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE, maximize=True)
    for _ in range(steps):
        batch = torch.randint(len(images), (BATCH,))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(module(images[batch])), labels[batch])
        loss.backward()
        optimizer.step()
    return module


def shape(change: torch.Tensor) -> dict[str, float]:
    """Sparsity and smoothness, as the module's docstring defines them; means over the images."""
    squares = change.double().flatten(1).square().sort(dim=1, descending=True).values
    held = squares.cumsum(1) < MASS * squares.sum(1, keepdim=True)
    variation = (change.diff(dim=-1).abs().mean() + change.diff(dim=-2).abs().mean()) / 2
    return {
        "holding_90": (held.sum(1) + 1).double().mean().item() / squares.shape[1],
        "unmoved": (change.abs() < VISIBLE).double().mean().item(),
        "variation": (variation / change.abs().mean()).item(),
    }


def measured_norms(change: torch.Tensor, p: float, eps: float) -> dict[str, float]:
    """The least and the greatest norm over epsilon."""
    parts = norm(change, p) / eps
    return {"least_norm": parts.min().item(), "most_norm": parts.max().item()}


def sections(report: Report) -> list[str]:
    """The tables."""
    single = [r for r in report.rows if r["kind"] == "per image"]
    shared = [r for r in report.rows if r["kind"] == "universal"]

    def form(row: dict[str, Any]) -> list[str]:
        return [f"{row['holding_90']:.3f}", f"{row['unmoved']:.3f}", f"{row['variation']:.2f}"]

    def length(row: dict[str, Any]) -> str:
        return f"{row['least_norm']:.5f} to {row['most_norm']:.5f}"

    finite = [r for r in single if r["p"] < math.inf]
    trend = statistics.correlation(
        [r["p"] for r in finite], [r["holding_90"] for r in finite]
    )  # fmt: skip
    return [
        "`90% in`: share of the elements that hold 90% of the squared norm. `unmoved`: share that"
        " moves by less than 1/255. `variation`: mean absolute difference of neighbours over mean"
        " absolute value. Norms are measured / epsilon.",
        f"## Per image, at equal strength\n\n`ClipAwarePGD`, {STEPS} steps; for finite p the"
        f" correlation of p with `90% in` is {trend:.2f}.\n\n"
        + table(
            ["p", "epsilon", "accuracy", *FORM, "norm"],
            [
                [order(r["p"]), f"{r['epsilon']:.3g}", f"{r['accuracy']:.2f}", *form(r), length(r)]
                for r in single
            ],
        ),
        "## Universal, on all held-out digits\n\nEpsilon is a multiple of the one above; `noise` is"
        " the accuracy under independent Gaussian noise of the same norm.\n\n"
        + table(
            ["p", "times", "epsilon", "accuracy", "noise", *FORM, "norm"],
            [
                [
                    order(r["p"]), f"{r['multiple']:g}", f"{r['epsilon']:.3g}",
                    f"{r['accuracy']:.3f}", f"{r['noise_accuracy']:.3f}", *form(r), length(r),
                ]
                for r in shared
            ],
        ),
        "![Perturbations of one digit](training_universal.png)",
    ]  # fmt: skip


def _between(p: float) -> tuple[float, float]:
    """The bracket of an order between 1 and 2, linear in 1/p on a logarithmic scale."""
    part = (1 / p - 0.5) / 0.5
    low, high = (
        math.exp(part * math.log(one) + (1 - part) * math.log(two))
        for one, two in zip(BRACKETS[1.0], BRACKETS[2.0], strict=True)
    )
    return low, high


@torch.no_grad()
def _accuracy(network: torch.nn.Module, advs: torch.Tensor, labels: torch.Tensor) -> float:
    return (network(advs).argmax(1) == labels).double().mean().item()


def _figure(pictures: list[tuple[float, str, torch.Tensor]]) -> Any:
    kinds = list(dict.fromkeys(kind for _, kind, _ in pictures))
    orders = list(dict.fromkeys(p for p, _, _ in pictures))
    figure, axes = plt.subplots(
        len(kinds), len(orders), figsize=(1.3 * len(orders), 1.5 * len(kinds)),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for p, kind, change in pictures:
        axis = axes[kinds.index(kind)][orders.index(p)]
        top = change.abs().max().item()
        # the channels of a grey image move almost alike
        axis.imshow(change.mean(0).numpy(), cmap="coolwarm", vmin=-top, vmax=top)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_title(f"p = {order(p)}", fontsize=8)
    for row, kind in zip(axes, kinds, strict=True):
        row[0].set_ylabel(kind, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
