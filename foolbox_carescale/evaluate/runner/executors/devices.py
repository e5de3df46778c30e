"""Computes tasks on several devices of this machine, with a process for each."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

from ...config.types import Evaluation
from ...errors import UserError
from ...models.loading import find_devices
from ...store.schema import TaskResult
from ..identity import check_inputs, check_same_model
from ..tasks import Task
from ..worker import ModelProbe
from .dispatch import PREFETCH, BatchQueue, RemoteWorker


@dataclass(eq=False)
class _Child:
    """A process with a worker, and the tasks that it holds, the one it computes first."""

    device: str
    process: BaseProcess
    connection: Connection
    tasks: deque[Task] = field(default_factory=deque)


class DevicesExecutor:
    """A process per device. Each opens the data itself; this one stores what they compute."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        self._children: list[_Child] = []

    def start(self) -> ModelProbe:
        """Start the processes, and wait until each has loaded the model."""
        # not fork: CUDA and threads do not survive it
        context = multiprocessing.get_context("spawn")
        assert self._evaluation.executor.devices is not None
        for device in find_devices(self._evaluation.executor.devices):
            ours, theirs = context.Pipe()
            evaluation = dataclasses.replace(self._evaluation, device=device)
            process = context.Process(target=_serve, args=(theirs, evaluation, not self._children))
            with _inheriting_no_signals():
                process.start()
            theirs.close()
            self._children.append(_Child(device, process, ours))
        first, *others = cast("list[ModelProbe]", [_receive(child) for child in self._children])
        for other in others:
            check_inputs(first.inputs, other.inputs, "the process of the first device")
            check_same_model(first.model, other.model, "of the first device's process")
        return first

    def run(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, TaskResult]]:
        """Compute tasks as processes get free."""
        queue = BatchQueue(tasks)
        while True:
            for child in self._children:
                while len(child.tasks) < PREFETCH and (task := queue.take(child)) is not None:
                    child.tasks.append(task)
                    with contextlib.suppress(ConnectionError):  # receiving tells that it ended
                        child.connection.send((task.number, task.ahead))
            busy = {child.connection: child for child in self._children if child.tasks}
            if not busy:
                return
            for ready in wait(list(busy)):
                child = busy[ready]  # type: ignore[index]
                part = _receive(child)
                yield child.tasks.popleft(), part

    def stop(self) -> None:
        """End the processes, whatever they do."""
        for child in self._children:
            child.connection.close()
            child.process.kill()
        for child in self._children:
            child.process.join()
            child.process.close()
        self._children = []


def _receive(child: _Child) -> Any:
    """Return what a process sends, or raise the error that it sends."""
    try:
        answer = child.connection.recv()
    except (EOFError, ConnectionError):
        child.process.join()
        doing = f"in task {child.tasks[0].name}" if child.tasks else "while it started"
        raise UserError(
            f"executor.devices: the process of {child.device} ended {doing}"
            f" (exit code {child.process.exitcode}), most likely for lack of memory; what was"
            " stored before is intact: take less batch_size or fewer devices, and run again"
        ) from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


@contextlib.contextmanager
def _inheriting_no_signals() -> Iterator[None]:
    """Let processes that are started ignore Ctrl-C and SIGTERM, which end this one and so them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(number, signal.SIG_IGN) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _serve(connection: Connection, evaluation: Evaluation, diagnose: bool) -> None:
    """Compute the tasks that come, until the other end is closed."""
    worker = RemoteWorker()
    with contextlib.suppress(EOFError, ConnectionError):
        _answer(connection, partial(worker.start, evaluation, diagnose=diagnose))
        while True:
            _answer(connection, partial(worker.run, *connection.recv()))


def _answer(connection: Connection, compute: Callable[[], Any]) -> None:
    """Send what a function returns or raises."""
    try:
        answer = compute()
    except UserError as error:
        answer = error
    except Exception:  # not each can be pickled
        answer = RuntimeError(traceback.format_exc())
    connection.send(answer)
