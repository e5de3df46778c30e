"""The moves of an attack for PyTorch on a GPU: each is one launch, without a sort or a wait.

Tensors have the shape (N, n) and one device, unless said otherwise. eps is a number, which costs
no tensor, or a tensor of shape (N,) or (1,); bounds are numbers, which are compiled in, or tensors
of shape (1, n) or (N, n). p is compiled in. Results that are one number per row are tensors of
shape (N,). Flags are those of ``core.checks``; rows with flags stay where they are.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
import triton
import triton.language as tl

from ...core.norms import SMALLEST, WIDE_BELOW
from .. import pow
from ..newton import sum_rtol
from . import gradients, projection, steepest
from .dispatch import INTERPRETED, bits_of, start
from .launch import SHORTEST_SAMPLED

Tensor = torch.Tensor
Bound = float | Tensor

# Elements that a program treats at once, by 16 warps: two such programs fit a multiprocessor. Those
# that search a root would take a few registers more.
BLOCK, ELEMENTS_PER_WARP, MOST_WARPS, REGISTERS = 2048, 64, 16, 64


def project(
    x0: Tensor,
    x: Tensor,
    eps: float | Tensor,
    p: float,
    lower: Bound,
    upper: Bound,
    tolerance: float,
    *,
    sphere: bool = False,
    momentum: tuple[float, Tensor, Tensor] | None = None,
    direction: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Project x onto ball and box; see ``engines.project``.

    Args:
        x0: Centres.
        x: Points.
        eps: Radii.
        p: Order of the norm; other than 1, 2 and inf gives the radial point.
        lower: Lower bounds.
        upper: Upper bounds.
        tolerance: x0 may lie this far outside of the bounds.
        sphere: Whether to go on to where the norm is eps.
        momentum: As there.
        direction: For p = 1 on the sphere: what is still missing to eps is spent on coordinates
            that have not moved, along the largest of this.

    Returns:
        The points, half precision as float32; for p = 1 the thresholds, and what was missing to
        eps before ``direction``, in float64; flags.
    """
    out = _points_like(x0)
    rows = x0.shape[0]
    flags = _empty(x0, torch.int32)
    weight, now, before = (0.0, x, x) if momentum is None else momentum
    x0, x, now, before, *bounds = map(_flat, (x0, x, now, before, lower, upper))
    eps, eps_step, by_bits = _length(eps)
    options = _options(out, p, bounds, tolerance)
    options |= {"BITS": by_bits, "MIX": momentum is not None, "SPHERE": sphere}
    data = (x0, x, now, before, bits_of(weight), *_pointers(x0, bounds), eps)
    steps = (*map(_step, (x0, x, now, before, *bounds)), eps_step)
    if p == math.inf:
        threshold = missing = _empty(x0, torch.float64)
        _run(projection.limit_kernel, rows, (*data, out, flags, *steps, out.stride(0)), options)
        return out, threshold, missing, flags
    threshold, missing = _empty(x0, torch.float64), _empty(x0, torch.float64)
    along = x0 if direction is None else _flat(direction)
    options["FILL"] = direction is not None
    arguments = (*data, along, out, threshold, missing, flags, *steps, _step(along), out.stride(0))
    _run(projection.project_kernel, rows, arguments, options)
    return out, threshold, missing, flags


