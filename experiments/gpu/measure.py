"""Count waits and launches, memory and time on a CUDA device."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

Call = Callable[[], Any]


def waits_of(call: Call) -> int:
    """Return how often the host waits for the device in a call; the first call compiles."""
    call()
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("synchroniz" in str(warning.message) for warning in caught)


def launches_of(call: Call) -> tuple[int, float]:
    """Return the kernels and copies of a call, and the microseconds that they take."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    device = torch.autograd.DeviceType.CUDA
    events = [event for event in profiler.events() if event.device_type == device]
    return len(events), sum(event.device_time for event in events)


def peak_of(call: Call) -> int:
    """Return the bytes that a call holds at its peak, its result included."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def microseconds(call: Call, *, least: int = 15, budget: float = 0.3) -> float:
    """Return the median time of a call: by events on a GPU, else by the clock, once.

    The host's time counts where the device waits for it.

    Args:
        call: What is timed; three calls go before.
        least: Calls at least.
        budget: Seconds after which no further call is made.
    """
    if not torch.cuda.is_available():
        call()
        began = time.perf_counter()
        call()
        return 1e6 * (time.perf_counter() - began)
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    pairs: list[tuple[Any, Any]] = []
    began = time.perf_counter()
    while len(pairs) < least or (time.perf_counter() - began < budget and len(pairs) < 200):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return 1e3 * statistics.median(start.elapsed_time(end) for start, end in pairs)


def graph_of(call: Call, times: int = 1) -> Any:
    """Return a CUDA graph of so many calls, after one call outside on a stream of its own."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            call()
    return graph
