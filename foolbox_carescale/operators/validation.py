"""Arguments of the operators, checked and brought to one dtype."""

from __future__ import annotations

import functools
import math
import numbers
import sys
import weakref
from typing import Any

import eagerpy as ep
import numpy as np

from ..core import backends, checks
from ..core.problem import Problem, flat, native, reject_bad_eps, values_of

# x may leave the bounds by this many units in the last place of the largest bound: what
# decoding, resizing and undoing a normalisation leave behind. Such x counts as on the bound.
ROUNDING_ULPS = 8

# p from which on the p-norm is the maximum, as far as float32 and float64 can tell: a row of n
# elements has at most n^(1/p) times as much, 2e-7 and 2e-13 more for n = 12 million.
INFINITE_FROM = {"float32": 1e8, "float64": 1e14}

_HALF = {"float16", "bfloat16"}
_EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


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
    x_name, name = names
    x_, delta_ = backends.as_eagerpy(x, x_name), backends.as_eagerpy(delta, name)
    kind, raw, other = backends.framework(x_), backends.raw_of(x_), backends.raw_of(delta_)
    if backends.framework(delta_) != kind:
        raise ValueError(
            f"{name}: expected a {kind} tensor like {x_name}, got {backends.framework(delta_)}; "
            "convert one of them"
        )
    shapes, devices = (x_, delta_), None
    if kind == "torch":
        shapes, devices = (raw, other), (raw.device, other.device)
    given = kind, shapes[0].shape, shapes[1].shape, raw.dtype, devices, names
    try:
        shape, n, dtype_name = _checked_kinds(*given)
    except TypeError:  # while PyTorch traces, lengths may have no hash
        shape, n, dtype_name = _checked_kinds.__wrapped__(*given)
    if kind == "torch" and (raw.is_meta or raw.is_quantized):
        backends.reject_valueless(x_, x_name)
    if dtype_name not in _EPS:
        raise ValueError(
            f"{x_name}: expected a floating dtype, got {dtype_name}; scale images to floats"
        )
    dtype = raw.dtype
    if dtype_name in _HALF or other.dtype != dtype:
        x_, delta_ = _in_one_dtype(x_, delta_, name)
    if order >= INFINITE_FROM["float64" if dtype_name == "float64" else "float32"]:
        order = math.inf
    lower, upper, most = _checked_bounds(bounds, x_, n)
    if most > backends.largest_of(dtype_name):
        raise ValueError(f"bounds: {most:g} is more than the largest {dtype_name}")
    eps_ = checked_eps(eps, x_, with_x=True)
    parts = [raw, other]
    for t in (eps_, lower, upper):
        if not isinstance(t, float):
            parts.append(t.raw)
    wrapped = type(x) is not type(raw) and isinstance(x, ep.Tensor)
    return Problem(
        given_x=x_,
        given_delta=delta_,
        eps=eps_,
        p=order,
        lower=lower,
        upper=upper,
        tolerance=ROUNDING_ULPS * _EPS[dtype_name] * most,
        concrete=not backends.are_traced(kind, parts),
        shape=shape,
        dtype=dtype,
        dtype_name=dtype_name,
        unwrap=_wrapped if wrapped else native,
        names=names,
    )


@functools.lru_cache(maxsize=1024)
def _checked_kinds(
    kind: str,
    shape: Any,
    other_shape: Any,
    dtype: Any,
    devices: tuple[Any, Any] | None,
    names: tuple[str, str],
) -> tuple[tuple[Any, ...], int, str]:
    """Return shape, elements of a sample and dtype of x; for each kind of call checked once."""
    x_name, name = names
    shape, other_shape = tuple(shape), tuple(other_shape)
    if len(shape) == 0:
        raise ValueError(f"{x_name}: expected a batch of shape (N, ...), got a scalar")
    if kind == "tensorflow" and None in shape[1:]:
        raise ValueError(
            f"{x_name}: only the batch size may be unknown in a graph, got the shape {shape}; "
            "fix the others with tf.ensure_shape"
        )
    if not _same_shape(shape, other_shape):
        raise ValueError(
            f"{name}: expected the shape of {x_name}, {shape}, got {other_shape}; "
            "broadcast it yourself, so that every sample has its own"
        )
    if devices is not None and devices[0] != devices[1]:
        raise ValueError(
            f"{name}: expected a tensor on the device of {x_name}, {devices[0]}, got one on "
            f"{devices[1]}; move it with {name}.to({x_name}.device)"
        )
    return shape, math.prod(shape[1:]), backends.name_of(dtype)


