"""The state of a gradient attack: its iterates, and the best of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import eagerpy as ep
import numpy as np
from foolbox.devutils import atleast_kd, flatten
from foolbox.models import Model

from ..core import backends
from . import losses
from .steps import sparse_step


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
        stepsize: Length of the step that led here, in the units of the inputs.
        gradients: Gradients of the model that each sample has cost until here.
    """

    step: int
    restart: int
    x: Any
    norm: Any
    loss: Any
    is_adversarial: Any
    stepsize: Any
    gradients: int


@dataclass(frozen=True)
class Evaluation:
    """What the model says of points.

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


class AttackState:
    """The state that all restarts of a run share: the problem, and the best iterates so far."""

    def __init__(self, model: Model, x0: ep.Tensor, criterion: Any, epsilon: Any) -> None:
        self.model, self.x0, self.criterion, self.epsilon = model, x0, criterion, epsilon
        self.best = BestIterate()
        self.gradients = 0  # of all restarts
        self.move: Any = None  # what `Sparsity` found, shape (N,)

    def evaluate(self, x: ep.Tensor, loss_fn: losses.LossFn, *, gradient: bool) -> Evaluation:
        """Evaluate the model at x, with the gradient of the loss or without."""

        def objective(x: ep.Tensor) -> Any:
            logits = backends.at_least_float32(self.model(x))
            loss = loss_fn(logits)
            return loss.sum(), (backends.detach(loss), backends.detach(logits))

        grad = None
        if gradient:
            self.gradients += 1
            _, (loss, logits), grad = backends.value_aux_and_grad(objective, x)
        else:
            _, (loss, logits) = objective(x)
        return Evaluation(loss, logits, self.criterion(x, logits), grad)


class BestIterate:
    """Per input the best iterate so far: adversarial first, then the highest loss."""

    def __init__(self) -> None:
        self.x: Any = None

    def update(self, x: ep.Tensor, loss: ep.Tensor, is_adversarial: ep.Tensor) -> None:
        """Take the samples of x that are better."""
        loss = _without_nan(loss)
        if self.x is None:
            self.x, self.loss, self.found = x, loss, is_adversarial
            return
        better = ep.logical_or(
            ep.logical_and(is_adversarial, ep.logical_not(self.found)),
            ep.logical_and(is_adversarial == self.found, loss > self.loss),
        )
        if better.all():  # the usual case, and no copy
            self.x = x
        elif better.any():
            self.x = ep.where(atleast_kd(better, x.ndim), x, self.x)
        self.loss = ep.where(better, loss, self.loss)
        self.found = ep.logical_or(self.found, is_adversarial)


class HighestLoss:
    """Per input the iterate of one restart with the highest loss, and its gradient."""

    def __init__(self) -> None:
        self.x: Any = None

    def update(self, x: ep.Tensor, loss: ep.Tensor, gradient: ep.Tensor) -> None:
        """Take the samples of x with a higher loss."""
        loss = _without_nan(loss)
        if self.x is None:
            self.x, self.loss, self.gradient = x, loss, gradient
            return
        higher = loss > self.loss
        where = atleast_kd(higher, x.ndim)
        self.x, self.gradient = ep.where(where, x, self.x), ep.where(where, gradient, self.gradient)
        self.loss = ep.where(higher, loss, self.loss)


class Sparsity:
    """The part of the coordinates that a step moves for p = 1: a number, or one per sample."""

    # Croce & Hein 2021, arXiv 2103.01208: begin with 0.2; at each of 25 checkpoints go to two
    # thirds of the coordinates that the best iterate has moved.
    FIRST, PERIOD, SHRINK = 0.2, 0.04, 1.5
    # By how much of the box's width a single step may move a coordinate, of which "auto" takes the
    # mean in the logarithm, weighted by a power of how much each raises the loss. The best is 0.005
    # for a network on ImageNet and 0.1 to 0.5 for small ones; many steps make more of longer moves,
    # by these factors in the first step and in the last.
    PROBES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
    POWER = 2
    FACTORS = (1.25, 5.0)

    def __init__(self, part: float | str, steps: int, state: AttackState) -> None:
        self.adaptive = part == "adaptive"
        self.part: Any = self.FIRST if self.adaptive else part
        self.state, self.steps = state, steps
        self.widths: Any = None  # of the box, that epsilon amounts to
        if part == "auto":
            lower, upper = state.model.bounds
            epsilon = state.epsilon
            numbers = epsilon if isinstance(epsilon, float) else epsilon.numpy().astype(float)
            self.widths = np.broadcast_to(numbers / (upper - lower), (len(state.x0),))
        self.period = max(int(self.PERIOD * steps), 1)

    def probe(self, x: ep.Tensor, gradient: ep.Tensor, loss_fn: losses.LossFn) -> None:
        """Find out how far to move a coordinate, unless this is not asked for, or known."""
        state = self.state
        if self.widths is None or state.move is not None:
            return
        heights = []
        for move in self.PROBES:
            counts = self._clipped(self.widths / move, x)
            point = sparse_step(x, gradient, state.epsilon, counts, bounds=state.model.bounds)
            heights.append(state.evaluate(point, loss_fn, gradient=False).loss.numpy())
        finite = np.nan_to_num(np.array(heights, float), nan=-np.inf).clip(-1e30, 1e30)
        gain = finite - finite.min(axis=0)
        weight = (gain / np.maximum(gain.max(axis=0), 1e-30)) ** self.POWER + 1e-30
        logs = np.log(self.PROBES)[:, None] * np.ones_like(weight)
        state.move = np.exp(np.average(logs, axis=0, weights=weight))

    def counts(self, t: int, x: ep.Tensor) -> Any:
        """Return how many coordinates step t moves, shape (N,), at least 1."""
        if self.widths is not None:
            first, last = self.FACTORS
            factor = first * (last / first) ** (t / max(self.steps - 1, 1))
            return self._clipped(self.widths / (factor * self.state.move), x)
        return self._clipped(np.broadcast_to(self.part * math.prod(x.shape[1:]), (len(x),)), x)

    def _clipped(self, counts: Any, x: ep.Tensor) -> Any:
        return np.clip(np.round(counts), 1, math.prod(x.shape[1:]))

    def observe(self, t: int, best: ep.Tensor, x0: ep.Tensor) -> None:
        """Look at the best iterate before step t, where "adaptive" goes by it."""
        if self.adaptive and t > 0 and t % self.period == 0:
            moved = flatten((best != x0).astype(x0.dtype)).mean(axis=-1).numpy()
            self.part = np.maximum(moved / self.SHRINK, 1e-12)


def _without_nan(loss: ep.Tensor) -> ep.Tensor:
    # NaN never wins, and never keeps its place either
    return ep.where(loss == loss, loss, ep.ones_like(loss) * -math.inf)
