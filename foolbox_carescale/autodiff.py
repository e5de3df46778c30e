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
    if kind == "jax":
        return _jax(problem)
    # torch.func and torch.compile: they follow the expression itself
    return with_gradient(problem, backends.detach(engines.solve(problem)))


def _variables(problem: Problem) -> list[ep.Tensor]:
    both = [problem.x, problem.delta]
    return both if isinstance(problem.eps, float) else [*both, problem.eps]


def _replaced(problem: Problem, x: Any, delta: Any, eps: Any = None) -> Problem:
    """The problem with other raw tensors for its variables."""
    tensors = [ep.astensor(t) for t in (x, delta) + (() if eps is None else (eps,))]
    return dataclasses.replace(
        problem,
        x=tensors[0],
        delta=tensors[1],
        eps=problem.eps if eps is None else tensors[2],
        concrete=not any(backends.is_traced(t) for t in [*tensors, *_bound_tensors(problem)]),
    )


def _bound_tensors(problem: Problem) -> list[ep.Tensor]:
    return [b for b in (problem.lower, problem.upper) if not isinstance(b, float)]


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


def _jax(problem: Problem) -> ep.Tensor:
    jax = sys.modules["jax"]
    bounds = _bound_tensors(problem)

    def problem_of(bounds: Any, variables: Any) -> Problem:
        # as arguments, not closed over: a custom derivative may not capture tracers
        both = [ep.astensor(b) for b in bounds]
        lower = problem.lower if isinstance(problem.lower, float) else both[0]
        upper = problem.upper if isinstance(problem.upper, float) else both[-1]
        return _replaced(dataclasses.replace(problem, lower=lower, upper=upper), *variables)

    @jax.custom_jvp  # type: ignore[untyped-decorator]
    def rescaling(bounds: Any, variables: Any) -> Any:
        return engines.solve(problem_of(bounds, variables)).raw

    @rescaling.defjvp  # type: ignore[untyped-decorator]
    def derivative(primals: Any, tangents: Any) -> Any:
        bounds, variables = primals
        eta = rescaling(bounds, variables)
        constant = ep.astensor(jax.lax.stop_gradient(eta))

        def expression(*variables: Any) -> Any:
            return with_gradient(problem_of(bounds, variables), constant).raw

        return eta, jax.jvp(expression, variables, tangents[1])[1]

    raw = tuple(t.raw for t in _variables(problem))
    eta: ep.Tensor = ep.astensor(rescaling(tuple(b.raw for b in bounds), raw))
    return eta
