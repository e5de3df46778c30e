"""PyTorch tensors on a GPU, compiled by Triton: passes over rows, no sort, no wait in between."""

from __future__ import annotations

import importlib.util
from typing import Any

import eagerpy as ep
import numpy as np

from ...core import backends, checks
from ...core.problem import Problem
from ..base import LARGEST, Engine, Starting, load

# checked once: whether it can be imported does not change while the program runs
_HAS_TRITON = importlib.util.find_spec("triton") is not None


class TritonCUDA(Engine):
    """The fastest for PyTorch on an NVIDIA GPU."""

    name = "triton_cuda"
    description = "a torch tensor on a GPU, compiled by Triton"

    def __init__(self) -> None:
        self._starting = Starting(self.name)

    def supports(self, tensor: ep.Tensor, *, traced: bool) -> str | None:
        """Return None for PyTorch tensors on a GPU whose values can be read."""
        if backends.framework(tensor) != "torch" or tensor.raw.device.type != "cuda":
            return "it is not a torch tensor on a GPU"
        if traced:
            return "the values are traced"
        if not _HAS_TRITON:
            return "Triton is not installed"
        return self._starting.failure or load(".launch", __name__)[1]

    def solve(self, problem: Problem) -> ep.Tensor | None:
        """Return eta; None where a row has bad values."""
        with self._starting.guard():
            roots, bad = self._launch.solve(*_arguments(problem))
            if not checks.flagged(bad, problem.names):  # the only time that the host waits
                roots = roots.clamp(max=LARGEST.get(problem.dtype_name, np.inf))
                eta: ep.Tensor = ep.astensor(roots[:, None].to(problem.x.dtype))
                return eta
        return None

    def perturb(self, problem: Problem, *, in_place: bool) -> tuple[ep.Tensor, ep.Tensor] | None:
        """Return the points, in memory of their own, and eta."""
        with self._starting.guard():
            points, eta, bad = self._launch.perturb(*_arguments(problem))
            if not checks.flagged(bad, problem.names):
                return ep.astensor(points), ep.astensor(eta[:, None].to(problem.x.dtype))
        return None

    @property
    def _launch(self) -> Any:
        return load(".launch", __name__)[0]


def _arguments(problem: Problem) -> tuple[Any, ...]:
    lower, upper = (b if isinstance(b, float) else b.raw for b in (problem.lower, problem.upper))
    eps = backends.detach(problem.eps_tensor(problem.x)).raw[:, 0]
    x, delta = backends.detach(problem.x).raw, backends.detach(problem.delta).raw
    return x, delta, eps, problem.p, lower, upper, problem.tolerance
