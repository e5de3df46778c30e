"""Files with a digest in them, by which every flipped bit is noticed, and atomic writes.

A digest stands inside its file, so that one rename stores both: in Parquet between the pages and
the footer, where no offset points and readers see nothing; in JSON under a key; in YAML in a
comment at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_DIGITS = 64
_TAIL = 8  # bytes: the footer's length and Parquet's magic number
_COMMENT = b"# checksum: "
_CHUNK = 2**20

MOST_ROWS = 2**22
MOST_BYTES = 2**30
"""Limits of a Parquet file that is read: a few bytes can stand for any number of equal rows."""


class IntegrityError(Exception):
    """A file is not what was written."""


def to_parquet(table: pa.Table, notes: Mapping[str, str]) -> bytes:
    """Return a table as the bytes of a Parquet file with a digest.

    Not compressed: rows of a task are some kilobytes, and read in half the time.

    Args:
        table: The rows.
        notes: More key-value metadata.
    """
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, table.schema, compression="none") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(notes)
    content: bytes = buffer.getvalue().to_pybytes()
    footer = _footer(content)
    return content[:footer] + digest(content).encode() + content[footer:]


def from_parquet(content: bytes, schema: pa.Schema) -> tuple[pa.Table, dict[str, str]]:
    """Return the rows and the notes of a Parquet file.

    Raises:
        IntegrityError: A byte differs from what ``to_parquet`` wrote, or the columns or the size
            are not those that it writes.
    """
    footer = _footer(content)
    pages = content[: max(footer - _DIGITS, 0)]
    if content[len(pages) : footer] != digest(pages, content[footer:]).encode():
        raise IntegrityError("its checksum does not fit its bytes")
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    try:
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
        notes = {k.decode(): v.decode() for k, v in (file.metadata.metadata or {}).items()}
        if file.schema_arrow.names != schema.names:
            differ = set(file.schema_arrow.names) ^ set(schema.names)
            raise IntegrityError(f"its columns differ in {', '.join(map(repr, sorted(differ)))}")
        _check_size(file.metadata)
        # one thread: files are small, and a pool of them would cost more than it saves
        table = file.read(use_threads=False).replace_schema_metadata(None)
        for name in texts:
            lengths = [pc.max(pc.binary_length(c.dictionary)) for c in table[name].chunks]
            if max((n.as_py() or 0 for n in lengths), default=0) * len(table) > MOST_BYTES:
                raise IntegrityError(f"its column {name!r} is too large")
        table.validate(full=True)  # texts in UTF-8
        return table.cast(schema), notes
    except (pa.ArrowException, OSError, ValueError, AttributeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:100]
        raise IntegrityError(f"it is not the Parquet of a run: {reason}") from error


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


def digest(*parts: bytes) -> str:
    """Return BLAKE2b, 32 bytes in hexadecimal, of the parts one after the other."""
    hashed = hashlib.blake2b(digest_size=_DIGITS // 2)
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()


def read_file(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file; a device or a pipe is not opened.

    Raises:
        FileNotFoundError: There is none.
        IntegrityError: It is something else than a file, larger than ``most``, or unreadable.
    """
    _check_file(path, most)
    try:
        return path.read_bytes()
    except PermissionError as error:
        raise IntegrityError(f"it cannot be read ({error.strerror})") from error


def digest_of_file(path: Path, most: int) -> str:
    """Return the digest of a regular file, as ``read_file`` would read it."""
    _check_file(path, most)
    hashed = hashlib.blake2b(digest_size=_DIGITS // 2)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hashed.update(chunk)
    return hashed.hexdigest()


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
        with unfinished.open("xb") as file:
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


def _footer(content: bytes) -> int:
    """Return where a Parquet file's footer begins."""
    footer = len(content) - _TAIL - int.from_bytes(content[-_TAIL:-4], "little")
    if footer < 0:
        raise IntegrityError("it is cut off")
    return footer


def _check_size(metadata: pq.FileMetaData) -> None:
    columns = [
        metadata.row_group(i).column(j)
        for i in range(metadata.num_row_groups)
        for j in range(metadata.num_columns)
    ]
    if (
        metadata.num_rows > MOST_ROWS
        or sum(column.total_uncompressed_size for column in columns) > MOST_BYTES
        or any(column.compression != "UNCOMPRESSED" for column in columns)
    ):
        raise IntegrityError("it is compressed or too large")


def _check_file(path: Path, most: int) -> None:
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


def _of_values(content: Mapping[str, Any]) -> str:
    return digest(json.dumps(content, sort_keys=True, default=repr).encode())
