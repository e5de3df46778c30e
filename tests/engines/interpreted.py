"""Calls of the compiled CPU engine on small arrays, and the same by Python alone.

`IN_PYTHON` writes what the source of the kernels says, as opposed to what numba makes of it; it is
also where coverage sees which of their lines run.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np

from foolbox_carescale.engines.numba_cpu import arrays as cpu
from foolbox_carescale.engines.numba_cpu.kernels import compiling
from tests import reference
from tests.engines import hard

LENGTH = 140  # a row of which the kernels take a sample first
HARD_ORDERS = (1.3, 2.0, math.inf)
EASY_ORDERS = (0.5, 1.0, 1.5, 3.0)
WIDE = ("geometric", "log-uniform")  # sums of these vanish in the array's precision
SIZES = {1.0: 4.0, 1.5: 1.5, 2.0: 1.0, 2.5: 0.8, math.inf: 0.1}
DTYPES = (np.float32, np.float64)

# Foolbox's own compiled classes have to be made before; NUMBA_DISABLE_JIT comes too early.
IN_PYTHON = """
import sys, foolbox, numba
numba.config.DISABLE_JIT = True
from tests.engines import interpreted
interpreted.write(sys.argv[1])
"""

Results = Iterator[tuple[str, Any]]


def write(path: str) -> None:
    by_python()
    with np.errstate(all="ignore"):  # as in compiled code
        np.savez(path, **dict(results()))


def results() -> Results:
    """Names and arrays, to be compared by the precision that the name says; flags exactly."""
    yield from roots()
    yield from flags()
    yield from gradients()
    yield from moves()


def roots() -> Results:
    for dtype in ("float32", "float64"):
        problems = [hard.Problem(p, dtype, LENGTH) for p in HARD_ORDERS]
        problems += [hard.Problem(p, dtype, LENGTH, cases=("uniform",)) for p in EASY_ORDERS]
        problems += [hard.Problem(p, dtype, 40, cases=WIDE) for p in (0.3, 10.0)]
        for problem in problems:
            p = problem.p
            bounds = numbers(dtype)
            eta, _ = cpu.solve(*arrays(problem), p, *bounds, tolerance=1e-6)
            eta = np.minimum(eta, float(np.finfo(dtype).max)).astype(dtype)
            # not eta itself, which is any number where all but nothing is saturated
            size = reference.measured_norm(eta, problem.x, problem.delta, p)
            yield f"norm {dtype} {p}, {len(size)} rows", size
        x, delta, eps = arrays(hard.Problem(2.0, dtype, 30, cases=WIDE))
        for p in (0.5, 1.3, 2.0):  # which float32 has no number for the first eta of
            faint = delta * np.asarray(1e-37, dtype)
            eta, _ = cpu.solve(x, faint, 1e-2 * eps, p, *numbers(dtype), tolerance=0.0)
            size = reference.measured_norm(eta.astype(dtype), x, faint, p)
            yield f"norm of faint directions {dtype} {p}", size
        x, delta, eps = arrays(hard.Problem(2.0, dtype, 30, cases=("uniform",)))
        rng = np.random.default_rng(0)
        low = rng.uniform(-1, 0, x.shape).astype(dtype)
        # each dtype would be compiled for some seconds
        shapes = (("one row", low[:1]), ("rows", low)) if dtype == "float64" else ()
        for name, lower in shapes:
            found, eta, _ = cpu.perturb(
                x, delta, eps, 2.0, lower, lower + np.asarray(2, dtype), tolerance=0.0
            )
            yield f"eta, bounds in {name}, {dtype}", eta
            yield f"points, bounds in {name}, {dtype}", found
        cpu.perturb(x, delta, eps, 2.0, *numbers(dtype), tolerance=0.0, out=x)
        yield f"points in place {dtype}", x


def flags() -> Results:
    for p in (1.0, 1.3, 2.0, math.inf):
        x, delta, _ = arrays(hard.Problem(2.0, "float32", 20, cases=("uniform",)))
        x[0, 1], x[1, 1], delta[2, 3], delta[3, 4] = math.nan, 2, math.nan, math.inf
        eps = np.array([0.1, 0.1, 0.1, 0.1, 0.0, 1e-320])
        x[4, 0] = -1
        for call in (cpu.solve, cpu.steepest):
            _, found = call(x, delta, eps, p, *numbers("float32"), tolerance=1e-6)
            yield f"{call.__name__} {p} flags", found
        for sphere in (True, False):
            *_, found = cpu.project(
                x, x + delta, eps, p, *numbers("float32"),
                tolerance=1e-6, sphere=sphere, momentum=None,
            )  # fmt: skip
            yield f"constrain {p} {sphere} flags", found
    x = np.full((1, 3), 0.5, np.float32)
    tiny = np.full((1, 3), 1e-42, np.float32)  # eta is beyond the numbers
    _, found = cpu.steepest(x, tiny, np.ones(1), 2.0, *numbers("float32"), tolerance=0.0)
    yield "steepest tiny flags", found


def gradients() -> Results:
    rng = np.random.default_rng(1)
    for dtype in DTYPES:
        # the source is that of float64, where all are compiled
        orders = (
            (1.3, 2.0, math.inf) if dtype is np.float32 else (1.0, 1.3, 1.5, 2.0, 3.0, math.inf)
        )
        for p in orders:
            cases = ("uniform", "on the bounds", "all zero", "tiny")
            problem = hard.Problem(p, np.dtype(dtype).name, 20, cases=cases)
            x, delta, eps = arrays(problem)
            eps *= 0.9  # where all but nothing is saturated, derivatives are all rounding
            bounds = numbers(problem.dtype)
            eta, _ = cpu.solve(x, delta, eps, p, *bounds, tolerance=1e-6)
            for cotangent in (rng.random(len(x)), rng.random(x.shape).astype(dtype)):
                found = cpu.gradients(x, delta, eps, eta, p, *bounds, cotangent)
                for name, array in zip(("x", "delta", "eps"), found, strict=True):
                    # of tiny directions huge, of those that cannot move 0
                    of = f"{cotangent.ndim}d {p} {problem.dtype} by {name}"
                    yield f"gradient {of}", np.arcsinh(array.astype(float))
    x = np.full((1, 3), 0.5, np.float32)
    tiny = np.full((1, 3), 1e-39, np.float32)  # no eta takes these to their bounds
    eps, bounds = np.ones(1), numbers("float32")
    eta = np.full(1, np.finfo(np.float32).max, float)
    for array in cpu.gradients(x, tiny, eps, eta, 2.0, *bounds, np.ones(1)):
        yield f"gradient out of reach {array.shape}", array


def moves() -> Results:
    for dtype in DTYPES:
        name = np.dtype(dtype).name
        x, v, _ = arrays(hard.Problem(2.0, name, LENGTH, cases=("on the bounds",)))
        x[::2] = arrays(hard.Problem(2.0, name, LENGTH, cases=("uniform",)))[0][::2]
        v[-1] = 0
        rows = len(x)
        for p, size in SIZES.items():
            eps = size * np.array([1, 0, 0.5, 1, 1e3, 1])
            found, _ = cpu.steepest(x, v, eps, p, *numbers(name), tolerance=0.0)
            yield f"steepest {p} {name}", found
            doubtful = v.copy()
            doubtful[0, :2], doubtful[1] = (math.nan, math.inf), dtype(1e-44)
            found, _ = cpu.steepest(
                x, doubtful, eps, p, *numbers(name), tolerance=0.0, lenient=True, overwrite=True
            )
            yield f"steepest {p} {name} of what is not finite, or tiny", found
            for far in (0.002, 1.0):
                for sphere in (True, False):
                    m = (0.25, x + dtype(far / 2) * v, x) if sphere else None
                    found, threshold, missing, _ = cpu.project(
                        x, x + dtype(far) * v, eps, p, *numbers(name),
                        tolerance=0.0, sphere=sphere, momentum=m, twice=sphere and far < 1,
                    )  # fmt: skip
                    yield f"constrain {p} {far} {sphere} {name}", found
                    yield f"threshold {p} {far} {sphere} {name}", threshold
                    yield f"missing {p} {far} {sphere} {name}", missing
        counts = np.array([1, 3, 50, 139, 10, 1])
        found, _ = cpu.steepest(
            x, v, np.full(rows, 0.3), 1.0, *numbers(name), tolerance=0.0, counts=counts
        )
        yield f"sparse step {name}", found
        total = x.copy()
        g = v.copy()
        g[0, 0], g[1, 1] = math.inf, math.nan
        cpu.accumulate(total, 0.9, g, 1e-12)
        yield f"momentum {name}", total


def in_float32() -> list[Any]:
    """Return results whose last digit depends on the order of sums."""
    rng = np.random.default_rng(0)
    x, v = rng.random((6, 2000), np.float32), rng.standard_normal((6, 2000), np.float32)
    bounds, eps = numbers("float32"), np.geomspace(0.1, 20, 6)
    eta, _ = cpu.solve(x, v, eps, 2.0, *bounds, tolerance=0.0)
    points, _, _ = cpu.perturb(x, v, eps, 2.0, *bounds, tolerance=0.0)
    of_points = rng.random((6, 2000), np.float32)
    return [eta, points, *cpu.gradients(x, v, eps, eta, 2.0, *bounds, of_points)]


def arrays(problem: hard.Problem) -> tuple[Any, Any, Any]:
    return problem.x, problem.delta, problem.eps[:, 0].astype(float)


def numbers(dtype: str) -> tuple[Any, Any]:
    return np.zeros((1, 1), dtype), np.ones((1, 1), dtype)


def by_python() -> None:
    """Gives Python what numba resolves by type when it compiles."""
    kernels = [m for name, m in sys.modules.items() if name.startswith(cpu.kernels.__name__)]
    plain = {"bits_of": same_bits}
    for module in kernels:
        for name, overload in vars(module).items():
            if name.endswith("_overload"):
                of = name.removesuffix("_overload")  # a private function's, or a public one's
                plain[of] = plain[of[1:]] = resolved(overload)
    for module in kernels:
        for name in plain.keys() & vars(module).keys():
            setattr(module, name, plain[name])


def resolved(overload: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[Any, Any] = {}

    def call(*args: Any) -> Any:
        types = tuple(map(type, args))
        if types not in known:
            known[types] = overload(*map(numba.typeof, args))
        return known[types](*args)

    return call


@functools.cache
def bits_of(kind: type) -> np.dtype[Any]:
    return np.dtype(str(compiling.SAME_BITS[numba.typeof(kind())]))


def same_bits(value: Any) -> Any:
    value = np.float64(value) if isinstance(value, float) else value
    return value.view(bits_of(type(value)))
