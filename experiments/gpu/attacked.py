"""Every attack on a small network: inside the box, and exactly epsilon away."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

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
