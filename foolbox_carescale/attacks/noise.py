"""Random noise whose norm after the clip is exactly epsilon, for any p-norm."""

from __future__ import annotations

import math
import sys
from typing import Any

import eagerpy as ep
import numpy as np
from foolbox.attacks.base import get_is_adversarial, raise_if_kwargs
from foolbox.devutils import atleast_kd, flatten
from foolbox.models import Model

from ..core import backends, checks
from ..core.norms import sample
from ..operators.api import perturb
from .base import ClipAwareAttack, checked_arguments, variant
from .parameters import Parameter, boolean, integer, one_of
from .seeding import fresh_seed

DISTRIBUTIONS = ("gaussian", "uniform", "laplace", "signs", "salt_and_pepper", "generalized")


class ClipAwareNoise(ClipAwareAttack):
    """Noise in a random direction, rescaled so that ``||clip(x + eta noise) - x||_p = epsilon``.

    With ``inside`` the norm is not epsilon but ``r = epsilon U^(1/n)``, U uniform in [0, 1] and n
    the number of elements. This is the law of the norm of a uniform point of the Lp ball, and the
    norm after the clip has exactly this law. Before the clip the point is uniform in the ball if
    the distribution matches p ("laplace" for 1, "gaussian" for 2, "uniform" for inf,
    "generalized" for any p; Barthe et al. 2005). Clipped and rescaled, it is *not* uniform in
    ball ∩ box: what a bound cuts off goes to the other elements, and clipped elements lie exactly
    on their bound. Only p = inf with "uniform" is uniform, because there the intersection is a
    box: each element is uniform in ``[max(lower, x - epsilon), min(upper, x + epsilon)]``.

    Args:
        p: Order of the norm, in (0, inf].
        repeats: Number of noise samples to try. Per input, the first one that fools the model is
            kept, or else the first one of all, which is also at exactly epsilon.
        distribution: Of each element: "gaussian"; "uniform" in [-1, 1]; "laplace"; "signs", -1 or
            1; "generalized", with density proportional to exp(-|t|^p) (for p = inf that is
            "uniform"); or "salt_and_pepper": signs of just as many random elements as
            have room for epsilon, so that they move nearly to their bounds (for p = inf all).
        inside: Take a random radius up to epsilon.

    Source: Rauber & Bethge 2020, arXiv 2007.07677; Barthe, Guédon, Mendelson & Naor 2005,
    "A probabilistic approach to the geometry of the l_p^n-ball", Annals of Probability 33(2).
    """

    kind = "noise"

    repeats = integer(least=1)
    distribution: Parameter[str] = one_of(DISTRIBUTIONS)
    inside = boolean()

    def __init__(
        self,
        *,
        p: float = 2.0,
        repeats: int = 1,
        distribution: str = "gaussian",
        inside: bool = False,
    ) -> None:
        super().__init__(p=p)
        self.repeats = repeats
        self.distribution = distribution
        self.inside = inside

    @checks.deferred()
    def run(
        self, model: Model, inputs: Any, criterion: Any = None, *, epsilon: Any, **kwargs: Any
    ) -> Any:
        """Return one noisy copy per input, exactly epsilon away; the arguments are Foolbox's."""
        raise_if_kwargs(kwargs)
        arguments = checked_arguments(model, inputs, criterion, epsilon)
        model, x0, criterion, epsilon, restore = arguments
        if criterion is None and self.repeats > 1:
            raise ValueError(
                f"criterion: is missing, and repeats={self.repeats} keeps the first noise that "
                "fools the model; give the labels"
            )
        result = self._noisy(model, x0, epsilon)
        if self.repeats > 1:
            is_adversarial = get_is_adversarial(criterion, model)
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
        if self.inside:
            if self.p == math.inf and self.distribution == "uniform":
                return _uniform_in_box(model, x0, epsilon)
            epsilon = _radius(x0, epsilon)
        noise = self._noise(model, x0, epsilon)
        return perturb(x0, noise, epsilon, p=self.p, bounds=model.bounds)

    def _noise(self, model: Model, x0: ep.Tensor, epsilon: Any) -> ep.Tensor:
        if self.distribution == "signs":
            return _signs(x0)
        if self.distribution == "salt_and_pepper":
            return self._salt_and_pepper(model, x0, epsilon)
        if self.distribution == "generalized" and self.p < math.inf:
            return _generalized(x0, self.p)
        kind = "uniform" if self.distribution == "generalized" else self.distribution
        return sample(x0, kind)

    def _salt_and_pepper(self, model: Model, x0: ep.Tensor, epsilon: Any) -> ep.Tensor:
        signs = _signs(x0)
        if self.p == math.inf:
            return signs
        lower, upper = model.bounds
        room = flatten(ep.where(signs > 0, upper - x0, x0 - lower))
        if backends.on_accelerator(x0):
            filling = ep.astensor(_first_that_fill(room.raw, epsilon, self.p))
            moved: ep.Tensor = ep.where(filling.reshape(x0.shape), signs, ep.zeros_like(signs))
            return moved
        rooms = backends.to_numpy(backends.at_least_float32(room)).astype(float)
        wanted: Any = epsilon
        if not isinstance(epsilon, float):
            wanted = backends.to_numpy(epsilon).astype(float)[:, None]
        # relative to epsilon, so that no power overflows
        shares = (rooms / np.maximum(wanted, 1e-300)).clip(max=1e10) ** self.p
        order = np.random.default_rng(fresh_seed(x0)).permuted(
            np.broadcast_to(np.arange(shares.shape[1]), shares.shape), axis=1
        )
        before = np.cumsum(np.take_along_axis(shares, order, axis=1), axis=1)
        needed = np.concatenate([np.ones((len(shares), 1), bool), before[:, :-1] < 1], axis=1)
        chosen = np.zeros(shares.shape, bool)
        np.put_along_axis(chosen, order, needed, axis=1)
        where = backends.from_numpy(x0, chosen.reshape(x0.shape))
        return ep.where(where, signs, ep.zeros_like(signs))


