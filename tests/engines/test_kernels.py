"""The compiled kernels give what their source gives without a compiler."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np

from foolbox_carescale.engines.numba_cpu.kernels import forget_stale
from tests.engines import interpreted


def test_kernels_compute_what_their_source_says_in_python(tmp_path):
    path = tmp_path / "results.npz"
    command = [sys.executable, "-c", interpreted.IN_PYTHON, str(path)]
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    with np.load(path) as by_python:
        compiled = dict(interpreted.results())
        assert by_python.files == list(compiled)
        for name, found in compiled.items():
            close = 0 if name.endswith("flags") else 2e-5 if "float32" in name else 1e-10
            np.testing.assert_allclose(found, by_python[name], close, close, err_msg=name)


IN_FLOAT32 = """
import sys, numpy as np
from foolbox_carescale.engines.numba_cpu import arrays as cpu
rng = np.random.default_rng(0)
x, v = rng.random((6, 2000), np.float32), rng.standard_normal((6, 2000), np.float32)
bounds = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
eps = np.geomspace(0.1, 20, 6)
eta, _ = cpu.solve(x, v, eps, 2.0, *bounds, tolerance=0.0)
points, _, _ = cpu.perturb(x, v, eps, 2.0, *bounds, tolerance=0.0)
gradients = cpu.gradients(x, v, eps, eta, 2.0, *bounds, rng.random((6, 2000), np.float32))
np.savez(sys.argv[1], eta, points, *gradients)
"""


def test_a_process_that_compiles_gets_the_same_digits_as_one_that_loads(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    found = []
    for name in ("compiled", "loaded"):
        subprocess.run(
            [sys.executable, "-c", IN_FLOAT32, str(tmp_path / f"{name}.npz")],
            cwd=root,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
            check=True,
        )
        with np.load(tmp_path / f"{name}.npz") as arrays:
            found.append([arrays[key] for key in arrays.files])
    for compiled, loaded in zip(*found, strict=True):
        np.testing.assert_array_equal(compiled, loaded)


def test_what_was_compiled_of_older_sources_is_forgotten(tmp_path):
    cache = tmp_path / "__pycache__"
    cache.mkdir()
    files = {
        tmp_path / "roots.py": 100,
        tmp_path / "powers.py": 300,  # the one that was edited
        cache / "roots.solve_rows-1.py311.nbi": 200,
        cache / "powers.power-1.py311.nbi": 300,
        cache / "roots.cpython-311.pyc": 200,
    }
    for path, when in files.items():
        path.touch()
        os.utime(path, (when, when))
    forget_stale(tmp_path)
    assert sorted(path.name for path in cache.iterdir()) == [
        "powers.power-1.py311.nbi",
        "roots.cpython-311.pyc",
    ]


def test_the_parts_of_kernels():
    """What only plain Python can call: see there."""
    root = pathlib.Path(__file__).parents[2]
    plain = ["-p", "experiments.mutation.kernels", "-p", "no:xdist", "-q"]
    subprocess.run(
        [sys.executable, "-m", "pytest", *plain, "tests/engines/kernels_nojit.py"],
        cwd=root,
        check=True,
    )
