"""The nearest adversarial example of each sample, by gradients, at a radius of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import eagerpy as ep
import numpy as np
from foolbox.attacks.base import MinimizationAttack, raise_if_kwargs
from foolbox.devutils import atleast_kd, flatten
from foolbox.models import Model

from ..core import backends, checks, memory
from ..core.norms import lp_norm
from . import directions, losses, schedules
from .base import LpAttack, checked_arguments, lp_distance
from .indexing import keep_samples, take_samples
from .model import warn_of_randomness
from .parameters import integer, interval, one_of
from .state import AttackState, Evaluation, Iterate, Sparsity
from .steps import finite, momentum_weight, next_iterate, sparse_step, step

Loss = Literal["soft_margin", "margin"]
LOSSES: tuple[Loss, ...] = ("soft_margin", "margin")  # of the restarts in turn

# The radius shrinks and grows by this part of it, and the step is this part of it: in the first
# step, and in the last.
CHANGE = (0.3, 0.001)
STEPSIZE = (2.0, 0.005)
STEPSIZE_L1 = (1.0, 0.01)
READ_EVERY = 8  # steps, on an accelerator: whether samples are near enough for ``early_stop``
FASTEST_GROWTH = 1.3  # of a radius at which no adversarial example is known
RESTART_AT = 0.95  # of the smallest norm found so far
TIED_RADIUS = 0.01  # of the box's diagonal: the first radius where the input's margin is 0


class ClipAwareMinimumNorm(LpAttack, MinimizationAttack):  # type: ignore[misc]  # a final call
    """Find the nearest adversarial example of each sample; one run serves all epsilons.

    Each sample has its own radius, which shrinks by a part gamma where its iterate is adversarial
    and grows by as much where it is not; gamma falls by a cosine. Every iterate is exactly that
    radius away from the input, after the clip, and every step is the exact maximiser of the
    linearised loss inside the bounds. While a sample has no adversarial example, its radius is that
    at which the linearised margin is 0; at equal logits, where the label still comes first, it
    grows by 30%.

    Args:
        p: Order of the norm, in [1, inf].
        steps: Number of gradients per restart; the last iterate costs one more forward pass.
        restarts: Number of runs from the input, each but the first at 0.95 of the smallest norm
            found so far.
        loss: "soft_margin", the logarithm of the sum of the exponentials of the other logits, less
            the label's, whose gradient has the direction of the cross-entropy's but
            does not vanish where the model is certain; "margin", with the largest other logit
            in place of all; or None, for one after the other by restarts.
        momentum: Weight of the previous displacement, in [0, 1), as for
            ``ClipAwareGradientAttack``; by default 0.25, and 0 for p = 1 and p = inf, where
            accumulating gradients works better.

    A misclassified sample keeps perturbation 0. Where no adversarial example is found, the input
    itself is returned.
    """

    kind = "minimum norm"
    least_p = 1.0
    _minimizes = True

    steps = integer(least=1)
    restarts = integer(least=1)
    loss = one_of(Loss).or_none()
    momentum = interval("[0, 1)").or_none()

    def __init__(
        self,
        *,
        p: float = 2.0,
        steps: int = 50,
        restarts: int = 2,
        loss: Loss | None = None,
        momentum: float | None = None,
    ) -> None:
        super().__init__(p=p)
        self.steps = steps
        self.restarts = restarts
        self.loss = loss
        self.momentum = momentum

    @checks.deferred()
    def run(
        self,
        model: Model,
        inputs: Any,
        criterion: Any,
        *,
        early_stop: Any = None,
        on_step: Callable[[Iterate], None] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the attack.

        Args:
            model: A Foolbox model with gradients.
            inputs: Points inside the model's bounds, shape (N, ...).
            criterion: Labels, Misclassification or TargetedMisclassification.
            early_stop: End the search for a sample whose perturbation is not longer than this, a
                number, or a tensor of shape (N,). It costs no further passes: the others go on in
                a smaller batch, which can change the last digits of their results. On a GPU the
                host waits for that in every eighth step.
            on_step: Called with every ``Iterate``; pass it when calling the attack.
            **kwargs: Unknown arguments, which raise a TypeError.

        Returns:
            The nearest adversarial examples found, type of the inputs.

        Warns:
            RuntimeWarning: the second restart gets other logits of the inputs than the first, by
                a tenth of their spread or more: the model draws numbers.
        """
        raise_if_kwargs(kwargs)
        enough = 0.0 if early_stop is None else early_stop
        arguments = checked_arguments(model, inputs, criterion, enough, "early_stop")
        model, x0, criterion, enough, restore = arguments
        if not len(x0):
            return restore(x0)
        nearest = _Nearest(x0, enough, leaves_out=early_stop is not None)
        state = AttackState(model, x0, criterion, 0.0, nearest)
        for restart in range(self.restarts):
            name = self.loss or LOSSES[restart % len(LOSSES)]
            loss_fn = losses.make_loss(state.criterion, name)
            self._run_restart(state, nearest, loss_fn, restart, on_step)
            if nearest.done.all():
                break
        return restore(state.result)

    def _run_restart(
        self,
        state: AttackState,
        nearest: _Nearest,
        loss_fn: losses.LossFn,
        restart: int,
        on_step: Callable[[Iterate], None] | None,
    ) -> None:
        p, bounds = self.p, state.model.bounds
        radius = _Radius(p, self.steps, nearest, bounds)
        schedule = schedules.Cosine(*(STEPSIZE_L1 if p == 1 else STEPSIZE), self.steps)
        to_direction = directions.make_direction(None, p)
        sparsity = Sparsity("adaptive", state.x0, bounds)
        momentum = momentum_weight(self.momentum, p)
        x = previous = state.x0
        size = ep.zeros_like(radius.epsilon)  # no step leads to the input
        for t in range(self.steps + 1):
            final = t == self.steps
            point = state.evaluate(x, loss_fn, gradient=not final)
            if t == 0 and restart == 0:
                nearest.clean = memory.copied(point.logits)  # the next call may write over them
            elif t == 0 and restart == 1:
                warn_of_randomness(state.model, nearest.clean, point.logits)
            norm = lp_distance(state.x0, x, p)
            nearest.update(x, norm, point.is_adversarial)
            if on_step is not None:
                found, spent = point.is_adversarial.raw, state.gradients
                loss = point.loss.raw
                step_of = (t, restart, x.raw, norm.raw, loss, found, size.raw, spent)
                on_step(Iterate(*step_of, state.samples))
            if final:
                break
            # only a clean sample ends at no distance; and on an accelerator reading waits
            every = READ_EVERY if backends.on_accelerator(x) else 1
            asks = t == 0 or (nearest.leaves_out and t % every == 0)
            done = np.asarray(nearest.done.numpy()) if asks else np.zeros(len(x), bool)
            if done.all():
                break
            if nearest.leaves_out and done.any():
                left = np.flatnonzero(~done)
                for holder in (radius, to_direction):
                    keep_samples(holder, left, len(x))
                state.keep(left)
                loss_fn, point, sparsity.x0 = loss_fn.select(left), point.select(left), state.x0
                x, previous, norm = (take_samples(of, left) for of in (x, previous, norm))

            radius.update(t, x, norm, point, state.criterion)
            size = schedule.size(t) * radius.epsilon
            direction = to_direction(point.gradient)
            del point  # here and below: nothing is held that the next gradient does not need
            if p == 1:
                known = atleast_kd(nearest.known, x.ndim)
                counts = sparsity.counts(ep.where(known, nearest.x, x), radius.epsilon)
                new = sparse_step(x, direction, size, counts, bounds=bounds)
            else:
                ours = not to_direction.keeps_directions
                new = step(x, direction, size, p=p, bounds=bounds, overwrite=ours)
            new = next_iterate(
                new, x, previous, state.x0, radius.epsilon, momentum=momentum, p=p,
                bounds=bounds, sphere=True, direction=direction,
            )  # fmt: skip
            previous, x = x if momentum else new, new
            del direction, new


