"""Gradient attacks at exactly epsilon: start x direction x step x constraint in one loop.

Both the step and the result of each step go through the operator. The step is the exact
maximiser of the linearised loss inside the box, so no budget goes into coordinates that
cannot move; the result is clipped and exactly epsilon away.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import eagerpy as ep
from foolbox.attacks.base import get_criterion, raise_if_kwargs
from foolbox.criteria import Misclassification
from foolbox.devutils import atleast_kd, flatten
from foolbox.models import Model

from .. import backends
from ..arguments import checked_eps
from ..norms import sample
from ..rescale import perturb, project, steepest_step
from .base import NORM_ROUNDING, ClipAwareAttack, inside_bounds, lp_distance, norm_variant

# The cosine schedule ends at this part of epsilon, never at 0, so that the last steps
# still move; between 0.001 and 0.02 the strength does not depend on it.
FINAL_STEP = 0.005

Schedule = Literal["cosine", "constant"]
Constraint = Literal["sphere", "ball"]
Keep = Literal["best", "last"]


@dataclass(frozen=True)
class Iterate:
    """One iterate of an attack, as ``on_step`` gets it.

    Attributes:
        step: 0 for the random start, then 1, 2, ...
        x: The points, inside the bounds, shape of the inputs; native tensor.
        stepsize: Length of the step that led here, in the units of the inputs.
    """

    step: int
    x: Any
    stepsize: Any


class ClipAwareGradientAttack(ClipAwareAttack):
    """The loop; ``ClipAwarePGD``, ``ClipAwareBIM`` and ``ClipAwareFGM`` are settings of it.

    Args:
        p: Order of the norm, in [1, inf].
        steps: Number of gradients. With ``keep="best"`` the last iterate costs one more
            forward pass.
        rel_stepsize: First step relative to epsilon; by default 2 for the cosine schedule
            and 2.5 / steps (Madry et al. 2018, arXiv 1706.06083) for the constant one.
        abs_stepsize: First step in the units of the inputs; takes precedence.
        schedule: "cosine" falls from the first step to 0.005 epsilon; "constant" stays.
        momentum: Weight of the previous displacement, in [0, 1): the next iterate is
            x + (1 - m) (z - x) + m (x - previous), z being the plain step's result.
        random_start: Start from noise of size epsilon instead of the input itself.
        constraint: "sphere" keeps every iterate at exactly epsilon (as far as the coordinates
            that its direction moves allow), "ball" at most there.
        keep: "best" returns, per input, the adversarial iterate with the highest loss (any
            iterate with the highest loss where none is adversarial); "last" the last one.
        sparsity: For p = 1 the part of the coordinates that one step moves, those with the
            largest gradient. Not used for p > 1.
    """

    least_p = 1.0

    def __init__(
        self,
        *,
        p: float = 2.0,
        steps: int = 40,
        rel_stepsize: float | None = None,
        abs_stepsize: float | None = None,
        schedule: Schedule = "cosine",
        momentum: float = 0.25,
        random_start: bool = True,
        constraint: Constraint = "sphere",
        keep: Keep = "best",
        sparsity: float = 0.02,
    ) -> None:
        super().__init__(p=p)
        if not (isinstance(steps, int) and steps >= 1):
            raise ValueError(f"steps: expected an integer >= 1, got {steps!r}")
        for name, size in (("rel_stepsize", rel_stepsize), ("abs_stepsize", abs_stepsize)):
            if size is not None and not 0 < size < math.inf:
                raise ValueError(f"{name}: expected a finite number > 0, got {size!r}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {momentum!r}")
        if not 0 < sparsity <= 1:
            raise ValueError(f"sparsity: expected a number in (0, 1], got {sparsity!r}")
        for name, value, known in (
            ("schedule", schedule, ("cosine", "constant")),
            ("constraint", constraint, ("sphere", "ball")),
            ("keep", keep, ("best", "last")),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        self.steps = steps
        self.rel_stepsize = rel_stepsize
        self.abs_stepsize = abs_stepsize
        self.schedule = schedule
        self.momentum = momentum
        self.random_start = random_start
        self.constraint = constraint
        self.keep = keep
        self.sparsity = sparsity

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
        """The loop.

        Args:
            model: A Foolbox model with gradients.
            inputs: Points inside the model's bounds, shape (N, ...).
            criterion: Labels, Misclassification or TargetedMisclassification.
            epsilon: A number, or a tensor of shape (N,).
            on_step: Called with every ``Iterate``; pass it when calling the attack.
            **kwargs: None; a TypeError names what is left.

        Returns:
            The adversarials, type of the inputs.
        """
        raise_if_kwargs(kwargs)
        x0, restore = ep.astensor_(inputs)
        x0 = inside_bounds(x0, model)
        criterion = get_criterion(criterion)
        loss_fn = _loss_fn(model, criterion)
        report = on_step or _ignore

        x = x0
        best = _Best(criterion)
        if self.random_start:
            x = perturb(x0, sample(x0, "gaussian"), epsilon, p=self.p, bounds=model.bounds)
            report(Iterate(0, x.raw, epsilon))
        previous = x
        for t in range(self.steps):
            _, (losses, logits), gradient = ep.value_aux_and_grad(loss_fn, x)
            if t > 0 or self.random_start:
                best.offer(x, losses, logits)
            stepsize = self._stepsize(t) * (epsilon if self.abs_stepsize is None else 1.0)
            # a model whose gradient overflows moves no coordinate there, instead of all to NaN
            finite = gradient.abs() < math.inf
            gradient = ep.where(finite, gradient, ep.zeros_like(gradient))
            new = self._step(x, gradient, stepsize, model)
            new = self._constrain(new, x0, epsilon, gradient, model)
            if self.momentum and t > 0:
                new = x + (1 - self.momentum) * (new - x) + self.momentum * (x - previous)
                new = self._constrain(new, x0, epsilon, gradient, model)
            previous, x = x, new
            report(Iterate(t + 1, x.raw, stepsize))

        if self.keep == "last":
            return restore(x)
        _, (losses, logits) = loss_fn(x)
        best.offer(x, losses, logits)
        return restore(best.x)

    def _stepsize(self, t: int) -> float:
        if self.schedule == "constant":
            return self.abs_stepsize or self.rel_stepsize or 2.5 / self.steps
        first = self.abs_stepsize or self.rel_stepsize or 2.0
        last = min(FINAL_STEP * (1.0 if self.abs_stepsize is None else first), first)
        return last + (first - last) * (1 + math.cos(math.pi * t / self.steps)) / 2

    def _step(self, x: ep.Tensor, gradient: ep.Tensor, size: Any, model: Model) -> ep.Tensor:
        if self.p == 1 and self.steps > 1:
            direction = _largest_signs(x, gradient, self.sparsity, model)
            return perturb(x, direction, size, p=1, bounds=model.bounds)
        return steepest_step(x, gradient, size, p=self.p, bounds=model.bounds)

    def _constrain(
        self, x: ep.Tensor, x0: ep.Tensor, epsilon: Any, gradient: ep.Tensor, model: Model
    ) -> ep.Tensor:
        if self.constraint == "sphere" and self.p == 2:
            return perturb(x0, x - x0, epsilon, p=2, bounds=model.bounds)  # shrinks and grows
        x = project(x, x0, epsilon, p=self.p, bounds=model.bounds)
        if self.constraint == "ball":
            return x
        x = perturb(x0, x - x0, epsilon, p=self.p, bounds=model.bounds)
        return _completed(x, x0, epsilon, gradient, model) if self.p == 1 else x


class ClipAwarePGD(ClipAwareGradientAttack):
    """Projected gradient descent whose every iterate is exactly epsilon away after the clip.

    By default the step falls from 2 epsilon by a cosine, with momentum, and the iterate
    with the highest loss is returned; ``schedule="constant"`` is the classical attack.
    The arguments are those of ``ClipAwareGradientAttack``.

    Source: Madry et al. 2018, arXiv 1706.06083, on the operator of Rauber & Bethge 2020,
    arXiv 2007.07677.
    """


class ClipAwareBIM(ClipAwareGradientAttack):
    """Basic iterative method: ``ClipAwarePGD`` from the input itself, without random start.

    The arguments are those of ``ClipAwareGradientAttack`` without ``random_start``.

    Source: Kurakin et al. 2017, arXiv 1607.02533.
    """

    def __init__(
        self,
        *,
        p: float = 2.0,
        steps: int = 10,
        rel_stepsize: float | None = None,
        abs_stepsize: float | None = None,
        schedule: Schedule = "cosine",
        momentum: float = 0.25,
        constraint: Constraint = "sphere",
        keep: Keep = "best",
        sparsity: float = 0.02,
    ) -> None:
        super().__init__(
            p=p,
            steps=steps,
            rel_stepsize=rel_stepsize,
            abs_stepsize=abs_stepsize,
            schedule=schedule,
            momentum=momentum,
            random_start=False,
            constraint=constraint,
            keep=keep,
            sparsity=sparsity,
        )


class ClipAwareFGM(ClipAwareGradientAttack):
    """Fast gradient method: one gradient, and the exact maximiser of the linearised loss.

    argmax <grad, s> over ||s||_p <= epsilon with x + s inside the bounds: FGSM for p = inf.
    Coordinates whose gradient is zero do not move; where epsilon is more than the others
    can take, the perturbation is as large as they allow.

    Args:
        p: Order of the norm, in [1, inf].

    Source: Goodfellow et al. 2015, arXiv 1412.6572; the maximiser inside the box is
    ``steepest_step``.
    """

    def __init__(self, *, p: float = 2.0) -> None:
        super().__init__(
            p=p, steps=1, rel_stepsize=1.0, schedule="constant", momentum=0.0,
            random_start=False, constraint="ball", keep="last",
        )  # fmt: skip

    def _constrain(
        self, x: ep.Tensor, x0: ep.Tensor, epsilon: Any, gradient: ep.Tensor, model: Model
    ) -> ep.Tensor:
        return x  # the step from x0 is the result


class _Best:
    """Per input the best iterate so far: adversarial first, then the highest loss."""

    def __init__(self, criterion: Any) -> None:
        self.criterion = criterion
        self.x: Any = None

    def offer(self, x: ep.Tensor, losses: ep.Tensor, logits: ep.Tensor) -> None:
        is_adversarial = self.criterion(x, logits)
        # NaN never wins, and never keeps its place either
        losses = ep.where(losses == losses, losses, ep.ones_like(losses) * -math.inf)
        if self.x is None:
            self.x, self.losses, self.found = x, losses, is_adversarial
            return
        higher = losses > self.losses
        same_kind = is_adversarial == self.found
        better = ep.logical_or(
            ep.logical_and(is_adversarial, ep.logical_not(self.found)),
            ep.logical_and(same_kind, higher),
        )
        self.x = ep.where(atleast_kd(better, x.ndim), x, self.x)
        self.losses = ep.where(better, losses, self.losses)
        self.found = ep.logical_or(self.found, is_adversarial)


def _loss_fn(model: Model, criterion: Any) -> Callable[[ep.Tensor], Any]:
    """Inputs -> (sum to ascend, (loss per input, logits)): cross-entropy, or minus the target's."""
    if isinstance(criterion, Misclassification):
        sign, classes = 1.0, criterion.labels
    elif hasattr(criterion, "target_classes"):
        sign, classes = -1.0, criterion.target_classes
    else:
        raise ValueError(
            "criterion: expected labels, Misclassification or TargetedMisclassification, got "
            f"{criterion!r}; gradient attacks need a class to move away from or towards"
        )

    def loss_fn(x: ep.Tensor) -> Any:
        logits = model(x)
        if backends.dtype_name(logits) in ("float16", "bfloat16"):
            logits = logits.float32()
        losses = sign * ep.crossentropy(logits, classes)
        return losses.sum(), (backends.detach(losses), backends.detach(logits))

    return loss_fn


