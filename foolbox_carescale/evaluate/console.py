"""The progress of a run, and its summary as JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich import progress
from rich.console import Console

from ..core.fractions import format_epsilon
from .errors import printable
from .runner.completion import Progress
from .serialization import to_json_values
from .store.folder import RunFolder
from .store.results import Results


class Terminated(KeyboardInterrupt):
    """SIGTERM: what Slurm and others send before they end a job."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM stop a run as Ctrl-C does, with what is computed stored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def progress_bars(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Show a bar of the run and one of each setting: how far, how fast, how long, how robust."""
    bars = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[status]}"),
        console=console,
        transient=True,
    )
    with bars:
        run = bars.add_task("preparing", total=None, status="")
        settings: dict[int, progress.TaskID] = {}

        def show(state: Progress) -> None:
            if state.waiting_for:
                bars.update(run, completed=state.done, status="waiting for another process")
                return
            if state.setting is None:
                if line := plan_line(state):
                    bars.console.print(line, highlight=False, markup=False)
                # tasks that were there before say nothing about the speed
                bars.reset(run, total=state.total, completed=state.done, description="tasks")
                return
            bars.update(run, completed=state.done)
            task = bars.tasks[run]
            bars.update(run, status=_speed(task.speed, task.time_remaining))
            number = state.setting.number
            if number not in settings:
                name = f"{state.setting.label}, epsilon {format_epsilon(state.setting.epsilon)}"
                settings[number] = bars.add_task(name, total=state.setting_total, status="")
            robust = f"robust {state.robust_accuracy:.3f}"
            bars.update(settings[number], completed=state.setting_done, status=robust)

        yield show


def print_settings(state: Progress) -> None:
    """Print a line for a resumed run, each tenth, each finished setting, and each time it waits."""
    if state.waiting_for:
        print(
            f"waiting for task {state.waiting_for}, which another process computes;"
            f" {state.done} of {state.total} tasks",
            flush=True,
        )
    if line := plan_line(state):
        print(line, flush=True)
    if state.setting is None:
        return
    done = f"{state.done} of {state.total} tasks"
    if state.setting_done == state.setting_total:
        setting = f"{state.setting.label}, epsilon {format_epsilon(state.setting.epsilon)}"
        print(f"{setting}: robust accuracy {state.robust_accuracy:.3f}; {done}", flush=True)
    elif 10 * state.done // state.total > 10 * (state.done - 1) // state.total:
        print(done, flush=True)


def plan_line(state: Progress) -> str:
    """Return what is done and what is left where a run is resumed; else an empty text."""
    if math.isnan(state.seconds_left):
        return ""
    return printable(
        f"resuming {state.folder}: {state.done} of {state.total} tasks are done,"
        f" {state.total - state.done} are left, about {_clock(state.seconds_left)} on one worker"
    )


def to_json(results: Results, last: Progress, written: Sequence[Path]) -> str:
    """Return a finished run as one line of JSON; an order p of infinity is "inf", NaN is null.

    Args:
        results: The run.
        last: Its last progress.
        written: Files of its report.
    """
    stored = bool(RunFolder(results.folder).stored())  # of a shard without a task nothing may be
    settings = [dataclasses.asdict(setting) for setting in results.summary()] if stored else []
    content = {
        "folder": str(results.folder),
        "complete": results.complete,
        "tasks": {
            "total": last.total,
            "done": last.done,
            "computed": last.done - last.resumed,
        },
        "clean_accuracy": _number(results.clean_accuracy) if stored else None,
        "settings": [
            {key: _number(value) for key, value in setting.items()}
            | {"p": to_json_values(setting["p"])}
            for setting in settings
        ],
        "warnings": RunFolder(results.folder).read_warnings(),
        "report": [str(path) for path in written],
    }
    return json.dumps(content, allow_nan=False)


def resume_command(arguments: Sequence[str], output: Path) -> str:
    """Return the command that resumes an interrupted run.

    Args:
        arguments: Of the command that was interrupted.
        output: The folder that it writes into.
    """
    given = any(argument.startswith("output=") for argument in arguments)
    words = ["carescale", *arguments, *([] if given else [f"output={output}"])]
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    """Return a word as a shell reads it; what a terminal cannot show is written as bytes."""
    if word.isprintable():
        return shlex.quote(word)
    shown = (chr(b) if bytes([b]).isalnum() else f"\\x{b:02x}" for b in os.fsencode(word))
    return f"$'{''.join(shown)}'"


def _speed(tasks_per_second: float | None, seconds_left: float | None) -> str:
    if not tasks_per_second or seconds_left is None:
        return ""
    return f"{tasks_per_second:.3g}/s, {_clock(seconds_left)} left"


def _clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
