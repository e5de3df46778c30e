"""Root finders for the rescaling factor, without gradient: which one answers, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import eagerpy as ep

from .. import backends
from . import generic

if TYPE_CHECKING:
    from ..arguments import Problem


def solve(problem: Problem) -> ep.Tensor:
    """Eta, shape (N, 1), in the dtype of ``problem.x``; bad values are reported by ValueError."""
    problem.reject_bad_values()
    return _generic(problem)


def _generic(problem: Problem) -> ep.Tensor:
    x, delta = (
        backends.widen(backends.detach(problem.x)),
        backends.widen(backends.detach(problem.delta)),
    )
    lower, upper = (
        b if isinstance(b, float) else b.astype(x.dtype) for b in (problem.lower, problem.upper)
    )
    room = ep.where(delta > 0, upper - x, ep.where(delta < 0, x - lower, ep.zeros_like(x)))
    room = ep.maximum(room, ep.zeros_like(room))
    eps = backends.detach(problem.eps_tensor(x))
    limit = {"float16": 65504.0}.get(problem.dtype_name, backends.largest(problem.x))
    eta = generic.solve(delta.abs(), room, eps, problem.p, limit)
    return eta if eta.dtype == problem.x.dtype else eta.astype(problem.x.dtype)
