"""Measure the host's share of a call: what Python does until everything is launched.

    python -m experiments.gpu.overhead --output experiments/results

Tensors in main memory are sent down the road of CUDA tensors (`pretend`), to a driver that
launches nothing and compiles nothing after the first call. So a call's time is that of Python,
PyTorch's dispatch and Triton's launcher up to what is in C. Not in it: the driver itself, a few
microseconds per launch, and allocations on a device. What eager code computes is in it, which a
GPU would do meanwhile: shapes are small. The result is given in microseconds and
relative to the least that PyTorch does, an addition of two empty tensors: that ratio carries over
to other machines. The launches of a call are also timed alone: as the package makes them, and by
Triton's own way, which looks for the compiled kernel each time. What is left of the call's time is
the package's own Python, and PyTorch's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

PACKAGES = ("torch", "triton", "foolbox-carescale")
GOAL = 60.0  # microseconds, of perturb
# one program per row; several programs per row
SHAPES = ((64, 3, 16, 16), (4, 3, 128, 128))
# short rounds, some of which no other program disturbs
CALLS, ROUNDS = 10, 300


def main(arguments: list[str] | None = None) -> None:
    """Print the table; with ``--output`` write ``gpu_overhead.md``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="folder for gpu_overhead.md")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args(arguments)
    text = render(measure(chosen.rounds))
    print(text)
    if chosen.output is not None:
        chosen.output.mkdir(parents=True, exist_ok=True)
        (chosen.output / "gpu_overhead.md").write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Row:
    """Hold the time of a call, in microseconds and relative to an empty operation of PyTorch."""

    name: str
    launches: int
    spent: float
    relative: float
    launching: float  # of it, in launches
    by_triton: float  # what these would take if Triton made them


def measure(rounds: int) -> list[Row]:
    """Return what each call takes."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TRITON_CACHE_DIR", folder)
        import torch

        from experiments.gpu import calls, pretend

        rows = []
        empty = torch.empty(0)
        for shape in SHAPES:
            x, delta = torch.rand(shape), torch.randn(shape)
            for p in (1.0, 1.3, 2.0, float("inf")):
                made = calls.operators(x, delta, p, 1.0)
                with pretend.launcher() as driver, torch.no_grad():
                    for name, call in made.items():
                        call()  # compiles
                        driver.launched.clear()
                        launches = launches_of(call)
                        assert len(launches) == len(driver.launched)
                        nothing = least(lambda: torch.add(empty, empty), rounds)
                        spent = least(call, rounds)
                        alone = [
                            least(lambda made=made: [f(*a) for f, a in made], rounds)
                            for made in (
                                launches,
                                [(launch.by_triton, arguments) for launch, arguments in launches],
                            )
                        ]
                        label = f"{name}, p = {p:g}, {'x'.join(map(str, shape))}"
                        rows.append(Row(label, len(launches), spent, spent / nothing, *alone))
        return rows


def launches_of(call: Callable[[], Any]) -> list[tuple[Any, tuple[Any, ...]]]:
    """Return what a call launches, with the arguments."""
    from foolbox_carescale.engines.triton_cuda.dispatch import Launch

    launch = Launch.__call__
    found = []

    def noted(self: Launch, *arguments: Any) -> None:
        found.append((self, arguments))
        launch(self, *arguments)

    with mock.patch.object(Launch, "__call__", noted):
        call()
    return found


def least(call: Callable[[], Any], rounds: int) -> float:
    """Return the microseconds of a call: the least of the rounds' medians, on a busy machine."""
    medians = []
    for _ in range(rounds):
        times = []
        for _ in range(CALLS):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        medians.append(statistics.median(times))
    return 1e6 * min(medians)


def render(rows: list[Row]) -> str:
    """Return the table and the goal."""
    from experiments.benchmarks.environment import describe

    load = os.getloadavg()[0]
    worst = max(row.spent for row in rows if row.name.startswith("perturb"))
    lines = [
        "# The host's share of a call on a GPU",
        "",
        f"Measured {describe(PACKAGES)}; load average {load:.1f} at the end. No GPU took part: not"
        " yet measured on a GPU. The machine was shared with other programs.",
        "",
        f"Goal: `perturb` takes the host at most {GOAL:g} us. Worst: {worst:.0f} us,"
        f" {'met' if worst <= GOAL else 'missed'}.",
        "",
        "'Launches' is what these take alone, in a loop; 'by Triton' is what they take there by"
        " Triton's own way.",
        "",
        "| call | launches | us | relative to an empty operation | launches, us | by Triton, us |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.launches} | {row.spent:.0f} | {row.relative:.0f}"
        f" | {row.launching:.1f} | {row.by_triton:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
