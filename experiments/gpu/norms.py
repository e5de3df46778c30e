"""Is the norm after the clip the one that was asked for? In float64, over hard cases."""

from __future__ import annotations

import math

import torch

import foolbox_carescale as fc

from . import data
from .report import Report
from .setting import Setting

# in two sections, as most of the time goes into compiling
LOWER_ORDERS, ORDERS = (0.5, 1.0, 1.3), (2.0, math.inf)
SHAPES = (
    (32, 150528), (512, 3072), (1, 4_000_003), (20_000, 10), (37, 784), (5, 4097), (64, 1),
    (7, 16384),
)  # fmt: skip
FEW_ROWS = 2_000_000  # elements from which only the easy cases are tried


def check(report: Report, setting: Setting) -> None:
    """Check eta and the points in float32, order by order, and eta in float64."""
    for p in ORDERS:
        check_order(report, setting, p)
    _double(report, setting)


def check_order(report: Report, setting: Setting, p: float) -> None:
    """Report the worst relative error of an order over all cases and shapes."""
    worst: dict[str, tuple[float, str]] = {}
    for shape in ((5, 40), (5, 1)) if setting.tiny else SHAPES:
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
                    if error > worst.get(what, (-1.0, ""))[0]:
                        worst[what] = error, where
    for what, (error, where) in sorted(worst.items()):
        goal = 5e-6 if p < 1 else 1e-6 if what == "eta" else 2e-6
        report.at_most(f"relative error of the norm, {what}, p={p:g}, worst {where}", error, goal)


def _double(report: Report, setting: Setting) -> None:
    for p in (2.0,) if setting.tiny else (*LOWER_ORDERS, *ORDERS):
        with report.attempt(f"float64, p={p:g}"):
            shape = (2, 20) if setting.tiny else (6, 300)
            x, delta = data.case("cauchy", shape, setting.device, torch.float64)
            eps, expected = data.targets(x, delta, p)
            eta = fc.clipping_aware_rescaling(x, delta, eps, p=p)
            error = data.relative_error(data.measured_norm(x, delta, eta, p), expected)
            report.at_most(f"relative error of the norm, float64, p={p:g}", error, 1e-11)
