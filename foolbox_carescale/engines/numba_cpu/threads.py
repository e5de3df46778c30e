"""A small pool that spreads row ranges over threads.

Not numba's own threading: its default layer aborts when two threads enter a parallel kernel at
once, and its OpenMP layer does not survive a fork; data-loader workers do both.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

ENVIRONMENT_VARIABLE = "CARESCALE_NUM_THREADS"
# More threads than this wait for memory rather than compute.
MAX_DEFAULT = 8
# Elements for which a thread takes about 60 microseconds: handing them over costs some 20.
MIN_WORK = 100_000
# No range is smaller than this many elements, where there are so many: some 15 microseconds.
MIN_RANGE = 25_000

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_num_threads: int | None = None


def get_num_threads() -> int:
    """Return how many threads share the rows of a call."""
    global _num_threads
    if _num_threads is None:
        _num_threads = _default()
    return _num_threads


def set_num_threads(threads: int) -> None:
    """Overrides the default: the processors that this process may use, at most 8.

    The environment variable ``CARESCALE_NUM_THREADS`` does the same at the first call.

    Args:
        threads: At least 1.

    Raises:
        ValueError: threads < 1.
    """
    global _num_threads, _pool
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    with _lock:
        pool, _pool, _num_threads = _pool, None, threads
    if pool is not None:
        pool.shutdown(wait=False)


def spread(kernel: Callable[[int, int], object], rows: int, work: int) -> None:
    """Calls kernel(first, last) on ranges that cover ``rows``; ``work`` is the size of it all."""
    threads = min(get_num_threads(), rows) if work >= MIN_WORK else 1
    if threads == 1:
        kernel(0, rows)
        return
    ranges = _ranges(rows, threads, max(MIN_RANGE * rows // work, 1))
    # emptied at the end: the pool keeps what it did not begin, which may not keep the arrays, too
    job = [kernel]

    def take() -> None:
        for first, last in ranges:  # which they share: the interpreter's lock hands out each once
            job[0](first, last)

    helpers = _submit(take, threads - 1)
    try:
        take()
    finally:
        # A helper that no thread has begun is not waited for: the ranges are all taken.
        begun = [helper for helper in helpers if not helper.cancel()]
        for helper in begun:
            helper.result()
        job.clear()


def _ranges(rows: int, threads: int, least: int) -> Iterator[tuple[int, int]]:
    """Ever smaller parts of the rows, so that threads that begin late and long rows even out."""
    edges = [0]
    while (left := rows - edges[-1]) > 0:
        edges.append(edges[-1] + min(max(left // threads, least), left))
    return itertools.pairwise(edges)


def _submit(task: Callable[[], None], times: int) -> list[Future[None]]:
    global _pool
    futures: list[Future[None]] = []
    with _lock:
        if _pool is None:
            size = max(get_num_threads() - 1, 1)
            _pool = ThreadPoolExecutor(size, thread_name_prefix="carescale")
        # RuntimeError: the interpreter is shutting down, and the caller does it all.
        with contextlib.suppress(RuntimeError):
            for _ in range(times):
                futures.append(_pool.submit(task))
    return futures


def _default() -> int:
    given = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if given:
        if not given.isdecimal() or int(given) < 1:
            raise ValueError(f"{ENVIRONMENT_VARIABLE} must be a positive integer, got {given!r}")
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MAX_DEFAULT)
    return min(os.cpu_count() or 1, MAX_DEFAULT)


def _forget_pool() -> None:
    """In a forked child, whose copy of the pool has no threads and whose lock may be held."""
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
