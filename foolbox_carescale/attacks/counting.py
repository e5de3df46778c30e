"""Count the forward and backward passes of an attack."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import eagerpy as ep
from foolbox.models import Model

from ..core import backends
from .model import WrappedModel


class CountingModel(WrappedModel):
    """A Foolbox model that counts its forward and backward passes, in samples.

    A call on n samples adds n to ``forwards``; each computed derivative of its logits
    adds n to ``backwards``, in PyTorch, TensorFlow and JAX (NumPy has none). A backward pass
    needs a forward pass, which counts separately: PGD with k steps costs k of each.
    The count is made in Python: inside ``jax.jit`` and ``tf.function`` a pass counts when it is
    traced, not when the compiled program runs.

    Args:
        model: The Foolbox model to call; its bounds and data format are kept.

    Attributes:
        forwards: Forward passes so far. Set it to 0 to start again.
        backwards: Backward passes so far.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.forwards = 0
        self.backwards = 0

    def __call__(self, inputs: Any) -> Any:
        """Return the model's logits, and count."""
        x, restore = ep.astensor_(inputs)
        self.forwards += len(x)
        return restore(_counted_when_derived(self._model(x), self._count))

    def _count(self, samples: int) -> None:
        self.backwards += samples


def _counted_when_derived(logits: ep.Tensor, count: Callable[[int], None]) -> ep.Tensor:
    """Return the same tensor; a derivative through it calls count(N)."""
    identity = _IDENTITIES.get(backends.framework(logits))
    return logits if identity is None else ep.astensor(identity(logits.raw, count))


def _torch_identity(logits: Any, count: Callable[[int], None]) -> Any:
    if not logits.requires_grad:
        return logits
    counted = logits.view_as(logits)  # a hook on the caller's own tensor would outlive this call
    counted.register_hook(lambda grad: count(len(grad)))
    return counted


def _tensorflow_identity(logits: Any, count: Callable[[int], None]) -> Any:
    tf = sys.modules["tensorflow"]

    def backward(grad: Any) -> Any:
        count(len(grad))
        return grad

    return tf.custom_gradient(lambda z: (tf.identity(z), backward))(logits)


def _jax_identity(logits: Any, count: Callable[[int], None]) -> Any:
    jax = sys.modules["jax"]

    def backward(_: None, grad: Any) -> tuple[Any]:
        count(len(grad))
        return (grad,)

    identity = jax.custom_vjp(lambda z: z)
    identity.defvjp(lambda z: (z, None), backward)
    return identity(logits)


_IDENTITIES: dict[str, Callable[[Any, Callable[[int], None]], Any]] = {
    "torch": _torch_identity,
    "tensorflow": _tensorflow_identity,
    "jax": _jax_identity,
}
