"""JAX's operations for the solver, which runs under jit, vmap and every other transformation."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as xp
import numpy as np
from jax import lax

from . import solver

__all__ = ["solve", "xp"]

Array: TypeAlias = jax.Array


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
        largest_eta = float(np.finfo(x.dtype).max)
    eta: Array = _compiled(
        *lax.stop_gradient((x, delta, eps, lower, upper)), p=float(p), largest_eta=largest_eta
    )
    return eta


@functools.partial(jax.jit, static_argnames=("p", "largest_eta"))
def _compiled(
    x: Array, delta: Array, eps: Array, lower: Any, upper: Any, *, p: float, largest_eta: float
) -> Array:
    eta: Array = solver.solve(_THIS, x, delta, eps, lower, upper, p, largest_eta)
    return eta


def finfo(a: Array) -> Any:
    """Return what NumPy says of the dtype."""
    return np.finfo(a.dtype)


def columns(a: Any, first: Any, count: int) -> Any:
    """Return ``count`` columns from ``first`` on; of a number itself."""
    return lax.dynamic_slice_in_dim(a, first, count, axis=-1) if xp.ndim(a) else a


def tie(values: Any) -> Any:
    """Return the values, as if each depended on all.

    XLA would otherwise take what does not depend on h out of the loop, and then store and read
    three arrays per element instead of two.
    """
    return lax.optimization_barrier(values)  # type: ignore[no-untyped-call]


def while_loop(condition: Callable[..., Any], body: Callable[..., Any], state: Any) -> Any:
    """Return the state after the loop; both functions take it as arguments."""
    return lax.while_loop(lambda s: condition(*s), lambda s: body(*s), state)


def repeat(times: int, combine: Callable[..., Any], terms: Callable[[Any], Array]) -> Array:
    """Return ``terms(0)`` to ``terms(times - 1)`` combined, which begins with zeros."""
    like = jax.eval_shape(lambda: terms(0))
    start = xp.zeros(like.shape, like.dtype)
    combined: Array = lax.fori_loop(0, times, lambda i, done: combine(done, terms(i)), start)
    return combined


def where_any(mask: Array, value: Callable[[], Array], otherwise: Array) -> Array:
    """Return ``where(mask, value(), otherwise)``, where the mask is empty without the value."""
    # A loop of one round or none: `lax.cond` under vmap would always do both branches.
    chosen: Array = lax.while_loop(
        lambda state: state[0].any(),
        lambda state: (xp.zeros_like(mask), xp.where(mask, value(), state[1])),
        (mask, otherwise),
    )[1]
    return chosen


def by_platform(cpu: Callable[[], Any], others: Callable[[], Any]) -> Any:
    """Return what the function for this platform returns."""
    return lax.platform_dependent(cpu=cpu, default=others)


def over_row(name: str, a: Array) -> Array:
    """Return the ``sum`` or ``max`` of each row, (N, 1)."""
    result: Array = getattr(xp, name)(a, axis=-1, keepdims=True)
    return result


def zero() -> Array:
    """Return an integer 0."""
    return xp.zeros((), xp.int32)


def parts(a: Array) -> tuple[Array, Array]:
    """Return the real and the imaginary part."""
    return a.real, a.imag


def shift(a: Array, digits: int) -> Array:
    """Return integers shifted to the left, or to the right where digits is negative."""
    return a << digits if digits > 0 else a >> -digits


all, complex = xp.all, lax.complex
bitcast, cast = lax.bitcast_convert_type, lax.convert_element_type
_THIS = sys.modules[__name__]
