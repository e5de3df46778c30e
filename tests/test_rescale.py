"""clipping_aware_rescaling, perturb, reachable_norm: sizes, edges, tensors, agreement."""

import math

import eagerpy as ep
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import foolbox_carescale as fc
from tests import kits, reference
from tests.exactness import assert_size, tolerance
from tests.reference import CASES, FRACTIONS, HALF_CASES, ORDERS, SHAPE


def problem(kit, name, p, shape=SHAPE):
    """x, delta, eps as the dtype holds them: one sample for each fraction of what is reachable."""
    x, delta = (kit.rounded(part) for part in reference.case(name, shape=shape))
    eps = np.resize(FRACTIONS, shape[0]) * reference.reachable_norm(x, delta, p)
    return x, delta, eps if kit.dtype == "float64" else eps.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kit", kits.FULL, indirect=True)
def test_norm_after_the_clip_is_eps_or_all_that_is_reachable(kit, name, p):
    x, delta, eps = problem(kit, name, p)
    eta = fc.clipping_aware_rescaling(kit.tensor(x), kit.tensor(delta), kit.tensor(eps), p=p)
    assert tuple(eta.shape) == (len(x), 1, 1, 1)
    assert_size(kit, kit.numpy(eta), x, delta, eps, p)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("name", HALF_CASES)
@pytest.mark.parametrize("kit", kits.HALF, indirect=True)
def test_half_precision_is_exact_up_to_the_rounding_of_eta(kit, name, p):
    x, delta, eps = problem(kit, name, p)
    eta = fc.clipping_aware_rescaling(kit.tensor(x), kit.tensor(delta), eps, p=p)
    assert_size(kit, kit.numpy(eta), x, delta, eps, p)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("kit", kits.FULL, indirect=True)
def test_norm_is_exact_for_samples_of_one_element(kit, p):
    x, delta, eps = problem(kit, "uniform", p, shape=(len(FRACTIONS),))
    eta = fc.clipping_aware_rescaling(kit.tensor(x), kit.tensor(delta), kit.tensor(eps), p=p)
    assert tuple(eta.shape) == (len(x),)
    assert_size(kit, kit.numpy(eta), x, delta, eps, p)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("kit", kits.FULL, indirect=True)
def test_eta_agrees_with_a_float64_bisection(kit, p):
    x, delta, eps = problem(kit, "cauchy", p)
    eta = kit.numpy(
        fc.clipping_aware_rescaling(kit.tensor(x), kit.tensor(delta), kit.tensor(eps), p=p)
    )
    expected = reference.bisected_eta(x, delta, eps, p)
    # close to the reachable norm few coordinates still move: eta changes by far more than the norm
    well = ~np.isin(FRACTIONS, (0.9, 0.999999))
    np.testing.assert_allclose(eta.ravel()[well], expected[well], rtol=1e-6)


@pytest.mark.parametrize("kit", [*kits.SINGLE, "numpy-float64"], indirect=True)
def test_eta_agrees_with_foolbox(kit):
    from foolbox.external.clipping_aware_rescaling import l2_clipping_aware_rescaling

    x, delta = (kit.tensor(part) for part in reference.case("uniform", shape=(4, 3, 8, 8)))
    for eps in (0.3, 5.0, 100.0):
        theirs = kit.numpy(l2_clipping_aware_rescaling(x, delta, eps))
        ours = kit.numpy(fc.l2_clipping_aware_rescaling(x, delta, eps))
        # theirs cancels in float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-5 if kit.dtype == "float32" else 1e-12)


def test_official_signature_takes_the_bounds_by_position():
    x, delta = reference.case("uniform", shape=(4, 3, 8, 8))
    expected = fc.clipping_aware_rescaling(x * 255, delta, 300.0, bounds=(0.0, 255.0))
    np.testing.assert_array_equal(
        fc.l2_clipping_aware_rescaling(x * 255, delta, 300.0, 0.0, 255.0), expected
    )


@pytest.mark.parametrize("kit", ["numpy-float32", "torch-float32"], indirect=True)
def test_norm_is_exact_for_samples_of_a_million_elements(kit):
    x, delta, eps = problem(kit, "on the bounds", 2.0, shape=(2, 1_000_000))
    eps = np.array([50.0, 0.999999 * reference.reachable_norm(x, delta, 2.0)[1]])
    eta = fc.clipping_aware_rescaling(kit.tensor(x), kit.tensor(delta), eps)
    assert_size(kit, kit.numpy(eta), x, delta, eps, 2.0)


