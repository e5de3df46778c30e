"""Arguments of the operators: checked, brought to one dtype, flattened, and back."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import eagerpy as ep
import numpy as np

from . import backends

# x may leave the bounds by this many units in the last place of the largest bound: what
# decoding, resizing and undoing a normalisation leave behind. Such x counts as on the bound.
ROUNDING_ULPS = 8

Array = np.ndarray[Any, Any]

_HALF = {"float16", "bfloat16"}
_EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


@dataclass(frozen=True)
class Problem:
    """One call's arguments in the dtype that computes, flat where asked for: rows are samples.

    ``delta`` is whatever second tensor the operator takes: directions, gradients, points.
    """

    shaped_x: ep.Tensor  # (N, ...), not yet clipped to the bounds
    shaped_delta: ep.Tensor  # (N, ...)
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

    # Only once it is asked for: the compiled engines flatten in NumPy, where it costs less.

    @functools.cached_property
    def x(self) -> ep.Tensor:
        """The points, shape (N, n)."""
        return _flat(self.shaped_x, self.n)

    @functools.cached_property
    def delta(self) -> ep.Tensor:
        """The second tensor, shape (N, n)."""
        return _flat(self.shaped_delta, self.n)

    @functools.cached_property
    def arrays(self) -> tuple[Array, Array, Array, float, Array, Array]:
        """What the compiled engines take: x, delta, eps (float64), p, lower, upper, as NumPy's.

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
        """A tensor of the shape of x as an array of shape (N, n), without a copy where it can."""
        array = backends.to_numpy(t)
        return array if array.ndim == 2 else array.reshape(len(array), self.n)

    @property
    def n(self) -> int:
        """How many elements a sample has."""
        return math.prod(self.shape[1:])

    @property
    def empty(self) -> bool:
        """Nothing to compute: no samples, or samples without elements."""
        return 0 in self.shape

    def restore(self, flat: ep.Tensor) -> Any:
        """Shape, dtype and wrapping of the caller's x, for a tensor of shape (N, n)."""
        return self._restore(flat, tuple(self.shape[1:]))

    def restore_eta(self, eta: ep.Tensor) -> Any:
        """The same for one number per sample, as (N, 1, ..., 1)."""
        return self._restore(eta, (1,) * (len(self.shape) - 1))

    def restore_norm(self, norm: ep.Tensor) -> Any:
        """The same for one number per sample, as (N,)."""
        return self._restore(norm, ())

    def _restore(self, t: ep.Tensor, sample_shape: tuple[int, ...]) -> Any:
        rows = self.shape[0] if self.empty else -1
        t = backends.reshape(t, (rows, *sample_shape))
        return self.unwrap(t if t.dtype == self.dtype else t.astype(self.dtype))

    def eps_tensor(self, like: ep.Tensor) -> ep.Tensor:
        """Eps as a tensor that broadcasts to (N, n), in the dtype of ``like``."""
        if isinstance(self.eps, float):
            return ep.ones(like, (1, 1)) * self.eps
        return self.eps if self.eps.dtype == like.dtype else self.eps.astype(like.dtype)

    def widened(self) -> Problem:
        """The same in float64, where the framework has it; results keep the caller's dtype."""
        wide: dict[str, Any] = {
            name: backends.widen(value)
            for name in ("shaped_x", "shaped_delta", "eps", "lower", "upper")
            if isinstance(value := getattr(self, name), ep.Tensor)
        }
        return dataclasses.replace(self, **wide)

    def reject_bad_values(self) -> None:
        """Raise the ValueError that says which value is wrong; nothing where values are traced."""
        if not self.concrete or self.empty:
            return
        x, delta = backends.detach(self.x), backends.detach(self.delta)
        if all_finite(delta) and self._holds(x):
            return
        outside = ep.logical_or(x < self.lower - self.tolerance, x > self.upper + self.tolerance)
        infinite = delta.abs() == math.inf
        nan = ep.logical_or(x != x, delta != delta)
        if ep.logical_or(nan, ep.logical_or(outside, infinite)).any().item():
            raise ValueError(_describe(self, x, delta))

    def _holds(self, x: ep.Tensor) -> bool:
        """Whether x certainly lies inside bounds that are numbers: three reads, nothing stored."""
        if not (isinstance(self.lower, float) and isinstance(self.upper, float)):
            return False
        low, high = self.lower - self.tolerance, self.upper + self.tolerance
        return all_finite(x) and low <= x.min().item() and x.max().item() <= high

    def reject_bad_directions(self) -> None:
        """The same for delta alone, before it is turned into something that hides the offence."""
        if not self.concrete or self.empty:
            return
        delta = backends.detach(self.delta)
        if not all_finite(delta) and not (delta.abs() < math.inf).all().item():
            raise ValueError(_describe(self, backends.detach(self.x), delta))


