"""How long operators take, beside a device copy, the clamp, Foolbox's sort and bisection."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

import foolbox_carescale as fc

from . import calls, data, measure
from .report import Report
from .setting import Setting

Tensor = torch.Tensor
SHAPES = (
    (32, 150528), (256, 150528), (128, 3072), (512, 3072), (100_000, 10), (1, 12_000_000)
)  # fmt: skip
MOVES_UP_TO = 5_000_000  # elements: more takes the time of the other sections
SETS_OF_BYTES = 400e6  # so many bytes in turn, that no call finds its data in the L2 cache
BISECTIONS = 40
# "perturb" against the least bytes, and against Foolbox's code
GOALS = {(32, 150528): (3.0, 20.0), (100_000, 10): (5.0, 5.0)}
COPY = "x + delta: the bytes that must move"
FOOLBOX = "Foolbox's sort, and clip"


def check(report: Report, setting: Setting) -> None:
    """Report microseconds per call, and the ratios that have a goal."""
    for shape in ((4, 30),) if setting.tiny else SHAPES:
        times: dict[str, float] = {}
        for name, call in _contestants(shape, setting).items():
            with report.attempt(f"{name}, {shape}"):
                times[name] = measure.microseconds(call)
                report.add(f"us, {name}, {shape}", times[name])
        if setting.cuda:
            with report.attempt(f"device time alone, {shape}"):
                times["device"] = _device_time(shape, setting)
                speed = 12 * math.prod(shape) / times["device"] / 1e3
                label = f"us, perturb, device time alone, {shape} ({speed:.0f} GB/s)"
                report.add(label, times["device"])
            _ratios(report, shape, times)
            torch.cuda.empty_cache()


def _contestants(shape: tuple[int, ...], setting: Setting) -> dict[str, measure.Call]:
    turn = itertools.cycle(_sets(shape, setting))
    x, delta = next(turn)
    eps = data.quarter(x, delta, 2.0)
    spare = torch.empty_like(x)
    eta = torch.full((shape[0], 1), 0.2, device=setting.device)

    def in_turn(function: Any) -> measure.Call:
        return lambda: function(*next(turn))

    found: dict[str, measure.Call] = {
        "a copy of x": in_turn(lambda x, delta: spare.copy_(x)),
        COPY: in_turn(lambda x, delta: torch.add(x, delta, out=spare)),
        "clamp(x + eta delta)": in_turn(lambda x, delta: torch.clamp(x + eta * delta, 0, 1)),
        "eta": in_turn(lambda x, delta: fc.clipping_aware_rescaling(x, delta, eps)),
        "perturb": in_turn(lambda x, delta: fc.perturb(x, delta, eps)),
        "perturb in place": calls.in_place(x, 0 * delta, 2.0, eps),
        "perturb, p=1.3": in_turn(lambda x, delta: fc.perturb(x, delta, eps, p=1.3)),
        "perturb, p=inf": in_turn(lambda x, delta: fc.perturb(x, delta, 0.03, p=math.inf)),
        "perturb and its gradient": calls.gradient(x, delta, 2.0, eps),
        f"bisection, {BISECTIONS} steps, and clip": in_turn(
            lambda x, delta: _bisected(x, delta, eps)
        ),
        FOOLBOX: in_turn(lambda x, delta: torch.clamp(x + _official(x, delta, eps) * delta, 0, 1)),
    }
    if math.prod(shape) <= MOVES_UP_TO:
        for p in (1.0, 2.0, math.inf):
            made = calls.operators(x, delta, p, 0.4 * data.quarter(x, delta, p))
            for name in ("project", "steepest_step", "reachable_norm"):
                found[f"{name}, p={p:g}"] = made[name]
    return found


def _sets(shape: tuple[int, ...], setting: Setting) -> list[tuple[Tensor, Tensor]]:
    many = max(1, min(4, int(SETS_OF_BYTES // (8 * math.prod(shape)))))
    return [data.case("uniform", shape, setting.device, seed=seed) for seed in range(many)]


def _official(x: Tensor, delta: Tensor, eps: float) -> Any:
    from foolbox.external.clipping_aware_rescaling import l2_clipping_aware_rescaling

    return l2_clipping_aware_rescaling(x, delta, eps)


def _bisected(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    magnitude, room = delta.abs(), torch.where(delta > 0, 1 - x, x)
    low = torch.zeros_like(x[:, :1])
    high = (room / magnitude.clamp(min=1e-20)).amax(1, keepdim=True)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = torch.minimum(middle * magnitude, room).norm(dim=1, keepdim=True) > eps
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return torch.clamp(x + high * delta, 0, 1)


def _device_time(shape: tuple[int, ...], setting: Setting) -> float:
    """Return the microseconds of ``perturb`` in a CUDA graph, where the host costs nothing."""
    sets = _sets(shape, setting)
    turn = itertools.cycle(sets)
    eps = data.quarter(*sets[0], 2.0)
    with calls.unchecked():
        graph = measure.graph_of(lambda: fc.perturb(*next(turn), eps), times=2 * len(sets))
    return measure.microseconds(graph.replay) / (2 * len(sets))


def _ratios(report: Report, shape: tuple[int, ...], times: dict[str, float]) -> None:
    if shape not in GOALS:
        return
    copies, ratio = GOALS[shape]
    for name in ("perturb", "eta", "device"):
        if {name, COPY} <= times.keys():
            report.at_most(f"{name} / {COPY}, {shape}", times[name] / times[COPY], copies)
    if {FOOLBOX, "perturb"} <= times.keys():
        report.at_least(f"{FOOLBOX} / perturb, {shape}", times[FOOLBOX] / times["perturb"], ratio)
