"""The moves of an attack for PyTorch on a GPU: each is one launch, without a sort or a wait.

Tensors have the shape (N, ...), n elements in a sample, and one device, unless said otherwise;
points that are returned have the shape of x or (N, n). eps is a number, which costs no tensor, or a
tensor of N elements or of 1; bounds are numbers, which are compiled in, or tensors of shape (1, n)
or (N, n). p is compiled in. Results that are one number per row are tensors of shape (N,). Flags
are those of ``core.checks``, of all rows or-ed to one int32, or None unless asked for by
``report``; rows with flags stay where they are.
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
from .dispatch import Launch, alignments, bits_of, on, remembered, rows_of, word_for
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
    word: Tensor | None = None,
    out: Tensor | None = None,
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
        word: Flags that a projection before this one has left, whose points hide what was wrong.
        out: Where to write, contiguous, shape of x0, in the dtype that computes; nothing else.

    Returns:
        The points, half precision as float32; for p = 1 the thresholds, and what was missing to
        eps before ``direction``, in float64; flags.
    """
    word = word_for(x0, wanted=report) if word is None else word
    n = _elements(x0)
    x0, x0_step = rows_of(x0, n)
    x, x_step = rows_of(x, n)
    out = _points_like(x0) if out is None else out
    lower, low, low_step = _bound(lower, x0, n)
    upper, high, high_step = _bound(upper, x0, n)
    eps, eps_step, by_bits = _length(eps)
    weight, now, before = 0.0, x, x
    now_step = before_step = x_step
    if momentum is not None:
        weight, now, before = momentum
        now, now_step = rows_of(now, n)
        before, before_step = rows_of(before, n)
    options: dict[str, Any] = {"BITS": by_bits, "MIX": momentum is not None, "SPHERE": sphere}
    data: tuple[Any, ...] = x0, x, now, before, *bits_of(weight), lower, upper, eps
    steps: tuple[int, ...] = x0_step, x_step, now_step, before_step, low_step, high_step, eps_step
    threshold = missing = None
    if p == math.inf:
        kernel, data = projection.limit_kernel, (*data, out, word)
    else:
        along, along_step = (x0, 0) if direction is None else rows_of(direction, n)
        options["FILL"] = direction is not None
        numbers = (out, out)
        if p == 1:
            threshold, missing = (x0.new_empty(len(x0), dtype=torch.float64) for _ in range(2))
            numbers = threshold, missing
        kernel, data = projection.project_kernel, (*data, along, out, *numbers, word)
        steps = *steps, along_step
    _run(kernel, x0, n, data, (*steps, n), p, low, high, tolerance, options)
    return out, threshold, missing, word if report else None


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
    word = word_for(x, wanted=report)
    n = _elements(x)
    x, x_step = rows_of(x, n)
    gradient, gradient_step = rows_of(gradient, n)
    out = _points_like(x, wide=wide)
    lower, low, low_step = _bound(lower, x, n)
    upper, high, high_step = _bound(upper, x, n)
    eps, eps_step, by_bits = _length(eps)
    options: dict[str, Any] = {"BITS": by_bits, "LENIENT": lenient, "WIDE": wide}
    data: tuple[Any, ...] = x, gradient, lower, upper, eps
    steps = x_step, gradient_step, low_step, high_step, eps_step, n
    kernel = steepest.dual_kernel
    if p == math.inf:
        kernel = steepest.signs_kernel
    elif counts is not None:
        kernel = steepest.sparse_kernel
        data = (*data, torch.as_tensor(counts).to(x.device, non_blocking=True))
    elif p == 1:
        kernel = steepest.fill_kernel
    _run(kernel, x, n, (*data, out, word), steps, p, low, high, tolerance, options)
    return out.float() if wide and x.dtype != torch.float64 else out, word if report else None


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
        eta: The root for these, N elements.
        cotangent: The vector, N elements, or the shape of x for the points.
        of_points: Of which of the two.

    Returns:
        The products for x and delta, and for eps, shape (N, 1); of half precision in float32.
    """
    n = _elements(x)
    x, x_step = rows_of(x, n)
    delta, delta_step = rows_of(delta, n)
    to_x, to_delta = _points_like(x), _points_like(x)
    to_eps = _column(x)
    lower, low, low_step = _bound(lower, x, n)
    upper, high, high_step = _bound(upper, x, n)
    eps, eps_step, by_bits = _length(eps)
    cotangent, cotangent_step = rows_of(cotangent, n if of_points else 1)
    data = (x, delta, lower, upper, eps, eta, cotangent, to_x, to_delta, to_eps)
    steps = (
        x_step, delta_step, low_step, high_step, eps_step, eta.stride(0), cotangent_step, n
    )  # fmt: skip
    options = {"BITS": by_bits, "POINTS": of_points}
    _run(gradients.product_kernel, x, n, data, steps, p, low, high, 0.0, options)
    return to_x, to_delta, to_eps


def accumulate(total: Tensor | None, decay: float, gradient: Tensor, least: float) -> Tensor:
    """Return decay * total + g / max(||g||_1, least), g being 0 where it is not finite.

    Args:
        total: What was returned before, whose memory the result takes; None: all 0.
        decay: Its weight.
        gradient: Shape (N, ...).
        least: The norm below which gradients are not scaled to 1.
    """
    n = _elements(gradient)
    g, g_step = rows_of(gradient, n)
    out = torch.empty_like(g) if total is None else total.contiguous()
    options = {"FIRST": total is None, "LEAST": least}
    data, steps = (out, g, out, *bits_of(decay)), (n, g_step, n)
    _run(gradients.accumulate_kernel, g, n, data, steps, 1.0, 0.0, 1.0, 0.0, options)
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
    """Return the p-norm of the room along delta, shape (N, 1), in the dtype that computes; flags.

    Args:
        x: Points.
        delta: Directions.
        p: Order of the norm.
        lower: Lower bounds.
        upper: Upper bounds.
        tolerance: x may lie this far outside of the bounds.
        report: Whether to say what is wrong.
    """
    reach = _column(x)
    word = word_for(x, wanted=report)
    n = _elements(x)
    x, x_step = rows_of(x, n)
    delta, delta_step = rows_of(delta, n)
    lower, low, low_step = _bound(lower, x, n)
    upper, high, high_step = _bound(upper, x, n)
    data, steps = (x, delta, lower, upper, reach, word), (x_step, delta_step, low_step, high_step)
    _run(gradients.reach_kernel, x, n, data, steps, p, low, high, tolerance, {})
    return reach, word if report else None


def _run(
    kernel: Any,
    x: Tensor,
    n: int,
    data: tuple[Any, ...],
    steps: tuple[int, ...],
    p: float,
    lower: float | None,
    upper: float | None,
    tolerance: float,
    options: dict[str, Any],
) -> None:
    """Launch the programs for rows of x; data are tensors and bits of numbers, x the first."""
    rows, device = x.shape[0], x.device
    if rows == 0 or n == 0:
        return
    launch = _launch(
        kernel.__name__, rows, n, device, alignments(data), steps, p, lower, upper, tolerance,
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


def _elements(x: Tensor) -> int:
    """Return how many elements a sample has."""
    return x.numel() // (x.shape[0] or 1)


def _points_like(x: Tensor, *, wide: bool = False) -> Tensor:
    """Return memory for points, in the dtype that computes: they stand in for directions first."""
    if x.dtype == torch.float64 or (x.dtype == torch.float32 and not wide):
        return torch.empty_like(x)
    return torch.empty_like(x, dtype=torch.float64 if wide else torch.float32)


def _column(x: Tensor) -> Tensor:
    """Return memory for a number per row, in the dtype that computes."""
    wide = x.dtype == torch.float64
    dtype = torch.float64 if wide else torch.float32
    return torch.empty(x.shape[0], 1, dtype=dtype, device=x.device)


def _bound(bound: Bound, x: Tensor, n: int) -> tuple[Tensor, float | None, int]:
    """Return a tensor (x where there is none), a number or None, and the step from row to row."""
    if not isinstance(bound, torch.Tensor):
        return x, bound, 0
    rows, step = rows_of(bound, n)
    return rows, None, step if rows.shape[0] > 1 else 0


def _length(eps: float | Tensor) -> tuple[Any, int, bool]:
    """Return an argument for eps, how far apart rows have it, and whether it is a number's bits."""
    if isinstance(eps, torch.Tensor):
        return eps, eps.stride(0) if eps.shape[0] > 1 else 0, False
    return bits_of(eps + 0.0)[0], 0, True  # of -0 those of 0
