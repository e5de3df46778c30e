"""Vary one constant of the minimum-norm attack at a time.

    python -m experiments.minimum_norm_sweep --output experiments/results
    python -m experiments.minimum_norm_sweep --output results --models digits --orders 1 --skip 50

Writes ``minimum_norm_sweep.csv``: per model, order and setting the mean and median norm, and the
geometric mean over samples of the norm beside that of the defaults, all at the same number of
gradients; and ``minimum_norm_sweep.md``, the same as a table. A row that is there is not computed
again. Models and samples are those of ``experiments.benchmarks.strength``; ``--skip`` takes others.
"""

from __future__ import annotations

import argparse
import csv
import functools
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from experiments.benchmarks.environment import describe
from experiments.benchmarks.models import SAMPLES, Target, load_target
from foolbox_carescale.attacks import ClipAwareMinimumNorm, directions, minimum_norm
from foolbox_carescale.attacks.state import Sparsity
from foolbox_carescale.evaluate.config.types import norm_name, norm_order

GRADIENTS = 100
FIELDS = ("model", "norm", "skip", "samples", "setting", "mean", "median", "ratio", "failed")

Setting = dict[str, Any]


def settings(p: float) -> dict[str, Setting]:
    """All settings by name: constants of the module, or arguments of the attack."""
    first, last = minimum_norm.STEPSIZE_L1 if p == 1 else minimum_norm.STEPSIZE
    name = "STEPSIZE_L1" if p == 1 else "STEPSIZE"
    more, less = minimum_norm.CHANGE
    found: dict[str, Setting] = {
        "defaults": {},
        "one restart": {"restarts": 1},
        "soft margin alone": {"loss": "soft_margin"},
        "margin alone": {"loss": "margin"},
        "three restarts": {"restarts": 3},
        **{f"radius changes by {part * more:g} at first": {"CHANGE": (part * more, less)}
           for part in (0.5, 2)},
        **{f"radius changes by {part * less:g} at last": {"CHANGE": (more, part * less)}
           for part in (0.3, 5)},
        **{f"step {part * first:g} at first": {name: (part * first, last)} for part in (0.5, 2)},
        **{f"step {part * last:g} at last": {name: (first, part * last)} for part in (0.5, 4)},
        **{f"growth {growth} at most": {"FASTEST_GROWTH": growth} for growth in (1.1, 2.0)},
        **{f"restart at {part}": {"RESTART_AT": part} for part in (0.85, 1.0)},
        **{f"momentum {m}": {"momentum": m} for m in (0.0, 0.25, 0.5)},
    }  # fmt: skip
    if not 1 < p < float("inf"):
        others = (0.0, 0.6) if p == 1 else (0.0, 0.3, 0.7)
        found |= {f"decay {decay}": {"decay": decay} for decay in others}
    if p == 1:
        found |= {f"sparser by {by}": {"SPARSER": by} for by in (1.2, 2.0, 3.0)}
        found |= {f"first move {part}": {"FIRST_MOVE": part} for part in (0.1, 1.0)}
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(SAMPLES), choices=list(SAMPLES))
    parser.add_argument("--orders", nargs="+", default=["1", "2", "inf"])
    parser.add_argument("--weights", type=Path, default=Path("."), help="of the robust models")
    parser.add_argument("--settings", nargs="+", help="by default all")
    parser.add_argument("--samples", type=int, default=None)
    parser.add_argument("--skip", type=int, default=0, help="samples to leave out at the beginning")
    parser.add_argument("--gradients", type=int, default=GRADIENTS)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "minimum_norm_sweep.csv"
    for model in options.models:
        samples = options.samples or SAMPLES[model]
        target = load_target(model, samples, options.weights, options.skip)
        for p in (norm_order(f"L{order}") for order in options.orders):
            key = (model, norm_name(p), str(options.skip), str(samples))
            done = {
                row["setting"] for row in read(path) if tuple(row[f] for f in FIELDS[:4]) == key
            }
            base: Any = None
            for name, setting in settings(p).items():
                wanted = name == "defaults" or not options.settings or name in options.settings
                if not wanted or (name in done and name != "defaults"):
                    continue
                norms = run(target, p, setting, options.gradients)
                base = norms if base is None else base
                row = summary(key, name, norms, base)
                if name not in done:
                    append(path, row)
                print(*row.values(), file=sys.stderr, flush=True)
    write(path, options.output)


def run(target: Target, p: float, setting: Setting, gradients: int) -> np.ndarray[Any, Any]:
    """The norms that the attack finds, infinite where it finds nothing."""
    own = {name: value for name, value in setting.items() if name in ("loss", "momentum")}
    restarts = setting.get("restarts", 2)
    attack = ClipAwareMinimumNorm(p=p, steps=gradients // restarts, restarts=restarts, **own)
    with constants(setting):
        points = attack.run(target.model, target.images, target.labels)
    with torch.no_grad():
        found = target.model(points).argmax(-1) != target.labels
    moved = (points.double() - target.images.double()).flatten(1)
    norms = torch.linalg.vector_norm(moved, ord=p, dim=1)
    return torch.where(found, norms, torch.inf).numpy()


@contextmanager
def constants(setting: Setting) -> Iterator[None]:
    """The module with these constants."""
    with ExitStack() as stack:
        for name in filter(str.isupper, setting):
            holder: Any = Sparsity if hasattr(Sparsity, name) else minimum_norm
            stack.enter_context(mock.patch.object(holder, name, setting[name]))
        if "decay" in setting:
            decayed = functools.partial(_with_decay, directions.Momentum, setting["decay"])
            stack.enter_context(mock.patch.object(directions, "Momentum", decayed))
        yield


def _with_decay(momentum: type[directions.Momentum], decay: float, _: float) -> directions.Momentum:
    """Return accumulated gradients of this decay, whatever an attack asks for."""
    return momentum(decay)


def summary(key: tuple[str, ...], name: str, norms: Any, base: Any) -> dict[str, Any]:
    """One row."""
    both = np.isfinite(norms) & np.isfinite(base) & (base > 0)
    ratio = float(np.exp(np.log(norms[both] / base[both]).mean())) if both.any() else float("nan")
    failed = int(np.isinf(norms).sum())
    values = (*key, name, norms.mean(), np.median(norms), ratio, failed)
    return dict(zip(FIELDS, values, strict=True))


def read(path: Path) -> list[dict[str, str]]:
    """The rows so far."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: dict[str, Any]) -> None:
    """One more row."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def write(path: Path, folder: Path) -> None:
    """The table: a line per setting, a column per model and norm."""
    rows = read(path)
    columns = sorted({(row["model"], row["norm"]) for row in rows})
    names = list(dict.fromkeys(row["setting"] for row in rows))
    lines = [
        "# Constants of the minimum-norm attack", "", describe(("torch", "foolbox")) + ".", "",
        "The geometric mean over samples of the norm found, beside that of the defaults, at"
        f" {GRADIENTS} gradients; below 1 is better.", "",
        "| setting | " + " | ".join(f"{model}, {norm}" for model, norm in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]  # fmt: skip
    for name in names:
        cells = []
        for column in columns:
            found = [
                float(row["ratio"])
                for row in rows
                if row["setting"] == name and (row["model"], row["norm"]) == column
            ]
            cells.append(f"{np.mean(found):.3f}" if found else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    (folder / "minimum_norm_sweep.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
