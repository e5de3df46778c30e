"""Tasks that two processes have stored, where a file system has no locks: one of them counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..errors import UserError
from .index import StoredTask
from .schema import SCHEMA

Found = tuple[Path, pa.Table]  # a file, and the rows of a task in it


def split(tasks: list[StoredTask], rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield the tasks of a results file by name, and their rows."""
    start = 0
    for one in tasks:
        yield one.task, rows.slice(start, one.rows)
        start += one.rows


def without_known(
    path: Path, tasks: list[StoredTask], rows: pa.Table, known: Mapping[str, Found]
) -> pa.Table:
    """Return the rows of a results file, but not of known tasks, and of no task twice.

    Raises:
        UserError: A task is there twice, with different rows.
    """
    found, kept = dict(known), []
    for task, own in split(tasks, rows):
        if task in found:
            check_same(task, found[task], (path, own))
        else:
            found[task] = path, own
            kept.append(own)
    return pa.concat_tables(kept) if kept else rows.slice(0, 0)


def check_same(task: str, one: Found, other: Found) -> None:
    """Compare the rows of a task in two files.

    Raises:
        UserError: They differ.
    """
    if (column := _difference(one[1], other[1])) is not None:
        raise UserError(
            f"results: task {task} is stored twice, in {one[0]} and {other[0]}, and its {column!r}"
            " differs; remove one of these files, and run again what it held"
        )


def _difference(rows: pa.Table, others: pa.Table) -> str | None:
    """Return the first column in which the rows of a task differ, but for the time it took."""
    for of in SCHEMA:
        mine, theirs = (t[of.name].cast(of.type).combine_chunks() for t in (rows, others))
        same = len(mine) == len(theirs) and mine.is_valid().equals(theirs.is_valid())
        if same and pa.types.is_floating(of.type):  # NaN is the same as NaN
            numbers, others_ = (c.to_numpy(zero_copy_only=False) for c in (mine, theirs))
            same = of.name == "seconds" or np.array_equal(numbers, others_, equal_nan=True)
        elif same:
            same = mine.equals(theirs)
        if not same:
            name: str = of.name
            return name
    return None
