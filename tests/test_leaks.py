"""Ten thousand calls leave nothing behind."""

from __future__ import annotations

import gc
import importlib
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import foolbox_carescale as fc
from tests import reference

X, V = (part.astype(np.float32) for part in reference.case("uniform", shape=(2, 3, 4, 4)))
CALLS = 10_000
# Of resident memory, per call, on average: what is kept outside of Python's objects, once the free
# memory of the process is used up. Objects are counted, and show what is kept of them at once.
BYTES = 100


def operators() -> None:
    for p in (1.0, 2.0, np.inf):
        fc.clipping_aware_rescaling(X, V, 0.5, p=p)
        fc.perturb(X, V, 0.5, p=p)
        fc.project(V, X, 0.5, p=p)
        fc.steepest_step(X, V, 0.5, p=p)
        fc.reachable_norm(X, V, p=p)


def operators_of_torch() -> Callable[[], None]:
    torch = importlib.import_module("torch")
    x, v = torch.tensor(X), torch.tensor(V)

    def call() -> None:
        fc.perturb(x, v, 0.5)
        fc.project(v, x, 0.5, p=1)
        fc.steepest_step(x, v, 0.5, p=np.inf)

    return call


def backward() -> Callable[[], None]:
    torch = importlib.import_module("torch")
    x, v = (torch.tensor(t, requires_grad=True) for t in (X, V))

    def call() -> None:
        torch.autograd.grad(fc.perturb(x, v, 0.5).sum(), (x, v))

    return call


def transformed() -> Callable[[], None]:
    torch = importlib.import_module("torch")
    x, v = torch.tensor(X), torch.tensor(V)
    gradient = torch.func.grad(lambda v: fc.perturb(x, v, 0.5).sum())

    def call() -> None:
        gradient(v)

    return call


def attack() -> Callable[[], None]:
    torch = importlib.import_module("torch")
    foolbox = importlib.import_module("foolbox")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(X[0].size, 3)).eval()
    fmodel = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    step = fc.get_attack("L2ClipAwarePGD")(steps=1)
    x, labels = torch.tensor(X), torch.tensor([0, 1])

    def call() -> None:
        step(fmodel, x, labels, epsilons=0.5)

    return call


CASES: dict[str, tuple[Callable[[], Any], int, int]] = {
    # made by, calls of ours in one call, and how many of ours: what a call costs decides
    "operators, NumPy": (lambda: operators, 15, CALLS),
    "operators, PyTorch": (operators_of_torch, 3, CALLS),
    "autograd": (backward, 1, CALLS // 4),
    "torch.func": (transformed, 1, CALLS // 20),
    "a step of an attack": (attack, 1, CALLS // 10),
}


@pytest.mark.parametrize("case", ["operators, NumPy", "a step of an attack"])
def test_memory_and_objects_do_not_grow_with_the_number_of_calls(case):
    made, ours, calls = CASES[case]
    check(made(), calls // ours)


@pytest.mark.nightly
@pytest.mark.parametrize("case", CASES)
def test_memory_and_objects_do_not_grow_over_ten_thousand_calls(case):
    made, ours, _ = CASES[case]
    check(made(), CALLS // ours)


def check(call: Callable[[], Any], times: int) -> None:
    gc.collect()
    gc.freeze()  # what other tests imported is not searched again and again: it takes seconds
    # the least growth of three stretches: caches fill at some time or other, a leak at all times
    grown = [growth(call, times // 4) for _ in range(4)][1:]
    gc.unfreeze()
    assert min(objects for objects, _ in grown) < times // 40, grown
    assert min(size for _, size in grown) < BYTES * times // 4, grown


def growth(call: Callable[[], Any], times: int) -> tuple[int, int]:
    """Live objects and bytes of resident memory that so many calls add."""
    before = state()
    for _ in range(times):
        call()
    after = state()
    return after[0] - before[0], after[1] - before[1]


def state() -> tuple[int, int]:
    gc.collect()
    return len(gc.get_objects()), resident()


def resident() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            _, pages, of_files, *_ = map(int, file.read().split())
    except OSError:
        pytest.skip("this system does not tell the resident memory of a process")
    return (pages - of_files) * 4096  # those of files come and go with the free memory


LEAK = """
import numpy as np
from tests.test_leaks import BYTES, growth
kept = []
grown = [growth(lambda: kept.append([np.ones(2000)]), 500) for _ in range(4)][1:]
assert min(objects for objects, _ in grown) > 400
assert min(size for _, size in grown) > BYTES * 500
"""


def test_what_leaks_is_noticed():
    # in a process of its own, which has no free memory of other tests to use up first
    root = pathlib.Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", LEAK], cwd=root, check=True)
