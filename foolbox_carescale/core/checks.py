"""When bad values of tensors on an accelerator are looked for: at once, later, or never.

Reading a tensor of a GPU makes the host wait until all work before it is done. An engine finds bad
values as it reads them, writes what it found into a tensor of flags, and asks ``flagged``. In
``deferred`` the flags stay on the device and are read once, at the end of the block. Flags are
sums of ``NOT_FINITE``, ``OUT_OF_BOUNDS`` and ``BAD_EPS``, or just True. An engine leaves rows with
flags where they are (eta 0), so that going on until the end of the block does no harm.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

NOT_FINITE = 1  # NaN in x; NaN or infinite in the second tensor
OUT_OF_BOUNDS = 2  # x is outside the bounds by more than rounding
BAD_EPS = 4  # negative, NaN or infinite

Names = tuple[str, str]
Report = Names | Callable[[int], None]
"""What the operator calls x and the second tensor; or what is called with the flags, or-ed."""

# Flags of so many calls are or-ed to one number on the device, so that they need no memory.
MOST_COLLECTED = 256


@contextmanager
def value_checks(when: Literal["each_call", "end", "never"]) -> Iterator[None]:
    """Choose when the values of PyTorch tensors on an accelerator are checked, within a block.

    It holds for operators and attacks that are called in the block, in this thread. Shapes, dtypes
    and numbers are checked in any case, and so are values of tensors on the CPU, where a check
    costs next to nothing. An eager call of JAX or TensorFlow reads from an accelerator once, or
    within "never" not at all; while they trace, nothing is read.

    Args:
        when: "each_call", the default outside of any block: each call of an operator waits once
            for the device. "end": once at the end of the block; the error names the argument, not
            the sample. "never": not at all; results for bad values mean nothing.

    Raises:
        ValueError: ``when`` is none of these; at the end of the block, what the checks found.
    """
    blocks = {"each_call": _now, "end": deferred, "never": skipped}
    if when not in blocks:
        raise ValueError(f"when: expected 'each_call', 'end' or 'never', got {when!r}")
    with blocks[when]():
        yield


def flagged(bad: Any, report: Report = ("x", "delta")) -> bool:
    """Return whether any flag is set, which the host waits for; False in a block that defers.

    Args:
        bad: Flags, a PyTorch tensor of any shape, bool or integers, not written to afterwards; or
            None, where `are_skipped`.
        report: For a block that defers: what to say at its end if a flag is set.
    """
    mode = _MODE.get()
    if bad is None or mode == "never":
        return False
    if not isinstance(mode, _Collected):
        return bool((bad if bad.numel() == 1 else bad.any()).item())
    if bad.numel():
        mode.add(bad, report)
    return False


def describe(names: Names, flags: int) -> str:
    """Return what flags say, without where."""
    x_name, name = names
    found = {
        OUT_OF_BOUNDS: f"{x_name}: values lie outside the bounds",
        NOT_FINITE: f"{x_name} or {name}: values are NaN or infinite",
        BAD_EPS: "eps: values are negative, NaN or infinite",
    }
    return "; ".join(text for bit, text in found.items() if flags & bit)


def are_skipped() -> bool:
    """Return whether flags are not even collected, so that none need be computed.

    That is also while PyTorch captures a CUDA graph: its replays wait for nothing.
    """
    if _MODE.get() == "never":
        return True
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    cuda = torch.cuda
    # without a driver the second question is an error
    return bool(cuda.is_initialized() and cuda.is_current_stream_capturing())


@contextmanager
def deferred() -> Iterator[None]:
    """Collect flags, and read them once at the end of the block; see ``value_checks``.

    Inside of another such block, the flags are read at the end of that one.
    """
    if _MODE.get() is not None:
        yield
        return
    collected = _Collected()
    with _as_mode(collected):
        yield
    collected.read()


@contextmanager
def skipped() -> Iterator[None]:
    """Neither read nor collect flags; see ``value_checks``."""
    with _as_mode("never"):
        yield


@contextmanager
def _now() -> Iterator[None]:
    with _as_mode(None):
        yield


class _Collected:
    """Flags by what is said about them, device, and the stream that writes them."""

    def __init__(self) -> None:
        self._flags: dict[tuple[Report, Any, int], list[Any]] = {}

    def add(self, bad: Any, report: Report) -> None:
        key = report, bad.device, _stream_of(bad.device)
        flags = self._flags.setdefault(key, [])
        flags.append(bad)
        if len(flags) >= MOST_COLLECTED:
            flags[:] = [_or_ed(flags)]

    def read(self) -> None:
        torch: Any = sys.modules.get("torch")
        for device in {device for _, device, _ in self._flags}:
            keys = [key for key in self._flags if key[1] == device]
            if {stream for *_, stream in keys} != {_stream_of(device)}:
                torch.cuda.synchronize(device)  # this stream waits for no other
            words = torch.stack([_or_ed(self._flags[key]) for key in keys])
            for (report, *_), word in zip(keys, words.tolist(), strict=True):
                if word:
                    _say(report, word)


_MODE: ContextVar[_Collected | Literal["never"] | None] = ContextVar("checks", default=None)


@contextmanager
def _as_mode(mode: Any) -> Iterator[None]:
    token = _MODE.set(mode)
    try:
        yield
    finally:
        _MODE.reset(token)


def _stream_of(device: Any) -> int:
    """Return the current stream of a device."""
    if device.type != "cuda":
        return 0
    stream: int = sys.modules["torch"].cuda.current_stream(device).cuda_stream
    return stream


def _or_ed(flags: list[Any]) -> Any:
    """Return the flags of all tensors in one number, on their device."""
    torch: Any = sys.modules["torch"]
    all_flags = torch.cat([flag.reshape(-1).to(torch.int32) for flag in flags])
    bits = torch.stack([(all_flags & bit).amax() for bit in (NOT_FINITE, OUT_OF_BOUNDS, BAD_EPS)])
    return bits.sum(dtype=torch.int32)


def _say(report: Report, flags: int) -> None:
    if not isinstance(report, tuple):
        report(flags)
        return
    faults = describe(report, flags)
    raise ValueError(f"{faults}; value_checks('each_call') tells in which call and sample")
