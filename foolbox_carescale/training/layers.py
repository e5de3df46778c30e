"""Modules whose output is exactly epsilon away from their input, for PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..operators.api import perturb
from ..operators.validation import prepare


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
        self.p, self._eps, bounds = checked_settings(p, eps, bounds)
        if learn_eps and self._eps == 0:
            raise ValueError("eps: a learned epsilon must begin above 0, got 0")
        self.log_eps = torch.nn.Parameter(torch.tensor(self._eps).log()) if learn_eps else None
        for name, bound in zip(("lower", "upper"), bounds, strict=True):
            if isinstance(bound, torch.Tensor):
                self.register_buffer(name, bound, persistent=False)
            else:
                setattr(self, name, bound)

    @property
    def eps(self) -> Any:
        """Epsilon: a number, or where it is learned a tensor of shape () that has a gradient."""
        return self._eps if self.log_eps is None else self.log_eps.exp()

    @property
    def bounds(self) -> tuple[Any, Any]:
        """Lower and upper bound; tensors lie where the module lies."""
        return self.lower, self.upper

    def forward(self, x: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        """Return the perturbed points.

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
        places: list[tuple[str, Any]] = [("delta", delta), ("eps", self.log_eps)]
        places += [("bounds (lower)", self.lower), ("bounds (upper)", self.upper)]
        for name, tensor in places:
            if isinstance(tensor, torch.Tensor) and tensor.device != x.device:
                raise ValueError(
                    f"{name}: lies on {tensor.device}, x on {x.device}; move "
                    + ("delta with .to(x.device)" if name == "delta" else "the module to x.device")
                )
        return perturb(x, delta, self.eps, p=self.p, bounds=self.bounds)

    def extra_repr(self) -> str:
        """Return what ``repr`` shows."""
        if self.log_eps is None:
            return f"eps={self._eps:g}, p={self.p:g}"
        return f"eps={self.log_eps.detach().exp().item():g}, learned, p={self.p:g}"


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
        """Return the perturbed points.

        Args:
            x: Points inside the bounds, shape (N, *shape).

        Returns:
            Type of x, each sample exactly eps away.

        Raises:
            ValueError: samples of another shape, x outside the bounds or on another device.
        """
        if not isinstance(x, torch.Tensor):
            raise ValueError(
                f"x: expected a PyTorch tensor, got {type(x).__name__}; "
                "foolbox_carescale.training.functional.universal takes JAX's and TensorFlow's"
            )
        if tuple(x.shape[1:]) != tuple(self.delta.shape):
            raise ValueError(
                f"x: expected samples of shape {tuple(self.delta.shape)}, got {tuple(x.shape[1:])};"
                " make a UniversalPerturbation of that shape"
            )
        points: torch.Tensor = self.perturbation(x, self.delta.expand_as(x))
        return points


def checked_settings(p: Any, eps: Any, bounds: Any) -> tuple[float, float, tuple[Any, Any]]:
    """P, one epsilon and the bounds, or the ValueError that the operator would raise later."""
    try:
        number = float(eps)
    except (TypeError, ValueError):
        raise ValueError(
            f"eps: expected one number, got {eps!r}; foolbox_carescale.perturb takes one per sample"
        ) from None
    pair = isinstance(bounds, (tuple, list))
    have_tensors = pair and any(isinstance(bound, torch.Tensor) for bound in bounds)
    point = torch.zeros(1, 1)
    # tensors are checked against the shape of x, when there is one
    prepare(point, point, number, p, (0.0, 1.0) if have_tensors else bounds)
    lower, upper = (b.detach() if isinstance(b, torch.Tensor) else float(b) for b in bounds)
    return float(p), number, (lower, upper)
