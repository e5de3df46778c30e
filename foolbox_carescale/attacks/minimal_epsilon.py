"""The smallest epsilon at which a fixed-epsilon attack succeeds, per sample."""

from __future__ import annotations

import math
from typing import Any

import eagerpy as ep
import numpy as np
from foolbox.attacks.base import MinimizationAttack, get_is_adversarial, raise_if_kwargs
from foolbox.devutils import atleast_kd
from foolbox.models import Model

from ..core import backends, checks
from ..operators.api import perturb
from .base import (
    CheckedCall,
    ClipAwareAttack,
    ClipAwareDistance,
    checked_arguments,
    lp_distance,
)
from .parameters import Parameter, integer, interval, positive

GROWTH = 4.0
GROWTH_AFTER_INIT = 1.1


class MinimalEpsilon(CheckedCall, MinimizationAttack):  # type: ignore[misc]  # a final call
    """Search, per sample, for the smallest epsilon at which the wrapped attack succeeds.

    The search brackets by factors of ``growth`` from ``initial``, then bisects the logarithm, with
    every sample at its own epsilon in one batch. ``epsilons=None`` returns the smallest
    perturbation. With epsilons, one search serves them all.

    Args:
        attack: A fixed-epsilon attack of this package, ``L2ClipAwarePGD(steps=20)``.
        initial: First epsilon to try, in the units of the inputs; by default 0.01 of
            the box's diagonal in the attack's norm.
        rel_tolerance: Stop where upper / lower bound <= 1 + this.
        max_runs: Stop after this many runs of the wrapped attack. With ``steps`` gradients
            each, ``steps * max_runs`` is the budget; each run also costs ``1 + ray_passes`` forward
            passes.
        growth: Factor of the bracketing; by default 4, and 1.1 where ``init_attack`` succeeded.
        ray_passes: Forward passes that move each run's adversarial examples back towards the
            inputs by bisection. They cost no gradient.
        init_attack: A minimisation attack, such as ``L2ClipAwareMinimumNorm(steps=20)``, from whose
            adversarial examples the search goes down; its gradients come on top of the budget.

    A misclassified sample keeps perturbation 0. If no epsilon up to the diagonal of the box
    succeeds, the input itself is returned, which is not adversarial.
    """

    _minimizes = True

    attack: Parameter[ClipAwareAttack] = Parameter(
        "a fixed-epsilon attack of this package, as only these take one epsilon per sample",
        lambda value: isinstance(value, ClipAwareAttack),
    )
    initial = positive().or_none()
    rel_tolerance = interval("(0, 1)")
    max_runs = integer(least=1)
    growth = positive(above=1).or_none()
    ray_passes = integer(least=0)
    init_attack: Parameter[MinimizationAttack | None] = Parameter(
        "None or a minimisation attack, of this package or Foolbox's",
        lambda value: value is None or isinstance(value, MinimizationAttack),
    )

    def __init__(
        self,
        attack: ClipAwareAttack,
        *,
        initial: float | None = None,
        rel_tolerance: float = 0.01,
        max_runs: int = 20,
        growth: float | None = None,
        ray_passes: int = 10,
        init_attack: MinimizationAttack | None = None,
    ) -> None:
        self.attack = attack
        self.initial = initial
        self.rel_tolerance = rel_tolerance
        self.max_runs = max_runs
        self.growth = growth
        self.ray_passes = ray_passes
        self.init_attack = init_attack

    @property
    def distance(self) -> ClipAwareDistance:
        """Return the Lp distance of the wrapped attack's order."""
        return ClipAwareDistance(self.attack.p, made_at_epsilon=False)

    @checks.deferred()
    def run(
        self,
        model: Model,
        inputs: Any,
        criterion: Any,
        *,
        early_stop: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return the nearest adversarial examples found.

        The search ends once every sample's is not farther than ``early_stop``, a number or a
        tensor of shape (N,).
        """
        raise_if_kwargs(kwargs)
        enough = 0.0 if early_stop is None else early_stop
        arguments = checked_arguments(model, inputs, criterion, enough, "early_stop")
        model, x0, criterion, enough, restore = arguments
        enough = enough if isinstance(enough, float) else enough.numpy()
        is_adversarial = get_is_adversarial(criterion, model)

        wide = backends.dtype_name(x0) == "float64"
        diagonal = self._diagonal(model, x0)
        best = x0
        zeros = ep.zeros(backends.at_least_float32(x0), len(x0))  # NumPy has no bfloat16
        size = ep.where(is_adversarial(x0), zeros, zeros + math.inf)
        lower = np.zeros(len(x0))
        epsilon = lower + (self.initial or 0.01 * diagonal)
        growth = lower + (self.growth or GROWTH)
        if self.init_attack is not None:
            x = self.init_attack.run(model, x0, criterion, early_stop=early_stop)
            best, size, _ = self._nearest(x0, x, best, size, is_adversarial, model.bounds)
            upper = size.numpy().astype(float)
            growth = np.where(np.isinf(upper), growth, self.growth or GROWTH_AFTER_INIT)
            epsilon = np.where(np.isinf(upper), epsilon, upper / growth)
        for _ in range(self.max_runs):
            upper = size.numpy().astype(float)
            done = upper <= lower * (1 + self.rel_tolerance)
            done |= (upper <= enough) | (lower >= diagonal)
            if done.all():
                break
            tried: Any = backends.from_numpy(x0, epsilon.astype("float64" if wide else "float32"))
            x = self.attack.run(model, x0, criterion, epsilon=tried)
            best, size, found = self._nearest(x0, x, best, size, is_adversarial, model.bounds)
            lower = lower + (epsilon - lower) * (~found & (epsilon > lower))
            upper = size.numpy().astype(float)
            # a success below a failed epsilon proves that the failure was the attack's
            lower = (upper > lower) * lower
            epsilon = _next(lower, upper, epsilon, growth, diagonal)
        return restore(best)

    def _nearest(
        self, x0: ep.Tensor, x: Any, best: Any, size: Any, is_adversarial: Any, bounds: Any
    ) -> tuple[ep.Tensor, ep.Tensor, Any]:
        """Return the best points with these among them, their norms, and which are adversarial."""
        found = is_adversarial(x)
        x = self._nearer(x0, x, found, is_adversarial, bounds)
        distance = lp_distance(x0, x, self.attack.p)
        smaller = ep.logical_and(found, distance < size)
        best = ep.where(atleast_kd(smaller, x.ndim), x, best)
        return best, ep.where(smaller, distance, size), found.numpy()

    def _nearer(
        self, x0: ep.Tensor, x: ep.Tensor, found: ep.Tensor, is_adversarial: Any, bounds: Any
    ) -> ep.Tensor:
        """Return the adversarial examples, drawn back to the inputs while they stay adversarial."""
        if self.ray_passes == 0 or not found.any():
            return x
        p = self.attack.p
        norm = lp_distance(x0, x, p)
        low, high = ep.zeros_like(norm), norm
        direction = x - x0
        for _ in range(self.ray_passes):
            middle = (low + high) / 2
            point = perturb(x0, direction, middle, p=p, bounds=bounds)
            still = ep.logical_and(is_adversarial(point), found)
            x = ep.where(atleast_kd(still, x.ndim), point, x)
            high, low = ep.where(still, middle, high), ep.where(still, low, middle)
        return x

    def _diagonal(self, model: Model, x: ep.Tensor) -> float:
        lower, upper = model.bounds
        n = math.prod(x.shape[1:])
        return float((upper - lower) * n ** (1 / self.attack.p))


def _next(lower: Any, upper: Any, epsilon: Any, growth: Any, diagonal: float) -> Any:
    """Return the epsilons to try next."""
    grown = np.minimum(np.maximum(lower, epsilon) * growth, diagonal)
    shrunk = upper / growth
    with np.errstate(invalid="ignore"):
        middle = np.sqrt(lower * np.where(np.isfinite(upper), upper, 0.0))
    return np.where(np.isinf(upper), grown, np.where(lower == 0, shrunk, middle))
