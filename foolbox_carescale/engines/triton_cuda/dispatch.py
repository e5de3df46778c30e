"""Launches of kernels, at the least cost for the host, and the words that they leave flags in.

At every launch Triton looks for the compiled kernel by all arguments and compares all globals that
the kernel reads, which costs more than the kernel itself. Here it is asked once for each kind of
call, and the kernel that it returns is kept.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from triton.runtime import driver

from ..base import NotStartedError

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"

# Words of flags are made so many at a time, each at an address that Triton calls aligned.
WORDS, WORD_STEP = 256, 4
# Kinds of calls that are remembered: a batch that gets smaller with every step has many.
MOST_KINDS = 4096
# Triton takes larger integers for others; here they are the bits of numbers, of which there may be
# many.
LARGEST_INT32 = 2**31 - 1

_WORDS: dict[tuple[Any, ...], Iterator[torch.Tensor]] = {}
_ONE, _FOUR = ((struct.Struct(f"{n}d").pack, struct.Struct(f"{n}q").unpack) for n in (1, 4))
_HERE = contextlib.nullcontext()


class Launch:
    """A kernel with its grid and what is compiled in, for arguments of one kind.

    Integers that Triton compiles for, tensors' dtypes and `alignments` are the same in every call.

    Args:
        kernel: What ``triton.jit`` returned.
        grid: How many programs.
        warps: Warps of a program.
        constants: What is compiled in, by name; the kernel's last arguments, in its order.
        registers: The most that a thread may have, so that more programs run at once.
    """

    def __init__(
        self,
        kernel: Any,
        grid: tuple[int, int, int],
        warps: int,
        constants: dict[str, Any],
        registers: int | None = None,
    ) -> None:
        assert tuple(kernel.arg_names[-len(constants) :]) == tuple(constants)  # they go by position
        self.kernel = kernel
        self._grid, self._constants, self._values = grid, constants, tuple(constants.values())
        # Triton 3.9 wants fusion said
        self._options = {"num_warps": warps, "maxnreg": registers, "enable_fp_fusion": True}
        self._run: Callable[..., None] | None = None
        self._runs_alone, self._started = not INTERPRETED, False

    def __call__(self, *arguments: Any) -> None:
        """Launch the kernel on the current device.

        Raises:
            NotStartedError: It cannot be compiled, loaded or launched.
        """
        if self._run is not None:
            try:
                self._run(*arguments, *self._values)
                return
            except Exception:  # a Triton that wants other arguments here; else it is raised below
                self._run, self._runs_alone = None, False
        try:
            compiled = self.by_triton(*arguments)
        except Exception as error:
            if self._started:
                raise
            raise NotStartedError(str(error)) from error
        self._started = True
        if self._runs_alone:
            self._run = compiled[self._grid]

    def by_triton(self, *arguments: Any) -> Any:
        """Launch the kernel as Triton does, which looks for the compiled one, and return that."""
        options = {} if INTERPRETED else self._options
        return self.kernel[self._grid](*arguments, **self._constants, **options)


def remembered(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes launches, for each kind of call once.

    The interpreter has nothing to keep, and its tests change what launches are made from.
    """
    return prepare if INTERPRETED else functools.lru_cache(MOST_KINDS)(prepare)


def alignments(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return dtypes and alignments, for which Triton compiles; of bits only whether they are large.

    None where the first argument, which stands for what is not there, comes again. Memory that has
    just been allocated is aligned.
    """
    first = arguments[0]
    kinds: list[Any] = [(first.dtype, first.data_ptr() % 16 == 0)]
    for a in arguments[1:]:
        if a is first:
            kinds.append(None)
        elif type(a) is int:
            kinds.append(-LARGEST_INT32 <= a <= LARGEST_INT32)
        else:
            kinds.append((a.dtype, a.data_ptr() % 16 == 0))
    return tuple(kinds)


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Return a block in which launches go to a device."""
    if INTERPRETED or torch.cuda.current_device() == device.index:
        return _HERE
    return torch.cuda.device(device)


def bits_of(*values: float) -> tuple[int, ...]:
    """Return the bits of one float64 or of four, see `elements.number_of`."""
    pack, unpack = _ONE if len(values) == 1 else _FOUR
    return unpack(pack(*values))


def rows_of(a: torch.Tensor, n: int) -> tuple[torch.Tensor, int]:
    """Return a tensor whose samples of n elements are contiguous, and how far apart they begin."""
    if a.is_contiguous() and not a.is_neg():  # strides take longer to ask for
        return a, n
    a = a.detach().resolve_neg().reshape(a.shape[0], n)  # kernels do not see PyTorch's sign bit
    if a.stride(1) != 1 and n > 1:
        a = a.contiguous()
    return a, a.stride(0)


def word_for(x: torch.Tensor, *, wanted: bool) -> torch.Tensor:
    """Return where kernels leave their flags; without a value where nobody asks for them.

    So kernels are the same with and without checks, and a call in a CUDA graph, which checks
    nothing, finds what one before it had compiled.
    """
    return flag_word(x.device) if wanted else torch.empty(1, dtype=torch.int32, device=x.device)


def flag_word(device: torch.device) -> torch.Tensor:
    """Return an int32 of shape (1,) that is 0 and nobody else's, in most calls without a launch."""
    stream = driver.active.get_current_stream(device.index) if device.type == "cuda" else 0
    key = device, stream, threading.get_ident()
    words = _WORDS.get(key)
    if words is None:
        words = _WORDS[key] = _words(device)
    return next(words)


def _words(device: torch.device) -> Iterator[torch.Tensor]:
    while True:
        words = torch.zeros((WORDS, WORD_STEP), dtype=torch.int32, device=device)
        yield from words[:, :1].unbind()
