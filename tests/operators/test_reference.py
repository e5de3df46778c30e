"""The page that shows the algorithm is right, and every engine computes what it says."""

import functools
import math

import numpy as np
import pytest

import foolbox_carescale as fc
from foolbox_carescale.operators import reference
from tests import backends
from tests import reference as truth

ORDERS = (0.5, 1.0, 1.5, 2.0, 3.0, math.inf)
BOUNDS = (-0.5, 1.5)
RNG = np.random.default_rng(0)
SHAPE = (6, 24)
X = RNG.uniform(*BOUNDS, size=SHAPE)
X[1] = np.round(X[1] * 2) / 2  # on the bounds and in the middle
V = RNG.normal(size=SHAPE)
V[2] = RNG.standard_cauchy(size=SHAPE[1])
V[3] = 0
V[4, 2:] = 0
Z = X + 2 * V
# of the reachable norm: little, most, typical, of nothing, of two coordinates, too much
FRACTIONS = np.array([0.01, 0.9, 0.3, 0.3, 0.5, 2.0])


def eps_for(p):
    reachable = truth.reachable_norm(X, V, p, *BOUNDS)
    return FRACTIONS * np.where(reachable > 0, reachable, 1.0)


@pytest.mark.parametrize("p", ORDERS)
def test_eta_is_that_of_a_bisection(p):
    eps = eps_for(p)
    expected = truth.bisected_eta(X, V, eps, p, *BOUNDS)
    np.testing.assert_allclose(
        reference.eta(X, V, eps, p, *BOUNDS)[:, 0], expected, rtol=1e-9, atol=1e-300
    )


@pytest.mark.parametrize("p", ORDERS)
def test_gradient_is_that_of_finite_differences(p):
    x, v, eps = X[:3], V[:3], eps_for(p)[:3]
    x = np.clip(x, BOUNDS[0] + 1e-3, BOUNDS[1] - 1e-3)
    step = 1e-7
    to_x, to_v, to_eps = reference.eta_gradient(x, v, eps, p, *BOUNDS)
    eta = functools.partial(reference.eta, p=p, a=BOUNDS[0], b=BOUNDS[1])
    for i in range(SHAPE[1]):
        moved = np.zeros(SHAPE[1])
        moved[i] = step
        for found, ahead, behind in (
            (to_x, eta(x + moved, v, eps), eta(x - moved, v, eps)),
            (to_v, eta(x, v + moved, eps), eta(x, v - moved, eps)),
        ):
            expected = (ahead - behind)[:, 0] / (2 * step)
            np.testing.assert_allclose(found[:, i], expected, rtol=1e-4, atol=1e-5)
    expected = (eta(x, v, eps + step) - eta(x, v, eps - step)) / (2 * step)
    np.testing.assert_allclose(to_eps, expected, rtol=1e-4)


def test_gradient_is_zero_where_epsilon_cannot_be_reached():
    for gradient in reference.eta_gradient(X[5:], V[5:], eps_for(2.0)[5:], 2.0, *BOUNDS):
        assert (gradient == 0).all()


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_projection_is_inside_and_no_point_on_the_way_to_others_is_nearer(p):
    eps = 0.5 * eps_for(p)
    found = reference.project(Z, X, eps, p, *BOUNDS)
    assert (found >= BOUNDS[0]).all()
    assert (found <= BOUNDS[1]).all()
    assert (truth.norm(found - X, p) <= eps * (1 + 1e-9)).all()
    # the set is convex: at its nearest point to Z every direction into it leads away from Z
    for seed in range(20):
        towards = np.random.default_rng(seed).normal(size=SHAPE)
        other = fc.perturb(np.clip(X, *BOUNDS), towards, eps, p=p, bounds=BOUNDS)
        assert (((other - found) * (Z - found)).sum(axis=1) <= 1e-9).all()


def test_the_box_is_the_unit_box_by_default():
    x, other = np.clip(X, 0, 1), 3 * V
    for function in (reference.eta, reference.project, reference.steepest_step):
        found, expected = (function(x, other, 5.0, 2.0, *box) for box in ((), (0.0, 1.0)))
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(
        reference.eta_gradient(x, V, 1.0, 2.0),
        reference.eta_gradient(x, V, 1.0, 2.0, 0.0, 1.0),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(reference.room(x, V), reference.room(x, V, 0.0, 1.0))


# the ways that end in different engines: numba, eager under vmap, XLA twice
def as_it_comes(operator):
    return operator


def mapped_by_torch(operator):
    import torch

    def of_one(x, v, eps):
        return operator(x[None], v[None], eps[None])[0]

    return torch.func.vmap(of_one)


def jitted(operator):
    return pytest.importorskip("jax").jit(operator)


def in_a_graph(operator):
    return pytest.importorskip("tensorflow").function(operator)


WAYS = [
    *((name, as_it_comes) for name in backends.DOUBLE),
    ("torch-float64", mapped_by_torch),
    ("jax-float64", jitted),
    ("tensorflow-float64", in_a_graph),
]


@pytest.mark.parametrize(
    ("name", "way", "orders"),
    backends.by_day(
        # where a program takes seconds to compile: a general order and a closed form
        [(*way, (1.5, math.inf) if way[1] in (jitted, in_a_graph) else ORDERS) for way in WAYS],
        [(*way, ORDERS) for way in WAYS],
    ),
)
def test_every_engine_computes_what_the_page_says(name, way, orders):
    with backends.make(name) as backend:
        for p in orders:
            eps = eps_for(p)
            x, v, z, e = (backend.tensor(t) for t in (X, V, Z, eps))
            pairs = [
                (fc.clipping_aware_rescaling, reference.eta, (x, v, e), (X, V, eps)),
                (fc.project, reference.project, (z, x, e), (Z, X, eps)),
            ]
            if p >= 1:
                pairs.append((fc.steepest_step, reference.steepest_step, (x, v, e), (X, V, eps)))
            for operator, page, tensors, arrays in pairs:
                bound = functools.partial(operator, p=p, bounds=BOUNDS)
                found = backend.numpy(way(lambda *t, f=bound: f(*t))(*tensors))
                np.testing.assert_allclose(
                    found,
                    page(*arrays, p, *BOUNDS),
                    rtol=1e-9,
                    atol=1e-12,
                    err_msg=f"{operator.__name__}, p = {p}",
                )


@pytest.mark.parametrize(("name", "p"), backends.covering(backends.WITH_GRADIENT, ORDERS))
def test_gradients_of_every_framework_are_those_of_the_page(name, p):
    rows = [0, 1, 2, 4]  # reachable, and with somewhere to go
    x, v, eps = X[rows], V[rows], eps_for(p)[rows]
    expected = reference.eta_gradient(x, v, eps, p, *BOUNDS)
    with backends.make(name) as backend:
        found = backend.gradient(
            lambda *t: fc.clipping_aware_rescaling(*t, p=p, bounds=BOUNDS), x, v, eps
        )
    for ours, page in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.reshape(page.shape), page, rtol=1e-7, atol=1e-10)


def test_gradient_in_the_largest_norm_is_zero_where_epsilon_cannot_be_reached():
    for gradient in reference.eta_gradient(X[5:], V[5:], eps_for(math.inf)[5:], math.inf, *BOUNDS):
        assert (gradient == 0).all()
