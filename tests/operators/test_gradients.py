"""Derivatives: closed forms, numerical differences, the three frameworks among each other."""

import math

import numpy as np
import pytest

import foolbox_carescale as fc
from tests import backends, reference
from tests.reference import ORDERS

CONVEX_ORDERS = tuple(p for p in ORDERS if p >= 1)
SHAPE = (3, 2, 4)
ROWS = (len(reference.FRACTIONS), 30)  # one shape, for which JAX compiles once
each_backend = pytest.mark.parametrize("backend", backends.WITH_GRADIENT, indirect=True)
SINGLE = backends.SINGLE[1:]  # NumPy has no gradients
CASES = ("on the bounds", "cauchy", "mostly zero")
# for float32 each kind of order is compiled once more: by day a general one and two closed forms
FEW = (0.5, 2.0, math.inf)
each_order_in_float32 = pytest.mark.parametrize(
    ("backend", "p"),
    backends.by_day(backends.covering(SINGLE, FEW), backends.covering(SINGLE, ORDERS)),
    indirect=["backend"],
)


def smooth(p, seed=3):
    """x, delta, eps with saturated and free coordinates, away from where the sets change."""
    x, delta = reference.case("uniform", shape=SHAPE, seed=seed)
    eps = np.array([0.2, 0.5, 0.8]) * reference.reachable_norm(x, delta, p)
    return x, delta, eps


# each as a function of (points, directions, eps, p)
OPERATORS = {
    "eta": (lambda x, v, eps, p: fc.clipping_aware_rescaling(x, v, eps, p=p), ORDERS),
    "perturb": (lambda x, v, eps, p: fc.perturb(x, v, eps, p=p), ORDERS),
    "project": (lambda x, v, eps, p: fc.project(x + v, x, eps, p=p), ORDERS),
    "steepest_step": (lambda x, v, eps, p: fc.steepest_step(x, v, eps, p=p), CONVEX_ORDERS),
    "reachable_norm": (lambda x, v, eps, p: fc.reachable_norm(x, v, p=p), ORDERS),
}
TABLE = [(name, p) for name, (_, orders) in OPERATORS.items() for p in orders]
each_operator = pytest.mark.parametrize(("name", "p"), TABLE)
# where a program takes seconds to compile: each operator with two orders or more, of the closed
# forms and of a general order; by day one of them
KINDS = [
    *(("eta", p) for p in (1, 1.3, math.inf)),
    *(("perturb", p) for p in (1, 2)),
    *(("project", p) for p in (2, math.inf)),
    *(("steepest_step", p) for p in (1, 2)),
    ("reachable_norm", math.inf),
]
BY_DAY = [
    ("eta", 1.3),
    ("perturb", 2),
    ("project", math.inf),
    ("steepest_step", 1),
    ("reachable_norm", math.inf),
]
each_kind = pytest.mark.parametrize(("name", "p"), backends.by_day(BY_DAY, KINDS))
FRAMEWORKS = [k.removesuffix("-float64") for k in backends.WITH_GRADIENT]


def weights(name):
    """So that every coordinate of the result counts differently."""
    w = np.random.default_rng(5).normal(size=SHAPE)
    return {"eta": w[:, :1, :1], "reachable_norm": w[:, 0, 0]}.get(name, w)


