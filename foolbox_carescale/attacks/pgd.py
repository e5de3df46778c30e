"""Gradient attacks at exactly epsilon: start x direction x step x constraint in one loop.

Each step and each iterate go through the operator. The step is the exact
maximiser of the linearised loss inside the box, so no budget goes to coordinates that
cannot move. The iterate is clipped and exactly epsilon away. The attacks in ``named``
are settings of ``ClipAwareGradientAttack``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import eagerpy as ep
import numpy as np
from foolbox.attacks.base import raise_if_kwargs
from foolbox.devutils import atleast_kd
from foolbox.models import Model

from ..core import backends
from ..core.norms import sample
from ..operators.api import perturb
from . import directions, losses, schedules
from .base import ClipAwareAttack, checked_arguments, lp_distance
from .parameters import Parameter, integer, interval, one_of, positive
from .state import AttackState, HighestLoss, Iterate, Sparsity
from .steps import enforce_constraint, sparse_step, step

Schedule = Literal["cosine", "constant", "halving"]
Direction = Literal["gradient", "momentum", "adam", "conjugate"]
Constraint = Literal["sphere", "ball"]
Keep = Literal["best", "last"]

# Radius in units of epsilon, and part of the steps, of each ball of a start on larger ones.
LARGER_EPSILONS = ((2.0, 0.25), (1.5, 0.25))
LEAST_STEPS_FOR_LARGER = 20
STEP_AFTER_LARGER = 1.0  # relative to epsilon; 2 would leave what was found


class ClipAwareGradientAttack(ClipAwareAttack):
    """The loop of all gradient attacks.

    Args:
        p: Order of the norm, in [1, inf].
        steps: Number of gradients per restart. With ``keep="best"`` the last iterate costs
            one more forward pass.
        loss: "ce", "margin", "dlr", "dlr_or_margin", a function (logits, classes) -> (N,); or
            "dlr_targeted", which aims at the ``targets`` most likely other classes in turn.
        restarts: Number of restarts; the best iterate of all is returned.
        rel_stepsize: First step relative to epsilon; by default 2, and 2.5 / steps (Madry et
            al. 2018, arXiv 1706.06083) for the constant schedule.
        abs_stepsize: First step in the units of the inputs; takes precedence.
        schedule: "cosine" decreases from the first step to 0.005 epsilon; "constant" keeps it;
            "halving" halves the step and returns to the best iterate when a sample stalls
            (Croce & Hein 2020, arXiv 2003.01690).
        momentum: Weight of the previous displacement, in [0, 1): the next iterate is
            x + (1 - m) (z - x) + m (x - previous), where z is the result of the plain step.
        direction: The "gradient", or gradients accumulated by
            "momentum", "adam", or "conjugate" (see ``directions``). By default momentum for p = 1
            and p = inf, whose steps keep only signs, and the gradient for other p.
        random_start: Start from noise of norm epsilon instead of the input.
        constraint: "sphere" keeps every iterate at exactly epsilon, "ball" at most epsilon away.
        keep: "best" returns, per input, the adversarial iterate with the highest loss (any
            iterate with the highest loss if none is adversarial); "last" returns the last one.
        sparsity: For p = 1, the share of the coordinates that one step moves, those with the
            largest gradients. "auto" chooses it per sample by seven forward passes: ImageNet
            networks need many small moves, small networks a few large ones. "adaptive" takes
            it from the best iterate during the run (Croce & Hein 2021, arXiv 2103.01208). Not
            used for p > 1.
        targets: For "dlr_targeted": the number of other classes to aim at, the most likely ones
            first; fewer if the model has fewer.
        larger_epsilon_start: Take the first half of the steps on balls of 2 and 1.5 epsilon, and
            start from their projected result, as AutoAttack does for L1. Only later iterates are
            reported or returned. The default for p = 1 and 20 steps or more; never used with
            fewer than 3.
    """

    kind = "gradient"
    least_p = 1.0

    steps = integer(least=1)
    loss: Parameter[str | losses.Loss] = Parameter(
        f"one of {', '.join(losses.NAMES)} or a function",
        lambda value: callable(value) or value in losses.NAMES,
    )
    restarts = integer(least=1)
    rel_stepsize = positive().or_none()
    abs_stepsize = positive().or_none()
    schedule: Parameter[Schedule] = one_of(Schedule)
    momentum = interval("[0, 1)")
    direction: Parameter[Direction | None] = one_of(Direction).or_none()
    constraint: Parameter[Constraint] = one_of(Constraint)
    keep: Parameter[Keep] = one_of(Keep)
    sparsity: Parameter[float | Literal["auto", "adaptive"]] = Parameter(
        "a number in (0, 1], 'auto' or 'adaptive'",
        lambda value: value in ("auto", "adaptive") or interval("(0, 1]").allows(value),
    )
    targets = integer(least=1)

    def __init__(
        self,
        *,
        p: float = 2.0,
        steps: int = 40,
        loss: str | losses.Loss = "ce",
        restarts: int = 1,
        rel_stepsize: float | None = None,
        abs_stepsize: float | None = None,
        schedule: Schedule = "cosine",
        momentum: float = 0.25,
        direction: Direction | None = None,
        random_start: bool = True,
        constraint: Constraint = "sphere",
        keep: Keep = "best",
        sparsity: float | Literal["auto", "adaptive"] = "auto",
        targets: int = 9,
        larger_epsilon_start: bool | None = None,
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
        self.random_start = random_start
        self.constraint = constraint
        self.keep = keep
        self.sparsity = sparsity
        self.targets = targets
        self.larger_epsilon_start = larger_epsilon_start
        if restarts > 1 and keep == "last":
            raise ValueError(f"restarts: {restarts} with keep='last' is wasted; use keep='best'")

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
        loss_fns = losses.make_losses(criterion, self.loss, self.targets, lambda: model(x0))
        state = AttackState(model, x0, criterion, epsilon)
        for restart, loss_fn in enumerate(loss_fns * self.restarts):
            attack, start = self._warm_start(state, loss_fn, restart)
            last = attack._run_restart(state, loss_fn, restart, on_step, start)
        return restore(last if self.keep == "last" else state.best.x)

    def _warm_start(
        self, state: AttackState, loss_fn: losses.LossFn, restart: int
    ) -> tuple[ClipAwareGradientAttack, ep.Tensor | None]:
        """Take the first steps on larger balls; return the attack that is left, and its start."""
        larger_first = self.larger_epsilon_start
        if larger_first is None:
            larger_first = self.p == 1 and self.steps >= LEAST_STEPS_FOR_LARGER
        stages = [(factor, round(part * self.steps)) for factor, part in LARGER_EPSILONS]
        if not larger_first or not all(steps for _, steps in stages):  # too few to share out
            return self, None
        start, rest = None, copy.copy(self)
        for factor, steps in stages:
            stage = copy.copy(self)
            stage.keep, stage.steps = "last", steps
            larger = AttackState(state.model, state.x0, state.criterion, state.epsilon * factor)
            larger.move = state.move
            start = stage._run_restart(larger, loss_fn, restart, None, start)
            state.gradients += larger.gradients
            state.move = larger.move
            rest.steps -= stage.steps
        if self.rel_stepsize is None and self.schedule != "constant":
            rest.rel_stepsize = STEP_AFTER_LARGER
        return rest, start

    def _run_restart(
        self,
        state: AttackState,
        loss_fn: losses.LossFn,
        restart: int,
        on_step: Callable[[Iterate], None] | None,
        start: ep.Tensor | None = None,
    ) -> ep.Tensor:
        model, x0, epsilon = state.model, state.x0, state.epsilon
        unit = epsilon if self.abs_stepsize is None else 1.0
        schedule, to_direction = self._schedule(), self._to_direction()
        sparsity = Sparsity(self.sparsity, self.steps, state)
        x, size, away = x0, epsilon, self.random_start or start is not None
        if start is not None:
            x = self._enforce_constraint(start, state, start - x0)
        elif self.random_start:
            x = perturb(x0, sample(x0, "gaussian"), epsilon, p=self.p, bounds=model.bounds)
        previous = x
        highest = HighestLoss()
        for t in range(self.steps + 1):
            final = t == self.steps
            if final and self.keep == "last" and on_step is None:
                break
            point = state.evaluate(x, loss_fn, gradient=not final)
            loss, is_adversarial, gradient = point.loss, point.is_adversarial, point.gradient
            if t > 0 or away:
                if self.keep == "best":
                    state.best.update(x, loss, is_adversarial)
                if on_step is not None:
                    norm = lp_distance(x0, x, self.p).raw
                    found, spent = is_adversarial.raw, state.gradients
                    on_step(Iterate(t, restart, x.raw, norm, loss.raw, found, size, spent))
            if final:
                break

            if schedule.observes or sparsity.adaptive:  # others never go back
                highest.update(x, loss, gradient)
            back = schedule.observe(t, loss.numpy()) if schedule.observes else None
            if back is not None and back.any():
                where = atleast_kd(backends.from_numpy(x0, back), x0.ndim)
                x = ep.where(where, highest.x, x)
                gradient = ep.where(where, highest.gradient, gradient)
                previous = ep.where(where, x, previous)
                to_direction.reset(where)
            sparsity.observe(t, highest.x, x0)

            size = _times(schedule.size(t), unit, x0)
            direction = to_direction(gradient)
            if t == 0 and self._is_sparse:
                sparsity.probe(x, direction, loss_fn)
            new = self._step(t, x, direction, size, sparsity, state)
            new = self._enforce_constraint(new, state, direction)
            if self.momentum and t > 0:
                new = self._enforce_constraint(new, state, direction, (self.momentum, x, previous))
            previous, x = x, new
        return x

    @property
    def _is_sparse(self) -> bool:
        return self.p == 1 and self.steps > 1

    def _schedule(self) -> schedules.Schedule:
        if self.schedule == "constant":
            return schedules.Constant(self.abs_stepsize or self.rel_stepsize or 2.5 / self.steps)
        first = self.abs_stepsize or self.rel_stepsize or 2.0
        if self.schedule == "halving":
            return schedules.Halving(first, self.steps)
        last = schedules.FINAL_STEP * (1.0 if self.abs_stepsize is None else first)
        return schedules.Cosine(first, last, self.steps)

    def _to_direction(self) -> directions.Direction:
        kinds: dict[str, type[directions.Direction]] = {
            "gradient": directions.Gradient,
            "momentum": directions.Momentum,
            "adam": directions.Adam,
            "conjugate": directions.Conjugate,
        }
        default = "gradient" if 1 < self.p < math.inf else "momentum"
        return kinds[self.direction or default]()

    def _step(
        self,
        t: int,
        x: ep.Tensor,
        direction: ep.Tensor,
        size: Any,
        sparsity: Sparsity,
        state: AttackState,
    ) -> ep.Tensor:
        bounds = state.model.bounds
        if self._is_sparse:
            return sparse_step(x, direction, size, sparsity.counts(t, x), bounds=bounds)
        return step(x, direction, size, p=self.p, bounds=bounds)

    def _enforce_constraint(
        self, z: ep.Tensor, state: AttackState, direction: ep.Tensor, momentum: Any = None
    ) -> ep.Tensor:
        return enforce_constraint(
            z,
            state.x0,
            state.epsilon,
            p=self.p,
            bounds=state.model.bounds,
            sphere=self.constraint == "sphere",
            direction=direction,
            momentum=momentum,
        )


def _times(size: Any, unit: Any, like: ep.Tensor) -> Any:
    """Return size times unit, each a number or one per sample."""
    if isinstance(size, np.ndarray):
        wide = backends.dtype_name(like) == "float64"
        size = backends.from_numpy(like, size.astype("float64" if wide else "float32"))
    return size * unit
