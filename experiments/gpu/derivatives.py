"""Are the derivatives right? Against the same in float64 on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

import foolbox_carescale as fc

from . import data
from .report import Report
from .setting import Setting

Tensor = torch.Tensor


def check(report: Report, setting: Setting) -> None:
    """Compare the products with a random cotangent, and a second derivative."""
    shape = (2, 12) if setting.tiny else (6, 500)
    x, delta = data.case("uniform", shape, setting.device)
    cotangent = torch.randn(shape, device=setting.device)
    for name, (p, function) in _functions(setting).items():
        with report.attempt(f"derivative of {name}"):
            eps = data.quarter(x, delta, p) * torch.ones(len(x), device=setting.device)
            found = _products(function, x, delta, eps, cotangent)
            exact = _products(function, *(_exactly(t) for t in (x, delta, eps, cotangent)))
            for by, a, b in zip(("x", "delta", "eps"), found, exact, strict=True):
                error = ((_exactly(a) - b).norm() / (b.norm().item() or 1.0)).item()
                report.at_most(f"derivative of {name} by {by}: relative error", error, 2e-3)
    with report.attempt("second derivative"):
        eps = data.quarter(x, delta, 2.0)
        found, exact = _second(x, delta, eps), _second(_exactly(x), _exactly(delta), eps)
        error = ((_exactly(found) - exact).norm() / exact.norm()).item()
        report.at_most("second derivative of rescaling: relative error", error, 5e-3)


def _functions(setting: Setting) -> dict[str, tuple[float, Callable[..., Tensor]]]:
    functions: dict[str, tuple[float, Callable[..., Tensor]]] = {}
    for p in (2.0,) if setting.tiny else (0.5, 1.0, 1.3, 2.0, math.inf):
        functions[f"perturb, p={p:g}"] = p, lambda x, d, e, p=p: fc.perturb(x, d, e, p=p)
        functions[f"rescaling, p={p:g}"] = (
            p,
            lambda x, d, e, p=p: fc.clipping_aware_rescaling(x, d, e, p=p),
        )
    for p in (1.0, 2.0, math.inf):
        functions[f"project, p={p:g}"] = p, lambda x, d, e, p=p: fc.project(x + d, x, e, p=p)
    for p in (1.0, 1.5, 2.0):
        functions[f"steepest_step, p={p:g}"] = (
            p,
            lambda x, d, e, p=p: fc.steepest_step(x, d, e, p=p),
        )
    return functions


def _exactly(t: Tensor) -> Tensor:
    return t.detach().double().cpu()


def _products(
    function: Callable[..., Tensor], x: Tensor, delta: Tensor, eps: Tensor, cotangent: Tensor
) -> Any:
    leaves = [t.clone().requires_grad_() for t in (x, delta, eps)]
    y = function(*leaves)
    if y.shape != cotangent.shape:
        cotangent = cotangent[:, :1].reshape(y.shape)
    return torch.autograd.grad(y, leaves, cotangent, materialize_grads=True, allow_unused=True)


def _second(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    v = delta.clone().requires_grad_()
    eta = fc.clipping_aware_rescaling(x, v, eps)
    (first,) = torch.autograd.grad(eta.sum(), v, create_graph=True)
    return torch.autograd.grad(first.square().sum(), v)[0]
