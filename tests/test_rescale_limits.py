"""The operator where rounding, bounds and dtype end, and what holds for any input."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import foolbox_carescale as fc
from tests import kits, reference
from tests.exactness import tolerance
from tests.reference import CASES, ORDERS, SHAPE
from tests.test_rescale import problem


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_rounding_excess_is_forgiven_and_removed(kit, p):
    x, delta = reference.case("uniform", shape=(2, 12))
    x[:, :3], x[:, 3:6] = -2.98e-8, 1.0 + 1.2e-7
    moved = kit.numpy(fc.perturb(kit.tensor(x), kit.tensor(delta), 0.4, p=p))
    assert moved.min() >= 0.0
    assert moved.max() <= 1.0
    eta = kit.numpy(fc.clipping_aware_rescaling(kit.tensor(x), kit.tensor(delta), 0.4, p=p))
    size = reference.realised_norm(eta, np.clip(kit.rounded(x), 0, 1), kit.rounded(delta), p)
    # the excess itself, 1e-7 in six coordinates, is not part of the problem
    np.testing.assert_allclose(size, 0.4, rtol=tolerance("float32", p) + 1e-6)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_a_point_beyond_its_bound_has_no_room_rather_than_less_than_none(kit, p):
    x, up = kit.tensor(np.full((2, 5), 1.0 + 1.2e-7)), kit.tensor(np.ones((2, 5)))
    assert np.all(kit.numpy(fc.reachable_norm(x, up, p=p)) == 0)
    assert np.all(kit.numpy(fc.clipping_aware_rescaling(x, up, 0.1, p=p)) == 0)


@pytest.mark.parametrize(
    ("kit", "name", "p"), kits.covering(kits.SINGLE, CASES, ORDERS), indirect=["kit"]
)
def test_perturb_stays_inside_the_box_exactly(kit, name, p):
    x, delta, eps = problem(kit, name, p, shape=(6, 40))
    moved = kit.numpy(fc.perturb(kit.tensor(x), kit.tensor(delta), kit.tensor(eps), p=p))
    assert moved.min() >= 0.0
    assert moved.max() <= 1.0
    still = (delta == 0) | (reference.room(x, delta).reshape(x.shape) == 0)
    np.testing.assert_array_equal(moved[still], x[still])


@pytest.mark.parametrize(
    ("kit", "p", "name"),
    kits.covering(
        kits.FULL, [1.0, 1.3, 2.0, 3.0, math.inf], ["uniform", "on the bounds", "cauchy"]
    ),
    indirect=["kit"],
)
def test_perturb_is_eps_away_from_x(kit, name, p):
    x, delta, eps = problem(kit, name, p)
    moved = kit.numpy(fc.perturb(kit.tensor(x), kit.tensor(delta), kit.tensor(eps), p=p))
    wanted = np.minimum(eps, reference.reachable_norm(x, delta, p))
    # besides what eta may miss, the sum x + eta * delta is rounded in each of the n coordinates
    n = math.prod(SHAPE[1:])
    rounding = reference.norm(np.full((len(x), n), np.finfo(kit.dtype).eps), p)
    allowed = tolerance(kit.dtype, p) * wanted + rounding
    assert np.all(np.abs(reference.norm(moved - x, p) - wanted) <= allowed)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_all_zero_direction_moves_nothing(kit, p):
    x = kit.tensor(reference.case("on the bounds", shape=(3, 7))[0])
    zero = kit.tensor(np.zeros((3, 7)))
    assert np.all(kit.numpy(fc.clipping_aware_rescaling(x, zero, 0.5, p=p)) == 0)
    assert np.all(kit.numpy(fc.reachable_norm(x, zero, p=p)) == 0)
    np.testing.assert_array_equal(kit.numpy(fc.perturb(x, zero, 0.5, p=p)), kit.numpy(x))


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_direction_without_room_moves_nothing(kit, p):
    x = np.round(reference.case("uniform", shape=(3, 7))[0])
    outwards = kit.tensor(np.where(x > 0.5, 3.0, -0.1))
    x = kit.tensor(x)
    assert np.all(kit.numpy(fc.clipping_aware_rescaling(x, outwards, 0.5, p=p)) == 0)
    np.testing.assert_array_equal(kit.numpy(fc.perturb(x, outwards, 0.5, p=p)), kit.numpy(x))


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_unreachable_eps_ends_in_the_far_corner(kit, p):
    x, delta = (kit.rounded(part) for part in reference.case("uniform", shape=(3, 50)))
    moved = kit.numpy(fc.perturb(kit.tensor(x), kit.tensor(delta), 1e9, p=p))
    # eta is rounded: the last coordinate may stop a digit short of the bound
    np.testing.assert_allclose(moved, delta > 0, atol=2e-7)
    size = kit.numpy(fc.reachable_norm(kit.tensor(x), kit.tensor(delta), p=p))
    np.testing.assert_allclose(
        size, reference.reachable_norm(x, delta, p), rtol=tolerance("float32", p)
    )


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("kit", kits.FULL, indirect=True)
def test_a_direction_without_room_does_not_hide_a_smaller_one(kit, p):
    # the largest entries decide nothing: the first has no room, the second little
    x = np.array([[1.0, 1.0 - 2.0**-10, 0.5]])
    for small in (1e-10, 1e-14):
        delta = kit.rounded(np.array([[1e25, 1e20, small]]))
        eta = kit.numpy(fc.clipping_aware_rescaling(kit.tensor(x), kit.tensor(delta), 0.25, p=p))
        size = reference.realised_norm(eta, x, delta, p)
        np.testing.assert_allclose(size, 0.25, rtol=tolerance(kit.dtype, p))


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_eta_beyond_the_dtype_is_cut_to_a_finite_number(kit, p):
    x, delta = kit.tensor([[0.5, 0.5]]), kit.tensor([[2e-38, 0.0]])
    eta = kit.numpy(fc.clipping_aware_rescaling(x, delta, 1e5, p=p, bounds=(-1e6, 1e6)))
    assert np.isfinite(eta).all()
    assert eta > 1e38


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
    size = reference.realised_norm(eta, x, delta, p)
    wanted = np.minimum(eps, reference.reachable_norm(x, delta, p))
    np.testing.assert_allclose(size, wanted, rtol=tolerance("float64", p), atol=0)


@given(BOXES, st.floats(1e-30, 1e30))
def test_eta_is_inverse_to_the_scale_of_the_direction(inputs, scale):
    x, delta, fraction, p = inputs
    eps = solvable(x, delta, fraction, p)
    eta = fc.clipping_aware_rescaling(x, delta, eps, p=p)
    scaled = fc.clipping_aware_rescaling(x, delta * scale, eps, p=p)
    size = reference.realised_norm(scaled * scale, x, delta, p)
    np.testing.assert_allclose(
        size, reference.realised_norm(eta, x, delta, p), rtol=tolerance("float64", p)
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
    size = reference.realised_norm(fc.clipping_aware_rescaling(x, delta, eps, p=p), x, delta, p)
    eta = fc.clipping_aware_rescaling(x[:, order], delta[:, order], eps, p=p)
    np.testing.assert_allclose(
        reference.realised_norm(eta, x, delta, p), size, rtol=tolerance("float64", p)
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
    before = reference.realised_norm(eta, x, delta, p)
    after = reference.realised_norm(stretched, x, delta, p)
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
