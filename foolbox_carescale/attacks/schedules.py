"""Step sizes of the gradient attacks: how long each step is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

# The cosine schedule ends at this part of epsilon, never at 0, so that the last steps still move.
FINAL_STEP = 0.005

Array = np.ndarray[Any, Any]


class Schedule(ABC):
    """The length of each step."""

    observes = False  # whether ``observe`` wants the losses, which costs reading them

    @abstractmethod
    def size(self, t: int) -> float | Array:
        """Return the length of step t = 0, 1, ..., a number, or one per sample, shape (N,)."""

    def observe(self, t: int, losses: Array) -> Array | None:
        """Take the losses of iterate t; return the samples to move back to their best, or None.

        Called before ``size(t)``, and only where ``observes`` is true.
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

    def size(self, t: int) -> float | Array:
        """Return the first size, halved as often as the sample stalled."""
        return self.first if self.sizes is None else self.sizes

    def observe(self, t: int, losses: Array) -> Array | None:
        """Return the samples that stalled, at a checkpoint."""
        losses = np.nan_to_num(losses, nan=-np.inf)
        if self.sizes is None:
            self.sizes = np.full(len(losses), self.first / 2 if self.start else self.first)
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
