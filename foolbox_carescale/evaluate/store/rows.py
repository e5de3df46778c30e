"""The rows of a run on disk: a file for each task that is done, until many become one file.

``tasks/<task>.parquet`` is what a worker wrote. ``results/<number>.parquet`` is what it becomes a
part of. ``RunFolder`` says when and how.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import pyarrow as pa

from ... import __version__
from ..errors import EvaluationWarning, UserError, warn
from .checksums import IntegrityError, check_file, read_file
from .duplicates import Found, check_same, split, without_known
from .files import SharedFolder
from .index import MOST_RESULTS, ResultsFile, StoredTask, images_of, to_index
from .parquet import VerifiedParquet, encoded, pandas_types, to_parquet, write_parquet
from .schema import SCHEMA, check_rows

ROWS = 2**17
"""Rows of a results file, and of its one row group: what other programs read at a time."""

TASKS = 2**9
"""Files of tasks at which a process makes them fewer, however few rows they have."""

_NUMBER = re.compile(r"[0-9]{5,9}$")
_State = tuple[int, ...]  # of a file: another one has another


class RowStore:
    """All rows of a run; what ``RunFolder`` does with them."""

    def __init__(self, folder: SharedFolder) -> None:
        self._folder = folder
        self.run = ""  # fingerprint; without it any run is the right one
        self._verified: set[_State] = set()  # results files that were compared with their digest
        self._checked: set[_State] = set()  # those whose rows were checked
        self._reported: dict[Path, _State] = {}
        self._cleared: dict[Path, _State] = {}
        self._inside: dict[Path, set[str]] = {}  # tasks of the files that ``compact`` has seen
        self._files = self._rows = 0  # waiting, and written, since the last compaction

    @property
    def due(self) -> bool:
        """Tell whether there is enough for ``compact``."""
        return self._files >= TASKS or self._rows >= ROWS

    @property
    def unsettled(self) -> bool:
        """Tell whether this process has written anything since the last ``compact``."""
        return self._files > 0

    def write(self, task: str, rows: pa.Table, files: Mapping[str, str]) -> None:
        """Store the rows of a task, after its other files, whose digests these are."""
        notes = {
            "carescale.run": self.run,
            "carescale.task": task,
            "carescale.version": __version__,
            "carescale.files": json.dumps(files),
        }
        if not self._files:  # processes that were killed have left some
            self._files = len(self.waiting())
        self._folder.write_file(f"tasks/{task}.parquet", to_parquet(rows, notes))
        self._files, self._rows = self._files + 1, self._rows + len(rows)

    def waiting(self) -> list[str]:
        """Return the names of the tasks that have a file of their own, right or not."""
        return sorted(path.stem for path in _parquets(self._folder.path / "tasks"))

    def read(self, task: str, *, check: bool = True) -> tuple[pa.Table, StoredTask]:
        """Return the rows of a task that has a file of its own; texts are dictionaries.

        Raises:
            FileNotFoundError: It has none.
            IntegrityError: It is not what was written.
        """
        content = read_file(self._place(task), MOST_RESULTS)
        file = VerifiedParquet(pa.BufferReader(content), SCHEMA)
        rows, notes = file.read(), file.notes
        if check:
            check_rows(rows)
        run = self.run or notes.get("carescale.run")
        if (notes.get("carescale.task"), notes.get("carescale.run")) != (task, run):
            raise IntegrityError("it belongs to another run or task")
        try:
            files = dict(json.loads(notes["carescale.files"]))
        except (KeyError, ValueError, TypeError, RecursionError):
            raise IntegrityError("it does not say which files belong to it") from None
        if not files.keys() <= {*images_of(task)}:
            raise IntegrityError("it names files that are not its own")
        return rows, StoredTask.of(task, rows, files)

    def news(self) -> Iterator[StoredTask]:
        """Yield the tasks of results files that are new since the last call, or have changed.

        A damaged file is moved to ``damaged``.
        """
        for path in self._changed(self._reported):
            yield from self._index(path)

    def names(self) -> set[str]:
        """Return the names of all tasks that are stored; of their own files, right or not."""
        names = set(self.waiting())  # before results/: what is moved meanwhile is in both
        for path in self._paths():
            with contextlib.suppress(FileNotFoundError, IntegrityError):
                names.update(one.task for one in self._open(path).tasks())
        return names

    def parts(self) -> tuple[list[ResultsFile | pa.Table], list[str], int]:
        """Return all rows at one moment, each task once: the first file with it counts.

        Returns:
            Files to read columns of, and a table of what has no place in one yet; what is wrong
            with damaged files; and how many files there are.

        Raises:
            UserError: A task is stored twice, with different rows.
        """
        waiting = set(self.waiting())
        parts: list[ResultsFile | pa.Table] = []
        damaged = []
        paths, seen = self._paths(), dict[str, Path]()
        for path in paths:
            try:
                file = self._check(path)
                tasks = file.tasks()
                names = {one.task for one in tasks}
                if len(names) == len(tasks) and seen.keys().isdisjoint(names):
                    parts.append(file)
                else:
                    known: dict[str, Found] = {}
                    for there in sorted({seen[name] for name in names & seen.keys()}):
                        known = self._rows_of(there, names) | known
                    parts.append(without_known(path, tasks, file.read(), known))
                for name in names - seen.keys():
                    seen[name] = path
                self._compare(path, waiting & names)
                waiting -= names
            except FileNotFoundError:
                return self.parts()  # it is in damaged/ now
            except IntegrityError as error:
                damaged.append(f"{path.name}: {error}")
        tables = []
        for task in sorted(waiting):
            try:
                tables.append(self.read(task)[0])
            except FileNotFoundError:
                return self.parts()  # it is in results/ now
            except IntegrityError as error:
                damaged.append(f"{task}.parquet: {error}")
        if tables:
            parts.append(pa.concat_tables(tables).unify_dictionaries().combine_chunks())
        return parts, damaged, len(paths) + len(waiting)

    def peek(self, columns: list[str]) -> Iterator[pa.Table]:
        """Yield columns of the rows, for estimates: unchecked, and some of them twice."""
        for path in self._paths():
            with contextlib.suppress(FileNotFoundError, IntegrityError):
                yield self._open(path).read(columns)
        for task in self.waiting():
            with contextlib.suppress(FileNotFoundError, IntegrityError):
                yield self.read(task, check=False)[0].select(columns)

    def some(self, tasks: Iterable[str], columns: Sequence[str]) -> dict[str, Any]:
        """Return columns and files of some tasks, by name, or the error that says why not."""
        found: dict[str, Any] = {}
        for task in tasks:
            try:
                rows, stored = self.read(task)
                found[task] = rows.select(columns), stored.files
            except (FileNotFoundError, IntegrityError) as error:
                found[task] = error
        for path in reversed(self._paths()):  # the first counts
            with contextlib.suppress(FileNotFoundError, IntegrityError):
                inside, start = self._open(path).tasks(), 0
                if not any(one.task in found for one in inside):
                    continue
                rows = self._check(path).read(columns)
                for one in inside:
                    if one.task in found:
                        found[one.task] = rows.slice(start, one.rows), one.files
                    start += one.rows
        return found

    def compact(self) -> None:
        """Move rows from files of tasks to results files; only one process at a time may."""
        waiting = set(self.waiting())
        for path in self._changed(self._cleared):
            self._inside[path] = {one.task for one in self._index(path, locked=True)}
        paths = self._paths()
        for path in paths:  # a process may have been killed in between, or have had no lock
            again = waiting & self._inside.get(path, set())
            waiting -= again
            for task in again - self._compare(path, again, strict=False):
                with self._folder.writing(self._place(task)):
                    self._place(task).unlink(missing_ok=True)
        place = paths[-1] if paths else self._numbered(0)
        old = self._index(place, locked=True) if paths else []
        rows = sum(one.rows for one in old)
        chosen: list[tuple[StoredTask, pa.Table]] = []
        for task in sorted(waiting):
            try:
                table, stored = self.read(task, check=False)
            except FileNotFoundError:
                return  # without locks another process is doing this
            except IntegrityError:
                continue  # whoever needs it sets it aside
            if rows + len(table) > ROWS and rows:
                self._append(place, chosen)
                place, rows, chosen = self._numbered(int(place.stem) + 1), 0, []
            chosen.append((stored, table))
            rows += len(table)
        self._append(place, chosen)
        self._changed(self._cleared)
        self._files = self._rows = 0

    def quarantine(self, task: str, reason: str) -> None:
        """Move a damaged task to ``damaged``, or remove it from its results file, and say so."""
        if self._place(task).exists():
            self._set_aside(self._place(task), reason)
            return
        with self._folder.compacting(wait=True), self._folder.writing(self._folder.path):
            for path in self._paths():
                if task not in {one.task for one in self._index(path, locked=True)}:
                    continue
                tasks, rows = self._contents(path)
                left = [one for one in tasks if one.task != task]
                if left:
                    kept = [one.task != task for one in tasks for _ in range(one.rows)]
                    self._replace(path, left, [rows.filter(pa.array(kept))])
                else:
                    path.unlink()
                warn(
                    EvaluationWarning(
                        f"task {task} cannot be trusted ({reason}) and was removed from {path}",
                        "what it held is computed again",
                    ),
                    stacklevel=2,
                )

    def _rows_of(self, path: Path, names: Set[str]) -> dict[str, Found]:
        """Return the rows of some tasks of a results file, by name."""
        return {name: (path, own) for name, own in split(*self._contents(path)) if name in names}

    def _compare(self, path: Path, names: Set[str], *, strict: bool = True) -> set[str]:
        """Return which tasks of a results file have another file of their own with other rows.

        With ``strict`` it is a UserError.
        """
        others = set()
        for name, found in (self._rows_of(path, names) if names else {}).items():
            with contextlib.suppress(FileNotFoundError, IntegrityError):  # removed meanwhile
                try:
                    check_same(name, found, (self._place(name), self.read(name)[0]))
                except UserError:
                    if strict:
                        raise
                    others.add(name)
        return others

    def _append(self, path: Path, tasks: list[tuple[StoredTask, pa.Table]]) -> None:
        """Make a results file hold these tasks too, and remove their own files."""
        if not tasks:
            return
        old, rows = self._contents(path)
        known = {one.task for one in old}  # without locks: another process was faster
        tasks = [(one, table) for one, table in tasks if one.task not in known]
        if not tasks:
            return
        new, tables = zip(*tasks, strict=True)
        if self._replace(path, [*old, *new], [rows, *tables]):
            # only now: whoever reads tasks/ before results/ finds each in one of them
            with self._folder.writing(path):
                for one, _ in tasks:
                    self._place(one.task).unlink(missing_ok=True)

    def _replace(self, path: Path, tasks: list[StoredTask], tables: list[pa.Table]) -> bool:
        """Write a results file of these tasks, whose rows are those of the tables in turn."""
        rows = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        ordered = sorted(tasks, key=lambda one: one.task)
        if ordered != tasks:
            ends = itertools.accumulate(one.rows for one in tasks)
            places = {
                one.task: range(end - one.rows, end) for one, end in zip(tasks, ends, strict=True)
            }
            rows = rows.take(
                list(itertools.chain.from_iterable(places[one.task] for one in ordered))
            )
        try:
            check_rows(rows)
        except IntegrityError:
            return False  # they stay in tasks/, where whoever reads them sets one aside
        notes = {
            "carescale.run": self.run,
            "carescale.version": __version__,
            "carescale.tasks": to_index(ordered),
            **pandas_types(SCHEMA),
        }
        self._folder.write_file(
            f"results/{path.name}", lambda file: write_parquet(file, rows, notes)
        )
        return True

    def _contents(self, path: Path) -> tuple[list[StoredTask], pa.Table]:
        """Return the tasks and the rows of a results file; none where it is not there yet."""
        try:
            file = self._open(path)
        except FileNotFoundError:
            return [], encoded(SCHEMA, SCHEMA.names).empty_table()
        return file.tasks(), file.read()

    def _index(self, path: Path, *, locked: bool = False) -> list[StoredTask]:
        """Return the tasks of a results file; none if it is damaged, and set aside then."""
        try:
            return self._open(path).tasks()
        except FileNotFoundError:
            return []
        except IntegrityError as error:
            if locked:
                self._set_aside(path, str(error))
                return []
        with self._folder.compacting(wait=True):  # nobody writes it again meanwhile
            return self._index(path, locked=True)

    def _check(self, path: Path) -> ResultsFile:
        """Return a results file in which all rows fit each other; each is read once for this."""
        state, file = self._open_at(path)
        if state not in self._checked:
            check_rows(file.read())
            self._checked.add(state)
        return file

    def _open(self, path: Path) -> ResultsFile:
        return self._open_at(path)[1]

    def _open_at(self, path: Path) -> tuple[_State, ResultsFile]:
        check_file(path, MOST_RESULTS)
        state = _state(path)
        file = ResultsFile(path, self.run, verify=state not in self._verified)
        if _state(path) != state:
            return self._open_at(path)  # it was replaced meanwhile
        self._verified.add(state)
        return state, file

    def _changed(self, seen: dict[Path, _State]) -> list[Path]:
        """Return the results files that are not as they were seen; they are seen then."""
        found = {path: _state(path) for path in self._paths()}
        changed = [path for path, state in found.items() if seen.get(path) != state]
        seen.clear()
        seen.update(found)
        return changed

    def _set_aside(self, path: Path, reason: str) -> None:
        target = self._folder.own("damaged") / f"{path.name}.{uuid.uuid4().hex[:8]}"
        # not found: another process was faster
        with self._folder.writing(self._folder.path), contextlib.suppress(FileNotFoundError):
            path.rename(target)
            warn(
                EvaluationWarning(
                    f"{path} cannot be trusted ({reason}) and was moved to {target}",
                    "what it held is computed again",
                ),
                stacklevel=3,
            )

    def _paths(self) -> list[Path]:
        """Return the results files in their order."""
        numbered = (p for p in _parquets(self._folder.path / "results") if _NUMBER.match(p.stem))
        return sorted(numbered, key=lambda path: int(path.stem))

    def _numbered(self, number: int) -> Path:
        return self._folder.path / "results" / f"{number:05d}.parquet"

    def _place(self, task: str) -> Path:
        return self._folder.path / "tasks" / f"{task}.parquet"


def _parquets(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder) if name.endswith(".parquet")]
    except OSError:
        return []


def _state(path: Path) -> _State:
    try:
        status = path.stat()
    except OSError:  # gone, or a link to nothing
        return ()
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
