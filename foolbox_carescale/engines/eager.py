"""Any tensor of any framework: sorted breakpoints and a bisection over them, in EagerPy."""

from __future__ import annotations

import math
from collections.abc import Callable

import eagerpy as ep

from ..core import backends
from ..core.backends import dtype_name, largest
from ..core.norms import accumulate, positive_or_one, power
from ..core.problem import Problem
from .base import LARGEST, Engine
from .newton import most_room


class Eager(Engine):
    """The one that serves every tensor, and is asked last."""

    name = "eager"
    description = "the sorted closed form, which every framework runs and traces"

    def supports(self, tensor: ep.Tensor, *, traced: bool) -> str | None:
        """Return None: there is nothing that it does not serve."""
        return None

    def solve(self, problem: Problem) -> ep.Tensor:
        """Return eta, computed in float64 where the framework and the device have it."""
        problem.reject_bad_values()
        x, delta = backends.widen(problem.x), backends.widen(problem.delta)
        x, delta = backends.detach(x), backends.detach(delta)
        lower, upper = (
            b if isinstance(b, float) else b.astype(x.dtype) for b in (problem.lower, problem.upper)
        )
        room = ep.where(delta > 0, upper - x, x - lower)
        room = ep.maximum(room, ep.zeros_like(room))
        eps = backends.detach(problem.eps_tensor(x))
        limit = LARGEST.get(problem.dtype_name, largest(problem.x))
        eta = solve(delta.abs(), room, eps, problem.p, limit)
        return eta if eta.dtype == problem.x.dtype else eta.astype(problem.x.dtype)


def solve(
    magnitude: ep.Tensor, room: ep.Tensor, eps: ep.Tensor, p: float, largest_eta: float
) -> ep.Tensor:
    """Smallest eta with ``||min(eta * magnitude, room)||_p = eps``.

    Args:
        magnitude: ``|delta|``, shape (N, n).
        room: Distance to the bound that delta points at, any where delta is 0, shape (N, n).
        eps: Target norm, shape (N, 1) or (1, 1).
        p: Order of the norm, in (0, inf].
        largest_eta: What a larger eta is cut to: the largest number that the caller can hold.

    Returns:
        eta, shape (N, 1): 0 where eps is 0, or no coordinate can move; the largest
        breakpoint ``room / magnitude`` where eps is out of reach.
    """
    # In units of eps and of the largest magnitude that can move nothing under- or overflows. A
    # coordinate never takes more than the whole budget, so much more room than that is no use.
    live = room > 0
    scale = positive_or_one(ep.where(live, magnitude, 0.0).max(axis=-1, keepdims=True))
    v = ep.where(live, magnitude / scale, 0.0)
    live = v > 0
    most = ep.ones_like(room) * most_room(dtype_name(room), p)
    r = ep.where(live, ep.minimum(room / positive_or_one(eps), most), 0.0)
    breakpoints = ep.where(live, r / positive_or_one(v), 0.0)
    breakpoints = ep.minimum(breakpoints, ep.ones_like(breakpoints) * largest(breakpoints))

    if p == math.inf:
        # the first coordinate that moves by eps; if none has that room, the far corner
        free = ep.where(r >= 1.0, v, 0.0).max(axis=-1, keepdims=True)
        corner = breakpoints.max(axis=-1, keepdims=True)
        t = ep.where(free > 0, 1.0 / positive_or_one(free), corner)
    else:

        def size(t: ep.Tensor) -> ep.Tensor:
            return accumulate(power(ep.minimum(t * v, r), p))

        below, above = bracket(breakpoints, lambda t: size(t) >= 1.0)
        saturated = breakpoints <= below
        spent = accumulate(ep.where(saturated, power(r, p), 0.0))
        rest = accumulate(ep.where(breakpoints > below, power(ep.minimum(above * v, r), p), 0.0))
        solvable = rest > 0
        share = ep.maximum(1.0 - spent, ep.zeros_like(spent)) / positive_or_one(rest)
        t = ep.where(solvable, above * power(share, 1 / p), above)
        t = ep.minimum(ep.maximum(t, below), above)

    return _scaled(t, eps, scale, largest_eta)


def bracket(
    points: ep.Tensor, reaches: Callable[[ep.Tensor], ep.Tensor]
) -> tuple[ep.Tensor, ep.Tensor]:
    """Return the two neighbours among the sorted points between which a monotone test turns true.

    Args:
        points: Nonnegative, shape (N, n), in any order; 0 is added as the first point.
        reaches: (N, 1) -> (N, 1) bool, monotone, true from some point on.

    Returns:
        below, above, shape (N, 1): the last point where the test fails (0 if there is
        none) and the next one; both the largest point where it never turns true.
    """
    points = points.sort(axis=-1)
    n = points.shape[-1]
    zero = _zero_index(points)
    low, high = zero, zero + n  # the first that reaches lies in [low, high]; n: none
    last = zero + n - 1
    for _ in range(math.ceil(math.log2(n + 1))):
        middle = (low + high) // 2
        pivot = points.take_along_axis(ep.minimum(middle, last), axis=-1)
        found = reaches(pivot)
        low, high = ep.where(found, low, middle + 1), ep.where(found, middle, high)
    above = points.take_along_axis(ep.minimum(high, last), axis=-1)
    before = points.take_along_axis(ep.maximum(high - 1, zero), axis=-1)
    below = ep.where(high > 0, before, 0.0)
    return below, above


def _zero_index(points: ep.Tensor) -> ep.Tensor:
    """Return an int tensor of shape (N, 1) that is 0, also where N is not known while tracing."""
    return points[:, :1].argmax(axis=-1).reshape((-1, 1))


def _scaled(t: ep.Tensor, eps: ep.Tensor, scale: ep.Tensor, largest_eta: float) -> ep.Tensor:
    unit = ep.minimum(eps / scale, ep.ones_like(scale) * largest(scale))
    # t * unit may overflow: cut before multiplying; a half, so that no rounding does
    cut = ep.minimum(t, 0.5 * largest_eta / ep.maximum(unit, ep.ones_like(unit)))
    return ep.minimum(ep.where(unit > 1, cut, t) * unit, ep.ones_like(t) * largest_eta)
