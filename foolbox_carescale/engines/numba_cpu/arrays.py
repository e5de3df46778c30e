"""The root finder for arrays in main memory, compiled by numba: passes over rows, no sort.

Rows are samples. In all functions x and delta have shape (N, n) and one dtype, float32 or
float64; eps is float64 (N,), nonnegative and finite; p in (0, inf]; lower and upper have the dtype
of x and shape (1, 1), (1, n) or (N, n). Nothing of this is checked here.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.norms import SMALLEST
from ..newton import sum_rtol
from . import kernels
from .threads import get_num_threads, set_num_threads, spread

__all__ = [
    "Flags",
    "accumulate",
    "get_num_threads",
    "gradients",
    "perturb",
    "project",
    "set_num_threads",
    "solve",
    "steepest",
]

Array = NDArray[Any]

# Relative error of the norm at which a row is done: above the rounding of its sums (1e-7 and
# 1e-15), below what the package promises (1e-6 and 1e-12).
RTOL = {"float32": 4e-7, "float64": 1e-13}


class Flags(enum.IntFlag):
    """What is wrong with a row; eta is 0 then."""

    NAN_X = kernels.NAN_X
    NAN_DELTA = kernels.NAN_DELTA  # or infinite
    OUT_OF_BOUNDS = kernels.OUT_OF_BOUNDS


def solve(
    x: Array,
    delta: Array,
    eps: Array,
    p: float,
    lower: Array,
    upper: Array,
    *,
    tolerance: float,
) -> tuple[Array, Array]:
    """Return eta with ||min(eta |delta|, room)||_p = eps, or the largest breakpoint.

    room is upper - x where delta > 0, x - lower where delta < 0, and 0 where delta = 0.
    Eta is 0 where eps is 0 or nothing can move.

    Args:
        x: Points, shape (N, n).
        delta: Directions, shape (N, n).
        eps: Target norms, shape (N,).
        p: Order of the norm.
        lower: Lower bounds.
        upper: Upper bounds.
        tolerance: x may lie this far outside of the bounds; it counts as lying on them.

    Returns:
        eta, float64 (N,), finite in the dtype of x; and `Flags`, uint8 (N,).
    """
    eta, flags = np.zeros(x.shape[0]), np.zeros(x.shape[0], np.uint8)
    x, x_step = _flat(x)
    _solve(
        x, x_step, delta, eps, p, lower, upper, tolerance, x, x_step, kernels.SOLVE_ONLY, eta, flags
    )
    return eta, flags


def perturb(
    x: Array,
    delta: Array,
    eps: Array,
    p: float,
    lower: Array,
    upper: Array,
    *,
    tolerance: float,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """clip(x + eta * delta, lower, upper), with the eta of `solve`, written while the row is hot.

    Args:
        x: Points, shape (N, n).
        delta: Directions, shape (N, n).
        eps: Target norms, shape (N,).
        p: Order of the norm.
        lower: Lower bounds.
        upper: Upper bounds.
        tolerance: As in `solve`.
        out: Where to write, shape and dtype of x; may be x itself, but not overlap it otherwise.

    Returns:
        The perturbed points, eta and flags. Rows with a flag hold nothing of use.

    Raises:
        ValueError: out is read-only.
    """
    if out is not None and not out.flags.writeable:
        raise ValueError("out is read-only")
    eta, flags = np.zeros(x.shape[0]), np.zeros(x.shape[0], np.uint8)
    result = np.empty(x.shape, x.dtype) if out is None else out
    target = result if _has_flat_rows(result) else np.empty(x.shape, x.dtype)
    mode = kernels.WRITE_IN_PLACE if target is x else kernels.WRITE
    x, x_step = _flat(x)
    flat, step = _flat(target)
    _solve(x, x_step, delta, eps, p, lower, upper, tolerance, flat, step, mode, eta, flags)
    if target is not result:
        result[...] = target
    return result, eta, flags


def gradients(
    x: Array,
    delta: Array,
    eps: Array,
    eta: Array,
    p: float,
    lower: Array,
    upper: Array,
    cotangent: Array,
) -> tuple[Array, Array, Array]:
    """Return the vector-Jacobian product of `solve` or `perturb`, for a fixed saturated set.

    That of eta is 0 where eps is out of reach or 0, or nothing can move; always finite.

    Args:
        x: Points, shape (N, n).
        delta: Directions, shape (N, n).
        eps: Target norms, shape (N,).
        eta: What `solve` returned for these.
        p: Order of the norm.
        lower: Lower bounds.
        upper: Upper bounds.
        cotangent: The vector: shape (N,) for eta, (N, n) in the dtype of x for the points.

    Returns:
        The products for x, delta (N, n; dtype of x) and eps (N,; float64).
    """
    rows, n = x.shape
    grad_x, grad_delta = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    grad_eps = np.zeros(rows)
    order, wide, _ = _orders(p, x.dtype)
    x, x_step = _flat(x)
    delta, delta_step = _flat(delta)
    lower, upper = _bounds(lower, upper, n)
    eps, eta = (_one_type(np.ascontiguousarray(a, np.float64)) for a in (eps, eta))
    of_points = cotangent.ndim == 2
    vector = _one_type(np.ascontiguousarray(cotangent, x.dtype if of_points else np.float64))
    # of one type for both, so that the kernel is compiled once; for eta the first is not read
    both = (vector, np.empty(rows)) if of_points else (grad_x, vector)

    def run(first: int, last: int) -> None:
        kernels.gradient_rows(
            x, x_step, delta, delta_step, n, lower, upper, eps, eta, order, wide, of_points, *both,
            grad_x, grad_delta, grad_eps, first, last,
        )  # fmt: skip

    _spread(run, rows, n)
    return grad_x, grad_delta, grad_eps


def steepest(
    x: Array,
    gradient: Array,
    eps: Array,
    p: float,
    lower: Array,
    upper: Array,
    *,
    tolerance: float,
    counts: Array | None = None,
    lenient: bool = False,
    overwrite: bool = False,
) -> tuple[Array, Array]:
    """Return x + s with s = argmax <gradient, s>, ||s||_p <= eps, x + s inside the bounds.

    Args:
        x: Points, shape (N, n).
        gradient: Shape (N, n).
        eps: Lengths, shape (N,).
        p: Order of the norm, 1 or at least 1.2.
        lower: Lower bounds.
        upper: Upper bounds.
        tolerance: As in `solve`.
        counts: For p = 1 the numbers of coordinates to move, shape (N,): a step evenly along the
            signs of the largest gradients, in the place of the maximiser.
        lenient: Whether gradients that are not finite count as 0, without a flag.
        overwrite: Whether the result takes the memory of a contiguous gradient, which 1 < p < inf
            does, or with counts that of contiguous points.

    Returns:
        The points, shape (N, n), and flags; rows with a flag hold nothing of use.
    """
    rows, n = x.shape
    flags = np.zeros(rows, np.uint8)
    order, wide, rtol = _orders(p, x.dtype)
    dual = order if p in (1, 2, np.inf) else _orders(1 / (p - 1), x.dtype)[0]
    smallest = x.dtype.type(SMALLEST["float32" if x.dtype == np.float32 else "float64"])
    lower, upper = _bounds(lower, upper, n)
    numbers = np.zeros(rows) if counts is None else np.ascontiguousarray(counts, np.float64)
    x, gradient, eps = (_one_type(np.ascontiguousarray(a)) for a in (x, gradient, eps))
    over = overwrite and (1 < p < np.inf or counts is not None)
    given = gradient if counts is None else x
    out = given if over else np.empty((rows, n), x.dtype)

    def run(first: int, last: int) -> None:
        kernels.steepest_rows(
            x, gradient, lower, upper, eps, order, wide, dual, smallest,
            x.dtype.type(tolerance), rtol, numbers, lenient, over, out, flags, first, last,
        )  # fmt: skip

    _spread(run, rows, n)
    return out, flags


def project(
    x0: Array,
    x: Array,
    eps: Array,
    p: float,
    lower: Array,
    upper: Array,
    *,
    tolerance: float,
    sphere: bool,
    momentum: tuple[float, Array, Array] | None,
    twice: bool = False,
) -> tuple[Array, Array, Array, Array]:
    """Project x onto ball and box; with ``sphere`` move on to eps. Overwrites x.

    For p other than 1, 2 and inf the radial point instead of the nearest.

    Args:
        x0: Centres, inside the bounds, shape (N, n).
        x: Points, shape (N, n), of which the result takes the memory where it is contiguous.
        eps: Radii, shape (N,).
        p: Order of the norm.
        lower: Lower bounds.
        upper: Upper bounds.
        tolerance: As in `solve`.
        sphere: Whether to go on, along the perturbation, to where its norm is eps.
        momentum: (m, now, before): in the place of x now + (1 - m) (x - now) + m (now - before).
        twice: Whether x is projected before momentum, too.

    Returns:
        The points; and of shape (N,): for p = 1 the threshold that the projection takes off
        |x - x0|, 0 inside the ball, and what a perturbation that ran out of room lacks to eps;
        flags.
    """
    rows, n = x0.shape
    threshold = np.zeros(rows)
    missing, flags = np.zeros(rows), np.zeros(rows, np.uint8)
    order, wide, rtol = _orders(p, x0.dtype)
    lower, upper = _bounds(lower, upper, n)
    x0, x, eps = (_one_type(np.ascontiguousarray(a)) for a in (x0, x, eps))
    # of one type with and without momentum, so that the kernel is compiled once
    weight, now, before = (0.0, x, x) if momentum is None else momentum
    now, before = (_one_type(np.ascontiguousarray(a)) for a in (now, before))
    mixed, weight = 0 if momentum is None else 1 + twice, x0.dtype.type(weight)

    def run(first: int, last: int) -> None:
        kernels.project_rows(
            x0, x, now, before, mixed, weight, lower, upper, eps, order, wide,
            x0.dtype.type(tolerance), rtol, sphere, threshold, missing, flags, first, last,
        )  # fmt: skip

    _spread(run, rows, n)
    return x, threshold, missing, flags


def accumulate(total: Array, decay: float, gradient: Array, least: float) -> None:
    """Total becomes decay * total + g / max(||g||_1, least), g being 0 where it is not finite.

    Args:
        total: Shape (N, n), contiguous.
        decay: Weight of what it was.
        gradient: Shape and dtype of total.
        least: The norm below which gradients are not scaled to 1.
    """
    rows, n = gradient.shape
    gradient = _one_type(np.ascontiguousarray(gradient))
    weight = gradient.dtype.type(decay)

    def run(first: int, last: int) -> None:
        kernels.accumulate_rows(total, weight, gradient, least, first, last)

    _spread(run, rows, n)


def _solve(
    x: Array, x_step: int, delta: Array, eps: Array, p: float, lower: Array, upper: Array,
    tolerance: float, out: Array, out_step: int, mode: int, eta: Array, flags: Array,
) -> None:  # fmt: skip
    rows, n = delta.shape
    order, wide, rtol = _orders(p, x.dtype)
    limit = x.dtype.type(tolerance)
    delta, delta_step = _flat(delta)
    lower, upper = _bounds(lower, upper, n)
    eps = _one_type(np.ascontiguousarray(eps, np.float64))

    def run(first: int, last: int) -> None:
        kernels.solve_rows(
            x, x_step, delta, delta_step, n, lower, upper, eps, order, wide, limit, rtol,
            out, out_step, mode, eta, flags, first, last,
        )  # fmt: skip

    _spread(run, rows, n)


def _spread(run: Callable[[int, int], None], rows: int, n: int) -> None:
    if rows and n:
        spread(run, rows, rows * n)


@functools.cache
def _orders(p: float, dtype: np.dtype[Any]) -> tuple[tuple[Any, ...], tuple[float, ...], float]:
    """Return what kernels take for an order.

    P in the dtype of the array and in float64, as often as says its kind (see `kernels`), and what
    a sum of powers may miss the target by, relatively.
    """
    rtol = sum_rtol(dtype.name, p, RTOL)
    kind = kernels.KINDS.get(p, kernels.GENERAL)
    if kind != kernels.GENERAL:
        return (dtype.type(p),) * kind, (float(p),) * kind, rtol
    order, wide = (kernels.general_order(p, np.dtype(d)) for d in (dtype, np.float64))
    return tuple(dtype.type(a) for a in order), wide, rtol


def _has_flat_rows(a: Array) -> bool:
    step, unit = a.strides
    return unit == a.itemsize and step >= 0 and step % unit == 0


def _flat(a: Array) -> tuple[Array, int]:
    """Return the elements from first to last as one row, and how far apart rows begin."""
    if not a.flags.c_contiguous:
        if _has_flat_rows(a):
            step = a.strides[0] // a.itemsize
            size = (a.shape[0] - 1) * step + a.shape[1]
            flat = np.lib.stride_tricks.as_strided(a, (size,), (a.itemsize,))
            return _one_type(flat), step
        a = np.ascontiguousarray(a)
    return _one_type(a.ravel()), a.shape[1]


def _bounds(lower: Array, upper: Array, n: int) -> tuple[Any, Any]:
    if lower.size == upper.size == 1:
        return lower.reshape(())[()], upper.reshape(())[()]
    return _bound_rows(lower, n), _bound_rows(upper, n)


def _bound_rows(bound: Array, n: int) -> Array:
    return _one_type(np.ascontiguousarray(np.broadcast_to(bound, (bound.shape[0], n))))


class _Writeable:
    """An array under another name, and what keeps it alive."""

    def __init__(self, a: Array) -> None:
        self.array = a
        self.__array_interface__ = {**a.__array_interface__, "data": (a.ctypes.data, False)}


def _one_type(a: Array) -> Array:
    """Return the array as if it could be written, which the kernels do to `out` only.

    To numba a read-only array (as JAX gives them) is another type, for which it would compile
    everything once more.
    """
    return a if a.flags.writeable else np.asarray(_Writeable(a))
