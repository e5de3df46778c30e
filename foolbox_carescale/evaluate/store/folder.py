"""The run folder: config, per-sample results, example images, saved adversarial examples."""

from __future__ import annotations

import contextlib
import datetime
import errno
import io
import itertools
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ... import __version__
from ..errors import EvaluationWarning, StorageError, UserError, warn
from .checksums import (
    IntegrityError,
    create_atomically,
    digest,
    read_verified,
    write_atomically,
    write_checksummed_bytes,
)

Array = npt.NDArray[Any]

FORMAT = 2
"""Number of the run folder's format; it rises when a column or a file changes its meaning."""

SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("data", pa.string()),
        ("setting", pa.int32()),  # number of (attack, epsilon) in the run
        ("attack", pa.string()),  # the label
        ("attack_name", pa.string()),
        ("attack_params", pa.string()),  # JSON
        ("attack_repeat", pa.int32()),
        ("library", pa.string()),  # the package of the attack's class
        ("p", pa.float64()),
        ("epsilon", pa.float64()),
        ("batch", pa.int32()),
        ("seed", pa.int64()),
        ("sample", pa.int64()),  # index in the data set
        ("input_hash", pa.string()),  # BLAKE2b, 16 bytes, of the clean float32 pixels in C order
        ("label", pa.int64()),
        ("clean_prediction", pa.int64()),
        ("attacked", pa.bool_()),  # false where the model is wrong without an attack
        ("adversarial_prediction", pa.int64()),  # null where not attacked, as all marked *
        ("success", pa.bool_()),  # *
        ("quantised_success", pa.bool_()),  # *; still misclassified after rounding to 8 bits
        ("robust", pa.bool_()),  # right without and with the attack
        ("norm", pa.float64()),  # *; of order p, realised
        ("norm_over_epsilon", pa.float64()),  # *
        ("norm_l1", pa.float64()),  # *
        ("norm_l2", pa.float64()),  # *
        ("norm_linf", pa.float64()),  # *
        ("reachable_norm", pa.float64()),  # largest p-norm from the input to a point of the box
        ("in_bounds", pa.bool_()),  # *; of what the attack returned, before it was clipped
        ("clean_loss", pa.float64()),  # cross-entropy
        ("loss", pa.float64()),  # the clean one where not attacked
        ("forward_passes", pa.float64()),  # *; of the attack, per attacked sample
        ("backward_passes", pa.float64()),  # *
        ("seconds", pa.float64()),  # *; the task's, shared evenly among its rows
    ]
)
"""One row per setting and sample."""

_UNFINISHED, _CLAIMS = ".unfinished", ".claims"
_HOUR = 3600
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@dataclass(frozen=True)
class TaskResult:
    """What a task yields.

    Attributes:
        task: Its name.
        rows: One per setting of the task and sample, of ``SCHEMA``.
        examples: Images that pictures of the run show, with what identifies them.
        adversarial_examples: By setting, with their samples, where they are saved.
    """

    task: str
    rows: pa.Table
    examples: Mapping[str, Array] | None = None
    adversarial_examples: Mapping[str, Array] | None = None


