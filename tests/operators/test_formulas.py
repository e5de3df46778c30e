"""The formulas that carry derivatives, by autodiff of each and against the closed form."""

import math

import eagerpy as ep
import numpy as np
import pytest
import torch

from foolbox_carescale.core import formulas as closed_form
from foolbox_carescale.operators.validation import prepare
from tests import reference

ORDERS = (0.5, 1.0, 1.3, 2.0, 3.0, math.inf)
BOX = (-1.0, 2.0)
# none, little, typical, most, out of reach
SHARES = np.array([0.0, 0.05, 0.3, 0.8, 2.0])


def case(p, dtype=np.float64):
    """Points of which some are on a bound, directions of which some are 0; and eta."""
    rng = np.random.default_rng(0)
    x, v = rng.uniform(*BOX, size=(5, 6)), rng.normal(size=(5, 6))
    v[:, 1] = 0.0
    x[:, 2] = np.where(v[:, 2] > 0, *BOX[::-1])
    x[2, 3], v[2, 3] = BOX[0], 1.0
    eps = SHARES * reference.reachable_norm(x, v, p, *BOX)
    eta = reference.bisected_eta(x, v, eps, p, *BOX)
    return [t.astype(dtype) for t in (x, v, eps, eta[:, None])]


def formula(function, p, eta):
    """Return a function of tensors x, v and eps; the sets that eta decides are held fixed."""

    def call(x, v, eps):
        problem = prepare(x, v, eps, p, BOX)
        return function(problem, ep.astensor(torch.as_tensor(eta))).raw

    return call


def derivatives(function, values):
    tensors = [torch.tensor(t, requires_grad=True) for t in values]
    found = torch.autograd.grad(function(*tensors).sum(), tensors, materialize_grads=True)
    return [gradient.detach() for gradient in found]


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eta_stays_what_it_was(p, dtype):
    x, v, eps, eta = case(p, dtype)
    found = formula(closed_form.implicit_eta, p, eta)(*map(torch.tensor, (x, v, eps)))
    assert found.numpy().dtype == dtype
    np.testing.assert_allclose(found, eta, rtol=10 * np.finfo(dtype).eps)


@pytest.mark.parametrize("p", ORDERS)
def test_derivatives_of_eta_are_those_of_the_implicit_function(p):
    x, v, eps, eta = case(p)
    found = derivatives(formula(closed_form.implicit_eta, p, eta), (x, v, eps))
    expected = reference.eta_gradients(x[1:4], v[1:4], eps[1:4], p, *BOX)
    live = reference.room(x, v, *BOX)[1:4] > 0
    for gradient, truth in zip(found, expected, strict=True):
        gradient = gradient.numpy()
        np.testing.assert_array_equal(gradient[[0, 4]], 0)  # of no step, and out of reach
        gradient = gradient[1:4]
        if p == 1 and gradient.ndim == 2:  # without room only a one-sided derivative exists
            gradient, truth = gradient[live], truth[live]
        np.testing.assert_allclose(gradient, truth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("p", ORDERS)
def test_second_derivatives_are_those_of_numerical_differences_and_finite(p):
    x, v, eps, eta = case(p)
    found = [torch.tensor(t, requires_grad=True) for t in (x, v, eps)]
    function = formula(closed_form.implicit_eta, p, eta)
    slopes = torch.autograd.grad(
        function(*found).sum(), found, create_graph=True, materialize_grads=True
    )
    total = sum((slope**2).sum() for slope in slopes)
    for curvature in torch.autograd.grad(total, found, materialize_grads=True):
        assert curvature.isfinite().all()


@pytest.mark.parametrize("p", ORDERS)
def test_points_are_the_clipped_ones_and_the_bounds_to_the_last_digit(p):
    x, v, eps, eta = case(p, np.float32)
    found = formula(closed_form.clipped_step, p, eta)(*map(torch.tensor, (x, v, eps))).numpy()
    wanted = np.clip(x.astype(float) + eta * v, *BOX)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-7)
    np.testing.assert_array_equal(found[0], x[0])
    np.testing.assert_array_equal(found[v == 0], x[v == 0])
    ends = np.where(v > 0, BOX[1], BOX[0])
    arrived = eta * np.abs(v) > reference.room(x, v, *BOX) * (1 + 1e-6)
    arrived[0] = False
    np.testing.assert_array_equal(found[arrived], ends[arrived])
    np.testing.assert_array_equal(found[4][v[4] != 0], ends[4][v[4] != 0])


