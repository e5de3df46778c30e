"""The steps of an attack between two gradients, for tensors that need no gradient.

The way back onto ball or sphere is ``project`` and ``perturb``; here an engine does it in one go,
with the momentum that comes before, in memory that the attack owns.
"""

from __future__ import annotations

import math
from typing import Any

import eagerpy as ep
import numpy as np
from foolbox.devutils import atleast_kd, flatten

from .. import engines
from ..core import backends, memory
from ..core.norms import lp_norm
from ..core.problem import all_finite
from ..operators.api import perturb, project, steepest_step
from ..operators.validation import checked_eps, prepare

# A perturbation may miss epsilon by this part of it: the rounding of x + perturbation in float32.
NORM_ROUNDING = 1e-5

LEAST_SIZE = 1e-12  # of a gradient that is scaled to L1 norm 1


def finite(gradient: ep.Tensor) -> ep.Tensor:
    """Return the gradient with 0 instead of non-finite values, where nothing moves."""
    if backends.on_accelerator(gradient):
        filled: ep.Tensor = ep.astensor(gradient.raw.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
        return filled
    if all_finite(gradient):
        return gradient
    return ep.where(gradient.abs() < math.inf, gradient, ep.zeros_like(gradient))


def accumulate(total: ep.Tensor | None, decay: float, gradient: ep.Tensor) -> ep.Tensor:
    """Return the sum of gradients of L1 norm 1: ``decay * total + g / ||g||_1``.

    Args:
        total: What this function returned before, whose memory may be written to; None at first.
        decay: Weight of the total.
        gradient: Shape (N, ...); counts as 0 where it is not finite.

    Returns:
        The new total, shape of the gradient.
    """
    found = engines.accumulate(total, decay, gradient, LEAST_SIZE)
    if found is not None:
        return found
    gradient = finite(gradient)
    size = flatten(gradient).abs().sum(axis=-1)
    unit: ep.Tensor = gradient / atleast_kd(ep.maximum(size, LEAST_SIZE), gradient.ndim)
    return unit if total is None else decay * total + unit


def step(
    x: ep.Tensor,
    gradient: ep.Tensor,
    size: Any,
    *,
    p: float,
    bounds: Any,
    overwrite: bool = False,
) -> ep.Tensor:
    """Take ``steepest_step`` along a gradient that counts as 0 where it is not finite.

    Args:
        x: Points inside the bounds, shape (N, ...).
        gradient: Shape of x.
        size: A number, or a tensor of shape (N,).
        p: Order of the norm, in [1, inf].
        bounds: Lower and upper bound.
        overwrite: Whether the memory of the gradient may be written to.

    Returns:
        The new points.
    """
    problem = prepare(x, gradient, size, p, bounds, names=("x", "grad"))
    if problem.empty:
        return x
    found = engines.steepest_step(problem, nonfinite_as_zero=True, overwrite=overwrite)
    if found is not None:
        result: ep.Tensor = problem.restore(found)
        return result
    return steepest_step(x, finite(gradient), size, p=p, bounds=bounds)


def sparse_step(
    x: ep.Tensor,
    gradient: ep.Tensor,
    size: Any,
    counts: Any,
    *,
    bounds: Any,
    overwrite: bool = False,
) -> ep.Tensor:
    """Step evenly along the signs of the largest gradients that can move, by L1 norm ``size``.

    Args:
        x: Points inside the bounds, shape (N, ...).
        gradient: Shape of x.
        size: A number, or a tensor of shape (N,).
        counts: How many coordinates to move, at least 1, shape (N,); ties may add some. An array,
            or on an accelerator a native tensor.
        bounds: Lower and upper bound.
        overwrite: Whether the memory of x may be written to, in PyTorch, unless somebody else has
            it: a model may keep the points that it was called with.

    Returns:
        The new points.
    """
    overwrite = overwrite and memory.may_be_overwritten(x)
    problem = prepare(x, gradient, size, 1, bounds, names=("x", "grad"))
    if problem.empty:
        return x
    found = engines.steepest_step(problem, counts, nonfinite_as_zero=True, overwrite=overwrite)
    if found is not None:
        result: ep.Tensor = problem.restore(found)
        return result
    signs = _largest_signs(x, finite(gradient), counts, bounds)
    return perturb(x, signs, size, p=1, bounds=bounds)


def enforce_constraint(
    z: ep.Tensor,
    x0: ep.Tensor,
    eps: Any,
    *,
    p: float,
    bounds: Any,
    sphere: bool,
    direction: ep.Tensor,
    momentum: tuple[float, ep.Tensor, ep.Tensor] | None = None,
    twice: bool = False,
) -> ep.Tensor:
    """Project z onto ball and box; with ``sphere``, move it on to where its norm is eps.

    A perturbation for which there is no more room (p = 1, sparse) takes what is missing from the
    coordinates that have not moved yet, along the largest of ``direction``.

    Args:
        z: Points, shape (N, ...), owned by the caller: their memory may be written to.
        x0: Centres, shape of z.
        eps: A number, or a tensor of shape (N,).
        p: Order of the norm.
        bounds: Lower and upper bound.
        sphere: Whether the norm is to be eps, or at most that.
        direction: The direction of ascent, shape of z.
        momentum: (m, now, before): in the place of z, now + (1 - m) (z - now) + m (now - before).
        twice: Whether z itself is brought there before momentum, too.

    Returns:
        The new points.
    """
    problem = prepare(x0, z, eps, p, bounds, names=("x0", "x"))
    if problem.empty:
        return z
    completes = sphere and p == 1
    if twice and completes:  # what is missing is spent before momentum, too
        z = enforce_constraint(z, x0, eps, p=p, bounds=bounds, sphere=True, direction=direction)
        problem, twice = prepare(x0, z, eps, p, bounds, names=("x0", "x")), False
    found = engines.project(
        problem,
        sphere=sphere,
        momentum=momentum,
        twice=twice,
        overwrite=True,
        direction=direction if completes else None,
    )
    if found is not None:
        points: ep.Tensor = problem.restore(found[0])
        missing = found[2] if completes else None  # None: spent already
        if missing is not None and (missing > NORM_ROUNDING * _numbers(problem.eps)).any():
            return _completed(points, x0, eps, direction, bounds)
        return points
    if momentum is not None:
        if twice:
            z = enforce_constraint(
                z, x0, eps, p=p, bounds=bounds, sphere=sphere, direction=direction
            )
        m, now, before = momentum
        now, before = (backends.at_least_float32(t) for t in (now, before))
        z = now + (1 - m) * (z - now) + m * (now - before)
    if sphere and p == 2:
        return perturb(x0, z - x0, eps, p=2, bounds=bounds)  # shrinks and grows
    z = project(z, x0, eps, p=p, bounds=bounds)
    if sphere:
        z = perturb(x0, z - x0, eps, p=p, bounds=bounds)
    return _completed(z, x0, eps, direction, bounds) if completes else z


def momentum_weight(momentum: float | None, p: float) -> float:
    """Return a momentum; by default 0.25, 0 for p = 1 and inf, which sum gradients instead."""
    if momentum is None:
        return 0.25 if 1 < p < math.inf else 0.0
    return momentum


def next_iterate(
    z: ep.Tensor,
    x: ep.Tensor,
    previous: ep.Tensor,
    x0: ep.Tensor,
    eps: Any,
    *,
    momentum: float,
    p: float,
    **constraint: Any,
) -> ep.Tensor:
    """Return the iterate after x: z inside the constraint, and again with momentum.

    Args:
        z: As for ``enforce_constraint``: where the step from x leads.
        x: The iterate.
        previous: The one before; x itself at the start, where there is no momentum.
        x0: As for ``enforce_constraint``.
        eps: As there.
        momentum: Weight m of the previous displacement.
        p: Order of the norm.
        **constraint: As for ``enforce_constraint``.

    Returns:
        The new points.
    """
    if momentum == 0 or previous is x:
        return enforce_constraint(z, x0, eps, p=p, **constraint)
    mix = momentum, x, previous
    return enforce_constraint(z, x0, eps, p=p, momentum=mix, twice=True, **constraint)


def _numbers(eps: float | ep.Tensor) -> Any:
    return eps if isinstance(eps, float) else backends.to_numpy(eps)[:, 0].astype(float)


def _largest_signs(x: ep.Tensor, gradient: ep.Tensor, counts: Any, bounds: Any) -> ep.Tensor:
    """Return the signs of the largest gradients that can move, 0 elsewhere."""
    lower, upper = bounds
    stalled = ep.where(gradient > 0, x >= upper, x <= lower)
    gain = flatten(ep.where(stalled, ep.zeros_like(gradient), gradient.abs()))
    rank = gain.shape[-1] - counts
    if isinstance(rank, np.ndarray):
        index = backends.from_numpy(x, rank.astype(np.int64)[:, None])
    else:
        index = ep.astensor(rank.long()[:, None])
    smallest = gain.sort(axis=-1).take_along_axis(index, axis=-1)
    # among them what has no gain, where few have one: it is 0, or without room
    chosen = (gain >= smallest).reshape(gradient.shape)
    return ep.where(chosen, gradient.sign(), ep.zeros_like(gradient))


def _completed(
    x: ep.Tensor, x0: ep.Tensor, eps: Any, direction: ep.Tensor, bounds: Any
) -> ep.Tensor:
    """Spend what is missing to eps (p = 1) on coordinates that did not move yet."""
    size = lp_norm(flatten(backends.at_least_float32(x) - backends.at_least_float32(x0)), 1)
    missing = ep.maximum(checked_eps(eps, size, with_x=True) - size, ep.zeros_like(size))
    if not backends.on_accelerator(x) and (missing <= NORM_ROUNDING * size).all():
        return x
    unmoved = ep.where(x == x0, finite(direction), ep.zeros_like(direction))
    return steepest_step(x, unmoved, missing.reshape((-1,)), p=1, bounds=bounds)
