"""The epsilon that was not: realised norm of noise and of PGD, against the epsilon asked for.

    python -m experiments.training.epsilon [--quick]

Foolbox's additive noise and projected gradient descent beside ours, on digits, MNIST and ImageNet
samples. What counts is the perturbation that the attack returns, after the clip. Sizes are per
element: epsilon is ``size * n**(1/p)`` for n elements, so that one axis serves all data; for
L2 it is the root mean square.
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
ATTACKED = {"ImageNet": 5}  # images under PGD, where not all: EfficientNet takes its time
# name: p, Foolbox's attack, ours, the sizes
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
    report = Report("training_epsilon", "The epsilon that was not")
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
                    _, points, success = instance(model, x, y, epsilons=eps)
                    part = norm(points - x, p) / eps
                    report.add(
                        data=name, images=len(x), attack=attack, p=p, size=size,
                        epsilon=eps, library=library,
                        realised=part.mean().item(), least=part.min().item(),
                        most=part.max().item(), accuracy=1 - success.double().mean().item(),
                    )  # fmt: skip
        _draw(axis, name, report)
    axes[0].set_ylabel("realised norm / epsilon")
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
    cells: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in report.rows:
        key = (row["data"], row["attack"], row["size"])
        cells.setdefault(key, {})[row["library"]] = row

    def text(row: dict[str, Any]) -> str:
        return f"{row['realised']:.3f} ({row['least']:.3f} to {row['most']:.3f})"

    rows = [
        [
            *(str(k) for k in key),
            str(both["ours"]["images"]),
            *(text(both[library]) for library in LIBRARIES),
            *(f"{both[library]['accuracy']:.2f}" for library in LIBRARIES),
        ]
        for key, both in cells.items()
    ]
    columns = ["data", "attack", "size", "images", *(f"{n}: realised / epsilon" for n in LIBRARIES)]
    columns += [f"{n}: accuracy" for n in LIBRARIES]
    return [
        "Mean of the realised norm over epsilon, in brackets the least and the greatest of the"
        " samples; accuracy under the attack. Sizes are per element: epsilon = size * n^(1/p). PGD"
        f" takes {STEPS} steps, all else is each library's default.",
        table(columns, rows),
        "![Realised norm over epsilon](training_epsilon.png)",
    ]


def _draw(axis: Any, name: str, report: Report) -> None:
    for color, attack in zip(("tab:red", "tab:blue", "tab:green"), PAIRS, strict=True):
        for library, style in zip(LIBRARIES, ("o-", "x:"), strict=True):
            rows = [
                r for r in report.rows
                if (r["data"], r["attack"], r["library"]) == (name, attack, library)
            ]  # fmt: skip
            axis.plot(
                [r["size"] for r in rows], [r["realised"] for r in rows], style, color=color,
                label=f"{attack}, {library}",
            )  # fmt: skip
    axis.set_title(name)
    axis.set_xscale("log")
    axis.set_xlabel("epsilon per element")
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
