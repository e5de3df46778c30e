"""The compiled kernels give what their source gives without a compiler."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np

from foolbox_carescale.engines.cpu.kernels import forget_stale
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
