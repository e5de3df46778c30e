"""Are the moves right, and bounds and errors? Against NumPy in float64."""

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

BISECTIONS = 160  # enough for thresholds of 1 among directions of 1e30


def check(report: Report, setting: Setting) -> None:
    """Check values, bounds, and what bad values lead to."""
    _moves(report, setting)
    with report.attempt("the far corner"):
        _far_corner(report, setting)
    with report.attempt("bounds that are tensors"):
        _bounds(report, setting)
    for what in ("x NaN", "delta inf", "x outside"):
        for in_place in (False, True):
            with report.attempt(what):
                _bad(report, setting, what, in_place)


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
    label = f"{what}{', in place' if in_place else ''}: raises, that sample is as it was"
    try:
        fc.perturb(x, delta, 0.5, in_place=in_place)
    except ValueError as error:
        # in place the other samples have been moved, as `perturb` says
        stays = slice(3, 4) if in_place else slice(None)
        same = torch.equal(kept[stays].nan_to_num(), x[stays].nan_to_num())
        report.add(label, str(error)[:40], "ValueError", same)
    else:
        report.add(label, "no error", "ValueError", ok=False)
