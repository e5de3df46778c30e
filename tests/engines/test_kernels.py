"""The compiled kernels give what their source gives without a compiler."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import foolbox_carescale
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
from tests.engines import interpreted
np.savez(sys.argv[1], *interpreted.in_float32())
"""


def in_a_process(path, **environment):
    root = pathlib.Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", IN_FLOAT32, str(path)],
        cwd=root,
        env={**os.environ, **environment},
        check=True,
    )
    with np.load(path) as arrays:
        return [arrays[key] for key in arrays.files]


def test_a_process_that_loads_gets_the_same_digits_as_this_one(tmp_path):
    """This one has compiled the kernels itself where no process has before."""
    here = interpreted.in_float32()
    for compiled, loaded in zip(here, in_a_process(tmp_path / "found.npz"), strict=True):
        np.testing.assert_array_equal(compiled, loaded)


@pytest.mark.nightly
def test_a_process_that_compiles_gets_the_same_digits_as_one_that_loads(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    found = [in_a_process(tmp_path / f"{name}.npz", **cache) for name in ("compiled", "loaded")]
    for compiled, loaded in zip(*found, strict=True):
        np.testing.assert_array_equal(compiled, loaded)


def test_an_edited_kernel_is_compiled_again_wherever_the_cache_is(tmp_path):
    root = pathlib.Path(foolbox_carescale.__file__).parent
    copy = tmp_path / "foolbox_carescale"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("__pycache__"))
    edited = copy / "engines" / "numba_cpu" / "kernels" / "compiling.py"
    code = (
        "import numpy as np, foolbox_carescale as fc\n"
        "x, v = np.full((1, 3), 0.5), np.ones((1, 3))\n"
        "print(fc.steepest_step(x, v, 0.3, p=np.inf)[0, 0])"  # soonest compiled
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("PYTHONPATH", None)  # the copy is to be found

    def solve():
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    assert solve() == pytest.approx(0.8)
    # the loop over rows is in another file, which stays as it was
    source, end = edited.read_text(), "a if a < value_at(upper, j) else value_at(upper, j)"
    assert end in source
    edited.write_text(source.replace(end, "value_at(upper, j)"))
    assert solve() == 1


def test_the_parts_of_kernels():
    """Run the tests of what only plain Python can call."""
    root = pathlib.Path(__file__).parents[2]
    plain = ["-p", "experiments.mutation.kernels", "-p", "no:xdist", "-q"]
    subprocess.run(
        [sys.executable, "-m", "pytest", *plain, "tests/engines/kernels_nojit.py"],
        cwd=root,
        check=True,
    )
