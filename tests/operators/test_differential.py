"""Random rows against a bisection in float64: the script whose result the documentation quotes."""

import pytest

from experiments.differential import DTYPES, ORDERS, PROMISED, compare


@pytest.mark.parametrize("rows", [14_000, pytest.param(1_000_000, marks=pytest.mark.nightly)])
def test_random_rows_are_solved_as_a_bisection_solves_them(rows):
    found = compare(rows, seed=1)
    assert [(e.p, e.dtype) for e in found] == [(p, dtype) for p in ORDERS for dtype in DTYPES]
    assert sum(e.rows for e in found) == rows
    for e in found:
        promised = PROMISED[e.dtype]
        assert e.norm <= promised, e
        assert e.well > e.rows / 4  # enough rows say something about eta itself
        assert e.eta <= 11 * promised, e  # an elasticity of 0.1 lets eta be off by ten times
