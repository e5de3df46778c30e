"""Measured norm of noise and of PGD against the target epsilon.

    python -m experiments.training.epsilon [--quick]

Additive noise and projected gradient descent of Foolbox and of this package, on digits, MNIST and
ImageNet samples. The norm is that of the returned perturbation, after the clip. Sizes are epsilons
per element: epsilon is ``size * n**(1/p)`` for n elements, so all data share one axis. For L2 the
size is the root mean square.
"""

from __future__ import annotations

from typing import Any

import foolbox
import matplotlib.pyplot as plt
import torch

from experiments.training.common import (
    Options,
    Report,
    digits_network,
    foolbox_model,
    norm,
    options,
    table,
)
from foolbox_carescale import attacks
from foolbox_carescale.evaluate.config.types import DataConfig, ModelConfig
from foolbox_carescale.evaluate.data.sources import load_data
from foolbox_carescale.evaluate.models.loading import build_network

SIZES = (0.02, 0.05, 0.1, 0.2, 0.4)
ATTACK_SIZES = (0.005, 0.02, 0.1)
STEPS = 10
ATTACKED = {"ImageNet": 5}  # images under PGD where not all: EfficientNet is slow
# name: p, Foolbox's attack, this package's, the sizes
PAIRS: dict[str, tuple[float, Any, Any, tuple[float, ...]]] = {
    "Gaussian noise": (
        2.0,
        foolbox.attacks.L2AdditiveGaussianNoiseAttack(),
        attacks.L2ClipAwareGaussianNoise(),
        SIZES,
    ),
    "PGD": (
        2.0,
        foolbox.attacks.L2PGD(steps=STEPS),
        attacks.L2ClipAwarePGD(steps=STEPS),
        ATTACK_SIZES,
    ),
    "PGD, L1": (
        1.0,
        foolbox.attacks.L1ProjectedGradientDescentAttack(steps=STEPS),
        attacks.L1ClipAwarePGD(steps=STEPS),
        ATTACK_SIZES,
    ),
}
LIBRARIES = ("Foolbox", "ours")


def main(arguments: list[str] | None = None) -> None:
    """Measure and write."""
    chosen = options(__doc__, arguments)
    torch.manual_seed(0)
    report = Report("training_epsilon", "Measured norm of noise and PGD")
    sets = problems(chosen)
    figure, axes = plt.subplots(1, len(sets), figsize=(11, 3.4), layout="constrained", sharey=True)
    for axis, (name, model, images, labels) in zip(axes, sets, strict=True):
        for attack, (p, theirs, ours, sizes) in PAIRS.items():
            n = images[0].numel()
            for size in sizes[-1:] if chosen.quick else sizes:
                few = ATTACKED.get(name) if attack.startswith("PGD") else None
                x, y = images[:few], labels[:few]
                for library, instance in zip(LIBRARIES, (theirs, ours), strict=True):
                    eps = size * n ** (1 / p)
                    _, advs, success = instance(model, x, y, epsilons=eps)
                    part = norm(advs - x, p) / eps
                    report.add(
                        data=name, images=len(x), attack=attack, p=p, size=size,
                        epsilon=eps, library=library,
                        measured=part.mean().item(), least=part.min().item(),
                        most=part.max().item(), accuracy=1 - success.double().mean().item(),
                    )  # fmt: skip
        _draw(axis, name, report)
    axes[0].set_ylabel("measured norm / epsilon")
    axes[-1].legend(frameon=False, fontsize=8)
    report.figure = figure
    report.write(sections(report), chosen.output)


def problems(chosen: Options) -> list[tuple[str, Any, torch.Tensor, torch.Tensor]]:
    """Name, Foolbox model, images and labels."""
    digits_model = foolbox_model(digits_network())
    few = 8 if chosen.quick else 100
    sets = [
        ("digits", digits_model, DataConfig(), few),
        # the bundled model reads MNIST's digits, too, though less well
        ("MNIST", digits_model, DataConfig(name="foolbox/mnist", size=32), 20),
    ]
    if not chosen.quick:
        config = ModelConfig(_target_="experiments.efficientnet_lite.build")
        network, _ = build_network(config)
        model = foolbox_model(network.eval())
        sets.append(("ImageNet", model, DataConfig(name="foolbox/imagenet", size=224), 20))
    problems = []
    for name, model, data_config, samples in sets:
        data = load_data(data_config, samples)
        images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
        problems.append((name, model, images, labels))
    return problems


def sections(report: Report) -> list[str]:
    """The tables."""
    settings: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in report.rows:
        key = (row["data"], row["attack"], row["size"])
        settings.setdefault(key, {})[row["library"]] = row

    def text(row: dict[str, Any]) -> str:
        return f"{row['measured']:.3f} ({row['least']:.3f} to {row['most']:.3f})"

    rows = [
        [
            *(str(k) for k in key),
            str(both["ours"]["images"]),
            *(text(both[library]) for library in LIBRARIES),
            *(f"{both[library]['accuracy']:.2f}" for library in LIBRARIES),
        ]
        for key, both in settings.items()
    ]
    columns = ["data", "attack", "size", "images", *(f"{n}: measured / epsilon" for n in LIBRARIES)]
    columns += [f"{n}: accuracy" for n in LIBRARIES]
    return [
        "Mean of the measured norm over epsilon (least and greatest of the samples), and accuracy"
        " under the attack. Sizes are epsilons per element: epsilon = size * n^(1/p). PGD takes"
        f" {STEPS} steps; all else is each library's default.",
        table(columns, rows),
        "![Measured norm over epsilon](training_epsilon.png)",
    ]


def _draw(axis: Any, name: str, report: Report) -> None:
    for color, attack in zip(("tab:red", "tab:blue", "tab:green"), PAIRS, strict=True):
        for library, style in zip(LIBRARIES, ("o-", "x:"), strict=True):
            rows = [
                r for r in report.rows
                if (r["data"], r["attack"], r["library"]) == (name, attack, library)
            ]  # fmt: skip
            axis.plot(
                [r["size"] for r in rows], [r["measured"] for r in rows], style, color=color,
                label=f"{attack}, {library}",
            )  # fmt: skip
    axis.set_title(name)
    axis.set_xscale("log")
    axis.set_xlabel("epsilon per element")
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
