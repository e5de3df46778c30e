"""Computes tasks on a Ray cluster: workers that load the model once, and may be lost at any time.

What is in flight is bounded: no batch is taken before a worker has room for its tasks. Workers
open the data themselves; where they cannot, this process sends them each batch. They give their
parts back to it, and it stores them: the nodes need not see the run folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...config.types import Evaluation
from ...data.dataset import Batch, Data, Labels
from ...data.sources import open_data
from ...errors import EvaluationWarning, SampleError, UserError, describe, warn
from ...store.schema import TaskResult
from ..identity import check_inputs, check_same_model
from ..tasks import Task, Tasks
from ..worker import ModelProbe
from .dispatch import PREFETCH, BatchQueue, RemoteWorker

try:
    import ray
    from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError
except ImportError as error:
    raise UserError(
        "executor: ray is not installed; run: pip install 'foolbox-carescale[evaluate,ray]'"
    ) from error

REACH_WITHIN_S = 15.0
"""Seconds in which the head node of a cluster must take a connection."""

WARN_AFTER_S = 60.0
"""Seconds without any worker after which a warning says what the cluster lacks."""


class RayExecutor:
    """A worker per free slot of the cluster; tasks of workers that die go to others."""

    def __init__(self, evaluation: Evaluation, data: Data, tasks: Tasks) -> None:
        self._evaluation, self._data, self._tasks = evaluation, data, tasks
        self._settings = evaluation.executor
        self._connected = False
        self._starting: dict[Any, _Remote] = {}  # by what tells that it is ready
        self._workers: list[_Remote] = []
        self._first: ModelProbe | None = None  # of the worker that was ready first
        self._probe: ModelProbe | None = None  # of the one that diagnoses the model
        self._lost = 0  # workers in a row that died before they were ready
        self._sent: dict[int, Any] = {}  # batches for workers that cannot open the data

    def start(self) -> ModelProbe:
        """Connect to the cluster, and wait for the first worker."""
        if not ray.is_initialized():
            self._connect()
        for _ in range(self._settings.workers or self._slots()):
            self._start_worker()
        while self._probe is None:
            self._wait({})
        return self._probe

    def run(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, TaskResult]]:
        """Compute tasks as workers get free."""
        queue = BatchQueue(tasks)
        tries: dict[int, int] = {}
        running: dict[Any, tuple[_Remote, Task]] = {}
        while True:
            for worker in sorted(self._workers, key=lambda worker: len(worker.tasks)):
                while len(worker.tasks) < PREFETCH and (task := queue.take(worker)) is not None:
                    batch = self._send(task.batch) if worker.receives else None
                    running[worker.actor.run.remote(task.number, task.ahead, batch)] = worker, task
                    worker.tasks.append(task)
            if not running and not queue:
                return
            done = self._wait(running)
            if done is None:
                continue
            worker, task = running.pop(done)
            try:
                part: TaskResult = ray.get(done)
            except RayTaskError as error:
                raise _error_in_worker(error) from error
            except ObjectLostError:  # computed, but its node was lost before the part was fetched
                worker.tasks.remove(task)
                queue.give_back(task)
            except RayActorError as error:
                if worker in self._workers:
                    self._workers.remove(worker)
                    with contextlib.suppress(Exception):
                        ray.kill(worker.actor)
                    self._start_worker()
                    # those that it had not begun are not to blame
                    blamed = worker.tasks[0].number
                    tries[blamed] = tries.get(blamed, 0) + 1
                    if tries[blamed] > self._settings.retries:
                        raise UserError(
                            f"executor: task {worker.tasks[0].name} lost its worker"
                            f" {tries[blamed]} times, most likely for lack of memory (Ray says:"
                            f" {_first_line(error)}); give it more with executor.cpus or less"
                            " batch_size, or raise executor.retries"
                        ) from error
                queue.give_back(task)
            else:
                worker.tasks.remove(task)
                tries.pop(task.number, None)
                yield task, part

    def stop(self) -> None:
        """End the workers, and the cluster if it was started here."""
        workers = [*self._starting.values(), *self._workers]
        # else they went with the connection, and Ray would make a new one only to kill them
        for worker in workers if ray.is_initialized() else ():
            with contextlib.suppress(Exception):
                ray.kill(worker.actor)
        self._starting, self._workers, self._sent = {}, [], {}
        if self._connected:
            self._connected = False
            ray.shutdown()

    def _connect(self) -> None:
        address = self._settings.address
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            options["include_dashboard"] = False
        if self._settings.runtime_env:
            options["runtime_env"] = self._settings.runtime_env
        handler = signal.getsignal(signal.SIGTERM)
        try:
            if match := re.fullmatch(r"\[?([^/]+?)]?:(\d+)", address or ""):
                # Ray itself tries for minutes
                socket.create_connection((match[1], int(match[2])), timeout=REACH_WITHIN_S).close()
            ray.init(address or "local", **options)
        except Exception as error:  # Ray's, gRPC's and the system's
            raise UserError(_not_connected(address, error)) from error
        self._connected = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own would exit with code 15

    def _slots(self) -> int:
        """Return how many workers the nodes have room for."""
        needed = {"CPU": self._settings.cpus, "GPU": self._settings.gpus}
        slots = 0
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        for node in nodes:
            if node["Alive"]:
                has = [
                    _fitting(k, node["Resources"].get(k, 0), n) for k, n in needed.items() if n > 0
                ]
                slots += min(has, default=1)
        if slots == 0:
            raise UserError(
                f"executor: no node of the cluster has {_listed(needed)}; ask for less with"
                " executor.cpus and executor.gpus, or give executor.workers and let it grow"
            )
        return slots

    def _start_worker(self) -> None:
        made: Any = ray.remote(_Actor)
        actor = made.options(
            num_cpus=self._settings.cpus,
            num_gpus=self._settings.gpus,
            scheduling_strategy="SPREAD",
        ).remote()
        diagnoses = self._probe is None and not any(w.diagnoses for w in self._starting.values())
        self._start(_Remote(actor, diagnoses=diagnoses), None)

    def _start(self, worker: _Remote, data: Any) -> None:
        started = worker.actor.start.remote(self._evaluation, data, diagnose=worker.diagnoses)
        self._starting[started] = worker

    def _outline(self) -> Any:
        """Return where workers find the data without their images, and those of the probe."""
        if -1 not in self._sent:
            data, tasks = self._data, self._tasks
            both = (tasks.probe_positions(diagnose=diagnose) for diagnose in (False, True))
            received = [data.batch(positions) for positions in both]
            self._sent[-1] = ray.put(
                ReceivedData(
                    data.name, data.index, data.labels, data.num_classes, data.shape, received
                )
            )
        return self._sent[-1]

    def _send(self, number: int) -> Any:
        """Return where workers find a batch; the last of each worker stay there."""
        if number not in self._sent:
            while len(self._sent) > len(self._workers):
                del self._sent[min(self._sent)]
            batch: Batch | SampleError
            try:
                batch = self._data.batch(self._tasks.positions(number))
            except SampleError as error:  # which ends this batch only
                batch = error
            self._sent[number] = ray.put(batch)
        return self._sent[number]

    def _wait(self, running: dict[Any, Any]) -> Any | None:
        """Return the next task that is done; None where something else has happened."""
        began, warned = time.monotonic(), False
        while True:
            # tasks first: where several are ready, a worker that gets free comes before a new one
            ready, _ = ray.wait(
                [*running, *self._starting], num_returns=1, timeout=WARN_AFTER_S / 4
            )
            if ready:
                break
            if not self._workers and not warned and time.monotonic() - began > WARN_AFTER_S:
                warned = True
                needed = {"CPU": self._settings.cpus, "GPU": self._settings.gpus}
                warn(
                    EvaluationWarning(
                        f"no worker has started for {WARN_AFTER_S:.0f} s: the cluster has nowhere"
                        f" {_listed(needed)} free",
                        "the run continues when it has",
                    ),
                    stacklevel=2,
                )
        if ready[0] in running:
            return ready[0]
        started = self._starting.pop(ready[0])
        try:
            probe: ModelProbe | None = ray.get(ready[0])
        except RayTaskError as error:
            raise _error_in_worker(error) from error
        except RayActorError as error:  # it, or its node, was lost
            if missing := _missing_module(error):
                raise missing from error
            self._lost += 1
            if self._lost > self._settings.retries + len(self._starting):
                raise UserError(
                    f"executor: workers die while they start, {self._lost} in a row (Ray says:"
                    f" {_first_line(error)}); is there memory for executor.workers models?"
                ) from error
            self._start_worker()
            return None
        except RayError as error:
            raise UserError(
                f"executor: no worker can start (Ray says: {describe(error)});"
                " check executor.runtime_env"
            ) from error
        if probe is None:
            started.receives = True
            self._start(started, self._outline())
            return None
        self._lost = 0
        self._first = self._first or probe
        if started.diagnoses:
            self._probe = probe
        check_inputs(self._first.inputs, probe.inputs, "the first Ray worker")
        check_same_model(self._first.model, probe.model, "of the first Ray worker")
        self._workers.append(started)
        return None


@dataclass(eq=False)
class _Remote:
    """A worker, and the tasks that it holds, the one it computes first.

    Attributes:
        diagnoses: Whether it diagnoses the model.
        receives: Whether it cannot open the data, and gets batches.
    """

    actor: Any
    tasks: list[Task] = field(default_factory=list)
    diagnoses: bool = False
    receives: bool = False


class _Actor(RemoteWorker):
    """The actor in a Ray worker. ``start`` is separate, so that its errors are reported."""

    def start(  # type: ignore[override]
        self, evaluation: Evaluation, data: Any = None, *, diagnose: bool = True
    ) -> ModelProbe | None:
        """Return None where the data are not given and cannot be opened here."""
        try:
            self._data: Any = data or open_data(evaluation.data, evaluation.samples)
        except UserError:
            return None
        try:
            return super().start(evaluation, self._data, diagnose=diagnose)
        except UserError as error:
            if isinstance(error.__cause__, ModuleNotFoundError):
                raise UserError(f"{error}; {_ON_EVERY_NODE}") from error
            raise

    def run(
        self, number: int, ahead: tuple[int, ...] = (), batch: Batch | SampleError | None = None
    ) -> TaskResult:
        """Compute a task, whose batch comes with it where the data cannot be opened here."""
        if batch is not None:
            self._data.received = [batch]
        return super().run(number, ahead)


@dataclass
class ReceivedData:
    """Data without images, of which only the batches ``received`` are there."""

    name: str
    index: Labels
    labels: Labels | None
    num_classes: int
    shape: tuple[int, ...]
    received: Sequence[Batch | SampleError]

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, positions: Any) -> Batch:
        """Return a batch that was received."""
        asked = set(self.index[positions].tolist())
        for batch in self.received:
            if isinstance(batch, SampleError):
                raise batch
            if {*batch.index.tolist(), *batch.skipped} == asked:
                # what Ray shares cannot be written to, of which PyTorch warns
                return dataclasses.replace(batch, pixels=batch.pixels.copy())
        raise AssertionError("another batch was received")

    def prefetch(self, positions: Any) -> None:
        """Leave it to the driver."""


def _fitting(resource: str, has: float, needs: float) -> int:
    """Return how often what a worker needs fits into what a node has; part of a GPU is of one."""
    parts = resource == "GPU" and needs < 1
    return int(has) * int(1 / needs) if parts else int(has / needs)


_ON_EVERY_NODE = (
    "install it on every node of the cluster, or copy it there with executor.runtime_env, such as"
    " {working_dir: .}"
)


def _error_in_worker(error: RayTaskError) -> BaseException:
    """Return what a worker raised; a module that its node lacks is named."""
    cause: BaseException = error.cause
    return cause if isinstance(cause, UserError) else _missing_module(error) or cause


def _missing_module(error: Exception) -> UserError | None:
    """Return an error that names the module that a node lacks, if that is why a worker failed."""
    missing = re.search("No module named '([^']*)'", str(error))
    return missing and UserError(
        f"executor: a node of the cluster has no module {missing[1]!r}; {_ON_EVERY_NODE}"
    )


def _not_connected(address: str | None, error: Exception) -> str:
    """Return why there is no cluster, and what to do about it."""
    reason = _first_line(error)
    if re.search("authenticat", f"{type(error).__name__} {error}", re.IGNORECASE):
        return (
            f"executor.address: the cluster at {address or 'this machine'} asks for authentication"
            f" ({reason}); set RAY_AUTH_MODE=token, and its token in RAY_AUTH_TOKEN"
        )
    if address is None:
        return (
            f"executor: Ray cannot start a cluster on this machine ({reason}); take executor=local,"
            " or start one with ray start --head and take executor.address=auto"
        )
    return (
        f"executor.address: Ray cannot be reached at {address} ({reason});"
        " start it with: ray start --head"
    )


def _listed(resources: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items() if amount)


def _first_line(error: Exception) -> str:
    return re.sub("\x1b\\[[0-9;]*m", "", str(error)).strip().split("\n")[0]
