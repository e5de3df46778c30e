"""The truth in float64 NumPy, straight from the definition, and the inputs that are hard."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from foolbox_carescale.operators import reference as page

Array = np.ndarray[Any, Any]

ORDERS = (0.5, 1.0, 1.3, 2.0, 3.0, math.inf)
# of the reachable norm: nothing, little, typical, most, all but the last digits, too much
FRACTIONS = (0.0, 1e-3, 0.3, 0.9, 0.999999, 3.0)
SHAPE = (len(FRACTIONS), 3, 19, 19)  # rows of 1083: longer than one block of a blocked sum


def room(x: Any, delta: Any, lower: Any = 0.0, upper: Any = 1.0) -> Array:
    """Return the distance to the bound that delta points at, one row per sample."""
    return _rows(np.maximum(page.room(_wide(x), _wide(delta), lower, upper), 0.0))


def norm(rows: Any, p: float) -> Array:
    """Return the p-norm of each sample, without over- or underflow."""
    magnitudes = np.abs(_rows(rows))
    top = magnitudes.max(axis=1, keepdims=True, initial=0.0)
    if p == math.inf:
        return top[:, 0]
    ratio = magnitudes / np.where(top > 0, top, 1.0)
    return top[:, 0] * (ratio**p).sum(axis=1) ** (1 / p)


def reachable_norm(x: Any, delta: Any, p: float, lower: Any = 0.0, upper: Any = 1.0) -> Array:
    return norm(room(x, delta, lower, upper), p)


def measured_norm(
    eta: Any, x: Any, delta: Any, p: float, lower: Any = 0.0, upper: Any = 1.0
) -> Array:
    """Return ``||min(eta |delta|, room)||_p``, the norm of eta * delta after the clip."""
    magnitudes = np.abs(_rows(delta))
    moved = _wide(eta).reshape(-1, 1) * magnitudes
    return norm(np.minimum(moved, room(x, delta, lower, upper)), p)


def bisected_eta(
    x: Any, delta: Any, eps: Any, p: float, lower: Any = 0.0, upper: Any = 1.0
) -> Array:
    """Return the smallest eta with the target norm, by halving an interval of exponents."""
    magnitudes = np.abs(_rows(delta))
    space = room(x, delta, lower, upper)
    eps = np.broadcast_to(_wide(eps), len(magnitudes))
    reached = norm(space, p)
    live = (space > 0) & (magnitudes > 0)
    breakpoints = np.where(live, space / np.where(live, magnitudes, 1.0), 0.0)
    corner = breakpoints.max(axis=1, initial=0.0)

    eta = np.where(eps < reached, 0.0, corner)
    rows = np.flatnonzero((eps > 0) & (eps < reached))
    if rows.size:
        top = np.where(live, magnitudes, 0.0).max(axis=1)[rows]
        # the norm is at most eta * top * n**(1/p)
        low = np.log2(eps[rows] / top) - math.log2(magnitudes.shape[1]) / p
        high = np.log2(corner[rows])
        for _ in range(80):
            middle = (low + high) / 2
            moved = np.minimum(2.0 ** middle[:, None] * magnitudes[rows], space[rows])
            short = norm(moved, p) < eps[rows]
            low, high = np.where(short, middle, low), np.where(short, high, middle)
        eta[rows] = 2.0**high
    return eta


def eta_gradients(
    x: Any, delta: Any, eps: Any, p: float, lower: Any = 0.0, upper: Any = 1.0
) -> tuple[Array, Array, Array]:
    """Return d eta / d x, d delta and d eps, which `operators/test_reference.py` tests."""
    shape = np.shape(x)
    rows = (_rows(np.broadcast_to(t, shape)) for t in (x, delta, lower, upper))
    x, v, lower, upper = rows
    eps = np.broadcast_to(_wide(eps), len(x))
    to_x, to_v, to_eps = page.eta_gradient(x, v, eps, p, lower, upper)
    return to_x.reshape(shape), to_v.reshape(shape), to_eps[:, 0]


def case(name: str, *, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> tuple[Array, Array]:
    """Return points in the unit box and directions, float64."""
    rng = np.random.default_rng(seed)
    x, normal = rng.uniform(size=shape), rng.normal(size=shape)
    sign = np.where(normal > 0, 1.0, -1.0)
    if name == "uniform":
        return x, normal
    if name == "on the bounds":
        return np.where(rng.uniform(size=shape) < 0.99, np.round(x), x), normal
    if name == "quantised":  # many equal breakpoints
        return np.round(x * 4) / 4, sign
    if name == "cauchy":
        return x, rng.standard_cauchy(size=shape)
    if name == "log-uniform":
        return x, sign * 10.0 ** rng.uniform(-12, 0, size=shape)
    if name == "geometric":
        n = math.prod(shape[1:])
        falling = 10.0 ** np.linspace(0, -20, n).reshape(1, *shape[1:])
        return x, sign * rng.permuted(
            np.broadcast_to(falling, shape).reshape(-1, n), axis=1
        ).reshape(shape)
    if name == "mostly zero":
        keep = rng.uniform(size=shape) < 0.001
        keep.reshape(shape[0], -1)[:, 0] = True
        return x, np.where(keep, normal, 0.0)
    if name == "all zero":
        return x, np.zeros(shape)
    if name == "huge":
        return x, normal * 1e25
    if name == "tiny":
        return x, normal * 1e-25
    raise ValueError(name)


CASES = (
    "uniform",
    "on the bounds",
    "quantised",
    "cauchy",
    "log-uniform",
    "geometric",
    "mostly zero",
    "all zero",
    "huge",
    "tiny",
)
# float16 holds 6e-8 to 65504
HALF_CASES = tuple(c for c in CASES if c not in ("log-uniform", "geometric", "huge", "tiny"))


def _wide(values: Any) -> Array:
    return np.asarray(values, dtype=np.float64)


def _rows(values: Any) -> Array:
    wide = _wide(values)
    # not -1: nothing can be inferred from no elements
    return wide.reshape(len(wide), math.prod(wide.shape[1:]))
