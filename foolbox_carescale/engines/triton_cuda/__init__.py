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

    def steepest_step(
        self, problem: Problem, counts: Any, *, nonfinite_as_zero: bool
    ) -> ep.Tensor | None:
        """Return the point; None where a row has bad values."""
        with self._starting.guard():
            points, bad = self._moves.steepest_step(
                *_numbers(problem), counts=counts, lenient=nonfinite_as_zero
            )
            if not checks.flagged(bad, problem.names):
                return ep.astensor(points)  # type: ignore[no-any-return]
        return None

    def project(
        self,
        problem: Problem,
        *,
        sphere: bool,
        momentum: tuple[float, ep.Tensor, ep.Tensor] | None,
        overwrite: bool,
        direction: ep.Tensor | None,
    ) -> tuple[ep.Tensor, Any, Any] | None:
        """Return the points, in memory of their own, and thresholds; nothing is missing to eps."""
        mix = None
        if momentum is not None:
            weight, now, before = momentum
            mix = weight, _rows(now), _rows(before)
        along = None if direction is None else _rows(direction)
        with self._starting.guard():
            points, threshold, missing, bad = self._moves.project(
                *_numbers(problem), sphere=sphere, momentum=mix, direction=along
            )
            if not checks.flagged(bad, problem.names):
                return ep.astensor(points), threshold, missing if direction is None else None
        return None

    def vjp(
        self, problem: Problem, eta: ep.Tensor, cotangent: ep.Tensor, *, of_points: bool
    ) -> tuple[ep.Tensor, ep.Tensor, ep.Tensor] | None:
        """Return the products in closed form."""
        with self._starting.guard():
            to_x, to_delta, to_eps = self._moves.products(
                *_numbers(problem)[:-1], eta.raw[:, 0], _rows(cotangent), of_points=of_points
            )
            return ep.astensor(to_x), ep.astensor(to_delta), ep.astensor(to_eps[:, None])
        return None

    def accumulate(
        self, total: ep.Tensor | None, decay: float, gradient: ep.Tensor, least: float
    ) -> ep.Tensor | None:
        """Return the sum, in memory of the total where that is contiguous."""
        if 0 in gradient.shape:
            return None
        with self._starting.guard():
            before = None if total is None else _rows(total)
            found = self._moves.accumulate(before, decay, _rows(gradient), least)
            return ep.astensor(found.reshape(gradient.shape))  # type: ignore[no-any-return]
        return None

    def reachable_norm(self, problem: Problem) -> ep.Tensor | None:
        """Return the norm; None where a row has bad values."""
        with self._starting.guard():
            x, delta, _, *rest = _numbers(problem)
            reach, bad = self._moves.reachable_norm(x, delta, *rest)
            if not checks.flagged(bad, problem.names):
                return ep.astensor(reach[:, None])  # type: ignore[no-any-return]
        return None

    @property
    def _launch(self) -> Any:
        return load(".launch", __name__)[0]

    @property
    def _moves(self) -> Any:
        return load(".move_launch", __name__)[0]


def _rows(t: ep.Tensor) -> Any:
    raw = backends.detach(t).raw
    return raw if raw.ndim == 2 else raw.reshape(raw.shape[0], -1)


def _numbers(problem: Problem) -> tuple[Any, ...]:
    """Return what the moves take: eps and bounds as numbers where they are."""
    eps, lower, upper = (
        a if isinstance(a, float) else backends.detach(a).raw
        for a in (problem.eps, problem.lower, problem.upper)
    )
    eps = eps if isinstance(eps, float) else eps[:, 0]
    x, delta = _rows(problem.x), _rows(problem.delta)
    return x, delta, eps, problem.p, lower, upper, problem.tolerance


def _arguments(problem: Problem) -> tuple[Any, ...]:
    lower, upper = (b if isinstance(b, float) else b.raw for b in (problem.lower, problem.upper))
    eps = backends.detach(problem.eps_tensor(problem.x)).raw[:, 0]
    x, delta = backends.detach(problem.x).raw, backends.detach(problem.delta).raw
    return x, delta, eps, problem.p, lower, upper, problem.tolerance
