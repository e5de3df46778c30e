"""The model as attacks see it: logits of one dtype, one per class, that fit the labels."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import math
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import eagerpy as ep
import numpy as np
from foolbox.criteria import Criterion, Misclassification, TargetedMisclassification
from foolbox.models import (
    ExpectationOverTransformationWrapper,
    Model,
    NumPyModel,
    PyTorchModel,
    ThresholdingWrapper,
    TransformBoundsWrapper,
)
from foolbox.models.base import ModelWithPreprocessing
from foolbox.types import Bounds

from ..core import backends, checks
from ..core.problem import all_finite

# Logits that differ by this part of their spread do so by chance: rounding, of a batch of another
# size too, is less.
RANDOM = 0.1

FOOLBOX_WRAPPERS = (
    ExpectationOverTransformationWrapper,
    ThresholdingWrapper,
    TransformBoundsWrapper,
)


def as_foolbox_model(model: Any, inputs: Any) -> Any:
    """Return a PyTorch module as a Foolbox model with the bounds 0 and 1; others as they are."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        return model
    held = next(itertools.chain(model.parameters(), model.buffers()), inputs)
    device = getattr(getattr(held, "raw", held), "device", None)  # EagerPy's have none
    return PyTorchModel(model, bounds=(0, 1), device=device)


def checked_model(model: Any, criterion: Criterion | None) -> Model:
    """Return a Foolbox model whose logits are checked at its first call.

    It warns once where some of any call are not finite, on an accelerator of the first, unless
    ``model`` reports that. Logits are brought to the dtype of the inputs, float32 at least.

    Args:
        model: A Foolbox model.
        criterion: From which labels or target classes are compared with the number of logits.

    Raises:
        ValueError: at the first call, where the output is not one row of at least two logits for
            each input, or a class is not among them.
    """
    classes = classes_of(criterion)
    if isinstance(model, _CheckedModel) and model.checks(classes):
        return model
    return _CheckedModel(model, classes)


def checked_bounds(model: Any) -> tuple[float, float]:
    """Return the bounds of a Foolbox model.

    Raises:
        ValueError: It is none, or its bounds are not two numbers.
    """
    if not isinstance(model, Model):
        raise ValueError(
            f"model: expected a Foolbox model or a PyTorch module, got {type(model).__name__}; wrap"
            " a network, for instance foolbox.TensorFlowModel(network, bounds=(0, 1))"
        )
    if any(getattr(bound, "ndim", 0) for bound in model.bounds):
        raise ValueError(
            "model: attacks need two numbers as bounds, got tensors; in the place of bounds per"
            " channel give the model mean and std as its preprocessing"
        )
    lower, upper = model.bounds
    return lower, upper


def classes_of(criterion: Criterion | None) -> ep.Tensor | None:
    """Return a criterion's labels or target classes, if it has any."""
    if isinstance(criterion, Misclassification):
        return criterion.labels
    if isinstance(criterion, TargetedMisclassification):
        return criterion.target_classes
    return None


def with_classes(criterion: Criterion, classes: ep.Tensor) -> Criterion:
    """Return a copy of a criterion with other labels or target classes."""
    name = "labels" if isinstance(criterion, Misclassification) else "target_classes"
    made = copy.copy(criterion)
    setattr(made, name, classes)
    return made


def checked_classes(classes: ep.Tensor, x: ep.Tensor) -> ep.Tensor:
    """Return classes as integers of the framework and on the device of x.

    Raises:
        ValueError: A class is not a whole number.
    """
    backends.reject_valueless(classes, "criterion")
    kinds = {"torch": "int64", "tensorflow": "int64", "numpy": "int64", "jax": "int32"}
    wanted = kinds[backends.framework(x)]
    if backends.framework(classes) == backends.framework(x) and (
        backends.dtype_name(classes) == wanted and _device(classes) == _device(x)
    ):
        return classes
    values = backends.to_numpy(backends.at_least_float32(classes))
    if values.dtype == object and all(
        isinstance(value, (int, np.integer)) and abs(value) < 2**63 for value in values
    ):
        values = values.astype(np.int64)
    whole = np.zeros(values.shape, np.int64)
    if values.dtype.kind in "iub" or (values.dtype.kind == "f" and np.isfinite(values).all()):
        whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        raise ValueError(
            "criterion: expected whole numbers as labels, got"
            f" {values[np.argmax(whole != values)]!r} of type {backends.dtype_name(classes)}"
        )
    return backends.from_numpy(x, whole.astype(wanted))


