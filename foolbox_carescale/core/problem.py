"""One call of an operator in the form that engines and derivatives take."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import eagerpy as ep
import numpy as np

from . import backends, checks

Array = np.ndarray[Any, Any]


@dataclass(eq=False)  # nor frozen: that takes as long as a launch on a GPU
class Problem:
    """One call's arguments in the dtype that computes, flat where asked for: rows are samples.

    Nobody writes to it. ``delta`` is whatever second tensor the operator takes: directions,
    gradients, points.
    """

    given_x: ep.Tensor  # (N, ...), not yet clipped to the bounds; on an accelerator also half
    given_delta: ep.Tensor  # (N, ...)
    eps: float | ep.Tensor  # a number, or (N, 1)
    p: float
    lower: float | ep.Tensor  # a number, or (1, n) or (N, n)
    upper: float | ep.Tensor
    tolerance: float  # by which x may leave the bounds
    concrete: bool  # whether values can be read
    shape: tuple[Any, ...]  # of the caller's x
    dtype: Any  # of the caller's x
    dtype_name: str
    unwrap: Callable[[ep.Tensor], Any]
    names: tuple[str, str]  # what the operator calls x and delta

    # Only once it is asked for: the compiled engines flatten in NumPy, where it costs less, and
    # kernels on a GPU read half precision themselves.

    @functools.cached_property
    def shaped_x(self) -> ep.Tensor:
        """Return the points, shape (N, ...), in the dtype that computes."""
        return backends.at_least_float32(self.given_x)

    @functools.cached_property
    def shaped_delta(self) -> ep.Tensor:
        """Return the second tensor, shape (N, ...), in the dtype that computes."""
        return backends.at_least_float32(self.given_delta)

    @functools.cached_property
    def x(self) -> ep.Tensor:
        """Return the points, shape (N, n)."""
        return flat(self.shaped_x, self.n)

    @functools.cached_property
    def delta(self) -> ep.Tensor:
        """Return the second tensor, shape (N, n)."""
        return flat(self.shaped_delta, self.n)

    @functools.cached_property
    def arrays(self) -> tuple[Array, Array, Array, float, Array, Array]:
        """Return what compiled engines take: x, delta, eps (float64), p, lower, upper, as arrays.

        Shapes (N, n), (N, n), (N,), (), and of the bounds (1, 1), (1, n) or (N, n); not to be
        written to.
        """
        x, delta = self.rows(self.shaped_x), self.rows(self.shaped_delta)
        if isinstance(self.eps, float):
            eps = np.full(len(x), self.eps)
        else:
            eps = np.broadcast_to(backends.to_numpy(self.eps)[:, 0].astype(np.float64), (len(x),))
        lower, upper = (
            _number(b, x.dtype) if isinstance(b, float) else backends.to_numpy(b)
            for b in (self.lower, self.upper)
        )
        return x, delta, eps, self.p, lower, upper

    def rows(self, t: ep.Tensor) -> Array:
        """Return a tensor of the shape of x as an array (N, n), without a copy if possible."""
        array = backends.to_numpy(t)
        return array if array.ndim == 2 else array.reshape(len(array), self.n)

    @property
    def n(self) -> int:
        """Return how many elements a sample has."""
        return math.prod(self.shape[1:])

    @property
    def empty(self) -> bool:
        """Nothing to compute: no samples, or samples without elements."""
        return 0 in self.shape

    def restore(self, flat: ep.Tensor) -> Any:
        """Shape, dtype and wrapping of the caller's x, for a tensor of shape (N, ...)."""
        return self._restore(flat, tuple(self.shape[1:]))

    def restore_eta(self, eta: ep.Tensor) -> Any:
        """Return one number per sample as (N, 1, ..., 1), in the caller's dtype and wrapping."""
        return self._restore(eta, (1,) * (len(self.shape) - 1))

    def restore_norm(self, norm: ep.Tensor) -> Any:
        """Return one number per sample as (N,), in the caller's dtype and wrapping."""
        return self._restore(norm, ())

    def _restore(self, t: ep.Tensor, sample_shape: tuple[int, ...]) -> Any:
        if backends.framework(t) == "torch":  # the same, of which EagerPy makes seven calls
            raw, shape = backends.raw_of(t), (self.shape[0], *sample_shape)
            raw = raw if raw.shape == shape else raw.reshape(shape)
            raw = raw if raw.dtype == self.dtype else raw.to(self.dtype)
            return raw if self.unwrap is native else self.unwrap(type(t)(raw))
        rows = self.shape[0] if self.empty else -1
        shape = rows, *sample_shape
        t = backends.reshape(t, shape)
        return self.unwrap(t if t.dtype == self.dtype else t.astype(self.dtype))

    def eps_tensor(self, like: ep.Tensor) -> ep.Tensor:
        """Eps as a tensor that broadcasts to (N, n), in the dtype of ``like``."""
        if isinstance(self.eps, float):
            return ep.ones(like, (1, 1)) * self.eps
        return self.eps if self.eps.dtype == like.dtype else self.eps.astype(like.dtype)

    def widened(self) -> Problem:
        """Return the problem in float64 where there is that; results keep the caller's dtype."""
        wide: dict[str, Any] = {
            name: backends.widen(value)
            for name in ("given_x", "given_delta", "eps", "lower", "upper")
            if isinstance(value := getattr(self, name), ep.Tensor)
        }
        return dataclasses.replace(self, **wide)

    def reject_bad_values(self) -> None:
        """Raise the ValueError that says which value is wrong; nothing where values are traced."""
        if not self.concrete or self.empty:
            return
        if not backends.on_cpu(self.given_x):
            self._reject_on_accelerator()
            return
        x, delta = backends.detach(self.x), backends.detach(self.delta)
        if all_finite(delta) and self._holds(x):
            return
        infinite = delta.abs() == math.inf
        nan = ep.logical_or(x != x, delta != delta)
        if ep.logical_or(nan, ep.logical_or(self._outside(x), infinite)).any().item():
            raise ValueError(_describe(self, x, delta))

    def _reject_on_accelerator(self) -> None:
        """Do the same with one read, and only when ``checks`` wants it."""
        if checks.are_skipped():
            return
        x, delta = backends.detach(self.x), backends.detach(self.delta)
        eps = backends.detach(self.eps_tensor(x))
        faults = {
            checks.NOT_FINITE: ep.logical_or((x != x).any(), _not_finite(delta).any()),
            checks.OUT_OF_BOUNDS: self._outside(x).any(),
            checks.BAD_EPS: ep.logical_or(eps < 0, _not_finite(eps)).any(),
        }
        if backends.framework(x) == "torch":
            flags = sum(flag.raw * bit for bit, flag in faults.items())
            found = checks.flagged(flags, self.names)
        else:
            found = bool(functools.reduce(ep.logical_or, faults.values()).item())
        if found:
            raise ValueError(_describe(self, x, delta))

    def reject_flagged(self, flags: int) -> NoReturn:
        """Raise the ValueError for flags of an engine that has written over its arguments."""
        self.reject_bad_values()
        raise ValueError(checks.describe(self.names, flags))

    def _outside(self, x: ep.Tensor) -> ep.Tensor:
        """Return where x leaves the bounds by more than the tolerance.

        The kernels of all engines make the same test to the last digit: each distance is rounded to
        the dtype that computes, and then compared with the tolerance in that dtype.
        """
        return ep.logical_or(x - self.lower < -self.tolerance, self.upper - x < -self.tolerance)

    def _holds(self, x: ep.Tensor) -> bool:
        """Return whether x certainly lies inside bounds that are numbers: three reads, no copy."""
        if not (isinstance(self.lower, float) and isinstance(self.upper, float)):
            return False
        if not all_finite(x):
            return False
        number = np.dtype(backends.dtype_name(x)).type  # see _outside
        least, most = number(x.min().item()), number(x.max().item())
        with np.errstate(over="ignore"):
            distance = min(least - number(self.lower), number(self.upper) - most)
        return bool(distance >= -number(self.tolerance))

    def reject_bad_directions(self) -> None:
        """Reject bad values of delta alone, before it becomes something that hides them."""
        if not self.concrete or self.empty:
            return
        if not backends.on_cpu(self.given_x):
            self._reject_on_accelerator()  # it costs as much
            return
        delta = backends.detach(self.delta)
        if not all_finite(delta) and not (delta.abs() < math.inf).all().item():
            raise ValueError(_describe(self, backends.detach(self.x), delta))


