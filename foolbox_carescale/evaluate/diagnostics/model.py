"""Diagnostics of a model, from a few passes over some samples."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import eagerpy as ep
import numpy as np
from foolbox.models import TransformBoundsWrapper

from ...core import backends, gradients
from .diagnostic import FEW, Array, Diagnostic, share

SAME = {"float16": 3e-2, "bfloat16": 1e-1}
"""Relative difference up to which two sets of logits are the same, by the dtype that they were
computed in: kernels differ by batch size, and rounding with them. 1e-3 for all other dtypes."""


def of_model(
    model: Any, images: Array, labels: Array, *, batch_size: int | None = None
) -> list[Diagnostic]:
    """Return the diagnostics of a model, from its logits and gradients at some images.

    Args:
        model: A Foolbox model.
        images: Shape (N, ...), inside the model's bounds.
        labels: Shape (N,).
        batch_size: Images per forward pass, as in the attacks; None takes N.
    """
    size = batch_size or max(len(images), 1)
    diagnostics = [*_training_mode(model)]
    first, dtype = _answers(model, images, size)
    finite = np.asarray(np.isfinite(first).all(axis=1))
    if not finite.all():
        diagnostics.append(
            Diagnostic(
                "overflow",
                f"the logits of {share(~finite)} images are not finite (they are {dtype})",
                "compute in float32, scale the logits down, or look for 0/0 and log(0)",
            )
        )
    if finite.all():
        diagnostics += _probabilities(first)
        diagnostics += _two_answers(model, images, size, first, _rounding(first, dtype))
    diagnostics += _clean_accuracy(first, labels)
    chosen = finite & (first.argmax(1) == labels)
    diagnostics += _gradients(model, images[chosen], labels[chosen], size)
    return diagnostics


def _training_mode(model: Any) -> Iterator[Diagnostic]:
    while isinstance(model, TransformBoundsWrapper):
        model = model._model
    # Foolbox's PyTorchModel keeps the module in a function's closure only
    function = getattr(model, "_model", None)
    kept = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
    if any(getattr(value, "training", False) is True for value in kept.values()):
        yield Diagnostic(
            "training",
            "the model is in training mode, so dropout and batch statistics change its logits",
            "call model.eval() before you pass the model",
        )


def _answers(model: Any, images: Array, size: int) -> tuple[Array, str]:
    """Return the logits in float64, and the name of the dtype that they came in."""
    answers, dtype = [], ""
    for batch in _batches(images, size):
        logits = ep.astensor(model(_native(model, batch).raw))
        dtype = backends.dtype_name(logits)
        wide = logits.float32() if dtype in SAME else logits
        answers.append(np.asarray(backends.to_numpy(backends.detach(wide)), np.float64))
    return np.concatenate(answers), dtype


def _rounding(logits: Array, dtype: str) -> float:
    """Return the relative rounding of logits: by their dtype, or by that before they were cast."""
    with np.errstate(over="ignore"):
        if np.array_equal(logits, logits.astype(np.float16)):
            return SAME["float16"]
    bfloat16 = (logits.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    return SAME.get("bfloat16" if np.array_equal(logits, bfloat16) else dtype, 1e-3)


def _batches(array: Array, size: int) -> list[Array]:
    return [array[start : start + size] for start in range(0, len(array), size)]


def _native(model: Any, array: Array) -> ep.Tensor:
    tensor: ep.Tensor = ep.from_numpy(model.dummy, np.ascontiguousarray(array))
    return tensor


def _probabilities(logits: Array) -> Iterator[Diagnostic]:
    tolerance = 1e-3  # of a softmax in half precision
    inside = np.all((logits >= 0) & (logits <= 1))
    if logits.shape[1] > 1 and inside and np.allclose(logits.sum(1), 1, atol=tolerance):
        yield Diagnostic(
            "probabilities",
            f"the model's outputs look like probabilities: all {len(logits)} rows are in [0, 1]"
            " and sum to 1",
            "return logits (drop the softmax): with a second softmax in the loss, gradients"
            " vanish and attacks look weak",
        )


def _clean_accuracy(logits: Array, labels: Array) -> Iterator[Diagnostic]:
    classes, predictions = logits.shape[1], logits.argmax(1)
    right = predictions == labels
    if len(labels) and classes > 1 and right.mean() <= 1 / classes:
        shifts, counts = np.unique(predictions - labels, return_counts=True)
        shift, often = int(shifts[counts.argmax()]), int(counts.max())
        told = shift and len(np.unique(labels)) > 1 and often > len(labels) / 2
        yield Diagnostic(
            "clean_accuracy",
            f"the model classifies {share(right)} clean images correctly, which is no more than"
            f" chance among its {classes} classes (labels: {labels.min()} to {labels.max()})"
            + (f"; {often} predictions are the label {shift:+d}" if told else ""),
            "check the weights, mean and std, and that label k is the model's class k",
        )


def _two_answers(
    model: Any, images: Array, size: int, first: Array, relative: float
) -> Iterator[Diagnostic]:
    tolerance = relative * max(float(np.abs(first).max()), 1e-3)

    def differ(one: Array, other: Array) -> Array:
        different: Array = np.abs(one - other).max(axis=1) > tolerance
        return different

    again = differ(first, _answers(model, images, size)[0])
    if again.any():
        yield Diagnostic(
            "nondeterministic",
            f"a second call gives different logits for {share(again)} images",
            "switch its randomness off, or average over it inside the model",
        )
        return
    together = min(len(first), size)
    some = max(together // 3, 1) | 1  # odd, so that alternating classes are no longer balanced
    alone = differ(first[:some], _answers(model, images[:some], size)[0])
    if alone.any():
        yield Diagnostic(
            "batch_dependence",
            f"the logits of an image depend on the other images in the batch:"
            f" {share(alone)} images",
            "use stored statistics in its normalisation layers (evaluation mode)",
        )


def _gradients(model: Any, images: Array, labels: Array, size: int) -> Iterator[Diagnostic]:
    if not len(images):
        return

    def gradient(images: Array, labels: Array) -> Array:
        y = _native(model, labels)

        def loss(inputs: ep.Tensor) -> tuple[ep.Tensor, None]:
            return ep.crossentropy(model(inputs), y).sum(), None

        _, _, found = gradients.value_aux_and_grad(loss, _native(model, images))
        return backends.to_numpy(ep.astensor(found)).reshape(len(images), -1)

    try:
        batches = zip(_batches(images, size), _batches(labels, size), strict=True)
        rows = np.abs(np.concatenate([gradient(*batch) for batch in batches]))
    except (RuntimeError, TypeError, AttributeError, ValueError):
        return  # a model without gradients, as each framework says it: for attacks without any
    largest = rows.max(axis=1)
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.mean() > FEW:
        yield Diagnostic(
            "gradients",
            f"the gradient of the cross-entropy is not finite for {share(bad)} clean images",
            "look for overflow, or for 0/0 and log(0) inside the model",
        )
    zero = largest == 0
    if zero.mean() > FEW:
        yield Diagnostic(
            "gradients",
            f"the gradient of the cross-entropy is zero for {share(zero)} clean images, so"
            " gradient attacks cannot start",
            "use loss=margin where confident outputs saturate; look for rounding, thresholds or"
            " a softmax in the model; add a gradient-free attack",
        )
