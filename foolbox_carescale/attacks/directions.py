"""Directions of the gradient attacks: what a step follows, from the gradients as they come."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import eagerpy as ep
from foolbox.devutils import atleast_kd, flatten

from ..core import backends
from .indexing import clear_samples, parts_of
from .steps import accumulate, finite


class Direction(ABC):
    """From gradients, as they come, to what the step follows.

    A coordinate where a model's gradient overflows does not move, which is not to spoil the
    others: what accumulates gradients takes 0 for those.
    """

    # whether the last gradient, or what was returned for it, is needed when the next one comes
    keeps_gradients = False
    keeps_directions = False

    @abstractmethod
    def __call__(self, gradient: ep.Tensor, *, overwrite: bool = False) -> ep.Tensor:
        """Return the direction for this gradient, same shape.

        With ``overwrite`` it may be written over the gradient.
        """

    def reset(self, where: ep.Tensor) -> None:  # noqa: B027  # most have nothing to reset
        """Drop what was accumulated for some samples, shape (N,): they were moved elsewhere."""


class Gradient(Direction):
    """The gradient itself."""

    def __call__(self, gradient: ep.Tensor, *, overwrite: bool = False) -> ep.Tensor:
        """Return the gradient."""
        return gradient


class Momentum(Direction):
    """Accumulated gradients, each of L1 norm 1: Dong et al. 2018, arXiv 1710.06081.

    They keep all of the sum (decay 1), for transfer between models. Against the model itself,
    keeping a part is stronger: ``make_direction`` takes 0.5 for p = inf and 0.3 for other p.
    """

    keeps_directions = True

    def __init__(self, decay: float = 0.3) -> None:
        self.decay = decay
        self.sum: Any = None

    def __call__(self, gradient: ep.Tensor, *, overwrite: bool = False) -> ep.Tensor:
        """Return ``decay * sum + g / ||g||_1``."""
        self.sum = accumulate(self.sum, self.decay, gradient)
        total: ep.Tensor = self.sum
        return total

    def reset(self, where: ep.Tensor) -> None:
        """Reset the momentum."""
        self.sum = clear_samples(self.sum, where)


class Adam(Direction):
    """Partially adaptive Adam: the first moment over a small power of the second, bias corrected.

    Adam itself (Kingma & Ba 2015, arXiv 1412.6980) is ``partial=1/2``: at first the sign of the
    gradient, which spends a finite p's budget on every pixel alike. Chen et al. 2018, arXiv
    1806.06763, whose 1/8 is the default, keep the gradient's own proportions in part. For p = inf
    only signs count, and the power makes no difference.
    """

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        partial: float = 0.125,
        *,
        signs: bool = False,
    ) -> None:
        """Take the weights; with ``signs`` only the signs count, and nothing is divided by."""
        self.beta1, self.beta2, self.partial, self.signs = beta1, beta2, partial, signs
        self.keeps_directions = signs
        self.t = 0
        self.first: Any = None
        self.second: Any = None  # none where only signs count: those of the first moment

    def __call__(self, gradient: ep.Tensor, *, overwrite: bool = False) -> ep.Tensor:
        """Return ``m / (v^partial + 1e-8)`` of gradients whose largest value per sample is 1.

        Where only signs count it is ``m``, the memory of which is written to later.
        """
        self.t += 1
        if self.first is None:
            self.first = ep.zeros_like(gradient)
            self.second = None if self.signs else ep.zeros_like(gradient)
        raw = gradient.raw
        direction: ep.Tensor
        if backends.framework(gradient) != "torch" or not len(raw):
            self.first, self.second, direction = self._next(gradient, self.first, self.second)
            return direction
        if self.signs:
            direction = self.first
        elif overwrite and raw.is_contiguous():
            direction = gradient
        else:
            direction = ep.astensor(raw.new_empty(raw.shape))
        for part in parts_of(gradient):
            second = None if self.signs else self.second[part]
            along = self._next(gradient[part], self.first[part], second)[-1]
            if not self.signs:
                direction.raw[part] = along.raw
            del along  # before the next part
        return direction

    def _next(self, gradient: ep.Tensor, first: ep.Tensor, second: Any) -> tuple[Any, Any, Any]:
        """Return both moments and the direction after a gradient.

        Where ``*=`` and the like write over a tensor, as in PyTorch, the moments keep their memory.
        """
        gradient = finite(gradient)
        # without the scale, gradients of confident samples drown in the 1e-8
        top = flatten(gradient).abs().max(axis=-1)
        scaled = (gradient / atleast_kd(ep.maximum(top, 1e-30), gradient.ndim)).raw
        m = first.raw
        m *= self.beta1
        m += (1 - self.beta1) * scaled
        if self.signs:
            return ep.astensor(m), None, ep.astensor(m)
        v = second.raw
        scaled *= scaled
        scaled *= 1 - self.beta2
        v *= self.beta2
        v += scaled
        del scaled
        scale = v / (1 - self.beta2**self.t)
        scale **= self.partial
        scale += 1e-8
        along = m / (1 - self.beta1**self.t)
        along /= scale
        return ep.astensor(m), ep.astensor(v), ep.astensor(along)


class Conjugate(Direction):
    """Conjugate gradients, Hestenes-Stiefel: Yamamura et al. 2022, arXiv 2206.09628."""

    keeps_gradients = keeps_directions = True

    def __init__(self) -> None:
        self.gradient: Any = None
        self.direction: Any = None

    def __call__(self, gradient: ep.Tensor, *, overwrite: bool = False) -> ep.Tensor:
        """Return ``g + beta d``, d the last direction.

        ``beta = -<g, y> / <d, y>``, ``y = g_old - g``.
        """
        gradient = finite(gradient)
        if self.gradient is None:
            self.gradient = self.direction = gradient
            return gradient
        change = self.gradient - gradient
        above = flatten(gradient * change).sum(axis=-1)
        below = flatten(self.direction * change).sum(axis=-1)
        solid = below.abs() > 1e-30
        beta = ep.where(solid, -above / ep.where(solid, below, ep.ones_like(below)), above * 0)
        direction: ep.Tensor = gradient + atleast_kd(beta, gradient.ndim) * self.direction
        self.direction, self.gradient = direction, gradient
        return direction

    def reset(self, where: ep.Tensor) -> None:
        """Restart from the gradient alone."""
        self.direction = ep.where(atleast_kd(where, self.direction.ndim), 0.0, self.direction)


KINDS: dict[str, type[Direction]] = {
    "gradient": Gradient,
    "momentum": Momentum,
    "adam": Adam,
    "conjugate": Conjugate,
}


def default_kind(p: float) -> str:
    """Return the direction for p: momentum where steps keep only signs, for p = 1 and inf."""
    return "gradient" if 1 < p < math.inf else "momentum"


def make_direction(kind: str | None, p: float, decay: float | None = None) -> Direction:
    """Return a direction, by default that for p; ``decay`` is momentum's."""
    kind = kind or default_kind(p)
    if kind == "adam":
        return Adam(signs=p == math.inf)
    if kind == "momentum":
        return Momentum((0.5 if p == math.inf else 0.3) if decay is None else decay)
    return KINDS[kind]()
