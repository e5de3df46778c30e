"""Random search at exactly epsilon: only logits, no gradients."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import eagerpy as ep
import numpy as np
from foolbox.attacks.base import raise_if_kwargs
from foolbox.devutils import atleast_kd
from foolbox.models import Model

from ..core import backends, checks
from ..core.norms import lp_norm
from ..operators.api import perturb
from .base import ClipAwareAttack, checked_arguments
from .indexing import (
    from_numbers,
    numbers_from,
    put_samples,
    take_criterion,
    take_samples,
)
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

    @checks.deferred()
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
        if not len(x0):
            return restore(x0)
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
        signs = grid.tiles(live.x0, columns=self.p == math.inf, rng=rng)
        return grid.restored(from_numbers(live.x0, signs), live.x0)

    def _proposal(
        self, live: _Live, grid: _Grid, part: float, rng: np.random.Generator
    ) -> ep.Tensor:
        n = len(live.x0)
        delta = grid.channels_first(live.x - live.x0)
        # all random numbers first, so that one copy takes them to the device
        drawn = [grid.centres(part, n, rng), _signs(rng, (n, grid.channels))]
        if self.p != math.inf:
            drawn.append(grid.centres(part, n, rng))
        packed = np.concatenate([numbers.astype(np.int64) for numbers in drawn], axis=1)
        numbers = numbers_from(live.x0, packed)
        dims = len(grid.sides)
        window = grid.window(part, numbers[:, :dims])
        falling = (1 + grid.distance(numbers[:, :dims])) ** (-2 / self.p)
        bump = window.astype(falling.dtype) * falling
        signs = numbers[:, dims : dims + grid.channels].astype(falling.dtype)
        content = signs.reshape((n, grid.channels, 1)) * bump
        if self.p == math.inf:
            size = live.epsilon
            size = size if isinstance(size, float) else atleast_kd(size.astype(delta.dtype), 3)
        else:
            emptied = grid.window(part, numbers[:, dims + grid.channels :])
            window = ep.logical_or(window, emptied)
            held = ep.where(from_numbers(delta, window), delta, ep.zeros_like(delta))
            size = _norms(held, self.p)
            unit = ep.maximum(bump.max(axis=-1, keepdims=True), 1e-30)
            powers = ((bump / unit) ** self.p).sum(axis=-1, keepdims=True)
            content = content / (unit * powers ** (1 / self.p))
        new = from_numbers(delta, content.float32()).astype(delta.dtype) * size
        return grid.restored(ep.where(from_numbers(delta, window), new, delta), live.x0)


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
        margin = backends.without_nan(make_loss(self.criterion, "margin")(logits), -math.inf)
        found = self.criterion(x, logits)
        if self.margin is None:
            self.x, self.margin = x, margin
        else:
            better = ep.logical_or(margin > self.margin, found)
            self.x = ep.where(atleast_kd(better, x.ndim), x, self.x)
            self.margin = ep.where(better, margin, self.margin)
        return np.asarray(found.numpy())

    def only(self, positions: Array) -> _Live:
        """Return the state of these samples."""
        index = backends.from_numpy(self.x0, positions)
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

    def centres(self, part: float, n: int, rng: np.random.Generator) -> Array:
        """Draw each sample's window; return twice its centre, which is whole, (n, dimensions)."""
        drawn = []
        for length, side in zip(self.sides, self._window(part), strict=True):
            drawn.append(2 * rng.integers(0, length - side + 1, size=(n, 1)) + side - 1)
        return np.concatenate(drawn, axis=1)

    def window(self, part: float, centres: ep.Tensor) -> ep.Tensor:
        """Return which pixels lie in the windows of these centres, bool, (n, 1, S)."""
        sides = self._window(part)
        covered = [off < side for off, side in zip(self._twice_off(centres), sides, strict=True)]
        inside = functools.reduce(ep.logical_and, covered)
        return inside.reshape((len(centres), 1, -1))

    def distance(self, centres: ep.Tensor) -> ep.Tensor:
        """Return each pixel's distance to the centre, rounded down, (n, 1, S).

        In float64, but float32 on an accelerator, where an array of that size takes time.
        """
        whole = functools.reduce(ep.maximum, self._twice_off(centres)) // 2
        distance = whole.float32() if backends.on_accelerator(whole) else whole.float64()
        return distance.reshape((len(centres), 1, -1))

    def _twice_off(self, centres: ep.Tensor) -> list[ep.Tensor]:
        """Return twice the distance to the centre along each axis."""
        off = []
        for axis, length in enumerate(self.sides):
            line = ep.arange(centres, 0, 2 * length, 2)[None]
            shape = [len(centres), *(1,) * len(self.sides)]
            shape[axis + 1] = length
            off.append((line - centres[:, axis : axis + 1]).abs().reshape(tuple(shape)))
        return off

    def _window(self, part: float) -> list[int]:
        """Return the sides of a window."""
        share = part ** (1 / len(self.sides))
        return [min(max(round(length * share), 1), length) for length in self.sides]

    def tiles(self, x0: ep.Tensor, *, columns: bool, rng: np.random.Generator) -> ep.Tensor:
        """Return random signs, the same in a tile or a column, (n, channels, S), float32."""
        n = len(x0)
        counts = [min(TILES, side) for side in self.sides]
        if columns:
            counts = [1] * (len(self.sides) - 1) + [self.sides[-1]]
        signs = numbers_from(x0, _signs(rng, (n, self.channels, *counts)))
        for axis, (side, count) in enumerate(zip(self.sides, counts, strict=True)):
            tile = ep.arange(signs, 0, side, 1) * count // side
            tiles = (*[slice(None)] * (axis + 2), tile)
            signs = signs[tiles]
        return signs.reshape((n, self.channels, -1))


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.choice(np.array([-1.0, 1.0], np.float32), size=shape)


def _norms(t: ep.Tensor, p: float) -> ep.Tensor:
    """Return the p-norm over the pixels, (n, channels, 1)."""
    n, channels, pixels = t.shape
    return lp_norm(t.reshape((n * channels, pixels)), p).reshape((n, channels, 1))
