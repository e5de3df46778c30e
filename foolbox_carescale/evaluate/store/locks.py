"""Locks that processes on any number of machines hold on the bytes of a file."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class Locks:
    """The locks of this process on one file, which the kernel ends with the process."""

    def __init__(self, path: Path) -> None:
        """Open the file, made where it is missing; never through a link."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        self._file = os.open(path, flags, 0o666)

    def take(self, byte: int, *, wait: bool = False, shared: bool = False) -> bool | None:
        """Lock a byte.

        Args:
            byte: Which one.
            wait: Wait for whoever holds it.
            shared: Together with others that share it.

        Returns:
            Whether this process holds it now; None where the file system has no locks.
        """
        if fcntl is None:
            return None
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.lockf(self._file, kind if wait else kind | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            return None if error.errno in _NO_LOCKS else False
        return True

    def release(self, byte: int) -> None:
        """Unlock a byte."""
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)

    def close(self) -> None:
        """Unlock all."""
        os.close(self._file)
