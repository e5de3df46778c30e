"""Standard output and standard error, which may be closed, full or of few characters."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO


class Output:
    """A text stream that drops what nobody reads or has room for, so that the command continues.

    Attributes:
        failure: The error after which everything is dropped.
    """

    def __init__(self, stream: TextIO | None) -> None:
        # None where the descriptor is closed: without this one, a file would take its number
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def full(self) -> bool:
        """Return whether text was lost that somebody would have read."""
        return self.failure is not None and not isinstance(self.failure, BrokenPipeError)

    def write(self, text: str) -> int:
        """Write text; characters that the stream cannot encode are escaped."""
        encoding = self._stream.encoding or "utf-8"
        escaped = text.encode(encoding, "backslashreplace").decode(encoding)
        self._attempt(self._stream.write, escaped)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._attempt(self._stream.flush)

    def _attempt(self, call: Callable[..., object], *arguments: str) -> None:
        if self.failure is not None:
            return
        try:
            call(*arguments)
        except OSError as error:
            self.failure = error
            # Python writes what is left in the buffer when it exits
            with contextlib.suppress(OSError), open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), self._stream.fileno())


@contextlib.contextmanager
def guarded() -> Iterator[Output]:
    """Guard both streams; yield standard output."""
    output = Output(sys.stdout)
    streams: Any = output, Output(sys.stderr)
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            yield output
        finally:
            output.flush()
            if output.full:
                assert output.failure is not None
                reason = output.failure.strerror
                print(f"carescale: error: standard output: {reason}", file=sys.stderr)
