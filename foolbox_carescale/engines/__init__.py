"""What operators and attacks ask of engines: the root, and what is faster in the same pass.

``base`` explains how the parts meet.
"""

from __future__ import annotations

from typing import Any

import eagerpy as ep

from ..core import backends
from ..core.formulas import clipped_step
from ..core.problem import Problem
from .base import Engine
from .eager import Eager
from .numba_cpu import NumbaCPU
from .triton_cuda import TritonCUDA
from .xla import JaxXLA, TensorFlowXLA

ENGINES: tuple[Engine, ...] = (NumbaCPU(), TritonCUDA(), JaxXLA(), TensorFlowXLA(), Eager())
"""In the order in which they are asked; the last one serves every tensor."""


def explain(tensor: Any) -> str:
    """Return which engine serves a tensor, and what those that are asked before it answer.

    Args:
        tensor: As for ``clipping_aware_rescaling``.

    Returns:
        One line: the engine's name, a colon, what it is, and the reasons of the others.
    """
    t = backends.as_eagerpy(tensor, "tensor")
    traced = backends.is_traced(t)
    refusals: list[str] = []
    for engine in ENGINES:
        reason = engine.supports(t, traced=traced)
        if reason is None:
            return "; ".join([f"{engine.name}: {engine.description}", *refusals])
        refusals.append(f"not {engine.name}: {reason}")
    raise AssertionError("the last engine serves every tensor")


def solve(problem: Problem) -> ep.Tensor:
    """Return eta, shape (N, 1), in the dtype of ``problem.x``.

    Raises:
        ValueError: Bad values, where they can be read.
    """
    for engine in ENGINES:
        if engine.supports(problem.given_x, traced=not problem.concrete) is not None:
            continue
        if (eta := engine.solve(problem)) is not None:
            return eta
        problem.reject_bad_values()
    raise AssertionError("the last engine solves every problem")


def perturb(problem: Problem, *, in_place: bool = False) -> tuple[ep.Tensor, ep.Tensor]:
    """Return the points ``clip(x + eta delta)``, dtype of ``problem.x``, and eta.

    Points have the shape (N, n) or that of x, here and below.

    With ``in_place`` the compiled engines write them over ``problem.x``; the others return a
    new tensor. Rows with bad values are not written to.
    """
    if (found := _first(problem).perturb(problem, in_place=in_place)) is not None:
        return found
    eta = solve(problem)
    return clipped_step(problem, eta), eta


def steepest_step(
    problem: Problem,
    counts: Any = None,
    *,
    nonfinite_as_zero: bool = False,
    overwrite: bool = False,
) -> ep.Tensor | None:
    """Return the point of ``steepest_step``, or None: no engine has it in one pass.

    Args:
        problem: Its ``delta`` is the gradient.
        counts: For p = 1 the numbers of coordinates to move, shape (N,): the step goes evenly
            along the signs of the largest gradients, in the place of the maximiser.
        nonfinite_as_zero: Whether gradients that are not finite may count as 0. An engine for
            which they are bad values all the same returns None.
        overwrite: Whether the memory of the gradient may be written to, or with counts that of x.
    """
    return _first(problem).steepest_step(
        problem, counts, nonfinite_as_zero=nonfinite_as_zero, overwrite=overwrite
    )


def project(
    problem: Problem,
    *,
    sphere: bool = False,
    momentum: tuple[float, ep.Tensor, ep.Tensor] | None = None,
    twice: bool = False,
    overwrite: bool = False,
    direction: ep.Tensor | None = None,
) -> tuple[ep.Tensor, Any, Any] | None:
    """Return the projection onto ball and box, or None: no engine has it in one pass.

    Args:
        problem: Its ``delta`` are the points to project, its ``x`` the centres.
        sphere: Whether to go on, along the perturbation, to where its norm is eps.
        momentum: (m, now, before): in the place of the points z is projected
            now + (1 - m) (z - now) + m (now - before).
        twice: Whether z itself is projected before momentum, too.
        overwrite: Whether the memory of the points may be written to.
        direction: For p = 1 on the sphere: where an engine may spend what is missing to eps, on
            coordinates that have not moved, along the largest of this. Counts as 0 where it is
            not finite.

    Returns:
        The points; for p = 1 the thresholds and what is missing to eps, shape (N,): arrays or
        tensors on the device, the latter None where it has been spent.
    """
    return _first(problem).project(
        problem,
        sphere=sphere,
        momentum=momentum,
        twice=twice,
        overwrite=overwrite,
        direction=direction,
    )


def accumulate(
    total: ep.Tensor | None, decay: float, gradient: ep.Tensor, least: float
) -> ep.Tensor | None:
    """Return decay * total + g / max(||g||_1, least), g being 0 where not finite.

    None where no engine has it in one pass, else in the memory of the total.

    Args:
        total: What was returned before, or None: all 0.
        decay: Weight of the total.
        gradient: Shape (N, ...).
        least: The norm below which gradients are not scaled to 1.
    """
    engine = _serving_first(gradient, traced=backends.is_traced(gradient))
    return engine.accumulate(total, decay, gradient, least)


def reachable_norm(problem: Problem) -> ep.Tensor | None:
    """Return the norm of the room along ``problem.delta``, shape (N, 1).

    None where no engine has it in one pass, or where values are bad.
    """
    return _first(problem).reachable_norm(problem)


def vjp(
    problem: Problem, eta: ep.Tensor, cotangent: ep.Tensor, *, of_points: bool
) -> tuple[ep.Tensor, ep.Tensor, ep.Tensor] | None:
    """Return the vector-Jacobian product of ``solve``, or ``of_points`` of ``perturb``.

    None where no engine has it in closed form.

    Args:
        problem: What was solved.
        eta: Its solution, shape (N, 1).
        cotangent: The vector, shape (N, 1), or (N, n) for the points.
        of_points: Of which of the two.

    Returns:
        The products for x and delta, and for eps, shape (N, 1).
    """
    traced = not problem.concrete or backends.is_traced(cotangent)
    engine = _serving_first(problem.given_x, traced=traced)
    return engine.vjp(problem, eta, cotangent, of_points=of_points)


def _first(problem: Problem) -> Engine:
    return _serving_first(problem.given_x, traced=not problem.concrete)


def _serving_first(tensor: ep.Tensor, *, traced: bool) -> Engine:
    for engine in ENGINES:
        if engine.supports(tensor, traced=traced) is None:
            return engine
    raise AssertionError("the last engine serves every tensor")
