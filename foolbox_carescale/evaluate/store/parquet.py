"""Parquet files with a digest in them, by which every flipped bit is noticed.

The digest stands between the pages and the footer, where no offset points and other readers see
nothing, so that one rename stores both.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .checksums import CHUNK, DIGITS, IntegrityError, digest_of

_TAIL = 8  # bytes: the footer's length and Parquet's magic number

MOST_ROWS = 2**22
MOST_BYTES = 2**30
"""Limits of a Parquet file that is read: a few bytes can stand for any number of equal rows."""


def to_parquet(table: pa.Table, notes: Mapping[str, str]) -> bytes:
    """Return a table as the bytes of a Parquet file with a digest."""
    file = io.BytesIO()
    write_parquet(file, table, notes)
    return file.getvalue()


def write_parquet(file: BinaryIO, table: pa.Table, notes: Mapping[str, str]) -> None:
    """Write a table as a Parquet file of one row group, with a digest.

    Not compressed: rows of a task are some kilobytes, and read in half the time.

    Args:
        file: Empty, to be written and read.
        table: The rows.
        notes: More key-value metadata.
    """
    # without Arrow's own schema: other readers shall see texts, not dictionaries
    with pq.ParquetWriter(file, table.schema, compression="none", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(notes)
    footer = _footer(file, file.seek(0, io.SEEK_END))
    file.seek(footer)
    rest = file.read()
    checksum = _digest(file, footer, rest)
    file.seek(footer)
    file.write(checksum.encode() + rest)


def from_parquet(content: bytes, schema: pa.Schema) -> tuple[pa.Table, dict[str, str]]:
    """Return the rows and the notes of a Parquet file.

    Raises:
        IntegrityError: As ``VerifiedParquet`` does.
    """
    file = VerifiedParquet(pa.BufferReader(content), schema)
    return file.read().cast(schema), file.notes


def pandas_types(schema: pa.Schema) -> dict[str, str]:
    """Return metadata by which pandas keeps nullable columns of truth values and whole numbers.

    Without them it reads such a column as objects or as floats.
    """
    kinds = {pa.bool_(): ("bool", "boolean"), pa.int64(): ("int64", "Int64")}
    columns = [
        {
            "name": field.name,
            "field_name": field.name,
            "pandas_type": kinds[field.type][0],
            "numpy_type": kinds[field.type][1],
            "metadata": None,
        }
        for field in schema
        if field.nullable and field.type in kinds
    ]
    about = {"columns": columns, "index_columns": [], "column_indexes": []}
    return {"pandas": json.dumps(about, separators=(",", ":"))}


class VerifiedParquet:
    """A Parquet file whose bytes are those that ``write_parquet`` wrote, to be read by columns.

    Attributes:
        rows: How many it has.
        notes: Its key-value metadata.
    """

    def __init__(self, file: pa.NativeFile, schema: pa.Schema, *, verify: bool = True) -> None:
        """Check the file, without decoding its rows.

        Args:
            file: Open; it is read later, too.
            schema: Its columns.
            verify: False where its bytes were compared with their digest before.

        Raises:
            IntegrityError: A byte differs from what was written, or the columns or the size
                are not those of a run.
        """
        if verify:
            _verify(file)
        self._schema = schema
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        try:
            # a buffer would keep what was read until the file is closed
            self._file = pq.ParquetFile(file, read_dictionary=texts, pre_buffer=False)
            metadata = self._file.metadata
            self.rows: int = metadata.num_rows
            found = (metadata.metadata or {}).items()
            self.notes = {k.decode(): v.decode() for k, v in found}
        except _UNREADABLE as error:
            raise _unreadable(error) from error
        if (names := self._file.schema_arrow.names) != schema.names:
            differ = set(names) ^ set(schema.names)
            raise IntegrityError(f"its columns differ in {', '.join(map(repr, sorted(differ)))}")
        _check_size(metadata)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows, or some columns of them; texts are dictionaries.

        Raises:
            IntegrityError: They cannot be read, or take much more memory than the file.
        """
        try:
            # one thread: files are small, and a pool of them would cost more than it saves
            table = self._file.read(columns, use_threads=False).replace_schema_metadata(None)
            for name in table.column_names:
                if not pa.types.is_dictionary(table[name].type):
                    continue
                lengths = [pc.max(pc.binary_length(c.dictionary)) for c in table[name].chunks]
                if max((n.as_py() or 0 for n in lengths), default=0) * len(table) > MOST_BYTES:
                    raise IntegrityError(f"its column {name!r} is too large")
            table.validate(full=True)  # texts in UTF-8
            return table.cast(encoded(self._schema, table.column_names))
        except _UNREADABLE as error:
            raise _unreadable(error) from error


def encoded(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """Return some fields of a schema, with dictionaries for texts."""
    coded = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        field.with_type(coded) if pa.types.is_string(field.type) else field
        for field in map(schema.field, names)
    )


_UNREADABLE = (pa.ArrowException, OSError, ValueError, AttributeError, MemoryError)


def _unreadable(error: BaseException) -> IntegrityError:
    reason = " ".join(str(error).split())[:100]
    return IntegrityError(f"it is not the Parquet of a run: {reason}")


def _verify(file: pa.NativeFile) -> None:
    """Compare the digest inside a file with its bytes."""
    size = file.seek(0, io.SEEK_END)
    footer = _footer(file, size)
    file.seek(max(footer - DIGITS, 0))
    stored, rest = file.read(DIGITS), file.read()
    if stored != _digest(file, footer - DIGITS, rest).encode():
        raise IntegrityError("its checksum does not fit its bytes")
    file.seek(0)


def _digest(file: Any, pages: int, rest: bytes) -> str:
    """Return the digest of so many bytes of a file, and of the rest of it."""
    file.seek(0)
    sizes = (min(CHUNK, pages - start) for start in range(0, pages, CHUNK))
    return digest_of(itertools.chain((file.read(size) for size in sizes), [rest]))


def _footer(file: Any, size: int) -> int:
    """Return where a Parquet file's footer begins."""
    file.seek(max(size - _TAIL, 0))
    footer: int = size - _TAIL - int.from_bytes(file.read(_TAIL)[:4], "little")
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
