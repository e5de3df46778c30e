"""Tensors in main memory, compiled by numba: passes over rows, no sort."""

from __future__ import annotations

import importlib.util
from typing import Any

import eagerpy as ep
import numpy as np

from ...core import backends, checks
from ...core.norms import WIDE_BELOW
from ...core.problem import Problem
from ..base import LARGEST, Engine, as_tensor, load

# checked once: whether it can be imported does not change while the program runs
_HAS_NUMBA = importlib.util.find_spec("numba") is not None
_WRITABLE = ("numpy", "torch")  # whose memory can be written to


class NumbaCPU(Engine):
    """The fastest on a CPU, for every framework whose values can be read."""

    name = "numba_cpu"
    description = "a tensor in main memory, compiled by numba"

    def supports(self, tensor: ep.Tensor, *, traced: bool) -> str | None:
        """Return None for tensors in main memory whose values can be read."""
        if traced:
            return "the values are traced"
        if not backends.on_cpu(tensor):
            return "it is not in main memory"
        if not _HAS_NUMBA:
            return "numba is not installed"
        return load(".arrays", __name__)[1]

    def solve(self, problem: Problem) -> ep.Tensor | None:
        """Return eta; None where a row has bad values."""
        eta, flags = self._arrays.solve(*problem.arrays, tolerance=problem.tolerance)
        if np.count_nonzero(flags):
            return None
        if problem.dtype_name in LARGEST:
            eta = np.minimum(eta, LARGEST[problem.dtype_name])
        return as_tensor(problem, eta[:, None])

    def perturb(self, problem: Problem, *, in_place: bool) -> tuple[ep.Tensor, ep.Tensor] | None:
        """Return the points and eta, written in the pass that finds it."""
        if in_place:
            problem.reject_bad_values()
        arrays = problem.arrays
        out = arrays[0] if in_place else None
        points, roots, flags = self._arrays.perturb(*arrays, tolerance=problem.tolerance, out=out)
        if np.count_nonzero(flags):
            if in_place:
                problem.reject_flagged(_word(flags))
            return None
        written = problem.x if in_place else as_tensor(problem, points)
        return written, as_tensor(problem, roots[:, None])

    def steepest_step(
        self, problem: Problem, counts: Any, *, nonfinite_as_zero: bool, overwrite: bool
    ) -> ep.Tensor | None:
        """Return the point, but for p that float32 does not resolve."""
        if 1 < problem.p < WIDE_BELOW:
            return None
        arrays = problem.arrays
        overwrite = overwrite and _is_writable(problem, arrays[1 if counts is None else 0])
        points, flags = self._arrays.steepest(
            *arrays, tolerance=problem.tolerance, counts=counts, lenient=nonfinite_as_zero,
            overwrite=overwrite,
        )  # fmt: skip
        if np.count_nonzero(flags):
            if overwrite:
                problem.reject_flagged(_word(flags))
            return None
        return as_tensor(problem, points)

    def project(
        self,
        problem: Problem,
        *,
        sphere: bool,
        momentum: tuple[float, ep.Tensor, ep.Tensor] | None,
        twice: bool,
        overwrite: bool,
        direction: ep.Tensor | None,
    ) -> tuple[ep.Tensor, Any, Any] | None:
        """Return the points, thresholds and what is missing to eps."""
        x0, x, eps, p, lower, upper = problem.arrays
        overwrite = overwrite and _is_writable(problem, x)
        if not overwrite:
            x = x.copy()
        mix = None
        if momentum is not None:
            weight, *points = momentum
            now, before = (problem.rows(backends.at_least_float32(t)) for t in points)
            mix = weight, now, before
        points, threshold, missing, flags = self._arrays.project(
            x0, x, eps, p, lower, upper, tolerance=problem.tolerance, sphere=sphere, momentum=mix,
            twice=twice,
        )  # fmt: skip
        if np.count_nonzero(flags):
            if overwrite:
                problem.reject_flagged(_word(flags))
            return None
        return as_tensor(problem, points), threshold, missing

    def accumulate(
        self, total: ep.Tensor | None, decay: float, gradient: ep.Tensor, least: float
    ) -> ep.Tensor | None:
        """Return the sum, where memory can be written to and the dtype is computed in."""
        if (
            backends.framework(gradient) not in _WRITABLE
            or backends.dtype_name(gradient) not in ("float32", "float64")
            or 0 in gradient.shape
        ):
            return None
        grad = backends.to_numpy(gradient)
        if total is None:
            total = backends.from_numpy(gradient, np.zeros(grad.shape, grad.dtype))
        rows = (len(grad), -1)
        self._arrays.accumulate(
            backends.to_numpy(total).reshape(rows), decay, grad.reshape(rows), least
        )
        return total

    def vjp(
        self, problem: Problem, eta: ep.Tensor, cotangent: ep.Tensor, *, of_points: bool
    ) -> tuple[ep.Tensor, ep.Tensor, ep.Tensor] | None:
        """Return the products in closed form."""
        x, delta, eps, p, lower, upper = problem.arrays
        root, vector = backends.to_numpy(eta)[:, 0], backends.to_numpy(cotangent)
        if not of_points:
            vector = vector[:, 0]
        to_x, to_delta, to_eps = self._arrays.gradients(
            x, delta, eps, root, p, lower, upper, vector
        )
        return (
            as_tensor(problem, to_x),
            as_tensor(problem, to_delta),
            as_tensor(problem, to_eps[:, None]),
        )

    @property
    def _arrays(self) -> Any:
        return load(".arrays", __name__)[0]


def _is_writable(problem: Problem, array: Any) -> bool:
    """Return whether an array of a problem may be written to."""
    return backends.framework(problem.shaped_x) in _WRITABLE and bool(array.flags.writeable)


def _word(flags: Any) -> int:
    """Return the flags of all rows as those of ``checks``."""
    found = int(np.bitwise_or.reduce(flags))
    outside = found & load(".arrays", __name__)[0].Flags.OUT_OF_BOUNDS
    bits = checks.OUT_OF_BOUNDS if outside else 0
    return bits | (checks.NOT_FINITE if found != outside else 0)
