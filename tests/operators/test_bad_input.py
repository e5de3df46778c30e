"""Every documented ValueError names the argument, the value that it got, and what to do."""

import math
import re

import eagerpy as ep
import numpy as np
import pytest

import foolbox_carescale as fc
from tests import backends, reference

X, DELTA = (part.astype(np.float32) for part in reference.case("uniform", shape=(3, 4, 5)))

# every operator that takes (points, directions, eps), and what it calls the first two
TWO_TENSORS = {
    "clipping_aware_rescaling": (fc.clipping_aware_rescaling, "x", "delta"),
    "perturb": (fc.perturb, "x", "delta"),
    "project": (lambda x, v, eps, **kw: fc.project(v, x, eps, **kw), "x0", "x"),
    "steepest_step": (fc.steepest_step, "x", "grad"),
}
each_operator = pytest.mark.parametrize(
    ("operator", "points", "directions"), TWO_TENSORS.values(), ids=TWO_TENSORS
)
each_backend = pytest.mark.parametrize("backend", backends.SINGLE, indirect=True)
each_way = backends.cover("backend", backends.SINGLE, name=TWO_TENSORS, p=[1.0, 1.3, 2.0, math.inf])


def with_value(values, at, value):
    values = values.copy()
    values[at] = value
    return values


def says(*parts):
    """A regular expression for these literal parts in this order."""
    return ".*".join(re.escape(part) for part in parts)


@each_operator
def test_shapes_that_differ(operator, points, directions):
    with pytest.raises(
        ValueError,
        match=says(
            f"{directions}: expected the shape of {points}, (3, 4, 5)", "(3, 4, 4)", "broadcast"
        ),
    ):
        operator(X, DELTA[:, :, :4], 0.5)
    with pytest.raises(ValueError, match=says(f"{directions}: expected the shape of {points}")):
        operator(X, DELTA.reshape(3, 20), 0.5)


@each_way
def test_points_outside_the_bounds(backend, name, p):
    operator, points, _ = TWO_TENSORS[name]
    far = backend.tensor(with_value(X, (1, 0, 2), 1.5))
    with pytest.raises(
        ValueError,
        match=says(f"{points}: 1 of 60", "1.5 in sample 1", "[0, 1]", f"clip {points}", "bounds="),
    ):
        operator(far, backend.tensor(DELTA), 0.5, p=p)


@each_backend
def test_points_below_the_bounds_of_their_channel(backend):
    lower = np.array([0.0, 0.1, 0.0, 0.0]).reshape(1, 4, 1)
    x = with_value(np.clip(X, lower, 1.0), (2, 1, 3), 0.05)
    bounds = (backend.tensor(lower), 1.0)
    with pytest.raises(ValueError, match=says("x: 1 of 60", "0.05 in sample 2", "[0.1, 1]")):
        fc.perturb(backend.tensor(x), backend.tensor(DELTA), 0.5, bounds=bounds)


@each_backend
def test_excess_of_more_than_rounding(backend):
    nearly = backend.tensor(with_value(X, (0, 0, 0), 1.0 + 2e-6))
    with pytest.raises(ValueError, match="outside the bounds"):
        fc.perturb(nearly, backend.tensor(DELTA), 0.5)


@each_way
def test_nan_in_the_points(backend, name, p):
    operator, points, _ = TWO_TENSORS[name]
    x = backend.tensor(with_value(X, (2, 1, 1), np.nan))
    with pytest.raises(ValueError, match=says(f"{points}: 1 of 60", "NaN", "sample 2")):
        operator(x, backend.tensor(DELTA), 0.5, p=p)


@each_way
def test_nan_or_infinity_in_the_directions(backend, name, p):
    operator, _, directions = TWO_TENSORS[name]
    message = says(f"{directions}: 1 of 60", "NaN or infinite", "sample 1", "gradient")
    for value in (np.nan, np.inf, -np.inf):
        delta = backend.tensor(with_value(DELTA, (1, 3, 3), value))
        with pytest.raises(ValueError, match=message):
            operator(backend.tensor(X), delta, 0.5, p=p)


