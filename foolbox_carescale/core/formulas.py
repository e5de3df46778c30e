"""The formulas that carry derivatives: every backend's own autodiff of them is exact."""

from __future__ import annotations

import math

import eagerpy as ep

from . import backends, norms
from .problem import Problem


def implicit_eta(problem: Problem, eta: ep.Tensor) -> ep.Tensor:
    """Return the same eta as an expression whose derivatives, of every order, are right.

    With the saturated set S and the rest U held fixed,

        eta = ((eps^p - sum_S room^p) / sum_U |v|^p)^(1/p)

    in units of the solution, where it reads eta * (1)^(1/p): the numerator is written as
    the denominator's value plus what changes, so that no cancellation enters.
    """
    magnitude, room = problem.delta.abs(), room_of(problem)
    eps = problem.eps_tensor(problem.x)
    unit = norms.positive_or_one(backends.detach(eps))
    still = backends.detach(magnitude), backends.detach(room)
    one = ep.ones_like(eta)
    eps = eps / unit * one  # (N, 1), also where eps is one number

    if problem.p == math.inf:
        # the coordinates that reach eps first decide alone
        first = ep.where(still[1] >= unit, magnitude, 0.0).max(axis=-1, keepdims=True)
        regular = backends.detach(first) > 0
        first = ep.where(regular, first, one)
        factor = eps * backends.detach(first) / first
        return ep.where(regular, eta * factor, eta)

    saturated = _saturated(problem, eta, *still)
    moving = ep.where(saturated, ep.zeros_like(magnitude), magnitude)
    weights = moving * eta / unit
    den = norms.accumulate(norms.power(weights, problem.p))
    spent = norms.accumulate(norms.power(ep.where(saturated, room, 0.0) / unit, problem.p))
    num = norms.power(eps, problem.p) - spent
    regular = backends.detach(den) > 0
    den = ep.where(regular, den, one)
    factor = (backends.detach(den) + (num - backends.detach(num))) / den
    return ep.where(regular, eta * norms.power(ep.where(regular, factor, one), 1 / problem.p), eta)


def room_of(problem: Problem) -> ep.Tensor:
    """Distance to the bound that the direction points at, 0 where it is 0; never negative."""
    x, v = problem.x, problem.delta
    room = ep.where(v > 0, problem.upper - x, ep.where(v < 0, x - problem.lower, ep.zeros_like(x)))
    return ep.where(room >= 0, room, ep.zeros_like(room))


def clipped_step(problem: Problem, eta: ep.Tensor) -> ep.Tensor:
    """Return ``clip(x + eta delta)``, shape (N, n).

    What eta takes to its bound lies on it, and depends on nothing, also where the rounding of
    eta or of the sum stops a digit short of it.
    """
    x, v = problem.x, problem.delta
    magnitude, room = backends.detach(v.abs()), backends.detach(room_of(problem))
    arrived = ep.logical_and(_saturated(problem, backends.detach(eta), magnitude, room), eta > 0)
    zero = ep.zeros_like(x)
    end = ep.where(v > 0, zero + problem.upper, zero + problem.lower)
    points = clip(x + eta * v, problem.lower, problem.upper)
    return ep.where(ep.logical_and(arrived, magnitude > 0), end, points)


def clip(t: ep.Tensor, lower: float | ep.Tensor, upper: float | ep.Tensor) -> ep.Tensor:
    """Clip by selection: the derivative is 1 on the bounds themselves in every backend."""
    t = ep.where(t > upper, ep.zeros_like(t) + upper, t)
    return ep.where(t < lower, ep.zeros_like(t) + lower, t)


def _saturated(
    problem: Problem, eta: ep.Tensor, magnitude: ep.Tensor, room: ep.Tensor
) -> ep.Tensor:
    # the last few digits of a breakpoint do not make a coordinate unsaturated
    resolution = 2.0**-52 if backends.dtype_name(problem.x) == "float64" else 2.0**-23
    return eta * magnitude >= room * (1.0 - 4 * resolution)