def prepare(
    x: Any,
    delta: Any,
    eps: Any,
    p: Any,
    bounds: Any,
    *,
    names: tuple[str, str] = ("x", "delta"),
    least_p: float = 0.0,
) -> Problem:
    """Check everything that shows without reading x and delta, and bring them to one form.

    Args:
        x: Points inside the bounds.
        delta: The second tensor.
        eps: Length.
        p: Order of the norm.
        bounds: Pair of numbers or tensors.
        names: What the operator calls x and delta, for its errors.
        least_p: The smallest order that the operator takes.

    Returns:
        The problem, flat.

    Raises:
        ValueError: it names the argument, the value and the remedy.
    """
    order = checked_order(p, least_p)
    unwrap = _wrapped if isinstance(x, ep.Tensor) else _raw
    x_name, name = names
    x_, delta_ = backends.as_eagerpy(x, x_name), backends.as_eagerpy(delta, name)
    kind = backends.framework(x_)
    if backends.framework(delta_) != kind:
        raise ValueError(
            f"{name}: expected a {kind} tensor like {x_name}, got {backends.framework(delta_)}; "
            "convert one of them"
        )
    shape = tuple(x_.shape)
    if len(shape) == 0:
        raise ValueError(f"{x_name}: expected a batch of shape (N, ...), got a scalar")
    if kind == "tensorflow" and None in shape[1:]:
        raise ValueError(
            f"{x_name}: only the batch size may be unknown in a graph, got the shape {shape}; "
            "fix the others with tf.ensure_shape"
        )
    if not _same_shape(shape, tuple(delta_.shape)):
        raise ValueError(
            f"{name}: expected the shape of {x_name}, {shape}, got {tuple(delta_.shape)}; "
            "broadcast it yourself, so that every sample has its own"
        )
    if kind == "torch" and delta_.raw.device != x_.raw.device:
        raise ValueError(
            f"{name}: expected a tensor on the device of {x_name}, {x_.raw.device}, got one on "
            f"{delta_.raw.device}; move it with {name}.to({x_name}.device)"
        )
    dtype, dtype_name = x_.dtype, backends.dtype_name(x_)
    if dtype_name not in _EPS:
        raise ValueError(
            f"{x_name}: expected a floating dtype, got {dtype_name}; scale images to floats"
        )
    if dtype_name in _HALF:
        x_ = x_.float32()
    if delta_.dtype != x_.dtype:
        delta_ = delta_.astype(x_.dtype)

    n = math.prod(shape[1:])
    lower, upper = _checked_bounds(bounds, x_, n)
    eps_ = checked_eps(eps, x_)
    parts = [x_, delta_, *(t for t in (eps_, lower, upper) if isinstance(t, ep.Tensor))]
    concrete = not backends.is_traced(*parts)
    return Problem(
        shaped_x=x_,
        shaped_delta=delta_,
        eps=eps_,
        p=order,
        lower=lower,
        upper=upper,
        tolerance=ROUNDING_ULPS * _EPS[dtype_name] * _largest_bound(lower, upper),
        concrete=concrete,
        shape=shape,
        dtype=dtype,
        dtype_name=dtype_name,
        unwrap=unwrap,
        names=names,
    )


