"""Step sizes of the gradient attacks: how long each step is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import eagerpy as ep

from ..core import backends

# The cosine schedule ends at this part of epsilon, never at 0, so that the last steps still move.
FINAL_STEP = 0.005


class Schedule(ABC):
    """The length of each step."""

    observes = False  # whether ``observe`` wants the losses

    @abstractmethod
    def size(self, t: int) -> float | ep.Tensor:
        """Return the length of step t = 0, 1, ..., a number, or one per sample, shape (N,)."""

    def observe(self, t: int, losses: ep.Tensor) -> ep.Tensor | None:
        """Take the losses of iterate t; return the samples to move back to their best, or None.

        Both as ``indexing.as_numbers`` gives them. Called before ``size(t)``, and only
        where ``observes`` is true.
        """
        return None


class Constant(Schedule):
    """Always the same."""

    def __init__(self, first: float) -> None:
        self.first = first

    def size(self, t: int) -> float:
        """Return the first size."""
        return self.first


class Cosine(Schedule):
    """From the first size to the last by half a cosine."""

    def __init__(self, first: float, last: float, steps: int) -> None:
        self.first, self.last, self.steps = first, min(first, last), steps

    def size(self, t: int) -> float:
        """Return ``last + (first - last) (1 + cos(pi t / steps)) / 2``."""
        fall = (1 + math.cos(math.pi * t / self.steps)) / 2
        return self.last + (self.first - self.last) * fall


class Halving(Schedule):
    """Halve, and go back to the best iterate, where progress stalls: Croce & Hein 2020.

    At each checkpoint a sample's step is halved when its loss rose in at most 75% of the
    steps since the last one, or when neither its step nor its best loss changed. Per sample.
    """

    observes = True
    RISING = 0.75
    FIRST_PERIOD, LESS_EACH_TIME, SHORTEST = 0.22, 0.03, 0.06  # of the number of steps

    def __init__(self, first: float, steps: int, start: int = 0) -> None:
        """Take the first size; from step ``start`` on, where it is later, begin with half of it."""
        self.first, self.start = first, start
        steps -= start
        self.period = max(int(self.FIRST_PERIOD * steps), 1)
        self.shortest = max(int(self.SHORTEST * steps), 1)
        self.less = max(int(self.LESS_EACH_TIME * steps), 1)
        self.next = start + self.period
        self.sizes: Any = None
        self.before: Any = None

    def size(self, t: int) -> float | ep.Tensor:
        """Return the first size, halved as often as the sample stalled."""
        return self.first if self.sizes is None else self.sizes

    def observe(self, t: int, losses: ep.Tensor) -> ep.Tensor | None:
        """Return the samples that stalled, at a checkpoint."""
        losses = backends.without_nan(losses, -math.inf)
        if self.sizes is None:
            ones = ep.ones_like(backends.widen(losses))
            self.sizes = ones * (self.first / 2 if self.start else self.first)
            self.rises = ones * 0
            self.best = self.best_then = losses
            self.halved = ones > 0  # the first period counts as a change
        else:
            self.rises = ep.where(losses > self.before, self.rises + 1, self.rises)
            self.best = ep.maximum(self.best, losses)
        self.before = losses
        if t < self.next:
            return None
        stuck = ep.logical_and(ep.logical_not(self.halved), self.best <= self.best_then)
        stalled: ep.Tensor = ep.logical_or(self.rises <= self.RISING * self.period, stuck)
        self.sizes = ep.where(stalled, self.sizes / 2, self.sizes)
        self.halved, self.best_then = stalled, self.best
        self.rises = ep.zeros_like(self.rises)
        self.period = max(self.period - self.less, self.shortest)
        self.next = t + self.period
        return stalled
