"""The sorted closed form that traces everywhere, called by itself."""

import math

import eagerpy as ep
import numpy as np
import pytest

from foolbox_carescale.engines import eager
from foolbox_carescale.operators.validation import prepare
from tests import reference
from tests.engines.hard import ORDERS, Problem

LARGEST = float(np.finfo(np.float64).max)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_eta_comes_in_the_dtype_of_the_points(dtype):
    x, v = np.full((2, 3), 0.5, dtype), np.ones((2, 3), dtype)
    assert eager.Eager().solve(prepare(x, v, 0.1, 2.0, (0, 1))).raw.dtype == dtype


def wrapped(values, dtype="float64"):
    return ep.astensor(np.array(values, dtype=dtype))


def solve(magnitude, room, eps, p, *, largest_eta=LARGEST, dtype="float64"):
    """One sample."""
    tensors = (wrapped(np.reshape(t, (1, -1)), dtype) for t in (magnitude, room, eps))
    return eager.solve(*tensors, p, largest_eta).raw.item()


@pytest.mark.parametrize("p", ORDERS)
def test_norm_is_exact_in_hard_cases(p):
    for length in (1, 2, 40, 1083):
        problem = Problem(p, "float64", length=length)
        room = reference.room(problem.x, problem.delta)
        parts = wrapped(np.abs(problem.delta)), wrapped(room), wrapped(problem.eps)
        problem.check(eager.solve(*parts, p, LARGEST).raw)


@pytest.mark.parametrize("p", ORDERS)
def test_norm_is_exact_in_hard_cases_of_torch(p):
    import torch

    problem = Problem(p, "float64", length=7)
    room = reference.room(problem.x, problem.delta)
    parts = (torch.tensor(t) for t in (np.abs(problem.delta), room, problem.eps))
    problem.check(eager.solve(*map(ep.astensor, parts), p, LARGEST).raw)


@pytest.mark.parametrize("p", ORDERS)
def test_eta_is_the_least_that_reaches_eps(p):
    # nothing, a breakpoint, between them, the last one, out of reach
    magnitude, room = [1.0, 2.0, 4.0, 0.0], [0.5, 0.25, 0.125, 1.0]
    etas = np.array([0.0, 0.01, 0.03125, 0.05, 0.125, 0.2, 0.4, 0.5])
    for eta in etas:
        eps = reference.norm([np.minimum(eta * np.array(magnitude), room)], p)
        found = solve(magnitude, room, eps, p)
        if p < math.inf:
            assert found == pytest.approx(eta, rel=1e-10)
        else:
            assert found <= eta * (1 + 1e-12)
            size = reference.norm([np.minimum(found * np.array(magnitude), room)], p)
            assert size == pytest.approx(eps, rel=1e-12)
    assert solve(magnitude, room, 10.0, p) == pytest.approx(0.5, rel=1e-15)


@pytest.mark.parametrize("p", ORDERS)
def test_neither_scale_nor_unit_overflows(p):
    magnitude, room = np.array([1.0, 2.0, 3.0]), np.array([0.1, 1.0, 0.3])
    for scale, unit in ((1e-250, 1.0), (1e250, 1.0), (1e200, 1e150), (1.0, 1e-150)):
        expected = solve(magnitude, room, 0.3, p) * (unit / scale)
        found = solve(magnitude * scale, room * unit, 0.3 * unit, p)
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("p", ORDERS)
def test_what_has_no_room_does_not_set_the_scale(p):
    expected = solve([1.0, 2.0], [0.5, 0.1], 0.3, p)
    for stuck, scale in ((1e300, 1e-200), (1.0, 1e-310), (0.0, 1e-310)):
        unit = max(scale, 1e-20)
        with np.errstate(over="ignore"):
            found = solve([scale, 2 * scale, stuck], [0.5 * unit, 0.1 * unit, 0.0], 0.3 * unit, p)
        assert found * scale / unit == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("p", ORDERS)
def test_what_cannot_be_held_is_cut_to_half_of_the_limit(p):
    assert solve([1e-6], [1.0], 0.5, p, largest_eta=1e4) == pytest.approx(5e3)
    assert solve([1e-6], [1.0], 0.5, p, largest_eta=2e6) == pytest.approx(5e5)
    # the far corner of a coordinate that hardly moves
    assert solve([1.0, 1e-6], [1e-9, 1.0], 2.0, p, largest_eta=1e4) == pytest.approx(5e3)
    assert solve([1.0, 1e-6], [1e-9, 1.0], 2.0, p, largest_eta=4e6) == pytest.approx(1e6)
    # beyond the limit is only what is left out, not what it is made of
    assert solve([1.0, 1e-6], [1e-9, 4e-3], 0.5, p, largest_eta=1e4) == pytest.approx(4e3)
    assert solve([1.0, 1e-6], [1e-9, 8e-3], 1.0, p, largest_eta=1e4) == pytest.approx(8e3)
    # eps / magnitude overflows by itself
    with np.errstate(over="ignore"):
        assert solve([1e-300], [1e200], 1e199, p) == pytest.approx(LARGEST / 2)
        found = solve([1e-30], [1e30], 1e25, p, dtype="float32", largest_eta=3e38)
    assert found == pytest.approx(1.5e38)


@pytest.mark.parametrize("p", ORDERS)
def test_nothing_moves_without_room_direction_or_eps(p):
    assert solve([1.0, 2.0], [0.0, 0.0], 0.5, p) == 0
    assert solve([0.0, 0.0], [1.0, 1.0], 0.5, p) == 0
    assert solve([1.0, 2.0], [1.0, 1.0], 0.0, p) == 0


def test_samples_share_one_eps_of_a_single_row():
    magnitude, room = wrapped([[1.0], [2.0]]), wrapped([[1.0], [1.0]])
    eta = eager.solve(magnitude, room, wrapped([[0.5]]), 2.0, LARGEST).raw
    np.testing.assert_allclose(eta, [[0.5], [0.25]])


@pytest.mark.parametrize("n", range(1, 10))
def test_bracket_is_the_last_point_that_fails_and_the_next(n):
    points = np.arange(1.0, n + 1)
    shuffled = wrapped(np.random.default_rng(n).permutation(points)[None].repeat(2, axis=0))
    for turn in np.arange(0.0, n + 1.5, 0.5):
        below, above = eager.bracket(shuffled, lambda t, turn=turn: t >= turn)
        reaching = points[points >= turn]
        # where the test never turns true, both are the largest
        expected_above = reaching[0] if len(reaching) else points[-1]
        expected_below = np.concatenate([[0.0], points])[points.searchsorted(turn)]
        assert below.shape == above.shape == (2, 1)
        np.testing.assert_array_equal(above.raw, expected_above)
        np.testing.assert_array_equal(below.raw, expected_below)