def _in_one_dtype(x: ep.Tensor, other: ep.Tensor, name: str) -> tuple[ep.Tensor, ep.Tensor]:
    """Return both in the dtype that computes; half precision as it is where kernels read it."""
    reads_half, half = backends.on_accelerator(x), backends.dtype_name(x) in _HALF
    wide = backends.dtype_name(x) == "float64"
    if half and not reads_half:
        x = x.float32()
    if other.dtype != x.dtype:
        kind = backends.dtype_name(other)
        if "complex" in kind:
            raise ValueError(f"{name}: expected real numbers, got {kind}")
        if not (reads_half and kind in _HALF and not wide):
            other = _computed_like(other, x)
    return x, other


def checked_order(p: Any, least: float = 0.0) -> float:
    """P as a float in (0, inf], or in [least, inf]."""
    try:
        order = _number(p)
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


def checked_eps(
    eps: Any, x: ep.Tensor, name: str = "eps", *, with_x: bool = False
) -> float | ep.Tensor:
    """Eps as a float, or as a tensor of shape (N, 1) in the dtype of x; name is the caller's.

    ``with_x``: on an accelerator its values are left to the one check that reads those of x.
    """
    # a float first: it is the usual case, and the cheapest to tell
    if isinstance(eps, float) or (isinstance(eps, numbers.Real) and not isinstance(eps, bool)):
        value = _number(eps)
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: expected a finite number >= 0, got {eps!r}")
        return value
    if isinstance(eps, (list, tuple)):
        try:
            eps = np.asarray(eps, dtype=float)
        except (TypeError, ValueError):
            raise ValueError(f"{name}: expected numbers, one per sample, got {eps!r}") from None
    if eps is None or isinstance(eps, (str, bool)):
        raise ValueError(
            f"{name}: expected a number, or a tensor with one for each sample, got {eps!r}"
        )
    tensor = _like(eps, x, name)
    if tensor.ndim == 0:
        tensor = tensor.reshape((1,))
    if tensor.ndim != 1 or (tensor.shape[0] not in (1, x.shape[0]) and x.shape[0] is not None):
        raise ValueError(
            f"{name}: expected a number or a tensor of shape ({x.shape[0]},), one per sample, "
            f"got shape {tuple(tensor.shape)}"
        )
    if not backends.is_traced(tensor) and (backends.on_cpu(tensor) or not with_x):
        reject_bad_eps(backends.to_numpy(backends.detach(tensor)), name)
    return tensor.reshape((-1, 1))