def native(t: ep.Tensor) -> Any:
    """Return the tensor itself: what a caller gets who gave such."""
    return t.raw


def all_finite(t: ep.Tensor) -> bool:
    """Return True only where all values are finite: a sum reads them once and stores nothing.

    Where the sum of finite values overflows the answer is False, and somebody has to look closer.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(t.sum().item())


def reject_bad_eps(values: Array, name: str) -> None:
    """Raise the ValueError that says which of some lengths is negative or not finite."""
    bad = ~((values >= 0) & (values < math.inf))
    if bad.any():
        raise ValueError(
            f"{name}: expected finite numbers >= 0, got {float(values[bad][0])!r} for sample "
            f"{int(np.argmax(bad))}"
        )


def flat(t: ep.Tensor, n: int) -> ep.Tensor:
    """Return shape (N, n) of whatever shape (N, ...)."""
    if t.ndim == 2:
        return t
    # -1: the batch size may be unknown while tracing; it is not inferred from no elements
    return backends.reshape(t, (t.shape[0] if t.shape[0] == 0 or n == 0 else -1, n))


def values_of(bound: float | ep.Tensor) -> Any:
    """Return a bound as a number or NumPy's array."""
    return bound if isinstance(bound, float) else backends.to_numpy(bound)


def _not_finite(t: ep.Tensor) -> ep.Tensor:
    return ep.logical_not(t.abs() < math.inf)


@functools.lru_cache(maxsize=32)
def _number(value: float, dtype: np.dtype[Any]) -> Array:
    return np.full((1, 1), value, dtype)


def _describe(problem: Problem, x: ep.Tensor, delta: ep.Tensor) -> str:
    if not isinstance(problem.eps, float):
        reject_bad_eps(backends.to_numpy(backends.detach(problem.eps))[:, 0], "eps")
    points, directions = backends.to_numpy(x), backends.to_numpy(delta)
    x_name, delta_name = problem.names
    for name, bad in ((x_name, np.isnan(points)), (delta_name, ~np.isfinite(directions))):
        if bad.any():
            row = int(np.argmax(bad.any(axis=-1)))
            return (
                f"{name}: {int(bad.sum())} of {bad.size} values are NaN or infinite, the first in "
                f"sample {row}; a model that returns NaN gradients is a usual cause"
            )
    low, high = (values_of(b) for b in (problem.lower, problem.upper))
    excess = np.maximum(low - points, points - high)
    row, column = divmod(int(np.argmax(excess)), excess.shape[1])
    low, high = (np.broadcast_to(b, points.shape)[row, column] for b in (low, high))
    return (
        f"{x_name}: {int((excess > problem.tolerance).sum())} of {excess.size} values lie outside "
        f"the bounds, the worst is {points[row, column]:g} in sample {row}, where the bounds are "
        f"[{low:g}, {high:g}]; clip {x_name}, or give bounds=(lower, upper) that hold them"
    )
