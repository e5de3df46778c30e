"""Files with a digest in them, by which every flipped bit is noticed, and atomic writes.

A digest stands inside its file, so that one rename stores both: in JSON under a key, in YAML in a
comment at the end, in Parquet as ``parquet`` says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

DIGITS = 64
"""Length of a digest."""

CHUNK = 2**20
"""Bytes of a file that are read at a time."""

_COMMENT = b"# checksum: "

Content: TypeAlias = bytes | Callable[[BinaryIO], object]


class IntegrityError(Exception):
    """A file is not what was written."""


def to_json(content: Mapping[str, Any]) -> bytes:
    """Return a JSON object with a digest of what it says."""
    return json.dumps({**content, "checksum": _of_values(content)}, indent=2, default=repr).encode()


def from_json(content: bytes) -> dict[str, Any]:
    """Return what ``to_json`` was given, in plain types.

    Raises:
        IntegrityError: It says something else.
    """
    try:
        found = json.loads(content)
        if found.pop("checksum") != _of_values(found):
            raise IntegrityError("its checksum does not fit what it says")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise IntegrityError("it is no JSON object with a checksum") from None
    checked: dict[str, Any] = found
    return checked


def to_commented(text: str) -> bytes:
    """Return a text with its digest in a comment at the end."""
    content = text.encode()
    return content + _COMMENT + digest(content).encode() + b"\n"


def from_commented(content: bytes) -> str:
    """Return the text that ``to_commented`` was given.

    Raises:
        IntegrityError: It is another one.
    """
    text, mark, checksum = content.rpartition(_COMMENT)
    if not mark or checksum != digest(text).encode() + b"\n":
        raise IntegrityError("its checksum does not fit its bytes")
    return text.decode()


def digest(content: bytes) -> str:
    """Return BLAKE2b, 32 bytes in hexadecimal."""
    return digest_of([content])


def digest_of(parts: Iterable[bytes]) -> str:
    """Return the digest of the parts one after the other."""
    hashed = hashlib.blake2b(digest_size=DIGITS // 2)
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()


def read_file(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file; a device or a pipe is not opened.

    Raises:
        FileNotFoundError: There is none.
        IntegrityError: It is something else than a file, larger than ``most``, or unreadable.
    """
    check_file(path, most)
    try:
        return path.read_bytes()
    except PermissionError as error:
        raise IntegrityError(f"it cannot be read ({error.strerror})") from error


def digest_of_file(path: Path, most: int) -> str:
    """Return the digest of a regular file, as ``read_file`` would read it."""
    check_file(path, most)
    with path.open("rb") as file:
        return digest_of(iter(lambda: file.read(CHUNK), b""))


def check_file(path: Path, most: int) -> None:
    """Check that a path is a regular file, or a link to one, as ``read_file`` does."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            raise IntegrityError("it is a link to nothing") from None
        raise FileNotFoundError(*error.args) from error
    except OSError as error:
        raise IntegrityError(f"it cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise IntegrityError("it is not a file")
    if status.st_size > most:
        raise IntegrityError(f"it is larger than {most} bytes")


def write_atomically(path: Path, content: Content, *, temporary: Path) -> None:
    """Write a file so that it is there in full, also after a power failure, or not at all.

    Args:
        path: The file.
        content: All of it, or what writes it into an open file.
        temporary: A folder on the same file system for the file until it is complete.
    """
    with _written(path, content, temporary) as unfinished:
        unfinished.replace(path)
    _sync_folder(path.parent)


def create_atomically(path: Path, content: bytes, *, temporary: Path) -> bool:
    """Write as ``write_atomically`` does, but leave a file that is there as it is.

    Returns:
        Whether this call made the file. Of several processes exactly one does.
    """
    with _written(path, content, temporary) as unfinished:
        try:
            os.link(unfinished, path)  # fails where the name is taken
        except FileExistsError:
            return False
        except OSError:  # a file system without links: two processes may both be first
            if path.exists():
                return False
            unfinished.replace(path)
    _sync_folder(path.parent)
    return True


@contextlib.contextmanager
def _written(path: Path, content: Content, temporary: Path) -> Iterator[Path]:
    unfinished = temporary / f"{path.name}.{uuid.uuid4().hex}"
    try:
        with unfinished.open("x+b") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield unfinished
    finally:
        unfinished.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power failure, where the file system can."""
    with contextlib.suppress(PermissionError):  # Windows opens no folders
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _of_values(content: Mapping[str, Any]) -> str:
    return digest(json.dumps(content, sort_keys=True, default=repr).encode())
