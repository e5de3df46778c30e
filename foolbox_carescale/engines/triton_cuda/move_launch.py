"""The moves of an attack for PyTorch on a GPU: each is one launch, without a sort or a wait.

Tensors have the shape (N, n) and one device, unless said otherwise. eps is a number, which costs
no tensor, or a tensor of shape (N,) or (1,); bounds are numbers, which are compiled in, or tensors
of shape (1, n) or (N, n). p is compiled in. Results that are one number per row are tensors of
shape (N,). Flags are those of ``core.checks``, of all rows or-ed to one int32, or None unless asked
for by ``report``; rows with flags stay where they are.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from ...core.norms import SMALLEST, WIDE_BELOW
from .. import pow
from ..newton import sum_rtol
from . import gradients, projection, steepest
from .dispatch import Launch, alignments, bits_of, flag_word, on, remembered
from .launch import SHORTEST_SAMPLED, parts_of

Tensor = torch.Tensor
Bound = float | Tensor

# Elements that a program treats at once, by 16 warps: two such programs fit a multiprocessor. Those
# that search a root would take a few registers more, and with half of the elements need none.
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
    report: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
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
        report: Whether to say what is wrong.

    Returns:
        The points, half precision as float32; for p = 1 the thresholds, and what was missing to
        eps before ``direction``, in float64; flags.
    """
    out, flags = _points_like(x0), flag_word(x0.device) if report else None
    weight, now, before = (0.0, x, x) if momentum is None else momentum
    x0, x, now, before, low, high = map(_flat, (x0, x, now, before, lower, upper))
    eps, eps_step, by_bits = _length(eps)
    options: dict[str, Any] = {
        "BITS": by_bits, "MIX": momentum is not None, "SPHERE": sphere, "REPORT": report,
    }  # fmt: skip
    data = (x0, x, now, before, bits_of(weight), *_pointers(x0, low, high), eps)
    steps = *map(_step, (x0, x, now, before, low, high)), eps_step
    word = out if flags is None else flags
    threshold = missing = None
    if p == math.inf:
        kernel, data = projection.limit_kernel, (*data, out, word)
    else:
        along = x0 if direction is None else _flat(direction)
        options["FILL"] = direction is not None
        numbers = (out, out)
        if p == 1:
            numbers = threshold, missing = _empty(x0, torch.float64), _empty(x0, torch.float64)
        kernel, data = projection.project_kernel, (*data, along, out, *numbers, word)
        steps = *steps, _step(along)
    _run(kernel, x0, data, (*steps, out.stride(0)), p, low, high, tolerance, options)
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
    report: bool = True,
) -> tuple[Tensor, Tensor | None]:
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
        report: Whether to say what is wrong.

    Returns:
        The points, half precision as float32, and flags.
    """
    wide = 1 < p < WIDE_BELOW  # powers of what float32 resolves are no numbers of it
    out = _points_like(x, wide=wide)
    flags = flag_word(x.device) if report else None
    x, gradient, low, high = map(_flat, (x, gradient, lower, upper))
    eps, eps_step, by_bits = _length(eps)
    options: dict[str, Any] = {"BITS": by_bits, "LENIENT": lenient, "REPORT": report, "WIDE": wide}
    data = (x, gradient, *_pointers(x, low, high), eps)
    steps = (*map(_step, (x, gradient, low, high)), eps_step, out.stride(0))
    kernel = steepest.dual_kernel
    if p == math.inf:
        kernel = steepest.signs_kernel
    elif counts is not None:
        kernel = steepest.sparse_kernel
        data = (*data, torch.as_tensor(counts).to(x.device, non_blocking=True))
    elif p == 1:
        kernel = steepest.fill_kernel
    data = (*data, out, out if flags is None else flags)
    _run(kernel, x, data, steps, p, low, high, tolerance, options)
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
    x, delta, cotangent, low, high = map(_flat, (x, delta, cotangent, lower, upper))
    eps, eps_step, by_bits = _length(eps)
    data = (x, delta, *_pointers(x, low, high), eps, eta, cotangent, to_x, to_delta, to_eps)
    steps = (
        *map(_step, (x, delta, low, high)), eps_step, eta.stride(0), _step(cotangent),
        to_x.stride(0),
    )  # fmt: skip
    options = {"BITS": by_bits, "POINTS": of_points}
    _run(gradients.product_kernel, x, data, steps, p, low, high, 0.0, options)
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
    out = g.new_empty(g.shape) if total is None else total
    options = {"FIRST": total is None, "LEAST": least}
    data, steps = (out, g, out, bits_of(decay)), (out.stride(0), g.stride(0), out.stride(0))
    _run(gradients.accumulate_kernel, g, data, steps, 1.0, 0.0, 1.0, 0.0, options)
    return out


def reachable_norm(
    x: Tensor,
    delta: Tensor,
    p: float,
    lower: Bound,
    upper: Bound,
    tolerance: float,
    *,
    report: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Return the p-norm of the room along delta, shape (N,), in the dtype that computes; flags.

    Args:
        x: Points.
        delta: Directions.
        p: Order of the norm.
        lower: Lower bounds.
        upper: Upper bounds.
        tolerance: x may lie this far outside of the bounds.
        report: Whether to say what is wrong.
    """
    reach = _empty(x, torch.float64 if x.dtype == torch.float64 else torch.float32)
    flags = flag_word(x.device) if report else None
    x, delta, low, high = map(_flat, (x, delta, lower, upper))
    data = (x, delta, *_pointers(x, low, high), reach, reach if flags is None else flags)
    steps = (*map(_step, (x, delta, low, high)),)
    _run(gradients.reach_kernel, x, data, steps, p, low, high, tolerance, {"REPORT": report})
    return reach, flags