def logits_of(output: Any, model: str = "") -> Any:
    """Return the logits among what a network returns; a tensor is returned as it is.

    Args:
        output: A tensor, or what holds one.
        model: A name for the error.

    Raises:
        ValueError: There are several tensors, and none is called ``logits``.
    """
    if hasattr(output, "dtype"):
        return output
    items = _items(output)
    tensors = {key: value for key, value in items.items() if hasattr(value, "dtype")}
    for found in (tensors.get("logits"), getattr(output, "logits", None)):
        if hasattr(found, "dtype"):
            return found
    if len(tensors) != 1:
        shapes = ", ".join(f"{key}: {tuple(value.shape)}" for key, value in tensors.items())
        raise ValueError(
            f"model: {model + ' ' if model else ''}returns a {type(output).__name__} with"
            f" {len(tensors)} tensors ({shapes[:200]}), none of them called logits; return the"
            " logits, of shape (N, classes), alone or as .logits or ['logits']"
        )
    return next(iter(tensors.values()))


def _items(output: Any) -> dict[str, Any]:
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, (tuple, list)):
        return {str(number): value for number, value in enumerate(output)}
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return {}


class WrappedModel(Model):
    """A Foolbox model around another one, with its bounds and data format.

    It takes logits out of what the network returns, and casts what a PyTorch module gets to the
    dtype of its parameters where it takes no other.

    Attributes:
        reports_overflow: Whether it, or its caller, says where logits are not finite, so that no
            model around it does.
        is_diagnosed: Whether its caller looks for randomness itself.
    """

    def __init__(self, model: Model) -> None:
        self._model: Model = _adapted(model)
        self.reports_overflow: bool = getattr(model, "reports_overflow", False)
        self.is_diagnosed: bool = getattr(model, "is_diagnosed", False)

    @property
    def bounds(self) -> Bounds:
        """Return the model's bounds."""
        return self._model.bounds

    @property
    def data_format(self) -> Any:
        """Return the model's; raise an AttributeError where it has none, as Foolbox expects."""
        return self._model.data_format  # type: ignore[attr-defined]


def unwrapped(model: Model) -> Model:
    """Return the innermost Foolbox model."""
    while isinstance(model, (*FOOLBOX_WRAPPERS, WrappedModel)):
        model = model._model
    return model


def module_of(model: Model) -> Any:
    """Return the PyTorch module of a Foolbox model; None if it is of another framework."""
    model = unwrapped(model)
    if not isinstance(model, PyTorchModel):
        return None
    call = model._model._call if isinstance(model._model, _Network) else model._model
    # Foolbox keeps the module in a closure only
    module = inspect.getclosurevars(call).nonlocals.get("model")
    return module if hasattr(module, "parameters") else None


def floating_dtypes(module: Any) -> set[Any]:
    """Return the floating dtypes of a PyTorch module's parameters."""
    return {value.dtype for value in module.parameters() if value.is_floating_point()}


class _Network:
    """From a tensor to logits: what a Foolbox model calls, in the place of its network."""

    def __init__(self, model: Model) -> None:
        self._model, self._call = model, model._model  # type: ignore[attr-defined]
        self._dtype: Any = None  # that inputs are cast to

    def __call__(self, x: Any) -> Any:
        try:
            return logits_of(self._call(x if self._dtype is None else x.to(self._dtype)))
        except RuntimeError as error:
            module = None if self._dtype else module_of(self._model)
            dtypes = floating_dtypes(module) if module is not None else {x.dtype}
            if dtypes == {x.dtype} or not any(word in str(error) for word in ABOUT_DTYPES):
                raise
            if len(dtypes) != 1:
                names = ", ".join(sorted(map(str, dtypes))) or "no floating dtype"
                raise ValueError(
                    f"model: takes no inputs of {x.dtype}, and its parameters are of {names};"
                    " cast the inputs inside of it"
                ) from error
            (self._dtype,) = dtypes
        return self(x)


def _adapted(model: Any) -> Any:
    """Return a Foolbox model whose network is a ``_Network``, if it has a network."""
    if isinstance(model, FOOLBOX_WRAPPERS):
        outer: Any = copy.copy(model)
        outer._model = _adapted(model._model)
        return outer
    if not isinstance(model, (ModelWithPreprocessing, NumPyModel)):
        return model
    adapted: Any = copy.copy(model)
    adapted._model = _Network(model)
    preprocess: Any = getattr(model, "_preprocess", None)
    if preprocess and any(arg is not None for arg in adapted._preprocess_args[:2]):
        # Foolbox fails where half precision becomes that of mean and std
        adapted._preprocess = lambda x: preprocess(backends.at_least_float32(x))
    return adapted


ABOUT_DTYPES = ("dtype", "scalar type", "Input type")
"""One of them is in PyTorch's error where inputs are not of the dtype of the parameters."""


