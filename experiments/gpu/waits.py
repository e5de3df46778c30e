"""How often the host waits, how much is launched, and how much memory a call holds."""

from __future__ import annotations

import math

import torch

from . import calls, data, measure
from .report import Report
from .setting import Setting

SHAPES = ((32, 3, 224, 224), (128, 3, 32, 32))
ORDERS = (1.0, 1.3, 2.0, math.inf)
ATTACKS = ("PGD", "APGD", "MinimumNorm")
# most waits, launches, and batches of memory at the peak, with the result
GOALS = {
    "clipping_aware_rescaling": (1, 4, 0.2),
    "perturb": (1, 4, 1.1),
    "reachable_norm": (1, 4, 1.1),
    "project": (1, 6, 2.1),
    "steepest_step": (1, 6, 2.1),
}
STEPS = (3, 13)
LAUNCHES_PER_STEP = {1.0: 20, 2.0: 12, math.inf: 12}  # beside those of the network


def check(report: Report, setting: Setting) -> None:
    """Check operators, the gradient, and steps of the attacks."""
    if not setting.cuda:
        report.add("waits, launches and memory", "need a GPU")
        return
    for shape in SHAPES:
        x, delta = data.case("uniform", shape, setting.device)
        for p in ORDERS:
            eps = 0.4 * data.quarter(x, delta, p)
            for name, call in calls.operators(x, delta, p, eps).items():
                _call(report, f"{name}, p={p:g}, {shape}", call, x, *GOALS[name])
        _call(
            report,
            f"perturb in place, {shape}",
            calls.in_place(x, 0 * delta, 2.0, 1.0),
            x,
            1,
            4,
            0.1,
        )
        with calls.unchecked():
            call = calls.operators(x, delta, 2.0, 1.0)["perturb"]
            _call(report, f"perturb without checks, {shape}", call, x, 0, 4, 1.1)
        call = calls.gradient(x, delta, 2.0, 1.0)
        _call(report, f"perturb and its gradient, {shape}", call, x, 1, 12, 3.1)
    x, _ = data.case("uniform", SHAPES[1], setting.device)
    for name in ATTACKS:
        for p in LAUNCHES_PER_STEP:
            with report.attempt(f"{name}, p={p:g}: per step"):
                _steps(report, name, p, x)


def _call(
    report: Report, name: str, call: measure.Call, x: torch.Tensor, waits: int, launches: int,
    batches: float,
) -> None:  # fmt: skip
    with report.attempt(name):
        report.at_most(f"{name}: waits", measure.waits_of(call), waits)
        count, busy = measure.launches_of(call)
        report.at_most(f"{name}: kernels and copies (device busy {busy:.0f} us)", count, launches)
        held = measure.peak_of(call) / (x.numel() * x.element_size())
        report.at_most(f"{name}: batches of memory", held, batches)


def _steps(report: Report, name: str, p: float, x: torch.Tensor) -> None:
    """Take the difference of two runs: what a step adds, without the start and the end."""
    eps = {1.0: 12.0, 2.0: 1.0, math.inf: 8 / 255}[p]
    runs = [calls.attack(name, p, x, eps, steps=steps) for steps in STEPS]
    added = STEPS[1] - STEPS[0]
    few, many = (measure.waits_of(run) for run in runs)
    report.at_most(f"{name}, p={p:g}: waits per step", (many - few) / added, 0)
    few, many = (measure.launches_of(run)[0] for run in runs)
    network = calls.small_network(tuple(x.shape[1:]), x.device)
    own = (many - few) / added - measure.launches_of(calls.model_gradient(network, x))[0]
    goal = LAUNCHES_PER_STEP[p]
    if name == "PGD":
        report.at_most(f"{name}, p={p:g}: launches per step, without the network", own, goal)
    else:
        report.add(f"{name}, p={p:g}: launches per step, without the network", own)
