"""The root finder for JAX: Newton in ``lax.while_loop``; runs under jit, vmap and any transform.

Everything is measured in units of eps: with ``w_i = (eta / eps) |v_i|`` and
``r_i = min(room_i / eps, 1)`` the root has ``sum min(w, r)^p = 1`` whatever the units of x and
delta. The unknown is ``h = sqrt(eta / eps)``, multiplied in twice, so that float32 holds it
for every finite delta. A pass returns two sums,

    total  = sum_i min(w_i, r_i)^p
    moving = sum_{w_i < r_i} w_i^p        (u d total / d u for u = eta^p)

and Newton's step is ``u <- u (1 + (1 - total) / moving)``. ``total`` is concave in u, so the
iterates rise to the root from any start below it. What decides when a row is done is ``total``
itself, not a difference of large sums: so no cancellation enters where eps is near its reach.
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

from . import exponents
from .passes import (
    ALIGNED,
    BRACKETED_PASSES,
    LANES,
    LARGEST_EPS,
    MOST_SEGMENTS,
    PARTS,
    PASSES,
    SLACK,
    SMALLEST_START,
)

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
        eps: Wanted norm, shape (N, 1) or (1, 1), dtype of x.
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
    tiny = float(np.finfo(x.dtype).tiny)
    solvable = eps >= tiny
    inverse = 1.0 / jnp.where(solvable, jnp.minimum(eps, LARGEST_EPS), 1.0)
    row = functools.partial(_sizes, x, delta, lower, upper, inverse)
    h = _root_inf(row, x) if p == math.inf else _root(row, x, delta, lower, upper, inverse, p)
    h = jnp.where(solvable, h, 0.0)
    # h * h * eps may overflow: cut before multiplying; a half, so that no rounding does
    most = jnp.sqrt(0.5 * largest_eta / jnp.maximum(eps, tiny))
    h = jnp.minimum(h, most)
    return jnp.minimum((h * eps) * h, 0.5 * largest_eta)


def _root(
    row: Any, x: Array, delta: Array, lower: Any, upper: Any, inverse: Array, p: float
) -> Array:
    n = x.shape[-1]
    largest = _largest(lambda first, count: jnp.abs(_columns(delta, first, count)), n)
    movable = largest != 0
    # the largest term alone is at most as large as the sum, and n times it at least
    spread = max(n ** (-0.5 / p), SMALLEST_START)
    start = spread * jnp.sqrt(1.0 / jnp.where(movable, largest, 1.0))

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
    """The root from a start below it; where there is none, the far corner.

    A row where Newton's step leads nowhere (all is at its bounds, or the terms of the rest
    underflow) or does not arrive goes on from the far corner, from where on nothing moves. That is
    the answer where eps is out of reach; else the steps from there stay inside a bracket and
    halve it, in the logarithm, where Newton's would leave it.
    """
    digits = 2.0 * float(np.finfo(start.dtype).eps)
    slack = SLACK[str(start.dtype)] * max(p, 1.0)

    def go_on(state: tuple[Array, ...]) -> Array:
        count, *_, done = state
        return (count < PASSES + BRACKETED_PASSES) & ~done.all()

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, h, low, high, done = state
        total, moving = sums(h)
        gap = 1.0 - total
        low = jnp.where(gap > 0, jnp.maximum(low, h), low)
        high = jnp.where(gap < 0, jnp.minimum(high, h), high)
        share = 1.0 + gap / jnp.where(moving > 0, moving, 1.0)
        following = h * jnp.maximum(share, 0.0) ** (0.5 / p)
        inside = (moving > 0) & (low <= following) & (following <= high)
        bounded = high < jnp.inf
        # Newton may creep where almost all is at its bounds
        newton = inside & ~(bounded & (count % 3 == 2))
        following = jnp.where(newton, following, jnp.sqrt(low) * jnp.sqrt(high))
        # nothing between the ends of the bracket, or a step below the last digit
        settled = (high <= low * (1.0 + digits)) | (newton & (following == h))
        lost = jnp.isnan(gap)  # as x or delta are; eta says so
        done_now = done | (jnp.abs(gap) <= slack) | settled | lost
        h = jnp.where(lost & ~done, gap, h)
        stuck = ~done_now & ~bounded & (~inside | (count >= PASSES))
        # A loop of one round or none: `lax.cond` under vmap would always do both branches.
        _, high = lax.while_loop(
            lambda state: state[0].any(),
            lambda state: (jnp.zeros_like(stuck), jnp.where(stuck, far_corner(), state[1])),
            (stuck, high),
        )
        h = jnp.where(done_now, h, jnp.where(stuck, high, following))
        return count + 1, h, low, high, done_now

    nothing = jnp.full_like(start, jnp.inf)
    state: tuple[Array, ...] = (jnp.zeros((), jnp.int32), start, start, nothing, done)
    return lax.while_loop(go_on, step, state)[1]


def _root_inf(row: Any, x: Array) -> Array:
    """The first coordinate that moves by eps decides; if none has that room, the far corner."""
    n = x.shape[-1]

    def free(first: Any, count: int) -> Array:
        v, r = row(first, count)
        return jnp.where(r >= 1.0, v, 0.0)

    top = _largest(free, n)
    root = jnp.where(top > 0, jnp.sqrt(1.0 / jnp.where(top > 0, top, 1.0)), 0.0)

    def finish(root: Array) -> Array:
        corner = jnp.sqrt(_largest(lambda *columns: _breakpoints(*row(*columns)), n))
        return jnp.where(top > 0, root, corner)

    result: Array = lax.cond((top <= 0).any(), finish, lambda root: root, root)
    return result


def _sizes(
    x: Array, delta: Array, lower: Any, upper: Any, inverse: Array, first: Any, count: int
) -> tuple[Array, Array]:
    """|v| and min(room / eps, 1) of `count` columns from `first` on."""
    x, v, low, high = (_columns(a, first, count) for a in (x, delta, lower, upper))
    room = jnp.where(v > 0, high - x, x - low)
    return jnp.abs(v), jnp.minimum(jnp.maximum(room, 0.0) * inverse, 1.0)


def _columns(a: Any, first: Any, count: int) -> Any:
    return lax.dynamic_slice_in_dim(a, first, count, axis=-1) if jnp.ndim(a) else a


def _breakpoints(v: Array, r: Array) -> Array:
    points = jnp.where((v > 0) & (r > 0), r / jnp.where(v > 0, v, 1.0), 0.0)
    return jnp.minimum(points, np.finfo(v.dtype).max)


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
    """The maximum over the row of terms >= 0, (N, 1)."""

    def bits(first: Any, count: int) -> Array:
        # numbers >= 0 and their bits have one order; the maximum of floats, which has to mind
        # NaN, is not vectorised
        a = terms(first, count)
        return lax.bitcast_convert_type(a, _SAME_BITS[str(a.dtype)])

    top = _reduce(bits, n, jnp.maximum, jnp.max)
    return lax.bitcast_convert_type(top, jax.eval_shape(lambda: terms(0, 1)).dtype)


_SAME_BITS = {"float32": jnp.int32, "float64": jnp.int64}


def _reduce(terms: Callable[[Any, int], Array], n: int, combine: Any, reduce: Any) -> Array:
    """The row in `PARTS` parts at a time, combined element by element into `lanes` results."""
    lanes = min(max(LANES, n // (PARTS * MOST_SEGMENTS)), n // PARTS) // ALIGNED * ALIGNED
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
    """``c**p`` for 0 <= c <= 1."""
    if p == 1:
        return c
    if p == 2:
        return c * c
    if p == 3:
        return c * c * c
    if p == 1.5:
        return c * jnp.sqrt(c)
    if p == 0.5:
        return jnp.sqrt(c)
    if c.dtype == jnp.float64:
        return jnp.where(c > 0, jnp.where(c > 0, c, 1.0) ** p, 0.0)
    return _power32(c, p)


def _power32(c: Array, p: float) -> Array:
    # `**` is not vectorised by XLA's CPU backend: 20 times the time of the whole pass
    high, rest = exponents.split_order(p)
    bits = lax.bitcast_convert_type(c, jnp.int32)
    exponent = (bits - exponents.ROOT_HALF_BITS) >> exponents.MANTISSA_BITS
    m = lax.bitcast_convert_type(bits - (exponent << exponents.MANTISSA_BITS), jnp.float32)
    e = exponent.astype(jnp.float32)
    f = m - 1.0
    log = f + f * f * (f * _polynomial(f, exponents.LOG) - 0.5)
    exact, small = high * e, p * exponents.LOG2_E * log + rest * e
    y = exact + small
    # not below: what is no number of the dtype is slow to multiply by
    integer = jnp.floor(jnp.maximum(y, exponents.LEAST_EXPONENT) + 0.5)
    fraction = (exact - integer) + small
    scale = (integer.astype(jnp.int32) + exponents.EXPONENT_BIAS) << exponents.MANTISSA_BITS
    power = _polynomial(fraction, exponents.EXP2) * lax.bitcast_convert_type(scale, jnp.float32)
    normal = (c >= exponents.SMALLEST_NORMAL) & (y >= exponents.LEAST_EXPONENT)
    return jnp.where(normal, power, 0.0)


def _polynomial(a: Array, coefficients: tuple[float, ...]) -> Array:
    result = jnp.full_like(a, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * a + coefficient
    return result
