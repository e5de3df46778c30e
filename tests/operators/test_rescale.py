"""clipping_aware_rescaling, perturb, reachable_norm: sizes, tensors, agreement."""

import itertools
import math

import eagerpy as ep
import numpy as np
import pytest

import foolbox_carescale as fc
from tests import backends, reference
from tests.exactness import assert_norm, tolerance
from tests.reference import CASES, FRACTIONS, HALF_CASES, ORDERS, SHAPE


def problem(backend, name, p, shape=SHAPE):
    """x, delta, eps as the dtype holds them: one sample for each fraction of what is reachable."""
    x, delta = (backend.rounded(part) for part in reference.case(name, shape=shape))
    eps = np.resize(FRACTIONS, shape[0]) * reference.reachable_norm(x, delta, p)
    return (
        x,
        delta,
        eps if backend.dtype == "float64" else eps.astype(np.float32).astype(np.float64),
    )


@backends.cover("backend", backends.FULL, cases=CASES, p=ORDERS, loop="cases")
def test_norm_after_the_clip_is_eps_or_all_that_is_reachable(backend, cases, p):
    for name in cases:
        x, delta, eps = problem(backend, name, p)
        eta = fc.clipping_aware_rescaling(
            backend.tensor(x), backend.tensor(delta), backend.tensor(eps), p=p
        )
        assert tuple(eta.shape) == (len(x), 1, 1, 1)
        assert_norm(backend, backend.numpy(eta), x, delta, eps, p)


@backends.cover("backend", backends.HALF, cases=HALF_CASES, p=ORDERS, loop="cases")
def test_half_precision_is_exact_up_to_the_rounding_of_eta(backend, cases, p):
    for name in cases:
        x, delta, eps = problem(backend, name, p)
        eta = fc.clipping_aware_rescaling(backend.tensor(x), backend.tensor(delta), eps, p=p)
        assert_norm(backend, backend.numpy(eta), x, delta, eps, p)


@backends.cover("backend", backends.FULL, p=ORDERS)
def test_norm_is_exact_for_samples_of_one_element(backend, p):
    x, delta, eps = problem(backend, "uniform", p, shape=(len(FRACTIONS),))
    eta = fc.clipping_aware_rescaling(
        backend.tensor(x), backend.tensor(delta), backend.tensor(eps), p=p
    )
    assert tuple(eta.shape) == (len(x),)
    assert_norm(backend, backend.numpy(eta), x, delta, eps, p)


@backends.cover("backend", backends.FULL, p=ORDERS)
def test_eta_agrees_with_a_float64_bisection(backend, p):
    x, delta, eps = problem(backend, "cauchy", p)
    eta = backend.numpy(
        fc.clipping_aware_rescaling(
            backend.tensor(x), backend.tensor(delta), backend.tensor(eps), p=p
        )
    )
    expected = reference.bisected_eta(x, delta, eps, p)
    # close to the reachable norm few coordinates still move: eta changes by far more than the norm
    well = ~np.isin(FRACTIONS, (0.9, 0.999999))
    np.testing.assert_allclose(eta.ravel()[well], expected[well], rtol=1e-6)


@pytest.mark.parametrize("backend", [*backends.SINGLE, "numpy-float64"], indirect=True)
def test_eta_agrees_with_foolbox(backend):
    from foolbox.external.clipping_aware_rescaling import l2_clipping_aware_rescaling

    x, delta = (backend.tensor(part) for part in reference.case("uniform", shape=(4, 3, 8, 8)))
    for eps in (0.3, 5.0, 100.0):
        theirs = backend.numpy(l2_clipping_aware_rescaling(x, delta, eps))
        ours = backend.numpy(fc.l2_clipping_aware_rescaling(x, delta, eps))
        # theirs cancels in float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-5 if backend.dtype == "float32" else 1e-12)


def test_official_signature_takes_the_bounds_by_position():
    x, delta = reference.case("uniform", shape=(4, 3, 8, 8))
    expected = fc.clipping_aware_rescaling(x * 255, delta, 300.0, bounds=(0.0, 255.0))
    np.testing.assert_array_equal(
        fc.l2_clipping_aware_rescaling(x * 255, delta, 300.0, 0.0, 255.0), expected
    )


