"""The run folder: config, per-sample results, example images, saved adversarial examples."""

from __future__ import annotations

import contextlib
import datetime
import errno
import itertools
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ... import __version__
from ..errors import EvaluationWarning, StorageError, UserError, warn
from ..serialization import flatten_keys
from .checksums import (
    IntegrityError,
    create_atomically,
    digest,
    digest_of_file,
    from_commented,
    from_json,
    from_parquet,
    read_file,
    to_commented,
    to_json,
    to_parquet,
    write_atomically,
)
from .locks import Locks
from .schema import SCHEMA, TaskResult, check_rows, example_of

FORMAT = 6
"""Number of the run folder's format; it rises when a column or a file changes its meaning."""

MOST_CONFIG, MOST_JSON, MOST_RESULTS, MOST_IMAGES = 2**21, 2**26, 2**30, 2**34
"""Bytes of a file that is opened at all: YAML, JSON, Parquet and examples, safetensors."""

_UNFINISHED, _CLAIMS = ".unfinished", ".claims"
_WRITERS = 2**31 - 1  # a byte that every process that writes holds; before it: tasks, batches


_T = TypeVar("_T")


class RunFolder:
    """The folder of one run; files appear complete or not at all.

    ``run.json`` says which run it is, ``config.yaml`` is its resolved config, ``warnings.json``
    holds the diagnostics about its numbers. Of each task
    there are ``results/<task>.parquet`` and, of some or all, ``examples/<task>.safetensors`` and
    ``adversarial_examples/<task>.safetensors``. The Parquet file is written last and holds
    checksums of itself and of the others: a task is done where it is there and right. Any number
    of processes may write into a folder: tasks have the same rows whoever computes them, and a
    claim, which ends with the process that holds it, keeps two from computing the same.

    A folder may come from a stranger: nothing is written through a link, what is no file is not
    opened, and no file makes a reader take much more memory than ``MOST_RESULTS``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._claims: Locks | None = None
        self._fingerprint = ""

    @classmethod
    def new(cls) -> RunFolder:
        """Return a folder below ``runs``, named for the time, that no other process has."""
        now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        for number in itertools.count(1):
            path = Path("runs") / (now if number == 1 else f"{now}_{number}")
            with cls._writing(path), contextlib.suppress(FileExistsError):
                path.mkdir(parents=True)
                break
        return cls(path)

    def record(self) -> dict[str, Any] | None:
        """Return what ``start`` recorded; None where no run was started.

        Raises:
            UserError: The folder holds something else, or the record cannot be read.
        """
        try:
            record = from_json(read_file(self.path / "run.json", MOST_JSON))
            written_in = record.pop("format", 1)
            flatten_keys(record)  # of any depth that readers can follow
            if written_in == FORMAT:
                self._fingerprint, _ = str(record["fingerprint"]), int(record["tasks"])
        except FileNotFoundError:
            for name in ("config.yaml", "results"):
                if (self.path / name).exists():
                    raise UserError(
                        f"output: {self.path} holds {name}, but no run that can be continued"
                        " (no run.json); choose another folder or remove it"
                    ) from None
            return None
        except (IntegrityError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"output: {self.path / 'run.json'} is damaged ({error}), so it is not known which"
                " run the folder holds; choose another folder"
            ) from error
        if written_in != FORMAT:
            raise UserError(
                f"output: {self.path} is a run folder of format {written_in}, but this version"
                f" reads format {FORMAT}; read it with the version that wrote it, or compute the"
                " run again into another folder with output=..."
            )
        return record

    def start(self, record: Mapping[str, Any]) -> bool:
        """Make the folder, unless another process was faster.

        Args:
            record: What identifies the run, with a ``fingerprint``; JSON.

        Returns:
            Whether this process was the one that made it; if not, ``record`` tells what is there.
        """
        # run.json first: a process that is killed before leaves nothing, and any other can go on
        with self._writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            content = to_json({"format": FORMAT, **record})
            temporary = self._enter()
            first = create_atomically(self.path / "run.json", content, temporary=temporary)
        if first:
            self._fingerprint = record["fingerprint"]
        return first

    def open(self) -> None:
        """Make what is missing in the folder."""
        for name in ("results", "examples"):
            self._own(name)

    def write_config(self, text: str) -> None:
        """Store the resolved config, in YAML, if none is there."""
        if not (self.path / "config.yaml").exists():
            self._write("config.yaml", to_commented(text))

    def read_config(self) -> str:
        """Return the resolved config, in YAML; empty where none is there.

        Raises:
            UserError: It is not what was written.
        """
        return self._text("config.yaml", MOST_CONFIG, from_commented) or ""

    def write_warnings(self, warnings: list[dict[str, str]]) -> None:
        """Store what makes the numbers less trustworthy."""
        self._write("warnings.json", to_json({"warnings": warnings}))

    def read_warnings(self) -> list[dict[str, str]]:
        """Return what ``write_warnings`` was given; empty where nothing is there.

        Raises:
            UserError: It is not what was written.
        """
        found = self._text("warnings.json", MOST_JSON, lambda text: from_json(text)["warnings"])
        return found or []

    def write(self, part: TaskResult) -> None:
        """Store a part.

        Raises:
            StorageError: It cannot be written. Nothing of it is there then.
        """
        files = {
            name: save(dict(arrays))
            for name, arrays in zip(
                _images(part.task), (part.examples, part.adversarial_examples), strict=True
            )
            if arrays is not None
        }
        notes = {
            "carescale.run": self._fingerprint,
            "carescale.task": part.task,
            "carescale.version": __version__,
            "carescale.files": json.dumps({name: digest(c) for name, c in files.items()}),
        }
        for name, content in files.items():
            self._write(name, content)
        self._write(f"results/{part.task}.parquet", to_parquet(part.rows, notes))

    def has(self, task: str) -> bool:
        """Return whether there is a file of a task, right or not."""
        return self._place(task).exists()

    def read(self, task: str) -> pa.Table | None:
        """Return the rows of a task; None where it is not there.

        Raises:
            IntegrityError: It, or a file that belongs to it, is not what was written.
        """
        try:
            rows, files = self._rows(task)
        except FileNotFoundError:
            return None
        for name, expected in files.items():
            try:
                found = digest_of_file(self.path / name, MOST_IMAGES)
            except FileNotFoundError:
                raise IntegrityError(f"{name} is missing") from None
            if found != expected:
                raise IntegrityError(f"{name} is damaged")
        return rows

    def quarantine(self, task: str, reason: str) -> None:
        """Move a damaged file of results to ``damaged``, and say so."""
        place = self._place(task)
        target = self._own("damaged") / f"{place.name}.{uuid.uuid4().hex[:8]}"
        # not found: another process was faster
        with self._writing(self.path), contextlib.suppress(FileNotFoundError):
            place.rename(target)
            warn(
                EvaluationWarning(
                    f"{place} cannot be trusted ({reason}) and was moved to {target}",
                    "what it held is computed again",
                ),
                stacklevel=2,
            )

    def stored(self) -> list[str]:
        """Return the names of the tasks that have a file, right or not."""
        return sorted(path.stem for path in (self.path / "results").glob("*.parquet"))

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
        with self._writing(self.path):
            self._enter()
            assert self._claims is not None
        return self._claims.take(number, wait=wait) is not False

    def release(self, number: int) -> None:
        """End a claim."""
        if self._claims is not None:
            self._claims.release(number)

    def close(self) -> None:
        """End all claims."""
        if self._claims is not None:
            self._claims.close()
            self._claims = None

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows of each task that is stored, one by one.

        Raises:
            UserError: This is no run folder, or nothing is stored in it.
        """
        if (self.path / "run.json").exists():
            self.record()
        tasks, damaged = self.stored(), []
        for task in tasks:
            try:
                rows, _ = self._rows(task)
            except (FileNotFoundError, IntegrityError) as error:
                damaged.append(f"{task}.parquet: {error}")
            else:
                yield rows
        if damaged:
            warn(
                EvaluationWarning(
                    f"{len(damaged)} of {len(tasks)} files in {self.path / 'results'} are damaged"
                    f" and left out ({damaged[0]})",
                    f"carescale evaluate with output={self.path} computes them again",
                ),
                stacklevel=2,
            )
        if len(damaged) == len(tasks):
            raise UserError(f"{self.path}: holds no results of a run (results/*.parquet)")

    def read_results(self) -> pa.Table:
        """Return all rows that are stored.

        Raises:
            UserError: This is no run folder, or nothing is stored in it.
        """
        return pa.concat_tables(self.tables())

    def read_examples(self) -> list[dict[str, Any]]:
        """Return the stored examples, task by task, without those that fail their checksum.

        Beside the images, labels and predictions each says which attack it is of.
        """
        if (self.path / "run.json").exists():
            self.record()
        examples, damaged = [], []
        for path in sorted((self.path / "examples").glob("*.safetensors")):
            try:
                rows, files = self._rows(path.stem)
                content = read_file(path, MOST_RESULTS)
                if digest(content) != files.get(f"examples/{path.name}"):
                    raise IntegrityError("its checksum does not fit its bytes")
                examples.append(example_of(load(content), rows))
            except (FileNotFoundError, IntegrityError, SafetensorError) as error:
                damaged.append(f"{path.name}: {error}")
        if damaged:
            warn(
                EvaluationWarning(
                    f"{len(damaged)} files in {self.path / 'examples'} are damaged, and their"
                    f" pictures left out ({damaged[0]})",
                    f"carescale evaluate with output={self.path} computes them again",
                ),
                stacklevel=2,
            )
        return examples

    def _rows(self, task: str) -> tuple[pa.Table, dict[str, str]]:
        """Return the rows of a task, and the digests of the files that belong to them."""
        rows, notes = from_parquet(read_file(self._place(task), MOST_RESULTS), SCHEMA)
        check_rows(rows)
        # without run.json any run is the right one
        run = self._fingerprint or notes.get("carescale.run")
        if (notes.get("carescale.task"), notes.get("carescale.run")) != (task, run):
            raise IntegrityError("it belongs to another run or task")
        try:
            files = json.loads(notes["carescale.files"])
            if not set(files) <= set(_images(task)):
                raise IntegrityError("it names files that are not its own")
            return rows, dict(files)
        except (KeyError, ValueError, TypeError, RecursionError):
            raise IntegrityError("it does not say which files belong to it") from None

    def _place(self, task: str) -> Path:
        return self.path / "results" / f"{task}.parquet"

    def _text(self, name: str, most: int, parse: Callable[[bytes], _T]) -> _T | None:
        try:
            return parse(read_file(self.path / name, most))
        except FileNotFoundError:
            return None
        except (IntegrityError, ValueError, KeyError) as error:
            raise UserError(
                f"{self.path / name}: is damaged; remove it to report the run without it ({error})"
            ) from error

    def _own(self, name: str) -> Path:
        """Return a folder inside this one, made where it is missing; never through a link."""
        path = self.path / name
        with self._writing(path):
            path.mkdir(exist_ok=True)
            if path.is_symlink():
                raise OSError(errno.ELOOP, "it is a symbolic link")
        return path

    def _write(self, name: str, content: bytes) -> None:
        path = self.path / name
        with self._writing(path):
            temporary = self._enter()
            if path.parent != self.path:
                self._own(path.parent.name)
            write_atomically(path, content, temporary=temporary)

    def _enter(self) -> Path:
        """Return the folder of unfinished files, cleared unless another process writes here."""
        unfinished = self._own(_UNFINISHED)
        if self._claims is None:
            self._claims = Locks(self.path / _CLAIMS)
            if self._claims.take(_WRITERS):
                for left in unfinished.iterdir():
                    with contextlib.suppress(OSError):  # a folder, which no process left here
                        left.unlink()
            self._claims.take(_WRITERS, shared=True, wait=True)
        return unfinished

    @staticmethod
    @contextlib.contextmanager
    def _writing(path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"output: {path} cannot be written ({error.strerror or error}); what was stored"
                " before is intact: make room or choose another folder with output=..., and run"
                " again"
            ) from error


def _images(task: str) -> tuple[str, str]:
    """Return the names of the files that may belong to a task: examples, adversarial examples."""
    return f"examples/{task}.safetensors", f"adversarial_examples/{task}.safetensors"
