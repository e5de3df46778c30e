"""Arguments of attacks, checked: inputs, a criterion or labels, epsilons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import eagerpy as ep
import numpy as np
from foolbox.attacks.base import get_criterion
from foolbox.criteria import Criterion
from foolbox.models import Model

from ..core import backends, checks
from ..core.fractions import parse_fraction
from ..operators.validation import prepare
from .model import checked_bounds, checked_classes, classes_of, unwrapped, with_classes

# Half precision rounds by more: this part of the largest coordinate, in every coordinate.
HALF_ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def checked_inputs(inputs: Any, model: Model) -> tuple[ep.Tensor, Callable[[ep.Tensor], Any]]:
    """Return inputs as a constant, clipped at the bounds, and what gives a tensor their type.

    Raises:
        ValueError: model is no Foolbox model with two numbers as bounds; the inputs are no tensor
            of its framework, or exceed the bounds by more than rounding.
    """
    lower, upper = checked_bounds(model)
    x = backends.as_eagerpy(inputs, "inputs")
    _, restore = ep.astensor_(x if isinstance(inputs, ep.Tensor) else x.raw)
    kind, dummy = backends.framework(x), getattr(unwrapped(model), "dummy", x)
    if kind != backends.framework(dummy):
        raise ValueError(
            f"inputs: expected a {backends.framework(dummy)} tensor, as the model takes, got"
            f" {kind}; convert them first"
        )
    backends.reject_valueless(x, "inputs")
    if 0 in x.shape[1:]:
        raise ValueError(
            f"inputs: expected samples that hold values, got the shape {tuple(x.shape)}"
        )
    x = backends.detach(x)
    if len(x.shape) and len(x) == 0:
        return x, restore
    if backends.on_accelerator(x) and (checks.are_skipped() or _are_inside(x, lower, upper)):
        return x, restore
    names = "inputs", "inputs"
    with checks.value_checks("each_call"):  # at once: an attack on bad inputs is a waste
        prepare(x, ep.zeros_like(x), 0.0, math.inf, (lower, upper), names=names).reject_bad_values()
    if x.min().item() < lower or x.max().item() > upper:  # else no copy
        x = x.clip(lower, upper)
    # the dtype may round a bound such as 2.64 outwards, and Foolbox compares with 2.64 itself
    inwards = 2 * HALF_ROUNDING.get(backends.dtype_name(x), 2.0**-24)
    if x.min().item() < lower:
        x = ep.maximum(x, lower + inwards * abs(lower))
    if x.max().item() > upper:
        x = ep.minimum(x, upper - inwards * abs(upper))
    return x, restore


def _are_inside(x: ep.Tensor, lower: float, upper: float) -> bool:
    """Return whether all values lie inside the bounds, in one read; False for NaN."""
    smallest, largest = ep.stack([x.min(), x.max()]).raw.tolist()
    return bool(smallest >= lower and largest <= upper)


def checked_criterion(criterion: Any, x: ep.Tensor) -> Criterion:
    """Return a Foolbox criterion whose classes are integers, one for each input.

    Raises:
        ValueError: Classes and inputs differ in number, or a class is not a whole number.
    """
    try:
        if isinstance(criterion, (list, tuple)):
            criterion = np.asarray(criterion)
        made = get_criterion(_from_pandas(criterion))
    except ValueError:  # NumPy's and EagerPy's, which name no argument
        raise ValueError(
            f"criterion: expected labels as a tensor of shape ({len(x)},), or a criterion of "
            f"Foolbox, got {type(criterion).__name__}"
        ) from None
    classes = classes_of(made)
    if classes is None:
        return made
    classes = backends.as_eagerpy(classes, "criterion")
    if tuple(classes.shape) != (len(x),):
        raise ValueError(
            f"criterion: expected one class for each of {len(x)} inputs, a number, got shape "
            f"{tuple(classes.shape)}"
        )
    return with_classes(made, checked_classes(classes, x))


def checked_epsilons(epsilons: Any, minimizes: bool, name: str = "epsilons") -> Any:
    """Return epsilons as a number, None, or a list of them; None only where ``minimizes``.

    Raises:
        ValueError: There is none, or one that is no finite number >= 0.
    """
    epsilons = _from_pandas(epsilons)
    if hasattr(epsilons, "dtype") and getattr(epsilons, "ndim", None) is not None:
        if not isinstance(epsilons, np.generic):
            tensor = backends.as_eagerpy(epsilons, name)
            backends.reject_valueless(tensor, name)
            epsilons = backends.to_numpy(backends.at_least_float32(tensor))
        epsilons = epsilons.tolist()
    elif isinstance(epsilons, Iterable) and not isinstance(epsilons, (str, bytes, Mapping)):
        epsilons = list(epsilons)
    if isinstance(epsilons, list) and not epsilons:
        raise ValueError(f"{name}: there is none; give one at least")
    if isinstance(epsilons, list):
        return [_checked_epsilon(epsilon, minimizes, name) for epsilon in epsilons]
    return _checked_epsilon(epsilons, minimizes, name)


def _checked_epsilon(epsilon: Any, minimizes: bool, name: str) -> Any:
    """Return an epsilon as a number, whatever kind of number it is; or None; or a tensor."""
    if epsilon is None and minimizes:
        return None
    # what ``run`` would say of a tensor, one epsilon for each sample, it says itself
    if not minimizes and hasattr(epsilon, "dtype") and getattr(epsilon, "ndim", 0) > 0:
        return epsilon
    try:
        value = float(parse_fraction(epsilon))
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last one is PyTorch's
        value = math.nan
    if isinstance(epsilon, (bool, np.bool_, bytes)) or not 0 <= value < math.inf:
        message = f"{name}: expected finite numbers >= 0, got {epsilon!r}"
        if epsilon is None:
            message += "; for the smallest perturbations use ClipAwareMinimumNorm"
        raise ValueError(message)
    return value


def _from_pandas(values: Any) -> Any:
    return values.to_numpy() if hasattr(values, "to_numpy") else values
