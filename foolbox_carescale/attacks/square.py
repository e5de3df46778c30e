"""Random search at exactly epsilon: only logits, no gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import eagerpy as ep
import numpy as np
from foolbox.attacks.base import raise_if_kwargs
from foolbox.devutils import atleast_kd
from foolbox.models import Model

from ..core import backends
from ..core.norms import lp_norm
from ..operators.api import perturb
from .base import ClipAwareAttack, checked_arguments
from .indexing import put_samples, take_criterion, take_samples
from .losses import make_loss
from .parameters import integer, interval, seed_or_none
from .seeding import fresh_seed

Array = np.ndarray[Any, Any]

# Parts of the queries after which the windows halve: 10, 50, 200, ... of the paper's 10000.
HALVED_AT = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
TILES = 5  # per dimension, of the start for finite p


class ClipAwareSquare(ClipAwareAttack):
    """Square Attack with the operator, for any p: keep random windows that increase the margin.

    A proposal fills a window W of the perturbation with ``s_c (1 + r)^(-2/p)``: one random sign
    s_c per channel, r pixels from the centre, which is flat for p = inf. For finite p, a second
    window V is emptied, and W gets its norm: per channel, the p-norm on W becomes that of W and V
    together. Clipping-aware rescaling then makes the whole perturbation exactly epsilon, so
    nothing is lost at the bounds. A sample takes the proposal if the margin between the
    logits increases, and is done at its first success.

    The start is random signs, in columns for p = inf and in 5 x 5 tiles otherwise. Inputs may have
    any number of dimensions; windows of a vector are intervals. The model's ``data_format`` gives
    the axis of channels; without one it is the first.

    Args:
        p: Order of the norm, in (0, inf].
        queries: Forward passes per sample, at most.
        part: Share of the pixels in the first windows, in (0, 1]; it decreases to 1/512 of that
            as in the paper.
        seed: Seed of the windows and signs; None draws one from the framework's generator.

    Source: Andriushchenko et al. 2020, arXiv 1912.00049, whose windows for finite p differ.
    """

    queries = integer(least=1)
    part = interval("(0, 1]")
    seed = seed_or_none()

    def __init__(
        self, *, p: float = 2.0, queries: int = 5000, part: float = 0.8, seed: int | None = None
    ) -> None:
        super().__init__(p=p)
        self.queries = queries
        self.part = part
        self.seed = seed

    def run(
        self,
        model: Model,
        inputs: Any,
        criterion: Any,
        *,
        epsilon: Any,
        on_end: Callable[[Array], None] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the search.

        Args:
            model: A Foolbox model; no gradients are needed.
            inputs: Points inside the model's bounds, shape (N, ...).
            criterion: Labels, Misclassification or TargetedMisclassification.
            epsilon: A number, or a tensor of shape (N,).
            on_end: Called with the queries of each sample, shape (N,).
            **kwargs: Unknown arguments, which raise a TypeError.

        Returns:
            Perturbed inputs exactly epsilon away, type of the inputs: the first adversarial one, or
            else the one with the largest margin.
        """
        raise_if_kwargs(kwargs)
        arguments = checked_arguments(model, inputs, criterion, epsilon)
        model, x0, criterion, epsilon, restore = arguments
        rng = np.random.default_rng(fresh_seed(x0) if self.seed is None else self.seed)
        grid = _Grid(x0, model)

        result, spent = x0, np.zeros(len(x0), int)
        active = np.arange(len(x0))  # not yet adversarial
        live = _Live(x0, epsilon, criterion, x0, None)
        for query in range(self.queries):
            if query == 0:
                delta = self._start(live, grid, rng)
            else:
                delta = self._proposal(live, grid, self._part(query), rng)
            x = perturb(live.x0, delta, live.epsilon, p=self.p, bounds=model.bounds)
            found = live.update(x, model)
            spent[active] += 1
            if found.any() or query == self.queries - 1:
                result = put_samples(result, active, live.x)
                active, live = active[~found], live.only(np.flatnonzero(~found))
            if len(active) == 0:
                break
        if on_end is not None:
            on_end(spent)
        return restore(result)

    def _part(self, query: int) -> float:
        progress = query / self.queries
        return self.part * 0.5 ** sum(progress > limit for limit in HALVED_AT)

    def _start(self, live: _Live, grid: _Grid, rng: np.random.Generator) -> ep.Tensor:
        signs = grid.tiles(len(live.x0), columns=self.p == math.inf, rng=rng)
        return grid.restored(backends.from_numpy(live.x0, signs), live.x0)

    def _proposal(
        self, live: _Live, grid: _Grid, part: float, rng: np.random.Generator
    ) -> ep.Tensor:
        n = len(live.x0)
        delta = grid.channels_first(live.x - live.x0)
        window, distance = grid.window(part, n, rng)
        bump = window * (1 + distance) ** (-2 / self.p)
        content = _signs(rng, (n, grid.channels, 1)) * bump
        if self.p == math.inf:
            size = live.epsilon
            size = size if isinstance(size, float) else atleast_kd(size.astype(delta.dtype), 3)
        else:
            other, _ = grid.window(part, n, rng)
            window |= other
            held = ep.where(backends.from_numpy(delta, window), delta, ep.zeros_like(delta))
            size = _norms(held, self.p)
            unit = np.maximum(bump.max(axis=-1, keepdims=True), 1e-30)
            content /= unit * ((bump / unit) ** self.p).sum(axis=-1, keepdims=True) ** (1 / self.p)
        new = backends.from_numpy(delta, content.astype(np.float32)).astype(delta.dtype) * size
        return grid.restored(ep.where(backends.from_numpy(delta, window), new, delta), live.x0)