def _signs(like: ep.Tensor) -> ep.Tensor:
    """Return -1 or 1 with equal probability, shape of ``like``."""
    return ep.where(sample(like, "uniform") < 0, -ep.ones_like(like), ep.ones_like(like))


def _first_that_fill(room: Any, epsilon: Any, p: float) -> Any:
    """Return as many random elements as have room for epsilon, bool, all on PyTorch's device."""
    torch = sys.modules["torch"]
    wide = backends.widen(ep.astensor(room)).raw
    wanted = epsilon if isinstance(epsilon, float) else epsilon.raw.to(wide.dtype)[:, None]
    shares = (wide / wanted).nan_to_num(nan=0.0).clamp(max=1e10) ** p
    order = torch.rand(room.shape, device=room.device).argsort(dim=1)
    shares = shares.gather(1, order)
    needed = shares.cumsum(dim=1) - shares < 1
    return torch.empty_like(needed).scatter_(1, order, needed)


def _generalized(like: ep.Tensor, p: float) -> ep.Tensor:
    """Sample elements of density proportional to ``exp(-|t|^p)``: |t|^p is Gamma(1/p)."""
    if backends.on_accelerator(like):
        torch = sys.modules["torch"]
        uniform = torch.rand(like.shape, device=like.raw.device)
        shape = torch.full_like(uniform, 1 + 1 / p)
        gamma = torch.distributions.Gamma(shape, 1.0, validate_args=False).sample()
        powers = gamma.log() / p + torch.log1p(-uniform)
        there: ep.Tensor = ep.astensor((powers - powers.max()).exp()).astype(like.dtype)
        return there * _signs(like)
    rng = np.random.default_rng(fresh_seed(like))
    # the logarithm of a Gamma(a) of small a underflows less: Gamma(a) = Gamma(a + 1) U^(1/a)
    logs = np.log(rng.standard_gamma(1 + 1 / p, like.shape)) / p + np.log1p(-rng.random(like.shape))
    magnitudes = np.exp(logs - logs.max()).astype(np.float32)
    return backends.from_numpy(like, magnitudes).astype(like.dtype) * _signs(like)


def _radius(x0: ep.Tensor, epsilon: Any) -> ep.Tensor:
    """Sample ``epsilon U^(1/n)``, shape (N,)."""
    u = ep.uniform(backends.at_least_float32(x0), (len(x0),), low=0.0, high=1.0)
    radius: ep.Tensor = u ** (1 / math.prod(x0.shape[1:])) * epsilon
    return radius


def _uniform_in_box(model: Model, x0: ep.Tensor, epsilon: Any) -> ep.Tensor:
    """Sample each element uniformly, at most epsilon away and inside the bounds."""
    x = backends.at_least_float32(x0)
    size = epsilon if isinstance(epsilon, float) else atleast_kd(epsilon, x.ndim)
    low = ep.maximum(x - size, ep.ones_like(x) * model.bounds[0])
    high = ep.minimum(x + size, ep.ones_like(x) * model.bounds[1])
    u = (sample(x, "uniform") + 1) / 2
    return (low + u * (high - low)).astype(x0.dtype)


ClipAwareGaussianNoise = variant(
    ClipAwareNoise,
    "ClipAwareGaussianNoise",
    """Gaussian noise, rescaled so that ``||clip(x + eta noise) - x||_p = epsilon``.

    Args:
        p: Order of the norm, in (0, inf].
        repeats: Number of noise samples to try; the first that fools the model is kept.
        inside: Take a random radius up to epsilon, as ``ClipAwareNoise`` says.

    Source: Rauber & Bethge 2020, arXiv 2007.07677.
    """,
    fixed={"distribution": "gaussian"},
)

ClipAwareUniformNoise = variant(
    ClipAwareNoise,
    "ClipAwareUniformNoise",
    """Noise uniform in [-1, 1], rescaled so that ``||clip(x + eta noise) - x||_p = epsilon``.

    Args:
        p: Order of the norm, in (0, inf].
        repeats: Number of noise samples to try; the first that fools the model is kept.
        inside: Take a random radius up to epsilon, as ``ClipAwareNoise`` says.

    Source: Rauber & Bethge 2020, arXiv 2007.07677.
    """,
    fixed={"distribution": "uniform"},
)

ClipAwareLaplaceNoise = variant(
    ClipAwareNoise,
    "ClipAwareLaplaceNoise",
    """Laplace noise, rescaled so that ``||clip(x + eta noise) - x||_p = epsilon``.

    Args:
        p: Order of the norm, in (0, inf].
        repeats: Number of noise samples to try; the first that fools the model is kept.
        inside: Take a random radius up to epsilon, as ``ClipAwareNoise`` says.

    Source: Rauber & Bethge 2020, arXiv 2007.07677.
    """,
    fixed={"distribution": "laplace"},
)

ClipAwareSaltAndPepperNoise = variant(
    ClipAwareNoise,
    "ClipAwareSaltAndPepperNoise",
    """Random elements moved to a random bound, as many as give the p-norm epsilon.

    Args:
        p: Order of the norm, in (0, inf]; for p = inf all elements move by epsilon.
        repeats: Number of noise samples to try; the first that fools the model is kept.
        inside: Take a random radius up to epsilon, as ``ClipAwareNoise`` says.

    Source: Rauber & Bethge 2020, arXiv 2007.07677.
    """,
    fixed={"distribution": "salt_and_pepper"},
)
