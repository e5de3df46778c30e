"""The operator: how far to go along a direction so that the clipped step has a given norm.

Source: Rauber & Bethge 2020, "Fast Differentiable Clipping-Aware Normalization
and Rescaling", arXiv 2007.07677, here for any p-norm.

Notation: x in the box [a, b]^n, direction v = delta, and the room

    room_i = b_i - x_i if v_i > 0,  x_i - a_i if v_i < 0,  0 if v_i = 0.

The clipped perturbation clip(x + eta v, a, b) - x has the magnitudes
min(eta |v_i|, room_i).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import eagerpy as ep

from .. import engines
from ..core import backends, checks, norms
from ..core.formulas import clip, clipped_step, room_of
from ..core.problem import Problem
from . import autodiff
from .l1 import fill_up, project_l1
from .opaque import OPERATORS
from .validation import prepare

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


def _opaque_to_compilers(operator: Callable[P, R]) -> Callable[P, R]:
    """Return the operator as one node for torch.compile, and unconverted by TensorFlow."""
    OPERATORS[operator.__name__] = operator

    @functools.wraps(operator)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch" in sys.modules and sys.modules["torch"].compiler.is_compiling():
            from .torch_compile import call

            result: R = call(operator.__name__, *args, **kwargs)
            return result
        if "tensorflow" in sys.modules and not sys.modules["tensorflow"].executing_eagerly():
            # nothing here branches on tensors: AutoGraph need not rewrite it
            plain: Callable[P, R] = _unconverted(operator)
            return plain(*args, **kwargs)
        return operator(*args, **kwargs)

    return wrapper


@functools.cache
def _unconverted(function: Callable[P, R]) -> Callable[P, R]:
    plain: Callable[P, R] = sys.modules["tensorflow"].autograph.experimental.do_not_convert(
        function
    )
    return plain


@_opaque_to_compilers
def clipping_aware_rescaling(
    x: T, delta: T, eps: Any, *, p: float = 2.0, bounds: Any = (0.0, 1.0)
) -> T:
    """Return the eta for which the clipped perturbation has norm eps.

    ``||clip(x + eta delta) - x||_p = eps``.

    Solves sum_i min(eta |delta_i|, room_i)^p = eps^p, exactly, one eta per sample.
    Differentiable in x, delta and eps, to any order (implicit function theorem).

    Args:
        x: Points inside the bounds, shape (N, ...): NumPy, PyTorch, TensorFlow, JAX or EagerPy.
        delta: Directions, shape of x.
        eps: Target norm, in the units of x: a number, or a tensor of shape (N,).
        p: Order of the norm, in (0, inf]. From 1e8 on (float64: 1e14) it counts as infinity, from
            which the norm then differs by less than the dtype resolves.
        bounds: Lower and upper bound, numbers or tensors that broadcast to x.

    Returns:
        eta, shape (N, 1, ..., 1), tensor type, dtype and device of x. Where eps is more than
        ``reachable_norm``, the smallest eta that reaches the far corner of the box; 0 for an
        all-zero direction and for eps 0. Cut to the largest finite number of the dtype. The
        relative error of the norm is at most 1e-6 in float32 and 1e-12 in float64 for p from
        0.25 on; below, where the norm of a few thousand elements may be no number of the dtype
        any more, it grows with 1 / p. XLA takes subnormal directions for 0.

    Raises:
        ValueError: shapes differ, x outside the bounds by more than rounding, lower >= upper,
            eps negative or not finite, p outside (0, inf], NaN in x or delta (where values
            can be read, that is, not while tracing).

    Source: Rauber & Bethge 2020, arXiv 2007.07677.
    """
    problem = prepare(x, delta, eps, p, bounds)
    result: T = problem.restore_eta(_eta(problem))
    return result


@_opaque_to_compilers
def perturb(
    x: T,
    delta: T,
    eps: Any,
    *,
    p: float = 2.0,
    bounds: Any = (0.0, 1.0),
    in_place: bool = False,
) -> T:
    """Move x along delta until the clipped perturbation has norm eps: ``clip(x + eta delta)``.

    eta is ``clipping_aware_rescaling(x, delta, eps)``. Differentiable like it.

    Args:
        x: Points inside the bounds, shape (N, ...).
        delta: Directions, shape of x.
        eps: Target norm, in the units of x: a number, or a tensor of shape (N,).
        p: Order of the norm, in (0, inf].
        bounds: Lower and upper bound, numbers or tensors that broadcast to x.
        in_place: Write the result over x and return x. For NumPy arrays and PyTorch tensors
            that are contiguous, in float32 or float64, and not differentiated. Where a value is
            bad nothing is written on the CPU. On a GPU all samples without bad values have been
            moved, once, by the time the error is raised; those with bad values are as they were.

    Returns:
        The perturbed points, type of x: inside the bounds, exactly eps from x in the p-norm
        (``reachable_norm`` where eps is more than that).

    Raises:
        ValueError: as ``clipping_aware_rescaling``, and in_place where x cannot be written.

    Source: Rauber & Bethge 2020, arXiv 2007.07677.
    """
    problem = prepare(x, delta, eps, p, bounds)
    if in_place:
        _overwrite(problem, x)
        return x
    result: T = _perturbed(problem)
    return result


@_opaque_to_compilers
def reachable_norm(x: T, delta: T, *, p: float = 2.0, bounds: Any = (0.0, 1.0)) -> T:
    """Return the largest p-norm that moving x along delta can have inside the bounds.

    R = || room ||_p over the coordinates with delta != 0, where room is the
    distance from x to the bound that delta points at.

    Args:
        x: Points inside the bounds, shape (N, ...).
        delta: Directions, shape of x; only their signs matter.
        p: Order of the norm, in (0, inf].
        bounds: Lower and upper bound, numbers or tensors that broadcast to x.

    Returns:
        R, shape (N,), in the units of x; tensor type of x.

    Raises:
        ValueError: p outside (0, inf], x outside the bounds, shapes that differ, NaN.
    """
    problem = prepare(x, delta, 0.0, p, bounds)
    if problem.empty:
        return problem.restore_norm(_zeros(problem))  # type: ignore[no-any-return]
    if not autodiff.needed(problem) and (found := engines.reachable_norm(problem)) is not None:
        return problem.restore_norm(found)  # type: ignore[no-any-return]
    problem.reject_bad_values()
    result: T = problem.restore_norm(norms.lp_norm(room_of(problem), problem.p))
    return result


@_opaque_to_compilers
def project(x: T, x0: T, eps: Any, *, p: float = 2.0, bounds: Any = (0.0, 1.0)) -> T:
    """Return the point of ball and box nearest to x: argmin ||z - x||_2, ||z - x0||_p <= eps.

    Exact for p = 1 (soft threshold, then clip), p = 2 (``clip(x0 + eta (x - x0))`` with
    ``eta = min(1, clipping_aware_rescaling)``) and p = inf (two clips). For any other p the
    radial rescaling of p = 2 stands in: it lies in ball and box, on the sphere when it has
    to move, but it is not the nearest point. Differentiable in x, x0 and eps.

    Args:
        x: Points to project, shape (N, ...); may lie anywhere.
        x0: Centres of the balls, inside the bounds, shape of x.
        eps: Radius, in the units of x: a number, or a tensor of shape (N,).
        p: Order of the norm, in (0, inf].
        bounds: Lower and upper bound, numbers or tensors that broadcast to x.

    Returns:
        The projected points, type of x.

    Raises:
        ValueError: as ``clipping_aware_rescaling``, with x0 in the place of its x.
    """
    problem = prepare(x0, x, eps, p, bounds, names=("x0", "x"))
    if problem.empty:
        return x
    if not autodiff.needed(problem) and (found := engines.project(problem)) is not None:
        return problem.restore(found[0])  # type: ignore[no-any-return]
    center, target = problem.x, problem.delta
    if problem.p == math.inf:
        problem.reject_bad_values()
        eps_ = problem.eps_tensor(center)
        inner = clip(target, center - eps_, center + eps_)
        return problem.restore(clip(inner, problem.lower, problem.upper))  # type: ignore[no-any-return]
    problem = _along(problem, target - center)
    if problem.p == 1:
        problem.reject_bad_values()
        return problem.restore(project_l1(problem, target))  # type: ignore[no-any-return]
    eta = _eta(problem)
    inside = eta >= 1.0
    radial = clipped_step(problem, ep.minimum(eta, ep.ones_like(eta)))
    # x0 + (x - x0) is not x to the last digit
    result = ep.where(inside, clip(target, problem.lower, problem.upper), radial)
    return problem.restore(result)  # type: ignore[no-any-return]


@_opaque_to_compilers
def steepest_step(x: T, grad: T, eps: Any, *, p: float = 2.0, bounds: Any = (0.0, 1.0)) -> T:
    """Return x + s with s = argmax <grad, s> over ||s||_p <= eps and x + s inside the bounds.

    Exact for every p: for 1 < p < inf the clipping-aware rescaling of
    sign(g) |g|^(1/(p-1)), for p = inf of sign(g), and for p = 1 the coordinates are filled
    up in the order of |g| until the budget is spent (equal |g| share what is left).
    Coordinates with zero gradient do not move.

    Args:
        x: Points inside the bounds, shape (N, ...).
        grad: Gradients to follow upwards, shape of x; their scale does not matter.
        eps: Length of the step, in the units of x: a number, or a tensor of shape (N,).
        p: Order of the norm, in [1, inf].
        bounds: Lower and upper bound, numbers or tensors that broadcast to x.

    Returns:
        x + s, type of x; s has norm eps, or ``reachable_norm(x, grad)`` where that is less.

    Raises:
        ValueError: p < 1, and as ``clipping_aware_rescaling``.

    Source: KKT conditions of the problem above; for the whole space it is the dual-norm
    step of the fast gradient method (Goodfellow et al. 2015, arXiv 1412.6572).
    """
    problem = prepare(x, grad, eps, p, bounds, names=("x", "grad"), least_p=1.0)
    if problem.empty:
        return x
    if not autodiff.needed(problem) and (found := engines.steepest_step(problem)) is not None:
        return problem.restore(found)  # type: ignore[no-any-return]
    if problem.p == 1:
        problem.reject_bad_values()
        return problem.restore(fill_up(problem))  # type: ignore[no-any-return]
    problem.reject_bad_directions()
    if problem.p < norms.WIDE_BELOW:
        problem = problem.widened()
    gradient = problem.delta
    if problem.p not in (2.0, math.inf):
        # what has no room moves neither way: it is not to set the scale of the powers
        gradient = ep.where(backends.detach(room_of(problem)) > 0, gradient, 0.0)
    direction = norms.dual_direction(gradient, problem.p)
    # on an accelerator the values of x have been checked with those of the gradient
    checked = backends.on_accelerator(problem.shaped_x)
    with checks.skipped() if checked else contextlib.nullcontext():
        return _perturbed(_along(problem, direction))  # type: ignore[no-any-return]


def l2_clipping_aware_rescaling(x: T, delta: T, eps: Any, a: float = 0.0, b: float = 1.0) -> T:
    """Drop-in for the function of the same name in the official code and in Foolbox.

    ``clipping_aware_rescaling(x, delta, eps, p=2, bounds=(a, b))``.

    Args:
        x: Points inside [a, b], shape (N, ...).
        delta: Directions, shape of x.
        eps: Target L2 norm, in the units of x.
        a: Lower bound.
        b: Upper bound.

    Returns:
        eta, shape (N, 1, ..., 1).

    Raises:
        ValueError: as ``clipping_aware_rescaling``.

    Source: Rauber & Bethge 2020, arXiv 2007.07677, and their code.
    """
    return clipping_aware_rescaling(x, delta, eps, p=2.0, bounds=(a, b))


def _perturbed(problem: Problem) -> Any:
    if problem.empty:
        return problem.restore(problem.x)
    return problem.restore(autodiff.perturb(problem))


def _overwrite(problem: Problem, x: Any) -> None:
    """Write the perturbed points over the caller's x, which the flat x must be a view of."""
    kind = backends.framework(problem.x)
    reason = None
    if kind not in ("numpy", "torch") or not problem.concrete:
        reason = f"a {kind} tensor cannot be written"
    elif autodiff.needed(problem):
        reason = "it is differentiated"
    elif problem.dtype_name not in ("float32", "float64"):
        reason = f"its dtype is {problem.dtype_name}"
    else:
        raw = ep.astensor(x).raw
        flags = raw.flags if kind == "numpy" else None
        contiguous = raw.is_contiguous() if flags is None else flags.c_contiguous
        if not contiguous or (flags is not None and not flags.writeable):
            reason = "it is not contiguous, or read-only"
    if reason is not None:
        raise ValueError(f"in_place: x cannot be overwritten: {reason}; use the returned tensor")
    if problem.empty:
        return
    if kind == "torch":  # kernels write unseen by autograd, which may have kept x for a gradient
        sys.modules["torch"].autograd.graph.increment_version(raw)
    points, _ = engines.perturb(problem, in_place=True)
    if points is not problem.x:
        problem.x.raw[...] = points.raw


def _eta(problem: Problem) -> ep.Tensor:
    return _zeros(problem) if problem.empty else autodiff.solve(problem)


def _along(problem: Problem, direction: ep.Tensor) -> Problem:
    return dataclasses.replace(problem, given_delta=direction)


def _zeros(problem: Problem) -> ep.Tensor:
    return ep.zeros(problem.x, (problem.shape[0], 1))
