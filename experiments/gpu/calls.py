"""Calls of operators and attacks, by name: what is compiled, counted and timed."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import foolbox
import torch

import foolbox_carescale as fc
from foolbox_carescale import attacks

Tensor = torch.Tensor
Calls = dict[str, Callable[[], Any]]


def operators(x: Tensor, delta: Tensor, p: float, eps: float) -> Calls:
    """Return a call of each operator; ``x + delta / 10`` is projected."""
    far = x + 0.1 * delta
    calls: Calls = {
        "clipping_aware_rescaling": lambda: fc.clipping_aware_rescaling(x, delta, eps, p=p),
        "perturb": lambda: fc.perturb(x, delta, eps, p=p),
        "reachable_norm": lambda: fc.reachable_norm(x, delta, p=p),
        "project": lambda: fc.project(far, x, eps, p=p),
    }
    if p >= 1:
        calls["steepest_step"] = lambda: fc.steepest_step(x, delta, eps, p=p)
    return calls


def in_place(x: Tensor, delta: Tensor, p: float, eps: float) -> Callable[[], Any]:
    """Return a call of ``perturb`` that writes over a copy of x, again and again."""
    target = x.clone()
    return lambda: fc.perturb(target, delta, eps, p=p, in_place=True)


def gradient(x: Tensor, delta: Tensor, p: float, eps: float) -> Callable[[], Any]:
    """Return a call of ``perturb`` and of its gradient by delta."""
    leaf = delta.clone().requires_grad_()
    return lambda: torch.autograd.grad(fc.perturb(x, leaf, eps, p=p).sum(), leaf)


def bounded(
    x: Tensor, delta: Tensor, p: float, eps: float, lower: Tensor, upper: Tensor
) -> Callable[[], Any]:
    """Return a call of ``perturb`` with bounds that are tensors."""
    return lambda: fc.perturb(x, delta, eps, p=p, bounds=(lower, upper))


def small_network(shape: tuple[int, ...], device: Any = None, classes: int = 10) -> Any:
    """Return a linear model of inputs of this shape, with the same weights every time."""
    torch.manual_seed(0)
    layers = torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), classes)
    return torch.nn.Sequential(*layers).to(device).eval()


def attack(name: str, p: float, x: Tensor, eps: float, **settings: Any) -> Callable[[], Any]:
    """Return a call of an attack, ``"PGD"`` or ``"APGD"`` and so on, on a small network."""
    chosen = getattr(attacks, f"ClipAware{name}")(p=p, **settings)
    network = small_network(tuple(x.shape[1:]), x.device)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
    with torch.no_grad():
        labels = network(x.float()).argmax(1)
    budget = None if name == "MinimumNorm" else eps
    return lambda: chosen(model, x, labels, epsilons=budget)


def model_gradient(network: Any, x: Tensor) -> Callable[[], Any]:
    """Return a call of the network's forward and backward pass alone."""
    with torch.no_grad():
        labels = network(x).argmax(1)

    def call() -> Any:
        leaf = x.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(network(leaf), labels, reduction="sum")
        return torch.autograd.grad(loss, leaf)

    return call


def unchecked() -> AbstractContextManager[None]:
    """Return a block in which no values are checked, so that the host never waits."""
    from foolbox_carescale.core import checks

    return checks.value_checks("never")
