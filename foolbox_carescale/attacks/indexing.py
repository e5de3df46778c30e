"""Part of a batch: its samples by index, their criterion, and the way back into the batch."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import eagerpy as ep
import numpy as np
from foolbox.criteria import Misclassification, TargetedMisclassification
from foolbox.devutils import atleast_kd

from ..core import backends, memory

Index = np.ndarray[Any, np.dtype[np.integer[Any]]]

# Elements to compute with at a time: temporaries stay in a processor's cache, and on a device below
# a batch of large images.
PART, PART_ON_DEVICE = 2**17, 2**24


def parts_of(tensor: ep.Tensor) -> Iterator[slice]:
    """Yield which samples to compute with at a time, so that temporaries are small."""
    at_once = PART_ON_DEVICE if backends.on_accelerator(tensor) else PART
    rows = max(1, at_once // max(1, math.prod(tensor.shape[1:])))
    for start in range(0, len(tensor), rows):
        yield slice(start, start + rows)


def take_samples(tensor: ep.Tensor, index: Index | ep.Tensor) -> ep.Tensor:
    """Return the samples at these positions, in this order."""
    if isinstance(index, np.ndarray):
        index = backends.from_numpy(tensor, index)
    chosen: ep.Tensor = tensor[index]
    return chosen


def as_numbers(values: ep.Tensor) -> ep.Tensor:
    """Return one number per sample where it costs least to compute with them.

    That is NumPy, which reads them at once, but the device itself where the host would wait.
    """
    return values if backends.on_accelerator(values) else ep.astensor(backends.to_numpy(values))


def numbers_from(like: ep.Tensor, array: np.ndarray[Any, Any]) -> ep.Tensor:
    """Return an array where ``as_numbers`` would: on the accelerator of ``like``, else as NumPy's.

    What a few numbers per sample stand for is then made there, and not copied to it.
    """
    on_device = backends.on_accelerator(like)
    return backends.from_numpy(like, array) if on_device else ep.astensor(array)


def from_numbers(like: ep.Tensor, numbers: ep.Tensor) -> ep.Tensor:
    """Return what ``as_numbers`` leads to as a tensor of the framework and device of ``like``."""
    if backends.framework(numbers) == backends.framework(like):
        return numbers
    return backends.from_numpy(like, numbers.raw)


def put_samples(tensor: ep.Tensor, index: Index, values: ep.Tensor) -> ep.Tensor:
    """Return the tensor with other samples at these positions, which occur once each."""
    if len(index) == 0:
        return tensor
    inside = np.zeros(len(tensor), bool)
    source = np.zeros(len(tensor), np.int64)
    inside[index], source[index] = True, np.arange(len(index))
    where = atleast_kd(backends.from_numpy(tensor, inside), tensor.ndim)
    merged: ep.Tensor = ep.where(where, take_samples(values, source), tensor)
    return merged


def replace_samples(
    tensor: ep.Tensor, where: ep.Tensor, values: ep.Tensor, *, in_place: bool
) -> ep.Tensor:
    """Return the tensor with other samples where ``where``, shape (N,), says so.

    With ``in_place`` they are written over the tensor's own, in PyTorch, unless somebody else has
    its memory: a model may keep the points that it was called with.
    """
    where = atleast_kd(where, tensor.ndim)
    if in_place and memory.may_be_overwritten(tensor):
        raw = tensor.raw
        sys.modules["torch"].where(where.raw, values.raw, raw, out=raw)
        return tensor
    merged: ep.Tensor = ep.where(where, values, tensor)
    return merged


def clear_samples(tensor: ep.Tensor, where: ep.Tensor) -> ep.Tensor:
    """Return the tensor with 0 in the samples that ``where``, shape (N,), names.

    In PyTorch it is written over.
    """
    where = atleast_kd(where, tensor.ndim)
    if backends.framework(tensor) == "torch":
        tensor.raw.masked_fill_(where.raw, 0.0)
        return tensor
    cleared: ep.Tensor = ep.where(where, 0.0, tensor)
    return cleared


def keep_samples(holder: object, index: Index, size: int) -> None:
    """Cut every attribute with a row for each of ``size`` samples to those at these positions."""
    for name, value in vars(holder).items():
        if isinstance(value, (ep.Tensor, np.ndarray)) and value.shape and len(value) == size:
            kept = value[index] if isinstance(value, np.ndarray) else take_samples(value, index)
            setattr(holder, name, kept)


def take_criterion(criterion: Any, index: Index | ep.Tensor) -> Any:
    """Return the criterion for the samples at these positions.

    Raises:
        ValueError: it is neither Misclassification nor TargetedMisclassification; of others it is
            not known what belongs to which sample.
    """
    if isinstance(criterion, Misclassification):
        return Misclassification(take_samples(criterion.labels, index))
    if isinstance(criterion, TargetedMisclassification):
        return TargetedMisclassification(take_samples(criterion.target_classes, index))
    raise ValueError(
        "criterion: expected labels, Misclassification or TargetedMisclassification, got "
        f"{criterion!r}: only these can be split by sample"
    )
