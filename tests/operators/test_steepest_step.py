"""steepest_step: no step of the same length gains more, proved by duality."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import foolbox_carescale as fc
from tests import backends, reference, solver
from tests.exactness import tolerance

CONVEX = (1.0, 1.1, 1.3, 1.5, 2.0, 3.0, math.inf)
each_order = pytest.mark.parametrize("p", CONVEX)


def gradients(name, seed=0, n=8):
    rng = np.random.default_rng(seed)
    x, g = rng.uniform(size=(5, n)), rng.normal(size=(5, n))
    if name == "on the bounds":
        x[:, ::2] = np.round(x[:, ::2])
    elif name == "ties":
        g = np.round(g * 1.5) / 1.5
        g[0] = 1.0
    elif name == "zeros":
        g[:, 1::2] = 0.0
    elif name == "outwards":  # the largest gradients point out of the box
        x[:, :4], g[:, :4] = 1.0, np.abs(g[:, :4]) * 100
    return x, g


def assert_steepest(step, x, g, eps, p, lower=0.0, upper=1.0):
    assert np.all(reference.norm(step, p) <= eps * (1 + 1e-12))
    room = reference.room(x, g, lower, upper)
    for i in range(len(x)):
        best = solver.most_gain(g[i], room[i], eps[i], p)
        assert abs(g[i] @ step[i] - best) <= 1e-9 * best


FRACTIONS = np.array([0.05, 0.3, 0.8, 0.999, 2.0])


@each_order
def test_no_step_gains_more_than_ours(p):
    for name in ("any", "on the bounds", "ties", "zeros", "outwards"):
        x, g = gradients(name)
        eps = FRACTIONS * reference.reachable_norm(x, g, p)
        assert_steepest(fc.steepest_step(x, g, eps, p=p) - x, x, g, eps, p)


@backends.cover("backend", backends.SINGLE[:3], p=[1.03, 1.05, 1.1, 1.3])  # JAX: float32 alone
def test_no_step_gains_more_in_float32_for_p_near_one(backend, p):
    # most of the large gradients have little room; the powers of the others span 1e-60 and more
    x, g = gradients("on the bounds", n=60)
    x[np.abs(g) > 0.5] = np.where(g > 0, 0.99, 0.01)[np.abs(g) > 0.5]
    x, g = backend.rounded(x), backend.rounded(g)
    eps = backend.rounded(FRACTIONS * reference.reachable_norm(x, g, p))
    moved = backend.numpy(
        fc.steepest_step(backend.tensor(x), backend.tensor(g), backend.tensor(eps), p=p)
    )
    for i, room in enumerate(reference.room(x, g)):
        best = solver.most_gain(g[i], room, eps[i], p)
        assert abs(g[i] @ (moved - x)[i] - best) <= 1e-5 * best


# for bounds that are arrays each kind of order is compiled once more
@pytest.mark.parametrize("p", backends.by_day([1.0, 2.0, math.inf], CONVEX))
def test_bounds_that_differ_by_coordinate_are_kept(p):
    rng = np.random.default_rng(1)
    lower, upper = -rng.uniform(0, 1, size=(1, 8)), rng.uniform(0, 3, size=(1, 8))
    x = lower + rng.uniform(size=(3, 8)) * (upper - lower)
    g = rng.normal(size=(3, 8))
    moved = fc.steepest_step(x, g, 0.7, p=p, bounds=(lower, upper))
    assert np.all((moved >= lower) & (moved <= upper))
    assert_steepest(moved - x, x, g, np.full(3, 0.7), p, lower, upper)


@backends.cover(
    "backend",
    backends.FULL,
    cases=["uniform", "on the bounds", "cauchy", "quantised", "mostly zero"],
    p=[1.0, 1.05, *CONVEX[1:]],
    loop="cases",
)
def test_step_has_length_eps_or_all_that_is_reachable(backend, cases, p):
    for name in cases:
        x, g = (backend.rounded(t) for t in reference.case(name))
        reach = reference.reachable_norm(x, g, p)
        eps = backend.rounded(np.array(reference.FRACTIONS) * reach)
        moved = backend.numpy(
            fc.steepest_step(backend.tensor(x), backend.tensor(g), backend.tensor(eps), p=p)
        )
        assert moved.min() >= 0
        assert moved.max() <= 1
        still = (g == 0) | (reference.room(x, g).reshape(x.shape) == 0)
        np.testing.assert_array_equal(moved[still], x[still])
        unit = np.finfo(backend.dtype).eps  # of the sum x + s, in each coordinate
        rounding = reference.norm(np.full((len(x), x[0].size), unit), p)
        error = np.abs(reference.norm(moved - x, p) - np.minimum(eps, reach))
        # A sum of 1083 equal powers, one after the other as an older compiler adds them, is off by
        # 45 units: more than a few, and far less than what is promised.
        assert np.all(error <= tolerance(backend.dtype, p) * eps + rounding)


@backends.cover("backend", backends.SINGLE, p=CONVEX)
def test_scale_of_the_gradient_does_not_matter(backend, p):
    x, g = reference.case("on the bounds", shape=(3, 40))
    expected = backend.numpy(fc.steepest_step(backend.tensor(x), backend.tensor(g), 0.5, p=p))
    for scale in (1e-25, 1e-8, 1e20):
        result = backend.numpy(
            fc.steepest_step(backend.tensor(x), backend.tensor(g * scale), 0.5, p=p)
        )
        np.testing.assert_allclose(result, expected, atol=3e-6)


@backends.cover("backend", backends.SINGLE, p=CONVEX)
def test_zero_gradient_does_not_move(backend, p):
    x = backend.tensor(reference.case("on the bounds", shape=(3, 40))[0])
    result = fc.steepest_step(x, backend.tensor(np.zeros((3, 40))), 0.5, p=p)
    np.testing.assert_array_equal(backend.numpy(result), backend.numpy(x))


@backends.cover("backend", backends.FULL, p=CONVEX)
def test_every_framework_steps_to_the_same_point(backend, p):
    x, g = (backend.rounded(t) for t in gradients("on the bounds", n=50))
    expected = fc.steepest_step(x, g, 0.5, p=p)
    result = backend.numpy(fc.steepest_step(backend.tensor(x), backend.tensor(g), 0.5, p=p))
    np.testing.assert_allclose(result, expected, atol=1e-6 if backend.dtype == "float32" else 1e-13)


def test_l1_step_fills_the_coordinates_in_the_order_of_their_gradient():
    x = np.array([[0.5, 0.9, 0.2, 0.0, 1.0]])
    g = np.array([[1.0, 3.0, -2.0, -9.0, 0.5]])
    # the fourth has no room; the second takes 0.1, the third 0.2, the first the rest
    moved = fc.steepest_step(x, g, 0.5, p=1)
    np.testing.assert_allclose(moved, [[0.7, 1.0, 0.0, 0.0, 1.0]], atol=1e-15)


def test_order_below_one_is_refused():
    with pytest.raises(ValueError, match=r"p: expected a number in \[1, inf\], got 0.5"):
        fc.steepest_step(np.full((1, 2), 0.5), np.ones((1, 2)), 0.1, p=0.5)


@given(
    hnp.arrays(np.float64, (1, 6), elements=st.floats(0, 1)),
    hnp.arrays(np.float64, (1, 6), elements=st.floats(-2, 2, allow_subnormal=False)),
    hnp.arrays(np.float64, (1, 6), elements=st.floats(-1, 1)),
    st.floats(1e-3, 2),
    st.sampled_from(CONVEX),
)
def test_no_random_feasible_step_gains_more(x, g, other, eps, p):
    step = fc.steepest_step(x, g, eps, p=p) - x
    room = np.where(other > 0, 1 - x, x)
    rival = np.sign(other) * np.minimum(np.abs(other), room)
    rival = rival / max(1.0, reference.norm(rival, p)[0] / eps)
    assert np.sum(g * rival) <= np.sum(g * step) * (1 + 1e-9) + 1e-14
