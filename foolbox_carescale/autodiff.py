"""Gradients of the root: its value from an engine, its derivatives from the closed form.

One pattern, in each framework's own words: the derivative of eta is the framework's autodiff
of ``closed_form.with_gradient``, which is exact to every order, and is computed only when
somebody differentiates.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import eagerpy as ep

from . import backends, engines
from .arguments import Problem
from .closed_form import with_gradient


def needed(problem: Problem) -> bool:
    """False only where it is certain that nobody differentiates through this problem."""
    return backends.may_need_gradient(*_variables(problem))


def solve(problem: Problem) -> ep.Tensor:
    """Eta, shape (N, 1), differentiable in x, delta and eps to every order."""
    if not needed(problem):
        return engines.solve(problem)
    kind = backends.framework(problem.x)
    if kind == "torch" and problem.concrete:
        function = _torch_function()
        raw = [t.raw for t in _variables(problem)]
        eta: ep.Tensor = ep.astensor(function.apply(functools.partial(_replaced, problem), *raw))
        return eta
    if kind == "tensorflow":
        return _tensorflow(problem)
    return with_gradient(problem, backends.detach(engines.solve(problem)))


def _variables(problem: Problem) -> list[ep.Tensor]:
    both = [problem.x, problem.delta]
    return both if isinstance(problem.eps, float) else [*both, problem.eps]


def _replaced(problem: Problem, x: Any, delta: Any, eps: Any = None) -> Problem:
    """The problem with other raw tensors for its variables."""
    return dataclasses.replace(
        problem,
        x=ep.astensor(x),
        delta=ep.astensor(delta),
        eps=problem.eps if eps is None else ep.astensor(eps),
    )


@functools.cache
def _torch_function() -> Any:
    torch = sys.modules["torch"]

    class Rescaling(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, problem_of: Callable[..., Problem], *variables: Any) -> Any:
            eta = engines.solve(problem_of(*variables))
            ctx.problem_of = problem_of
            ctx.save_for_backward(eta.raw, *variables)
            return eta.raw

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            eta, *variables = ctx.saved_tensors
            eta = ep.astensor(eta.detach())
            if not torch.is_grad_enabled():  # nobody differentiates the gradient again
                products = engines.gradients(ctx.problem_of(*variables), eta, ep.astensor(upstream))
                if products is not None:
                    shaped = zip(products, variables, strict=False)
                    return (None, *(p.raw.sum_to_size(v.shape) for p, v in shaped))
            again = torch.is_grad_enabled()
            with torch.enable_grad():
                copies = [v if v.requires_grad else v.detach().requires_grad_() for v in variables]
                value = with_gradient(ctx.problem_of(*copies), eta)
                # p = inf does not depend on x: materialized zeros
                products = torch.autograd.grad(
                    value.raw, copies, upstream, create_graph=again, materialize_grads=True
                )
            return (None, *products)

    return Rescaling


def _tensorflow(problem: Problem) -> ep.Tensor:
    tf = sys.modules["tensorflow"]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def rescaling(*variables: Any) -> Any:
        eta = engines.solve(_replaced(problem, *variables)).raw

        def gradient(upstream: Any) -> Any:
            constant = ep.astensor(tf.stop_gradient(eta))
            with tf.GradientTape() as tape:
                tape.watch(variables)
                value = with_gradient(_replaced(problem, *variables), constant).raw
            zeros = tf.UnconnectedGradients.ZERO  # p = inf does not depend on x
            return tape.gradient(value, variables, upstream, unconnected_gradients=zeros)

        return eta, gradient

    eta: ep.Tensor = ep.astensor(rescaling(*(t.raw for t in _variables(problem))))
    return eta
