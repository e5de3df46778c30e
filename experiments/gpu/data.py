"""Inputs that are hard, and what is true of them, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

Tensor = torch.Tensor

CASES = ("uniform", "cauchy", "geometric", "on the bounds", "mostly zero", "tiny", "huge")
EASY = ("uniform", "cauchy", "geometric")
# of the reachable norm: little, typical, most, all but the last digits, too much
FRACTIONS = (0.001, 0.25, 0.9, 0.999999, 1.5)
# beyond this, random numbers are drawn in float32: float64 would double the time
LARGE = 2**22


def case(
    name: str, shape: tuple[int, ...], device: Any, dtype: Any = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return points in [0, 1] and directions of a kind."""
    generator = torch.Generator(device).manual_seed(seed)
    drawn = torch.float64 if math.prod(shape) < LARGE else torch.float32
    made: dict[str, Any] = {"generator": generator, "device": device, "dtype": drawn}
    x, delta = torch.rand(shape, **made), torch.randn(shape, **made)
    if name == "cauchy":
        delta = torch.tan(math.pi * (torch.rand(shape, **made) - 0.5)).clamp(-1e30, 1e30)
    elif name == "geometric":
        delta = delta.sign() * 10 ** (-30 * torch.rand(shape, **made))
    elif name == "on the bounds":
        x = torch.where(torch.rand(shape, **made) < 0.6, (delta > 0).to(x.dtype), x)
    elif name == "mostly zero":
        delta = delta * (torch.rand(shape, **made) < 0.1)
        delta[0] = 0
    elif name != "uniform":
        delta = delta * {"tiny": 1e-30, "huge": 1e30}[name]
    return x.to(dtype), delta.to(dtype)


def room(x: Tensor, delta: Tensor) -> Tensor:
    """Return the distance to the bound that delta points at, in float64."""
    x = x.double()
    return torch.where(delta > 0, 1 - x, torch.where(delta < 0, x, 0.0)).clamp(min=0)


def norm(a: Tensor, p: float) -> Tensor:
    """Return the p-norm of each row in float64, without over- or underflow."""
    a = a.double().abs().flatten(1)
    top = a.amax(1, keepdim=True)
    if p == math.inf:
        return top[:, 0]
    unit = torch.where(top > 0, top, 1.0)
    return (unit * ((a / unit) ** p).sum(1, keepdim=True) ** (1 / p))[:, 0]


def measured_norm(x: Tensor, delta: Tensor, eta: Tensor, p: float) -> Tensor:
    """Return the norm of ``eta delta`` after the clip."""
    eta = eta.double().reshape(-1, *[1] * (x.ndim - 1))
    return norm(torch.minimum(eta * delta.double().abs(), room(x, delta)), p)


def targets(x: Tensor, delta: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Return a target norm per row, as x's dtype holds it, and the norm that comes of it."""
    reach = norm(room(x, delta), p)
    part = torch.tensor(FRACTIONS, device=x.device, dtype=torch.float64)
    part = part.repeat(len(x) // len(FRACTIONS) + 1)[: len(x)]
    eps = (part * reach).to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    return eps, torch.minimum(eps.double(), reach)


def quarter(x: Tensor, delta: Tensor, p: float) -> float:
    """Return a quarter of the first row's reachable norm."""
    return 0.25 * norm(room(x[:1], delta[:1]), p).item()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the largest relative error, absolute where 0 is expected."""
    size = torch.where(expected > 0, expected, 1.0)
    return float(((found - expected).abs() / size).max())


def wide(t: Tensor) -> Any:
    """Return a NumPy array in float64, one row per sample."""
    return np.asarray(t.detach().double().cpu().flatten(1))
