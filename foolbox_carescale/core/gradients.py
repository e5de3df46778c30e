"""Gradients of a model's loss in its inputs, and in nothing else."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import eagerpy as ep

from . import backends, memory


def value_aux_and_grad(
    function: Callable[[ep.Tensor], tuple[ep.Tensor, Any]], x: ep.Tensor
) -> tuple[ep.Tensor, Any, ep.Tensor]:
    """EagerPy's function of this name, which in PyTorch asks for the gradient in x alone.

    EagerPy's ``backward()`` also computes the gradients of a model's parameters, a third of the
    work, and adds them to what the parameters hold.

    Args:
        function: From a tensor to a scalar, and anything else that is constant.
        x: Where.

    Returns:
        The scalar, what else the function returned, and the gradient, shape of x. In PyTorch it has
        memory of its own, which may be written to.

    Raises:
        ValueError: The scalar does not depend on x, as far as the framework knows.
    """
    torch = sys.modules.get("torch")
    if torch is not None and backends.framework(x) == "torch":
        with torch.enable_grad(), _NO_REENTRANCE:
            leaf = x.raw.detach().requires_grad_()
            value, aux = function(ep.astensor(leaf))
            if not value.raw.requires_grad:
                raise ValueError(_NO_GRADIENT)
            (grad,) = torch.autograd.grad(value.raw, leaf, allow_unused=True)
            if grad is None:
                raise ValueError(_NO_GRADIENT)
            # a hook may keep the gradient that it sees, a model's own backward may return what it
            # holds, a CUDA graph writes each one to the same place; and of what can be resized
            # nobody but PyTorch (NumPy, JAX) has the memory
            alone = object()  # is held as often as a gradient that nobody else holds
            held = memory.references_to(grad) > memory.references_to(alone)
            if held or memory.is_shared(grad) or not grad.untyped_storage().resizable():
                grad = grad.detach().clone()
            return backends.detach(value), aux, ep.astensor(grad)
    if backends.framework(x) == "numpy":
        raise ValueError(_NO_GRADIENT)
    try:
        value, aux, gradient = ep.value_aux_and_grad(function, x)
    except AttributeError as error:  # EagerPy's, of TensorFlow's None
        if "'NoneType'" in str(error):
            raise ValueError(_NO_GRADIENT) from None
        raise
    return value, aux, gradient


class _Checkpoint:
    """Stands for PyTorch's reentrant checkpoint: the same values and gradients, the other way."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *inputs: Any) -> Any:
        return sys.modules["torch.utils.checkpoint"].checkpoint(
            function, *inputs, use_reentrant=False, preserve_rng_state=preserve_rng_state
        )


class _NoReentrance:
    """Inside of it no model makes a reentrant checkpoint, in whatever thread.

    Those know ``backward()`` alone, which writes the gradients of parameters.
    """

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._original: Any = None

    def __enter__(self) -> None:
        module: Any = sys.modules.get("torch.utils.checkpoint")
        with self._lock:
            self._users += 1
            if module is not None and self._original is None:
                self._original, module.CheckpointFunction = module.CheckpointFunction, _Checkpoint

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._original is not None and not self._users:
                module: Any = sys.modules["torch.utils.checkpoint"]
                self._original, module.CheckpointFunction = None, self._original


_NO_REENTRANCE = _NoReentrance()

_NO_GRADIENT = (
    "model: gives no gradient in its inputs (NumPy, no_grad, inference_mode, detach, argmax and"
    " quantization give none); use an attack without gradients, such as ClipAwareSquare or noise"
)