class _CheckedModel(WrappedModel):
    def __init__(self, model: Model, classes: ep.Tensor | None) -> None:
        super().__init__(model)
        self._classes, self._checked = classes, False
        self._warns, self.reports_overflow = not self.reports_overflow, True

    def checks(self, classes: ep.Tensor | None) -> bool:
        """Return whether these are the classes that it compares logits with."""
        ours, theirs = (getattr(of, "raw", None) for of in (self._classes, classes))
        return ours is theirs

    def __call__(self, inputs: Any) -> Any:
        x, restore = ep.astensor_(inputs)
        logits = self._model(x)
        if not self._checked:
            _check_shape(logits, x)
            self._checked = not backends.is_traced(logits)  # JAX's gradients have no values
            if not backends.on_accelerator(logits) or _looks_bad(logits, self._classes):
                _check_classes(logits, self._classes)
                self._warn_of_overflow(logits)
        elif not backends.on_accelerator(logits):  # where the host would wait, the first tell
            self._warn_of_overflow(logits)
        wanted = backends.at_least_float32(x).dtype
        return restore(logits if logits.dtype == wanted else logits.astype(wanted))

    def _warn_of_overflow(self, logits: ep.Tensor) -> None:
        if self._warns and not backends.is_traced(logits):
            self._warns = not _warn_of_overflow(logits)


def _check_shape(logits: ep.Tensor, x: ep.Tensor) -> None:
    backends.as_eagerpy(logits, "model (its logits)")
    wanted, kind = backends.framework(x), backends.framework(logits)
    if kind != wanted:
        raise ValueError(
            f"model: returns logits in {kind} for inputs in {wanted}; return a tensor of {wanted}"
        )
    shape = tuple(logits.shape)
    if "float" not in backends.dtype_name(logits):
        raise ValueError(
            f"model: returns {backends.dtype_name(logits)}, not logits; return what comes before"
            " the argmax"
        )
    if shape in ((len(x),), (len(x), 1)):
        raise ValueError(
            "model: returns one logit for each input, and attacks compare at least two; for a"
            " binary classifier with the logit z return torch.cat([torch.zeros_like(z), z], 1)"
        )
    if len(shape) != 2 or shape[0] != len(x):
        raise ValueError(
            f"model: expected logits of shape ({len(x)}, classes), one row for each input, got"
            f" {shape}"
        )


def _looks_bad(logits: ep.Tensor, classes: ep.Tensor | None) -> bool:
    """Return whether values deserve a closer look: at once, in one read, as losses index by them.

    A class that is none would stop the device.
    """
    if checks.are_skipped():
        return False
    bad = ep.logical_not(logits.abs() < math.inf).any()
    if classes is not None and len(classes) > 0:
        outside = ep.logical_or(classes < 0, classes >= logits.shape[1])
        bad = ep.logical_or(bad, outside.any())
    return bool(bad.item())


def _check_classes(logits: ep.Tensor, classes: ep.Tensor | None) -> None:
    if classes is None or len(classes) == 0:
        return
    values = backends.to_numpy(classes)
    outside = (values < 0) | (values >= logits.shape[1])
    if outside.any():
        raise ValueError(
            f"criterion: the class {int(values[np.argmax(outside)])} of sample"
            f" {int(np.argmax(outside))} is none of the model's {logits.shape[1]}, which count"
            " from 0"
        )


def _warn_of_overflow(logits: ep.Tensor) -> bool:
    """Warn where logits are not finite, and return whether some are not."""
    if all_finite(logits):
        return False
    values = backends.to_numpy(backends.at_least_float32(logits))
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        warnings.warn(
            f"model: the logits of {int(bad.sum())} of {len(bad)} samples are not finite"
            f" ({backends.dtype_name(logits)}), so chance decides which of them count as"
            " adversarial; compute in float32, or look for 0/0 and log(0) in the model",
            RuntimeWarning,
            stacklevel=2,
        )
    return bool(bad.any())


def warn_of_randomness(model: Model, before: ep.Tensor, now: ep.Tensor) -> None:
    """Warn where a model's logits of the same inputs differ by far more than rounding.

    Args:
        model: The model; one that is diagnosed is not warned of.
        before: Logits, shape (N, classes).
        now: Those of the same inputs in another call.
    """
    if getattr(model, "is_diagnosed", False):
        return
    spread = before.max(axis=-1) - before.min(axis=-1)
    change = (now - before).abs().max(axis=-1)
    differs = ep.logical_and(change > RANDOM * spread, change < math.inf)  # else it overflows
    changed = int(differs.sum().item())
    if changed:
        warnings.warn(
            f"model: another call gives other logits for {changed} of {len(now)} inputs, so what is"
            " found holds for one call only; switch its randomness off (evaluation mode), average"
            " over it inside the model, or use ClipAwareAutoAttack(version='rand')",
            RuntimeWarning,
            stacklevel=2,
        )


def _device(t: ep.Tensor) -> Any:
    return t.raw.device if backends.framework(t) == "torch" else None