class RunFolder:
    """Where one run is stored; files appear complete or not at all.

    ``run.json`` says which run it is, ``config.yaml`` is its resolved config, ``warnings.json``
    holds the diagnostics about its numbers. Of each task
    there are ``results/<task>.parquet`` and, of some or all, ``examples/<task>.npz`` and
    ``adversarial_examples/<task>.safetensors``. The Parquet file is written last and holds
    checksums of itself and of the others: a task is done where it is there and right. Any number of
    processes may write into a folder: tasks have the same rows whoever computes them, and a
    claim, which ends with the process that holds it, keeps two from computing the same.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._claims: int | None = None
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
            text = (self.path / "run.json").read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            for name in ("config.yaml", "results"):
                if (self.path / name).exists():
                    raise UserError(
                        f"output: {self.path} holds {name}, but no run that can be continued"
                        " (no run.json); choose another folder or remove it"
                    ) from None
            return None
        try:
            record: dict[str, Any] = json.loads(text)
            written_in, checksum = record["format"], record.pop("checksum")
        except (ValueError, KeyError, TypeError, AttributeError):
            record, written_in, checksum = {}, FORMAT, None
        if written_in != FORMAT:
            raise UserError(
                f"output: {self.path} is a run folder of format {written_in}, but this version"
                f" reads format {FORMAT}; read it with the version that wrote it, or compute the"
                " run again into another folder with output=..."
            )
        if checksum != digest(_canonical(record)):
            raise UserError(
                f"output: {self.path / 'run.json'} is damaged, so it is not known which run the"
                " folder holds; choose another folder"
            )
        self._fingerprint = record["fingerprint"]
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
            unfinished = self.path / _UNFINISHED
            unfinished.mkdir(parents=True, exist_ok=True)
            record = {"format": FORMAT, **record}
            record["checksum"] = digest(_canonical(record))
            content = json.dumps(record, indent=2, default=repr).encode()
            first = create_atomically(self.path / "run.json", content, temporary=unfinished)
        if first:
            self._fingerprint = record["fingerprint"]
        return first

    def open(self) -> None:
        """Make what is missing in the folder, and remove what killed processes left in it."""
        with self._writing(self.path):
            for name in ("results", "examples", _UNFINISHED):
                (self.path / name).mkdir(exist_ok=True)
            for left in (self.path / _UNFINISHED).iterdir():
                with contextlib.suppress(FileNotFoundError):
                    # a write takes milliseconds: what is that old belongs to nobody any more
                    if time.time() - left.stat().st_mtime > _HOUR:
                        left.unlink()

    def write_config(self, text: str) -> None:
        """Store the resolved config, in YAML, if none is there."""
        if not (self.path / "config.yaml").exists():
            self._write(self.path / "config.yaml", text.encode())

    def write(self, part: TaskResult) -> None:
        """Store a part.

        Raises:
            StorageError: It cannot be written. Nothing of it is there then.
        """
        files: dict[str, bytes] = {}
        if part.examples is not None:
            # not compressed, which took longer than all else that storing a task takes
            buffer = io.BytesIO()
            np.savez(buffer, **part.examples)  # type: ignore[arg-type]
            files[f"examples/{part.task}.npz"] = buffer.getvalue()
        if part.adversarial_examples is not None:
            from safetensors.numpy import save

            files[f"adversarial_examples/{part.task}.safetensors"] = save(
                dict(part.adversarial_examples)
            )
        notes = {
            "carescale.run": self._fingerprint,
            "carescale.task": part.task,
            "carescale.version": __version__,
            "carescale.files": json.dumps({name: digest(c) for name, c in files.items()}),
        }
        for name, content in files.items():
            self._write(self.path / name, content)
        self._write(self._place(part.task), write_checksummed_bytes(part.rows, notes))

    def write_warnings(self, text: str) -> None:
        """Store what makes the numbers less trustworthy, as ``diagnostics.to_json`` gives it."""
        self._write(self.path / "warnings.json", text.encode())

    def has(self, task: str) -> bool:
        """Return whether there is a file of a task, right or not."""
        return self._place(task).exists()

    def read(self, task: str) -> pa.Table | None:
        """Return the rows of a task; None where it is not there.

        Raises:
            IntegrityError: It, or a file that belongs to it, is not what was written.
        """
        try:
            content = self._place(task).read_bytes()
        except FileNotFoundError:
            return None
        rows, notes = read_verified(content)
        if notes["carescale.task"] != task or notes["carescale.run"] != self._fingerprint:
            raise IntegrityError("it belongs to another run or task")
        for name, expected in json.loads(notes["carescale.files"]).items():
            try:
                found = digest((self.path / name).read_bytes())
            except FileNotFoundError:
                raise IntegrityError(f"{name} is missing") from None
            if found != expected:
                raise IntegrityError(f"{name} is damaged")
        return rows

    def quarantine(self, task: str, reason: str) -> None:
        """Move a damaged file of results to ``damaged``, and say so."""
        with self._writing(self.path):
            aside = self.path / "damaged"
            aside.mkdir(exist_ok=True)
            place = self._place(task)
            target = aside / f"{place.name}.{uuid.uuid4().hex[:8]}"
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                place.rename(target)
                warn(
                    EvaluationWarning(
                        f"{place} cannot be trusted ({reason}) and was moved to {target}",
                        "what it held is computed again",
                    ),
                    stacklevel=2,
                )

    def stored(self) -> Iterator[str]:
        """Names of the tasks that have a file, right or not."""
        for part in self._parts():
            yield part.stem

    def claim(self, number: int, *, wait: bool = False) -> bool:
        """Keep other processes from computing a task, until ``release`` or this process's end.

        A lock on one byte of a file, which the kernel ends with the process. Where a file
        system has no locks every claim is granted, and a task may be computed twice.

        Args:
            number: The task's.
            wait: Wait for whoever has claimed it.

        Returns:
            False if another process has claimed it.
        """
        try:
            import fcntl
        except ImportError:  # Windows
            return True
        if self._claims is None:
            with self._writing(self.path):
                self._claims = os.open(self.path / _CLAIMS, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, number)
        except OSError as error:
            return error.errno in _NO_LOCKS
        return True

    def release(self, number: int) -> None:
        """End a claim."""
        if self._claims is not None:
            import fcntl

            with contextlib.suppress(OSError):
                fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, number)

    def close(self) -> None:
        """End all claims."""
        if self._claims is not None:
            os.close(self._claims)
            self._claims = None

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows of each task that is stored, one by one.

        Raises:
            UserError: This is no run folder, or nothing is stored in it.
        """
        found = damaged = 0
        record = self.record() if (self.path / "run.json").exists() else None
        for part in self._parts():
            found += 1
            try:
                rows, notes = read_verified(part.read_bytes())
            except IntegrityError:
                damaged += 1
                continue
            run, task = notes.get("carescale.run"), notes.get("carescale.task")
            if record is not None and (run, task) != (record["fingerprint"], part.stem):
                damaged += 1  # whole, but of another run or task: its rows are not this run's
            else:
                yield rows
        if damaged:
            warn(
                EvaluationWarning(
                    f"{damaged} of {found} files in {self.path / 'results'} are damaged and left"
                    " out",
                    f"carescale evaluate with output={self.path} computes them again",
                ),
                stacklevel=2,
            )
        if found == damaged:
            raise UserError(f"{self.path}: holds no results of a run (results/*.parquet)")

    def read_results(self) -> pa.Table:
        """Return all rows that are stored.

        Raises:
            UserError: This is no run folder, or nothing is stored in it.
        """
        return pa.concat_tables(self.tables())

    def read_examples(self) -> list[dict[str, Array]]:
        """Return the stored examples, task by task, without those that fail their checksum."""
        examples, damaged = [], 0
        for part in sorted((self.path / "examples").glob("*.npz")):
            content = part.read_bytes()
            try:
                _, notes = read_verified(self._place(part.stem).read_bytes())
                expected = json.loads(notes["carescale.files"])[f"examples/{part.name}"]
            except (FileNotFoundError, IntegrityError, KeyError):
                expected = None
            if digest(content) != expected:
                damaged += 1
                continue
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                examples.append(dict(arrays))
        if damaged:
            warn(
                EvaluationWarning(
                    f"{damaged} files in {self.path / 'examples'} are damaged, and their pictures"
                    " left out",
                    f"carescale evaluate with output={self.path} computes them again",
                ),
                stacklevel=2,
            )
        return examples

    def _parts(self) -> list[Path]:
        return sorted((self.path / "results").glob("*.parquet"))

    def _place(self, task: str) -> Path:
        return self.path / "results" / f"{task}.parquet"

    def _write(self, path: Path, content: bytes) -> None:
        with self._writing(path):
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, content, temporary=self.path / _UNFINISHED)

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


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, default=repr).encode()