def checked_order(p: Any, least: float = 0.0) -> float:
    """P as a float in (0, inf], or in [least, inf]."""
    try:
        order = float(p)
    except (TypeError, ValueError):
        raise ValueError(f"p: expected a number in (0, inf], got {p!r}") from None
    if not order > 0:
        raise ValueError(f"p: expected a number in (0, inf], got {p!r}")
    if order < least:
        raise ValueError(
            f"p: expected a number in [{least:g}, inf], got {p!r}: for smaller p the ball is "
            "not convex and the steepest step has no closed form; use perturb with a direction"
        )
    return order


def checked_eps(eps: Any, x: ep.Tensor) -> float | ep.Tensor:
    """Eps as a float, or as a tensor of shape (N, 1) in the dtype of x."""
    if isinstance(eps, numbers.Real) and not isinstance(eps, bool):
        value = float(eps)
        if not 0 <= value < math.inf:
            raise ValueError(f"eps: expected a finite number >= 0, got {eps!r}")
        return value
    if isinstance(eps, (list, tuple)):
        try:
            eps = np.asarray(eps, dtype=float)
        except (TypeError, ValueError):
            raise ValueError(f"eps: expected numbers, one per sample, got {eps!r}") from None
    tensor = _like(eps, x, "eps")
    if tensor.ndim == 0:
        tensor = tensor.reshape((1,))
    if tensor.ndim != 1 or (tensor.shape[0] not in (1, x.shape[0]) and x.shape[0] is not None):
        raise ValueError(
            f"eps: expected a number or a tensor of shape ({x.shape[0]},), one per sample, "
            f"got shape {tuple(tensor.shape)}"
        )
    if not backends.is_traced(tensor):
        values = backends.to_numpy(backends.detach(tensor))
        bad = ~((values >= 0) & (values < math.inf))
        if bad.any():
            raise ValueError(
                f"eps: expected finite numbers >= 0, got {float(values[bad][0])!r} for sample "
                f"{int(np.argmax(bad))}"
            )
    return tensor.reshape((-1, 1))


