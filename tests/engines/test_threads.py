"""The operators from many threads, after a fork, in data-loader workers, and run after run."""

from __future__ import annotations

import functools
import hashlib
import importlib
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import foolbox_carescale as fc
from foolbox_carescale import engines
from tests import backends, reference

ORDERS = (1.0, 1.3, 2.0, np.inf)
BATCHES = [reference.case("on the bounds", shape=(4, 500), seed=seed) for seed in range(8)]
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
silently = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
silent_jax = pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")


def all_operators(backend, x, v):
    """Everything that the operators say of one batch, as one array."""
    x, v = backend.tensor(x), backend.tensor(v)
    results = []
    for p in ORDERS:
        results.append(fc.clipping_aware_rescaling(x, v, 3.0, p=p))
        results.append(fc.perturb(x, v, 3.0, p=p))
        results.append(fc.project(x + v, x, 3.0, p=p))
        results.append(fc.steepest_step(x, v, 3.0, p=p))
        results.append(fc.reachable_norm(x, v, p=p))
    return np.concatenate([backend.numpy(r).ravel() for r in results])


def implicit_eta(backend, x, v):
    """The same for derivatives by the framework."""
    parts = [
        backend.gradient(lambda x, v, p=p: fc.perturb(x, v, 3.0, p=p) ** 2, x, v) for p in ORDERS
    ]
    return np.concatenate([g.ravel() for part in parts for g in part])


@functools.cache  # compiled once
def _jit():
    return importlib.import_module("jax").jit(lambda x, v: fc.perturb(x, v, 3.0))


def jitted(backend, x, v):
    return np.asarray(_jit()(backend.tensor(x), backend.tensor(v)))


@functools.cache
def _graph():
    return importlib.import_module("tensorflow").function(lambda x, v: fc.perturb(x, v, 3.0))


def in_a_graph(backend, x, v):
    return backend.numpy(_graph()(backend.tensor(x), backend.tensor(v)))


def mapped(backend, x, v):
    torch = importlib.import_module("torch")
    return backend.numpy(
        torch.func.vmap(lambda x, v: fc.perturb(x[None], v[None], 3.0, p=1.3)[0])(
            backend.tensor(x), backend.tensor(v)
        )
    )


WAYS = {
    "numba, numpy": ("numpy-float32", all_operators),
    "numba, torch": ("torch-float32", all_operators),
    "numba, tensorflow": ("tensorflow-float32", all_operators),
    "numba, jax": ("jax-float32", all_operators),
    "autograd": ("torch-float64", implicit_eta),
    "tape": ("tensorflow-float64", implicit_eta),
    "xla": ("jax-float32", jitted),
    "graph": ("tensorflow-float32", in_a_graph),
    "eager, torch.func": ("torch-float32", mapped),
    "eager, numpy": ("numpy-float32", all_operators),
}


@pytest.mark.parametrize("way", WAYS)
def test_eight_threads_at_once_get_the_bits_that_one_gets(way, monkeypatch):
    name, function = WAYS[way]
    if way == "eager, numpy":
        monkeypatch.setattr(engines.numba_cpu, "_HAS_NUMBA", False)
    with backends.make(name) as backend:
        alone = [function(backend, *batch) for batch in BATCHES]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda batch: function(backend, *batch), BATCHES * 2))
    for i, result in enumerate(together):
        np.testing.assert_array_equal(result, alone[i % len(BATCHES)])


def digest() -> str:
    """Return a digest of all results on NumPy and PyTorch, in batches that threads share."""
    total = hashlib.sha256()
    for name in ("numpy-float32", "torch-float64"):
        for seed in range(2):
            x, v = reference.case("cauchy", shape=(40, 3000), seed=seed)
            with backends.make(name) as backend:
                total.update(all_operators(backend, x, v).tobytes())
                if backend.framework == "torch":
                    total.update(implicit_eta(backend, x[:8], v[:8]).tobytes())
    return total.hexdigest()


@pytest.fixture
def one_torch_thread():
    """PyTorch's own OpenMP threads do not survive a fork: a child that wants them waits forever."""
    torch = importlib.import_module("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _compare(wanted: str) -> None:
    assert digest() == wanted


@forks
@silently
@silent_jax
def test_a_forked_child_gets_the_same_bits(one_torch_thread):
    child = multiprocessing.get_context("fork").Process(target=_compare, args=(digest(),))
    child.start()
    child.join(120)
    alive = child.is_alive()
    child.kill()
    assert not alive, "the child waits for something that it does not have"
    assert child.exitcode == 0


@forks
@silently
@silent_jax
def test_a_data_loaders_workers_perturb_like_the_main_process():
    torch = pytest.importorskip("torch")
    x, v = (
        torch.tensor(t, dtype=torch.float32) for t in reference.case("uniform", shape=(64, 3072))
    )

    class Perturbed(torch.utils.data.Dataset):
        def __len__(self):
            return len(x) // 32

        def __getitem__(self, i):
            rows = slice(32 * i, 32 * i + 32)
            return fc.perturb(x[rows], v[rows], 2.0)

    expected = [Perturbed()[i] for i in range(2)]
    loader = torch.utils.data.DataLoader(
        Perturbed(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=120
    )
    for part, known in zip(loader, expected, strict=True):
        assert torch.equal(part, known)
