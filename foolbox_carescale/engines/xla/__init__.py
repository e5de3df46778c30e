"""JAX and TensorFlow tensors that are traced or not in main memory, compiled by XLA."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

import eagerpy as ep

from ...core import backends
from ...core.problem import Problem
from ..base import LARGEST, Engine


class _XLA(Engine):
    _framework: ClassVar[str]

    def supports(self, tensor: ep.Tensor, *, traced: bool) -> str | None:
        """Return None for tensors of the framework."""
        if backends.framework(tensor) != self._framework:
            return f"it is not a {self._framework} tensor"
        if not traced and backends.on_cpu(tensor):
            return "its values can be read, in main memory"
        return None

    def solve(self, problem: Problem) -> ep.Tensor:
        """Return eta, compiled together with what is around it."""
        problem.reject_bad_values()
        x = problem.x
        lower, upper = (
            b if isinstance(b, float) else backends.detach(b).raw
            for b in (problem.lower, problem.upper)
        )
        eps = backends.detach(problem.eps_tensor(x)).raw
        x, delta = backends.detach(x).raw, backends.detach(problem.delta).raw
        limit = LARGEST.get(problem.dtype_name)
        eta: ep.Tensor = ep.astensor(
            self._ops().solve(x, delta, eps, problem.p, lower, upper, largest_eta=limit)
        )
        return eta

    def _ops(self) -> Any:
        return importlib.import_module(f".{self._framework}_ops", __name__)


class JaxXLA(_XLA):
    """JAX under transformations and on accelerators."""

    name, _framework = "xla_jax", "jax"
    description = "a JAX tensor that is traced or not in main memory, compiled by XLA"


class TensorFlowXLA(_XLA):
    """TensorFlow in graphs and on accelerators."""

    name, _framework = "xla_tensorflow", "tensorflow"
    description = "a TensorFlow tensor in a graph or not in main memory, compiled by XLA"