class _Nearest:
    """Per input the nearest adversarial example so far."""

    def __init__(self, x0: ep.Tensor, early_stop: Any, leaves_out: bool) -> None:
        self.x, self.early_stop, self.leaves_out = x0, early_stop, leaves_out
        self.norm = ep.ones(backends.at_least_float32(x0), len(x0)) * math.inf
        self.clean: Any = None  # logits of the inputs

    @property
    def known(self) -> ep.Tensor:
        """Return whether there is one, shape (N,)."""
        return self.norm < math.inf

    @property
    def done(self) -> ep.Tensor:
        """Return whether it is near enough, shape (N,)."""
        done: ep.Tensor = self.norm <= self.early_stop
        return done

    def update(self, x: ep.Tensor, norm: ep.Tensor, is_adversarial: ep.Tensor) -> None:
        """Take the samples of x that are adversarial and nearer."""
        nearer = ep.logical_and(is_adversarial, norm < self.norm)
        nearer = ep.logical_and(nearer, ep.logical_not(self.done))
        self.x = ep.where(atleast_kd(nearer, x.ndim), x, self.x)
        self.norm = ep.where(nearer, norm, self.norm)


class _Radius:
    """The radius of each sample, which follows what its iterates find."""

    def __init__(self, p: float, steps: int, nearest: _Nearest, bounds: Any) -> None:
        self.p, self.nearest, self.bounds = p, nearest, bounds
        self.change = schedules.Cosine(*CHANGE, steps)
        self.epsilon = RESTART_AT * nearest.norm

    def update(
        self, t: int, x: ep.Tensor, norm: ep.Tensor, point: Evaluation, criterion: Any
    ) -> None:
        """Move on from iterate t, whose norm and evaluation are known."""
        gamma, now = self.change.size(t), self.epsilon
        lower, upper = self.bounds
        diagonal = (upper - lower) * math.prod(x.shape[1:]) ** (1 / self.p)
        margin = losses.make_loss(criterion, "margin")(point.logits)
        tied = margin == 0  # as of rounded logits: how far the boundary is, it does not say
        linear = norm + linear_radius(margin, x, point.gradient, self.p, self.bounds)
        linear = ep.minimum(backends.without_nan(linear, diagonal), diagonal)
        if t == 0:
            linear = ep.where(tied, ep.ones_like(linear) * TIED_RADIUS * diagonal, linear)
            radius = ep.where(self.nearest.known, now, linear)
        else:
            shrunk = ep.minimum(now * (1 - gamma), self.nearest.norm)
            radius = ep.where(point.is_adversarial, shrunk, now * (1 + gamma))
            fastest = ep.minimum(now * FASTEST_GROWTH, diagonal)
            linear = ep.where(tied, fastest, ep.minimum(linear, fastest))
            radius = ep.where(self.nearest.known, radius, linear)
        self.epsilon = ep.where(self.nearest.done, ep.zeros_like(radius), radius)


def linear_radius(
    gap: ep.Tensor, x: ep.Tensor, gradient: ep.Tensor, p: float, bounds: Any
) -> ep.Tensor:
    """Return ``|gap| / ||gradient||_q``, q dual to p: how far off a linear gap is 0, shape (N,).

    Coordinates that the bounds stop do not count.
    """
    lower, upper = bounds
    gradient = finite(gradient)
    stalled = ep.where(gradient > 0, x >= upper, x <= lower)
    gradient = ep.where(stalled, ep.zeros_like(gradient), gradient)
    dual = {1.0: math.inf, math.inf: 1.0}.get(p) or p / (p - 1)
    slope = lp_norm(flatten(backends.at_least_float32(gradient)), dual).reshape((-1,))
    radius: ep.Tensor = gap.abs() / ep.maximum(slope, 1e-30)
    return radius
