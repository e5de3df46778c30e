"""The state of a gradient attack: its iterates, and the best of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import eagerpy as ep
import numpy as np
from foolbox.devutils import atleast_kd, flatten
from foolbox.models import Model

from ..core import backends, gradients, memory
from . import losses
from .indexing import (
    Index,
    as_numbers,
    keep_samples,
    parts_of,
    put_samples,
    replace_samples,
    take_criterion,
    take_samples,
)


@dataclass(frozen=True)
class Iterate:
    """One iterate of an attack, as ``on_step`` gets it.

    Attributes:
        step: 0 for the start where it is not the input, then 1, 2, ...
        restart: 0, 1, ...
        x: The points, inside the bounds, shape of the inputs; native tensor.
        norm: Their distance from the inputs in the attack's p-norm, shape (N,).
        loss: What the attack ascends, shape (N,).
        is_adversarial: Shape (N,), bool.
        stepsize: Length of the step that led here, in the units of the inputs: a number, or a
            native tensor of shape (N,).
        gradients: Gradients of the model that each sample has cost until here.
        samples: Positions of the samples in the batch; ``stop_when_broken`` leaves fewer and fewer.
    """

    step: int
    restart: int
    x: Any
    norm: Any
    loss: Any
    is_adversarial: Any
    stepsize: Any
    gradients: int
    samples: Index


@dataclass(frozen=True)
class Evaluation:
    """A model's answer at some points.

    Attributes:
        loss: Shape (N,).
        logits: Shape (N, classes).
        is_adversarial: Shape (N,), bool.
        gradient: Of the loss, shape of the points, or None; may hold NaN.
    """

    loss: ep.Tensor
    logits: ep.Tensor
    is_adversarial: ep.Tensor
    gradient: Any

    def select(self, index: Index) -> Evaluation:
        """Return the answer, which has a gradient, at the samples at these positions."""
        values = (self.loss, self.logits, self.is_adversarial, self.gradient)
        return Evaluation(*(take_samples(of, index) for of in values))


class AttackState:
    """The state that all restarts of a run share: the problem, and the best iterates so far."""

    def __init__(
        self, model: Model, x0: ep.Tensor, criterion: Any, epsilon: Any, best: Any = None
    ) -> None:
        self.model, self.x0, self.criterion, self.epsilon = model, x0, criterion, epsilon
        self.best: Any = BestIterate() if best is None else best
        self.gradients = 0  # of all restarts
        self.samples: Index = np.arange(len(x0))  # those that are still attacked
        self._settled: ep.Tensor = x0

    @property
    def result(self) -> ep.Tensor:
        """Return the best iterate of every sample, of those that were left out too."""
        best: ep.Tensor = self.best.x
        if len(best) == len(self._settled):
            return best
        return put_samples(self._settled, self.samples, best)

    def keep(self, index: Index) -> None:
        """Go on with the samples at these positions; the best iterates of the others are final."""
        self._settled = self.result
        size, self.samples = len(self.x0), self.samples[index]
        self.x0, self.criterion = (
            take_samples(self.x0, index),
            take_criterion(self.criterion, index),
        )
        if not isinstance(self.epsilon, float):
            self.epsilon = take_samples(self.epsilon, index)
        keep_samples(self.best, index, size)

    def evaluate(self, x: ep.Tensor, loss_fn: losses.LossFn, *, gradient: bool) -> Evaluation:
        """Evaluate the model at x, with the gradient of the loss or without."""

        def objective(x: ep.Tensor) -> Any:
            logits = backends.at_least_float32(self.model(x))
            loss = loss_fn(logits)
            return loss.sum(), (backends.detach(loss), backends.detach(logits))

        # An iterate is written over unless another tensor has its memory: whoever keeps what it is
        # given here keeps such a tensor.
        given = backends.detach(x)
        grad = None
        if gradient:
            self.gradients += 1
            _, (loss, logits), grad = gradients.value_aux_and_grad(objective, x)
        else:
            _, (loss, logits) = objective(given)
        return Evaluation(loss, logits, self.criterion(given, logits), grad)


class BestIterate:
    """Per input the best iterate so far: adversarial first, then the highest loss.

    A loss that is NaN never wins, and never keeps its place either.
    """

    def __init__(self) -> None:
        self.x: Any = None
        self._updates: float = 0  # since x is an iterate itself; infinite where it is a copy

    def better(self, loss: ep.Tensor, is_adversarial: ep.Tensor) -> ep.Tensor:
        """Return which samples ``update`` would take, shape (N,)."""
        return self._better(backends.without_nan(loss, -math.inf), is_adversarial)

    def _better(self, loss: ep.Tensor, is_adversarial: ep.Tensor) -> ep.Tensor:
        if self.x is None:
            every: ep.Tensor = loss == loss
            return every
        return ep.where(is_adversarial == self.found, loss > self.loss, is_adversarial)

    def update(
        self,
        x: ep.Tensor,
        loss: ep.Tensor,
        is_adversarial: ep.Tensor,
        *,
        free_after: float = math.inf,
    ) -> None:
        """Take the samples of x that are better.

        ``free_after`` so many further ones nobody else holds an iterate: its memory may be
        written to.
        """
        loss = backends.without_nan(loss, -math.inf)
        if self.x is None:
            self.x, self.loss, self.found = x, loss, is_adversarial
            return
        self._updates += 1
        better = self._better(loss, is_adversarial)
        waits = backends.on_accelerator(x)
        if not waits and better.all():  # the usual case, and no copy
            self.x, self._updates = x, 0
        elif waits or better.any():
            ours = self._updates >= free_after
            self.x = replace_samples(self.x, better, x, in_place=ours)
            self._updates = math.inf
        self.loss = ep.where(better, loss, self.loss)
        self.found = ep.logical_or(self.found, is_adversarial)


class HighestLoss:
    """Per input the iterate of one restart with the highest loss, and its gradient.

    While these are the best iterates of all, as they mostly are, they are not held twice. On an
    accelerator they are, as the host would have to wait to know.
    """

    def __init__(self, best: BestIterate, *, lent: bool = False) -> None:
        """Take the best iterates, and whether others hold the gradients that come, too."""
        self._best, self._lent = best, lent
        self._x: Any = None  # None: those of ``best``
        self._owned = False  # whether x may be written to, else it is an iterate
        self.loss: Any = None
        self.gradient: Any = None
        self._gradient_owned = False

    @property
    def x(self) -> ep.Tensor:
        """Return the iterates, not to be written to."""
        iterates: ep.Tensor = self._best.x if self._x is None else self._x
        return iterates

    @property
    def is_best(self) -> bool:
        """Return whether it holds no iterates of its own."""
        return self._x is None

    def update(
        self, x: ep.Tensor, loss: ep.Tensor, gradient: ep.Tensor, better: ep.Tensor | None = None
    ) -> None:
        """Take the samples of x with a higher loss.

        Args:
            x: The iterate.
            loss: Its loss.
            gradient: Its gradient.
            better: Which samples of x ``best`` is about to take; None where it takes none.
        """
        loss = backends.without_nan(loss, -math.inf)
        higher = loss == loss if self.loss is None else loss > self.loss
        waits = backends.on_accelerator(x)
        if self.loss is None or (not waits and higher.all()):
            alike = better is not None and bool(better.all())
            self._x, self._owned = None if alike else x, False
            if waits:  # a compiled model's CUDA graph may write the next one over it
                self.gradient, self._gradient_owned = memory.copied(gradient), True
            else:
                self.gradient, self._gradient_owned = gradient, not self._lent
        elif waits or higher.any():
            self.gradient = replace_samples(
                self.gradient, higher, gradient, in_place=self._gradient_owned
            )
            self._gradient_owned = True
        if self._x is None:
            if better is None or (higher != better).any():  # from here on they differ
                self._x, self._owned = ep.where(atleast_kd(higher, x.ndim), x, self._best.x), True
        elif self._x is not x and (waits or higher.any()):
            self._x = replace_samples(self._x, higher, x, in_place=self._owned)
            self._owned = True
        self.loss = loss if self.loss is None else ep.where(higher, loss, self.loss)


class Sparsity:
    """Choose how many coordinates a step moves (p = 1): a share of all, or by the best iterate."""

    # "adaptive": what the best iterate has moved over this, as the points become sparser; while it
    # has moved nothing, as many as move each by this part of the box's width.
    SPARSER = 1.5
    FIRST_MOVE = 0.3

    def __init__(self, share: float | str, x0: ep.Tensor, bounds: Any) -> None:
        self.share, self.x0, self.size = share, x0, math.prod(x0.shape[1:])
        lower, upper = bounds
        self.move = self.FIRST_MOVE * (upper - lower)

    def counts(self, best: ep.Tensor, radius: Any) -> Any:
        """Return how many coordinates to move, shape (N,), at least 1.

        Args:
            best: The points to go by, shape of the inputs.
            radius: Norm of the next points, a number, or a tensor of shape (N,).

        Returns:
            A NumPy array, or on an accelerator a native tensor.
        """
        if backends.on_cpu(best):  # without a number for each truth value
            dtype = np.float64 if backends.dtype_name(self.x0) == "float64" else np.float32
            parts = (best[part] != self.x0[part] for part in parts_of(best))
            rows = (row for differs in parts for row in backends.to_numpy(differs))
            moved = ep.astensor(np.array([np.count_nonzero(row) for row in rows], dtype))
        else:
            differs = backends.at_least_float32((best != self.x0).astype(self.x0.dtype))
            moved = as_numbers(flatten(differs).sum(axis=-1))
        if self.share != "adaptive":
            counts = ep.ones_like(backends.widen(moved)) * (float(self.share) * self.size)
        else:
            first = (radius if isinstance(radius, float) else as_numbers(radius)) / self.move
            counts = ep.where(moved > 0, moved / self.SPARSER, first)
        return counts.raw.round().clip(1, self.size)
