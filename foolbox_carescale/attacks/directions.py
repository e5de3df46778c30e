"""Directions and step sizes: the exchangeable parts of the loop in ``gradient``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import eagerpy as ep
import numpy as np
from foolbox.devutils import atleast_kd, flatten

from . import steps as ascent

# The cosine schedule ends at this part of epsilon, never at 0, so that the last steps still move.
FINAL_STEP = 0.005

Array = np.ndarray[Any, Any]


class Direction(ABC):
    """From gradients, as they come, to what the step follows.

    A coordinate where a model's gradient overflows does not move, which is not to spoil the
    others: what accumulates gradients takes 0 for those.
    """

    @abstractmethod
    def __call__(self, gradient: ep.Tensor) -> ep.Tensor:
        """The direction for this gradient, same shape."""

    def forget(self, where: ep.Tensor) -> None:  # noqa: B027  # most have nothing to forget
        """Drop what was accumulated for some samples: they were moved elsewhere."""


class Gradient(Direction):
    """The gradient itself."""

    def __call__(self, gradient: ep.Tensor) -> ep.Tensor:
        """Unchanged."""
        return gradient


class Momentum(Direction):
    """Accumulated gradients, each of L1 norm 1: Dong et al. 2018, arXiv 1710.06081.

    They keep all of the sum (decay 1), for transfer between models. On the model itself a part is
    stronger: 0.3 to 0.5 are alike for p = 2 and inf, and 0.3 is best for p = 1.
    """

    def __init__(self, decay: float = 0.3) -> None:
        self.decay = decay
        self.sum: Any = None

    def __call__(self, gradient: ep.Tensor) -> ep.Tensor:
        """``decay * sum + g / ||g||_1``."""
        self.sum = ascent.accumulate(self.sum, self.decay, gradient)
        total: ep.Tensor = self.sum
        return total

    def forget(self, where: ep.Tensor) -> None:
        """Start again from no momentum."""
        self.sum = ep.where(where, ep.zeros_like(self.sum), self.sum)


class Adam(Direction):
    """Partially adaptive Adam: the first moment over a small power of the second, bias corrected.

    Adam itself (Kingma & Ba 2015, arXiv 1412.6980) is ``partial=1/2``: at first the sign of the
    gradient, which spends a finite p's budget on every pixel alike. Chen et al. 2018, arXiv
    1806.06763, whose 1/8 is the default, keep the gradient's own proportions in part. For p = inf
    only signs count, and the power makes no difference.
    """

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, partial: float = 0.125) -> None:
        self.beta1, self.beta2, self.partial = beta1, beta2, partial
        self.t = 0
        self.first: Any = 0.0
        self.second: Any = 0.0

    def __call__(self, gradient: ep.Tensor) -> ep.Tensor:
        """``m / (v^partial + 1e-8)`` of gradients scaled to a largest value of 1 per sample."""
        gradient = ascent.finite(gradient)
        # without the scale, gradients of confident samples drown in the 1e-8
        top = flatten(gradient).abs().max(axis=-1)
        gradient = gradient / atleast_kd(ep.maximum(top, 1e-30), gradient.ndim)
        self.t += 1
        self.first = self.beta1 * self.first + (1 - self.beta1) * gradient
        self.second = self.beta2 * self.second + (1 - self.beta2) * gradient.square()
        first = self.first / (1 - self.beta1**self.t)
        second = self.second / (1 - self.beta2**self.t)
        direction: ep.Tensor = first / (second**self.partial + 1e-8)
        return direction


class Conjugate(Direction):
    """Conjugate gradients, Hestenes-Stiefel: Yamamura et al. 2022, arXiv 2206.09628."""

    def __init__(self) -> None:
        self.gradient: Any = None
        self.direction: Any = None

    def __call__(self, gradient: ep.Tensor) -> ep.Tensor:
        """``g + beta d``, d the last direction, ``beta = -<g, y> / <d, y>``, ``y = g_old - g``."""
        gradient = ascent.finite(gradient)
        if self.gradient is None:
            self.gradient = self.direction = gradient
            return gradient
        change = self.gradient - gradient
        above = flatten(gradient * change).sum(axis=-1)
        below = flatten(self.direction * change).sum(axis=-1)
        solid = below.abs() > 1e-30
        beta = ep.where(solid, -above / ep.where(solid, below, ep.ones_like(below)), above * 0)
        ahead: ep.Tensor = gradient + atleast_kd(beta, gradient.ndim) * self.direction
        self.direction, self.gradient = ahead, gradient
        return ahead

    def forget(self, where: ep.Tensor) -> None:
        """Start again from the gradient alone."""
        self.direction = ep.where(where, ep.zeros_like(self.direction), self.direction)


class Schedule(ABC):
    """How long each step is."""

    observes = False  # whether ``observe`` wants the losses, which costs reading them

    @abstractmethod
    def size(self, t: int) -> float | Array:
        """Length of step t = 0, 1, ..., a number, or one per sample, shape (N,)."""

    def observe(self, t: int, losses: Array) -> Array | None:
        """Look at the losses of iterate t; samples to be moved back to their best, or None.

        Called before ``size(t)``, and only where ``observes`` is true.
        """
        return None


class Constant(Schedule):
    """Always the same."""

    def __init__(self, first: float) -> None:
        self.first = first

    def size(self, t: int) -> float:
        """The first size."""
        return self.first


class Cosine(Schedule):
    """From the first size to the last by half a cosine."""

    def __init__(self, first: float, last: float, steps: int) -> None:
        self.first, self.last, self.steps = first, min(first, last), steps

    def size(self, t: int) -> float:
        """``last + (first - last) (1 + cos(pi t / steps)) / 2``."""
        fall = (1 + math.cos(math.pi * t / self.steps)) / 2
        return self.last + (self.first - self.last) * fall


class Halving(Schedule):
    """Halve, and go back to the best iterate, where progress stalls: Croce & Hein 2020.

    At each checkpoint a sample's step is halved when its loss rose in fewer than 75% of the
    steps since the last one, or when neither its step nor its best loss changed. Per sample.
    """

    observes = True
    RISING = 0.75
    FIRST_PERIOD, LESS_EACH_TIME, SHORTEST = 0.22, 0.03, 0.06  # of the number of steps

    def __init__(self, first: float, steps: int) -> None:
        self.first = first
        self.period = max(int(self.FIRST_PERIOD * steps), 1)
        self.shortest = max(int(self.SHORTEST * steps), 1)
        self.less = max(int(self.LESS_EACH_TIME * steps), 1)
        self.next = self.period
        self.sizes: Any = None
        self.before: Any = None

    def size(self, t: int) -> float | Array:
        """The first size, halved as often as the sample stalled."""
        return self.first if self.sizes is None else self.sizes

    def observe(self, t: int, losses: Array) -> Array | None:
        """Samples that stalled, at a checkpoint."""
        losses = np.nan_to_num(losses, nan=-np.inf)
        if self.sizes is None:
            self.sizes = np.full(len(losses), self.first)
            self.rises = np.zeros(len(losses), int)
            self.best, self.best_then = losses.copy(), losses.copy()
            self.halved = np.ones(len(losses), bool)  # the first period counts as a change
        else:
            self.rises += losses > self.before
            self.best = np.maximum(self.best, losses)
        self.before = losses
        if t < self.next:
            return None
        stalled = self.rises <= self.RISING * self.period
        stalled |= ~self.halved & (self.best <= self.best_then)
        self.sizes = np.where(stalled, self.sizes / 2, self.sizes)
        self.halved, self.best_then = stalled, self.best.copy()
        self.rises = np.zeros_like(self.rises)
        self.period = max(self.period - self.less, self.shortest)
        self.next = t + self.period
        return stalled
