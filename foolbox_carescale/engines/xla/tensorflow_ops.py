"""TensorFlow's operations for the solver, which XLA compiles inside any graph.

It runs in ``tf.function``, with and without ``jit_compile``, under ``tf.GradientTape`` (as a
constant) and with an unknown number of rows. TensorFlow's own kernels store every intermediate
result: a pass by them takes 14 to 21 ms on two cores for 32 rows of 150528, by XLA 2 to 4 ms. So
the search is a function of its own with ``jit_compile``, which a graph calls like any operation.
It is traced once for rows of any number. XLA, which knows no such shapes, compiles that graph in
about a second for every number of rows that it meets.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from . import solver

Array: TypeAlias = Any  # tf.Tensor: TensorFlow has no types
xp: Any = tf


def solve(
    x: Array,
    delta: Array,
    eps: Array,
    p: float,
    lower: float | Array,
    upper: float | Array,
    largest_eta: float | None = None,
) -> Array:
    """Return eta, which has no derivative; see `solver.solve`.

    ``largest_eta`` is the largest number of the dtype by default.
    """
    if largest_eta is None:
        largest_eta = float(x.dtype.max)
    tensors = [tf.convert_to_tensor(a, x.dtype) for a in (x, delta, eps, lower, upper, largest_eta)]
    shapes = tuple(tuple(None if i == 0 else n for i, n in enumerate(a.shape)) for a in tensors)
    search = _compiled(float(p), x.dtype, shapes)
    eta = search(*(tf.stop_gradient(a) for a in tensors))
    # a gradient would otherwise be sought in the compiled function's loops
    eta = tf.stop_gradient(eta)
    return tf.ensure_shape(eta, (None, 1))


@functools.cache
def _compiled(p: float, dtype: Any, shapes: tuple[tuple[int | None, ...], ...]) -> Any:
    """Return the search for one p, and one dtype and shapes of the arguments."""

    def search(
        x: Array, delta: Array, eps: Array, lower: Array, upper: Array, largest_eta: Array
    ) -> Array:
        return solver.solve(_THIS, x, delta, eps, lower, upper, p, largest_eta)

    signature = [tf.TensorSpec(shape, dtype) for shape in shapes]
    return tf.function(search, signature, jit_compile=True, autograph=False)


def finfo(a: Array) -> Any:
    """Return what NumPy says of the dtype."""
    return np.finfo(a.dtype.as_numpy_dtype)


def columns(a: Array, first: Any, count: int) -> Array:
    """Return ``count`` columns from ``first`` on; of a number itself."""
    return tf.slice(a, [0, first], [tf.shape(a)[0], count]) if a.shape.rank else a


def tie(values: Any) -> Any:
    """Return the values, which XLA leaves in the loop without being told."""
    return values


def while_loop(condition: Callable[..., Any], body: Callable[..., Any], state: Any) -> Any:
    """Return the state after the loop; both functions take it as arguments."""
    return tf.while_loop(condition, body, state)


def repeat(times: int, combine: Callable[..., Any], terms: Callable[[Any], Array]) -> Array:
    """Return ``terms(0)`` to ``terms(times - 1)`` combined, which begins with zeros."""
    return tf.while_loop(
        lambda i, done: i < times,
        lambda i, done: (i + 1, combine(done, terms(i))),
        (zero(), tf.zeros_like(terms(0))),
    )[1]


def where_any(mask: Array, value: Callable[[], Array], otherwise: Array) -> Array:
    """Return ``where(mask, value(), otherwise)``, where the mask is empty without the value."""
    return tf.cond(
        tf.reduce_any(mask), lambda: tf.where(mask, value(), otherwise), lambda: otherwise
    )


def by_platform(cpu: Callable[[], Any], others: Callable[[], Any]) -> Any:
    """Return what the first function returns: a graph does not know where it will run."""
    return cpu()


def over_row(name: str, a: Array) -> Array:
    """Return the ``sum`` or ``max`` of each row, (N, 1)."""
    return getattr(tf, f"reduce_{name}")(a, axis=-1, keepdims=True)


def zero() -> Array:
    """Return an integer 0."""
    return tf.constant(0)


def parts(a: Array) -> tuple[Array, Array]:
    """Return the real and the imaginary part."""
    return tf.math.real(a), tf.math.imag(a)


def shift(a: Array, digits: int) -> Array:
    """Return integers shifted to the left, or to the right where digits is negative."""
    operation = tf.bitwise.left_shift if digits > 0 else tf.bitwise.right_shift
    return operation(a, tf.constant(abs(digits)))


all, bitcast, cast, complex = tf.reduce_all, tf.bitcast, tf.cast, tf.complex
_THIS = sys.modules[__name__]
