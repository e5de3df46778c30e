"""The goals of `rescaling`, and its tables and figure."""

from __future__ import annotations

import csv
import functools
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.benchmarks import steps
from experiments.benchmarks.rescaling_calls import (
    BACKWARD,
    BIG,
    CLIP,
    COPY,
    FUSED,
    HARD,
    ORDERS,
    SMALL,
    Cell,
    say,
)


@dataclass(frozen=True)
class Timing:
    """Seconds per call over all turns."""

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


Times = dict[Cell, Timing]


def goals(
    times: Times,
    memory: dict[str, float | None],
    starts: dict[str, float | None],
    own: list[steps.OwnCost],
) -> list[Goal]:
    """Return the goals of the project with their measurements."""
    t = functools.partial(_least, times)
    fold = functools.partial(_ratio, times)
    rows = [
        Goal("eta, p = 2, big, against Foolbox's code", ">=", 100,
             fold(BIG, "Foolbox, torch", "ours, torch")),
        Goal("eta, p = 2, small, against Foolbox's code", ">=", 60,
             fold(SMALL, "Foolbox, torch", "ours, torch")),
        Goal("eta against the clip, big", "<=", 1.0, fold(BIG, "ours, torch", CLIP)),
        Goal("fused perturb against the clip, big", "<=", 1.2, fold(BIG, FUSED, CLIP)),
        Goal("the same by medians instead of minima", "<=", 1.2,
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
        rows.append(Goal(f"tf.function against the official code in tf.function, {label}", ">=", 15,
                         fold(shape, "Foolbox, tf.function", "ours, tf.function")))  # fmt: skip
        for name in ("tensorflow", "jax"):
            rows.append(Goal(f"eager {name} against the official code, {label}", ">=", 60,
                             fold(shape, f"Foolbox, {name}", f"ours, {name}")))  # fmt: skip
        rows.append(Goal(f"hardest row against the typical one, {label}", "<=", 6,
                         _worst(r for _, _, r in hard_ratios(times, shape))))  # fmt: skip
    rows.append(Goal("extra peak memory of eta, share of the batch", "<=", 0.1,
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
    parts = ["# The operator and its alternatives", "", header, "", "## Goals", ""]
    parts += goal_table(rows)
    shapes = dict.fromkeys(c.shape for c in times if c.data == "typical")
    for shape in shapes:
        parts += ["", f"## {text_of(shape)}: milliseconds per call, by p", ""]
        parts += time_table(times, shape, "typical")
    for shape in (BIG, SMALL):
        parts += ["", f"## {text_of(shape)}: hard rows, milliseconds per call, by p", ""]
        parts += hard_table(times, shape)
    parts += ["", "## One row of n elements, p = 2: milliseconds per call", ""]
    parts += growth_table(times)
    parts += ["", f"## Extra peak memory at {text_of(BIG)}, as a share of the bytes of x", ""]
    parts += _table(("", "share"), [(n, _figure(m)) for n, m in memory.items()])
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
        say(f"skipped: the plot ({error})")
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
    """Write one line per timing, in seconds."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("shape", "data", "p", "contestant", *Timing.__annotations__))
        for cell, timing in times.items():
            writer.writerow((
                text_of(cell.shape), cell.data, _order(cell.p), cell.name, *asdict(timing).values()
            ))  # fmt: skip


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *lines)]


def _milliseconds(timing: Timing | None) -> str:
    return "" if timing is None else f"{timing.least * 1e3:.3g}"


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def _order(p: float) -> str:
    return "inf" if p == math.inf else f"{p:g}"


def text_of(shape: tuple[int, ...]) -> str:
    """Return the shape as the tables show it."""
    return "x".join(str(size) for size in shape)
