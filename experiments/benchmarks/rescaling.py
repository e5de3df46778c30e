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
import contextlib
import csv
import functools
import importlib
import math
import operator
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

with contextlib.suppress(ImportError):
    # TensorFlow and Triton each bring an LLVM; the process ends when TensorFlow's comes first
    import triton  # noqa: F401
import torch
from foolbox.external.clipping_aware_rescaling import l2_clipping_aware_rescaling as official

from experiments.benchmarks import steps
from experiments.benchmarks.environment import describe
from foolbox_carescale import clipping_aware_rescaling, engines, perturb, reachable_norm

PACKAGES = (
    "torch", "tensorflow-cpu", "jax", "numpy", "numba", "foolbox", "eagerpy", "foolbox-carescale"
)  # fmt: skip

ORDERS = (1.0, 1.3, 1.5, 2.0, 3.0, math.inf)
# Compiling for an order takes seconds.
COMPILED_ORDERS = (1.3, 2.0)
BIG, SMALL = (32, 3, 224, 224), (128, 3, 32, 32)
SHAPES = ((100_000, 10), SMALL, BIG, (1, 12_000_000))
GROWTH = tuple(int(n) for n in np.geomspace(100, 12_000_000, 11))

# eps is this part of what the first row can reach: about a fifth of the coordinates end on the
# bounds, so that neither the naive rescaling nor the far corner is nearly right.
TYPICAL_SHARE = 0.25
# Decades that the magnitudes of a geometric direction span; float32 has 38 below 1.
GEOMETRIC_DECADES = 30
BISECTION_STEPS = 40  # float32 has 24 bits, and the first bracket is wide

TURN_SECONDS = 0.02  # a fast call is repeated this long in its turn, past other pools' spinning


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    shapes: Sequence[tuple[int, ...]]
    growth: Sequence[int]
    rounds: int  # turns of every cell
    cell_seconds: float  # after this much a cell rests
    processes: int  # repetitions of what needs a process of its own


FULL = Plan(SHAPES, GROWTH, rounds=12, cell_seconds=1.5, processes=4)
QUICK = Plan((SMALL, BIG), GROWTH[::2], rounds=4, cell_seconds=0.4, processes=2)


@dataclass(frozen=True)
class Cell:
    """What one number stands for."""

    shape: tuple[int, ...]
    data: str
    p: float
    name: str


@dataclass(frozen=True)
class Timing:
    """Seconds per call over all turns of a cell."""

    least: float
    median: float
    runs: int


@dataclass(frozen=True)
class Goal:
    """A row of the table of goals; ``measured`` is None where it could not be measured."""

    text: str
    sign: str
    limit: float
    measured: float | None
    unit: str = "x"


Call = Callable[[], Any]
Times = dict[Cell, Timing]


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
        _say(f"{_text(shape)}")
        times.update(interleaved(calls_of(shape), plan))
    for shape in (SMALL, BIG):
        _say(f"hard rows, {_text(shape)}")
        times.update(interleaved(hard_calls(shape), plan))
    _say("growth with n")
    for n in plan.growth:
        times.update(interleaved(growth_calls(n), plan))
    _say("memory, first call")
    memory = {name: in_process("peak_memory", name, plan.processes) for name in MEMORY}
    starts = {name: in_process("first_call", name, plan.processes) for name in STARTS}
    _say("steps of attacks")
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


# Data.