def _run(
    kernel: Any,
    x: Tensor,
    data: tuple[Any, ...],
    steps: tuple[int, ...],
    p: float,
    lower: Any,
    upper: Any,
    tolerance: float,
    options: dict[str, Any],
) -> None:
    """Launch the programs for rows of x; data are tensors and bits of numbers."""
    rows, n = x.shape
    if rows == 0 or n == 0:
        return
    device = x.device
    # where a bound that is a tensor has its place there is no number
    low, high = (b if isinstance(b, float) else None for b in (lower, upper))
    launch = _launch(
        kernel.__name__, rows, n, device, alignments(data), steps, p, low, high, tolerance,
        tuple(options.items()),
    )  # fmt: skip
    with on(device):
        launch(*data, *steps, n)


@remembered
def _launch(
    name: str,
    rows: int,
    n: int,
    device: torch.device,
    kinds: tuple[Any, ...],
    steps: tuple[int, ...],
    p: float,
    lower: float | None,
    upper: float | None,
    tolerance: float,
    options: tuple[tuple[str, Any], ...],
) -> Launch:
    """Return a launch to compute in the dtype of x, half precision in float32."""
    kernel, chosen = KERNELS[name], dict(options)
    wide = kinds[0][0] == torch.float64 or chosen.pop("WIDE", False)
    dtype = "float64" if wide else "float32"
    finite = p < math.inf
    searches = "SAMPLED" in kernel.arg_names
    # half of it, where registers are needed twice, or would be spilled
    block = min(BLOCK // 2 if wide or searches else BLOCK, triton.next_power_of_2(n))
    chosen |= {
        "INFINITE": not finite,
        "P": p,
        "HIGH": pow.split_order(p)[0] if finite else 0.0,
        "LOWERED": pow.split_order(p - 1)[0] if finite else 0.0,
        "RTOL": sum_rtol(dtype, p) if finite else 0.0,
        "SAMPLED": n >= SHORTEST_SAMPLED,
        "TOLERANCE": tolerance,
        "LARGEST": 0.5 * torch.finfo(getattr(torch, dtype)).max,
        "LOWER": lower,
        "UPPER": upper,
        "TYPE": getattr(tl, dtype),
        "BLOCK": block,
    }
    if name == "dual_kernel":
        dual = 1 / (p - 1)
        chosen |= {"DUAL": dual, "DUAL_HIGH": pow.split_order(dual)[0], "SMALLEST": SMALLEST[dtype]}
    constants = {name: chosen[name] for name in kernel.arg_names if name in chosen}
    warps = max(1, min(MOST_WARPS, block // ELEMENTS_PER_WARP))
    registers = REGISTERS if searches and not wide else None
    # where nothing of a row is added up there is nothing to wait for
    parts = parts_of(rows, n, device) if name == "signs_kernel" else 1
    return Launch(kernel, (rows, parts, 1), warps, constants, registers)


KERNELS = {
    kernel.__name__: kernel
    for kernel in (
        projection.limit_kernel,
        projection.project_kernel,
        steepest.signs_kernel,
        steepest.dual_kernel,
        steepest.fill_kernel,
        steepest.sparse_kernel,
        gradients.product_kernel,
        gradients.accumulate_kernel,
        gradients.reach_kernel,
    )
}


def _name(a: Tensor) -> str:
    return "float64" if a.dtype == torch.float64 else "float32"


def _points_like(x: Tensor, *, wide: bool = False) -> Tensor:
    """Return memory for points, in the dtype that computes: they stand in for directions first."""
    if x.dtype == torch.float64 or (x.dtype == torch.float32 and not wide):
        return x.new_empty(x.shape)
    return x.new_empty(x.shape, dtype=torch.float64 if wide else torch.float32)


def _empty(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.new_empty(x.shape[0], dtype=dtype)


def _length(eps: float | Tensor) -> tuple[Any, int, bool]:
    """Return an argument for eps, how far apart rows have it, and whether it is a number's bits."""
    if isinstance(eps, torch.Tensor):
        return eps.detach(), eps.stride(0) if eps.shape[0] > 1 else 0, False
    return bits_of(eps + 0.0), 0, True  # of -0 those of 0


def _pointers(x: Tensor, *bounds: Any) -> list[Tensor]:
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