def steepest_step(
    x: Tensor,
    gradient: Tensor,
    eps: float | Tensor,
    p: float,
    lower: Bound,
    upper: Bound,
    tolerance: float,
    *,
    counts: Any = None,
    lenient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return x + s with s = argmax <gradient, s>, ||s||_p <= eps, x + s inside the bounds.

    Args:
        x: Points.
        gradient: Where it is not finite it counts as 0.
        eps: Lengths.
        p: Order of the norm, at least 1.
        lower: Lower bounds.
        upper: Upper bounds.
        tolerance: x may lie this far outside of the bounds.
        counts: For p = 1 the numbers of coordinates to move, an integer tensor or array of shape
            (N,): a step evenly along the signs of the largest gradients, instead.
        lenient: Whether gradients that are not finite get no flag.

    Returns:
        The points, half precision as float32, and flags.
    """
    wide = 1 < p < WIDE_BELOW  # powers of what float32 resolves are no numbers of it
    out, flags = _points_like(x, wide=wide), _empty(x, torch.int32)
    x, gradient, *bounds = map(_flat, (x, gradient, lower, upper))
    eps, eps_step, by_bits = _length(eps)
    options = _options(out, p, bounds, tolerance)
    options |= {"BITS": by_bits, "LENIENT": lenient}
    data = (x, gradient, *_pointers(x, bounds), eps)
    steps = (*map(_step, (x, gradient, *bounds)), eps_step, out.stride(0))
    kernel = steepest.dual_kernel
    if p == math.inf:
        kernel = steepest.signs_kernel
    elif counts is not None:
        kernel = steepest.sparse_kernel
        data = (*data, torch.as_tensor(counts).to(x.device, non_blocking=True))
    elif p == 1:
        kernel = steepest.fill_kernel
    else:
        dual = 1 / (p - 1)
        options |= {"DUAL": dual, "DUAL_HIGH": pow.split_order(dual)[0]}
        options["SMALLEST"] = SMALLEST[_name(out)]
    _run(kernel, x.shape[0], (*data, out, flags, *steps), options)
    return out.float() if wide and x.dtype != torch.float64 else out, flags


def products(
    x: Tensor,
    delta: Tensor,
    eps: float | Tensor,
    p: float,
    lower: Bound,
    upper: Bound,
    eta: Tensor,
    cotangent: Tensor,
    *,
    of_points: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vector-Jacobian product of eta or of the perturbed points, in closed form.

    Args:
        x: Points.
        delta: Directions.
        eps: Target norms.
        p: Order of the norm.
        lower: Lower bounds.
        upper: Upper bounds.
        eta: The root for these, shape (N,).
        cotangent: The vector, shape (N, 1), or (N, n) for the points.
        of_points: Of which of the two.

    Returns:
        The products for x and delta, shape (N, n), and for eps, shape (N,); of half precision
        in float32.
    """
    to_x, to_delta = _points_like(x), _points_like(x)
    to_eps = _empty(x, to_x.dtype)
    x, delta, cotangent, *bounds = map(_flat, (x, delta, cotangent, lower, upper))
    eps, eps_step, by_bits = _length(eps)
    options = _options(x, p, bounds, 0.0)
    finite = p < math.inf
    options |= {"BITS": by_bits, "POINTS": of_points, "INFINITE": not finite}
    options["LOWERED"] = pow.split_order(p - 1)[0] if finite else 0.0
    arguments = (
        x, delta, *_pointers(x, bounds), eps, eta, cotangent, to_x, to_delta, to_eps,
        *map(_step, (x, delta, *bounds)), eps_step, eta.stride(0), _step(cotangent),
        to_x.stride(0),
    )  # fmt: skip
    _run(gradients.product_kernel, x.shape[0], arguments, options)
    return to_x, to_delta, to_eps


def accumulate(total: Tensor | None, decay: float, gradient: Tensor, least: float) -> Tensor:
    """Return decay * total + g / max(||g||_1, least), g being 0 where it is not finite.

    Args:
        total: What was returned before, whose memory the result takes; None: all 0.
        decay: Its weight.
        gradient: Shape (N, n).
        least: The norm below which gradients are not scaled to 1.
    """
    g = _flat(gradient)
    out = torch.empty(g.shape, dtype=g.dtype, device=g.device) if total is None else total
    options = _options(g, 1.0, [], 0.0) | {"FIRST": total is None, "LEAST": least}
    steps = (out.stride(0), g.stride(0), out.stride(0))
    arguments = (out, g, out, bits_of(decay), *steps)
    _run(gradients.accumulate_kernel, g.shape[0], arguments, options)
    return out


def reachable_norm(
    x: Tensor, delta: Tensor, p: float, lower: Bound, upper: Bound, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Return the p-norm of the room along delta, shape (N,), in the dtype that computes; flags.

    Args:
        x: Points.
        delta: Directions.
        p: Order of the norm.
        lower: Lower bounds.
        upper: Upper bounds.
        tolerance: x may lie this far outside of the bounds.
    """
    reach, flags = _empty(x, getattr(torch, _name(x))), _empty(x, torch.int32)
    x, delta, *bounds = map(_flat, (x, delta, lower, upper))
    options = _options(x, p, bounds, tolerance) | {"INFINITE": p == math.inf}
    arguments = (x, delta, *_pointers(x, bounds), reach, flags)
    steps = map(_step, (x, delta, *bounds))
    _run(gradients.reach_kernel, x.shape[0], (*arguments, *steps), options)
    return reach, flags


def _run(kernel: Any, rows: int, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Launch one program for each row; of the options those that the kernel has."""
    if rows == 0 or options["n"] == 0:
        return
    constants = {name: options[name] for name in kernel.arg_names if name in options}
    numbers = *arguments, constants.pop("n")
    searches = "SAMPLED" in constants and options["TYPE"] == tl.float32
    registers = REGISTERS if searches else None
    with contextlib.nullcontext() if INTERPRETED else torch.cuda.device(arguments[0].device):
        start(kernel, (rows, 1, 1), options["warps"], numbers, (), constants, registers)


def _options(like: Tensor, p: float, bounds: list[Any], tolerance: float) -> dict[str, Any]:
    """Return what is compiled in to compute in the dtype of `like`, half precision in float32."""
    name, n = _name(like), like.shape[1]
    # half of it, where registers are needed twice
    block = min(BLOCK if name == "float32" else BLOCK // 2, triton.next_power_of_2(n))
    options: dict[str, Any] = {
        "n": n,
        "P": p,
        "HIGH": pow.split_order(p)[0] if p < math.inf else 0.0,
        "RTOL": sum_rtol(name, p) if p < math.inf else 0.0,
        "SAMPLED": n >= SHORTEST_SAMPLED,
        "TOLERANCE": tolerance,
        "LARGEST": 0.5 * torch.finfo(like.dtype).max,
        "TYPE": getattr(tl, name),
        "BLOCK": block,
        "warps": max(1, min(MOST_WARPS, block // ELEMENTS_PER_WARP)),
    }
    for side, bound in zip(("LOWER", "UPPER"), bounds, strict=False):
        options[side] = bound if isinstance(bound, float) else None
    return options


def _name(a: Tensor) -> str:
    return "float64" if a.dtype == torch.float64 else "float32"


def _points_like(x: Tensor, *, wide: bool = False) -> Tensor:
    """Return memory for points, in the dtype that computes: they stand in for directions first."""
    dtype = torch.float64 if wide else getattr(torch, _name(x))
    return torch.empty(x.shape, dtype=dtype, device=x.device)


def _empty(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(x.shape[0], dtype=dtype, device=x.device)


def _length(eps: float | Tensor) -> tuple[Any, int, bool]:
    """Return an argument for eps, how far apart rows have it, and whether it is a number's bits."""
    if isinstance(eps, torch.Tensor):
        return eps.detach(), eps.stride(0) if eps.shape[0] > 1 else 0, False
    return bits_of(eps + 0.0), 0, True  # of -0 those of 0


def _pointers(x: Tensor, bounds: list[Any]) -> list[Tensor]:
    return [x if isinstance(bound, float) else bound for bound in bounds]


def _step(a: Any) -> int:
    """Return how far apart rows begin; 0 for a number, or one row for all."""
    return 0 if isinstance(a, float) or a.shape[0] == 1 else a.stride(0)


def _flat(a: Any) -> Any:
    """Return a tensor whose rows are contiguous, detached; a number as it is."""
    if isinstance(a, float):
        return a
    a = a.detach()
    return a if a.stride(-1) == 1 or a.shape[-1] == 1 else a.contiguous()
