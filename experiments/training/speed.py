"""Measure the operator in training: steps with it, without it, and with the official code.

    python -m experiments.training.speed [--quick]

A training step (forward, backward, SGD) of torchvision's ResNet-18 on 16 x 3 x 224 x 224, and an
epoch of the bundled digits model's architecture. The images are clean, or perturbed to exactly
epsilon by Gaussian noise, or by a direction that is learned, so that the gradient goes through
the operator. The official code is the sort-based one of the paper, which Foolbox ships. All run in
turns on the same data; the operator's own time is also taken alone, because the difference of two
steps is noisier than what it is to show.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from foolbox.external.clipping_aware_rescaling import l2_clipping_aware_rescaling as official

from experiments.training.common import Report, images_and_labels, options, table
from foolbox_carescale import perturb
from foolbox_carescale.engines.numba_cpu import arrays as cpu

EPSILON = 3.0
GOAL = 0.03  # of a step of ResNet-18
BATCH, SIDE, STEPS = 16, 224, 7
ALONE = 20  # calls of the operator without a model, per turn of the steps
EPOCH_BATCH, EPOCHS = 64, 3

Operator = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def ours(x: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """The operator."""
    return perturb(x, delta, EPSILON)


def foolbox_official(x: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Eta by sorting, then the clip; its gradient is PyTorch's."""
    eta = official(x, delta, EPSILON)
    return (x + eta * delta).clamp(0, 1)


OPERATORS: dict[str, Operator] = {"ours": ours, "official": foolbox_official}


def main(arguments: list[str] | None = None) -> None:
    """Measure and write."""
    chosen = options(__doc__, arguments)
    threads = cpu.get_num_threads()
    cpu.set_num_threads(torch.get_num_threads())  # no more for the operator than for the model
    report = Report("training_speed", "What the operator costs in training")
    side, batch, turns = (64, 2, 1) if chosen.quick else (SIDE, BATCH, STEPS)
    resnet_steps(report, side=side, batch=batch, turns=turns)
    digits_epochs(report, epochs=1 if chosen.quick else EPOCHS, quick=chosen.quick)
    cpu.set_num_threads(threads)
    report.write(sections(report, batch, side), chosen.output)


def resnet_steps(report: Report, *, side: int, batch: int, turns: int) -> None:
    """A step without, with noise and with a learned direction, in turns."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x, labels = torch.rand(batch, 3, side, side), torch.arange(batch)
    noise = torch.randn_like(x)
    learned = noise.clone().requires_grad_()
    upstream = torch.randn_like(x)

    def step(z: torch.Tensor) -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(z), labels).backward()
        optimizer.step()

    steps: dict[tuple[str, str], Callable[[], None]] = {("none", ""): lambda: step(x)}
    alone: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, operator in OPERATORS.items():
        steps[name, "noise"] = lambda f=operator: step(f(x, noise))  # type: ignore[misc]
        steps[name, "learned"] = lambda f=operator: step(f(x, learned))  # type: ignore[misc]
        alone[name, "noise"] = lambda f=operator: f(x, noise)  # type: ignore[misc]
        alone[name, "learned"] = lambda f=operator: f(x, learned).backward(upstream)  # type: ignore[misc]
    seconds = in_turns(steps, turns)
    own = in_turns(alone, turns * (1 if turns == 1 else ALONE // turns))
    base = min(seconds["none", ""])
    for (name, direction), times in seconds.items():
        cost = statistics.median(own[name, direction]) if direction else 0.0
        report.add(
            model="resnet18 step", operator=name, direction=direction,
            seconds=statistics.median(times), least=min(times), alone=cost, part=cost / base,
        )  # fmt: skip


def digits_epochs(report: Report, *, epochs: int, quick: bool) -> None:
    """An epoch of a ShuffleNet on the training digits, in turns."""
    images, labels = images_and_labels("train")
    if quick:
        images, labels = images[: 2 * EPOCH_BATCH], labels[: 2 * EPOCH_BATCH]
    torch.manual_seed(0)
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=10).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def epoch(operator: Operator | None) -> None:
        for x, y in zip(images.split(EPOCH_BATCH), labels.split(EPOCH_BATCH), strict=True):
            delta = torch.randn_like(x)  # drawn without an operator, too
            z = x if operator is None else operator(x, delta)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(z), y).backward()
            optimizer.step()

    noise = torch.randn_like(images)

    def own(operator: Operator) -> None:
        for x, delta in zip(images.split(EPOCH_BATCH), noise.split(EPOCH_BATCH), strict=True):
            operator(x, delta)

    runs: dict[tuple[str, str], Callable[[], None]] = {("none", ""): lambda: epoch(None)}
    alone: dict[tuple[str, str], Callable[[], None]] = {}
    for name, operator in OPERATORS.items():
        runs[name, "noise"] = lambda f=operator: epoch(f)  # type: ignore[misc]
        alone[name, "noise"] = lambda f=operator: own(f)  # type: ignore[misc]
    seconds, costs = in_turns(runs, epochs), in_turns(alone, epochs)
    base = min(seconds["none", ""])
    for (name, direction), times in seconds.items():
        cost = statistics.median(costs[name, direction]) if direction else 0.0
        report.add(
            model="digits epoch", operator=name, direction=direction,
            seconds=statistics.median(times), least=min(times), alone=cost, part=cost / base,
        )  # fmt: skip


def in_turns(calls: dict[Any, Callable[[], Any]], turns: int) -> dict[Any, list[float]]:
    """Seconds of each call, one after the other in every turn, after one that is not counted."""
    seconds: dict[Any, list[float]] = {key: [] for key in calls}
    for turn in range(turns + 1):
        for key, call in calls.items():
            started = time.perf_counter()
            call()
            if turn:
                seconds[key].append(time.perf_counter() - started)
    return seconds


def sections(report: Report, batch: int, side: int) -> list[str]:
    """The tables, and whether the goal is met."""

    def rows(model: str) -> list[list[str]]:
        return [
            [
                r["operator"], r["direction"], f"{r['seconds'] * 1e3:.4g}",
                f"{r['least'] * 1e3:.4g}",
                *((f"{r['alone'] * 1e3:.3g}", f"{r['part']:.2%}") if r["alone"] else ("", "")),
            ]
            for r in report.rows
            if r["model"] == model
        ]  # fmt: skip

    columns = ["operator", "direction", "median, ms", "least, ms", "alone, ms", "its share"]
    worst = max(r["part"] for r in report.rows if r["operator"] == "ours" and "step" in r["model"])
    met = "met" if worst < GOAL else "not met"
    return [
        f"Threads for the model and for the operator: {torch.get_num_threads()} each. `alone` is"
        " the median time of the operator (and of its backward, if the direction is learned)"
        " without a model. `its share` is relative to the least time without an operator.",
        f"## A training step of ResNet-18, {batch}x3x{side}x{side}\n\n"
        + table(columns, rows("resnet18 step")),
        f"Goal: the operator adds under {GOAL:.0%}. Ours adds at most {worst:.2%}: {met}.",
        f"## An epoch of ShuffleNet v2 x0.5 on 1198 digits, 3x32x32, batches of {EPOCH_BATCH}\n\n"
        + table(columns, rows("digits epoch")),
    ]


if __name__ == "__main__":
    main()