@each_backend
def test_reachable_norm_of_bad_points(backend):
    with pytest.raises(ValueError, match=says("x: 1 of 60", "NaN")):
        fc.reachable_norm(backend.tensor(with_value(X, (0, 0, 0), np.nan)), backend.tensor(DELTA))
    with pytest.raises(ValueError, match=says("x: 1 of 60", "outside the bounds")):
        fc.reachable_norm(backend.tensor(with_value(X, (0, 0, 0), -1)), backend.tensor(DELTA))
    with pytest.raises(ValueError, match=says("p: expected a number in (0, inf], got -2")):
        fc.reachable_norm(backend.tensor(X), backend.tensor(DELTA), p=-2)


@each_backend
def test_neither_tensor_bounds_nor_directions_whose_sum_overflows_are_bad(backend):
    x, lower = backend.tensor(X), backend.tensor(np.zeros_like(X))
    expected = backend.numpy(fc.reachable_norm(x, backend.tensor(DELTA)))
    huge = backend.tensor(3e38 * np.sign(DELTA))
    for found in (
        fc.reachable_norm(x, backend.tensor(DELTA), bounds=(lower, 1.0)),
        fc.reachable_norm(x, huge),
    ):
        np.testing.assert_array_equal(backend.numpy(found), expected)


@each_operator
def test_bounds_that_are_no_interval(operator, points, directions):
    for bounds in ((1.0, 0.0), (0.5, 0.5), (0.0, math.nan), (-math.inf, 1.0)):
        message = says("bounds: expected finite lower < upper", f"got {bounds!r}")
        with pytest.raises(ValueError, match=message):
            operator(X, DELTA, 0.5, bounds=bounds)


@each_backend
def test_tensor_bounds_that_cross_somewhere(backend):
    upper = backend.tensor(np.array([1.0, -1.0, 1.0, 1.0]).reshape(1, 4, 1))
    with pytest.raises(ValueError, match=says("bounds: expected finite lower < upper", "-1.0")):
        fc.perturb(backend.tensor(X), backend.tensor(DELTA), 0.5, bounds=(0.0, upper))
    nan = backend.tensor(np.full((1, 4, 1), np.nan))
    with pytest.raises(ValueError, match=says("bounds: expected finite lower < upper", "nan")):
        fc.perturb(backend.tensor(X), backend.tensor(DELTA), 0.5, bounds=(nan, 1.0))


def test_bounds_that_are_no_pair():
    for bounds in (None, 1.0, (0.0,), (0.0, 0.5, 1.0)):
        message = says("bounds: expected a pair (lower, upper), got", repr(bounds))
        with pytest.raises(ValueError, match=message):
            fc.perturb(X, DELTA, 0.5, bounds=bounds)


def test_bounds_that_do_not_broadcast():
    for shape in ((3,), (1, 3, 1), (2, 4, 5), (1, 1, 4, 5), (2, 3, 4, 5)):
        message = says("bounds: the upper bound of shape", f"{shape}", "(3, 4, 5)", "(1, C, 1, 1)")
        with pytest.raises(ValueError, match=message):
            fc.perturb(X, DELTA, 0.5, bounds=(0.0, np.ones(shape)))


def test_bounds_of_a_wrong_type():
    with pytest.raises(ValueError, match=says("bounds (lower): expected a NumPy array", "got str")):
        fc.perturb(X, DELTA, 0.5, bounds=("a", "b"))


@each_operator
def test_eps_that_is_no_length(operator, points, directions):
    for eps in (-0.1, math.inf, math.nan, np.float32(-1)):
        message = says(f"eps: expected a finite number >= 0, got {eps!r}")
        with pytest.raises(ValueError, match=message):
            operator(X, DELTA, eps)