@backends.cover("backend", backends.WITH_GRADIENT, p=ORDERS)
def test_gradient_of_eta_is_the_closed_form(backend, p):
    values = smooth(p)
    grads = backend.gradient(lambda x, v, e: fc.clipping_aware_rescaling(x, v, e, p=p), *values)
    for grad, expected in zip(grads, reference.eta_gradients(*values, p), strict=True):
        np.testing.assert_allclose(grad, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("backend", "name", "p"),
    backends.by_day(
        backends.covering(SINGLE, CASES, FEW), backends.covering(SINGLE, CASES, ORDERS)
    ),
    indirect=["backend"],
)
def test_gradient_of_eta_is_the_closed_form_in_float32(backend, name, p):
    x, delta = (backend.rounded(part) for part in reference.case(name, shape=ROWS))
    eps = np.resize([0.2, 0.5, 0.7], len(x)) * reference.reachable_norm(x, delta, p)
    eps = backend.rounded(eps)
    grads = backend.gradient(
        lambda x, v, e: fc.clipping_aware_rescaling(x, v, e, p=p), x, delta, eps
    )
    expected = reference.eta_gradients(x, delta, eps, p)
    live = reference.room(x, delta) > 0  # without room only a one-sided derivative exists
    for grad, truth in zip(grads, expected, strict=True):
        grad, truth = (t[live] if t.ndim == 2 else t for t in (grad, truth))
        np.testing.assert_allclose(grad, truth, rtol=1e-4, atol=1e-5 * np.abs(truth).max())


@backends.cover("backend", backends.WITH_GRADIENT, p=ORDERS)
def test_scaling_the_direction_scales_eta_inversely(backend, p):
    x, delta, eps = smooth(p)
    grad = backend.gradient(
        lambda x, v: fc.clipping_aware_rescaling(x, v, backend.tensor(eps), p=p), x, delta
    )[1]
    eta = reference.bisected_eta(x, delta, eps, p)
    np.testing.assert_allclose((delta * grad).reshape(3, -1).sum(1), -eta, rtol=1e-10)


@backends.cover("backend", backends.WITH_GRADIENT, p=ORDERS)
def test_gradient_of_the_reachable_norm_is_the_closed_form(backend, p):
    x, delta, _ = smooth(p)
    grad = backend.gradient(lambda x: fc.reachable_norm(x, backend.tensor(delta), p=p), x)[0]
    room = reference.room(x, delta)
    if p == math.inf:
        expected = (room == room.max(1, keepdims=True)).astype(float)
    else:
        expected = (room / reference.norm(room, p)[:, None]) ** (p - 1)
    np.testing.assert_allclose(
        grad.reshape(3, -1), -np.sign(delta).reshape(3, -1) * expected, rtol=1e-10
    )


# test_ways.py has all orders by day
@pytest.mark.parametrize(("name", "p"), backends.by_day(BY_DAY, TABLE))
def test_first_derivatives_are_those_of_numerical_differences(name, p):
    import torch

    operator = OPERATORS[name][0]
    inputs = [torch.tensor(t, requires_grad=True) for t in smooth(p)]
    assert torch.autograd.gradcheck(lambda *t: operator(*t, p), inputs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "p"), backends.by_day(KINDS, TABLE))
def test_second_derivatives_are_those_of_numerical_differences(name, p):
    import torch

    operator, w = OPERATORS[name][0], torch.tensor(weights(name))
    inputs = [torch.tensor(t, requires_grad=True) for t in smooth(p)]

    def slopes(*t):
        total = (w * operator(*t, p)).sum()
        return torch.autograd.grad(total, t, create_graph=True, materialize_grads=True)

    assert torch.autograd.gradcheck(slopes, inputs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "p"), backends.by_day(BY_DAY, TABLE))
def test_first_derivatives_agree_among_the_frameworks(name, p):
    operator, values = OPERATORS[name][0], smooth(p)
    grads = {}
    for framework in FRAMEWORKS:
        with backends.make(f"{framework}-float64") as backend:
            w = backend.tensor(weights(name))
            grads[framework] = backend.gradient(lambda *t, w=w: w * operator(*t, p), *values)
    for framework in ("tensorflow", "jax"):
        for grad, expected in zip(grads[framework], grads["torch"], strict=True):
            np.testing.assert_allclose(grad, expected, rtol=1e-9, atol=1e-12)