# The same operator where values cannot be read, and another engine has to answer


def traced(framework):
    """Every order in float32; in float64, where the same program runs, a few."""
    return [(f"{framework}-float32", p) for p in ORDERS] + [
        (f"{framework}-float64", p) for p in (0.5, 2.0, math.inf)
    ]


@pytest.mark.parametrize(("kit", "p"), traced("jax"), indirect=["kit"])
def test_norm_is_exact_under_jit(kit, p):
    import jax

    solve = jax.jit(lambda x, d, e: fc.clipping_aware_rescaling(x, d, e, p=p))
    for name in CASES:
        x, delta, eps = problem(kit, name, p)
        eta = kit.numpy(solve(kit.tensor(x), kit.tensor(delta), kit.tensor(eps)))
        assert_size(kit, eta, x, delta, eps, p)


@pytest.mark.parametrize(("kit", "p"), traced("tensorflow"), indirect=["kit"])
def test_norm_is_exact_in_a_graph(kit, p):
    import tensorflow as tf

    solve = tf.function(lambda x, d, e: fc.clipping_aware_rescaling(x, d, e, p=p))
    for name in CASES:
        x, delta, eps = problem(kit, name, p)
        eta = kit.numpy(solve(kit.tensor(x), kit.tensor(delta), kit.tensor(eps)))
        assert_size(kit, eta, x, delta, eps, p)


# Arguments


@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_eps_may_be_per_sample_in_any_container(kit):
    x, delta = (kit.tensor(part) for part in reference.case("uniform", shape=(3, 2, 8)))
    each = [0.1, 0.0, 1.5]
    expected = [
        kit.numpy(fc.clipping_aware_rescaling(x[i : i + 1], delta[i : i + 1], eps))[0]
        for i, eps in enumerate(each)
    ]
    for eps in (each, tuple(each), np.array(each), np.float32(each), kit.tensor(each)):
        eta = fc.clipping_aware_rescaling(x, delta, eps)
        np.testing.assert_allclose(kit.numpy(eta), expected, rtol=1e-6)


@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_eps_may_be_a_scalar_of_any_kind(kit):
    x, delta = (kit.tensor(part) for part in reference.case("uniform", shape=(3, 2, 8)))
    expected = kit.numpy(fc.clipping_aware_rescaling(x, delta, 2.0))
    for eps in (2, np.float32(2), np.float64(2), np.array(2.0), kit.tensor(2.0), kit.tensor([2.0])):
        np.testing.assert_array_equal(
            kit.numpy(fc.clipping_aware_rescaling(x, delta, eps)), expected
        )
    assert kit.numpy(fc.perturb(x, delta, kit.tensor(2.0))).shape == (3, 2, 8)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_bounds_may_differ_by_channel(kit, p):
    x, delta = reference.case("uniform", shape=(4, 3, 5, 5))
    lower = np.array([-1.0, 0.0, 2.0]).reshape(1, 3, 1, 1)
    upper = np.array([1.0, 0.5, 4.0]).reshape(1, 3, 1, 1)
    x, lower, upper = (
        kit.rounded(lower + x * (upper - lower)),
        kit.rounded(lower),
        kit.rounded(upper),
    )
    x, delta = np.clip(x, lower, upper), kit.rounded(delta)
    eps = 0.4 * reference.reachable_norm(x, delta, p, lower, upper)
    ways = [
        (kit.tensor(lower), kit.tensor(upper)),
        (kit.tensor(lower[0]), kit.tensor(upper[0])),
        (lower, upper),
        (kit.tensor(np.broadcast_to(lower, x.shape)), kit.tensor(np.broadcast_to(upper, x.shape))),
    ]
    for bounds in ways:
        eta = kit.numpy(
            fc.clipping_aware_rescaling(kit.tensor(x), kit.tensor(delta), eps, p=p, bounds=bounds)
        )
        size = reference.realised_norm(eta, x, delta, p, lower, upper)
        np.testing.assert_allclose(size, eps, rtol=1e-6)
        moved = kit.numpy(fc.perturb(kit.tensor(x), kit.tensor(delta), eps, p=p, bounds=bounds))
        assert np.all((moved >= lower) & (moved <= upper))


