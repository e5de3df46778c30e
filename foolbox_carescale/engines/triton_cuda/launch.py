"""The root finder for PyTorch on a GPU, in Triton: passes over rows, no sort, no wait in between.

Short rows: one launch, where a program makes all passes of one row, or of many of a few elements.
Few long rows: several programs for a row, and a launch for each of the first passes, in which
every program adds up what the launch before has left; so there is no barrier inside of a launch. A
row that is done costs a few reads. Which way it goes is decided from shapes alone; the host never
reads a result.

With ``TRITON_INTERPRET=1`` in the environment before the first import, all of this runs on
tensors in main memory, slowly.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton.language as tl

from .. import pow
from ..base import LARGEST
from ..newton import sum_rtol
from . import kernels
from .dispatch import Launch, alignments, bits_of, on, remembered, rows_of, word_for

Tensor = torch.Tensor

# Elements that a program treats at once. Its sums take a register each for every eight of them and
# thread: with more, a multiprocessor holds fewer programs. In float64 a half of them.
BLOCK = 1024
WARPS = 8
# Rows of at most so many elements are added up by a lane each, in the order of their elements.
SHORTEST_BLOCK, LANES = 32, 128
# A row is split where there are fewer rows than this many programs for each multiprocessor, as many
# as run there at once with so few registers, and into parts of at least so many elements.
PROGRAMS_PER_MULTIPROCESSOR, REGISTERS = 3, 80
SHORTEST_PART = 8192
# A sample pays from here on.
SHORTEST_SAMPLED = 8192
# Passes over split rows that are launched without knowing whether they are needed; the last launch
# makes the passes that further rows need.
LAUNCHED_PASSES = 3


def solve(
    x: Tensor,
    delta: Tensor,
    eps: float | Tensor,
    p: float,
    lower: float | Tensor,
    upper: float | Tensor,
    tolerance: float,
    *,
    report: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Smallest eta with ``||min(eta |delta|, room)||_p = eps``.

    room is upper - x where delta > 0, x - lower where delta < 0, and 0 where delta = 0.

    Args:
        x: Points, shape (N, ...); float16 and bfloat16 are read as they are, and compute in
            float32.
        delta: Directions, shape and device of x.
        eps: Target norms, nonnegative and finite: a number, or a tensor of N elements or of 1.
        p: Order of the norm, in (0, inf]; each is compiled for itself.
        lower: Lower bound, a number or a tensor of shape (1, n) or (N, n), n elements in a sample.
        upper: Upper bound.
        tolerance: x may lie this far outside of the bounds; it counts as lying on them.
        report: Whether to say what is wrong with x and delta.

    Returns:
        eta, shape (N, 1), float64 for float64 and else float32: 0 where eps is 0 or no coordinate
        can move; the largest breakpoint ``room / |delta|`` where eps is out of reach; cut to half
        of the largest number of x's dtype, for float16 and bfloat16 to all of it.
        Flags of all rows, or-ed to one int32: of 1 (x is NaN, or delta is NaN or infinite) and 2 (x
        is outside the bounds by more than the tolerance). eta is 0 in such a row. None unless asked
        for.
    """
    _, eta, flags = _launch(x, delta, eps, p, lower, upper, tolerance, None, report, writes=False)
    return eta, flags


