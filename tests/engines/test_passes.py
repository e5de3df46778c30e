"""How often the compiled engine reads a row, counted while its kernels run as plain Python."""

import math
import subprocess
import sys
import types
from pathlib import Path

import numpy as np

from foolbox_carescale.engines import cpu
from foolbox_carescale.engines.cpu.kernels import projection, roots, steepest
from tests.engines.hard import Problem

LENGTH = 200  # of which a sample of 128 comes first
CASES = ("uniform", "cauchy", "geometric", "quantised")
BOX = np.zeros((1, 1)), np.ones((1, 1))
# What was counted at first, for six rows of each case, one of them with eps = 0 and one out of
# reach. Passes over the sample that comes first count, too. Fewer are welcome.
MOST = {
    "root 0.5": (34, 34, 48, 21),
    "root 1.0": (33, 42, 55, 22),
    "root 1.3": (42, 62, 54, 21),
    "root 2.0": (32, 51, 52, 20),
    "root 10.0": (48, 66, 63, 20),
    "root in doubt": (1, 1, 1, 1),
    "root of faint directions": (30, 30, 23, 9),
    "root of float32": (32, 50, 52, 25),
    "projection from near": (81, 70, 67, 74),
    "projection from far": (60, 62, 61, 60),
    "sparse step": (26, 28, 24, 258),
    "steepest step": (260, 260, 259, 259),
    "sphere that is reached": (0, 0, 0, 0),
}


def counts(monkeypatch, module, name, call):
    """How often the kernel of this name is called by the others of the module."""
    kernel, count = getattr(module, name), 0

    def counted(*args):
        nonlocal count
        count += 1
        return kernel(*args)

    monkeypatch.setattr(module, name, counted)
    call()
    monkeypatch.undo()
    return count


def jobs(case):
    """Names, and what to count of what."""
    for p in (0.5, 1.0, 1.3, 2.0, 10.0):
        problem, eps = hard(p, case)
        yield f"root {p}", roots, "sum_row", solve(problem.x, problem.delta, eps, p)
    problem, eps = hard(2.0, case)
    x, v = problem.x, problem.delta
    yield "root in doubt", roots, "_bracketed", solve(x, v, eps, 2.0)
    yield "root of faint directions", roots, "sum_row", solve(x, 1e-200 * v, eps, 2.0)
    yield "root of float32", roots, "sum_row", solve(*map(np.float32, (x, v)), eps, 2.0)
    problem, eps = hard(1.0, case)
    for name, far in (("near", 1e-3), ("far", 1e3)):
        z = x + far * v / np.abs(v).max(axis=1, keepdims=True)
        yield f"projection from {name}", projection, "_shrunk_block", project(x, z, far * eps)
    counted = np.array([1.0, 2, 10, 70, 199, 200])
    yield "sparse step", steepest, "_count_from", step(x, v, eps, counted)
    yield "steepest step", steepest, "_count_from", step(x, v, eps, None)
    at_eps = np.clip(x + 0.1 * np.sign(v), x - 0.1, x + 0.1)
    on = {"p": math.inf, "sphere": True}
    found = project(x, at_eps, np.full(6, 0.1), **on)
    yield "sphere that is reached", projection, "solve_row_inf", found


def hard(p, case):
    problem = Problem(p, "float64", length=LENGTH, cases=(case,))
    return problem, problem.eps[:, 0]


def box(x):
    return [bound.astype(x.dtype) for bound in BOX]


def solve(x, v, eps, p):
    return lambda: cpu.solve(x, v, eps.astype(float), p, *box(x), tolerance=1e-6)


def project(x, z, eps, p=1.0, sphere=False):
    return lambda: cpu.constrain(
        x, z, eps, p, *box(x), tolerance=1e-6, sphere=sphere, momentum=None
    )


def step(x, v, eps, counted):
    return lambda: cpu.steepest(x, v, eps, 1.0, *box(x), tolerance=1e-6, counts=counted)


def test_a_row_is_read_no_more_often_than_it_was(monkeypatch):
    if not isinstance(roots.sum_row, types.FunctionType):  # compiled: once more, as plain Python
        plain = ["-p", "experiments.mutation_kernels", "-p", "no:xdist", "-q", __file__]
        root = Path(__file__).parents[2]
        subprocess.run([sys.executable, "-m", "pytest", *plain], cwd=root, check=True)
        return
    found = {}
    for case in CASES:
        for name, module, kernel, call in jobs(case):
            found.setdefault(name, []).append(counts(monkeypatch, module, kernel, call))
    assert found.keys() == MOST.keys()
    for name, passes in found.items():
        # one more, should a sum be rounded otherwise
        most = [n + 1 if n > 1 else n for n in MOST[name]]
        assert all(a <= b for a, b in zip(passes, most, strict=True)), (name, passes)
