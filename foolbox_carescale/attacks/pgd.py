"""Gradient attacks at exactly epsilon: start x direction x step x constraint in one loop.

Each step and each iterate go through the operator. The step is the exact
maximiser of the linearised loss inside the box, so no budget goes to coordinates that
cannot move. The iterate is clipped and exactly epsilon away. The attacks in ``named``
are settings of ``ClipAwareGradientAttack``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import eagerpy as ep
import numpy as np
from foolbox.attacks.base import raise_if_kwargs
from foolbox.models import Model

from ..core import backends, checks
from ..core.norms import sample
from ..operators.api import perturb
from . import directions, losses, schedules
from .base import ClipAwareAttack, checked_arguments, lp_distance
from .indexing import as_numbers, from_numbers, keep_samples, replace_samples, take_samples
from .parameters import Parameter, boolean, integer, interval, one_of, positive
from .state import AttackState, HighestLoss, Iterate, Sparsity
from .steps import momentum_weight, next_iterate, sparse_step, step

Schedule = Literal["cosine", "constant", "halving"]
Direction = Literal["gradient", "momentum", "adam", "conjugate"]
Constraint = Literal["sphere", "ball"]
Keep = Literal["best", "last"]

# For p = 1 and enough steps, the radius falls from this many epsilons to epsilon in this part of
# the steps.
LARGER_EPSILON = 3.0
FALL = 0.6
LEAST_STEPS_TO_FALL = 20


class ClipAwareGradientAttack(ClipAwareAttack):
    """The loop of all gradient attacks.

    Args:
        p: Order of the norm, in [1, inf].
        steps: Number of gradients per restart. With ``keep="best"`` the last iterate costs
            one more forward pass.
        loss: "ce", "soft_margin", "margin", "dlr", "dlr_or_margin", a function (logits, classes)
            -> (N,); or "dlr_targeted", which aims at the ``targets`` most likely other classes in
            turn.
        restarts: Number of restarts; the best iterate of all is returned.
        rel_stepsize: First step relative to epsilon; by default 2, and 2.5 / steps (Madry et
            al. 2018, arXiv 1706.06083) for the constant schedule.
        abs_stepsize: First step in the units of the inputs; takes precedence.
        schedule: "cosine" decreases from the first step to 0.005 epsilon; "constant" keeps it;
            "halving" halves the step and returns to the best iterate when a sample stalls
            (Croce & Hein 2020, arXiv 2003.01690), and halves it once where ``larger_epsilon``
            has fallen to epsilon.
        momentum: Weight of the previous displacement, in [0, 1): the next iterate is
            x + (1 - m) (z - x) + m (x - previous), where z is the result of the plain step. By
            default 0.25, and 0 for p = 1 and p = inf, where accumulating gradients works better.
        direction: The "gradient", or gradients accumulated by
            "momentum", "adam", or "conjugate" (see ``directions``). By default momentum for p = 1
            and p = inf, whose steps keep only signs, and the gradient for other p.
        decay: For the direction "momentum": the part of the sum of gradients that each step keeps,
            in [0, 1]. By default 0.5 for p = inf and 0.3 for other p; MI-FGSM has 1 (Dong et al.
            2018, arXiv 1710.06081).
        random_start: Start from noise instead of the input, at the first radius.
        constraint: "sphere" keeps every iterate at exactly epsilon, "ball" at most epsilon away.
            An iterate that is the input itself has no direction and stays there. This happens if
            all gradients are 0, or push only against bounds that the input touches.
        keep: "best" returns, per input, the adversarial iterate with the highest loss (any
            iterate with the highest loss if none is adversarial); "last" returns the last one.
        sparsity: For p = 1, the share of the coordinates that one step moves, those with the
            largest gradients; or "adaptive", two thirds of those that the best iterate has
            moved (after Croce & Hein 2021, arXiv 2103.01208). Not used for p > 1.
        targets: For "dlr_targeted": the number of other classes to aim at, the most likely ones
            first; fewer if the model has fewer.
        larger_epsilon: The radius at first, in units of epsilon, at least 1. It falls linearly to
            epsilon in the first 60% of the steps; only later iterates are reported or returned.
            AutoAttack does alike for L1, in stages. By default 3 for p = 1 and 20 steps or more,
            else 1.
        stop_when_broken: Take a sample out of the batch once an iterate is adversarial, and return
            that iterate. It saves the gradients that would only raise the loss, and waits for the
            device in every step. Needs ``keep="best"``.
    """

    kind = "gradient"
    least_p = 1.0

    steps = integer(least=1)
    loss: Parameter[str | losses.Loss | losses.LossFn] = Parameter(
        f"one of {', '.join(losses.NAMES)} or a function",
        lambda value: callable(value) or value in losses.NAMES,
    )
    restarts = integer(least=1)
    rel_stepsize = positive().or_none()
    abs_stepsize = positive().or_none()
    schedule: Parameter[Schedule] = one_of(Schedule)
    momentum = interval("[0, 1)").or_none()
    direction: Parameter[Direction | None] = one_of(Direction).or_none()
    decay = interval("[0, 1]").or_none()
    random_start = boolean()
    constraint: Parameter[Constraint] = one_of(Constraint)
    keep: Parameter[Keep] = one_of(Keep)
    sparsity: Parameter[float | Literal["adaptive"]] = Parameter(
        "a number in (0, 1] or 'adaptive'",
        lambda value: value == "adaptive" or interval("(0, 1]").allows(value),
    )
    targets = integer(least=1)
    larger_epsilon: Parameter[float | None] = Parameter(
        "a finite number >= 1",
        lambda value: value is None or value == 1 or positive(above=1).allows(value),
    )
    stop_when_broken = boolean()

    def __init__(
        self,
        *,
        p: float = 2.0,
        steps: int = 40,
        loss: str | losses.Loss | losses.LossFn = "ce",
        restarts: int = 1,
        rel_stepsize: float | None = None,
        abs_stepsize: float | None = None,
        schedule: Schedule = "cosine",
        momentum: float | None = None,
        direction: Direction | None = None,
        decay: float | None = None,
        random_start: bool = True,
        constraint: Constraint = "sphere",
        keep: Keep = "best",
        sparsity: float | Literal["adaptive"] = "adaptive",
        targets: int = 9,
        larger_epsilon: float | None = None,
        stop_when_broken: bool = False,
    ) -> None:
        super().__init__(p=p)
        self.steps = steps
        self.loss = loss
        self.restarts = restarts
        self.rel_stepsize = rel_stepsize
        self.abs_stepsize = abs_stepsize
        self.schedule = schedule
        self.momentum = momentum
        self.direction = direction
        self.decay = decay
        self.random_start = random_start
        self.constraint = constraint
        self.keep = keep
        self.sparsity = sparsity
        self.targets = targets
        self.larger_epsilon = larger_epsilon
        self.stop_when_broken = stop_when_broken
        followed = direction or directions.default_kind(self.p)
        if decay is not None and followed != "momentum":
            raise ValueError(f"decay: needs direction='momentum', got {decay!r} with {followed!r}")
        if self.stop_when_broken and keep == "last":
            raise ValueError("stop_when_broken: needs keep='best', got 'last'")
        if restarts > 1 and keep == "last":
            raise ValueError(f"restarts: {restarts} with keep='last' is wasted; use keep='best'")

    @checks.deferred()
    def run(
        self,
        model: Model,
        inputs: Any,
        criterion: Any,
        *,
        epsilon: Any,
        on_step: Callable[[Iterate], None] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the attack.

        Args:
            model: A Foolbox model with gradients.
            inputs: Points inside the model's bounds, shape (N, ...).
            criterion: Labels, Misclassification or TargetedMisclassification.
            epsilon: A number, or a tensor of shape (N,).
            on_step: Called with every ``Iterate``; pass it when calling the attack.
            **kwargs: Unknown arguments, which raise a TypeError.

        Returns:
            The adversarial examples, type of the inputs.
        """
        raise_if_kwargs(kwargs)
        arguments = checked_arguments(model, inputs, criterion, epsilon)
        model, x0, criterion, epsilon, restore = arguments
        if not len(x0):
            return restore(x0)
        loss_fns = losses.make_losses(criterion, self.loss, self.targets, lambda: model(x0))
        state = AttackState(model, x0, criterion, epsilon)
        for restart, loss_fn in enumerate(loss_fns * self.restarts):
            if len(state.samples) < len(x0):
                loss_fn = loss_fn.select(state.samples)
            last: Any = None  # that of the restart before is not held while this one runs
            last = self._run_restart(state, loss_fn, restart, on_step)
            if self.stop_when_broken and state.best.found.all():
                break
        return restore(last if self.keep == "last" else state.result)

    def _run_restart(
        self,
        state: AttackState,
        loss_fn: losses.LossFn,
        restart: int,
        on_step: Callable[[Iterate], None] | None,
    ) -> ep.Tensor:
        model, x0, epsilon = state.model, state.x0, state.epsilon
        factors = self._radius_factors()
        fall = factors.index(1.0)  # the first iterate that counts
        schedule = self._schedule(fall)
        to_direction = directions.make_direction(self.direction, self.p, self.decay)
        sparsity = Sparsity(self.sparsity, x0, model.bounds)
        x, size = x0, epsilon
        if self.random_start:
            start = epsilon * factors[0]
            x = perturb(x0, sample(x0, "gaussian"), start, p=self.p, bounds=model.bounds)
        previous = x
        momentum = momentum_weight(self.momentum, self.p)
        highest = HighestLoss(state.best, lent=to_direction.keeps_gradients)

        def is_ours(iterate: ep.Tensor) -> bool:
            """Return whether nobody reads it any more, once the next iterate is made."""
            others = state.x0, state.best.x, highest.x
            return on_step is None and all(iterate is not other for other in others)

        for t in range(self.steps + 1):
            final = t == self.steps
            if final and self.keep == "last" and on_step is None:
                break
            point = state.evaluate(x, loss_fn, gradient=not final)
            loss, is_adversarial, gradient = point.loss, point.is_adversarial, point.gradient
            del point
            counts = t >= fall and (t > 0 or self.random_start)
            kept = counts and self.keep == "best"
            if schedule.observes and t >= fall and not final:  # others never go back
                asks = kept and not backends.on_accelerator(x)  # where the host would wait
                better = state.best.better(loss, is_adversarial) if asks else None
                highest.update(x, loss, gradient, better)
            if kept:
                after = (2 if momentum else 1) if on_step is None and highest.is_best else math.inf
                state.best.update(x, loss, is_adversarial, free_after=after)
            if counts:
                if on_step is not None:
                    norm = lp_distance(x0, x, self.p).raw
                    found, spent = is_adversarial.raw, state.gradients
                    which = state.samples
                    length = getattr(size, "raw", size)
                    on_step(Iterate(t, restart, x.raw, norm, loss.raw, found, length, spent, which))
                if self.stop_when_broken and state.best.found.any():
                    left = np.flatnonzero(~np.asarray(state.best.found.numpy()))
                    if not len(left):
                        break
                    for holder in (to_direction, schedule, highest):
                        keep_samples(holder, left, len(x))
                    state.keep(left)
                    loss_fn = loss_fn.select(left)
                    x0, epsilon, sparsity.x0 = state.x0, state.epsilon, state.x0
                    x, previous, loss = (take_samples(of, left) for of in (x, previous, loss))
                    gradient = None if final else take_samples(gradient, left)
            if final:
                break

            if schedule.observes and t >= fall:
                back = schedule.observe(t, as_numbers(loss))
                if back is not None and (backends.on_accelerator(back) or back.any()):
                    samples = from_numbers(x0, back)
                    if highest.gradient is not gradient:
                        gradient = replace_samples(
                            gradient, samples, highest.gradient, in_place=True
                        )
                    if highest.x is not x:
                        x = replace_samples(x, samples, highest.x, in_place=is_ours(x))
                    if momentum:
                        ours = is_ours(previous)
                        previous = replace_samples(previous, samples, x, in_place=ours)
                    else:
                        previous = x
                    to_direction.reset(samples)

            radius = epsilon * factors[t + 1]
            size = _times(schedule.size(t), radius if self.abs_stepsize is None else 1.0, x0)
            direction = to_direction(gradient, overwrite=gradient is not highest.gradient)
            del gradient  # here and below: nothing is held that the next gradient does not need
            if self._is_sparse:
                moved = sparsity.counts(x if state.best.x is None else state.best.x, radius)
                ours = not momentum and is_ours(x)
                new = sparse_step(x, direction, size, moved, bounds=model.bounds, overwrite=ours)
            else:
                kept = to_direction.keeps_directions or direction is highest.gradient
                new = self._step(x, direction, size, state, overwrite=not kept and self.p > 1)
            new = next_iterate(
                new, x, previous, x0, radius, momentum=momentum, p=self.p,
                bounds=model.bounds, sphere=self.constraint == "sphere", direction=direction,
            )  # fmt: skip
            previous, x = x if momentum else new, new
            del direction, new
        return x

    def _radius_factors(self) -> list[float]:
        """Return the radius of each iterate, the start included, in units of epsilon."""
        larger = self.larger_epsilon
        if larger is None:
            long = self.p == 1 and self.steps >= LEAST_STEPS_TO_FALL
            larger = LARGER_EPSILON if long else 1.0
        fall = round(FALL * self.steps)
        parts = [max(0.0, 1 - t / fall) if fall else 0.0 for t in range(self.steps + 1)]
        return [1 + (larger - 1) * part for part in parts]

    @property
    def _is_sparse(self) -> bool:
        """Return whether a step moves a chosen number of coordinates evenly."""
        return self.p == 1 and self.steps > 1

    def _schedule(self, fall: int) -> schedules.Schedule:
        if self.schedule == "constant":
            return schedules.Constant(self.abs_stepsize or self.rel_stepsize or 2.5 / self.steps)
        first = self.abs_stepsize or self.rel_stepsize or 2.0
        if self.schedule == "halving":
            return schedules.Halving(first, self.steps, fall)
        last = schedules.FINAL_STEP * (1.0 if self.abs_stepsize is None else first)
        return schedules.Cosine(first, last, self.steps)

    def _step(
        self, x: ep.Tensor, direction: ep.Tensor, size: Any, state: AttackState, *, overwrite: bool
    ) -> ep.Tensor:
        bounds = state.model.bounds
        return step(x, direction, size, p=self.p, bounds=bounds, overwrite=overwrite)


def _times(size: Any, unit: Any, like: ep.Tensor) -> Any:
    """Return size times unit, each a number or one per sample."""
    if isinstance(size, ep.Tensor):
        wide = backends.dtype_name(like) == "float64"
        size = from_numbers(like, size if wide else size.float32())
    return size * unit
