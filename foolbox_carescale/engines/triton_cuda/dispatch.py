"""Launches of kernels, at the least cost for the host, and the words that they leave flags in.

At every launch Triton looks for the compiled kernel by all arguments and compares all globals that
the kernel reads, which costs more than the kernel itself. Here it is asked once for each kind of
call, and the kernel that it returns is kept.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from typing import Any

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"

# Words of flags are made so many at a time, each at an address that Triton calls aligned.
WORDS, WORD_STEP = 256, 4
# Triton takes larger integers for others; here they are the bits of numbers, of which there may be
# many.
LARGEST_INT32 = 2**31 - 1

_COMPILED: dict[tuple[Any, ...], Any] = {}
_WORDS: dict[tuple[Any, ...], Iterator[torch.Tensor]] = {}


def start(
    kernel: Any,
    grid: tuple[int, int, int],
    warps: int,
    args: tuple[torch.Tensor | int, ...],
    numbers: tuple[int, ...],
    constants: dict[str, Any],
    registers: int | None = None,
) -> None:
    """Launch a kernel on the current device.

    Args:
        kernel: What ``triton.jit`` returned.
        grid: How many programs.
        warps: Warps of a program.
        args: The kernel's first arguments.
        numbers: Those after them, `bits_of` numbers, for which nothing is compiled again.
        constants: What is compiled in, by name; all that is left, in the kernel's order.
        registers: The most that a thread may have, so that more programs run at once.
    """
    if INTERPRETED:
        kernel[grid](*args, *numbers, **constants)
        return
    # all that Triton compiles an argument's own code for, and more: shapes are few
    kinds = [
        (a if 0 <= a <= LARGEST_INT32 else -1 - (a % 16 == 0))
        if type(a) is int
        else (a.dtype, a.data_ptr() % 16)  # type: ignore[union-attr]
        for a in args
    ]
    key = (id(kernel), warps, torch.cuda.current_device(), *constants.values(), *kinds)
    compiled = _COMPILED.get(key)
    if compiled is not None:
        try:
            compiled[grid](*args, *numbers, *constants.values())
            return
        except Exception:  # a Triton that wants other arguments here; else it is raised below
            _COMPILED[key] = None
    assert tuple(kernel.arg_names[-len(constants) :]) == tuple(constants)  # which go by position
    # Triton 3.9 wants fusion said
    options = {"num_warps": warps, "maxnreg": registers, "enable_fp_fusion": True}
    compiled = kernel[grid](*args, *numbers, **constants, **options)
    _COMPILED.setdefault(key, compiled)


def bits_of(value: float) -> int:
    """Return the bits of a float64, see `elements.number_of`."""
    bits: int = struct.unpack("q", struct.pack("d", value))[0]
    return bits


def flag_word(device: torch.device) -> torch.Tensor:
    """Return an int32 of shape (1,) that is 0 and nobody else's, in most calls without a launch."""
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    key = device, stream, threading.get_ident()
    if key not in _WORDS:
        _WORDS[key] = _words(device)
    return next(_WORDS[key])


def _words(device: torch.device) -> Iterator[torch.Tensor]:
    while True:
        words = torch.zeros((WORDS, WORD_STEP), dtype=torch.int32, device=device)
        yield from words[:, :1].unbind()
