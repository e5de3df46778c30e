"""Root finders for the rescaling factor, without gradient: which one answers, and why."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import eagerpy as ep
import numpy as np

from ..core import backends
from . import eager as generic

if TYPE_CHECKING:
    from ..core.problem import Problem

# checked once: whether they can be imported does not change while the program runs
_HAS_NUMBA = importlib.util.find_spec("numba") is not None

_HAS_TRITON = importlib.util.find_spec("triton") is not None

# |g|^(1/(p-1)) of gradients that differ by a factor of 1e7, what float32 resolves, underflows
# there in float32
WIDE_BELOW = 1.2

# The largest number of the dtypes that the engines themselves do not compute in.
_LARGEST = {"float16": 65504.0, "bfloat16": 3.38e38}


def explain(tensor: Any) -> str:
    """Which engine serves a tensor, and why.

    Args:
        tensor: As for ``clipping_aware_rescaling``.

    Returns:
        One line: the engine's name, a colon, the reason.
    """
    t = backends.as_eagerpy(tensor, "tensor")
    return ": ".join(_choose(t, traced=backends.is_traced(t)))


def solve(problem: Problem) -> ep.Tensor:
    """Eta, shape (N, 1), in the dtype of ``problem.x``; bad values are reported by ValueError."""
    engine, _ = _choose(problem.shaped_x, traced=not problem.concrete)
    if engine == "cpu":
        from . import numba_cpu as cpu

        eta, flags = cpu.solve(*problem.arrays, tolerance=problem.tolerance)
        if not np.count_nonzero(flags):
            if problem.dtype_name in _LARGEST:
                eta = np.minimum(eta, _LARGEST[problem.dtype_name])
            return _tensor(problem, eta[:, None])
    if engine == "cuda":
        from . import triton_cuda as cuda

        roots, bad = cuda.solve(*_cuda_arguments(problem))
        if not bad.any().item():  # the only time that the host waits
            roots = roots.clamp(max=_LARGEST.get(problem.dtype_name, np.inf))
            found: ep.Tensor = ep.astensor(roots[:, None].to(problem.x.dtype))
            return found
    problem.reject_bad_values()
    return _xla(problem, engine) if engine in ("xla", "graph") else _generic(problem)


def perturb(problem: Problem, *, in_place: bool = False) -> tuple[ep.Tensor, ep.Tensor]:
    """The clipped point ``clip(x + eta delta)``, shape (N, n), in the dtype of ``problem.x``; eta.

    With ``in_place`` the compiled engines write it over ``problem.x``; the others return a
    new tensor. Bad values are found before anything is written.
    """
    engine, _ = _choose(problem.shaped_x, traced=not problem.concrete)
    if in_place:
        problem.reject_bad_values()
    if engine == "cpu":
        from . import numba_cpu as cpu

        arrays = problem.arrays
        out = arrays[0] if in_place else None
        points, roots, flags = cpu.perturb(*arrays, tolerance=problem.tolerance, out=out)
        if not np.count_nonzero(flags):
            return problem.x if in_place else _tensor(problem, points), _tensor(
                problem, roots[:, None]
            )
    if engine == "cuda":
        from . import triton_cuda as cuda

        written, eta, bad = cuda.perturb(*_cuda_arguments(problem))
        if not bad.any().item():
            moved_points: ep.Tensor = ep.astensor(written)
            return moved_points, ep.astensor(eta[:, None].to(problem.x.dtype))
    from ..core.formulas import moved

    root = solve(problem)
    return moved(problem, root), root


def steepest(problem: Problem, counts: Any = None) -> ep.Tensor | None:
    """The point of ``steepest_step``, shape (N, n), or None where no engine has it in one pass.

    Args:
        problem: Its ``delta`` is the gradient.
        counts: For p = 1 the numbers of coordinates to move, shape (N,): the step goes evenly
            along the signs of the largest gradients, in the place of the maximiser.
    """
    engine, _ = _choose(problem.shaped_x, traced=not problem.concrete)
    if engine != "cpu" or 1 < problem.p < WIDE_BELOW:
        return None
    from . import numba_cpu as cpu

    points, flags = cpu.steepest(*problem.arrays, tolerance=problem.tolerance, counts=counts)
    return None if np.count_nonzero(flags) else _tensor(problem, points)


def constrain(
    problem: Problem,
    *,
    sphere: bool = False,
    momentum: tuple[float, ep.Tensor, ep.Tensor] | None = None,
    overwrite: bool = False,
) -> tuple[ep.Tensor, Any, Any] | None:
    """The projection onto ball and box, or None where no engine has it in one pass.

    Args:
        problem: Its ``delta`` are the points to project, its ``x`` the centres.
        sphere: Whether to go on, along the perturbation, to where its norm is eps.
        momentum: (m, now, before): in the place of the points z is projected
            now + (1 - m) (z - now) + m (now - before).
        overwrite: Whether the memory of the points may be written to.

    Returns:
        The points, shape (N, n); for p = 1 the thresholds and what is missing to eps, shape (N,).
    """
    engine, _ = _choose(problem.shaped_x, traced=not problem.concrete)
    if engine != "cpu":
        return None
    from . import numba_cpu as cpu

    x0, x, eps, p, lower, upper = problem.arrays
    if not (overwrite and backends.framework(problem.shaped_x) in ("numpy", "torch")):
        x = x.copy()
    mix = None
    if momentum is not None:
        weight, now, before = momentum
        mix = weight, problem.rows(now), problem.rows(before)
    points, threshold, missing, flags = cpu.constrain(
        x0, x, eps, p, lower, upper, tolerance=problem.tolerance, sphere=sphere, momentum=mix
    )
    return None if np.count_nonzero(flags) else (_tensor(problem, points), threshold, missing)


def accumulate(
    total: ep.Tensor | None, decay: float, gradient: ep.Tensor, least: float
) -> ep.Tensor | None:
    """Sum of gradients: decay * total + g / max(||g||_1, least), g being 0 where not finite.

    None where no engine has it in one pass, else in the memory of the total.

    Args:
        total: What was returned before, or None: all 0.
        decay: Weight of the total.
        gradient: Shape (N, ...).
        least: The norm below which gradients are not scaled to 1.
    """
    ours = backends.framework(gradient) in ("numpy", "torch")  # whose memory can be written to
    engine, _ = _choose(gradient, traced=not ours or backends.is_traced(gradient))
    if engine != "cpu" or backends.dtype_name(gradient) not in ("float32", "float64"):
        return None
    if 0 in gradient.shape:
        return None
    from . import numba_cpu as cpu

    slope = backends.to_numpy(gradient)
    if total is None:
        total = backends.from_numpy(gradient, np.zeros(slope.shape, slope.dtype))
    rows = (len(slope), -1)
    cpu.accumulate(backends.to_numpy(total).reshape(rows), decay, slope.reshape(rows), least)
    return total


def gradients(
    problem: Problem, eta: ep.Tensor, upstream: ep.Tensor, *, of_points: bool
) -> tuple[ep.Tensor, ep.Tensor, ep.Tensor] | None:
    """The vector-Jacobian product of ``solve``, or ``of_points`` of ``perturb``.

    None where no engine has it in closed form.

    Args:
        problem: What was solved.
        eta: Its solution, shape (N, 1).
        upstream: The vector, shape (N, 1), or (N, n) for the points.
        of_points: Of which of the two.

    Returns:
        The products for x and delta, shape (N, n), and for eps, shape (N, 1).
    """
    engine, _ = _choose(
        problem.shaped_x, traced=not problem.concrete or backends.is_traced(upstream)
    )
    if engine != "cpu":
        return None
    from . import numba_cpu as cpu

    x, delta, eps, p, lower, upper = problem.arrays
    root, vector = backends.to_numpy(eta)[:, 0], backends.to_numpy(upstream)
    if not of_points:
        vector = vector[:, 0]
    to_x, to_delta, to_eps = cpu.gradients(x, delta, eps, root, p, lower, upper, vector)
    return (
        _tensor(problem, to_x),
        _tensor(problem, to_delta),
        _tensor(problem, to_eps[:, None]),
    )


def _choose(t: ep.Tensor, *, traced: bool) -> tuple[str, str]:
    kind = backends.framework(t)
    if kind == "jax" and (traced or not backends.on_cpu(t)):
        return "xla", "a JAX tensor that is traced or not in main memory, compiled by XLA"
    if kind == "tensorflow" and (traced or not backends.on_cpu(t)):
        return "graph", "a TensorFlow tensor in a graph or not in main memory, compiled by XLA"
    if not traced and kind == "torch" and t.raw.device.type == "cuda" and _HAS_TRITON:
        return "cuda", "a torch tensor on a GPU, compiled by Triton"
    if traced:
        return "generic", "the values are traced and the sorted closed form traces everywhere"
    if not backends.on_cpu(t):
        return "generic", f"the {kind} tensor is not in main memory"
    if not _HAS_NUMBA:
        return "generic", "numba is not installed"
    return "cpu", f"a {kind} tensor in main memory, compiled by numba"


def _tensor(problem: Problem, array: np.ndarray[Any, Any]) -> ep.Tensor:
    dtype = backends.dtype_name(problem.shaped_x)
    return backends.from_numpy(problem.shaped_x, np.asarray(array, dtype))


def _cuda_arguments(problem: Problem) -> tuple[Any, ...]:
    lower, upper = (b if isinstance(b, float) else b.raw for b in (problem.lower, problem.upper))
    eps = backends.detach(problem.eps_tensor(problem.x)).raw[:, 0]
    x, delta = backends.detach(problem.x).raw, backends.detach(problem.delta).raw
    return x, delta, eps, problem.p, lower, upper, problem.tolerance


def _xla(problem: Problem, engine: str) -> ep.Tensor:
    solver: Any
    if engine == "xla":
        from . import xla as solver
    else:
        from . import graph as solver
    x = problem.x
    lower, upper = (
        b if isinstance(b, float) else backends.detach(b).raw
        for b in (problem.lower, problem.upper)
    )
    eps = backends.detach(problem.eps_tensor(x)).raw
    x, delta = backends.detach(x).raw, backends.detach(problem.delta).raw
    limit = _LARGEST.get(problem.dtype_name)
    eta: ep.Tensor = ep.astensor(
        solver.solve(x, delta, eps, problem.p, lower, upper, largest_eta=limit)
    )
    return eta


def _generic(problem: Problem) -> ep.Tensor:
    x, delta = backends.widen(problem.x), backends.widen(problem.delta)
    x, delta = backends.detach(x), backends.detach(delta)
    lower, upper = (
        b if isinstance(b, float) else b.astype(x.dtype) for b in (problem.lower, problem.upper)
    )
    room = ep.where(delta > 0, upper - x, x - lower)
    room = ep.maximum(room, ep.zeros_like(room))
    eps = backends.detach(problem.eps_tensor(x))
    limit = _LARGEST.get(problem.dtype_name, backends.largest(problem.x))
    eta = generic.solve(delta.abs(), room, eps, problem.p, limit)
    return eta if eta.dtype == problem.x.dtype else eta.astype(problem.x.dtype)