@pytest.mark.parametrize(("dtype", "digit"), [("float32", 2.0**-23), ("float64", 2.0**-52)])
def test_what_stops_four_digits_short_of_its_bound_is_on_it_and_no_more(dtype, digit):
    x = torch.tensor([[0.5]], dtype=getattr(torch, dtype))
    v = torch.ones_like(x, requires_grad=True)
    problem = prepare(x, v, 0.4, 2.0, (0.0, 1.0))
    for digits, arrives in ((1, True), (4, True), (5, False)):
        eta = torch.full_like(x, 0.5 * (1 - digits * digit))
        point = closed_form.clipped_step(problem, ep.astensor(eta)).raw
        (slope,) = torch.autograd.grad(point.sum(), v)
        assert slope.item() == (0.0 if arrives else eta.item())
        if arrives:
            assert point.item() == 1


@pytest.mark.parametrize("p", ORDERS)
def test_derivatives_of_the_points_are_1_and_eta_where_they_move(p):
    x, v, eps, eta = case(p)
    to_x, to_v, to_eps = derivatives(formula(closed_form.clipped_step, p, eta), (x, v, eps))
    moves = (eta * np.abs(v) < reference.room(x, v, *BOX)) | (v == 0) | (eta == 0)
    moves[4] = v[4] == 0
    np.testing.assert_array_equal(to_x, moves)
    np.testing.assert_array_equal(to_v, np.where(moves, eta, 0.0))
    np.testing.assert_array_equal(to_eps, 0)


def test_room_is_the_distance_to_the_bound_ahead_and_never_negative():
    x = np.array([[0.25, 0.25, 0.25, 1.0, 0.0, 1 + 1e-9, -1e-9]])
    v = np.array([[2.0, -2.0, 0.0, 1.0, -1.0, 1.0, -1.0]])
    problem = prepare(x, v, 0.1, 2.0, (0.0, 1.0))
    np.testing.assert_array_equal(
        closed_form.room_of(problem).raw, [[0.75, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0]]
    )


def test_room_has_a_derivative_also_where_it_is_used_up():
    x = torch.tensor([[1.0, 0.0, 0.5, 0.5]], requires_grad=True)
    problem = prepare(x, torch.tensor([[1.0, -1.0, 2.0, 0.0]]), 0.1, 2.0, (0.0, 1.0))
    (slope,) = torch.autograd.grad(closed_form.room_of(problem).raw.sum(), x)
    assert slope.tolist() == [[-1.0, 1.0, -1.0, 0.0]]


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_for_infinity_the_largest_that_has_room_for_eps_decides_alone(scale):
    x, eps = np.array([[1.75, 0.5, 0.0, 1.9]]), np.array([0.25])
    v = scale * np.array(
        [[1.0, 0.5, 0.8, 3.0]]
    )  # the first has just that room, the last too little
    eta = np.array([[0.25 / scale]])
    to_x, to_v, to_eps = derivatives(formula(closed_form.implicit_eta, math.inf, eta), (x, v, eps))
    np.testing.assert_array_equal(to_x, 0)
    np.testing.assert_allclose(to_v, [[-0.25 / scale**2, 0, 0, 0]], rtol=1e-12)
    np.testing.assert_allclose(to_eps, [1 / scale], rtol=1e-12)


def test_clip_passes_the_gradient_on_up_to_the_bounds_themselves():
    t = torch.tensor([-2.5, -1.0, 0.3, 2.0, 3.5], requires_grad=True)
    clipped = closed_form.clip(ep.astensor(t), *BOX).raw
    clipped.sum().backward()
    assert clipped.tolist() == [-1.0, -1.0, pytest.approx(0.3), 2.0, 2.0]
    assert t.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