def typical(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Points uniform in [0, 1] and Gaussian directions, float32."""
    rng = np.random.default_rng(0)
    return rng.random(shape, np.float32), rng.standard_normal(shape, np.float32)


def cauchy(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Directions with heavy tails: a few coordinates dwarf all others."""
    rng = np.random.default_rng(0)
    return rng.random(shape, np.float32), rng.standard_cauchy(shape).astype(np.float32)


def geometric(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Magnitudes of the directions fall geometrically, in random order."""
    rng = np.random.default_rng(0)
    n = math.prod(shape[1:])
    falling = np.logspace(0, -GEOMETRIC_DECADES, n)
    rows = rng.permuted(np.tile(falling, (shape[0], 1)), axis=1)
    delta = rows * rng.choice([-1.0, 1.0], rows.shape)
    return rng.random(shape, np.float32), delta.reshape(shape).astype(np.float32)


# Name: the data, and eps as a part of what each row can reach.
HARD: dict[str, tuple[Callable[[tuple[int, ...]], tuple[Any, Any]], float]] = {
    "typical": (typical, TYPICAL_SHARE),
    "0.01 of reachable": (typical, 0.01),
    "0.9 of reachable": (typical, 0.9),
    "0.999999 of reachable": (typical, 0.999999),
    "Cauchy": (cauchy, TYPICAL_SHARE),
    "geometric": (geometric, TYPICAL_SHARE),
}


def typical_eps(x: Any, delta: Any, p: float) -> float:
    """One eps for all rows, as the official code wants it."""
    return TYPICAL_SHARE * float(reachable_norm(x[:1], delta[:1], p=p)[0])


# Frameworks: how arrays become tensors, when a result is there, and what compiles a function.


@dataclass(frozen=True)
class Framework:
    """What the measurements need of one."""

    name: str
    tensor: Callable[[Any], Any]
    wait: Callable[[Any], Any]
    compiler: str = ""
    compile: Callable[[Any], Any] | None = None


def _same(value: Any) -> Any:
    return value


@functools.cache
def frameworks() -> dict[str, Framework]:
    """Those that are installed; a line says which are not."""
    found = {
        "numpy": Framework("numpy", _same, _same),
        "torch": Framework("torch", torch.from_numpy, _same),
    }
    if (tf := _imported("tensorflow")) is not None:
        # eager operations have finished when they return on a CPU; this waits for others
        found["tensorflow"] = Framework(
            "tensorflow", tf.constant, operator.methodcaller("numpy"), "tf.function", tf.function
        )
    if (jax := _imported("jax")) is not None:
        found["jax"] = Framework("jax", jax.numpy.array, jax.block_until_ready, "jax.jit", jax.jit)
    if torch.cuda.is_available():
        found["cuda"] = Framework("cuda", lambda a: torch.from_numpy(a).cuda(), _wait_for_cuda)
    else:
        _say("skipped: CUDA, there is no GPU")
    return found


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        _say(f"skipped: {name} ({error})")
        return None


def _wait_for_cuda(value: Any) -> Any:
    torch.cuda.synchronize()
    return value


# Contestants.

CLIP, BISECTION = "clip, torch", "bisection, torch"
CLIP_INTO = "clip, torch, into given memory"
FUSED, BACKWARD, GENERIC = (
    "ours, torch, perturb", "ours, torch, with backward", "ours, torch, generic engine"
)  # fmt: skip
COPY = "copy of x and delta, cuda"


def calls_of(shape: tuple[int, ...]) -> dict[Cell, Call]:
    """All contestants on typical data of one shape, for every order they know."""
    x, delta = typical(shape)
    tensors = {
        name: (framework.tensor(x), framework.tensor(delta))
        for name, framework in frameworks().items()
    }
    calls: dict[Cell, Call] = {}
    for p in ORDERS:
        eps = typical_eps(x, delta, p)
        named: dict[str, Call] = {}
        for name, framework in frameworks().items():
            named.update(_calls_in(framework, *tensors[name], eps, p, shape))
        named.update(_more_in_torch(*tensors["torch"], eps, p))
        calls.update({Cell(shape, "typical", p, name): call for name, call in named.items()})
    return calls


def hard_calls(shape: tuple[int, ...]) -> dict[Cell, Call]:
    """Eta on every kind of hard rows, for every order."""
    calls: dict[Cell, Call] = {}
    for data, (make, share) in HARD.items():
        x, delta = (torch.from_numpy(a) for a in make(shape))
        for p in ORDERS:
            eps = share * reachable_norm(x, delta, p=p)
            call = functools.partial(clipping_aware_rescaling, x, delta, eps, p=p)
            calls[Cell(shape, data, p, "ours, torch, eps per row")] = call
    return calls


def growth_calls(n: int) -> dict[Cell, Call]:
    """One row of n elements, p = 2, in PyTorch."""
    x, delta = typical((1, n))
    eps = typical_eps(x, delta, 2.0)
    x, delta = torch.from_numpy(x), torch.from_numpy(delta)
    named = {
        "ours, torch": functools.partial(clipping_aware_rescaling, x, delta, eps),
        "Foolbox, torch": functools.partial(official, x, delta, eps),
        **_more_in_torch(x, delta, eps, 2.0),
    }
    return {
        Cell((1, n), "growth", 2.0, name): named[name]
        for name in named
        if name not in (GENERIC, CLIP_INTO)
    }


def _calls_in(
    framework: Framework, x: Any, delta: Any, eps: float, p: float, shape: tuple[int, ...]
) -> dict[str, Call]:
    """Ours and the official code in one framework, as it is and compiled."""
    ways: dict[str, Callable[[Any], Any]] = {framework.name: _same}
    if framework.compile is not None and p in COMPILED_ORDERS:
        ways[framework.compiler] = framework.compile
    calls: dict[str, Call] = {}
    for way, compiled in ways.items():
        ours = compiled(lambda x, delta: clipping_aware_rescaling(x, delta, eps, p=p))
        calls[f"ours, {way}"] = lambda f=ours: framework.wait(f(x, delta))
        # one row of 12 million takes the official code minutes outside of PyTorch
        if p == 2 and (framework.name == "torch" or shape in (BIG, SMALL)):
            sorting = compiled(lambda x, delta: official(x, delta, eps))
            calls[f"Foolbox, {way}"] = lambda f=sorting: framework.wait(f(x, delta))
    if framework.name == "cuda":
        calls[COPY] = lambda: framework.wait((x.clone(), delta.clone()))
    return calls


def _more_in_torch(x: Any, delta: Any, eps: float, p: float) -> dict[str, Call]:
    eta, memory = clipping_aware_rescaling(x, delta, eps, p=p), torch.empty_like(x)
    ours = functools.partial(clipping_aware_rescaling, eps=eps, p=p)
    calls = {
        FUSED: lambda: perturb(x, delta, eps, p=p),
        BACKWARD: lambda: _backward(ours, x, delta),
        BISECTION: lambda: bisection(x, delta, eps, p),
        CLIP: lambda: torch.clamp(x + eta * delta, 0, 1),
        CLIP_INTO: lambda: torch.addcmul(x, eta, delta, out=memory).clamp_(0, 1),
    }
    if p == 2:
        calls[GENERIC] = lambda: _without_numba(ours, x, delta)
        sorting = functools.partial(official, eps=eps)
        calls["Foolbox, torch, with backward"] = lambda: _backward(sorting, x, delta)
    return calls


def _backward(function: Callable[[Any, Any], Any], x: Any, delta: Any) -> Any:
    x, delta = x.detach().requires_grad_(), delta.detach().requires_grad_()
    return torch.autograd.grad(function(x, delta).sum(), (x, delta))


def _without_numba(function: Callable[[Any, Any], Any], x: Any, delta: Any) -> Any:
    with mock.patch.object(engines, "_HAS_NUMBA", False):
        return function(x, delta)


def bisection(x: Any, delta: Any, eps: float, p: float) -> Any:
    """What a user writes: halve an interval of eta, looking at the clipped point's norm."""
    column = (-1,) + (1,) * (x.ndim - 1)
    low = torch.zeros(len(x), dtype=x.dtype)
    high = 1 / delta.abs().flatten(1).amin(1).clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        moved = torch.clamp(x + middle.reshape(column) * delta, 0, 1) - x
        short = torch.linalg.vector_norm(moved.flatten(1), ord=p, dim=1) < eps
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return high.reshape(column)


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
        **_more_in_torch(x, delta, eps, 2.0),
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


# Goals.


def goals(
    times: Times,
    memory: dict[str, float | None],
    starts: dict[str, float | None],
    own: list[steps.OwnCost],
) -> list[Goal]:
    """What the project promises, beside what was measured."""
    t = functools.partial(_least, times)
    fold = functools.partial(_ratio, times)
    rows = [
        Goal("eta, p = 2, big, against Foolbox's code", ">=", 100,
             fold(BIG, "Foolbox, torch", "ours, torch")),
        Goal("eta, p = 2, small, against Foolbox's code", ">=", 60,
             fold(SMALL, "Foolbox, torch", "ours, torch")),
        Goal("eta against the clip, big", "<=", 1.0, fold(BIG, "ours, torch", CLIP)),
        Goal("fused perturb against the clip, big", "<=", 1.2, fold(BIG, FUSED, CLIP)),
        Goal("the same by medians instead of least times", "<=", 1.2,
             _over(_median(times, BIG, FUSED), _median(times, BIG, CLIP))),
    ]  # fmt: skip
    for label, shape in (("big", BIG), ("small", SMALL)):
        for orders, limit in (((1.0, 3.0, 1.5), 1.3), ((1.3,), 4.0), ((math.inf,), 0.8)):
            parts = [_over(t(shape, p, "ours, torch"), t(shape, 2.0, "ours, torch"))
                     for p in orders]  # fmt: skip
            names = ", ".join(_order(p) for p in orders)
            rows.append(Goal(f"p = {names} against p = 2, {label}", "<=", limit, _worst(parts)))
        rows.append(Goal(
            f"eta and gradients against the official code's autograd, {label}", ">=", 40,
            fold(shape, "Foolbox, torch, with backward", BACKWARD),
        ))  # fmt: skip
    rows += [
        Goal("JAX jitted against the official code jitted, big", ">=", 20,
             fold(BIG, "Foolbox, jax.jit", "ours, jax.jit")),
        Goal("JAX jitted against the official code jitted, small", ">=", 60,
             fold(SMALL, "Foolbox, jax.jit", "ours, jax.jit")),
    ]  # fmt: skip
    for label, shape in (("big", BIG), ("small", SMALL)):
        rows.append(Goal(f"tf.function against the official code in it, {label}", ">=", 15,
                         fold(shape, "Foolbox, tf.function", "ours, tf.function")))  # fmt: skip
        for name in ("tensorflow", "jax"):
            rows.append(Goal(f"eager {name} against the official code, {label}", ">=", 60,
                             fold(shape, f"Foolbox, {name}", f"ours, {name}")))  # fmt: skip
        rows.append(Goal(f"hardest row against the typical one, {label}", "<=", 6,
                         _worst(r for _, _, r in hard_ratios(times, shape))))  # fmt: skip
    rows.append(Goal("extra peak memory of eta, part of the batch", "<=", 0.1,
                     _worst(memory[name] for name in ("ours, numpy", "ours, torch"))))  # fmt: skip
    rows += [
        # the difference of two runs is below 0 where something else disturbed the shorter one
        Goal(f"a step's own cost, {c.ours} against {c.peer}", "<=", 0.5,
             c.ratio if c.step > 0 and c.peer_step > 0 else None)
        for c in own if "APGD" not in c.peer
    ]  # fmt: skip
    for name in ("ours, numpy", "ours, torch"):
        rows.append(Goal(f"first call in a second process, {name}", "<=", 0.5, starts[name], " s"))
    return [
        *rows,
        Goal("CUDA: eta, big, against the official code", ">=", 20,
             fold(BIG, "Foolbox, cuda", "ours, cuda")),
        Goal("CUDA: eta, big, against a copy of x and delta", "<=", 3,
             fold(BIG, "ours, cuda", COPY)),
    ]  # fmt: skip


def hard_ratios(times: Times, shape: tuple[int, ...]) -> list[tuple[str, float, float]]:
    """(Data, p, time over the typical rows' at the same p)."""
    name = "ours, torch, eps per row"
    return [
        (c.data, c.p, timing.least / times[Cell(shape, "typical", c.p, name)].least)
        for c, timing in times.items()
        if c.shape == shape and c.name == name and c.data != "typical"
    ]


def _least(times: Times, shape: tuple[int, ...], p: float, name: str) -> float | None:
    timing = times.get(Cell(shape, "typical", p, name))
    return None if timing is None else timing.least


def _median(times: Times, shape: tuple[int, ...], name: str) -> float | None:
    timing = times.get(Cell(shape, "typical", 2.0, name))
    return None if timing is None else timing.median


def _ratio(times: Times, shape: tuple[int, ...], above: str, below: str) -> float | None:
    return _over(_least(times, shape, 2.0, above), _least(times, shape, 2.0, below))


def _over(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def _worst(ratios: Iterable[float | None]) -> float | None:
    return max((r for r in ratios if r is not None), default=None)


# Reports.


def report(
    header: str,
    times: Times,
    memory: dict[str, float | None],
    starts: dict[str, float | None],
    rows: list[Goal],
) -> str:
    """Everything as Markdown."""
    parts = ["# The operator beside its alternatives", "", header, "", "## Goals", ""]
    parts += goal_table(rows)
    shapes = dict.fromkeys(c.shape for c in times if c.data == "typical")
    for shape in shapes:
        parts += ["", f"## {_text(shape)}: milliseconds per call, by p", ""]
        parts += time_table(times, shape, "typical")
    for shape in (BIG, SMALL):
        parts += ["", f"## {_text(shape)}: hard rows, milliseconds per call, by p", ""]
        parts += hard_table(times, shape)
    parts += ["", "## One row of n elements, p = 2: milliseconds per call", ""]
    parts += growth_table(times)
    parts += ["", f"## Extra peak memory at {_text(BIG)}, as a part of the bytes of x", ""]
    parts += _table(("", "part"), [(n, _figure(m)) for n, m in memory.items()])
    parts += ["", "## First call in a second process, seconds", ""]
    parts += _table(("", "seconds"), [(n, _figure(s)) for n, s in starts.items()])
    return "\n".join(parts)


def goal_table(rows: list[Goal]) -> list[str]:
    """Goal, what was measured, whether it is met."""
    lines = []
    for goal in rows:
        verdict, measured = "not measured", "-"
        if goal.measured is not None:
            met = operator.ge if goal.sign == ">=" else operator.le
            verdict = "yes" if met(goal.measured, goal.limit) else "**no**"
            measured = _figure(goal.measured) + goal.unit
        lines.append((goal.text, f"{goal.sign} {goal.limit:g}{goal.unit}", measured, verdict))
    return _table(("", "goal", "measured", "met"), lines)


def time_table(times: Times, shape: tuple[int, ...], data: str) -> list[str]:
    """A row per contestant, a column per order; the least of all runs."""
    here = {c: t for c, t in times.items() if c.shape == shape and c.data == data}
    lines = []
    for name in dict.fromkeys(c.name for c in here if c.name != "ours, torch, eps per row"):
        cells = [here.get(Cell(shape, data, p, name)) for p in ORDERS]
        lines.append((name, *(_milliseconds(t) for t in cells)))
    return _table(("", *(_order(p) for p in ORDERS)), lines)


def hard_table(times: Times, shape: tuple[int, ...]) -> list[str]:
    """A row per kind of data."""
    lines = []
    for data in HARD:
        cells = [times.get(Cell(shape, data, p, "ours, torch, eps per row")) for p in ORDERS]
        lines.append((data, *(_milliseconds(t) for t in cells)))
    return _table(("", *(_order(p) for p in ORDERS)), lines)


def growth_table(times: Times) -> list[str]:
    """A row per n."""
    curves = growth_curves(times)
    lines = [
        (f"{n}", *(f"{curve[n] * 1e3:.4g}" for curve in curves.values()))
        for n in next(iter(curves.values()))
    ]
    return _table(("n", *curves), lines)


def growth_curves(times: Times) -> dict[str, dict[int, float]]:
    """Seconds by n, per contestant."""
    curves: dict[str, dict[int, float]] = {}
    for cell, timing in times.items():
        if cell.data == "growth":
            curves.setdefault(cell.name, {})[cell.shape[1]] = timing.least
    return curves


def plot(times: Times, path: Path) -> None:
    """Growth with n, both axes logarithmic."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        _say(f"skipped: the plot ({error})")
        return
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, curve in growth_curves(times).items():
        style = "-o" if name.startswith("ours") else "--s"
        axes.loglog(list(curve), [s * 1e3 for s in curve.values()], style, ms=4, label=name)
    axes.set(xlabel="n, elements of the one row", ylabel="milliseconds per call")
    axes.set_title("Growth with n: p = 2, float32, one row")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def write_csv(times: Times, path: Path) -> None:
    """One line per cell, seconds."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("shape", "data", "p", "contestant", *Timing.__annotations__))
        for cell, timing in times.items():
            writer.writerow((
                _text(cell.shape), cell.data, _order(cell.p), cell.name, *asdict(timing).values()
            ))  # fmt: skip


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *lines)]


def _milliseconds(timing: Timing | None) -> str:
    return "" if timing is None else f"{timing.least * 1e3:.3g}"


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def _order(p: float) -> str:
    return "inf" if p == math.inf else f"{p:g}"


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
