"""Speed and memory of the operator beside its alternatives, on the same data in one run.

    python -m experiments.benchmarks.rescaling --output results
    python -m experiments.benchmarks.rescaling --quick

Ours (public functions only) in every backend that is installed, against the sort-based code of
the paper as Foolbox ships it, 40 steps of bisection, and the plain ``clamp(x + eta * delta)``.
Prints Markdown: the goals with what was measured, then the tables. With --output it is written
to rescaling.md, every cell to rescaling.csv and the growth with n to rescaling.png. README.md
beside this file says what the columns mean.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from foolbox.external.clipping_aware_rescaling import l2_clipping_aware_rescaling as official

from experiments.benchmarks import steps
from experiments.benchmarks.environment import describe
from experiments.benchmarks.rescaling_calls import (
    BIG,
    BISECTION,
    CLIP,
    FUSED,
    SMALL,
    Call,
    Cell,
    calls_of,
    growth_calls,
    hard_calls,
    more_in_torch,
    say,
    typical,
    typical_eps,
)
from experiments.benchmarks.rescaling_report import (
    Times,
    Timing,
    goals,
    plot,
    report,
    text_of,
    write_csv,
)
from foolbox_carescale import clipping_aware_rescaling

PACKAGES = (
    "torch", "tensorflow-cpu", "jax", "numpy", "numba", "foolbox", "eagerpy", "foolbox-carescale"
)  # fmt: skip

SHAPES = ((100_000, 10), SMALL, BIG, (1, 12_000_000))
GROWTH = tuple(int(n) for n in np.geomspace(100, 12_000_000, 11))

TURN_SECONDS = 0.02  # a fast call is repeated this long in its turn, past other pools' spinning


@dataclass(frozen=True)
class Plan:
    """The size of a measurement."""

    shapes: Sequence[tuple[int, ...]]
    growth: Sequence[int]
    rounds: int  # turns of every cell
    cell_seconds: float  # after this much a cell rests
    processes: int  # repetitions of what needs a process of its own


FULL = Plan(SHAPES, GROWTH, rounds=12, cell_seconds=1.5, processes=4)
QUICK = Plan((SMALL, BIG), GROWTH[::2], rounds=4, cell_seconds=0.4, processes=2)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two shapes, few repetitions")
    parser.add_argument("--output", type=Path, help="folder for the .md, .csv and .png")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else FULL
    load = os.getloadavg()[0]

    times: Times = {}
    for shape in plan.shapes:
        say(f"{text_of(shape)}")
        times.update(interleaved(calls_of(shape), plan))
    for shape in (SMALL, BIG):
        say(f"hard rows, {text_of(shape)}")
        times.update(interleaved(hard_calls(shape), plan))
    say("growth with n")
    for n in plan.growth:
        times.update(interleaved(growth_calls(n), plan))
    say("memory, first call")
    memory = {name: in_process("peak_memory", name, plan.processes) for name in MEMORY}
    starts = {name: in_process("first_call", name, plan.processes) for name in STARTS}
    say("steps of attacks")
    own = steps.own_costs((2.0,), quick=False)  # a small batch drowns in the noise

    header = (
        f"Measured {describe(PACKAGES)}; load average {load:.1f} at the beginning, "
        f"{os.getloadavg()[0]:.1f} at the end."
    )
    text = report(header, times, memory, starts, goals(times, memory, starts, own))
    print(text)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "rescaling.md").write_text(text + "\n")
        write_csv(times, options.output / "rescaling.csv")
        plot(times, options.output / "rescaling.png")


def interleaved(calls: dict[Cell, Call], plan: Plan) -> Times:
    """Time calls in turns (A B C A B C ...), so that what disturbs one disturbs all.

    Args:
        calls: What to time; each is called once before, for what it compiles or caches.
        plan: Number of turns, and when a cell has had enough.

    Returns:
        A timing per call.
    """
    for call in calls.values():
        call()
    seconds: dict[Cell, list[float]] = {cell: [] for cell in calls}
    for _ in range(plan.rounds):
        for cell, call in calls.items():
            if sum(seconds[cell]) < plan.cell_seconds:
                seconds[cell] += _turn(call)
    return {c: Timing(min(s), statistics.median(s), len(s)) for c, s in seconds.items()}


def _turn(call: Call) -> list[float]:
    seconds: list[float] = []
    while sum(seconds) < TURN_SECONDS:
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


# What needs a process of its own.

MEMORY = ("ours, numpy", "ours, torch", FUSED, "Foolbox, torch", BISECTION, CLIP)
STARTS = ("ours, numpy", "ours, torch", "import of the package")


def in_process(function: str, name: str, times: int) -> float | None:
    """The least of what a function of this module returns in new processes.

    The first process is not counted: it fills the compiler's cache on disk where it is empty.
    """
    code = f"from experiments.benchmarks import rescaling; print(rescaling.{function}({name!r}))"
    if function == "first_call":  # without what this module imports
        code = _FIRST_CALL[name]
    answers = []
    for _ in range(times + 1):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        answers.append(done.stdout.split()[-1])
    return None if "None" in answers else min(float(a) for a in answers[1:])


def peak_memory(name: str) -> float | None:
    """Extra peak memory of one call on the big shape, as a part of the bytes of x.

    The resident set's high-water mark of this process during the call, less the resident set
    before it, after a call on a small batch that loads code and starts threads.
    None where the system does not tell (only Linux resets the mark).
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    warm = _memory_call(name, (8, 3, 224, 224))  # enough work for every thread
    warm()
    call = _memory_call(name, BIG)
    Path("/proc/self/clear_refs").write_text("5")  # sets the mark to the present size
    before = _resident("VmHWM")
    result = call()
    peak = _resident("VmHWM")
    del result
    return (peak - before) / (math.prod(BIG) * np.float32().nbytes)


def _memory_call(name: str, shape: tuple[int, ...]) -> Call:
    x, delta = typical(shape)
    eps = typical_eps(x, delta, 2.0)
    if name == "ours, numpy":
        return lambda: clipping_aware_rescaling(x, delta, eps)
    x, delta = torch.from_numpy(x), torch.from_numpy(delta)
    calls = {
        "ours, torch": lambda: clipping_aware_rescaling(x, delta, eps),
        "Foolbox, torch": lambda: official(x, delta, eps),
        **more_in_torch(x, delta, eps, 2.0),
    }
    return calls[name]


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in the status of the process")


# What a script does before its first call, and the clock around what is measured.
_PROLOGUE = """
import time
import numpy as np
{framework}
x = np.full({shape}, 0.5, np.float32)
started = time.perf_counter()
{measured}
print(time.perf_counter() - started)
"""
_CALL = "foolbox_carescale.clipping_aware_rescaling({x}, {x}, 1.0)"
_FIRST_CALL = {
    "ours, numpy": _PROLOGUE.format(
        framework="import foolbox_carescale", shape=SMALL, measured=_CALL.format(x="x")
    ),
    "ours, torch": _PROLOGUE.format(
        framework="import torch, foolbox_carescale",
        shape=SMALL,
        measured=_CALL.format(x="torch.from_numpy(x)"),
    ),
    "import of the package": _PROLOGUE.format(
        framework="", shape=SMALL, measured="import foolbox_carescale"
    ),
}


if __name__ == "__main__":
    main()
