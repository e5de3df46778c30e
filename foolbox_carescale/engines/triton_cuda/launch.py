"""The root finder for PyTorch on a GPU, in Triton: passes over rows, no sort, no wait in between.

Many rows: one program each, which makes all passes itself. Few long rows: several programs for a
row and a launch per pass, where every program adds up the partial sums of the launch before; so
there is no atomic and no wait, and a row that is done costs a few reads. Which one is
decided from shapes alone; the host never reads a result.

With ``TRITON_INTERPRET=1`` in the environment before the first import, all of this runs on
tensors in main memory, slowly.
"""

from __future__ import annotations

import contextlib
import math
import os
from typing import Any

import torch
import triton
import triton.language as tl

from .. import pow
from ..newton import sum_rtol
from . import kernels

Tensor = torch.Tensor

# Elements that a program treats at once; also the lanes of its sums.
BLOCK = 4096
# Passes over split rows that are launched without knowing whether they are needed; the last kernel
# finishes the rows that need more, one program each.
LAUNCHED_PASSES = 7
# A row is split where there are fewer rows than this many programs for each multiprocessor, and
# into parts of at least two blocks.
PROGRAMS_PER_MULTIPROCESSOR = 4
SHORTEST_PART = 2 * BLOCK

_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


def solve(
    x: Tensor,
    delta: Tensor,
    eps: Tensor,
    p: float,
    lower: float | Tensor,
    upper: float | Tensor,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """Smallest eta with ``||min(eta |delta|, room)||_p = eps``; see `generic.solve`.

    room is upper - x where delta > 0, x - lower where delta < 0, and 0 where delta = 0.

    Args:
        x: Points, shape (N, n); float16 and bfloat16 compute in float32.
        delta: Directions, shape and device of x.
        eps: Target norms, shape (N,) or (1,), nonnegative and finite.
        p: Order of the norm, in (0, inf]; each is compiled for itself.
        lower: Lower bound, a number (compiled in) or a tensor of shape (1, n) or (N, n).
        upper: Upper bound.
        tolerance: x may lie this far outside of the bounds; it counts as lying on them.

    Returns:
        eta, shape (N,), float64 for float64 and else float32: 0 where eps is 0 or no coordinate
        can move; the largest breakpoint ``room / |delta|`` where eps is out of reach; cut to half
        of the largest number of x's dtype.
        flags, int32 (N,): a sum of 1 (x is NaN, or delta is NaN or infinite) and 2 (x is outside
        the bounds by more than the tolerance). eta is 0 there.
    """
    return _launch(x, delta, eps, p, lower, upper, tolerance, None)


def perturb(
    x: Tensor,
    delta: Tensor,
    eps: Tensor,
    p: float,
    lower: float | Tensor,
    upper: float | Tensor,
    tolerance: float,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``clip(x + eta delta, lower, upper)`` with the eta of `solve`.

    Args:
        x: Points, shape (N, n).
        delta: Directions, shape and device of x.
        eps: Target norms, shape (N,) or (1,).
        p: Order of the norm.
        lower: Lower bound.
        upper: Upper bound.
        tolerance: As in `solve`.
        out: Where to write, shape and dtype of x, its rows contiguous; may be x itself.

    Returns:
        The perturbed points, dtype of x; eta and flags of `solve`.
    """
    target = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    eta, flags = _launch(x, delta, eps, p, lower, upper, tolerance, target)
    return target, eta, flags


def _launch(
    x: Tensor,
    delta: Tensor,
    eps: Tensor,
    p: float,
    lower: float | Tensor,
    upper: float | Tensor,
    tolerance: float,
    out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    rows, n = x.shape
    name = "float64" if x.dtype == torch.float64 else "float32"
    eta = torch.empty(rows, dtype=getattr(torch, name), device=x.device)
    flags = torch.empty(rows, dtype=torch.int32, device=x.device)
    if rows == 0 or n == 0:
        return eta.zero_(), flags.zero_()
    x, delta = _flat(x), _flat(delta)
    eps = eps.detach().to(torch.float64).expand(rows).contiguous()
    block = min(BLOCK, triton.next_power_of_2(n))
    options: dict[str, Any] = {
        "P": float(p),
        "HIGH": pow.split_order(p)[0] if p < math.inf else 0.0,
        "RTOL": sum_rtol(name, float(p)),
        "TOLERANCE": float(tolerance),
        "LARGEST": 0.5 * torch.finfo(x.dtype).max,
        "TYPE": getattr(tl, name),
        "BLOCK": block,
        "num_warps": max(1, min(8, block // 128)),
        # Triton 3.9 warns where this is left to its default
        "enable_fp_fusion": True,
    }
    data: list[Any] = [x, delta]
    steps: list[int] = [x.stride(0), delta.stride(0)]
    for side, bound in (("LOWER", lower), ("UPPER", upper)):
        scalar = not isinstance(bound, torch.Tensor)
        options[side] = float(bound) if scalar else None
        flat = x if scalar else _flat(bound.detach())  # type: ignore[union-attr]
        data.append(flat)
        steps.append(flat.stride(0) if not scalar and flat.shape[0] > 1 else 0)
    target = x if out is None else out
    writes = {"WRITE": out is not None}
    where = contextlib.nullcontext() if _INTERPRETED else torch.cuda.device(x.device)
    parts = _parts(rows, n, x.device)
    with where:
        if parts == 1:
            kernels.row_kernel[(rows,)](
                *data, eps, eta, flags, target, *steps, target.stride(0), n, **writes, **options
            )
            return eta, flags
        # multiples of a block, so that no program's loads straddle a cache line
        size = triton.cdiv(triton.cdiv(n, parts), block) * block
        parts = triton.cdiv(n, size)
        options["PARTS"] = triton.next_power_of_2(parts)
        found = torch.empty((rows, parts, 3), dtype=torch.float64, device=x.device)
        faults = torch.empty((rows, parts), dtype=torch.int32, device=x.device)
        sums = torch.empty((2, rows, parts, 2), dtype=torch.float64, device=x.device)
        state = torch.empty((2, rows, 4), dtype=torch.float64, device=x.device)
        shared = (found, faults, sums, state, rows, parts)
        grid = (rows, parts)
        kernels.survey_kernel[grid](
            *data, eps, found, faults, *steps, n, size, parts, **_less(options)
        )
        passes = 0 if p == math.inf else LAUNCHED_PASSES
        for count in range(passes):
            kernels.pass_kernel[grid](*data, eps, *shared, *steps, n, size, count, **options)
        kernels.finish_kernel[(rows,)](
            *data, eps, *shared, eta, flags, *steps, n, passes, **options
        )
        if out is not None:
            kernels.write_kernel[grid](
                *data, eta, target, *steps, target.stride(0), n, size, **_less(options)
            )
    return eta, flags


def _parts(rows: int, n: int, device: torch.device) -> int:
    """Programs for each row."""
    if device.type != "cuda":
        return 1
    wanted = (
        PROGRAMS_PER_MULTIPROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count
    )
    return max(1, min(wanted // rows, n // SHORTEST_PART))


def _less(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("LARGEST", "PARTS")}


def _flat(a: Tensor) -> Tensor:
    a = a.detach()
    return a if a.stride(-1) == 1 or a.shape[-1] == 1 else a.contiguous()
