"""Engines, autodiff and tracing are ways through one operator: they all end at the same point."""

import math
import sys

import eagerpy as ep
import numpy as np
import pytest
import torch

import foolbox_carescale as fc
from foolbox_carescale import engines
from tests import reference

BOX = (-1.0, 2.0)
OPERATORS = {
    "eta": fc.clipping_aware_rescaling,
    "perturb": fc.perturb,
    "project": lambda x, v, eps, **kw: fc.project(x + v, x, eps, **kw),
    "steepest_step": fc.steepest_step,
}
ORDERS = (0.5, 1.0, 1.1, 1.3, 2.0, 3.0, math.inf)
TABLE = [(n, p) for n in OPERATORS for p in ORDERS if p >= 1 or n != "steepest_step"]
each_operator = pytest.mark.parametrize(("name", "p"), TABLE)


def problem(p, n=7):
    """Rows of which the move is nothing, short, typical, nearly all, and out of reach."""
    rng = np.random.default_rng(0)
    x, v = rng.uniform(*BOX, size=(6, n)), rng.normal(size=(6, n))
    x[:, 0], v[:, 1], v[5] = 2.0, 0.0, 0.3 * np.sign(v[5])  # on a bound; still; ties
    eps = np.array([0.0, 0.05, 0.4, 0.95, 2.0, 0.5]) * reference.reachable_norm(x, v, p, *BOX)
    return x, v, eps


@each_operator
def test_the_engine_that_traces_ends_where_the_compiled_one_does(name, p, monkeypatch):
    x, v, eps = problem(p)
    expected = OPERATORS[name](x, v, eps, p=p, bounds=BOX)
    monkeypatch.setattr(engines.numba_cpu, "_HAS_NUMBA", False)
    found = OPERATORS[name](x, v, eps, p=p, bounds=BOX)
    if name == "eta":  # where almost all is on a bound, eta is any number
        expected, found = (reference.measured_norm(t, x, v, p, *BOX) for t in (expected, found))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@each_operator
def test_it_makes_no_difference_whether_somebody_differentiates(name, p):
    x, v, eps = problem(p)
    expected = OPERATORS[name](x, v, eps, p=p, bounds=BOX)
    tensors = [torch.tensor(t, requires_grad=True) for t in (x, v, eps)]
    found = OPERATORS[name](*tensors, p=p, bounds=BOX)
    assert found.requires_grad
    found = found.detach().numpy()
    if name == "eta":
        expected, found = (reference.measured_norm(t, x, v, p, *BOX) for t in (expected, found))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@each_operator
def test_derivatives_are_those_of_numerical_differences(name, p):
    x, v, _ = (t[2:4, ..., 2:] if t.ndim > 1 else t for t in problem(p))  # away from corners
    eps = np.array([0.4, 0.7]) * reference.reachable_norm(x, v, p, *BOX)
    inputs = [torch.tensor(t, requires_grad=True) for t in (x, v, eps)]

    def call(*t):
        return OPERATORS[name](*t, p=p, bounds=BOX)

    assert torch.autograd.gradcheck(call, inputs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_a_projection_passes_the_gradient_of_points_inside_on(p):
    x0 = torch.full((1, 4), 0.5, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[0.5, 0.6, 0.4, 0.5]], dtype=torch.float64, requires_grad=True)
    moved = fc.project(x, x0, 0.5, p=p)
    assert torch.equal(moved, x)
    to_x, to_x0 = torch.autograd.grad(moved.sum(), (x, x0), materialize_grads=True)
    assert to_x.tolist() == [[1.0] * 4]
    assert to_x0.tolist() == [[0.0] * 4]


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("differentiated", [False, True])
def test_points_inside_ball_and_box_stay_to_the_last_digit(p, differentiated):
    rng = np.random.default_rng(1)
    x0 = torch.tensor(rng.uniform(size=(3, 9)), requires_grad=differentiated)
    x = torch.tensor(1e-3 * rng.uniform(size=(3, 9)), requires_grad=differentiated)
    assert torch.any(x0 + (x - x0) != x)
    assert torch.equal(fc.project(x, x0, 9.0, p=p), x)


@pytest.mark.parametrize("differentiated", [False, True])
def test_l1_step_fills_in_the_order_of_the_gradient_and_shares_among_equals(differentiated):
    x = torch.tensor([[0.5, 0.9, 0.2, 0.0, 1.0, 0.5]], dtype=torch.float64)
    g = torch.tensor([[1.0, 3.0, -2.0, -9.0, 0.5, 1.0]], requires_grad=differentiated)
    # the fourth has no room; the second takes 0.1, the third 0.2; the rest is for the two equals
    for eps, expected in (
        (0.05, [0.5, 0.95, 0.2, 0.0, 1.0, 0.5]),
        (0.1, [0.5, 1.0, 0.2, 0.0, 1.0, 0.5]),
        (0.5, [0.6, 1.0, 0.0, 0.0, 1.0, 0.6]),
        (9.0, [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]),
    ):
        moved = fc.steepest_step(x, g.double(), eps, p=1).detach()
        np.testing.assert_allclose(moved, [expected], rtol=0, atol=1e-12)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("differentiated", [False, True])
