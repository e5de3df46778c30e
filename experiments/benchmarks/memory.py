"""Measure the batches that an attack, and Foolbox's PGD, hold at the peak beside the inputs.

    python -m experiments.benchmarks.memory --output experiments/results
    python -m experiments.benchmarks.memory --quick

A batch is as large as the inputs, which are not counted themselves. Measured is by how much the
process grows in a call (Linux, glibc), which includes what PyTorch, NumPy and compiled code
hold inside. Arrays of a batch, and of one large image, have pages of their own, which go back as
soon as they are free; what the allocator keeps for later is no need of the attack.

The first model is linear in the pixels, so that its forward and backward hold only the gradient.
Its loss rises with most steps. The second one adds noise to the logits: each sample's loss rises or
falls by chance, so that the best iterate is a copy, none of the last two.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foolbox
import torch

from experiments.benchmarks.environment import describe
from foolbox_carescale import attacks

ORDERS = (1.0, 1.5, 2.0, math.inf)
SHAPE, QUICK = (16, 3, 224, 224), (8, 3, 224, 224)
STEPS = 12
OWN_PAGES = 2**17  # bytes from which on an array has pages of its own: glibc begins with as many
M_MMAP_THRESHOLD = -3  # of glibc's mallopt
FOOLBOX = {
    1.0: foolbox.attacks.L1ProjectedGradientDescentAttack,
    2.0: foolbox.attacks.L2ProjectedGradientDescentAttack,
    math.inf: foolbox.attacks.LinfProjectedGradientDescentAttack,
}
Call = Callable[[], Any]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small batches")
    parser.add_argument("--output", type=Path, help="folder for memory.md")
    options = parser.parse_args(arguments)
    text = report(quick=options.quick)
    print(text)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "memory.md").write_text(text + "\n", encoding="utf-8")


def report(*, quick: bool) -> str:
    """Return the table as Markdown."""
    shape = QUICK if quick else SHAPE
    passes = held(_passes(problem(shape)), shape)
    lines = [
        "# Memory of attacks", "",
        f"Measured {describe(('torch', 'foolbox', 'numba', 'foolbox-carescale'))}.", "",
        f"Batches of {'x'.join(map(str, shape))} that are held at the peak beside the inputs, in"
        f" {STEPS} steps, where the loss rises with most steps and where it rises or falls by"
        f" chance. A forward and a backward pass of the model hold {passes:.1f}.", "",
        "| p | attack | loss rises | by chance |", "|---|---|---|---|",
    ]  # fmt: skip
    for p in ORDERS:
        for name, attack in runs(p).items():
            peaks = [batches(attack, p, shape, wavering=wavering) for wavering in (False, True)]
            lines.append(f"| {p:g} | {name} | {peaks[0]:.1f} | {peaks[1]:.1f} |")
    lines += [
        "",
        "At the peak an attack holds its iterate and the gradient. Beside these, as far as it "
        "has them: the best iterate, where that is no longer the last one; the previous "
        "iterate (`momentum`, for 1 < p < inf); accumulated gradients (p = 1 and inf); the "
        "gradient of the best iterate (APGD, which goes back to it); and the moments of Adam, "
        "two, or one for p = inf, where only signs count. For 1 < p < inf the new iterate "
        "takes the memory of the gradient, and for p = 1 that of the iterate, where nothing "
        "else needs it.",
    ]  # fmt: skip
    return "\n".join(lines)


def runs(p: float) -> dict[str, Any]:
    """Return the gradient attacks of one order, by name; Foolbox's PGD first."""
    steps: dict[str, Any] = {"p": p, "steps": STEPS}
    peers = {"Foolbox's PGD": FOOLBOX[p](steps=STEPS)} if p in FOOLBOX else {}
    return peers | {
        "ClipAwareFGM": attacks.ClipAwareFGM(p=p),
        "ClipAwareBIM": attacks.ClipAwareBIM(**steps),
        "ClipAwarePGD": attacks.ClipAwarePGD(**steps),
        "ClipAwarePGD, ball": attacks.ClipAwarePGD(**steps, constraint="ball"),
        "ClipAwarePGD, last iterate": attacks.ClipAwarePGD(**steps, keep="last"),
        "ClipAwareMomentumPGD": attacks.ClipAwareMomentumPGD(**steps),
        "ClipAwareFrankWolfe": attacks.ClipAwareFrankWolfe(**steps),
        "ClipAwareAPGD": attacks.ClipAwareAPGD(**steps),
        "ClipAwareAdamPGD": attacks.ClipAwareAdamPGD(**steps),
    }


def batches(
    attack: Any, p: float, shape: tuple[int, ...] = SHAPE, *, wavering: bool = False
) -> float:
    """Return the batches that an attack of order p holds at its peak, beside the inputs."""
    return held(_call(attack, p, problem(shape, wavering=wavering)), shape)


# The model.


def problem(shape: tuple[int, ...], *, wavering: bool = False) -> tuple[Any, Any, Any]:
    """Return a Foolbox model that is linear in the pixels, inputs and labels."""
    torch.manual_seed(0)
    network = _Linear(math.prod(shape[1:]), wavering).eval()
    images = torch.rand(shape)
    return foolbox.PyTorchModel(network, (0, 1)), images, torch.zeros(len(images), dtype=torch.long)


class _Linear(torch.nn.Module):
    def __init__(self, pixels: int, wavering: bool) -> None:
        super().__init__()
        self.weights = torch.nn.Linear(pixels, 3).requires_grad_(False)
        self.wavering = wavering

    def forward(self, x: Any) -> Any:
        logits = self.weights(x.flatten(1))
        return logits + 10 * torch.randn_like(logits) if self.wavering else logits


def _call(attack: Any, p: float, to_attack: tuple[Any, Any, Any]) -> Call:
    model, images, labels = to_attack
    epsilon = 0.02 * math.prod(images.shape[1:]) ** (1 / p)
    return lambda: attack(model, images, labels, epsilons=epsilon)


def _passes(to_attack: tuple[Any, Any, Any]) -> Call:
    model, images, labels = to_attack

    def call() -> Any:
        leaf = images.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(leaf), labels, reduction="sum")
        return torch.autograd.grad(loss, leaf)

    return call


# The peak.


def held(call: Call, shape: tuple[int, ...]) -> float:
    """Return by how much the process's memory grows in a call, in batches."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, OWN_PAGES)
    call()  # imports, compiles and fills caches
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = _resident("VmRSS")
    call()
    return (_resident("VmHWM") - before) / (4 * math.prod(shape))


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", status)[1])  # type: ignore[index]


if __name__ == "__main__":
    main()