@each_backend
def test_eps_of_one_sample_that_is_no_length(backend):
    message = says("eps: expected finite numbers >= 0", "for sample 1")
    for bad in (-0.5, math.inf, math.nan):
        eps = backend.tensor([0.5, bad, 0.5])
        with pytest.raises(ValueError, match=message):
            fc.perturb(backend.tensor(X), backend.tensor(DELTA), eps)


@each_backend
def test_eps_of_a_wrong_shape(backend):
    for shape in ((2,), (4,), (3, 1), (0,)):
        message = says("eps: expected a number or a tensor of shape (3,)", f"got shape {shape}")
        eps = backend.tensor(np.ones(shape))
        with pytest.raises(ValueError, match=message):
            fc.perturb(backend.tensor(X), backend.tensor(DELTA), eps)


def test_eps_of_a_wrong_type():
    for eps in (None, "0.5", {"eps": 0.5}, True, ["a", "b", "c"], [[0.1], [0.1, 0.2]]):
        with pytest.raises(ValueError, match=r"^eps: expected"):
            fc.perturb(X, DELTA, eps)


@each_operator
def test_order_of_no_norm(operator, points, directions):
    for p in (0, -1.0, math.nan, -math.inf, None, "two", 1j, [2.0]):
        with pytest.raises(ValueError, match=says(f"p: expected a number in (0, inf], got {p!r}")):
            operator(X, DELTA, 0.5, p=p)


def test_steepest_step_of_an_order_below_one():
    for p in (0.5, 0.999):
        message = says(f"p: expected a number in [1, inf], got {p}", "not convex", "use perturb")
        with pytest.raises(ValueError, match=message):
            fc.steepest_step(X, DELTA, 0.5, p=p)


@each_operator
def test_tensors_of_a_wrong_type(operator, points, directions):
    for value in ([[0.5]], None, 0.5, "image"):
        for arguments, name in (((value, DELTA), points), ((X, value), directions)):
            message = says(f"{name}: expected a NumPy array", f"got {type(value).__name__}")
            with pytest.raises(ValueError, match=message):
                operator(*arguments, 0.5)


@pytest.mark.parametrize("other", backends.SINGLE[1:])
def test_tensors_of_two_frameworks(other):
    with backends.make(other) as backend:
        x, delta = backend.tensor(X), backend.tensor(DELTA)
        for operator, points, directions in TWO_TENSORS.values():
            for pair, (first, second) in (
                ((X, delta), ("numpy", backend.framework)),
                ((x, DELTA), (backend.framework, "numpy")),
            ):
                message = f"{directions}: expected a {first} tensor like {points}, got {second}"
                with pytest.raises(ValueError, match=says(message, "convert")):
                    operator(*pair, 0.5)


def test_tensors_of_two_devices():
    import torch

    x = torch.tensor(X)
    with pytest.raises(ValueError, match=says("delta:", "device of x, cpu", "meta", "delta.to(x")):
        fc.perturb(x, torch.empty_like(x, device="meta"), 0.5)


@pytest.mark.parametrize("name", ["eps", "bounds (lower)"])
def test_eps_and_bounds_of_another_device(name):
    torch = pytest.importorskip("torch")
    from foolbox_carescale.operators.validation import _like

    there = ep.astensor(torch.empty((3, 4), device="meta"))  # needs no GPU
    with pytest.raises(ValueError, match=says(f"{name}:", "of x, meta", "cpu", ".to(x.device)")):
        _like(torch.ones(3), there, name)
    assert _like(torch.tensor(0.5), there, name).raw.device.type == "meta"  # a number is moved


def test_eps_of_another_framework():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=says("eps: expected a numpy", "got torch")):
        fc.perturb(X, DELTA, torch.tensor([0.1, 0.2, 0.3]))