def _number(value: Any) -> float:
    """Return a float, infinite where there is none so large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _wrapped(t: ep.Tensor) -> Any:
    return t


def _same_shape(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    if a == b:
        return True
    # None: a dimension that TensorFlow learns only when the graph runs
    return len(a) == len(b) and all(
        i == j or i is None or j is None for i, j in zip(a, b, strict=True)
    )


def _like(value: Any, x: ep.Tensor, name: str) -> ep.Tensor:
    """Return a tensor of the framework and device of x, in the dtype that computes."""
    if isinstance(value, np.ndarray) and backends.framework(x) != "numpy":
        dtype = backends.dtype_name(x)
        value = ep.from_numpy(x, value.astype("float32" if dtype in _HALF else dtype))
    tensor = backends.as_eagerpy(value, name)
    backends.reject_valueless(tensor, name)
    if backends.framework(tensor) != backends.framework(x):
        raise ValueError(
            f"{name}: expected a {backends.framework(x)} or NumPy tensor, got "
            f"{backends.framework(tensor)}"
        )
    if backends.framework(x) == "torch" and tensor.raw.device != x.raw.device:
        if tensor.ndim:  # a kernel would read the other device's address
            raise ValueError(
                f"{name}: expected a tensor on the device of x, {x.raw.device}, got one on "
                f"{tensor.raw.device}; move it there with .to(x.device)"
            )
        tensor = type(tensor)(tensor.raw.to(x.raw.device))  # PyTorch, too, mixes single numbers
    return _computed_like(tensor, x)


def _computed_like(t: ep.Tensor, x: ep.Tensor) -> ep.Tensor:
    """Return t in the dtype of x, or in float32 where that is half precision."""
    if backends.dtype_name(x) in _HALF:
        return t.float32()
    return t if t.dtype == x.dtype else t.astype(x.dtype)


def _checked_bounds(
    bounds: Any, x: ep.Tensor, n: int
) -> tuple[float | ep.Tensor, float | ep.Tensor, float]:
    """Return both bounds, and the largest magnitude in them (1 where it cannot be read)."""
    try:
        lower, upper = bounds
    except (TypeError, ValueError):
        raise ValueError(f"bounds: expected a pair (lower, upper), got {bounds!r}") from None
    plain = isinstance(lower, float) and isinstance(upper, float)
    if plain or (isinstance(lower, numbers.Real) and isinstance(upper, numbers.Real)):
        lower, upper = _number(lower), _number(upper)
        if not -math.inf < lower < upper < math.inf:
            raise ValueError(f"bounds: expected finite lower < upper, got ({lower!r}, {upper!r})")
        return lower, upper, max(abs(lower), abs(upper))
    lower_, upper_ = _bound(lower, x, n, "lower"), _bound(upper, x, n, "upper")
    tensors = [b for b in (lower_, upper_) if isinstance(b, ep.Tensor)]
    if backends.is_traced(*tensors) or (checks.are_skipped() and not backends.on_cpu(tensors[0])):
        return lower_, upper_, 1.0  # only values that are checked are compared with the tolerance
    if not backends.on_cpu(tensors[0]) and all(0 not in b.shape for b in tensors):
        most = _remembered_largest((lower, upper), lower_, upper_, tensors[0])
        if most < math.inf:
            return lower_, upper_, most
    low, high = (np.asarray(values_of(b)) for b in (lower_, upper_))
    ordered = np.isfinite(low) & np.isfinite(high) & (low < high)
    if not ordered.all():
        low, high = np.broadcast_arrays(low, high)
        at = np.unravel_index(int(np.argmin(ordered)), ordered.shape)
        raise ValueError(
            f"bounds: expected finite lower < upper everywhere, got ({low[at]!r}, {high[at]!r})"
        )
    return lower_, upper_, max(float(np.abs(b).max(initial=0.0)) for b in (low, high))


# by bounds that were given: the tensors, how often each had been written to, what was found
_LARGEST: dict[tuple[Any, ...], tuple[list[Any], list[int], float]] = {}
_MOST_REMEMBERED = 64


def _remembered_largest(
    given: tuple[Any, Any], lower: float | ep.Tensor, upper: float | ep.Tensor, like: ep.Tensor
) -> float:
    """Return `_largest_if_ordered`, read once for PyTorch tensors that stay as they are."""
    raws = [getattr(b, "raw", b) for b in given]
    torch = sys.modules.get("torch")
    tensors = [b for b in raws if not isinstance(b, numbers.Real)]
    if torch is None or not all(type(b) is torch.Tensor and not b.is_inference() for b in tensors):
        return _largest_if_ordered(lower, upper, like)
    which = (float(b) if isinstance(b, numbers.Real) else id(b) for b in raws)
    key = (*which, like.dtype, like.raw.device)
    versions = [b._version for b in tensors]
    references, before, largest = _LARGEST.get(key, ([], [], 0.0))
    # an object that is gone may have left its id to another one
    if before == versions and all(ref() is b for ref, b in zip(references, tensors, strict=True)):
        return largest
    largest = _largest_if_ordered(lower, upper, like)
    if len(_LARGEST) >= _MOST_REMEMBERED:
        _LARGEST.clear()
    _LARGEST[key] = [weakref.ref(b) for b in tensors], versions, largest
    return largest


def _largest_if_ordered(
    lower: float | ep.Tensor, upper: float | ep.Tensor, like: ep.Tensor
) -> float:
    """Return the largest magnitude, in one read; infinity where not lower < upper everywhere."""
    low, high = (b + ep.zeros_like(like) for b in (lower, upper))
    most = ep.maximum(low.abs(), high.abs())
    largest: float = ep.where(low < high, most, most + math.inf).max().item()
    return largest


def _bound(bound: Any, x: ep.Tensor, n: int, which: str) -> float | ep.Tensor:
    if isinstance(bound, numbers.Real):
        return _number(bound)
    tensor = backends.detach(_like(bound, x, f"bounds ({which})"))
    try:
        template = ep.zeros_like(x)
        if tensor.ndim < x.ndim or tensor.shape[0] == 1:
            template = template[:1]
        spread = template + tensor
        if not _same_shape(tuple(spread.shape), tuple(template.shape)):
            raise ValueError("it has more dimensions than x")
        return flat(spread, n)
    except Exception as error:  # each framework raises its own for shapes that do not broadcast
        raise ValueError(
            f"bounds: the {which} bound of shape {tuple(tensor.shape)} does not broadcast to x "
            f"of shape {tuple(x.shape)}; per channel of images it is (1, C, 1, 1)"
        ) from error
