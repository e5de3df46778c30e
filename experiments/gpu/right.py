"""Are the operators right? Against the definition and against NumPy in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch

import foolbox_carescale as fc
from foolbox_carescale.operators import reference

from . import data
from .report import Report
from .setting import Setting

ORDERS = (0.5, 1.0, 1.3, 2.0, math.inf)
SHAPES = (
    (32, 150528), (512, 3072), (1, 4_000_003), (20_000, 10), (37, 784), (5, 4097), (64, 1),
    (7, 16384),
)  # fmt: skip
BISECTIONS = 160  # enough for thresholds of 1 among directions of 1e30
FEW_ROWS = 2_000_000  # elements from which only the easy cases are tried


def check(report: Report, setting: Setting) -> None:
    """Check values, bounds, and what bad values lead to."""
    _norms(report, setting)
    _double(report, setting)
    _moves(report, setting)
    with report.attempt("the far corner"):
        _far_corner(report, setting)
    with report.attempt("bounds that are tensors"):
        _bounds(report, setting)
    for what in ("x NaN", "delta inf", "x outside"):
        for in_place in (False, True):
            with report.attempt(what):
                _bad(report, setting, what, in_place)


def _norms(report: Report, setting: Setting) -> None:
    """Report the worst relative error of each order over all cases and shapes."""
    worst: dict[tuple[float, str], tuple[float, str]] = {}
    orders = (2.0, math.inf) if setting.tiny else ORDERS
    for p, shape in itertools.product(orders, ((5, 40), (5, 1)) if setting.tiny else SHAPES):
        small = math.prod(shape) < FEW_ROWS and not setting.tiny
        for name in data.CASES if small else data.EASY:
            where = f"{name} {shape}"
            with report.attempt(f"norm, p={p:g}, {where}"):
                x, delta = data.case(name, shape, setting.device)
                eps, expected = data.targets(x, delta, p)
                eta = fc.clipping_aware_rescaling(x, delta, eps, p=p)
                assert torch.isfinite(eta).all(), "eta is not finite"
                moved = fc.perturb(x, delta, eps, p=p)
                assert ((moved >= 0) & (moved <= 1)).all(), "left the box"
                measured = data.measured_norm(x, delta, eta, p)
                found = {"eta": data.relative_error(measured, expected)}
                if p >= 1:  # below, the points' rounding is not to be told from an error
                    # float32 holds x + eta delta to half a unit in the last place
                    rounding = 2.0**-24 * shape[1] ** (1 / p)
                    off = (data.norm(moved.double() - x.double(), p) - expected).abs() - rounding
                    found["points"] = data.relative_error(off.clamp(min=0) + expected, expected)
                for what, error in found.items():
                    if error > worst.get((p, what), (-1.0, ""))[0]:
                        worst[p, what] = error, where
    for (p, what), (error, where) in sorted(worst.items()):
        goal = 5e-6 if p < 1 else 1e-6 if what == "eta" else 2e-6
        report.at_most(f"relative error of the norm, {what}, p={p:g}, worst {where}", error, goal)


def _double(report: Report, setting: Setting) -> None:
    for p in (2.0,) if setting.tiny else ORDERS:
        with report.attempt(f"float64, p={p:g}"):
            shape = (2, 20) if setting.tiny else (6, 300)
            x, delta = data.case("cauchy", shape, setting.device, torch.float64)
            eps, expected = data.targets(x, delta, p)
            eta = fc.clipping_aware_rescaling(x, delta, eps, p=p)
            error = data.relative_error(data.measured_norm(x, delta, eta, p), expected)
            report.at_most(f"relative error of the norm, float64, p={p:g}", error, 1e-11)


def _moves(report: Report, setting: Setting) -> None:
    """Compare reachable_norm, project and steepest_step with NumPy in float64."""
    shapes = ((3, 30),) if setting.tiny else ((32, 3072), (2, 150528), (500, 10))
    for shape, name in itertools.product(shapes, ("uniform", "cauchy", "on the bounds")):
        x, delta = data.case(name, shape, setting.device)
        wide_x, wide_delta = data.wide(x), data.wide(delta)
        where = f"{name} {shape}"
        for p in (1.0, 2.0, math.inf) if setting.tiny else (1.0, 1.3, 2.0, math.inf):
            reach = data.norm(data.room(x, delta), p)
            eps = 0.2 * reach.mean().item()
            with report.attempt(f"reachable_norm, p={p:g}, {where}"):
                error = data.relative_error(fc.reachable_norm(x, delta, p=p).double(), reach)
                report.at_most(f"reachable_norm, p={p:g}, {where}: relative error", error, 2e-6)
            for far in (0.05, 2.0):
                with report.attempt(f"project, p={p:g}, {where}"):
                    z = x + far * delta
                    found = fc.project(z, x, eps, p=p)
                    exact = _projected(data.wide(z), wide_x, eps, p)
                    error = abs(data.wide(found) - exact).max().item()
                    label = f"project, p={p:g}, {where}, {far:g} delta"
                    report.at_most(f"{label}: largest difference", error, 1e-5)
                    length = data.norm(found.double() - x.double(), p).max().item()
                    report.at_most(f"{label}: norm / eps", length / eps, 1 + 1e-5)
            with report.attempt(f"steepest_step, p={p:g}, {where}"):
                found = data.wide(fc.steepest_step(x, delta, eps, p=p))
                exact = reference.steepest_step(wide_x, wide_delta, eps, p, 0.0, 1.0)
                best = ((exact - wide_x) * wide_delta).sum(1)
                lost = (best - ((found - wide_x) * wide_delta).sum(1)) / np.where(best > 0, best, 1)
                label = f"steepest_step, p={p:g}, {where}"
                report.at_most(f"{label}: gain lost", lost.max().item(), 1e-5)
                lengths = (
                    data.norm(torch.from_numpy(point - wide_x), p) for point in (found, exact)
                )
                error = data.relative_error(*lengths)
                report.at_most(f"{label}: relative error of the norm", error, 1e-5)


def _projected(z: Any, x: Any, eps: float, p: float) -> Any:
    """Return the projection in float64; for p = 1, whose reference is quadratic, by bisection."""
    if p != 1:
        return reference.project(z, x, eps, p)
    size, room = abs(z - x), reference.room(x, z - x)
    low, high = np.zeros((len(x), 1)), size.max(axis=1, keepdims=True)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = np.minimum(np.maximum(size - middle, 0), room).sum(1, keepdims=True) > eps
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    inside = np.minimum(size, room).sum(1, keepdims=True) <= eps
    moved = np.maximum(size - np.where(inside, 0.0, high), 0)
    return np.clip(x + np.sign(z - x) * np.minimum(moved, room), 0.0, 1.0)


def _far_corner(report: Report, setting: Setting) -> None:
    x, delta = data.case("uniform", (3, 60) if setting.tiny else (64, 3000), setting.device)
    for p in (2.0, math.inf):
        moved = fc.perturb(x, delta, 1e4, p=p)
        short = int((moved != (delta > 0).to(x.dtype)).sum())
        report.at_most(f"coordinates short of the far corner, p={p:g}", short, 0)


def _bounds(report: Report, setting: Setting) -> None:
    shape = (2, 3, 4, 4) if setting.tiny else (8, 3, 16, 16)
    x, delta = data.case("uniform", shape, setting.device)
    lower, upper = (
        torch.tensor(b, device=setting.device).reshape(1, 3, 1, 1)
        for b in ((-0.1, 0.0, -0.3), (1.1, 1.0, 2.0))
    )
    eps = torch.linspace(0.1, 2, len(x), device=setting.device)
    moved = fc.perturb(x, delta, eps, bounds=(lower, upper))
    assert ((moved >= lower) & (moved <= upper)).all(), "left the box"
    error = data.relative_error(data.norm(moved.double() - x.double(), 2), eps.double())
    report.at_most("bounds and eps that are tensors: relative error of the norm", error, 1e-5)


def _bad(report: Report, setting: Setting, what: str, in_place: bool) -> None:
    x, delta = data.case("uniform", (6, 40), setting.device)
    {"x NaN": x, "x outside": x, "delta inf": delta}[what][3, 7] = {
        "x NaN": math.nan, "x outside": 1.5, "delta inf": math.inf
    }[what]  # fmt: skip
    kept = x.clone()
    label = f"{what}{', in place' if in_place else ''}: raises, x is as it was"
    try:
        fc.perturb(x, delta, 0.5, in_place=in_place)
    except ValueError as error:
        same = torch.equal(kept.nan_to_num(), x.nan_to_num())
        report.add(label, str(error)[:40], "ValueError", same)
    else:
        report.add(label, "no error", "ValueError", ok=False)