@each_kind
def test_hessians_agree_among_the_frameworks(name, p):
    import jax
    import tensorflow as tf
    import torch

    operator, (x, delta, eps) = OPERATORS[name][0], smooth(p)
    w = weights(name)

    def total(v, x, eps, w):
        return (w * operator(x, v, eps, p)).sum()

    constants = [torch.tensor(t) for t in (x, eps, w)]
    theirs = torch.autograd.functional.hessian(
        lambda v: total(v, *constants), torch.tensor(delta)
    ).numpy()

    with backends.make("jax-float64") as backend:
        constants = [backend.tensor(t) for t in (x, eps, w)]
        found = jax.jit(jax.hessian(total))(backend.tensor(delta), *constants)
        np.testing.assert_allclose(found, theirs, rtol=1e-8, atol=1e-11)

    v, x, eps = (tf.constant(t) for t in (delta, x, eps))
    zero = tf.UnconnectedGradients.ZERO
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(v)
        with tf.GradientTape() as inner:
            inner.watch(v)
            loss = tf.reduce_sum(w * operator(x, v, eps, p))
        slope = inner.gradient(loss, v, unconnected_gradients=zero)
    ours = outer.jacobian(slope, v, unconnected_gradients=zero, experimental_use_pfor=False)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(("name", "p"), backends.by_day([("eta", 1.3)], BY_DAY))
def test_jax_has_the_same_gradient_outside_of_jit(name, p):
    operator = OPERATORS[name][0]
    with backends.make("jax-float64") as backend:
        found = []
        for backend.compiled in (False, True):
            found.append(backend.gradient(lambda *t: operator(*t, p), *smooth(p)))
        for outside, inside in zip(*found, strict=True):
            np.testing.assert_allclose(outside, inside, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "p"),
    backends.by_day([("eta", 1.3), ("steepest_step", 1)], KINDS),
)
def test_forward_and_reverse_mode_agree(name, p):
    import jax

    operator = OPERATORS[name][0]
    with backends.make("jax-float64") as backend:
        values = [backend.tensor(t) for t in smooth(p)]

        def both(*values):
            """Return the Jacobians by x, delta and eps: one program is compiled for all."""
            modes = (jax.jacfwd, jax.jacrev)
            return [mode(lambda *t: operator(*t, p), argnums=(0, 1, 2))(*values) for mode in modes]

        for forward, reverse in zip(*jax.jit(both)(*values), strict=True):
            np.testing.assert_allclose(forward, reverse, rtol=1e-9, atol=1e-12)


# Where the function has corners, or nothing moves: still a number, and the right one

CORNERS = ("on the bounds", "quantised", "mostly zero", "all zero", "cauchy")


@each_order_in_float32
def test_gradient_is_finite_on_corners(backend, p):
    # all in one batch, which JAX compiles once
    cases = [reference.case(case, shape=ROWS) for case in CORNERS]
    x, delta = (backend.rounded(np.concatenate(part)) for part in zip(*cases, strict=True))
    fractions = np.resize(reference.FRACTIONS, len(x))
    eps = fractions * reference.reachable_norm(x, delta, p)
    eps[np.arange(len(x)) % ROWS[0] >= 4] += 0.1  # also where nothing can move
    for name, (operator, orders) in OPERATORS.items():
        if p in orders:
            for grad in backend.gradient(lambda *t, f=operator: f(*t, p), x, delta, eps):
                assert np.isfinite(grad).all(), name


@each_operator
def test_second_derivatives_are_finite_on_corners(name, p):
    import torch

    operator = OPERATORS[name][0]
    for case in ("on the bounds", "mostly zero", "all zero"):
        x, delta = reference.case(case, shape=ROWS)
        eps = np.array(reference.FRACTIONS) * reference.reachable_norm(x, delta, p)
        inputs = [torch.tensor(t, requires_grad=True) for t in (x, delta, eps)]
        total = operator(*inputs, p).sum()
        slopes = torch.autograd.grad(total, inputs, create_graph=True, materialize_grads=True)
        assert all(slope.isfinite().all() for slope in slopes), case
        if any(slope.requires_grad for slope in slopes):
            total = sum((slope**2).sum() for slope in slopes)
            curvature = torch.autograd.grad(total, inputs, materialize_grads=True)
            assert all(c.isfinite().all() for c in curvature), case


