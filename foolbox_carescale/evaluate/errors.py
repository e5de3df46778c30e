"""Errors and warnings for the user."""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("carescale")
"""Gets every EvaluationWarning, and when a setting or an epoch starts and ends; prints nothing."""
LOGGER.addHandler(logging.NullHandler())


class UserError(ValueError):
    """Wrong input: lines, each of which names the argument, the value and the remedy.

    The command line prints the message and exits with code 2; every other
    exception is a programming error and keeps its traceback.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*(printable(" ".join(line.split())) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class SampleError(UserError):
    """A sample of the data cannot be read; others may be."""


class StorageError(UserError):
    """The run folder cannot be written: no room, or no permission. What it holds is intact."""


@contextmanager
def named_memory(batch_size: int) -> Iterator[None]:
    """Raise an error of a device or a computer without memory as one line on the batch size."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        exhausted = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        if not (exhausted or any(phrase in str(error) for phrase in _NO_MEMORY)):
            raise
        remedy = "free memory, and run it again"
        if batch_size > 1:
            remedy = f"give batch_size={batch_size // 2} and another output, or {remedy}"
        raise UserError(
            f"batch_size: {batch_size} samples at once need more memory than there is"
            f" ({describe(error)}); {remedy}: finished tasks are kept"
        ) from error


_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "RESOURCE_EXHAUSTED")
"""Words of PyTorch on a CPU, CUDA's libraries and XLA, whose errors have no type of their own."""


class EvaluationWarning(UserWarning):
    """Something that makes the numbers of a run less trustworthy.

    Attributes:
        message: What was found.
        remedy: What to do about it; may be empty.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message, self.remedy = printable(message), printable(remedy)
        super().__init__(self.message, self.remedy)

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


def warn(warning: EvaluationWarning, *, stacklevel: int = 2) -> None:
    """Warn as ``warnings.warn`` does, and log the warning, whatever the filters are."""
    LOGGER.warning("%s", warning)
    warnings.warn(warning, stacklevel=stacklevel + 1)


def printable(text: str) -> str:
    """Return text in which a replacement stands for what a terminal obeys or cannot show."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def describe(error: BaseException) -> str:
    """Return an error's type and message on one line, cut where it is long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def nearest(name: str, valid: Iterable[str], *, shown: int = 3) -> str:
    """Return a remedy for a misspelt name: the closest valid names, or all if they are few.

    Returns:
        A phrase such as ``did you mean 'steps'?`` or ``valid: 'a', 'b'``.
    """
    names = sorted(set(valid))
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=shown, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(repr(by_lower[match]) for match in close)}?"
    few = 12  # more than that is no help on one line
    listed = ", ".join(repr(candidate) for candidate in names[:few])
    return f"valid: {listed}{', ...' if len(names) > few else ''}" if names else "there is none"
