"""The root finder for JAX: Newton in ``lax.while_loop``; runs under jit, vmap and any transform.

Units, unknown, sums and steps are those of `newton`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import newton, pow
from ..newton import BRACKETED_PASSES, LARGEST_EPS, PARTS, PASSES

Array: TypeAlias = jax.Array
Terms: TypeAlias = Callable[[Any, int], tuple[Array, Array]]


def solve(
    x: Array,
    delta: Array,
    eps: Array,
    p: float,
    lower: float | Array,
    upper: float | Array,
    largest_eta: float | None = None,
) -> Array:
    """Smallest eta with ``||min(eta |delta|, room)||_p = eps``; see `generic.solve`.

    room is upper - x where delta > 0, x - lower where delta < 0, and 0 where delta = 0.

    Args:
        x: Points, shape (N, n), float32 or float64; outside of the bounds counts as on them.
        delta: Directions, shape and dtype of x.
        eps: Target norm, shape (N, 1) or (1, 1), dtype of x.
        p: Order of the norm, in (0, inf].
        lower: Lower bound, a number or an array of shape (1, n) or (N, n).
        upper: Upper bound.
        largest_eta: What a larger eta is cut to half of; the largest of the dtype by default.

    Returns:
        eta, shape (N, 1): 0 where eps is 0 or no coordinate can move; the largest breakpoint
        ``room / |delta|`` where eps is out of reach. It has no derivative.
    """
    eps = jnp.broadcast_to(eps, (x.shape[0], 1))
    if largest_eta is None:
        largest_eta = float(np.finfo(x.dtype).max)
    x, delta, eps, lower, upper = lax.stop_gradient((x, delta, eps, lower, upper))
    eta: Array = _solve(x, delta, eps, lower, upper, p=float(p), largest_eta=largest_eta)
    return eta


@functools.partial(jax.jit, static_argnames=("p", "largest_eta"))
def _solve(
    x: Array, delta: Array, eps: Array, lower: Any, upper: Any, *, p: float, largest_eta: float
) -> Array:
    solvable = eps >= float(np.finfo(x.dtype).tiny)
    inverse = 1.0 / jnp.where(solvable, jnp.minimum(eps, LARGEST_EPS), 1.0)
    row = functools.partial(_sizes, x, delta, lower, upper, inverse)
    h = _root_inf(row, x) if p == math.inf else _root(row, x, delta, lower, upper, inverse, p)
    h = jnp.where(solvable, h, 0.0)
    # a half, so that no rounding makes infinity of it
    return jnp.minimum((h * eps) * h, 0.5 * largest_eta)


def _root(
    row: Any, x: Array, delta: Array, lower: Any, upper: Any, inverse: Array, p: float
) -> Array:
    n = x.shape[-1]
    largest = _largest(lambda first, count: jnp.abs(_columns(delta, first, count)), n)
    movable = largest != 0
    # the largest term alone is at most as large as the sum, and n times it at least
    start = newton.spread(n, p) * jnp.sqrt(1.0 / newton.positive_or_one(jnp, largest))

    def sums(h: Array) -> tuple[Array, Array]:
        # Tied to h: XLA would otherwise take what does not depend on it out of the loop, and
        # then store and read three arrays per element instead of two.
        x_, delta_, lower_, upper_, h_ = _barrier((x, delta, lower, upper, h))

        def terms(first: Any, count: int) -> tuple[Array, Array]:
            v, r = _sizes(x_, delta_, lower_, upper_, inverse, first, count)
            w = v * h_ * h_
            q = _power(jnp.minimum(w, r), p)
            return q, jnp.where(w < r, q, 0.0)

        return _total(terms, n)

    def far_corner() -> Array:
        return jnp.sqrt(_largest(lambda *columns: _breakpoints(*row(*columns)), n))

    return jnp.where(movable, _newton(sums, far_corner, start, ~movable, p), 0.0)


def _newton(
    sums: Callable[[Array], tuple[Array, Array]],
    far_corner: Callable[[], Array],
    start: Array,
    done: Array,
    p: float,
) -> Array:
    """Return the root from a start below it; where there is none, the far corner."""
    digits = 2.0 * float(np.finfo(start.dtype).eps)
    slack = newton.slack_of(str(start.dtype), p)

    def go_on(state: tuple[Array, ...]) -> Array:
        count, *_, done = state
        return (count < PASSES + BRACKETED_PASSES) & ~done.all()

    def beyond(stuck: Array, high: Array) -> Array:
        # A loop of one round or none: `lax.cond` under vmap would always do both branches.
        ends: Array = lax.while_loop(
            lambda state: state[0].any(),
            lambda state: (jnp.zeros_like(stuck), jnp.where(stuck, far_corner(), state[1])),
            (stuck, high),
        )[1]
        return ends

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        return newton.step(jnp, state, sums, beyond, p, digits, slack)

    nothing = jnp.full_like(start, jnp.inf)
    state: tuple[Array, ...] = (jnp.zeros((), jnp.int32), start, start, nothing, done)
    return lax.while_loop(go_on, step, state)[1]


def _root_inf(row: Any, x: Array) -> Array:
    """Return the root for p = inf: of the first coordinate to move by eps, or the far corner."""
    n = x.shape[-1]

    def free(first: Any, count: int) -> Array:
        v, r = row(first, count)
        return jnp.where(r >= 1.0, v, 0.0)

    top = _largest(free, n)
    root = jnp.sqrt(1.0 / newton.positive_or_one(jnp, top))

    def finish(root: Array) -> Array:
        corner = jnp.sqrt(_largest(lambda *columns: _breakpoints(*row(*columns)), n))
        return jnp.where(top > 0, root, corner)

    result: Array = lax.cond((top <= 0).any(), finish, lambda root: root, root)
    return result


def _sizes(
    x: Array, delta: Array, lower: Any, upper: Any, inverse: Array, first: Any, count: int
) -> tuple[Array, Array]:
    """Return |v| and min(room / eps, 1) of `count` columns from `first` on."""
    x, v, low, high = (_columns(a, first, count) for a in (x, delta, lower, upper))
    return newton.sizes(jnp, x, v, low, high, inverse)


def _columns(a: Any, first: Any, count: int) -> Any:
    return lax.dynamic_slice_in_dim(a, first, count, axis=-1) if jnp.ndim(a) else a


def _breakpoints(v: Array, r: Array) -> Array:
    points: Array = newton.breakpoints(jnp, v, r, float(np.finfo(v.dtype).max))
    return points


# Sums and maxima over rows. `terms(first, count)` gives `count` columns from `first` on.


def _total(terms: Terms, n: int) -> tuple[Array, Array]:
    """Both sums over the row, accurate for any length, each (N, 1)."""

    def packed() -> tuple[Array, Array]:
        # Two outputs would be two loops on the CPU, each computing all terms: a complex number
        # carries both through one.
        total = _reduce(lambda first, count: lax.complex(*terms(first, count)), n, jnp.add, jnp.sum)
        return total.real, total.imag

    def plain() -> tuple[Array, Array]:
        total, moving = terms(0, n)
        return total.sum(axis=-1, keepdims=True), moving.sum(axis=-1, keepdims=True)

    result: tuple[Array, Array] = lax.platform_dependent(cpu=packed, default=plain)
    return result


def _largest(terms: Callable[[Any, int], Array], n: int) -> Array:
    """Return the maximum over the row of terms >= 0, (N, 1)."""

    def bits(first: Any, count: int) -> Array:
        # numbers >= 0 and their bits have one order; the maximum of floats, which has to mind
        # NaN, is not vectorised
        a = terms(first, count)
        return lax.bitcast_convert_type(a, _SAME_BITS[str(a.dtype)])

    top = _reduce(bits, n, jnp.maximum, jnp.max)
    return lax.bitcast_convert_type(top, _SAME_BITS[str(top.dtype)])


_SAME_BITS = {
    "float32": jnp.int32,
    "float64": jnp.int64,
    "int32": jnp.float32,
    "int64": jnp.float64,
}


def _reduce(terms: Callable[[Any, int], Array], n: int, combine: Any, reduce: Any) -> Array:
    """Combine the row, `PARTS` parts at a time, element by element into `lanes` results."""
    lanes = newton.lanes_of(n)
    if lanes == 0:
        short: Array = reduce(terms(0, n), axis=-1, keepdims=True)
        return short

    def segment(first: Any) -> Array:
        return functools.reduce(combine, [terms(first + j * lanes, lanes) for j in range(PARTS)])

    size = PARTS * lanes
    whole = n // size * size
    template = jax.eval_shape(lambda: terms(0, lanes))
    narrow = lax.fori_loop(
        0,
        whole // size,
        lambda i, done: combine(done, segment(i * size)),
        jnp.zeros(template.shape, template.dtype),
    )
    result: Array = reduce(_barrier(narrow), axis=-1, keepdims=True)
    if whole < n:
        rest = _reduce(lambda first, count: terms(whole + first, count), n - whole, combine, reduce)
        result = combine(result, rest)
    return result


def _barrier(value: Any) -> Any:
    return lax.optimization_barrier(value)  # type: ignore[no-untyped-call]


def _power(c: Array, p: float) -> Array:
    result: Array = newton.power(jnp, c, p, _split, _two_to)
    return result


def _split(c: Array) -> tuple[Array, Array]:
    bits = lax.bitcast_convert_type(c, jnp.int32)
    exponent = (bits - pow.ROOT_HALF_BITS) >> pow.MANTISSA_BITS
    m = lax.bitcast_convert_type(bits - (exponent << pow.MANTISSA_BITS), jnp.float32)
    return m, exponent.astype(jnp.float32)


def _two_to(integer: Array) -> Array:
    bits = (integer.astype(jnp.int32) + pow.EXPONENT_BIAS) << pow.MANTISSA_BITS
    return lax.bitcast_convert_type(bits, jnp.float32)