@backends.cover("backend", backends.WITH_GRADIENT, p=ORDERS)
def test_nothing_changes_eta_where_eps_is_out_of_reach(backend, p):
    x, delta, _ = smooth(p)
    eps = 2 * reference.reachable_norm(x, delta, p)
    grads = backend.gradient(lambda *t: fc.clipping_aware_rescaling(*t, p=p), x, delta, eps)
    assert all(np.all(grad == 0) for grad in grads)


@pytest.mark.parametrize(
    ("backend", "p"),
    backends.by_day(
        backends.covering(backends.WITH_GRADIENT[:1], ORDERS) + backends.covering(SINGLE, FEW),
        backends.covering(SINGLE + backends.WITH_GRADIENT, ORDERS),
    ),
    indirect=["backend"],
)
def test_the_far_corner_depends_on_nothing(backend, p):
    # samples of one coordinate: each is the last to arrive, where x + eta v may round below
    x, delta = reference.case("uniform", shape=(500, 1))
    eps = 2 * reference.reachable_norm(x, delta, p)
    for operator in (fc.perturb, lambda x, v, e, p: fc.project(x + 1e4 * v, x, e, p=p)):
        grads = backend.gradient(lambda *t, f=operator: f(*t, p=p), x, delta, eps)
        assert all(np.all(grad == 0) for grad in grads)


@each_backend
def test_on_a_bound_the_derivative_is_the_one_into_the_box(backend):
    # for p = 1 a pixel without room counts as much as any other that is saturated
    x, delta = np.array([[1.0, 0.0, 0.4, 0.7, 0.5]]), np.array([[2.0, -1.0, 3.0, -0.5, 0.25]])
    to_x = backend.gradient(lambda x: fc.reachable_norm(x, backend.tensor(delta), p=1), x)[0]
    np.testing.assert_array_equal(to_x, -np.sign(delta))
    eps = 0.9  # the third is saturated at 0.6, the last two move by 0.3
    to_x = backend.gradient(
        lambda x: fc.clipping_aware_rescaling(x, backend.tensor(delta), eps, p=1), x
    )[0]
    np.testing.assert_allclose(to_x, [[1 / 0.75, -1 / 0.75, 1 / 0.75, 0, 0]], rtol=1e-12)


@each_order_in_float32
def test_a_step_of_no_length_passes_the_gradient_of_x_on(backend, p):
    x, delta, _ = smooth(p)
    to_x, to_delta = backend.gradient(lambda x, v: fc.perturb(x, v, 0.0, p=p), x, delta)
    np.testing.assert_array_equal(to_x, np.ones(SHAPE))
    np.testing.assert_array_equal(to_delta, np.zeros(SHAPE))


@each_order_in_float32
def test_projection_is_the_identity_inside_ball_and_box(backend, p):
    x0, delta, _ = smooth(p)
    x = x0 + 0.01 * np.sign(delta) * np.minimum(x0, 1 - x0)
    x[:, 0] = x0[:, 0]  # also for coordinates that are where the centre is
    eps = 2 * reference.norm((x - x0), p).max()
    to_x, to_x0 = backend.gradient(lambda x, x0: fc.project(x, x0, eps, p=p), x, x0)
    np.testing.assert_array_equal(to_x, np.ones(SHAPE))
    np.testing.assert_array_equal(to_x0, np.zeros(SHAPE))


@each_backend
def test_a_share_that_rounds_to_nothing_still_has_its_slope(backend):
    # nothing moves; the first fills up, and what is left for the others is no step from 0.75
    x = np.array([[0.5, 0.5, 0.5, 0.5, 0.5], [0.5, 0.75, 0.75, 0.75, 0.75]])
    gradient = np.array([[3.0, -3.0, 1.0, 1.0, 1.0], [3.0, -2.0, 2.0, 2.0, 2.0]])
    eps = np.array([1e-20, 0.5 + 2.0**-53])
    to_eps = backend.gradient(
        lambda e: (
            fc.steepest_step(backend.tensor(x), backend.tensor(gradient), e, p=1)
            * backend.tensor(np.sign(gradient))
        ),
        eps,
    )[0]
    np.testing.assert_allclose(to_eps, [1, 1], rtol=1e-12)


