"""The root finder for TensorFlow: the passes of `jax_solver`, compiled by XLA inside any graph.

Runs in ``tf.function``, with and without ``jit_compile``, under ``tf.GradientTape`` (as a
constant) and with an unknown number of rows. TensorFlow's own kernels store every intermediate
result: a pass by them takes 14 to 21 ms on two cores for 32 rows of 150528, by XLA 2 to 4 ms. So
the search is a function of its own with ``jit_compile``, which a graph calls like any operation.
XLA compiles it again, in about a second, for every number of rows that it meets.

Units, unknown, sums and steps are those of `newton`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

from .. import newton, pow
from ..newton import BRACKETED_PASSES, LARGEST_EPS, PARTS, PASSES

Array: TypeAlias = Any  # tf.Tensor: TensorFlow has no types
Terms: TypeAlias = Callable[[Any, int], Any]


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
        x: Points, shape (N, n), n known, float32 or float64; outside of the bounds counts as on
            them.
        delta: Directions, shape and dtype of x.
        eps: Target norm, shape (N, 1) or (1, 1), dtype of x.
        p: Order of the norm, in (0, inf].
        lower: Lower bound, a number or a tensor of shape (1, n) or (N, n).
        upper: Upper bound.
        largest_eta: What a larger eta is cut to half of; the largest of the dtype by default.

    Returns:
        eta, shape (N, 1): 0 where eps is 0 or no coordinate can move; the largest breakpoint
        ``room / |delta|`` where eps is out of reach. It has no derivative.
    """
    if largest_eta is None:
        largest_eta = float(x.dtype.max)
    tensors = [tf.stop_gradient(tf.convert_to_tensor(a, x.dtype)) for a in (lower, upper)]
    x, delta, eps = (tf.stop_gradient(a) for a in (x, delta, eps))
    limit = tf.constant(largest_eta, x.dtype)
    eta = _compiled(float(p))(x, delta, eps, *tensors, limit)
    # a gradient would otherwise be sought in the compiled function's loops
    eta = tf.stop_gradient(eta)
    return tf.ensure_shape(eta, (None, 1))


@functools.cache
def _compiled(p: float) -> Any:
    """Return the search for one p, traced again for other dtypes and shapes of the arguments."""
    return tf.function(functools.partial(_solve, p), jit_compile=True, autograph=False)


def _solve(
    p: float, x: Array, delta: Array, eps: Array, lower: Array, upper: Array, limit: Array
) -> Array:
    eps = eps + tf.zeros_like(x[:, :1])
    solvable = eps >= _smallest_normal(x.dtype)
    inverse = 1.0 / tf.where(solvable, tf.minimum(eps, LARGEST_EPS), tf.ones_like(eps))
    row = functools.partial(_sizes, x, delta, lower, upper, inverse)
    h = _root_inf(row, x) if p == math.inf else _root(row, delta, p)
    h = tf.where(solvable, h, tf.zeros_like(h))
    # a half, so that no rounding makes infinity of it
    return tf.minimum((h * eps) * h, 0.5 * limit)


def _root(row: Any, delta: Array, p: float) -> Array:
    n = delta.shape[-1]
    like = delta[:, :1]
    largest = _largest(lambda *columns: tf.abs(_columns(delta, *columns)), n, like)
    movable = largest != 0
    # the largest term alone is at most as large as the sum, and n times it at least
    start = newton.spread(n, p) * tf.sqrt(1.0 / newton.positive_or_one(tf, largest))

    def sums(h: Array) -> tuple[Array, Array]:
        def terms(first: Any, count: int) -> Array:
            v, r = row(first, count)
            w = v * h * h
            q = _power(tf.minimum(w, r), p)
            # two outputs would be two loops, each computing all terms
            return tf.complex(q, tf.where(w < r, q, tf.zeros_like(q)))

        total = _reduce(terms, n, tf.add, tf.reduce_sum, tf.complex(like, like))
        return tf.math.real(total), tf.math.imag(total)

    def far_corner() -> Array:
        return tf.sqrt(_largest(lambda *columns: _breakpoints(*row(*columns)), n, like))

    h = _newton(sums, far_corner, start, tf.logical_not(movable), p)
    return tf.where(movable, h, tf.zeros_like(h))


