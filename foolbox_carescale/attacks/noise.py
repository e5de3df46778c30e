"""Random noise whose size after the clip is exactly epsilon, for any p-norm."""

from __future__ import annotations

import math
from typing import Any

import eagerpy as ep
from foolbox.attacks.base import get_criterion, get_is_adversarial, raise_if_kwargs
from foolbox.devutils import atleast_kd
from foolbox.models import Model

from ..norms import sample
from ..rescale import perturb
from .base import ClipAwareAttack, inside_bounds, norm_variant


class ClipAwareNoise(ClipAwareAttack):
    """Noise in a random direction, rescaled so that ``||clip(x + eta noise) - x||_p = epsilon``.

    Args:
        p: Order of the norm, in (0, inf].
        repeats: How many samples of noise to try. The first one that fools the model is
            kept, per input; where none does, the first one of all, at exactly epsilon too.
        distribution: Of each element: "gaussian", "uniform" in [-1, 1], or "laplace".

    Source: Rauber & Bethge 2020, arXiv 2007.07677.
    """

    def __init__(self, *, p: float = 2.0, repeats: int = 1, distribution: str = "gaussian") -> None:
        super().__init__(p=p)
        if not (isinstance(repeats, int) and repeats >= 1):
            raise ValueError(f"repeats: expected an integer >= 1, got {repeats!r}")
        if distribution not in ("gaussian", "uniform", "laplace"):
            raise ValueError(
                f"distribution: expected one of gaussian, uniform, laplace, got {distribution!r}"
            )
        self.repeats = repeats
        self.distribution = distribution

    def run(
        self, model: Model, inputs: Any, criterion: Any = None, *, epsilon: Any, **kwargs: Any
    ) -> Any:
        """One noisy copy per input, exactly epsilon away; the arguments are Foolbox's."""
        raise_if_kwargs(kwargs)
        x0, restore = ep.astensor_(inputs)
        x0 = inside_bounds(x0, model)

        result = self._noisy(model, x0, epsilon)
        if self.repeats > 1:
            is_adversarial = get_is_adversarial(get_criterion(criterion), model)
            found = is_adversarial(result)
            for _ in range(self.repeats - 1):
                if found.all():
                    break
                x = self._noisy(model, x0, epsilon)
                new = ep.logical_and(is_adversarial(x), ep.logical_not(found))
                result = ep.where(atleast_kd(new, x.ndim), x, result)
                found = ep.logical_or(found, new)
        return restore(result)

    def _noisy(self, model: Model, x0: ep.Tensor, epsilon: Any) -> ep.Tensor:
        noise = sample(x0, self.distribution)
        return perturb(x0, noise, epsilon, p=self.p, bounds=model.bounds)


class ClipAwareGaussianNoise(ClipAwareNoise):
    """Gaussian noise, rescaled so that ``||clip(x + eta noise) - x||_p = epsilon``.

    Args:
        p: Order of the norm, in (0, inf].
        repeats: How many samples of noise to try; the first that fools the model is kept.

    Source: Rauber & Bethge 2020, arXiv 2007.07677.
    """

    def __init__(self, *, p: float = 2.0, repeats: int = 1) -> None:
        super().__init__(p=p, repeats=repeats, distribution="gaussian")


class ClipAwareUniformNoise(ClipAwareNoise):
    """Noise uniform in [-1, 1], rescaled so that ``||clip(x + eta noise) - x||_p = epsilon``.

    Args:
        p: Order of the norm, in (0, inf].
        repeats: How many samples of noise to try; the first that fools the model is kept.

    Source: Rauber & Bethge 2020, arXiv 2007.07677.
    """

    def __init__(self, *, p: float = 2.0, repeats: int = 1) -> None:
        super().__init__(p=p, repeats=repeats, distribution="uniform")


class ClipAwareLaplaceNoise(ClipAwareNoise):
    """Laplace noise, rescaled so that ``||clip(x + eta noise) - x||_p = epsilon``.

    Args:
        p: Order of the norm, in (0, inf].
        repeats: How many samples of noise to try; the first that fools the model is kept.

    Source: Rauber & Bethge 2020, arXiv 2007.07677.
    """

    def __init__(self, *, p: float = 2.0, repeats: int = 1) -> None:
        super().__init__(p=p, repeats=repeats, distribution="laplace")


L1ClipAwareGaussianNoise = norm_variant(ClipAwareGaussianNoise, 1)
L2ClipAwareGaussianNoise = norm_variant(ClipAwareGaussianNoise, 2)
LinfClipAwareGaussianNoise = norm_variant(ClipAwareGaussianNoise, math.inf)
LpClipAwareGaussianNoise = norm_variant(ClipAwareGaussianNoise, None)
L1ClipAwareUniformNoise = norm_variant(ClipAwareUniformNoise, 1)
L2ClipAwareUniformNoise = norm_variant(ClipAwareUniformNoise, 2)
LinfClipAwareUniformNoise = norm_variant(ClipAwareUniformNoise, math.inf)
LpClipAwareUniformNoise = norm_variant(ClipAwareUniformNoise, None)
L1ClipAwareLaplaceNoise = norm_variant(ClipAwareLaplaceNoise, 1)
L2ClipAwareLaplaceNoise = norm_variant(ClipAwareLaplaceNoise, 2)
LinfClipAwareLaplaceNoise = norm_variant(ClipAwareLaplaceNoise, math.inf)
LpClipAwareLaplaceNoise = norm_variant(ClipAwareLaplaceNoise, None)
