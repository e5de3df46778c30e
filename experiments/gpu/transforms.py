"""Operators inside torch.func, torch.compile in every mode, and CUDA graphs."""

from __future__ import annotations

import math
from typing import Any

import torch

import foolbox_carescale as fc

from . import calls, data, measure
from .report import Report
from .setting import Setting

Tensor = torch.Tensor
MODES = ("default", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune")
ORDERS = (1.0, 2.0, math.inf)
EPS = 3.0


def check(report: Report, setting: Setting) -> None:
    """Check that the points and gradients are those of a plain call."""
    shape = (2, 3, 4, 4) if setting.tiny else (16, 3, 32, 32)
    x, delta = data.case("uniform", shape, setting.device)
    expected = fc.perturb(x, delta, EPS)
    (gradient,) = calls.gradient(x, delta, 2.0, EPS)()
    with report.attempt("torch.func"):
        _functional(report, x, delta, expected, gradient)
    if not setting.cuda:
        report.add("torch.compile and CUDA graphs", "need a GPU")
        return
    for mode in MODES:
        with report.attempt(f"torch.compile, {mode}"):
            _compiled(report, mode, x, delta, expected, gradient)
    for name in ("perturb", "clipping_aware_rescaling", "project", "steepest_step"):
        for p in ORDERS:
            with report.attempt(f"{name} in a CUDA graph, p={p:g}"):
                _in_graph(report, name, p, x, delta)
    torch.cuda.synchronize()


def _functional(
    report: Report, x: Tensor, delta: Tensor, expected: Tensor, gradient: Tensor
) -> None:
    moved = torch.func.vmap(lambda a, b: fc.perturb(a[None], b[None], EPS)[0])(x, delta)
    report.at_most("vmap: difference", (moved - expected).abs().max().item(), 1e-5)
    found = torch.func.grad(lambda v: fc.perturb(x, v, EPS).sum())(delta)
    error = ((found - gradient).norm() / gradient.norm()).item()
    report.at_most("torch.func.grad: relative difference", error, 1e-4)


def _compiled(
    report: Report, mode: str, x: Tensor, delta: Tensor, expected: Tensor, gradient: Tensor
) -> None:
    torch._dynamo.reset()
    function: Any = torch.compile(
        lambda x, delta: fc.perturb(x * 1.0, delta, EPS), fullgraph=True, mode=mode
    )
    for _ in range(3):  # a CUDA graph is recorded by the second call, and replayed by the third
        leaf = delta.clone().requires_grad_()
        moved = function(x, leaf)
        found = moved.detach().clone()
        moved.sum().backward()
    report.at_most(
        f"torch.compile, {mode}: difference", (found - expected).abs().max().item(), 1e-5
    )
    error = ((leaf.grad - gradient).norm() / gradient.norm()).item()
    report.at_most(f"torch.compile, {mode}: relative difference of the gradient", error, 1e-3)


def _in_graph(report: Report, name: str, p: float, x: Tensor, delta: Tensor) -> None:
    """Capture an operator without checks, and replay it."""
    call = calls.operators(x, delta, p, EPS)[name]
    expected = call()
    found: list[Tensor] = []
    with calls.unchecked():
        graph = measure.graph_of(lambda: found.append(call()))
    found[-1].zero_()
    graph.replay()
    torch.cuda.synchronize()
    same = torch.equal(found[-1], expected)
    report.add(f"{name} in a CUDA graph, p={p:g}: the same", same, "True", same)