def test_l1_projection_takes_the_same_off_everything_that_is_left(
    differentiated, compiled, monkeypatch
):
    monkeypatch.setattr(engines.numba_cpu, "_HAS_NUMBA", compiled)
    x0 = torch.full((1, 4), 0.5, dtype=torch.float64, requires_grad=differentiated)
    x = torch.tensor([[0.9, 0.2, 0.55, 3.0]], dtype=torch.float64)
    # moves 0.4, -0.3, 0.05, and 2.5 of which 0.5 fits
    for eps, expected in (
        (0.3, [0.5, 0.5, 0.5, 0.8]),
        (0.5, [0.5, 0.5, 0.5, 1.0]),
        (0.6, [0.6, 0.5, 0.5, 1.0]),
        (0.8, [0.7, 0.4, 0.5, 1.0]),
        (1.25, [0.9, 0.2, 0.55, 1.0]),
        (9.0, [0.9, 0.2, 0.55, 1.0]),
    ):
        moved = fc.project(x, x0, eps, p=1).detach()
        np.testing.assert_allclose(moved, [expected], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing_to_move_is_no_error(shape):
    for name, p in TABLE:
        for x in (np.zeros(shape, np.float32), torch.zeros(shape, requires_grad=True)):
            found = OPERATORS[name](x, x, np.ones(shape[:1], np.float32), p=p)
            assert tuple(found.shape) == ((shape[0], 1) if name == "eta" else shape)
            assert not np.asarray(ep.astensor(found).numpy()).any()
            assert tuple(fc.reachable_norm(x, x, p=p).shape) == shape[:1]


@pytest.mark.parametrize("p", ORDERS)
def test_reachable_norm_is_that_of_the_room_ahead(p):
    x, v, _ = problem(p)
    expected = reference.reachable_norm(x, v, p, *BOX)
    np.testing.assert_allclose(fc.reachable_norm(x, v, p=p, bounds=BOX), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="x: 1 of 42 values lie outside"):
        fc.reachable_norm(np.where(x == x[1, 3], 2.5, x), v, p=p, bounds=BOX)


def test_directions_of_any_size_give_the_same_step_for_p_near_one():
    x, g, eps = problem(1.05)
    expected = fc.steepest_step(x, g, eps, p=1.05, bounds=BOX)
    narrow = [t.astype(np.float32) for t in (x, g * 1e-20, eps)]
    found = fc.steepest_step(*narrow, p=1.05, bounds=BOX)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_has_no_room_does_not_set_the_scale_of_a_step():
    x, g = np.array([[1.0, 0.5, 0.5]]), np.array([[1e100, 1.0, 0.5]])
    rest = fc.steepest_step(x[:, 1:], g[:, 1:], 0.3, p=1.3)
    for kind in (x, torch.tensor(x, requires_grad=True)):
        given = g if kind is x else torch.tensor(g)
        found = np.asarray(ep.astensor(fc.steepest_step(kind, given, 0.3, p=1.3)).numpy())
        np.testing.assert_allclose(found[:, 1:], rest, rtol=1e-12)


def test_bounds_are_those_of_the_unit_box_by_default():
    rng = np.random.default_rng(0)
    x, v = rng.uniform(size=(3, 7)), rng.normal(size=(3, 7))
    for name, p in TABLE:
        eps = np.array([0.2, 0.8, 2.0]) * reference.reachable_norm(x, v, p)
        expected = OPERATORS[name](x, v, eps, p=p, bounds=(0.0, 1.0))
        np.testing.assert_array_equal(OPERATORS[name](x, v, eps, p=p), expected)
        reach = fc.reachable_norm(x, v, p=p, bounds=(0, 1))
        np.testing.assert_array_equal(fc.reachable_norm(x, v, p=p), reach)


def test_the_order_is_two_by_default():
    x, v, eps = problem(2.0)
    for operator in OPERATORS.values():
        expected = operator(x, v, eps, p=2, bounds=BOX)
        np.testing.assert_array_equal(operator(x, v, eps, bounds=BOX), expected)
    expected = fc.reachable_norm(x, v, p=2, bounds=BOX)
    np.testing.assert_array_equal(fc.reachable_norm(x, v, bounds=BOX), expected)


@pytest.mark.parametrize("name", OPERATORS)
def test_tensors_have_names_and_options_have_only_names(name):
    p = 1.3
    x, v, eps = problem(p)
    operator = getattr(fc, "clipping_aware_rescaling" if name == "eta" else name)
    first, second = {"project": ("x", "x0"), "steepest_step": ("x", "grad")}.get(
        name, ("x", "delta")
    )
    tensors = {first: x + v if name == "project" else x, second: x if name == "project" else v}
    expected = OPERATORS[name](x, v, eps, p=p, bounds=BOX)
    np.testing.assert_array_equal(operator(**tensors, eps=eps, p=p, bounds=BOX), expected)
    with pytest.raises(TypeError, match="positional"):
        operator(*tensors.values(), eps, p)


def test_autograph_rewrites_no_operator(monkeypatch):
    tf = pytest.importorskip("tensorflow")
    asked = []
    module = sys.modules[fc.perturb.__module__]
    original = module._unconverted
    monkeypatch.setattr(module, "_unconverted", lambda f: original(asked.append(f.__name__) or f))
    x, v = (tf.constant(a, tf.float32) for a in np.random.default_rng(0).random((2, 3, 4)))
    alone = fc.perturb(x, v, 0.1)
    assert asked == []
    in_graph = tf.function(lambda x, v: fc.perturb(x, v, 0.1))(x, v)
    assert asked == ["perturb"]
    np.testing.assert_allclose(in_graph, alone, atol=1e-6)
