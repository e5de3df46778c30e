"""The run folder: config, per-sample results, example images, saved adversarial examples."""

from __future__ import annotations

import contextlib
import datetime
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..errors import EvaluationWarning, StorageError, UserError, warn
from ..serialization import flatten_keys
from .checksums import (
    IntegrityError,
    create_atomically,
    digest,
    digest_of_file,
    from_commented,
    from_json,
    read_file,
    to_commented,
    to_json,
)
from .files import SharedFolder
from .index import MOST_RESULTS, ResultsFile, StoredTask, images_of
from .rows import RowStore
from .schema import EXAMPLE_COLUMNS, TaskResult, example_of

FORMAT = 6
"""Number of the run folder's format; it rises when a column or a file changes its meaning."""

MOST_CONFIG, MOST_JSON, MOST_IMAGES = 2**21, 2**26, 2**34
"""Bytes of a file that is opened at all: YAML, JSON, safetensors."""

_T = TypeVar("_T")


class RunFolder(SharedFolder):
    """The folder of one run; files appear complete or not at all.

    ``run.json`` says which run it is, ``config.yaml`` is its resolved config, ``warnings.json``
    holds the diagnostics about its numbers, and ``skipped`` says which samples of a batch could
    not be read. A task goes through three steps:

    1. It is claimed. A claim, which ends with the process that holds it, keeps two processes
       from computing the same task; if it happens, they find the same rows.
    2. Its results are written: of some or all tasks, images to ``examples/<task>.safetensors`` and
       ``adversarial_examples/<task>.safetensors``, where they stay, and last its rows to
       ``tasks/<task>.parquet``, with checksums of itself and of the others. Now it is done.
    3. It is compacted, together with many, or at a process's end: the last file of ``results``
       is replaced, by one rename, by one that holds these rows too, until it is full and the next
       one begins. Only then are the files in ``tasks`` removed. One process at a time does this.

    So in ``results``, which other programs read, a task is never found twice, and lacking only
    until it is compacted. Who reads ``tasks`` first and then ``results``, and believes the latter
    where a task is in both, finds each once: a process that is killed between rename and removal
    leaves some in both, which the next compaction removes. The footer of a file in ``results`` is
    its index, from which a run is resumed: tasks, their counts, and digests of their images. What
    is damaged is moved to ``damaged``, and its tasks are computed again.

    A folder may come from a stranger: nothing is written through a link, what is no file is not
    opened, and no file makes a reader take much more memory than ``MOST_RESULTS``.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._rows = RowStore(self)

    @classmethod
    def new(cls) -> RunFolder:
        """Return a folder below ``runs``, named for the time, that no other process has."""
        now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        for number in itertools.count(1):
            path = Path("runs") / (now if number == 1 else f"{now}_{number}")
            with cls.writing(path), contextlib.suppress(FileExistsError):
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
                self._rows.run, _ = str(record["fingerprint"]), int(record["tasks"])
        except FileNotFoundError:
            for name in ("config.yaml", "tasks", "results"):
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
        with self.writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            content = to_json({"format": FORMAT, **record})
            temporary = self.enter()
            first = create_atomically(self.path / "run.json", content, temporary=temporary)
        if first:
            self._rows.run = record["fingerprint"]
        return first

    def open(self) -> None:
        """Make what is missing in the folder."""
        for name in ("tasks", "results", "examples"):
            self.own(name)

    def write_config(self, text: str) -> None:
        """Store the resolved config, in YAML, if none is there."""
        if not (self.path / "config.yaml").exists():
            self.write_file("config.yaml", to_commented(text))

    def read_config(self) -> str:
        """Return the resolved config, in YAML; empty where none is there.

        Raises:
            UserError: It is not what was written.
        """
        return self._text("config.yaml", MOST_CONFIG, from_commented) or ""

    def write_warnings(self, warnings: list[dict[str, str]], *, diagnosed: bool = False) -> None:
        """Store what makes the numbers less trustworthy.

        Args:
            warnings: Diagnostics.
            diagnosed: Whether those of the results of the whole run are among them.
        """
        content = {"warnings": warnings, "diagnosed": diagnosed}
        self.write_file("warnings.json", to_json(content))

    def read_warnings(self) -> list[dict[str, str]]:
        """Return what ``write_warnings`` was given; empty where nothing is there.

        Raises:
            UserError: It is not what was written.
        """
        return self._warnings["warnings"] or []

    @property
    def diagnosed(self) -> bool:
        """Return whether the results of the whole run were diagnosed."""
        return bool(self._warnings["diagnosed"])

    @property
    def _warnings(self) -> dict[str, Any]:
        def parse(text: bytes) -> dict[str, Any]:
            found = from_json(text)
            return {name: found[name] for name in ("warnings", "diagnosed")}

        nothing = {"warnings": [], "diagnosed": False}
        return self._text("warnings.json", MOST_JSON, parse) or nothing

    def write(self, part: TaskResult) -> None:
        """Store a part, and compact where there are many.

        Raises:
            StorageError: It cannot be written. Nothing of it is there then.
        """
        self.store(part)
        if self.due:
            self.compact()

    @property
    def due(self) -> bool:
        """Return whether this process has stored so many parts that it should compact them."""
        return self._rows.due

    def store(self, part: TaskResult) -> None:
        """Store a part, as ``write`` does, in any one thread."""
        files = {
            name: save(dict(arrays))
            for name, arrays in zip(
                images_of(part.task), (part.examples, part.adversarial_examples), strict=True
            )
            if arrays is not None
        }
        skipped = _skipped_of(part.task.rpartition("-")[2])
        if part.skipped and not (self.path / skipped).exists():
            named = {str(place): reason for place, reason in part.skipped.items()}
            self.write_file(skipped, to_json({"skipped": named}))
        for name, content in files.items():
            self.write_file(name, content)
        digests = {name: digest(content) for name, content in files.items()}
        self._rows.write(part.task, part.rows, digests)

    def skipped(self, batch: int | None = None) -> dict[int, str]:
        """Return why samples could not be read and have no rows, by their places.

        Args:
            batch: Of one batch; None takes all.

        Raises:
            UserError: It is not what was written.
        """
        names = (
            [_skipped_of(f"{batch:05d}")]
            if batch is not None
            else sorted(f"skipped/{path.name}" for path in (self.path / "skipped").glob("*.json"))
        )

        def parse(text: bytes) -> dict[int, str]:
            return {int(k): str(v) for k, v in dict(from_json(text)["skipped"]).items()}

        found: dict[int, str] = {}
        for name in names:
            found |= self._text(name, MOST_JSON, parse) or {}
        return found

    def compact(self) -> None:
        """Move the rows of finished tasks to ``results``, unless another process does.

        Raises:
            StorageError: They cannot be written. They stay where they are then.
        """
        if not self._rows.waiting():
            return
        with self.compacting() as held:
            # without locks two processes may be here: of a complete run both write the same
            if held or (held is None and self.complete):
                self._rows.compact()

    def read(self, task: str) -> StoredTask | None:
        """Return what is known of a task that waits to be compacted; None where it does not.

        Raises:
            IntegrityError: It, or a file that belongs to it, is not what was written.
        """
        try:
            _, stored = self._rows.read(task)
        except FileNotFoundError:
            return None
        self.check_files(stored)
        return stored

    def check_files(self, stored: StoredTask) -> None:
        """Compare the files beside the rows of a task with their digests.

        Raises:
            IntegrityError: One is missing, or not what was written.
        """
        for name, expected in stored.files.items():
            try:
                found = digest_of_file(self.path / name, MOST_IMAGES)
            except FileNotFoundError:
                raise IntegrityError(f"{name} is missing") from None
            if found != expected:
                raise IntegrityError(f"{name} is damaged")

    def news(self) -> Iterator[StoredTask]:
        """Yield the tasks that were compacted since the last call, all of them at first.

        Their rows are compared with digests, not decoded; a damaged file is quarantined.
        """
        return self._rows.news()

    def waiting(self) -> list[str]:
        """Return the names of the tasks that wait to be compacted, right or not."""
        return self._rows.waiting()

    def quarantine(self, task: str, reason: str) -> None:
        """Set a damaged task aside, and say so."""
        self._rows.quarantine(task, reason)

    def stored(self) -> set[str]:
        """Return the names of the tasks that are stored, right or not."""
        return self._rows.names()

    @property
    def complete(self) -> bool:
        """Return whether all tasks of the run are there, those of other shards too."""
        record = self.record()
        return record is not None and len(self.stored()) >= int(record["tasks"])

    def close(self) -> None:
        """Compact what this process has written, and end all claims."""
        with contextlib.suppress(StorageError):  # it stays as it is, which is as good
            if self._rows.unsettled:
                self.compact()
        super().close()

    def parts(self) -> list[ResultsFile | pa.Table]:
        """Return all rows at one moment, each once, as files and tables to read columns of.

        Raises:
            UserError: This is no run folder, or nothing is stored in it.
        """
        if (self.path / "run.json").exists():
            self.record()
        parts, damaged, files = self._rows.parts()
        if damaged:
            of = f"{len(damaged)} of {files} files with results in {self.path}"
            self._warn_of_damage(f"{of} are damaged and left out ({damaged[0]})")
        if not parts:
            reason = f": {damaged[0]}" if damaged else ""
            raise UserError(f"{self.path}: holds no results of a run (results/*.parquet){reason}")
        return parts

    def peek(self, *columns: str) -> Iterator[pa.Table]:
        """Yield columns of the stored rows, for estimates: unchecked, and some of them twice."""
        return self._rows.peek([*columns])

    def read_examples(self) -> list[dict[str, Any]]:
        """Return the stored examples, task by task, without those that fail their checksum.

        Beside the images, labels and predictions each says which attack it is of.
        """
        if (self.path / "run.json").exists():
            self.record()
        paths = sorted((self.path / "examples").glob("*.safetensors"))
        known = self._rows.some([path.stem for path in paths], EXAMPLE_COLUMNS)
        examples, damaged = [], []
        for path in paths:
            try:
                if isinstance(found := known[path.stem], Exception):
                    raise found
                rows, files = found
                content = read_file(path, MOST_RESULTS)
                if digest(content) != files.get(f"examples/{path.name}"):
                    raise IntegrityError("its checksum does not fit its bytes")
                examples.append(example_of(load(content), rows))
            except (FileNotFoundError, IntegrityError, SafetensorError) as error:
                damaged.append(f"{path.name}: {error}")
        if damaged:
            of = f"{len(damaged)} files in {self.path / 'examples'}"
            self._warn_of_damage(f"{of} are damaged, and their pictures left out ({damaged[0]})")
        return examples

    def adversarial_examples(
        self, columns: Sequence[str]
    ) -> Iterator[tuple[pa.Table, dict[str, Any]]]:
        """Yield the saved adversarial examples of each task, after some columns of its rows.

        Raises:
            IntegrityError: They are not what was written.
        """
        self.record()
        paths = sorted((self.path / "adversarial_examples").glob("*.safetensors"))
        known = self._rows.some([path.stem for path in paths], columns)
        for path in paths:
            if isinstance(found := known[path.stem], Exception):
                raise IntegrityError(f"{path.name}: {found}")
            rows, files = found
            content = read_file(path, MOST_IMAGES)
            if digest(content) != files.get(f"adversarial_examples/{path.name}"):
                raise IntegrityError(f"{path.name}: its checksum does not fit its bytes")
            yield rows, dict(load(content))

    def _warn_of_damage(self, found: str) -> None:
        remedy = f"carescale evaluate with output={self.path} computes them again"
        warn(EvaluationWarning(found, remedy), stacklevel=3)

    def _text(self, name: str, most: int, parse: Callable[[bytes], _T]) -> _T | None:
        try:
            return parse(read_file(self.path / name, most))
        except FileNotFoundError:
            return None
        except (IntegrityError, ValueError, KeyError) as error:
            raise UserError(
                f"{self.path / name}: is damaged; remove it to report the run without it ({error})"
            ) from error


def _skipped_of(batch: str) -> str:
    """Return the name of the file that says which samples of a batch were skipped."""
    return f"skipped/{batch}.json"
