"""The moves for p = 1 as expressions that carry derivatives, around what an engine finds."""

from __future__ import annotations

import contextlib
import dataclasses
import math

import eagerpy as ep
import numpy as np

from .. import engines
from ..core import backends, checks, norms
from ..core.formulas import clip, room_of
from ..core.problem import Problem, flat
from ..engines.eager import bracket


def project_l1(problem: Problem, target: ep.Tensor) -> ep.Tensor:
    """Return ``sign(v) clip(|v| - t, 0, room)``, t >= 0 so that it sums to eps, or t = 0."""
    v, room = problem.delta.abs(), room_of(problem)
    wide_v, wide_room = backends.widen(backends.detach(v)), backends.widen(backends.detach(room))
    eps = problem.eps_tensor(wide_v)

    def size(t: ep.Tensor) -> ep.Tensor:
        return norms.accumulate(ep.minimum(ep.maximum(wide_v - t, t * 0), wide_room))

    # the sum falls piecewise linearly in t, with kinks where a coordinate leaves its bound
    # and where it arrives at 0
    ends = dataclasses.replace(problem, given_delta=target)
    # on an accelerator values have been checked, and a second look would be a second wait
    with checks.skipped() if backends.on_accelerator(v) else contextlib.nullcontext():
        found = engines.project(ends)
    if found is not None:
        t = found[1][:, None]
        if isinstance(t, np.ndarray):  # else it is a tensor on the device
            t = backends.from_numpy(v, t.astype(backends.dtype_name(v)))
        middle = ep.astensor(t).astype(v.dtype)
    else:
        kinks = ep.concatenate([wide_v, ep.maximum(wide_v - wide_room, wide_v * 0)], axis=-1)
        below, above = bracket(kinks, lambda t: size(t) <= backends.detach(eps))
        middle = ((below + above) / 2).astype(v.dtype)

    inside = size(backends.detach(eps) * 0) <= backends.detach(eps)
    active = ep.logical_and(v > middle, v - room < middle)
    full = v - room >= middle
    count = norms.accumulate(ep.where(active, ep.ones_like(v), 0.0))
    excess = norms.accumulate(
        backends.widen(ep.where(active, v, 0.0) + ep.where(full, room, 0.0))
    ) - problem.eps_tensor(wide_v)
    t = excess.astype(v.dtype) / norms.positive_or_one(count)
    # where eps is exactly the room of those that stay on their bounds, any t up to the next fits
    t = ep.where(count > 0, t, middle)
    shrunk = ep.minimum(ep.maximum(v - t, ep.zeros_like(v)), room)
    outside = problem.x + problem.delta.sign() * shrunk
    # inside the ball the target itself: the derivative of sign(v) |v| is 0 at v = 0, not 1
    return clip(ep.where(inside, target, outside), problem.lower, problem.upper)


def fill_up(problem: Problem) -> ep.Tensor:
    """Coordinates in the order of their gradient take all their room, until eps is spent."""
    gain, room = problem.delta.abs(), room_of(problem)
    wide = backends.widen(backends.detach(room))
    eps = problem.eps_tensor(wide)
    rank = backends.detach(gain)

    last = _least_gain(problem, rank, wide, backends.detach(eps))
    filled = rank > last
    sharing = ep.logical_and(rank >= last, rank <= last)
    left = eps - norms.accumulate(backends.widen(ep.where(filled, room, 0.0)))
    shared = norms.accumulate(backends.widen(ep.where(sharing, room, 0.0)))
    part = left / norms.positive_or_one(shared)
    part = ep.minimum(ep.maximum(part, part * 0), ep.ones_like(part)).astype(room.dtype)
    step = ep.where(filled, room, ep.where(sharing, part * room, 0.0))
    return clip(problem.x + problem.delta.sign() * step, problem.lower, problem.upper)


def _least_gain(problem: Problem, gain: ep.Tensor, room: ep.Tensor, eps: ep.Tensor) -> ep.Tensor:
    """Return the gain of those that share what the coordinates with more of it leave of eps."""
    # on an accelerator values have been checked
    with checks.skipped() if backends.on_accelerator(gain) else contextlib.nullcontext():
        points = engines.steepest_step(problem)
    if points is None:
        # `bracket` wants a test that turns true upwards: the smallest gain g such that the
        # coordinates with more gain than g fit into the budget
        def fits(g: ep.Tensor) -> ep.Tensor:
            return norms.accumulate(ep.where(gain > g, room, 0.0)) <= eps

        return bracket(gain, fits)[1]
    moved = backends.detach(flat(points, problem.n)) != backends.detach(problem.x)
    least = ep.where(moved, gain, math.inf).min(axis=-1, keepdims=True)
    # a share may be too small to move a coordinate
    spent = norms.accumulate(ep.where(gain >= least, room, 0.0))
    below = ep.where(ep.logical_and(gain < least, room > 0), gain, 0.0).max(axis=-1, keepdims=True)
    return ep.where(spent <= eps, below, least)
