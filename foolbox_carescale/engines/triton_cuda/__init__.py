"""PyTorch tensors on a GPU, compiled by Triton: passes over rows, no sort, no wait in between."""

from __future__ import annotations

import functools
import importlib.util
import sys
from typing import Any

import eagerpy as ep

from ...core import backends, checks
from ...core.problem import Problem
from ..base import Engine, Starting, load, report_unfit

# of a GPU: the oldest that Triton compiles for
LEAST_CAPABILITY = (7, 0)
# Kernels count the elements of a sample in 32 bits; a sum of two places has to fit.
LONGEST = 2**30


class TritonCUDA(Engine):
    """The fastest for PyTorch on an NVIDIA GPU."""

    name = "triton_cuda"
    description = "a torch tensor on a GPU, compiled by Triton"

    def __init__(self) -> None:
        self._starting = Starting(self.name)

    def supports(self, tensor: ep.Tensor, *, traced: bool) -> str | None:
        """Return None for PyTorch tensors on a GPU whose values can be read."""
        raw = backends.raw_of(tensor)
        if backends.framework(tensor) != "torch" or raw.device.type == "cpu":
            return "it is not a torch tensor on a GPU"
        if traced:
            return "the values are traced"
        reason = self._starting.failure or _unfit(raw.device) or load(".launch", __name__)[1]
        if reason is None and raw.numel() > LONGEST and raw[0].numel() > LONGEST:
            return f"a sample has more than {LONGEST} elements"
        return reason

    # Flags are asked for, and the host waits for them, only where they are looked at.

    def solve(self, problem: Problem) -> ep.Tensor | None:
        """Return eta; None where a row has bad values."""
        found: Any = None
        with self._starting:
            found = self._launch.solve(*_arguments(problem), report=not checks.are_skipped())
        if found is None or checks.flagged(found[1], problem.names):
            return None
        return ep.PyTorchTensor(found[0])

    def perturb(self, problem: Problem, *, in_place: bool) -> tuple[ep.Tensor, ep.Tensor] | None:
        """Return the points and eta; rows with bad values stay as they are."""
        found: Any = None
        with self._starting:
            arguments = _arguments(problem)
            out = arguments[0] if in_place else None
            found = self._launch.perturb(*arguments, out=out, report=not checks.are_skipped())
        if found is None:
            return None
        points, eta, flags = found
        if checks.flagged(flags, problem.names):
            if in_place:  # the other rows have been written
                problem.reject_flagged(int(flags))
            return None
        return problem.x if in_place else ep.PyTorchTensor(points), ep.PyTorchTensor(eta)

    def steepest_step(
        self, problem: Problem, counts: Any, *, nonfinite_as_zero: bool, overwrite: bool
    ) -> ep.Tensor | None:
        """Return the point, in memory of its own; None where a row has bad values."""
        found: Any = None
        with self._starting:
            found = self._moves.steepest_step(
                *_arguments(problem),
                counts=counts,
                lenient=nonfinite_as_zero,
                report=not checks.are_skipped(),
            )
        if found is None or checks.flagged(found[1], problem.names):
            return None
        return ep.PyTorchTensor(found[0])

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
        """Return the points and thresholds; nothing is missing to eps.

        The points take memory of their own; if `twice`, that of those before, where it may be.
        """
        mix = None
        if momentum is not None:
            weight, now, before = momentum
            mix = weight, now.raw, before.raw
        options: dict[str, Any] = {
            "sphere": sphere,
            "direction": None if direction is None else direction.raw,
            "report": not checks.are_skipped(),
        }
        found: Any = None
        with self._starting:
            x0, points, *rest = _arguments(problem)
            if twice:
                given = points
                points, *_, options["word"] = self._moves.project(x0, given, *rest, **options)
                kept = given.dtype != points.dtype or not given.is_contiguous() or given.is_neg()
                if overwrite and not kept:  # nobody reads them any more
                    options["out"] = given
            found = self._moves.project(x0, points, *rest, momentum=mix, **options)
        if found is None:
            return None
        if checks.flagged(found[3], problem.names):
            if "out" in options:
                problem.reject_flagged(int(found[3]))
            return None
        points, threshold, missing, _ = found
        return ep.PyTorchTensor(points), threshold, missing if direction is None else None

    def vjp(
        self, problem: Problem, eta: ep.Tensor, cotangent: ep.Tensor, *, of_points: bool
    ) -> tuple[ep.Tensor, ep.Tensor, ep.Tensor] | None:
        """Return the products in closed form."""
        with self._starting:
            found = self._moves.products(
                *_arguments(problem)[:-1], eta.raw, cotangent.raw, of_points=of_points
            )
            to_x, to_delta, to_eps = map(ep.PyTorchTensor, found)
            return to_x, to_delta, to_eps
        return None

    def accumulate(
        self, total: ep.Tensor | None, decay: float, gradient: ep.Tensor, least: float
    ) -> ep.Tensor | None:
        """Return the sum, in memory of the total where that is contiguous."""
        if 0 in gradient.shape:
            return None
        with self._starting:
            before = None if total is None else total.raw
            found = self._moves.accumulate(before, decay, gradient.raw, least)
            return ep.astensor(found.reshape(gradient.shape))  # type: ignore[no-any-return]
        return None

    def reachable_norm(self, problem: Problem) -> ep.Tensor | None:
        """Return the norm; None where a row has bad values."""
        found: Any = None
        with self._starting:
            x, delta, _, *rest = _arguments(problem)
            found = self._moves.reachable_norm(x, delta, *rest, report=not checks.are_skipped())
        if found is None or checks.flagged(found[1], problem.names):
            return None
        return ep.PyTorchTensor(found[0])

    @property
    def _launch(self) -> Any:
        return load(".launch", __name__)[0]

    @property
    def _moves(self) -> Any:
        return load(".move_launch", __name__)[0]


@functools.cache
def _unfit(device: Any) -> str | None:
    """Return why nothing can be compiled for a device, which is reported once."""
    torch = sys.modules["torch"]
    reason = None
    if device.type != "cuda":
        reason = f"it compiles for NVIDIA's GPUs, not for {device.type}"
    elif torch.version.hip is not None:
        reason = "it compiles for NVIDIA's GPUs, not for AMD's"
    elif torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        found = ".".join(map(str, torch.cuda.get_device_capability(device)))
        reason = f"Triton needs a GPU of capability 7.0, {device} has {found}"
    elif importlib.util.find_spec("triton") is None:
        reason = "Triton is not installed"
    if reason is not None:
        report_unfit(TritonCUDA.name, reason)
    return reason


def _arguments(problem: Problem) -> tuple[Any, ...]:
    """Return what kernels take: half precision as it is, numbers as numbers."""
    eps, lower, upper = problem.eps, problem.lower, problem.upper
    return (
        backends.raw_of(problem.given_x),
        backends.raw_of(problem.given_delta),
        eps if isinstance(eps, float) else eps.raw,
        problem.p,
        lower if isinstance(lower, float) else lower.raw,
        upper if isinstance(upper, float) else upper.raw,
        problem.tolerance,
    )