def all_finite(t: ep.Tensor) -> bool:
    """True only where all values are finite: a sum reads them once and stores nothing.

    Where the sum of finite values overflows the answer is False, and somebody has to look closer.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(t.sum().item())


@functools.lru_cache(maxsize=32)
def _number(value: float, dtype: np.dtype[Any]) -> Array:
    return np.full((1, 1), value, dtype)


def _wrapped(t: ep.Tensor) -> Any:
    return t


def _raw(t: ep.Tensor) -> Any:
    return t.raw


def _flat(t: ep.Tensor, n: int) -> ep.Tensor:
    if t.ndim == 2:
        return t
    # -1: the batch size may be unknown while tracing; it is not inferred from no elements
    return backends.reshape(t, (t.shape[0] if t.shape[0] == 0 or n == 0 else -1, n))


def _same_shape(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    if a == b:
        return True
    # None: a dimension that TensorFlow learns only when the graph runs
    return len(a) == len(b) and all(
        i == j or i is None or j is None for i, j in zip(a, b, strict=True)
    )


def _like(value: Any, x: ep.Tensor, name: str) -> ep.Tensor:
    """A tensor of the framework, device and dtype of x."""
    if isinstance(value, np.ndarray) and backends.framework(x) != "numpy":
        value = ep.from_numpy(x, value.astype(backends.dtype_name(x)))
    tensor = backends.as_eagerpy(value, name)
    if backends.framework(tensor) != backends.framework(x):
        raise ValueError(
            f"{name}: expected a {backends.framework(x)} or NumPy tensor, got "
            f"{backends.framework(tensor)}"
        )
    return tensor if tensor.dtype == x.dtype else tensor.astype(x.dtype)


def _checked_bounds(
    bounds: Any, x: ep.Tensor, n: int
) -> tuple[float | ep.Tensor, float | ep.Tensor]:
    try:
        lower, upper = bounds
    except (TypeError, ValueError):
        raise ValueError(f"bounds: expected a pair (lower, upper), got {bounds!r}") from None
    if isinstance(lower, numbers.Real) and isinstance(upper, numbers.Real):
        lower, upper = float(lower), float(upper)
        if not -math.inf < lower < upper < math.inf:
            raise ValueError(f"bounds: expected finite lower < upper, got ({lower!r}, {upper!r})")
        return lower, upper
    lower_, upper_ = _bound(lower, x, n, "lower"), _bound(upper, x, n, "upper")
    if _readable(lower_) and _readable(upper_):
        low, high = (np.asarray(_values(b)) for b in (lower_, upper_))
        ordered = np.isfinite(low) & np.isfinite(high) & (low < high)
        if not ordered.all():
            low, high = np.broadcast_arrays(low, high)
            at = np.unravel_index(int(np.argmin(ordered)), ordered.shape)
            raise ValueError(
                f"bounds: expected finite lower < upper everywhere, got ({low[at]!r}, {high[at]!r})"
            )
    return lower_, upper_


def _bound(bound: Any, x: ep.Tensor, n: int, which: str) -> float | ep.Tensor:
    if isinstance(bound, numbers.Real):
        return float(bound)
    tensor = backends.detach(_like(bound, x, f"bounds ({which})"))
    try:
        template = ep.zeros_like(x)
        if tensor.ndim < x.ndim or tensor.shape[0] == 1:
            template = template[:1]
        spread = template + tensor
        if not _same_shape(tuple(spread.shape), tuple(template.shape)):
            raise ValueError("it has more dimensions than x")
        return _flat(spread, n)
    except Exception as error:  # each framework raises its own for shapes that do not broadcast
        raise ValueError(
            f"bounds: the {which} bound of shape {tuple(tensor.shape)} does not broadcast to x "
            f"of shape {tuple(x.shape)}; per channel of images it is (1, C, 1, 1)"
        ) from error


def _readable(bound: float | ep.Tensor) -> bool:
    return isinstance(bound, float) or not backends.is_traced(bound)


def _values(bound: float | ep.Tensor) -> Any:
    return bound if isinstance(bound, float) else backends.to_numpy(bound)


def _largest_bound(lower: float | ep.Tensor, upper: float | ep.Tensor) -> float:
    if isinstance(lower, float) and isinstance(upper, float):
        return max(abs(lower), abs(upper))
    if not (_readable(lower) and _readable(upper)):
        return 1.0  # only concrete values are ever compared with the tolerance
    return max(float(np.abs(_values(b)).max(initial=0.0)) for b in (lower, upper))


def _describe(problem: Problem, x: ep.Tensor, delta: ep.Tensor) -> str:
    points, directions = backends.to_numpy(x), backends.to_numpy(delta)
    x_name, delta_name = problem.names
    for name, bad in ((x_name, np.isnan(points)), (delta_name, ~np.isfinite(directions))):
        if bad.any():
            row = int(np.argmax(bad.any(axis=-1)))
            return (
                f"{name}: {int(bad.sum())} of {bad.size} values are NaN or infinite, the first in "
                f"sample {row}; a model that returns NaN gradients is a usual cause"
            )
    low, high = (_values(b) for b in (problem.lower, problem.upper))
    excess = np.maximum(low - points, points - high)
    row, column = divmod(int(np.argmax(excess)), excess.shape[1])
    low, high = (np.broadcast_to(b, points.shape)[row, column] for b in (low, high))
    return (
        f"{x_name}: {int((excess > problem.tolerance).sum())} of {excess.size} values lie outside "
        f"the bounds, the worst is {points[row, column]:g} in sample {row}, where the bounds are "
        f"[{low:g}, {high:g}]; clip {x_name}, or pass its own bounds=(lower, upper)"
    )
