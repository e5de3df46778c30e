"""An engine whose library is installed and broken is reported once, and the next one answers."""

import importlib.util
import math
import os
import shutil
import subprocess
import sys
import types
import warnings

import eagerpy as ep
import numpy as np
import pytest
import torch

import foolbox_carescale as fc
from foolbox_carescale import engines
from foolbox_carescale.engines import triton_cuda

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


@pytest.mark.parametrize(
    ("device", "faults", "reason"),
    [
        ("cuda:0", {"capability": (6, 1)}, "Triton needs a GPU of capability 7.0, cuda:0 has 6.1"),
        ("cuda:0", {"hip": "6.2"}, "it compiles for NVIDIA's GPUs, not for AMD's"),
        ("cuda:0", {"triton": None}, "Triton is not installed"),
        ("xpu:0", {}, "it compiles for NVIDIA's GPUs, not for xpu"),
        ("mps:0", {}, "it compiles for NVIDIA's GPUs, not for mps"),
    ],
)
def test_a_gpu_that_triton_does_not_serve_is_reported_once(monkeypatch, device, faults, reason):
    triton_cuda._unfit.cache_clear()
    monkeypatch.setattr(torch.version, "hip", faults.get("hip"))
    capability = faults.get("capability", (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(
        triton_cuda.importlib.util, "find_spec", lambda _: faults.get("triton", "installed")
    )
    engine = triton_cuda.TritonCUDA()
    # on a device that is not here
    tensor = ep.PyTorchTensor(types.SimpleNamespace(device=torch.device(device)))
    with pytest.warns(RuntimeWarning, match="engine triton_cuda: .*; another engine answers"):
        assert engine.supports(tensor, traced=False) == reason
    assert engine.supports(tensor, traced=False) == reason
    triton_cuda._unfit.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_triton_that_cannot_launch_is_reported_once_and_the_eager_engine_answers(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    engine = triton_cuda.TritonCUDA()
    monkeypatch.setattr(engine, "supports", lambda *_, **__: engine._starting.failure)
    monkeypatch.setattr(engines, "ENGINES", (engine, engines.Eager()))
    x, v = torch.full((2, 3), 0.5), torch.ones(2, 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for in_place in (False, True):
            z = fc.perturb(x.clone(), v, 0.3, in_place=in_place)
            np.testing.assert_allclose((z - x).norm(dim=1), 0.3, rtol=1e-6)
    messages = [str(w.message) for w in caught if w.category is RuntimeWarning]
    assert len(messages) == 1, messages
    assert "triton_cuda: it did not start (" in messages[0]


class OnAGPU:
    """Stands for a tensor on a device that is not here, of any size."""

    device = torch.device("cuda:0")

    def __init__(self, *shape):
        self.shape = shape

    def numel(self):
        return math.prod(self.shape)

    def __getitem__(self, _):
        return OnAGPU(*self.shape[1:])


def test_samples_of_more_elements_than_kernels_count_are_left_to_the_eager_engine(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr(triton_cuda, "_unfit", lambda device: None)
    engine = triton_cuda.TritonCUDA()
    for shape, served in (((3, 2**30), True), ((1, 2**15, 2**15 + 1), False), ((0, 3), True)):
        x = ep.PyTorchTensor(OnAGPU(*shape))
        assert (engine.supports(x, traced=False) is None) == served, shape


def test_a_kernel_that_does_not_load_after_others_did_is_left_to_the_eager_engine(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    from experiments.gpu import pretend

    engine = triton_cuda.TritonCUDA()
    monkeypatch.setattr(engines, "ENGINES", (engine, engines.Eager()))
    x, v = torch.full((2, 3), 0.5), torch.ones(2, 3)
    with pretend.gpu() as driver:
        fc.reachable_norm(x, v)
        assert driver.launched

        def refuse(*_):
            raise PermissionError(13, "Permission denied: '/root/.triton'")

        driver.utils.load_binary = refuse
        with pytest.warns(RuntimeWarning, match="did not start .*PermissionError.*Permission den"):
            z = fc.perturb(x.clone(), v, 0.3, in_place=True)
        assert "PermissionError" in engines.explain(x)
    np.testing.assert_allclose((z - x).norm(dim=1), 0.3, rtol=1e-6)


# compiled as the kernels are, in a moment
SOURCE = """
from foolbox_carescale.engines.numba_cpu.kernels.compiling import CALLED_FROM_PYTHON, compiled
@compiled(**CALLED_FROM_PYTHON)
def twice(a):
    return 2 * a
"""


def test_a_damaged_cache_or_a_full_disk_makes_numba_compile_again(tmp_path, monkeypatch):
    source = tmp_path / "source.py"
    source.write_text(SOURCE)

    def hits(folder):
        """Compile or load the function as a new process would; return how often it was loaded."""
        monkeypatch.setattr("numba.core.config.CACHE_DIR", str(folder))
        found = importlib.util.spec_from_file_location("source", source)
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        assert module.twice(1.5) == 3
        return sum(module.twice.stats.cache_hits.values())

    whole = tmp_path / "whole"
    assert [hits(whole), hits(whole)] == [0, 1]
    for pattern in ("*.nbi", "*.nbc"):
        damaged = tmp_path / pattern[2:]
        shutil.copytree(whole, damaged)
        (path,) = damaged.rglob(pattern)
        os.truncate(path, path.stat().st_size // 2)
        assert [hits(damaged), hits(damaged)] == [0, 1]  # saved in its place

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._open_for_write", refuse)
    assert [hits(tmp_path / "full"), hits(tmp_path / "full")] == [0, 0]


# the kernel that compiles fastest
ACCUMULATE = """
import eagerpy, numpy as np
from foolbox_carescale import engines
x = eagerpy.astensor(np.full((2, 4), 0.5))
assert (engines.accumulate(None, 1.0, x, 1e-12).raw == 0.25).all()
print(engines.explain(x))
"""


@pytest.mark.nightly
@pytest.mark.parametrize("pattern", ["*.nbi", "*.nbc"])
def test_processes_compile_kernels_again_where_their_cache_is_damaged(tmp_path, pattern):
    def run():
        done = subprocess.run(
            [sys.executable, "-c", ACCUMULATE],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.startswith("numba_cpu: "), done.stderr

    run()
    half = {path: path.stat().st_size // 2 for path in tmp_path.rglob(pattern)}
    for path, size in half.items():
        os.truncate(path, size)
    run()
    assert any(path.stat().st_size > size for path, size in half.items())
    run()