@each_operator
def test_points_of_no_floating_dtype(operator, points, directions):
    for dtype in ("uint8", "int64", "bool", "complex64"):
        message = says(f"{points}: expected a floating dtype, got {dtype}", "scale images")
        with pytest.raises(ValueError, match=message):
            operator(np.zeros((2, 3), dtype), np.zeros((2, 3), dtype), 0.5)


@each_backend
def test_one_number_in_place_of_a_batch(backend):
    for operator, points, _ in TWO_TENSORS.values():
        message = says(f"{points}: expected a batch of shape (N, ...)", "scalar")
        with pytest.raises(ValueError, match=message):
            operator(backend.tensor(0.5), backend.tensor(0.5), 0.5)


def test_values_are_not_looked_at_while_tracing():
    import jax

    x = with_value(X, (0, 0, 0), 1.5)
    moved = jax.jit(lambda x, v: fc.perturb(x, v, 0.5))(x, DELTA)
    assert moved.max() <= 1.0


def test_bounds_may_be_traced_while_the_rest_is_not():
    import jax

    x, delta = jax.numpy.asarray(X), jax.numpy.asarray(DELTA)
    upper = np.ones((1, 4, 1), np.float32)
    traced = jax.jit(lambda upper: fc.perturb(x, delta, 0.5, bounds=(0.0, upper)))(upper)
    np.testing.assert_allclose(traced, fc.perturb(X, DELTA, 0.5), rtol=1e-6)


@each_operator
def test_tensors_without_dense_real_values_are_refused(operator, points, directions):
    import torch

    x, v = torch.tensor(X), torch.tensor(DELTA)
    nested = torch.nested.nested_tensor([x[0], x[1], x[2]], layout=torch.jagged)
    for wrong, message in (
        (x.to_sparse(), "is a sparse_coo tensor; make it dense"),
        (nested, "is a nested tensor; make it dense"),
        (x + 0j, "expected "),
    ):
        with pytest.raises(ValueError, match=says(f"{points}: {message}")):
            operator(wrong, v, 0.5)
        with pytest.raises(ValueError, match=says(f"{directions}: {message}")):
            operator(x, wrong, 0.5)
    with pytest.raises(ValueError, match=says(f"{points}: is on the device meta")):
        operator(x.to("meta"), v.to("meta"), 0.5)
    with pytest.raises(ValueError, match="eps: is on the device meta"):
        operator(x, v, torch.full((3,), 0.5, device="meta"))
    masked = np.ma.array(X, mask=X > 0.5)
    with pytest.raises(ValueError, match=says(f"{points}: is a masked array", "filled(0)")):
        operator(masked, DELTA, 0.5)


@each_operator
def test_numbers_that_no_float_holds_are_refused(operator, points, directions):
    with pytest.raises(ValueError, match="eps: expected a finite number >= 0"):
        operator(X, DELTA, 10**400)
    with pytest.raises(ValueError, match="bounds: expected finite lower < upper"):
        operator(X, DELTA, 0.5, bounds=(0, 10**400))
    for bounds in ((0, 1e39), (-1e39, 1)):
        with pytest.raises(
            ValueError, match=says("bounds: 1e+39 is more than the largest float32")
        ):
            operator(X, DELTA, 0.5, bounds=bounds)
    with pytest.raises(ValueError, match=says("bounds: 100000 is more than the largest float16")):
        operator(X.astype(np.float16), DELTA.astype(np.float16), 0.5, bounds=(0, 1e5))
    np.testing.assert_array_equal(
        operator(X, DELTA, 0.5, p=10**400), operator(X, DELTA, 0.5, p=math.inf)
    )


@each_operator
def test_byte_order_does_not_matter(operator, points, directions):
    expected = operator(X, DELTA, 0.5)
    swapped = operator(X.astype(">f4"), DELTA.astype(">f4"), np.full(3, 0.5, ">f8"))
    np.testing.assert_array_equal(swapped, expected)
    assert swapped.dtype == np.float32
