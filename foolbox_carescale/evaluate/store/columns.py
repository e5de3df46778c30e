"""The rows of a run by column: what tables, figures and diagnostics are made from.

A million samples in some settings are gigabytes as a table, and tens of megabytes as a column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .index import ResultsFile
from .parquet import encoded
from .schema import SCHEMA

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SettingRows:
    """The rows of one setting in a column.

    Attributes:
        rows: Their places.
        samples: Their samples, ascending; one array for all settings that have the same.
        about: By name, what ``Columns`` was asked for.
    """

    rows: slice
    samples: npt.NDArray[np.int64]
    about: dict[str, Any]


class Columns:
    """All rows, ordered by setting and sample, of which only columns asked for are read.

    Attributes:
        settings: Ascending by their number.
    """

    def __init__(self, parts: Sequence[ResultsFile | pa.Table], about: Sequence[str]) -> None:
        """Find the order of the rows.

        Args:
            parts: What ``RunFolder.parts`` returned, or tables.
            about: Columns that are the same in all rows of a setting.
        """
        self._parts = parts
        self._sizes = [part.rows if isinstance(part, ResultsFile) else len(part) for part in parts]
        self._places: Array | slice = slice(None)
        settings, samples = self.column("setting"), self.column("sample")
        order = np.lexsort((samples, settings))
        settings = settings[order]
        begins = np.append(True, settings[1:] != settings[:-1])[: len(settings)]
        starts = np.flatnonzero(begins)
        del settings  # each column here is as large as what comes after
        places = np.empty(len(order), np.int32 if len(order) < 2**31 else np.int64)
        places[order] = np.arange(len(order), dtype=places.dtype)
        samples = samples[order]
        ends = [*starts[1:].tolist(), len(order)]
        firsts = self._rows(order[starts], about)
        del order
        self._places = places
        self.settings: list[SettingRows] = []
        before = samples[:0]
        for start, end, first in zip(starts.tolist(), ends, firsts, strict=True):
            own = samples[start:end]
            before = before if np.array_equal(own, before) else own.copy()
            self.settings.append(SettingRows(slice(start, end), before, first))

    def column(self, name: str) -> Array:
        """Return a column of numbers in order: NaN for null, texts as in ``text``."""
        kind = SCHEMA.field(name)
        dtype = np.dtype(float) if kind.nullable else np.dtype(kind.type.to_pandas_dtype())
        values, start = np.empty(sum(self._sizes), dtype), 0
        for part, size in zip(self._parts, self._sizes, strict=True):
            column = read_part(part, [name])[name]
            if kind.nullable:
                column = column.cast("double")
            self._put(values, start, column.to_numpy())
            start += size
        return values

    def texts(self, name: str) -> tuple[Array, list[str]]:
        """Return a column of texts in order, as numbers, -1 for null, and the texts they count."""
        codes, start = np.empty(sum(self._sizes), np.int32), 0
        known: dict[str, int] = {}
        for part, size in zip(self._parts, self._sizes, strict=True):
            column = read_part(part, [name])[name].unify_dictionaries().combine_chunks()
            found = [known.setdefault(t, len(known)) for t in column.dictionary.to_pylist()]
            numbers = np.array([*found, -1], np.int32)  # of null, the last one
            self._put(codes, start, numbers[column.indices.fill_null(-1).to_numpy()])
            start += size
        return codes, list(known)

    def _put(self, values: Array, start: int, found: Array) -> None:
        here = slice(start, start + len(found))
        values[here if isinstance(self._places, slice) else self._places[here]] = found

    def _rows(self, numbers: Array, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield some rows, as they are numbered in the parts."""
        ends = np.cumsum(self._sizes)
        read, rows = -1, pa.table({})
        for number in numbers.tolist():
            part = int(np.searchsorted(ends, number, side="right"))
            if part != read:
                read, rows = part, read_part(self._parts[part], list(names))
            place = number - int(ends[part]) + self._sizes[part]
            yield {name: rows[name][place].as_py() for name in names}


def read_part(part: ResultsFile | pa.Table, names: list[str]) -> pa.Table:
    """Return columns of a results file, or of rows in memory; texts are dictionaries."""
    if isinstance(part, ResultsFile):
        return part.read(names)
    return part.select(names).cast(encoded(SCHEMA, names))