@pytest.mark.parametrize("backend", ["numpy-float32", "torch-float32"], indirect=True)
def test_norm_is_exact_for_samples_of_a_million_elements(backend):
    x, delta, eps = problem(backend, "on the bounds", 2.0, shape=(2, 1_000_000))
    eps = np.array([50.0, 0.999999 * reference.reachable_norm(x, delta, 2.0)[1]])
    eta = fc.clipping_aware_rescaling(backend.tensor(x), backend.tensor(delta), eps)
    assert_norm(backend, backend.numpy(eta), x, delta, eps, 2.0)


# The same operator where values cannot be read, and another engine has to answer


def traced(framework):
    """Return one order of each kind, by day one; the engines' own tests have all."""
    more = [(f"{framework}-float32", p) for p in (0.5, 2.0, math.inf)]
    return backends.by_day([(f"{framework}-float64", 1.3)], more)


def all_cases(backend, p):
    """Return the samples of all cases as one batch."""
    problems = [problem(backend, name, p) for name in CASES]
    return (np.concatenate(part) for part in zip(*problems, strict=True))


@pytest.mark.parametrize(("backend", "p"), traced("jax"), indirect=["backend"])
def test_norm_is_exact_under_jit(backend, p):
    import jax

    solve = jax.jit(lambda x, d, e: fc.clipping_aware_rescaling(x, d, e, p=p))
    x, delta, eps = all_cases(backend, p)
    eta = backend.numpy(solve(backend.tensor(x), backend.tensor(delta), backend.tensor(eps)))
    assert_norm(backend, eta, x, delta, eps, p)


@pytest.mark.parametrize(("backend", "p"), traced("tensorflow"), indirect=["backend"])
def test_norm_is_exact_in_a_graph(backend, p):
    import tensorflow as tf

    solve = tf.function(lambda x, d, e: fc.clipping_aware_rescaling(x, d, e, p=p))
    x, delta, eps = all_cases(backend, p)
    eta = backend.numpy(solve(backend.tensor(x), backend.tensor(delta), backend.tensor(eps)))
    assert_norm(backend, eta, x, delta, eps, p)


# Arguments


@pytest.mark.parametrize("backend", backends.SINGLE, indirect=True)
def test_eps_may_be_per_sample_in_any_container(backend):
    x, delta = (backend.tensor(part) for part in reference.case("uniform", shape=(3, 2, 8)))
    each = [0.1, 0.0, 1.5]
    expected = [
        backend.numpy(fc.clipping_aware_rescaling(x[i : i + 1], delta[i : i + 1], eps))[0]
        for i, eps in enumerate(each)
    ]
    for eps in (each, tuple(each), np.array(each), np.float32(each), backend.tensor(each)):
        eta = fc.clipping_aware_rescaling(x, delta, eps)
        np.testing.assert_allclose(backend.numpy(eta), expected, rtol=1e-6)


@pytest.mark.parametrize("backend", backends.SINGLE, indirect=True)
def test_eps_may_be_a_scalar_of_any_kind(backend):
    x, delta = (backend.tensor(part) for part in reference.case("uniform", shape=(3, 2, 8)))
    expected = backend.numpy(fc.clipping_aware_rescaling(x, delta, 2.0))
    for eps in (
        2,
        np.float32(2),
        np.float64(2),
        np.array(2.0),
        backend.tensor(2.0),
        backend.tensor([2.0]),
    ):
        np.testing.assert_array_equal(
            backend.numpy(fc.clipping_aware_rescaling(x, delta, eps)), expected
        )
    assert backend.numpy(fc.perturb(x, delta, backend.tensor(2.0))).shape == (3, 2, 8)


