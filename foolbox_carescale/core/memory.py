"""Who else has the memory of a tensor, before it is written over."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import eagerpy as ep

from . import backends

# where the interpreter counts otherwise, nothing is known to be held by others
references_to: Callable[[object], int] = getattr(sys, "getrefcount", lambda _: 0)


def may_be_overwritten(t: ep.Tensor) -> bool:
    """Return whether a tensor that nobody needs any more may be written over, in PyTorch."""
    if backends.framework(t) != "torch":
        return False
    # a gradient may be one number that stands for all
    return bool(t.raw.is_contiguous()) and not is_shared(t.raw)


def is_shared(tensor: Any) -> bool:
    """Return False only where it is certain that no other PyTorch tensor has a tensor's memory.

    What it is a view of does not count, unless somebody holds that.
    """
    torch = sys.modules["torch"]
    count = getattr(torch._C, "_storage_Use_Count", None)  # nothing public tells
    if count is None or type(tensor) is not torch.Tensor:
        return True
    storage, base = tensor.untyped_storage(), tensor._base
    if base is not None and references_to(base) > _references_of_a_base():
        return True
    holders = 2 if base is None else 3  # the storage's object, the tensor, what it is a view of
    return bool(count(storage._cdata) > holders)


@functools.cache
def _references_of_a_base() -> int:
    """Return how often Python holds what a tensor is a view of, where nobody else does."""
    view = sys.modules["torch"].empty(1).view(1, 1)
    base = view._base
    return references_to(base)


def copied(t: ep.Tensor) -> ep.Tensor:
    """Return the same values, and their derivative, in memory that no later call writes to."""
    kind = backends.framework(t)
    if kind in ("jax", "tensorflow"):
        return t
    copy: ep.Tensor = ep.astensor(t.raw.clone() if kind == "torch" else t.raw.copy())
    return copy
