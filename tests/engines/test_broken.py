"""An engine whose library is installed and broken is reported once, and the next one answers."""

import os
import shutil
import subprocess
import sys

SCRIPT = """
import warnings
import numpy as np
import foolbox_carescale as fc
from foolbox_carescale import engines
x, v = np.full((2, 3), 0.5), np.ones((2, 3))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        z = fc.perturb(x, v, 0.3)
assert abs(np.linalg.norm(z - x, axis=1) - 0.3).max() < 1e-12
said = [str(w.message) for w in caught if w.category is RuntimeWarning]
assert len(said) == 1, said
assert "numba_cpu: it cannot be imported (ImportError: Numba needs NumPy 1)" in said[0], said
print(engines.explain(x))
"""


def test_a_numba_that_does_not_import_is_reported_once_and_the_eager_engine_answers(tmp_path):
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 1')")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("eager: "), done.stderr
    assert "not numba_cpu: it cannot be imported" in done.stdout


# the kernel that compiles fastest
ACCUMULATE = """
import eagerpy, numpy as np, sys
from foolbox_carescale import engines
x = eagerpy.astensor(np.full((2, 4), 0.5))
if sys.argv[1:] == ["full"]:
    import numba.core.caching
    def refuse(*_): raise OSError(28, "No space left on device")
    numba.core.caching.IndexDataCacheFile._open_for_write = refuse
assert (engines.accumulate(None, 1.0, x, 1e-12).raw == 0.25).all()
print(engines.explain(x))
"""


def test_a_damaged_cache_or_a_full_disk_makes_numba_compile_again(tmp_path):
    def run(folder, *arguments):
        done = subprocess.run(
            [sys.executable, "-c", ACCUMULATE, *arguments],
            env={**os.environ, "NUMBA_CACHE_DIR": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.startswith("numba_cpu: "), done.stderr

    whole = tmp_path / "whole"
    run(whole)
    assert list(whole.rglob("*.nbi"))
    assert list(whole.rglob("*.nbc"))
    for pattern in ("*.nbi", "*.nbc"):
        damaged = tmp_path / pattern[2:]
        shutil.copytree(whole, damaged)
        half = {path: path.stat().st_size // 2 for path in damaged.rglob(pattern)}
        for path, size in half.items():
            os.truncate(path, size)
        run(damaged)
        # saved in its place
        assert any(path.stat().st_size > size for path, size in half.items())
    run(damaged)  # and can be loaded
    run(tmp_path / "full", "full")
