"""Modules whose output is exactly epsilon away from their input, for PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..arguments import checked_order
from ..rescale import perturb


class NormalizedPerturbation(torch.nn.Module):
    """``clip(x + eta delta)`` with the eta for which ``||clip(x + eta delta) - x||_p = eps``.

    Differentiable in x and delta, and in epsilon where that is learned. A learned epsilon is
    stored as ``log_eps``: it stays above 0 whatever an optimiser does, and a step changes it by
    a part of itself, so that one learning rate serves 0.01 (Linf) as well as 40 (L1).

    Args:
        eps: Norm of the perturbation, in the units of x; more than 0 where it is learned.
        p: Order of the norm, in (0, inf].
        bounds: Lower and upper bound, numbers or tensors that broadcast to x, which move with
            the module.
        learn_eps: Whether epsilon is a parameter.

    Raises:
        ValueError: eps negative, not finite or not one number; p outside (0, inf].

    Source: Rauber & Bethge 2020, arXiv 2007.07677.
    """

    def __init__(
        self,
        eps: float,
        p: float = 2.0,
        bounds: Any = (0.0, 1.0),
        *,
        learn_eps: bool = False,
    ) -> None:
        super().__init__()
        self.p = checked_order(p)
        number = checked_number(eps)
        if learn_eps and number == 0:
            raise ValueError("eps: a learned epsilon must begin above 0; 0.01 of its goal will do")
        self._eps = number
        self.log_eps = torch.nn.Parameter(torch.tensor(math.log(number))) if learn_eps else None
        lower, upper = checked_pair(bounds)
        self._numbers = (lower, upper)
        for name, bound in (("lower", lower), ("upper", upper)):
            tensor = bound if isinstance(bound, torch.Tensor) else None
            self.register_buffer(name, tensor, persistent=False)

    @property
    def eps(self) -> Any:
        """Epsilon: a number, or where it is learned a tensor of shape () that has a gradient."""
        return self._eps if self.log_eps is None else self.log_eps.exp()

    @property
    def bounds(self) -> tuple[Any, Any]:
        """Lower and upper bound; tensors lie where the module lies."""
        lower, upper = self._buffers["lower"], self._buffers["upper"]
        return (
            self._numbers[0] if lower is None else lower,
            self._numbers[1] if upper is None else upper,
        )

    def forward(self, x: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        """The perturbed points.

        Args:
            x: Points inside the bounds, shape (N, ...).
            delta: Directions, shape and device of x; their length does not matter.

        Returns:
            Points inside the bounds, type of x, exactly eps away (``reachable_norm`` where eps
            is more than that).

        Raises:
            ValueError: delta of another shape or device, x outside the bounds, NaN.
        """
        for name, value in (("delta", delta), ("x", x)):
            if not isinstance(value, torch.Tensor):
                raise ValueError(
                    f"{name}: expected a PyTorch tensor, got {type(value).__name__}; "
                    "foolbox_carescale.perturb takes other frameworks'"
                )
        places = [("delta", delta), ("eps", self.log_eps)]
        places += [(f"bounds ({name})", self._buffers[name]) for name in ("lower", "upper")]
        for name, tensor in places:
            if tensor is not None and tensor.device != x.device:
                raise ValueError(
                    f"{name}: lies on {tensor.device}, x on {x.device}; move "
                    + ("delta with .to(x.device)" if name == "delta" else "the module to x.device")
                )
        return perturb(x, delta, self.eps, p=self.p, bounds=self.bounds)

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        learned = "" if self.log_eps is None else ", learned"
        return f"eps={float(self.eps):g}{learned}, p={self.p:g}"


class UniversalPerturbation(torch.nn.Module):
    """One learned direction for all inputs, at exactly epsilon from each of them.

    ``forward(x)`` is ``NormalizedPerturbation(eps, p, bounds)(x, delta)`` with the same delta
    for every sample; only eta, what one sample's clip takes away, differs. Train it with
    ``torch.optim.SGD([...], maximize=True)`` or on the negative loss. The result does not
    depend on the length of delta: the gradient of what no bound holds is orthogonal to it.

    Args:
        shape: Of one sample, without the batch: (C, H, W).
        eps: Norm of the perturbation of each sample.
        p: Order of the norm, in (0, inf].
        bounds: Lower and upper bound.
        learn_eps: Whether epsilon is a parameter.

    Raises:
        ValueError: as ``NormalizedPerturbation``; a shape without elements.

    Source: Moosavi-Dezfooli et al. 2017, arXiv 1610.08401, for universal perturbations.
    """

    def __init__(
        self,
        shape: Sequence[int],
        eps: float,
        p: float = 2.0,
        bounds: Any = (0.0, 1.0),
        *,
        learn_eps: bool = False,
    ) -> None:
        super().__init__()
        if not math.prod(shape) > 0:
            raise ValueError(f"shape: expected that of one sample, (C, H, W), got {tuple(shape)}")
        self.perturbation = NormalizedPerturbation(eps, p, bounds, learn_eps=learn_eps)
        # of length 1: a learning rate then means the same for every size of image
        start = torch.randn(tuple(shape))
        self.delta = torch.nn.Parameter(start / start.norm())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The perturbed points.

        Args:
            x: Points inside the bounds, shape (N, *shape).

        Returns:
            Type of x, each sample exactly eps away.

        Raises:
            ValueError: samples of another shape, x outside the bounds or on another device.
        """
        if tuple(x.shape[1:]) != tuple(self.delta.shape):
            raise ValueError(
                f"x: expected samples of shape {tuple(self.delta.shape)}, got {tuple(x.shape[1:])};"
                " make a UniversalPerturbation of that shape"
            )
        points: torch.Tensor = self.perturbation(x, self.delta.expand_as(x))
        return points


def checked_number(eps: Any) -> float:
    """Eps as a float >= 0, or a ValueError."""
    try:
        number = float(eps)
    except (TypeError, ValueError):
        raise ValueError(
            f"eps: expected one number, got {eps!r}; foolbox_carescale.perturb takes one per sample"
        ) from None
    if not 0 <= number < math.inf:
        raise ValueError(f"eps: expected a finite number >= 0, got {eps!r}")
    return number


def checked_pair(bounds: Any) -> tuple[Any, Any]:
    """Lower and upper bound as floats or constant tensors, or a ValueError."""
    try:
        lower, upper = bounds
    except (TypeError, ValueError):
        raise ValueError(f"bounds: expected a pair (lower, upper), got {bounds!r}") from None
    both = [b.detach() if isinstance(b, torch.Tensor) else float(b) for b in (lower, upper)]
    if all(isinstance(b, float) for b in both) and not -math.inf < both[0] < both[1] < math.inf:
        raise ValueError(f"bounds: expected finite lower < upper, got ({lower!r}, {upper!r})")
    return both[0], both[1]
