"""The operator against a bisection in float64, on random rows, in every engine of a CPU.

    python -m experiments.differential --rows 1000000 --output experiments/results

Rows of 1 to 4096 elements, p from 0.25 to infinity; directions are Gaussian, uniform, heavy-tailed,
sparse or spread over 16 decimal digits, in any units, and points are anywhere or mostly on the
bounds; epsilon is between a millionth and 0.999999 of what is reachable. The norm is taken in
float64 from eta, x and delta.

How much eta itself may be off is a matter of the row: with few elements left to move, the norm
hardly depends on eta. Its elasticity, d log norm / d log eta, is the share of norm^p that still
moves. It falls with eta, at once where an element comes to its bound, so it is taken where the norm
is larger by as much as it may be. The error of eta is that of rows with an elasticity of at least
0.1, in which it may be ten times that of the norm.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import foolbox_carescale as fc
from experiments.benchmarks.environment import describe
from foolbox_carescale.engines.eager import Eager
from foolbox_carescale.operators.validation import prepare
from tests import reference

Array = np.ndarray[Any, Any]

ENGINES = ("numpy", "eager", "jax.jit", "tf.function")
ORDERS = (0.25, 0.5, 1.0, 1.3, 1.5, 2.0, 3.0, 7.0, 50.0, 1e3, 1e5, 1e7, 9e7, 1e12, math.inf)
DTYPES = ("float32", "float64")
LENGTHS = (1, 8, 200, 4096)  # each of which is compiled for itself
AT_ONCE = 200  # rows of one length, which are solved in one call
WELL_CONDITIONED = 0.1
PROMISED = {"float32": 1e-6, "float64": 1e-12}


@dataclasses.dataclass
class Errors:
    """The greatest relative errors of one engine, p and dtype.

    Attributes:
        norm: Of the norm after the clip.
        eta: Of eta, in rows that are well-conditioned, of which there are ``well``.
    """

    engine: str
    p: float
    dtype: str
    rows: int = 0
    norm: float = 0.0
    well: int = 0
    eta: float = 0.0


def main() -> None:
    """Compare, print, and write ``differential.md`` and ``differential.csv``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder for the two files")
    arguments = parser.parse_args()
    found = compare(arguments.rows, arguments.seed)
    lines = [
        "# The operator against a bisection",
        "",
        describe(("foolbox-carescale", "numpy", "numba", "jax", "tensorflow-cpu"))
        + f", seed {arguments.seed}.",
        "",
        f"{sum(e.rows for e in found):,} random rows of 1 to {LENGTHS[-1]} elements. `norm` is the"
        " greatest relative error of the norm after the clip; the promise is below 1e-6 (float32)"
        " and 1e-12 (float64). The last column is the error of eta in rows with an elasticity (the"
        f" share of norm^p that still moves) of at least {WELL_CONDITIONED}. It may be ten times"
        " as large.",
        "",
        "| engine | p | dtype | rows | norm | rows, well-conditioned | eta there |",
        "|---|---|---|---|---|---|---|",
    ]
    for e in found:
        lines.append(
            f"| {e.engine} | {e.p:g} | {e.dtype} | {e.rows:,} | {e.norm:.1e} | {e.well:,}"
            f" | {e.eta:.1e} |"
        )
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "differential.md").write_text(text, encoding="utf-8")
        with (arguments.output / "differential.csv").open("w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, [field.name for field in dataclasses.fields(Errors)])
            writer.writeheader()
            writer.writerows(dataclasses.asdict(e) for e in found)


def compare(
    rows: int,
    seed: int = 0,
    engines: Sequence[str] = ENGINES,
    orders: Sequence[float] = ORDERS,
    dtypes: Sequence[str] = DTYPES,
    lengths: Sequence[int] = LENGTHS,
) -> list[Errors]:
    """Return the errors of each engine, p and dtype, among which the rows are divided evenly."""
    groups = list(itertools.product(engines, orders, dtypes))
    found = []
    for number, (engine, p, dtype) in enumerate(groups):
        generator = np.random.default_rng((seed, number))
        errors = Errors(engine, p, dtype)
        wanted = (number + 1) * rows // len(groups) - number * rows // len(groups)
        while errors.rows < wanted:
            # always as many: an engine that compiles would do it again for another number
            x, v, eps = problem(generator, AT_ONCE, int(generator.choice(lengths)), p, dtype)
            eta = _solver(engine)(x, v, eps, p)
            count = min(AT_ONCE, wanted - errors.rows)
            _add(errors, *(t[:count] for t in (x, v, eps, eta)))
        found.append(errors)
    return found


def _solver(engine: str) -> Callable[[Array, Array, Array, float], Array]:
    """Return a function from x, delta, eps and p to eta, shape (N,), float64."""

    def solve(x: Array, v: Array, eps: Array, p: float) -> Array:
        with contextlib.ExitStack() as stack:
            if engine == "numpy":
                eta = fc.clipping_aware_rescaling(x, v, eps, p=p)
            elif engine == "eager":
                eta = Eager().solve(prepare(x, v, eps, p, (0, 1))).raw
            elif engine == "jax.jit":
                import jax

                stack.enter_context(jax.enable_x64(x.dtype == np.float64))
                eta = _jitted(p)(*(jax.numpy.asarray(t) for t in (x, v, eps)))
            else:
                import tensorflow as tf

                eta = _graph(p)(*(tf.constant(t) for t in (x, v, eps)))
            result: Array = np.asarray(eta)[:, 0].astype(float)
            return result

    return solve


@functools.cache
def _jitted(p: float) -> Any:
    import jax

    return jax.jit(functools.partial(fc.clipping_aware_rescaling, p=p))


@functools.cache
def _graph(p: float) -> Any:
    import tensorflow as tf

    return tf.function(lambda x, v, eps: fc.clipping_aware_rescaling(x, v, eps, p=p))


def problem(
    generator: np.random.Generator, rows: int, n: int, p: float, dtype: str
) -> tuple[Array, Array, Array]:
    """Return x, delta and eps, as the dtype holds them; each row of one of six families."""
    shape = (rows, n)
    normal, cauchy = generator.standard_normal(shape), generator.standard_cauchy(shape)
    family = np.arange(rows)[:, None] % 6
    sparse = np.where(generator.random(shape) < 0.1, normal, 0.0)
    wide = normal * 10 ** generator.uniform(-8, 8, shape)
    v = np.choose(family, [normal, generator.uniform(-1, 1, shape), cauchy, sparse, normal, wide])
    v *= 10 ** generator.uniform(-8, 8, (rows, 1))
    x = generator.random(shape)
    x = np.where((family == 4) & (generator.random(shape) < 0.9), np.round(x), x)
    x, v = x.astype(dtype), v.astype(dtype)
    share = np.choose(
        np.arange(rows) // 6 % 4,
        [
            10 ** generator.uniform(-6, 0, rows),
            generator.random(rows),
            1 - 10 ** generator.uniform(-6, -1, rows),
            np.full(rows, 0.999999),
        ],
    )
    return x, v, (np.minimum(share, 0.999999) * reference.reachable_norm(x, v, p)).astype(dtype)


def _add(errors: Errors, x: Array, v: Array, eps: Array, eta: Array) -> None:
    p = errors.p
    wanted = eps.astype(float)
    size = reference.measured_norm(eta, x, v, p)
    exact = reference.bisected_eta(x, v, wanted, p)
    moves = wanted > 0  # where nothing can move, or epsilon underflows, eta is 0
    assert np.array_equal(eta > 0, moves)
    x, v, exact, eta, wanted, size = (t[moves] for t in (x, v, exact, eta, wanted, size))
    elasticity = _elasticity(x, v, wanted * (1 + PROMISED[errors.dtype]), p)
    well = elasticity >= WELL_CONDITIONED
    errors.rows += len(moves)
    errors.well += int(well.sum())
    for name, values in (
        ("norm", np.abs(size / wanted - 1)),
        ("eta", np.abs(eta / exact - 1)[well]),
    ):
        setattr(errors, name, max(getattr(errors, name), float(values.max(initial=0.0))))


def _elasticity(x: Array, v: Array, eps: Array, p: float) -> Array:
    """The share of norm^p that still moves where the norm is eps: d log norm / d log eta."""
    eta = reference.bisected_eta(x, v, eps, p)
    room, moved = reference.room(x, v), eta[:, None] * np.abs(v.astype(float))
    if p == math.inf:
        return (moved < room).any(axis=1).astype(float)
    powers = (np.minimum(moved, room) / eps[:, None]) ** p
    share: Array = np.where(moved < room, powers, 0.0).sum(axis=1)
    return share


if __name__ == "__main__":
    main()