def _newton(
    sums: Callable[[Array], tuple[Array, Array]],
    far_corner: Callable[[], Array],
    start: Array,
    done: Array,
    p: float,
) -> Array:
    """Return the root from a start below it; where there is none, the far corner."""
    digits = 2.0 * _resolution(start.dtype)
    slack = newton.slack_of(start.dtype.name, p)

    def go_on(count: Array, h: Array, low: Array, high: Array, done: Array) -> Array:
        return (count < PASSES + BRACKETED_PASSES) & tf.logical_not(tf.reduce_all(done))

    def beyond(stuck: Array, high: Array) -> Array:
        return tf.cond(
            tf.reduce_any(stuck), lambda: tf.where(stuck, far_corner(), high), lambda: high
        )

    def step(*state: Array) -> tuple[Array, ...]:
        return newton.step(tf, state, sums, beyond, p, digits, slack)

    nothing = tf.fill(tf.shape(start), tf.constant(math.inf, start.dtype))
    return tf.while_loop(go_on, step, (tf.constant(0), start, start, nothing, done))[1]


def _root_inf(row: Any, x: Array) -> Array:
    """Return the root for p = inf: of the first coordinate to move by eps, or the far corner."""
    n = x.shape[-1]

    def free(first: Any, count: int) -> Array:
        v, r = row(first, count)
        return tf.where(r >= 1.0, v, tf.zeros_like(v))

    top = _largest(free, n, x[:, :1])
    found = top > 0
    root = tf.sqrt(1.0 / newton.positive_or_one(tf, top))

    def finish() -> Array:
        corner = _largest(lambda *columns: _breakpoints(*row(*columns)), n, x[:, :1])
        return tf.where(found, root, tf.sqrt(corner))

    return tf.cond(tf.reduce_all(found), lambda: root, finish)


def _sizes(
    x: Array, delta: Array, lower: Array, upper: Array, inverse: Array, first: Any, count: int
) -> tuple[Array, Array]:
    """Return |v| and min(room / eps, 1) of `count` columns from `first` on."""
    x, v, low, high = (_columns(a, first, count) for a in (x, delta, lower, upper))
    return newton.sizes(tf, x, v, low, high, inverse)


def _columns(a: Array, first: Any, count: int) -> Array:
    if a.shape.rank == 0:
        return a
    return tf.slice(a, [0, first], [tf.shape(a)[0], count])


def _breakpoints(v: Array, r: Array) -> Array:
    return newton.breakpoints(tf, v, r, v.dtype.max)


# Sums and maxima over rows. `terms(first, count)` gives `count` columns from `first` on.


def _largest(terms: Terms, n: int, like: Array) -> Array:
    """Return the maximum over the row of terms >= 0, (N, 1)."""
    # numbers >= 0 and their bits have one order; the maximum of floats, which has to mind NaN,
    # is not vectorised
    whole = tf.int32 if like.dtype == tf.float32 else tf.int64

    def bits(first: Any, count: int) -> Array:
        return tf.bitcast(terms(first, count), whole)

    top = _reduce(bits, n, tf.maximum, tf.reduce_max, tf.bitcast(like, whole))
    return tf.bitcast(top, like.dtype)


def _reduce(terms: Terms, n: int, combine: Any, reduce: Any, like: Array) -> Array:
    """Combine the row, `PARTS` parts at a time, element by element into `lanes` results."""
    lanes = newton.lanes_of(n)
    if lanes == 0:
        return reduce(terms(0, n), axis=-1, keepdims=True)

    def segment(first: Any) -> Array:
        return functools.reduce(combine, [terms(first + j * lanes, lanes) for j in range(PARTS)])

    size = PARTS * lanes
    whole = n // size * size
    nothing = tf.zeros((tf.shape(like)[0], lanes), like.dtype)
    _, narrow = tf.while_loop(
        lambda i, done: i < whole // size,
        lambda i, done: (i + 1, combine(done, segment(i * size))),
        (tf.constant(0), nothing),
    )
    result = reduce(narrow, axis=-1, keepdims=True)
    if whole < n:
        rest = _reduce(
            lambda first, count: terms(whole + first, count), n - whole, combine, reduce, like
        )
        result = combine(result, rest)
    return result


def _power(c: Array, p: float) -> Array:
    return newton.power(tf, c, p, _split, _two_to)


def _split(c: Array) -> tuple[Array, Array]:
    bits, mantissa = tf.bitcast(c, tf.int32), tf.constant(pow.MANTISSA_BITS)
    exponent = tf.bitwise.right_shift(bits - pow.ROOT_HALF_BITS, mantissa)
    m = tf.bitcast(bits - tf.bitwise.left_shift(exponent, mantissa), tf.float32)
    return m, tf.cast(exponent, tf.float32)


def _two_to(integer: Array) -> Array:
    biased = tf.cast(integer, tf.int32) + pow.EXPONENT_BIAS
    return tf.bitcast(tf.bitwise.left_shift(biased, tf.constant(pow.MANTISSA_BITS)), tf.float32)


def _resolution(dtype: Any) -> float:
    return 2.0**-52 if dtype == tf.float64 else 2.0**-23


def _smallest_normal(dtype: Any) -> float:
    return 2.0**-1022 if dtype == tf.float64 else 2.0**-126
