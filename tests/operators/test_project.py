"""project: the nearest point of ball and box, proved by duality; radial for other p."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import foolbox_carescale as fc
from tests import backends, reference, solver
from tests.exactness import tolerance
from tests.reference import ORDERS

EXACT = (1.0, 2.0, math.inf)
each_exact = pytest.mark.parametrize("p", EXACT)


def targets(name, seed=0, n=9):
    """Centres in the box and targets, five samples."""
    rng = np.random.default_rng(seed)
    x0 = rng.uniform(size=(5, n))
    x0[:, :3] = np.round(x0[:, :3])
    v = rng.normal(size=(5, n))
    if name == "far outside the box":
        v *= 10
    elif name == "near":
        v *= 0.05
    elif name == "heavy tailed":
        v = rng.standard_cauchy(size=(5, n))
    elif name == "partly at the centre":
        v[:, ::2] = 0
    elif name == "equal moves":
        v = 0.4 * np.sign(v)
    return x0, x0 + v


def assert_nearest(z, x, x0, eps, p, lower=0.0, upper=1.0):
    assert np.all((z >= lower) & (z <= upper))
    assert np.all(reference.norm(z - x0, p) <= eps * (1 + 1e-12))
    lower, upper = (np.broadcast_to(b, x.shape) for b in (lower, upper))
    for i in range(len(x)):
        least = solver.least_distance(x[i], x0[i], eps[i], p, lower[i], upper[i])
        distance = np.sum((z[i] - x[i]) ** 2) / 2
        # strong convexity: the nearest point is no further from z than sqrt(2 gap)
        assert distance - least <= 1e-12 * (1 + distance)


NAMES = (
    "far outside the box",
    "near",
    "heavy tailed",
    "partly at the centre",
    "equal moves",
    "any",
)


@pytest.mark.parametrize("name", NAMES)
@each_exact
def test_no_point_of_ball_and_box_is_nearer(name, p):
    x0, x = targets(name)
    fractions = np.array([0.05, 0.3, 0.8, 1.0, 2.0])  # of the size of the move in the box
    eps = fractions * reference.norm(np.clip(x, 0, 1) - x0, p)
    assert_nearest(fc.project(x, x0, eps, p=p), x, x0, eps, p)


@each_exact
def test_projection_in_bounds_that_differ_by_coordinate(p):
    rng = np.random.default_rng(1)
    lower, upper = -rng.uniform(0, 1, size=(1, 8)), rng.uniform(0, 3, size=(1, 8))
    x0 = lower + rng.uniform(size=(4, 8)) * (upper - lower)
    x = x0 + rng.normal(size=(4, 8))
    ours = fc.project(x, x0, 0.6, p=p, bounds=(lower, upper))
    assert_nearest(ours, x, x0, np.full(4, 0.6), p, lower, upper)


@backends.cover("backend", backends.SINGLE, p=ORDERS)
def test_points_inside_ball_and_box_stay_to_the_last_digit(backend, p):
    # far from the centre, so that x0 + (x - x0) is rounded
    x0, x = (backend.rounded(reference.case("uniform", shape=(4, 30), seed=s)[0]) for s in (0, 1))
    assert np.any(backend.numpy(backend.tensor(x0) + (backend.tensor(x) - backend.tensor(x0))) != x)
    eps = 1.01 * reference.norm(x - x0, p)
    np.testing.assert_array_equal(
        backend.numpy(fc.project(backend.tensor(x), backend.tensor(x0), eps, p=p)), x
    )


@backends.cover("backend", backends.SINGLE, p=ORDERS)
def test_eps_zero_gives_the_centre(backend, p):
    x0, delta = (backend.tensor(t) for t in reference.case("on the bounds", shape=(4, 30)))
    result = backend.numpy(fc.project(x0 + delta, x0, 0.0, p=p))
    np.testing.assert_allclose(result, backend.numpy(x0), atol=1e-7)


@backends.cover("backend", backends.SINGLE, p=ORDERS)
def test_the_centre_stays_where_it_is(backend, p):
    x0 = backend.tensor(reference.case("on the bounds", shape=(4, 30))[0])
    np.testing.assert_array_equal(backend.numpy(fc.project(x0, x0, 0.5, p=p)), backend.numpy(x0))


@backends.cover("backend", backends.SINGLE, p=ORDERS)
def test_unreachable_eps_only_clips(backend, p):
    x0, delta = (backend.rounded(t) for t in reference.case("uniform", shape=(4, 30)))
    x = backend.rounded(x0 + delta)
    eps = 2 * reference.reachable_norm(x0, delta, p)
    result = backend.numpy(fc.project(backend.tensor(x), backend.tensor(x0), eps, p=p))
    np.testing.assert_allclose(result, np.clip(x, 0, 1), atol=1e-7)


@backends.cover(
    "backend",
    backends.FULL,
    cases=["uniform", "on the bounds", "cauchy", "quantised"],
    p=ORDERS,
    loop="cases",
)
def test_result_is_in_the_box_and_on_the_sphere_where_the_clipped_point_was_outside(
    backend, cases, p
):
    for name in cases:
        x0, delta = (backend.rounded(t) for t in reference.case(name))
        x = backend.rounded(x0 + delta)
        size = reference.norm(np.clip(x, 0, 1) - x0, p)
        fractions = np.array([0.05, 0.3, 0.6, 0.9, 0.99, 2.0])
        eps = backend.rounded(fractions * size)
        result = backend.numpy(
            fc.project(backend.tensor(x), backend.tensor(x0), backend.tensor(eps), p=p)
        )
        assert result.min() >= 0
        assert result.max() <= 1
        # the points of the dtype are this far apart, in each of the n coordinates
        unit = np.finfo(backend.dtype).eps
        rounding = reference.norm(np.full((len(x), x[0].size), unit), p)
        if p == 1:  # |v| - t carries the rounding of the largest |v|
            rounding = rounding * (1 + np.abs(x - x0).reshape(len(x), -1).max(1))
        error = np.abs(reference.norm(result - x0, p) - np.minimum(eps, size))
        if p >= 1:
            assert np.all(error <= tolerance(backend.dtype, p) * eps + rounding)
        else:
            assert np.all(error <= 1e-2 * eps)


@pytest.mark.parametrize("p", [0.5, 1.3, 2.0, 3.0])
def test_projection_is_radial(p):
    x0, delta = reference.case("uniform", shape=(4, 30))
    eps = 0.5 * reference.norm(np.clip(x0 + delta, 0, 1) - x0, p)
    result = fc.project(x0 + delta, x0, eps, p=p)
    np.testing.assert_allclose(result, fc.perturb(x0, delta, eps, p=p), atol=1e-14)


@backends.cover("backend", backends.FULL, p=EXACT)
def test_every_framework_projects_to_the_same_point(backend, p):
    x0, x = (backend.rounded(t) for t in targets("any", n=50))
    eps = np.array([0.1, 0.4, 0.2, 1.0, 2.0])
    expected = fc.project(x, np.clip(x0, 0, 1), eps, p=p)
    result = backend.numpy(fc.project(backend.tensor(x), backend.tensor(x0), eps, p=p))
    np.testing.assert_allclose(result, expected, atol=1e-6 if backend.dtype == "float32" else 1e-13)


@backends.cover("backend", backends.HALF, p=EXACT)
def test_half_precision_projects_up_to_its_rounding(backend, p):
    x0, x = (backend.rounded(t) for t in targets("any", n=50))
    expected = fc.project(x, x0, 0.5, p=p)
    result = backend.numpy(fc.project(backend.tensor(x), backend.tensor(x0), 0.5, p=p))
    np.testing.assert_allclose(
        result, expected, atol=2.0**-8 if backend.dtype == "bfloat16" else 2.0**-11
    )


@pytest.mark.parametrize("backend", ["torch-float32", "jax-float32"], indirect=True)
def test_l1_norm_is_exact_in_float32_at_the_size_of_an_image(backend):
    rng = np.random.default_rng(0)
    x0 = backend.rounded(rng.uniform(size=(2, 150_528)))
    x = backend.rounded(x0 + 0.02 * rng.normal(size=x0.shape))
    result = backend.numpy(fc.project(backend.tensor(x), backend.tensor(x0), 40.0, p=1))
    np.testing.assert_allclose(np.abs(result - x0).sum(1), 40.0, rtol=2e-5)


PROBLEMS = st.tuples(
    hnp.arrays(np.float64, (1, 7), elements=st.floats(0, 1)),
    hnp.arrays(np.float64, (1, 7), elements=st.floats(-3, 3)),
    hnp.arrays(np.float64, (1, 7), elements=st.floats(-3, 3)),
    st.floats(0, 3),
    st.sampled_from(EXACT),
)


@given(PROBLEMS)
def test_projecting_twice_is_projecting_once(problem):
    x0, x, _, eps, p = problem
    once = fc.project(x, x0, eps, p=p)
    np.testing.assert_allclose(fc.project(once, x0, eps, p=p), once, atol=1e-12)


@given(PROBLEMS)
def test_projections_come_no_further_apart_than_the_points_were(problem):
    x0, x, y, eps, p = problem
    apart = np.linalg.norm(fc.project(x, x0, eps, p=p) - fc.project(y, x0, eps, p=p))
    assert apart <= np.linalg.norm(x - y) + 1e-12


@given(PROBLEMS)
def test_no_feasible_point_lies_on_the_targets_side(problem):
    # the variational inequality: <x - z, w - z> <= 0 for every w in ball and box
    x0, x, y, eps, p = problem
    z = fc.project(x, x0, eps, p=p)
    w = fc.project(y, x0, eps, p=p)
    assert np.sum((x - z) * (w - z)) <= 1e-11
    assert np.sum((x - z) * (x0 - z)) <= 1e-11
