"""Gradients of the root: its value from an engine, its derivatives from the closed form.

One pattern, in each framework's own words: the derivative of eta is the framework's autodiff
of ``core.formulas.implicit_eta``, which is exact to every order, and is computed only when
somebody differentiates.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import eagerpy as ep

from .. import engines
from ..core import backends
from ..core.formulas import clipped_step, implicit_eta
from ..core.problem import Problem, flat


def needed(problem: Problem) -> bool:
    """Return False only where it is certain that no gradient of this problem is required."""
    eps = () if isinstance(problem.eps, float) else (problem.eps,)
    given = problem.given_x, problem.given_delta, *eps
    return backends.may_need_gradient(*given, concrete=problem.concrete)


def solve(problem: Problem) -> ep.Tensor:
    """Eta, shape (N, 1), differentiable in x, delta and eps to every order."""
    return _differentiable(problem, _ETA) if needed(problem) else _root(problem)


def perturb(problem: Problem) -> ep.Tensor:
    """Return ``clip(x + eta delta)``, shape (N, n), differentiable like eta."""
    if not needed(problem):
        return engines.perturb(problem)[0]
    kind = backends.framework(problem.shaped_x)
    if kind == "tensorflow" or (kind == "torch" and problem.concrete):
        return _differentiable(problem, _POINTS)
    return clipped_step(
        problem, solve(problem)
    )  # one custom derivative, of eta, is enough to trace


def _root(problem: Problem) -> ep.Tensor:
    x = problem.shaped_x
    if not problem.concrete and backends.framework(x) == "torch" and backends.is_compiling(x):
        from . import torch_compile  # imports torch

        return torch_compile.solve(problem)
    return engines.solve(problem)


@dataclasses.dataclass(frozen=True)
class _Operator:
    """The function to differentiate.

    Attributes:
        value: Its value and eta, from an engine.
        formula: The same from eta, as an expression that carries the derivatives.
        of_points: Whether it is the points, or eta itself.
    """

    value: Callable[[Problem], tuple[ep.Tensor, ep.Tensor]]
    formula: Callable[[Problem, ep.Tensor], ep.Tensor]
    of_points: bool


def _eta_twice(problem: Problem) -> tuple[ep.Tensor, ep.Tensor]:
    eta = _root(problem)
    return eta, eta


def _points(problem: Problem, eta: ep.Tensor) -> ep.Tensor:
    return clipped_step(problem, implicit_eta(problem, eta))


def _points_and_eta(problem: Problem) -> tuple[ep.Tensor, ep.Tensor]:
    points, eta = engines.perturb(problem)
    return flat(backends.at_least_float32(points), problem.n), eta


_ETA = _Operator(_eta_twice, implicit_eta, of_points=False)
_POINTS = _Operator(_points_and_eta, _points, of_points=True)


def _differentiable(problem: Problem, operator: _Operator) -> ep.Tensor:
    kind = backends.framework(problem.shaped_x)
    if backends.carries_tangent(*_variables(problem)):
        return operator.formula(problem, backends.detach(operator.value(problem)[1]))
    if kind == "torch" and problem.concrete:
        raw = [t.raw for t in _variables(problem)]
        result: ep.Tensor = ep.astensor(_torch_function().apply(operator, problem, *raw))
        return result
    if kind == "tensorflow":
        return _tensorflow(problem, operator)
    if kind == "jax":
        return _jax(problem)
    # torch.func and torch.compile: they follow the expression itself
    return operator.formula(problem, backends.detach(_root(problem)))


def _variables(problem: Problem) -> list[ep.Tensor]:
    both = [problem.shaped_x, problem.shaped_delta]
    return both if isinstance(problem.eps, float) else [*both, problem.eps]


def _replaced(problem: Problem, x: Any, delta: Any, eps: Any = None) -> Problem:
    """Return the problem with other raw tensors for its variables."""
    tensors = [ep.astensor(t) for t in (x, delta) + (() if eps is None else (eps,))]
    return dataclasses.replace(
        problem,
        given_x=tensors[0],
        given_delta=tensors[1],
        eps=problem.eps if eps is None else tensors[2],
        concrete=not backends.is_traced(*tensors, *_bound_tensors(problem)),
    )


def _bound_tensors(problem: Problem) -> list[ep.Tensor]:
    return [b for b in (problem.lower, problem.upper) if not isinstance(b, float)]


@functools.cache
def _torch_function() -> Any:
    torch = sys.modules["torch"]

    class Rescaling(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, operator: _Operator, problem: Problem, *variables: Any) -> Any:
            value, eta = operator.value(problem)
            ctx.operator, ctx.problem = operator, problem
            ctx.save_for_backward(eta.raw, *variables)
            return value.raw

        @staticmethod
        def backward(ctx: Any, cotangent: Any) -> Any:
            operator, problem = ctx.operator, ctx.problem
            eta, *variables = ctx.saved_tensors  # which tells when they were written to meanwhile
            eta = ep.astensor(eta.detach())
            if not torch.is_grad_enabled():  # nobody differentiates the gradient again
                products = engines.vjp(
                    problem, eta, ep.astensor(cotangent), of_points=operator.of_points
                )
                if products is not None:
                    flat = zip(products, variables, strict=False)
                    return (None, None, *(_like(p.raw, v) for p, v in flat))
            again = torch.is_grad_enabled()
            with torch.enable_grad():
                copies = [v if v.requires_grad else v.detach().requires_grad_() for v in variables]
                value = operator.formula(_replaced(problem, *copies), eta)
                # p = inf does not depend on x: materialized zeros
                products = torch.autograd.grad(
                    value.raw, copies, cotangent, create_graph=again, materialize_grads=True
                )
            return (None, None, *products)

    return Rescaling


def _like(product: Any, variable: Any) -> Any:
    """Return a flat product in its variable's shape; one eps for all samples gets their sum."""
    if product.numel() == variable.numel():
        return product.reshape(variable.shape)
    return product.sum_to_size(variable.shape)


def _tensorflow(problem: Problem, operator: _Operator) -> ep.Tensor:
    tf = sys.modules["tensorflow"]

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def rescaling(*variables: Any) -> Any:
        value, eta = (t.raw for t in operator.value(_replaced(problem, *variables)))

        def gradient(cotangent: Any) -> Any:
            constant = ep.astensor(tf.stop_gradient(eta))
            with tf.GradientTape() as tape:
                tape.watch(variables)
                formula = operator.formula(_replaced(problem, *variables), constant).raw
            zeros = tf.UnconnectedGradients.ZERO  # p = inf does not depend on x
            return tape.gradient(formula, variables, cotangent, unconnected_gradients=zeros)

        return value, gradient

    result: ep.Tensor = ep.astensor(rescaling(*(t.raw for t in _variables(problem))))
    return result


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
        return _root(problem_of(bounds, variables)).raw

    @rescaling.defjvp  # type: ignore[untyped-decorator]
    def derivative(primals: Any, tangents: Any) -> Any:
        bounds, variables = primals
        eta = rescaling(bounds, variables)
        constant = ep.astensor(jax.lax.stop_gradient(eta))

        def expression(*variables: Any) -> Any:
            return implicit_eta(problem_of(bounds, variables), constant).raw

        return eta, jax.jvp(expression, variables, tangents[1])[1]

    raw = tuple(t.raw for t in _variables(problem))
    eta: ep.Tensor = ep.astensor(rescaling(tuple(b.raw for b in bounds), raw))
    return eta