@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_one_bound_may_be_a_number_and_the_other_a_tensor(kit):
    x, delta = (kit.tensor(part) for part in reference.case("uniform", shape=(4, 3, 5)))
    upper = kit.tensor(np.full((1, 3, 1), 1.0))
    mixed = fc.clipping_aware_rescaling(x, delta, 2.0, bounds=(0.0, upper))
    plain = fc.clipping_aware_rescaling(x, delta, 2.0)
    np.testing.assert_array_equal(kit.numpy(mixed), kit.numpy(plain))


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0, 255), (-3.5, -2.25)])
@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_norm_is_exact_in_other_bounds(kit, bounds, p):
    lower, upper = bounds
    x, delta = reference.case("on the bounds", shape=(4, 3, 5, 5))
    x, delta = kit.rounded(lower + x * (upper - lower)), kit.rounded(delta)
    eps = 0.4 * reference.reachable_norm(x, delta, p, lower, upper)
    eta = kit.numpy(
        fc.clipping_aware_rescaling(kit.tensor(x), kit.tensor(delta), eps, p=p, bounds=bounds)
    )
    size = reference.realised_norm(eta, x, delta, p, lower, upper)
    np.testing.assert_allclose(size, eps, rtol=tolerance(kit.dtype, p))


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_any_number_of_dimensions_is_the_same_as_flat(kit, dimensions):
    shape = (4, 2, 3, 2, 2)[:dimensions]
    x, delta = reference.case("uniform", shape=shape)
    flat_x, flat_delta = x.reshape(4, -1), delta.reshape(4, -1)
    x, delta, flat_x, flat_delta = (kit.tensor(t) for t in (x, delta, flat_x, flat_delta))
    eta = fc.clipping_aware_rescaling(x, delta, 0.7)
    assert tuple(eta.shape) == (4, *(1,) * (dimensions - 1))
    np.testing.assert_array_equal(
        kit.numpy(eta).ravel(),
        kit.numpy(fc.clipping_aware_rescaling(flat_x, flat_delta, 0.7)).ravel(),
    )
    moved = fc.perturb(x, delta, 0.7)
    assert tuple(moved.shape) == shape
    np.testing.assert_array_equal(
        kit.numpy(moved).ravel(), kit.numpy(fc.perturb(flat_x, flat_delta, 0.7)).ravel()
    )
    assert tuple(fc.reachable_norm(x, delta).shape) == (4,)


@pytest.mark.parametrize("kit", ["numpy-float32", "torch-float32"], indirect=True)
def test_memory_layout_does_not_matter(kit):
    x, delta = (kit.tensor(part) for part in reference.case("uniform", shape=(8, 6, 10)))
    compact = [kit.tensor(kit.numpy(t[::2, :, 1::3])) for t in (x, delta)]
    expected = kit.numpy(fc.perturb(*compact, 0.7))
    np.testing.assert_array_equal(
        kit.numpy(fc.perturb(x[::2, :, 1::3], delta[::2, :, 1::3], 0.7)), expected
    )
    # mixed: one contiguous, one not
    np.testing.assert_array_equal(
        kit.numpy(fc.perturb(compact[0], delta[::2, :, 1::3], 0.7)), expected
    )
    turned = [t.T if kit.framework == "numpy" else t.permute(2, 1, 0) for t in compact]
    back = (
        fc.perturb(turned[0].T, turned[1].T, 0.7)
        if kit.framework == "numpy"
        else fc.perturb(turned[0].permute(2, 1, 0), turned[1].permute(2, 1, 0), 0.7)
    )
    np.testing.assert_array_equal(kit.numpy(back), expected)


def test_negative_strides_and_read_only_arrays_are_fine():
    x, delta = reference.case("uniform", shape=(4, 6))
    expected = fc.perturb(x[::-1].copy(), delta[::-1].copy(), 0.7)
    x.flags.writeable = delta.flags.writeable = False
    np.testing.assert_array_equal(fc.perturb(x[::-1], delta[::-1], 0.7), expected)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (0,), (3, 0, 2), (0, 0)])