# for bounds that are arrays each kind of order is compiled once more
@pytest.mark.parametrize(
    ("backend", "p"),
    backends.by_day(
        [
            *((name, 2.0) for name in backends.SINGLE),
            *((backends.DOUBLE[0], p) for p in (1.0, math.inf)),
        ],
        backends.covering(backends.SINGLE, [1.0, 2.0, math.inf]),
    ),
    indirect=["backend"],
)
def test_bounds_may_differ_by_channel(backend, p):
    x, delta = reference.case("uniform", shape=(4, 3, 5, 5))
    lower = np.array([-1.0, 0.0, 2.0]).reshape(1, 3, 1, 1)
    upper = np.array([1.0, 0.5, 4.0]).reshape(1, 3, 1, 1)
    x, lower, upper = (
        backend.rounded(lower + x * (upper - lower)),
        backend.rounded(lower),
        backend.rounded(upper),
    )
    x, delta = np.clip(x, lower, upper), backend.rounded(delta)
    eps = 0.4 * reference.reachable_norm(x, delta, p, lower, upper)
    ways = [
        (backend.tensor(lower), backend.tensor(upper)),
        (backend.tensor(lower[0]), backend.tensor(upper[0])),
        (lower, upper),
        (
            backend.tensor(np.broadcast_to(lower, x.shape)),
            backend.tensor(np.broadcast_to(upper, x.shape)),
        ),
    ]
    for bounds in ways:
        eta = backend.numpy(
            fc.clipping_aware_rescaling(
                backend.tensor(x), backend.tensor(delta), eps, p=p, bounds=bounds
            )
        )
        size = reference.measured_norm(eta, x, delta, p, lower, upper)
        np.testing.assert_allclose(size, eps, rtol=1e-6)
        moved = backend.numpy(
            fc.perturb(backend.tensor(x), backend.tensor(delta), eps, p=p, bounds=bounds)
        )
        assert np.all((moved >= lower) & (moved <= upper))


@pytest.mark.parametrize("backend", backends.SINGLE, indirect=True)
def test_one_bound_may_be_a_number_and_the_other_a_tensor(backend):
    x, delta = (backend.tensor(part) for part in reference.case("uniform", shape=(4, 3, 5)))
    upper = backend.tensor(np.full((1, 3, 1), 1.0))
    mixed = fc.clipping_aware_rescaling(x, delta, 2.0, bounds=(0.0, upper))
    plain = fc.clipping_aware_rescaling(x, delta, 2.0)
    np.testing.assert_array_equal(backend.numpy(mixed), backend.numpy(plain))


@backends.cover(
    "backend",
    backends.SINGLE,
    all_bounds=[(-1.0, 1.0), (0, 255), (-3.5, -2.25)],
    p=ORDERS,
    loop="all_bounds",
)
def test_norm_is_exact_in_other_bounds(backend, all_bounds, p):
    for lower, upper in all_bounds:
        x, delta = reference.case("on the bounds", shape=(4, 3, 5, 5))
        x, delta = backend.rounded(lower + x * (upper - lower)), backend.rounded(delta)
        eps = 0.4 * reference.reachable_norm(x, delta, p, lower, upper)
        eta = backend.numpy(
            fc.clipping_aware_rescaling(
                backend.tensor(x), backend.tensor(delta), eps, p=p, bounds=(lower, upper)
            )
        )
        size = reference.measured_norm(eta, x, delta, p, lower, upper)
        np.testing.assert_allclose(size, eps, rtol=tolerance(backend.dtype, p))


@backends.cover("backend", backends.SINGLE, dimensions=[1, 2, 3, 4, 5])
def test_any_number_of_dimensions_is_the_same_as_flat(backend, dimensions):
    shape = (4, 2, 3, 2, 2)[:dimensions]
    x, delta = reference.case("uniform", shape=shape)
    flat_x, flat_delta = x.reshape(4, -1), delta.reshape(4, -1)
    x, delta, flat_x, flat_delta = (backend.tensor(t) for t in (x, delta, flat_x, flat_delta))
    eta = fc.clipping_aware_rescaling(x, delta, 0.7)
    assert tuple(eta.shape) == (4, *(1,) * (dimensions - 1))
    np.testing.assert_array_equal(
        backend.numpy(eta).ravel(),
        backend.numpy(fc.clipping_aware_rescaling(flat_x, flat_delta, 0.7)).ravel(),
    )
    moved = fc.perturb(x, delta, 0.7)
    assert tuple(moved.shape) == shape
    np.testing.assert_array_equal(
        backend.numpy(moved).ravel(), backend.numpy(fc.perturb(flat_x, flat_delta, 0.7)).ravel()
    )
    assert tuple(fc.reachable_norm(x, delta).shape) == (4,)