@pytest.mark.parametrize("eps", [0.0, 0.5, 0.75, 9.0])  # of which all but the last are corners
def test_corners_of_the_steepest_step_have_the_slopes_that_sorting_finds(monkeypatch, eps):
    import torch

    def slopes():
        x = torch.tensor([[0.5, 0.75, 0.75]], dtype=torch.float64, requires_grad=True)
        gradient = torch.tensor([[3.0, 2.0, -1.0]], dtype=torch.float64)
        size = torch.tensor([eps], dtype=torch.float64, requires_grad=True)
        moved = fc.steepest_step(x, gradient, size, p=1)
        return torch.cat([t.flatten() for t in torch.autograd.grad(moved.sum(), (x, size))])

    found = slopes()
    monkeypatch.setattr(fc.engines, "ENGINES", fc.engines.ENGINES[-1:])
    torch.testing.assert_close(found, slopes(), rtol=0, atol=1e-12)


# What is differentiated, and how


@pytest.mark.parametrize("backend", [k for k in backends.HALF if "numpy" not in k], indirect=True)
def test_half_precision_has_gradients_of_its_dtype(backend):
    x, delta, eps = smooth(2.0)
    grads = backend.gradient(lambda x, v: fc.clipping_aware_rescaling(x, v, eps), x, delta)
    expected = reference.eta_gradients(backend.rounded(x), backend.rounded(delta), eps, 2.0)
    for grad, truth in zip(grads, expected, strict=False):
        np.testing.assert_allclose(grad, truth, atol=0.02 * np.abs(truth).max())


@each_backend
def test_eps_for_the_whole_batch_collects_the_gradient_of_all_samples(backend):
    x, delta, _ = smooth(2.0)
    each = reference.eta_gradients(x, delta, 0.4, 2.0)[2]
    for eps in (0.4, [0.4]):
        grad = backend.gradient(
            lambda e: fc.clipping_aware_rescaling(backend.tensor(x), backend.tensor(delta), e), eps
        )[0]
        assert grad.shape == np.shape(eps)
        np.testing.assert_allclose(grad.sum(), each.sum(), rtol=1e-10)


@pytest.mark.parametrize("at", [0, 1, 2])
@each_backend
def test_only_what_needs_a_gradient_gets_one(backend, at):
    values = smooth(2.0)
    expected = reference.eta_gradients(*values, 2.0)[at]

    def of_one(value):
        arguments = [backend.tensor(v) for v in values]
        arguments[at] = value
        return fc.clipping_aware_rescaling(*arguments)

    np.testing.assert_allclose(
        backend.gradient(of_one, values[at])[0], expected, rtol=1e-10, atol=1e-12
    )


def test_torch_keeps_no_graph_where_nobody_asks_for_one():
    import torch

    x, delta, eps = (torch.tensor(t, requires_grad=True) for t in smooth(2.0))
    with torch.no_grad():
        assert not fc.perturb(x, delta, eps).requires_grad
    with torch.inference_mode():
        assert not fc.perturb(x, delta, eps).requires_grad
    assert not fc.perturb(x.detach(), delta.detach(), 0.5).requires_grad
    assert fc.perturb(x, delta.detach(), 0.5).requires_grad


def test_tensor_bounds_change_nothing_about_the_gradient():
    import torch

    x, delta, eps = (torch.tensor(t, requires_grad=True) for t in smooth(2.0))
    bounds = (torch.zeros(1, 2, 1, dtype=torch.float64), torch.ones(1, 2, 1, dtype=torch.float64))
    plain = torch.autograd.grad(fc.clipping_aware_rescaling(x, delta, eps).sum(), (x, delta, eps))
    bounded = torch.autograd.grad(
        fc.clipping_aware_rescaling(x, delta, eps, bounds=bounds).sum(), (x, delta, eps)
    )
    for a, b in zip(plain, bounded, strict=True):
        torch.testing.assert_close(a, b)
