"""How arrays lie in memory, and what the compiled engine hands to its kernels of them."""

import numpy as np
import pytest

from foolbox_carescale.engines.numba_cpu import arrays as cpu
from tests.engines.test_short_rows import arrays, solve

WIDE = np.random.default_rng(4).random((10, 14))
LAYOUTS = {
    "rows of a larger array": lambda a: a[:5, 3:9],
    "every other row": lambda a: a[::2, :6],
    "one row for all": lambda a: np.broadcast_to(a[:1, :6], (5, 6)),
    "columns": lambda a: np.asfortranarray(a[:5, :6]),
    "every other element": lambda a: a[:5, 2::2],
    "backwards": lambda a: a[4::-1, 5::-1],
    "upside down": lambda a: a[4::-1, :6],
    "one row": lambda a: a[1:2, 1:5],
    "parts of records": lambda a: in_records(a[:5, :6]),
}


def in_records(a):
    records = np.zeros(len(a), [("a", "i2"), ("x", "f8", a.shape[1]), ("b", "i2")])
    records["x"] = a
    return records["x"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_how_rows_lie_in_memory_does_not_matter(layout):
    x, v = (LAYOUTS[layout](a) for a in (WIDE, WIDE - 0.4))
    plain, bounds, g = x.copy(), arrays((0.0, 1.0)), np.ones(x.shape)
    eps = np.full(len(x), 0.2)
    eta = solve(plain, v.copy(), eps, 2.0)
    np.testing.assert_array_equal(solve(x, v, eps, 2.0), eta)
    expected, _, _ = cpu.perturb(plain, v.copy(), eps, 2.0, *bounds, tolerance=0.0)
    np.testing.assert_array_equal(cpu.perturb(x, v, eps, 2.0, *bounds, tolerance=0.0)[0], expected)
    for cotangent in (np.ones(len(x)), g):
        gradients = [cpu.gradients(a, v, eps, eta, 2.0, *bounds, cotangent) for a in (x, plain)]
        for found, wanted in zip(*gradients, strict=True):
            np.testing.assert_array_equal(found, wanted)
    steps = [cpu.steepest(a, v, eps, 1.5, *bounds, tolerance=0.0)[0] for a in (x, plain)]
    np.testing.assert_array_equal(*steps)
    if layout == "one row for all":
        return
    # into memory of that layout, which may be that of the points, and nothing beside it
    base = WIDE.copy()
    moved = LAYOUTS[layout](base)
    result, _, _ = cpu.perturb(x, v, eps, 2.0, *bounds, tolerance=0.0, out=moved)
    assert result is moved
    np.testing.assert_array_equal(moved, expected)
    moved[...] = x
    cpu.perturb(moved, v, eps, 2.0, *bounds, tolerance=0.0, out=moved)
    np.testing.assert_array_equal(moved, expected)
    moved[...] = x
    np.testing.assert_array_equal(base, WIDE)


IN_PLACE = ("rows of a larger array", "every other row", "one row for all", "one row")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_read_where_they_lie_if_their_elements_are_neighbours(layout):
    x = LAYOUTS[layout](WIDE)
    flat, step = cpu._flat(x)
    assert np.shares_memory(flat, x) == (layout in IN_PLACE)
    assert flat.size == (len(x) - 1) * step + x.shape[1]  # up to the last, and not beyond
    for i, row in enumerate(x):
        np.testing.assert_array_equal(flat[i * step : i * step + len(row)], row)


def test_what_can_only_be_read_is_no_type_of_its_own():
    x = np.arange(3.0)
    assert cpu._one_type(x) is x
    x.flags.writeable = False
    found = cpu._one_type(x)
    assert found.flags.writeable
    assert np.shares_memory(found, x)
    np.testing.assert_array_equal(found, x)


def test_one_number_for_all_is_handed_on_as_a_number():
    one, row, rows = np.full((1, 1), 2.0), np.full((1, 3), 2.0), np.full((4, 3), 2.0)
    for found, bound in zip(cpu._bounds(one, 3 * one, 3), (2.0, 6.0), strict=True):
        assert isinstance(found, np.float64)
        assert found == bound
    for pair in ((one, row), (row, one), (rows, one), (row, row)):
        for found, bound in zip(cpu._bounds(*pair, 3), pair, strict=True):
            assert found.shape == (bound.shape[0], 3)
            assert np.all(found == 2)


@pytest.mark.parametrize("n", [1, 2])
def test_bounds_of_rows_of_one_element(n):
    x, upper = np.full((2, n), 0.5), np.array([[0.6], [0.9]]).repeat(n, axis=1)
    found, _, _ = cpu.perturb(
        x, np.ones((2, n)), np.full(2, 9.0), 2.0, 0 * upper, upper, tolerance=0.0
    )
    np.testing.assert_array_equal(found, upper)


def test_work_is_dealt_out_by_what_there_is_to_read(monkeypatch):
    dealt = []
    monkeypatch.setattr(cpu, "spread", lambda run, *numbers: dealt.append(numbers))
    x = np.full((3, 50), 0.5)
    for a in (x, x[:0], x[:, :0]):
        cpu.solve(a, a, np.ones(len(a)), 2.0, *arrays((0.0, 1.0)), tolerance=0.0)
    assert dealt == [(3, 150)]
