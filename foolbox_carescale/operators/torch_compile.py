"""torch.compile: each public operator is one node of Dynamo's graph, and the root one of the code.

Dynamo cannot look into EagerPy's tensors. As a node in its graph an operator is traced one level
below, by AOTAutograd, where EagerPy is plain Python. There the root, which has no derivative of
its own, is a node once more: at run time it is found by the engine that serves the tensors, and
the compiler has only the closed form to compile.
Imported while torch compiles, never before.
"""

from __future__ import annotations

import functools
from typing import Any

import eagerpy as ep
import torch

from .. import engines
from ..core.problem import Problem
from .opaque import OPERATORS


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """Return what the operator of this name does, unseen by Dynamo."""
    return OPERATORS[name](*args, **kwargs)


def solve(problem: Problem) -> ep.Tensor:
    """Return ``engines.solve`` as a node."""
    x = problem.x
    eps = problem.eps_tensor(x).raw.detach()
    lower, upper = (None if isinstance(b, float) else b.raw for b in (problem.lower, problem.upper))
    low, high = (b if isinstance(b, float) else 0.0 for b in (problem.lower, problem.upper))
    eta: ep.Tensor = ep.astensor(
        _solve(
            x.raw.detach(), problem.delta.raw.detach(), eps, lower, upper, problem.p, low, high,
            problem.tolerance, problem.dtype_name,
        )
    )  # fmt: skip
    return eta


# The engine reads the device to check values: the CUDA graphs of mode="reduce-overhead" are to stop
# here. Where PyTorch has no such tag, the graph takes the node in, and nothing is checked.
_custom_op: Any = torch.library.custom_op
if hasattr(torch.Tag, "cudagraph_unsafe"):
    _custom_op = functools.partial(_custom_op, tags=(torch.Tag.cudagraph_unsafe,))


@_custom_op("foolbox_carescale::solve", mutates_args=())  # type: ignore[untyped-decorator]
def _solve(
    x: torch.Tensor,
    delta: torch.Tensor,
    eps: torch.Tensor,
    lower: torch.Tensor | None,
    upper: torch.Tensor | None,
    p: float,
    low: float,
    high: float,
    tolerance: float,
    dtype_name: str,
) -> torch.Tensor:
    points = ep.astensor(x)
    problem = Problem(
        given_x=points,
        given_delta=ep.astensor(delta),
        eps=ep.astensor(eps),
        p=p,
        lower=low if lower is None else ep.astensor(lower),
        upper=high if upper is None else ep.astensor(upper),
        tolerance=tolerance,
        concrete=True,
        shape=tuple(x.shape),
        dtype=points.dtype,
        dtype_name=dtype_name,
        unwrap=lambda t: t.raw,
        names=("x", "delta"),
    )
    root: torch.Tensor = engines.solve(problem).raw
    return root


@_solve.register_fake  # type: ignore[untyped-decorator]
def _(x: torch.Tensor, *_: object) -> torch.Tensor:
    return x.new_empty((x.shape[0], 1))