@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_empty_batches_and_samples_give_empty_or_zero_results(kit, shape):
    x = delta = kit.tensor(np.zeros(shape))
    eta = fc.clipping_aware_rescaling(x, delta, 0.5)
    assert tuple(eta.shape) == (shape[0], *(1,) * (len(shape) - 1))
    assert np.all(kit.numpy(eta) == 0)
    assert tuple(fc.reachable_norm(x, delta).shape) == shape[:1]
    bound = kit.tensor(np.ones((1,) * len(shape)))
    for operator in (fc.perturb, fc.project, fc.steepest_step):
        for p in (1.0, 2.0, math.inf):
            result = operator(x, delta, kit.tensor(np.full(shape[:1], 0.5)), p=p, bounds=(0, bound))
            assert tuple(result.shape) == shape
            assert kit.dtype_of(result) == kit.dtype


OPERATORS = {
    "clipping_aware_rescaling": fc.clipping_aware_rescaling,
    "perturb": fc.perturb,
    "reachable_norm": lambda x, delta, eps, **kw: fc.reachable_norm(x, delta, **kw),
    "project": lambda x, delta, eps, **kw: fc.project(x + delta, x, eps, **kw),
    "steepest_step": fc.steepest_step,
}


@pytest.mark.parametrize("p", [1.0, 1.3, 2.0, math.inf])
@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("kit", kits.FULL + kits.HALF, indirect=True)
def test_type_and_dtype_come_back_and_inputs_stay(kit, operator, p):
    values = reference.case("uniform", shape=(3, 2, 5))
    x, delta = (kit.tensor(part) for part in values)
    before = [kit.numpy(t).copy() for t in (x, delta)]
    result = operator(x, delta, 0.5, p=p)
    assert kit.is_own(result)
    assert kit.dtype_of(result) == kit.dtype
    for t, values in zip((x, delta), before, strict=True):
        np.testing.assert_array_equal(kit.numpy(t), values)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_wrapped_in_gives_wrapped_out(kit, operator):
    x, delta = (kit.tensor(part) for part in reference.case("uniform", shape=(3, 2, 5)))
    raw = operator(x, delta, 0.5)
    wrapped = operator(ep.astensor(x), ep.astensor(delta), 0.5)
    assert isinstance(wrapped, ep.Tensor)
    np.testing.assert_array_equal(kit.numpy(wrapped.raw), kit.numpy(raw))


def test_torch_parameters_and_subclasses_are_tensors():
    import torch
    from torchvision import tv_tensors

    x, delta = (torch.tensor(part) for part in reference.case("uniform", shape=(2, 3, 4, 4)))
    expected = fc.perturb(x, delta, 0.5)
    assert torch.equal(fc.perturb(tv_tensors.Image(x), delta, 0.5), expected)
    moved = fc.perturb(x, torch.nn.Parameter(delta), 0.5)
    torch.testing.assert_close(moved.detach(), expected, rtol=1e-15, atol=1e-15)


def test_tensorflow_variables_are_tensors():
    import tensorflow as tf

    x, delta = reference.case("uniform", shape=(2, 3, 4))
    moved = fc.perturb(
        tf.Variable(x), tf.Variable(delta), tf.Variable([0.5, 0.2], dtype=tf.float64)
    )
    np.testing.assert_allclose(moved.numpy(), fc.perturb(x, delta, [0.5, 0.2]), rtol=1e-15)


@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_delta_of_another_precision_is_brought_to_that_of_x(kit):
    x, delta = reference.case("uniform", shape=(3, 2, 5))
    with kits.make(f"{kit.framework}-float16") as half:
        narrow = half.tensor(delta)
        wide = kit.tensor(half.numpy(narrow))
    np.testing.assert_array_equal(
        kit.numpy(fc.perturb(kit.tensor(x), narrow, 0.5)),
        kit.numpy(fc.perturb(kit.tensor(x), wide, 0.5)),
    )


# Edges


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


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kit", kits.SINGLE, indirect=True)
def test_perturb_stays_inside_the_box_exactly(kit, name, p):
    x, delta, eps = problem(kit, name, p, shape=(6, 40))
    moved = kit.numpy(fc.perturb(kit.tensor(x), kit.tensor(delta), kit.tensor(eps), p=p))
    assert moved.min() >= 0.0
    assert moved.max() <= 1.0
    still = (delta == 0) | (reference.room(x, delta).reshape(x.shape) == 0)
    np.testing.assert_array_equal(moved[still], x[still])


@pytest.mark.parametrize("p", [1.0, 1.3, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("name", ["uniform", "on the bounds", "cauchy"])
@pytest.mark.parametrize("kit", kits.FULL, indirect=True)
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


# Properties

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
