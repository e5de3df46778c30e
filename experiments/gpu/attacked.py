"""Every attack on a small network: inside the box, exactly epsilon away, also in CUDA graphs."""

from __future__ import annotations

import math
import time
from typing import Any

import foolbox
import torch

from foolbox_carescale import attacks

from . import calls, data
from .report import Report
from .setting import Setting


def check(report: Report, setting: Setting) -> None:
    """Check the norm of what each attack returns, in L1, L2 and Linf."""
    count, size, steps = (3, 8, 3) if setting.tiny else (16, 32, 10)
    x, _ = data.case("uniform", (count, 3, size, size), setting.device)
    n = 3 * size * size
    for p, eps in ((1.0, 0.004 * n), (2.0, 0.02 * n**0.5), (math.inf, 8 / 255)):
        for name, settings in _attacks(steps).items():
            label = f"{name}, p={p:g}"
            with report.attempt(label):
                call = calls.attack(name, p, x, eps, **settings)
                began = time.perf_counter()
                _, moved, success = call()
                share = success.float().mean().item()
                label += f" ({share:.0%} fooled, {time.perf_counter() - began:.2f} s)"
                assert ((moved >= 0) & (moved <= 1)).all(), "left the box"
                found = data.norm(moved.double() - x.double(), p)
                if name == "MinimumNorm":
                    report.add(f"{label}: mean norm", found.mean().item())
                else:
                    error = data.relative_error(found, torch.full_like(found, eps))
                    report.at_most(f"{label}: relative error of the norm", error, 2e-5)

    for name in ("PGD", "APGD", "AdamPGD", "MinimumNorm"):
        label = f"{name}, p=2, on a network in CUDA graphs: off the points without"
        with report.attempt(label):
            if not setting.cuda:
                report.add(label, "needs a GPU")
                continue
            report.at_most(label, _off_in_graphs(name, x, 0.02 * n**0.5, steps), 1e-4)


def _off_in_graphs(name: str, x: torch.Tensor, eps: float, steps: int) -> float:
    """Return how far points move where each call writes logits and gradients to one place."""
    plain, graphed = (calls.small_network(tuple(x.shape[1:]), x.device) for _ in range(2))
    labels = plain(x).argmax(1)
    graphed = torch.cuda.make_graphed_callables(graphed, (x.clone().requires_grad_(),))
    found = []
    for network in (plain, graphed):
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
        attack = getattr(attacks, f"ClipAware{name}")(p=2, steps=steps)
        torch.manual_seed(0)
        budget = None if name == "MinimumNorm" else eps
        found.append(attack(model, x, labels, epsilons=budget)[1])
    return float((found[0] - found[1]).abs().max().item())


def _attacks(steps: int) -> dict[str, dict[str, Any]]:
    few, none = {"steps": steps}, dict[str, Any]()
    return {
        "FGM": none,
        "PGD": few,
        "APGD": few,
        "AdamPGD": few,
        "FrankWolfe": few,
        "MinimumNorm": {"steps": 2 * steps},
        "Square": {"queries": 3 * steps, "seed": 0},
        "GaussianNoise": none,
        "UniformNoise": none,
        "SaltAndPepperNoise": none,
    }