@pytest.mark.parametrize("backend", ["numpy-float32", "torch-float32"], indirect=True)
def test_memory_layout_does_not_matter(backend):
    x, delta = (backend.tensor(part) for part in reference.case("uniform", shape=(8, 6, 10)))
    compact = [backend.tensor(backend.numpy(t[::2, :, 1::3])) for t in (x, delta)]
    expected = backend.numpy(fc.perturb(*compact, 0.7))
    np.testing.assert_array_equal(
        backend.numpy(fc.perturb(x[::2, :, 1::3], delta[::2, :, 1::3], 0.7)), expected
    )
    # mixed: one contiguous, one not
    np.testing.assert_array_equal(
        backend.numpy(fc.perturb(compact[0], delta[::2, :, 1::3], 0.7)), expected
    )
    turned = [t.T if backend.framework == "numpy" else t.permute(2, 1, 0) for t in compact]
    back = (
        fc.perturb(turned[0].T, turned[1].T, 0.7)
        if backend.framework == "numpy"
        else fc.perturb(turned[0].permute(2, 1, 0), turned[1].permute(2, 1, 0), 0.7)
    )
    np.testing.assert_array_equal(backend.numpy(back), expected)


def test_negative_strides_and_read_only_arrays_are_fine():
    x, delta = reference.case("uniform", shape=(4, 6))
    expected = fc.perturb(x[::-1].copy(), delta[::-1].copy(), 0.7)
    x.flags.writeable = delta.flags.writeable = False
    np.testing.assert_array_equal(fc.perturb(x[::-1], delta[::-1], 0.7), expected)


@backends.cover("backend", backends.SINGLE, shape=[(0, 3, 4, 4), (0,), (3, 0, 2), (0, 0)])
def test_empty_batches_and_samples_give_empty_or_zero_results(backend, shape):
    x = delta = backend.tensor(np.zeros(shape))
    eta = fc.clipping_aware_rescaling(x, delta, 0.5)
    assert tuple(eta.shape) == (shape[0], *(1,) * (len(shape) - 1))
    assert np.all(backend.numpy(eta) == 0)
    assert tuple(fc.reachable_norm(x, delta).shape) == shape[:1]
    bound = backend.tensor(np.ones((1,) * len(shape)))
    eps = backend.tensor(np.full(shape[:1], 0.5))
    for operator in (fc.perturb, fc.project, fc.steepest_step):
        for p, upper in ((1.0, 1.0), (2.0, bound), (math.inf, 1.0)):
            result = operator(x, delta, eps, p=p, bounds=(0, upper))
            assert tuple(result.shape) == shape
            assert backend.dtype_of(result) == backend.dtype


OPERATORS = {
    "clipping_aware_rescaling": fc.clipping_aware_rescaling,
    "perturb": fc.perturb,
    "reachable_norm": lambda x, delta, eps, **kw: fc.reachable_norm(x, delta, **kw),
    "project": lambda x, delta, eps, **kw: fc.project(x + delta, x, eps, **kw),
    "steepest_step": fc.steepest_step,
}


@pytest.mark.parametrize("backend", backends.FULL + backends.HALF, indirect=True)
def test_type_and_dtype_come_back_and_inputs_stay(backend):
    values = reference.case("uniform", shape=(3, 2, 5))
    x, delta = (backend.tensor(part) for part in values)
    before = [backend.numpy(t).copy() for t in (x, delta)]
    for operator, p in itertools.product(OPERATORS.values(), [1.0, 1.3, 2.0, math.inf]):
        result = operator(x, delta, 0.5, p=p)
        assert backend.is_own(result)
        assert backend.dtype_of(result) == backend.dtype
    for t, values in zip((x, delta), before, strict=True):
        np.testing.assert_array_equal(backend.numpy(t), values)


@pytest.mark.parametrize("backend", backends.SINGLE, indirect=True)
def test_wrapped_in_gives_wrapped_out(backend):
    x, delta = (backend.tensor(part) for part in reference.case("uniform", shape=(3, 2, 5)))
    for operator in OPERATORS.values():
        raw = operator(x, delta, 0.5)
        wrapped = operator(ep.astensor(x), ep.astensor(delta), 0.5)
        assert isinstance(wrapped, ep.Tensor)
        np.testing.assert_array_equal(backend.numpy(wrapped.raw), backend.numpy(raw))


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


@pytest.mark.parametrize("backend", backends.SINGLE, indirect=True)
def test_delta_of_another_precision_is_brought_to_that_of_x(backend):
    x, delta = reference.case("uniform", shape=(3, 2, 5))
    with backends.make(f"{backend.framework}-float16") as half:
        narrow = half.tensor(delta)
        wide = backend.tensor(half.numpy(narrow))
    np.testing.assert_array_equal(
        backend.numpy(fc.perturb(backend.tensor(x), narrow, 0.5)),
        backend.numpy(fc.perturb(backend.tensor(x), wide, 0.5)),
    )
