"""Powers, norms, dual directions and noise, each against its formula."""

import math

import eagerpy as ep
import numpy as np
import pytest

from foolbox_carescale.core import norms
from tests import reference

ORDERS = (0.5, 1.0, 1.3, 2.0, 3.0)
FAMILIES = ("uniform", "cauchy", "log-uniform", "mostly zero", "huge", "tiny")


def wrapped(values, dtype="float64"):
    return ep.astensor(np.array(values, dtype=dtype))


def test_what_is_divided_by_is_positive():
    found = norms.positive_or_one(wrapped([-0.5, 0.0, 0.25, 2.0]))
    np.testing.assert_array_equal(found.raw, [1, 1, 0.25, 2])


@pytest.mark.parametrize("p", ORDERS)
def test_power_is_zero_at_zero_and_the_power_elsewhere(p):
    a = np.array([[0.0, 0.25, 1.0, 3.0]])
    np.testing.assert_allclose(norms.power(wrapped(a), p).raw, a**p, rtol=1e-15)


@pytest.mark.parametrize("p", [0.5, 1.3, 3.0])
def test_derivative_of_a_power_is_zero_at_zero(p):
    import torch

    a = torch.tensor([0.0, 4.0], requires_grad=True)
    norms.power(ep.astensor(a), p).sum().raw.backward()
    assert a.grad.tolist() == pytest.approx([0.0, p * 4.0 ** (p - 1)])


def test_first_power_is_the_number_itself_also_for_derivatives():
    import torch

    a = torch.tensor([0.0, 4.0], requires_grad=True)
    norms.power(ep.astensor(a), 1.0).sum().raw.backward()
    assert a.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("n", [1, 1023, 1024, 1025, 2048, 5000, 1024 * 1024 + 7])
def test_every_element_counts_once_in_a_sum(n):
    integers = np.arange(2 * n).reshape(2, n) % 17
    for dtype in ("float32", "float64"):
        total = norms.accumulate(wrapped(integers, dtype)).raw
        assert total.dtype == dtype
        np.testing.assert_array_equal(total, integers.sum(axis=1, keepdims=True))


def test_every_element_counts_once_in_a_sum_of_torch():
    import torch

    integers = torch.arange(10_000.0).reshape(2, 5000) % 17
    total = norms.accumulate(ep.astensor(integers)).raw
    assert torch.equal(total, integers.sum(dim=1, keepdim=True))


def test_sum_of_a_long_row_keeps_its_digits_however_it_lies_in_memory():
    rows = np.full((2, 300_001), 0.1, np.float32, order="F")  # NumPy adds these one by one
    assert np.all(np.abs(rows.sum(axis=-1) / 30000.1 - 1) > 1e-4)
    total = norms.accumulate(ep.astensor(rows)).raw
    np.testing.assert_allclose(total, 300_001 * np.float64(np.float32(0.1)), rtol=2e-5)


@pytest.mark.parametrize("p", [*ORDERS, math.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norm_is_that_of_its_definition(p, dtype):
    for name in FAMILIES:
        rows = reference.case(name, shape=(3, 60))[1].astype(dtype)
        found = norms.lp_norm(wrapped(rows, dtype), p).raw
        assert found.dtype == dtype
        # n^(1/p) times the rounding of a power, for p = 1/2
        rtol = 30 * np.finfo(dtype).eps
        np.testing.assert_allclose(found[:, 0], reference.norm(rows, p), rtol, err_msg=name)


@pytest.mark.parametrize("p", [*ORDERS, math.inf])
def test_norm_of_nothing_is_zero_and_has_a_finite_derivative(p):
    import torch

    rows = torch.tensor([[0.0, 0.0], [3.0, 0.0]], requires_grad=True)
    size = norms.lp_norm(ep.astensor(rows), p).raw
    size.sum().backward()
    assert size.tolist() == [[0.0], [pytest.approx(3.0)]]
    assert rows.grad.isfinite().all()
    assert rows.grad[1, 0] == pytest.approx(1.0)
    if p == 1:  # upwards, as for a room that is used up
        assert rows.grad[:, 1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("p", [1.1, 1.3, 1.5, 3.0])
def test_dual_direction_is_the_power_of_the_conjugate_order(p):
    g = reference.case("uniform", shape=(3, 20))[1]
    g[:, 0] = 0.0
    q = p / (p - 1)
    expected = np.sign(g) * np.abs(g) ** (q - 1)
    expected /= np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(norms.dual_direction(wrapped(g), p).raw, expected, rtol=1e-11)


def test_dual_direction_keeps_the_signs_for_infinity_and_the_gradient_for_two():
    g = np.array([[-4.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1e-9, -2e-9]])
    np.testing.assert_array_equal(norms.dual_direction(wrapped(g), math.inf).raw, np.sign(g))
    expected = [[-1.0, 0.0, 0.25], [0.0, 0.0, 0.0], [0.0, 0.5, -1.0]]
    np.testing.assert_array_equal(norms.dual_direction(wrapped(g), 2.0).raw, expected)


def test_derivative_of_the_dual_direction_for_two_is_that_of_a_scale():
    import torch

    g = torch.tensor([[4.0, 0.0, -1.0]], requires_grad=True)
    norms.dual_direction(ep.astensor(g), 2.0).raw[0, 1].backward()
    assert g.grad.tolist() == [[0.0, 0.25, 0.0]]


@pytest.mark.parametrize(("dtype", "least"), [("float32", 1e-30), ("float64", 1e-290)])
def test_dual_direction_of_a_power_that_underflows_still_moves(dtype, least):
    g = [[1.0, -1e-4, 0.0], [0.0, 0.0, 0.0]]  # 1e-400
    found = norms.dual_direction(wrapped(g, dtype), 1.01).raw
    assert found.dtype == dtype
    np.testing.assert_allclose(found, [[1.0, -least, 0.0], [0.0, 0.0, 0.0]], rtol=1e-6)


MOMENTS = {  # mean of |noise|, of its square, and its largest value
    "gaussian": (math.sqrt(2 / math.pi), 1.0, math.inf),
    "uniform": (1 / 2, 1 / 3, 1.0),
    "laplace": (1.0, 2.0, -math.log(1e-7)),
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("distribution", MOMENTS)
def test_noise_has_the_moments_of_its_distribution(distribution, dtype):
    like = wrapped(np.zeros((400, 400)), dtype)
    noise = norms.sample(like, distribution).raw
    assert noise.shape == (400, 400)
    assert noise.dtype == dtype
    noise = noise.astype(float)
    mean, square, largest = MOMENTS[distribution]
    assert abs(noise.mean()) < 0.03
    assert np.abs(noise).mean() == pytest.approx(mean, rel=0.03)
    assert (noise**2).mean() == pytest.approx(square, rel=0.05)
    assert np.abs(noise).max() <= largest * 1.001


@pytest.mark.parametrize("distribution", MOMENTS)
def test_noise_has_all_the_digits_of_its_dtype(distribution):
    import torch

    like = ep.astensor(torch.zeros(2, 50, dtype=torch.float64))
    noise = norms.sample(like, distribution).raw
    assert noise.dtype == torch.float64
    assert (noise != noise.float()).any()


def test_another_distribution_is_refused():
    expected = "distribution: expected 'gaussian', 'uniform' or 'laplace', got 'cauchy'"
    with pytest.raises(ValueError, match=expected):
        norms.sample(wrapped([[0.0]]), "cauchy")