def _largest_signs(x: ep.Tensor, gradient: ep.Tensor, part: float, model: Model) -> ep.Tensor:
    """Signs of the largest gradients among the coordinates that can move, 0 elsewhere."""
    lower, upper = model.bounds
    stuck = ep.where(gradient > 0, x >= upper, x <= lower)
    gain = flatten(ep.where(stuck, ep.zeros_like(gradient), gradient.abs()))
    n = gain.shape[-1]
    smallest = gain.sort(axis=-1)[:, n - max(1, round(part * n)) :][:, :1]
    chosen = ep.logical_and(gain >= smallest, gain > 0).reshape(gradient.shape)
    return ep.where(chosen, gradient.sign(), ep.zeros_like(gradient))


def _completed(
    x: ep.Tensor, x0: ep.Tensor, epsilon: Any, gradient: ep.Tensor, model: Model
) -> ep.Tensor:
    """Spend what is missing to epsilon (p = 1) on coordinates that did not move yet.

    The few coordinates of sparse steps may not have room for epsilon; the next ones in the
    order of the gradient take the rest.
    """
    size = lp_distance(x0, x, 1).reshape((-1, 1))
    missing = ep.maximum(checked_eps(epsilon, size) - size, ep.zeros_like(size))
    if (missing <= NORM_ROUNDING * size).all():
        return x
    unmoved = ep.where(x == x0, gradient, ep.zeros_like(gradient))
    return steepest_step(x, unmoved, missing.reshape((-1,)), p=1, bounds=model.bounds)


def _ignore(iterate: Iterate) -> None:
    pass


L1ClipAwareFGM = norm_variant(ClipAwareFGM, 1)
L2ClipAwareFGM = norm_variant(ClipAwareFGM, 2)
LinfClipAwareFGM = norm_variant(ClipAwareFGM, math.inf)
LpClipAwareFGM = norm_variant(ClipAwareFGM, None)
L1ClipAwareBIM = norm_variant(ClipAwareBIM, 1)
L2ClipAwareBIM = norm_variant(ClipAwareBIM, 2)
LinfClipAwareBIM = norm_variant(ClipAwareBIM, math.inf)
LpClipAwareBIM = norm_variant(ClipAwareBIM, None)
L1ClipAwarePGD = norm_variant(ClipAwarePGD, 1)
L2ClipAwarePGD = norm_variant(ClipAwarePGD, 2)
LinfClipAwarePGD = norm_variant(ClipAwarePGD, math.inf)
LpClipAwarePGD = norm_variant(ClipAwarePGD, None)
