"""Stores results while the next ones are computed."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import pyarrow as pa

from ..store.folder import RunFolder
from ..store.schema import TaskResult

AHEAD = 2
"""Results that may wait to be stored; then computing waits for them."""


class Writer:
    """A thread that stores the results of tasks in their order, and ends their claims.

    At the end of a with statement, also by an exception, all results that it got are stored.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, "carescale-writer")
        self._waiting: deque[Future[None]] = deque()
        # with its first array pyarrow imports pandas: half a second, while the first task runs
        self._thread.submit(pa.array, [0])

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self.flush()

    def write(self, number: int, part: TaskResult) -> None:
        """Store the result of a task, which is claimed, in the thread.

        Raises:
            StorageError: One before it could not be stored.
        """
        while self._waiting and (len(self._waiting) >= AHEAD or self._waiting[0].done()):
            self._waiting.popleft().result()
        if self._folder.due:
            self.flush()
            self._folder.compact()
        self._waiting.append(self._thread.submit(self._store, number, part))

    def flush(self) -> None:
        """Wait until all is stored.

        Raises:
            StorageError: A result could not be stored.
        """
        while self._waiting:
            self._waiting.popleft().result()

    def _store(self, number: int, part: TaskResult) -> None:
        self._folder.store(part)
        self._folder.release(number)
