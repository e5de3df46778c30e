"""Writing into a folder that several processes share: never halves, never through a link."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from ..errors import StorageError
from .checksums import Content, write_atomically
from .locks import Locks

_UNFINISHED, _CLAIMS = ".unfinished", ".claims"
_WRITERS = 2**31 - 1  # a byte that every process that writes holds
_COMPACTING = (
    2**31 - 2
)  # one that the process holds that changes results/; those before are tasks, batches


class SharedFolder:
    """A folder in which files appear complete or not at all, and the locks on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._locks: Locks | None = None

    def claim(self, number: int, *, wait: bool = False) -> bool:
        """Keep others from computing a task or a batch, until ``release`` or this process's end.

        A lock on one byte of a file, which the kernel ends with the process. Where a file
        system has no locks every claim is granted, and a task may be computed twice.

        Args:
            number: The task's; a batch's comes after those of all tasks.
            wait: Wait for whoever has claimed it.

        Returns:
            False if another process has claimed it.
        """
        return self._taken(number, wait=wait) is not False

    def release(self, number: int) -> None:
        """End a claim."""
        if self._locks is not None:
            self._locks.release(number)

    @contextlib.contextmanager
    def compacting(self, *, wait: bool = False) -> Iterator[bool | None]:
        """Keep other processes from changing ``results`` during a with statement.

        Yields:
            False if another process does so; None where the file system has no locks.
        """
        held = self._taken(_COMPACTING, wait=wait)
        try:
            yield held
        finally:
            if held:
                self.release(_COMPACTING)

    def close(self) -> None:
        """End all claims."""
        if self._locks is not None:
            self._locks.close()
            self._locks = None

    def own(self, name: str) -> Path:
        """Return a folder inside this one, made where it is missing; never through a link."""
        path = self.path / name
        with self.writing(path):
            path.mkdir(exist_ok=True)
            if path.is_symlink():
                raise OSError(errno.ELOOP, "it is a symbolic link")
        return path

    def write_file(self, name: str, content: Content) -> None:
        """Store a file, here or in a folder inside this one."""
        path = self.path / name
        with self.writing(path):
            temporary = self.enter()
            if path.parent != self.path:
                self.own(path.parent.name)
            write_atomically(path, content, temporary=temporary)

    def enter(self) -> Path:
        """Return the folder of unfinished files, cleared unless another process writes here."""
        unfinished = self.own(_UNFINISHED)
        if self._locks is None:
            self._locks = Locks(self.path / _CLAIMS)
            if self._locks.take(_WRITERS):
                for left in unfinished.iterdir():
                    with contextlib.suppress(OSError):  # a folder, which no process left here
                        left.unlink()
            self._locks.take(_WRITERS, shared=True, wait=True)
        return unfinished

    @staticmethod
    @contextlib.contextmanager
    def writing(path: Path) -> Iterator[None]:
        """Raise a StorageError for what the system says about a file that cannot be written."""
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"output: {path} cannot be written ({error.strerror or error}); what was stored"
                " before is intact: make room or choose another folder with output=..., and run"
                " again"
            ) from error

    def _taken(self, byte: int, *, wait: bool) -> bool | None:
        with self.writing(self.path):
            self.enter()
            assert self._locks is not None
        return self._locks.take(byte, wait=wait)
