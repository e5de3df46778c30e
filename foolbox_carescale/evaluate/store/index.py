"""A results file: the rows of many tasks in one row group, with an index of them in its footer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from .checksums import IntegrityError
from .parquet import VerifiedParquet
from .schema import SCHEMA, images_digest

MOST_RESULTS, MOST_INDEX = 2**30, 2**26
"""Bytes of a Parquet file, and of its index, that are read at all."""


@dataclass(frozen=True)
class StoredTask:
    """A task that is done, as the index has it.

    Attributes:
        task: Its name.
        counts: Setting, samples and robust samples, of each of its settings.
        images: What shows which images its rows are of, as ``images_digest`` returns it.
        files: Digests of the files beside its rows, by name.
    """

    task: str
    counts: tuple[tuple[int, int, int], ...]
    images: str
    files: Mapping[str, str]

    @classmethod
    def of(cls, task: str, rows: pa.Table, files: Mapping[str, str]) -> StoredTask:
        """Return what there is to say of a task's rows."""
        settings, group = np.unique(rows["setting"], return_inverse=True)
        robust = np.bincount(group, rows["robust"]).astype(int).tolist()
        counts = zip(settings.tolist(), np.bincount(group).tolist(), robust, strict=True)
        return cls(task, tuple(counts), images_digest(rows), files)

    @property
    def rows(self) -> int:
        """Return how many rows it has."""
        return sum(samples for _, samples, _ in self.counts)


def images_of(task: str) -> tuple[str, str]:
    """Return the names of the files that may belong to a task: examples, adversarial examples."""
    return f"examples/{task}.safetensors", f"adversarial_examples/{task}.safetensors"


def to_index(tasks: Iterable[StoredTask]) -> str:
    """Return the index of tasks, in the order of their rows."""
    index = [[one.task, one.counts, one.images, dict(one.files)] for one in tasks]
    return json.dumps(index, separators=(",", ":"))


class ResultsFile:
    """A file of ``results`` whose bytes are those that were written."""

    def __init__(self, path: Path, run: str, *, verify: bool) -> None:
        """Open it.

        Raises:
            FileNotFoundError: There is none.
            IntegrityError: It is damaged, or of another run.
        """
        self._file = VerifiedParquet(pa.OSFile(os.fsencode(path)), SCHEMA, verify=verify)
        self.rows = self._file.rows
        if run and self._file.notes.get("carescale.run") != run:
            raise IntegrityError("it belongs to another run or task")

    def tasks(self) -> list[StoredTask]:
        """Return its index, in the order of the rows."""
        text = self._file.notes.get("carescale.tasks", "")
        if len(text) > MOST_INDEX:
            raise IntegrityError("its index is too large")
        try:
            found = [
                StoredTask(
                    task, tuple((int(s), int(n), int(r)) for s, n, r in counts), images, dict(files)
                )
                for task, counts, images, files in json.loads(text)
            ]
            rows = sum(one.rows for one in found)
            own = all(one.files.keys() <= {*images_of(one.task)} for one in found)
            inside = not any("/" in one.task or "\\" in one.task for one in found)
        except (ValueError, TypeError, RecursionError) as error:
            raise IntegrityError("it has no index") from error
        if not (rows == self.rows and own and inside):
            raise IntegrityError("its index does not fit it")
        return found

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return its rows, or some columns of them; texts are dictionaries."""
        return self._file.read(columns)
