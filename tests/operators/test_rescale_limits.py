"""The operator where rounding, bounds and dtype end, and what holds for any input."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import foolbox_carescale as fc
from tests import backends, reference
from tests.exactness import tolerance
from tests.operators.test_rescale import problem
from tests.reference import CASES, ORDERS, SHAPE


@backends.cover("backend", backends.SINGLE, p=ORDERS)
def test_rounding_excess_is_forgiven_and_removed(backend, p):
    x, delta = reference.case("uniform", shape=(2, 12))
    x[:, :3], x[:, 3:6] = -2.98e-8, 1.0 + 1.2e-7
    moved = backend.numpy(fc.perturb(backend.tensor(x), backend.tensor(delta), 0.4, p=p))
    assert moved.min() >= 0.0
    assert moved.max() <= 1.0
    eta = backend.numpy(
        fc.clipping_aware_rescaling(backend.tensor(x), backend.tensor(delta), 0.4, p=p)
    )
    size = reference.measured_norm(
        eta, np.clip(backend.rounded(x), 0, 1), backend.rounded(delta), p
    )
    # the excess itself, 1e-7 in six coordinates, is not part of the problem
    np.testing.assert_allclose(size, 0.4, rtol=tolerance("float32", p) + 1e-6)


@backends.cover("backend", backends.SINGLE, p=ORDERS)
def test_a_point_beyond_its_bound_has_no_room_rather_than_less_than_none(backend, p):
    x, up = backend.tensor(np.full((2, 5), 1.0 + 1.2e-7)), backend.tensor(np.ones((2, 5)))
    assert np.all(backend.numpy(fc.reachable_norm(x, up, p=p)) == 0)
    assert np.all(backend.numpy(fc.clipping_aware_rescaling(x, up, 0.1, p=p)) == 0)


@backends.cover("backend", backends.SINGLE, cases=CASES, p=ORDERS, loop="cases")
def test_perturb_stays_inside_the_box_exactly(backend, cases, p):
    for name in cases:
        x, delta, eps = problem(backend, name, p, shape=(6, 40))
        moved = backend.numpy(
            fc.perturb(backend.tensor(x), backend.tensor(delta), backend.tensor(eps), p=p)
        )
        assert moved.min() >= 0.0
        assert moved.max() <= 1.0
        still = (delta == 0) | (reference.room(x, delta).reshape(x.shape) == 0)
        np.testing.assert_array_equal(moved[still], x[still])


@backends.cover(
    "backend",
    backends.FULL,
    cases=["uniform", "on the bounds", "cauchy"],
    p=[1.0, 1.3, 2.0, 3.0, math.inf],
    loop="cases",
)
def test_perturb_is_eps_away_from_x(backend, cases, p):
    for name in cases:
        x, delta, eps = problem(backend, name, p)
        moved = backend.numpy(
            fc.perturb(backend.tensor(x), backend.tensor(delta), backend.tensor(eps), p=p)
        )
        wanted = np.minimum(eps, reference.reachable_norm(x, delta, p))
        # besides what eta may miss, the sum x + eta * delta is rounded in each of the n coordinates
        n = math.prod(SHAPE[1:])
        rounding = reference.norm(np.full((len(x), n), np.finfo(backend.dtype).eps), p)
        allowed = tolerance(backend.dtype, p) * wanted + rounding
        assert np.all(np.abs(reference.norm(moved - x, p) - wanted) <= allowed)


@backends.cover("backend", backends.SINGLE, p=ORDERS)
def test_all_zero_direction_moves_nothing(backend, p):
    x = backend.tensor(reference.case("on the bounds", shape=(3, 7))[0])
    zero = backend.tensor(np.zeros((3, 7)))
    assert np.all(backend.numpy(fc.clipping_aware_rescaling(x, zero, 0.5, p=p)) == 0)
    assert np.all(backend.numpy(fc.reachable_norm(x, zero, p=p)) == 0)
    np.testing.assert_array_equal(backend.numpy(fc.perturb(x, zero, 0.5, p=p)), backend.numpy(x))


@backends.cover("backend", backends.SINGLE, p=ORDERS)
def test_direction_without_room_moves_nothing(backend, p):
    x = np.round(reference.case("uniform", shape=(3, 7))[0])
    outwards = backend.tensor(np.where(x > 0.5, 3.0, -0.1))
    x = backend.tensor(x)
    assert np.all(backend.numpy(fc.clipping_aware_rescaling(x, outwards, 0.5, p=p)) == 0)
    np.testing.assert_array_equal(
        backend.numpy(fc.perturb(x, outwards, 0.5, p=p)), backend.numpy(x)
    )


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 50.0, math.inf])
@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1e-40), ("float64", 1e-309)])
def test_a_subnormal_direction_has_its_eta(dtype, scale, p):
    x, v = np.full((1, 5), 0.5, dtype), np.array([[1, -0.7, 0.3, -0.2, 0.9]])
    v = (v * scale).astype(dtype)
    eta = fc.clipping_aware_rescaling(x, v, 1e-3, p=p)
    size = reference.measured_norm(eta, x, v, p)
    np.testing.assert_allclose(size, 1e-3, rtol={"float32": 1e-6, "float64": 1e-12}[dtype])


@pytest.mark.parametrize("backend", [*backends.SINGLE, "numpy-float64"], indirect=True)
def test_from_some_p_on_the_norm_is_the_maximum(backend):
    x, delta = reference.case("uniform", shape=(4, 30))
    x, delta = backend.tensor(x), backend.tensor(delta)
    found = fc.clipping_aware_rescaling(x, delta, 0.3, p=1e14)
    wanted = fc.clipping_aware_rescaling(x, delta, 0.3, p=math.inf)
    np.testing.assert_array_equal(backend.numpy(found), backend.numpy(wanted))


@backends.cover("backend", backends.SINGLE, p=ORDERS)
def test_unreachable_eps_ends_in_the_far_corner(backend, p):
    x, delta = (backend.rounded(part) for part in reference.case("uniform", shape=(3, 50)))
    moved = backend.numpy(fc.perturb(backend.tensor(x), backend.tensor(delta), 1e9, p=p))
    # eta is rounded: the last coordinate may stop a digit short of the bound
    np.testing.assert_allclose(moved, delta > 0, atol=2e-7)
    size = backend.numpy(fc.reachable_norm(backend.tensor(x), backend.tensor(delta), p=p))
    np.testing.assert_allclose(
        size, reference.reachable_norm(x, delta, p), rtol=tolerance("float32", p)
    )


@backends.cover("backend", backends.FULL, p=ORDERS)
def test_a_direction_without_room_does_not_hide_a_smaller_one(backend, p):
    # the largest entries decide nothing: the first has no room, the second little
    x = np.array([[1.0, 1.0 - 2.0**-10, 0.5]])
    for small in (1e-10, 1e-14):
        delta = backend.rounded(np.array([[1e25, 1e20, small]]))
        eta = backend.numpy(
            fc.clipping_aware_rescaling(backend.tensor(x), backend.tensor(delta), 0.25, p=p)
        )
        size = reference.measured_norm(eta, x, delta, p)
        np.testing.assert_allclose(size, 0.25, rtol=tolerance(backend.dtype, p))


@backends.cover("backend", backends.SINGLE, p=ORDERS)
def test_eta_beyond_the_dtype_is_cut_to_a_finite_number(backend, p):
    x, delta = backend.tensor([[0.5, 0.5]]), backend.tensor([[2e-38, 0.0]])
    eta = backend.numpy(fc.clipping_aware_rescaling(x, delta, 1e5, p=p, bounds=(-1e6, 1e6)))
    assert np.isfinite(eta).all()
    assert eta > 1e38


def test_half_precision_cuts_eta_to_its_largest_number_and_no_other():
    x, delta = np.full((2, 1), 0.5, np.float16), np.array([[1e-6], [1.0]], np.float16)
    eta = fc.clipping_aware_rescaling(x, delta, 0.25)
    assert eta.tolist() == [[65504.0], [0.25]]


# ratios of entries stay within float64, so that eta times an entry does not overflow
MAGNITUDES = st.one_of(st.just(0.0), st.floats(1e-60, 1e3), st.floats(0.1, 1.0))
SIGNED = st.builds(lambda magnitude, up: magnitude if up else -magnitude, MAGNITUDES, st.booleans())
BOXES = st.tuples(
    hnp.arrays(np.float64, (2, 9), elements=st.floats(0, 1)),
    hnp.arrays(np.float64, (2, 9), elements=SIGNED),
    st.floats(1e-6, 1.5),
    st.sampled_from(ORDERS),
)


def solvable(x, delta, fraction, p):
    """eps as a fraction of what is reachable; 0 where nothing can move."""
    return fraction * reference.reachable_norm(x, delta, p)


@given(BOXES)
def test_norm_is_exact_for_any_input(inputs):
    x, delta, fraction, p = inputs
    eps = solvable(x, delta, fraction, p)
    eta = fc.clipping_aware_rescaling(x, delta, eps, p=p)
    size = reference.measured_norm(eta, x, delta, p)
    wanted = np.minimum(eps, reference.reachable_norm(x, delta, p))
    np.testing.assert_allclose(size, wanted, rtol=tolerance("float64", p), atol=0)


@given(BOXES, st.floats(1e-30, 1e30))
def test_eta_is_inverse_to_the_scale_of_the_direction(inputs, scale):
    x, delta, fraction, p = inputs
    eps = solvable(x, delta, fraction, p)
    eta = fc.clipping_aware_rescaling(x, delta, eps, p=p)
    scaled = fc.clipping_aware_rescaling(x, delta * scale, eps, p=p)
    size = reference.measured_norm(scaled * scale, x, delta, p)
    np.testing.assert_allclose(
        size, reference.measured_norm(eta, x, delta, p), rtol=tolerance("float64", p)
    )


@given(BOXES, st.floats(0.0, 1.0))
def test_eta_grows_with_eps(inputs, share):
    x, delta, fraction, p = inputs
    eps = solvable(x, delta, fraction, p)
    more = fc.clipping_aware_rescaling(x, delta, eps, p=p)
    less = fc.clipping_aware_rescaling(x, delta, share * eps, p=p)
    assert np.all(less <= more * (1 + 1e-12))


@given(BOXES, st.permutations(range(9)))
def test_order_of_the_coordinates_does_not_matter(inputs, order):
    x, delta, fraction, p = inputs
    eps = solvable(x, delta, fraction, p)
    size = reference.measured_norm(fc.clipping_aware_rescaling(x, delta, eps, p=p), x, delta, p)
    eta = fc.clipping_aware_rescaling(x[:, order], delta[:, order], eps, p=p)
    np.testing.assert_allclose(
        reference.measured_norm(eta, x, delta, p), size, rtol=tolerance("float64", p)
    )


@given(BOXES)
def test_perturb_stays_in_the_box_for_any_input(inputs):
    x, delta, fraction, p = inputs
    moved = fc.perturb(x, delta, solvable(x, delta, fraction, p), p=p)
    assert np.all((moved >= 0) & (moved <= 1))
    assert np.all((moved - x) * delta >= 0)


@given(BOXES, st.floats(0.01, 100), st.floats(-10, 10))
def test_a_box_that_is_stretched_and_shifted_stretches_the_perturbation(inputs, scale, shift):
    x, delta, fraction, p = inputs
    eps = solvable(x, delta, fraction, p)
    eta = fc.clipping_aware_rescaling(x, delta, eps, p=p)
    other = x * scale + shift
    bounds = (shift, scale + shift)
    other = np.clip(other, *bounds)
    stretched = fc.clipping_aware_rescaling(other, delta * scale, eps * scale, p=p, bounds=bounds)
    # the shift rounds the room by this much per coordinate
    loss = reference.norm(np.full((2, 9), 1e-15 * (1 + abs(shift) / scale)), min(p, 1.0))
    before = reference.measured_norm(eta, x, delta, p)
    after = reference.measured_norm(stretched, x, delta, p)
    if p >= 1:
        assert np.all(np.abs(before - after) <= 1e-12 * before + 4 * loss)


@given(BOXES)
def test_samples_do_not_influence_each_other(inputs):
    x, delta, fraction, p = inputs
    eps = solvable(x, delta, fraction, p)
    together = fc.clipping_aware_rescaling(x, delta, eps, p=p)
    for i in range(2):
        alone = fc.clipping_aware_rescaling(x[i : i + 1], delta[i : i + 1], eps[i : i + 1], p=p)
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-14)
