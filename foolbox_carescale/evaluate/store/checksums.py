"""Parquet files that carry a checksum of all their bytes, and files that appear all at once.

The checksum stands in the footer's key-value metadata, where every reader of Parquet ignores
it: BLAKE2b of the file with zeros in the checksum's place. One file, and so one rename, holds
both, and neither a truncation nor a flipped bit, in the data or in the footer, goes unseen.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_NAME = "carescale.blake2b"
_KEY = _NAME.encode()
_DIGITS = 64
_BLANK = b"0" * _DIGITS
_GAP = 2  # bytes of Thrift between a key and a value of 64 bytes: a field's type, a length


class IntegrityError(Exception):
    """A file is not what was written."""


def write_checksummed_bytes(table: pa.Table, notes: Mapping[str, str]) -> bytes:
    """Return a table as the bytes of a Parquet file with a checksum.

    Args:
        table: The rows.
        notes: More key-value metadata.
    """
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({**notes, _NAME: _BLANK.decode()})
    content = bytearray(buffer.getvalue().to_pybytes())
    place = _place(content)
    assert content[place : place + _DIGITS] == _BLANK
    content[place : place + _DIGITS] = digest(content).encode()
    return bytes(content)


def read_verified(content: bytes) -> tuple[pa.Table, dict[str, str]]:
    """Return the rows and the notes of a file, whose checksum must be right.

    Raises:
        IntegrityError: A byte differs from what was written.
    """
    place = _place(content)
    blanked = bytearray(content)
    blanked[place : place + _DIGITS] = _BLANK
    if content[place : place + _DIGITS] != digest(blanked).encode():
        raise IntegrityError("its checksum does not fit its bytes")
    file = pq.ParquetFile(pa.BufferReader(content))
    notes = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    # one thread: parts are small, and a pool of them would cost more than it saves
    return file.read(use_threads=False).replace_schema_metadata(None), notes


def digest(content: bytes | bytearray) -> str:
    """BLAKE2b of 32 bytes, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=_DIGITS // 2).hexdigest()


def write_atomically(path: Path, content: bytes, *, temporary: Path) -> None:
    """Write a file so that it is there in full, also after a power failure, or not at all.

    Args:
        path: The file.
        content: All of it.
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
def _written(path: Path, content: bytes, temporary: Path) -> Iterator[Path]:
    unfinished = temporary / f"{path.name}.{uuid.uuid4().hex}"
    try:
        with unfinished.open("wb") as file:
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


def _place(content: bytes | bytearray) -> int:
    found = content.rfind(_KEY)
    place = found + len(_KEY) + _GAP
    if found < 0 or place + _DIGITS > len(content):
        raise IntegrityError("it has no checksum, or is cut off")
    return place
