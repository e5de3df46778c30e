"""Random rows against a bisection in float64: the script whose result the documentation quotes."""

import pytest

from experiments import differential
from experiments.differential import DTYPES, ENGINES, ORDERS, PROMISED, compare

FEW = {"orders": (0.25, 9e7), "dtypes": ("float32",), "lengths": (8,)}


def check(found, rows):
    assert sum(e.rows for e in found) == rows
    for e in found:
        promised = PROMISED[e.dtype]
        assert e.norm <= promised, e
        if 1 <= e.p <= 7:
            assert e.well > e.rows / 5, e  # enough rows say something about eta itself
        assert e.eta <= 11 * promised, e  # an elasticity of 0.1 lets eta be off by ten times


@pytest.mark.parametrize("engine", ["numpy", "eager"])
def test_random_rows_are_solved_as_a_bisection_solves_them(engine):
    found = compare(6_000, 1, [engine], lengths=(1, 8, 200))
    assert [(e.p, e.dtype) for e in found] == [(p, dtype) for p in ORDERS for dtype in DTYPES]
    check(found, 6_000)


@pytest.mark.parametrize("engine", ["jax.jit", "tf.function"])
def test_compiled_engines_solve_them_as_well(engine):
    check(compare(3_000, 2, [engine], **FEW), 3_000)


@pytest.mark.nightly
def test_a_million_rows_are_solved_by_every_engine():
    found = compare(1_000_000, 3)
    assert {e.engine for e in found} == set(ENGINES)
    check(found, 1_000_000)


def test_a_wrong_root_would_be_found(monkeypatch):
    monkeypatch.setattr(differential, "_solver", lambda engine: lambda x, v, eps, p: eps + 1.0)
    with pytest.raises(AssertionError):
        check(compare(200, 1, ["numpy"], orders=(2.0,), dtypes=("float32",)), 200)
