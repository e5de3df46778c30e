"""Measure the host's share of a call: what Python does until everything is launched.

    python -m experiments.gpu.overhead --output experiments/results

Tensors in main memory are sent down the road of CUDA tensors (`pretend`), to a driver that
launches nothing and compiles nothing after the first call. So a call's time is that of Python,
PyTorch's dispatch and Triton's launcher up to the driver. Not in it: the driver itself, a few
microseconds per launch, and allocations on a device. What eager code computes is in it, which a
GPU would do meanwhile: shapes are small. The result is given in microseconds and
relative to the least that PyTorch does, an addition of two empty tensors: that ratio carries over
to other machines.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def measure(rounds: int) -> list[tuple[str, int, float, float]]:
    """Return for each call its name, launches, microseconds, and those of empty operations."""
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
                        call()
                        launches = len(driver.launched)
                        nothing = least(lambda: torch.add(empty, empty), rounds)
                        spent = least(call, rounds)
                        label = f"{name}, p = {p:g}, {'x'.join(map(str, shape))}"
                        rows.append((label, launches, spent, spent / nothing))
        return rows


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


def render(rows: list[tuple[str, int, float, float]]) -> str:
    """Return the table and the goal."""
    from experiments.benchmarks.environment import describe

    load = os.getloadavg()[0]
    worst = max(spent for name, _, spent, _ in rows if name.startswith("perturb"))
    lines = [
        "# The host's share of a call on a GPU",
        "",
        f"Measured {describe(PACKAGES)}; load average {load:.1f} at the end. No GPU took part: not"
        " yet measured on a GPU. The machine was shared with other programs.",
        "",
        f"Goal: `perturb` takes the host at most {GOAL:g} us. Worst: {worst:.0f} us,"
        f" {'met' if worst <= GOAL else 'missed'}.",
        "",
        "| call | launches by Triton | us | relative to an empty operation |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {n} | {spent:.0f} | {ratio:.0f} |" for name, n, spent, ratio in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
