"""How often the compiled engine reads a row, counted while its kernels run as plain Python."""

import subprocess
import sys
import types
from pathlib import Path

import numpy as np

from foolbox_carescale.engines import cpu
from foolbox_carescale.engines.cpu.kernels import roots
from tests.engines.hard import Problem

CASES = ("uniform", "cauchy", "geometric")
# For six rows of 200 elements and as many epsilons, one of them 0 and one out of reach. Passes
# over the sample that comes first count, too. So many they were at first; fewer are welcome.
MOST = {0.5: (34, 34, 48), 1.3: (42, 62, 54), 2.0: (32, 51, 52), 10.0: (48, 66, 63)}


def passes_over(p, case, monkeypatch):
    counts = {"sum_row": 0, "_bracketed": 0}

    def counted(name, kernel):
        def call(*args):
            counts[name] += 1
            return kernel(*args)

        return call

    for name in counts:
        monkeypatch.setattr(roots, name, counted(name, getattr(roots, name)))
    problem = Problem(p, "float64", length=200, cases=(case,))
    bounds = np.zeros((1, 1)), np.ones((1, 1))
    cpu.solve(problem.x, problem.delta, problem.eps[:, 0], p, *bounds, tolerance=1e-6)
    monkeypatch.undo()
    return counts["sum_row"], counts["_bracketed"]


def test_a_row_is_read_no_more_often_than_it_was(monkeypatch):
    if not isinstance(roots.sum_row, types.FunctionType):  # compiled: once more, as plain Python
        plain = ["-p", "experiments.mutation_kernels", "-p", "no:xdist", "-q", __file__]
        root = Path(__file__).parents[2]
        subprocess.run([sys.executable, "-m", "pytest", *plain], cwd=root, check=True)
        return
    for p, most in MOST.items():
        for case, passes in zip(CASES, most, strict=True):
            # one more, should a sum be rounded otherwise
            found, searched_in_doubt = passes_over(p, case, monkeypatch)
            assert found <= passes + 1, (p, case)
            assert searched_in_doubt == 1, (p, case)  # where epsilon is out of reach
