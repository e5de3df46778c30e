"""Measures of a perturbation: norms and losses, in float64, and the passes of its attack."""

from __future__ import annotations

from typing import Any

import eagerpy as ep
import numpy as np
import numpy.typing as npt

from ...attacks.counting import CountingModel
from ...core import backends

_AT_ONCE = 2**20
"""Pixels whose norms are taken together: what stays in a processor's cache."""

Array = npt.NDArray[Any]


class RecordingModel(CountingModel):
    """Count passes, and keep the logits of the last one that needed no gradient."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._last: tuple[ep.Tensor, Any] | None = None

    def __call__(self, inputs: Any) -> Any:
        """Return the model's logits, and count."""
        self._last = None
        logits = super().__call__(inputs)
        x, _ = ep.astensor_(inputs)
        if not (backends.is_traced(x) or getattr(x.raw, "requires_grad", False)):
            self._last = x, logits
        return logits

    def recall(self, images: Array) -> Array | None:
        """Return the logits of the last pass, if it was on these images.

        Foolbox judges what an attack returns; these are the same logits, without another pass.
        """
        if self._last is None:
            return None
        x, logits = self._last
        if tuple(x.shape) != images.shape or not np.array_equal(x.numpy(), images):
            return None
        return np.asarray(ep.astensor(logits).numpy()).astype(np.float64)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return -log softmax(logits)[label], shape (N,), float64; NaN or inf of overflowed logits."""
    with np.errstate(invalid="ignore"):  # inf - inf: diagnostics tell of it, in words
        shifted = logits - logits.max(axis=1, keepdims=True) if len(logits) else logits
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    losses: Array = log_sum - shifted[np.arange(len(labels)), labels]
    return losses


def perturbation_norms(clean: Array, perturbed: Array, *orders: float) -> Array:
    """Return ||perturbed - clean||_p per order and sample, shape (orders, N), in float64."""
    norms = np.empty((len(orders), len(clean)))
    step = max(1, _AT_ONCE // max(clean[0].size, 1)) if len(clean) else 1
    for start in range(0, len(clean), step):
        rows = slice(start, start + step)
        difference = perturbed[rows].astype(np.float64) - clean[rows].astype(np.float64)
        for row, p in enumerate(orders):
            norms[row, rows] = np.linalg.norm(per_sample(difference), ord=p, axis=1)
    return norms


def measured_norms(clean: Array, perturbed: Array, p: float, epsilon: float) -> dict[str, Array]:
    """Return the columns of a perturbation's norms, in the order p and in those of all attacks."""
    orders = {"norm": p, "norm_l1": 1.0, "norm_l2": 2.0, "norm_linf": np.inf}
    distinct = list(dict.fromkeys(orders.values()))
    norms = dict(zip(distinct, perturbation_norms(clean, perturbed, *distinct), strict=True))
    sizes = {name: norms[order] for name, order in orders.items()}
    return {**sizes, "norm_over_epsilon": sizes["norm"] / epsilon}


def reachable_norms(images: Array, p: float) -> Array:
    """Return the largest ||z - image||_p over z in [0, 1]^n, shape (N,), in float64."""
    farthest_corners = (images < 0.5).astype(np.float32)
    norms: Array = perturbation_norms(images, farthest_corners, p)[0]
    return norms


def quantise(images: Array) -> Array:
    """Return the images as 8-bit files hold them: rounded to the nearest multiple of 1/255."""
    rounded: Array = (np.rint(images * 255) / 255).astype(np.float32)
    return rounded


def per_sample(array: Array) -> Array:
    """Return an array of shape (N, -1)."""
    return array.reshape(len(array), int(np.prod(array.shape[1:])))
