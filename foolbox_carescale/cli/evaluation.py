"""The command ``carescale evaluate``."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..evaluate.errors import UserError, printable
from .console import (
    INTERRUPTED,
    TERMINATED,
    files_in_one_line,
    make_console,
    print_lines,
    require_extra,
    split_config,
)

if TYPE_CHECKING:
    from rich.console import Console

    from ..evaluate import Progress, Results


def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate a model's robustness; store, print and draw the results."""
    require_extra()
    from ..evaluate import load_evaluation, load_sweep
    from ..evaluate.config.sweep import is_sweep

    path, overrides = split_config(arguments.config)
    if arguments.shard is not None:
        overrides.append(f"shard={arguments.shard}")
    arguments.multirun = arguments.multirun or is_sweep(path, overrides)
    if arguments.multirun:
        evaluations = load_sweep(path, overrides, allow_code=arguments.allow_code)
    else:
        evaluations = [load_evaluation(path, overrides, allow_code=arguments.allow_code)]
    if arguments.print_config:
        print("---\n".join(evaluation.to_yaml() for evaluation in evaluations), end="")
        return 0
    # two busy-waiting threads on a core that another process uses wait for each other's time
    # slices: 6 to 90 times slower; must be set before torch loads its OpenMP library
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # imports torch, which takes seconds: only after errors in the config were reported
    from ..evaluate import evaluate, print_report, write_report
    from ..evaluate.console import Terminated, terminable, to_json

    silent = arguments.quiet or arguments.json
    console = make_console(silent=silent)
    runs = []
    for evaluation in evaluations:
        last: list[Progress] = []
        try:
            with terminable(), _progress(last, silent=silent) as on_progress:
                results = evaluate(evaluation, on_progress=on_progress)
        except KeyboardInterrupt as stopped:
            _print_resume_command(arguments, last)
            return TERMINATED if isinstance(stopped, Terminated) else INTERRUPTED
        if arguments.multirun:
            console.print()
            print_lines(console, str(evaluation.output))
        written = []
        if results.complete:
            print_report(results, console)
            # of a run that was complete before, the config may choose others
            written = write_report(results, epsilons=evaluation.report.epsilons)
            print_lines(console, files_in_one_line(written))
            runs.append(results)
        else:
            none = "" if last[-1].total else " (it has no task)"
            print_lines(
                console,
                f"{results.folder}: shard {evaluation.shard} is done{none}, others are not; when"
                f" all are done, run: carescale report {results.folder}",
            )
        if arguments.json:
            print(to_json(results, last[-1], written), flush=True)
    if len(runs) > 1:
        _summarise(runs, console)
    return 0


def _print_resume_command(arguments: argparse.Namespace, last: Sequence[Progress]) -> None:
    from ..evaluate.console import resume_command

    if not last:
        print("carescale: interrupted before anything was computed", file=sys.stderr)
        return
    folder = last[-1].folder
    command = resume_command(arguments.given, folder.parent if arguments.multirun else folder)
    print(
        f"carescale: interrupted; {last[-1].done} of {last[-1].total} tasks are in"
        f" {printable(str(folder))}; resume with: {command}",
        file=sys.stderr,
    )


def _summarise(runs: Sequence[Results], console: Console) -> None:
    """Print how the runs of a sweep differ, and write one report beside them."""
    from ..evaluate import print_comparison, write_report

    console.print(f"\n{len(runs)} runs", style="bold")
    # a sweep over attacks or epsilons has no setting that two runs share
    with contextlib.suppress(UserError):
        print_comparison(runs, console)
    print_lines(console, files_in_one_line(write_report(*runs, output=runs[0].folder.parent)))


@contextlib.contextmanager
def _progress(last: list[Progress], *, silent: bool) -> Iterator[Callable[[Progress], None]]:
    """Keep the last progress, and show it: as bars where stdout is a terminal, else as lines."""
    from ..evaluate.console import print_settings, progress_bars

    bars = not silent and sys.stdout.isatty()
    lines = None if silent else print_settings
    with progress_bars(make_console()) if bars else contextlib.nullcontext(lines) as show:

        def on_progress(state: Progress) -> None:
            last[:] = [state]
            if show is not None:
                show(state)

        yield on_progress