def perturb(
    x: Tensor,
    delta: Tensor,
    eps: float | Tensor,
    p: float,
    lower: float | Tensor,
    upper: float | Tensor,
    tolerance: float,
    *,
    out: Tensor | None = None,
    report: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return ``clip(x + eta delta, lower, upper)`` with the eta of `solve`.

    Args:
        x: Points, shape (N, ...).
        delta: Directions, shape and device of x.
        eps: Target norms.
        p: Order of the norm.
        lower: Lower bound.
        upper: Upper bound.
        tolerance: As in `solve`.
        out: Where to write, shape and dtype of x, contiguous; may be x itself.
        report: As in `solve`.

    Returns:
        The perturbed points, dtype of x, its shape or (N, n), x itself in rows with flags; eta and
        flags of `solve`.
    """
    return _launch(x, delta, eps, p, lower, upper, tolerance, out, report, writes=True)


def _launch(
    x: Tensor,
    delta: Tensor,
    eps: float | Tensor,
    p: float,
    lower: float | Tensor,
    upper: float | Tensor,
    tolerance: float,
    out: Tensor | None,
    report: bool,
    *,
    writes: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    rows, device = x.shape[0], x.device
    wide = x.dtype == torch.float64
    eta = torch.empty(rows, 1, dtype=torch.float64 if wide else torch.float32, device=device)
    word = word_for(x, wanted=report)
    flags = word if report else None
    n = x.numel() // rows if rows else 0
    if n == 0:
        return torch.empty_like(x), eta.zero_(), flags
    x, x_step = rows_of(x, n)
    delta, delta_step = rows_of(delta, n)
    lower, low, low_step = _bound(lower, x, n)
    upper, high, high_step = _bound(upper, x, n)
    length, number, length_step = _length(eps, x)
    if out is None:
        out = torch.empty_like(x) if writes else x
    data = (x, delta, lower, upper, length)
    steps = (x_step, delta_step, low_step, high_step, length_step)
    numbers = bits_of(low, high, number, tolerance)
    passes, last, sizes, space_size = _launches(
        rows, n, device, p, alignments((*data, out)), steps, writes
    )
    with on(device):
        space = eta
        if passes:
            space = torch.empty(space_size, dtype=torch.float64, device=device)
        for launch in passes:
            launch(*data, space, word, *steps, *sizes, *numbers)
        last(*data, space, eta, word, out, *steps, n, *sizes, rows, *numbers)
    return out, eta, flags


@remembered
def _launches(
    rows: int,
    n: int,
    device: torch.device,
    p: float,
    kinds: tuple[Any, ...],
    steps: tuple[int, ...],
    writes: bool,
) -> tuple[list[Launch], Launch, tuple[int, int, int], int]:
    """Return the launches of passes and the last one, their sizes, and their float64 space.

    ``kinds`` are those of x, delta, lower, upper, eps and where to write.
    """
    dtype = kinds[0][0]
    wide = dtype == torch.float64
    block = BLOCK // 2 if wide else BLOCK
    # multiples of a block, so that no program's loads straddle a cache line
    size = _ceil(_ceil(n, parts_of(rows, n, device)), BLOCK) * BLOCK
    parts = _ceil(n, size)
    count = 0 if parts == 1 else 1 if p == math.inf else LAUNCHED_PASSES
    registers = None if wide else REGISTERS
    constants = {
        "LOWER": kinds[2] is not None,
        "UPPER": kinds[3] is not None,
        "EPS": kinds[4] is not None,
        "P": float(p),
        "HIGH": pow.split_order(p)[0] if p < math.inf else 0.0,
        "RTOL": sum_rtol("float64" if wide else "float32", float(p)),
        "TYPE": tl.float64 if wide else tl.float32,
    }
    together = {"PARTS": _power_of_2(parts)}
    passes = [
        Launch(
            kernels.pass_kernel, (rows, parts, 1), WARPS,
            {"COUNT": i, **constants, "BLOCK": block, **together}, registers,
        )
        for i in range(count)
    ]  # fmt: skip
    lanes, width, warps = _shape(n, block)
    grid = (_ceil(rows, lanes), parts if writes else 1, 1)
    last = Launch(
        kernels.row_kernel, grid, warps,
        {
            "PASSED": count, "WRITE": writes,
            "SAMPLED": count == 0 and n >= SHORTEST_SAMPLED, **constants,
            "LARGEST": _largest(dtype), "ROWS": lanes, "BLOCK": width, **together,
        },
        registers,
    )  # fmt: skip
    space = rows * kernels.space_of(parts) if count else 0
    sizes = n, size, parts
    return passes, last, sizes, space


def _shape(n: int, block: int) -> tuple[int, int, int]:
    """Return a program's rows, elements of a row and warps, where rows are not split."""
    if n <= SHORTEST_BLOCK:
        return LANES, 1, LANES // 32
    width = min(block, _power_of_2(n))
    return 1, width, max(1, WARPS * width // block)


# Triton has both, for kernels; from Python each takes as long as a launch.


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


def parts_of(rows: int, n: int, device: torch.device) -> int:
    """Programs for each row."""
    if device.type != "cuda":
        return 1
    wanted = (
        PROGRAMS_PER_MULTIPROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count
    )
    return max(1, min(wanted // rows, n // SHORTEST_PART))


def _bound(bound: float | Tensor, x: Tensor, n: int) -> tuple[Tensor, float, int]:
    """Return a tensor (x where there is none), a number, and the step from row to row."""
    if not isinstance(bound, torch.Tensor):
        return x, bound, 0
    rows, step = rows_of(bound, n)
    return rows, 0.0, step if rows.shape[0] > 1 else 0


def _length(eps: float | Tensor, x: Tensor) -> tuple[Tensor, float, int]:
    """Return the same of eps."""
    if not isinstance(eps, torch.Tensor):
        return x, eps, 0
    return eps, 0.0, eps.stride(0) if eps.shape[0] > 1 else 0


def _largest(dtype: torch.dtype) -> float:
    """Return what eta is cut to: what the dtype holds, with room for rounding if it computes."""
    return LARGEST.get(str(dtype).removeprefix("torch."), 0.5 * torch.finfo(dtype).max)