@dataclass
class _Live:
    """The samples that are not adversarial yet, each with its best point so far."""

    x0: ep.Tensor
    epsilon: Any
    criterion: Any
    x: ep.Tensor
    margin: Any

    def update(self, x: ep.Tensor, model: Model) -> Array:
        """Take what has a larger margin; return which samples are adversarial now, shape (n,)."""
        logits = backends.at_least_float32(model(x))
        margin = make_loss(self.criterion, "margin")(logits)
        found = self.criterion(x, logits)
        if self.margin is None:
            self.x, self.margin = x, margin
        else:
            better = ep.logical_or(margin > self.margin, found)
            self.x = ep.where(atleast_kd(better, x.ndim), x, self.x)
            self.margin = ep.where(better, margin, self.margin)
        return np.asarray(found.numpy())

    def only(self, index: Array) -> _Live:
        """Return the state of these samples."""
        epsilon = (
            self.epsilon if isinstance(self.epsilon, float) else take_samples(self.epsilon, index)
        )
        criterion = take_criterion(self.criterion, index)
        return _Live(
            take_samples(self.x0, index),
            epsilon,
            criterion,
            take_samples(self.x, index),
            take_samples(self.margin, index),
        )


class _Grid:
    """The layout of pixels: (N, channels, pixels) and back, windows, tiles."""

    def __init__(self, x0: ep.Tensor, model: Model) -> None:
        last = getattr(model, "data_format", "channels_first") == "channels_last"
        self.axes = list(range(x0.ndim))
        if x0.ndim > 2 and last:
            self.axes = [0, x0.ndim - 1, *range(1, x0.ndim - 1)]
        shape = [x0.shape[axis] for axis in self.axes]
        self.channels = shape[1] if x0.ndim > 2 else 1
        self.sides = tuple(shape[2:] if x0.ndim > 2 else shape[1:])

    def channels_first(self, t: ep.Tensor) -> ep.Tensor:
        """Return t as (n, channels, pixels), in float32 at least."""
        t = backends.at_least_float32(t)
        return t.transpose(tuple(self.axes)).reshape((len(t), self.channels, -1))

    def restored(self, t: ep.Tensor, like: ep.Tensor) -> ep.Tensor:
        """Return t in shape, order of axes and dtype of the inputs."""
        shape = [like.shape[axis] for axis in self.axes]
        back = tuple(int(axis) for axis in np.argsort(self.axes))
        return t.reshape(tuple(shape)).transpose(back).astype(like.dtype)

    def window(self, part: float, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Return a random window per sample, and the distance to its centre, (n, 1, S)."""
        inside = np.ones((n, *(1,) * len(self.sides)), bool)
        distance = np.zeros(inside.shape, np.float32)
        for axis, length in enumerate(self.sides):
            side = min(max(round(length * part ** (1 / len(self.sides))), 1), length)
            start = rng.integers(0, length - side + 1, size=(n, 1))
            place = np.arange(length)[None] - start
            shape = [n, *(1,) * len(self.sides)]
            shape[axis + 1] = length
            inside = inside & ((place >= 0) & (place < side)).reshape(shape)
            off = np.floor(np.abs(place - (side - 1) / 2)).reshape(shape)
            distance = np.maximum(distance, off)
        return inside.reshape((n, 1, -1)), distance.reshape((n, 1, -1))

    def tiles(self, n: int, *, columns: bool, rng: np.random.Generator) -> Array:
        """Return random signs, the same in a tile or a column, (n, channels, S), float32."""
        counts = [min(TILES, side) for side in self.sides]
        if columns:
            counts = [1] * (len(self.sides) - 1) + [self.sides[-1]]
        signs = _signs(rng, (n, self.channels, *counts))
        for axis, (side, count) in enumerate(zip(self.sides, counts, strict=True)):
            signs = signs.take(np.arange(side) * count // side, axis=axis + 2)
        return signs.reshape((n, self.channels, -1))


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.choice(np.array([-1.0, 1.0], np.float32), size=shape)


def _norms(t: ep.Tensor, p: float) -> ep.Tensor:
    """Return the p-norm over the pixels, (n, channels, 1)."""
    n, channels, pixels = t.shape
    return lp_norm(t.reshape((n * channels, pixels)), p).reshape((n, channels, 1))
