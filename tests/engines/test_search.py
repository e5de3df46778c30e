"""The search that XLA's, TensorFlow's and Triton's engines share, run by NumPy alone."""

import math

import numpy as np
import pytest

from foolbox_carescale.engines import exponents, passes
from tests import reference
from tests.engines import hard

ORDERS = tuple(p for p in hard.ORDERS if p < math.inf)
# What was counted at first, for all cases together. Fewer are welcome.
MOST = {0.5: 90, 1.0: 106, 1.3: 114, 1.5: 122, 2.0: 133, 3.0: 157, 10.0: 254}


def split(c):
    bits = c.view(np.int32)
    exponent = (bits - exponents.ROOT_HALF_BITS) >> exponents.MANTISSA_BITS
    m = (bits - (exponent << exponents.MANTISSA_BITS)).astype(np.int32).view(np.float32)
    return m, exponent.astype(np.float32)


def two_to(integer):
    whole = integer.astype(np.int32) + exponents.EXPONENT_BIAS
    return (whole << exponents.MANTISSA_BITS).astype(np.int32).view(np.float32)


def power(c, p):
    return passes.power(np, c, p, split, two_to)


def search(problem):
    """Eta, by `passes.step`, as the engines go about it; and the steps that it took."""
    x, delta, p, kind = problem.x, problem.delta, problem.p, np.dtype(problem.dtype).type
    eps = problem.eps.astype(kind)
    solvable = eps >= np.finfo(kind).tiny
    inverse = 1 / np.where(solvable, np.minimum(eps, kind(passes.LARGEST_EPS)), kind(1))
    v, r = passes.sizes(np, x, delta, kind(problem.lower), kind(problem.upper), inverse)
    largest = v.max(axis=1, keepdims=True)
    spread = kind(max(x.shape[1] ** (-0.5 / p), passes.SMALLEST_START))
    start = spread * np.sqrt(1 / np.where(largest != 0, largest, kind(1)))
    corner = np.sqrt(passes.breakpoints(np, v, r, np.finfo(kind).max).max(axis=1, keepdims=True))

    def sums(h):
        w = v * h * h
        q = power(np.minimum(w, r), p)
        total, moving = (t.sum(axis=1, keepdims=True, dtype=float) for t in (q, q * (w < r)))
        return total.astype(kind), moving.astype(kind)

    def beyond(stuck, high):
        return np.where(stuck, corner, high)

    infinite = np.full_like(start, math.inf)
    state = 0, start, start, infinite, ~(solvable & (largest != 0))
    digits, slack = kind(2 * np.finfo(kind).eps), kind(passes.SLACK[problem.dtype] * max(p, 1))
    while not state[-1].all() and state[0] < passes.PASSES + passes.BRACKETED_PASSES:
        state = passes.step(np, state, sums, beyond, kind(p), digits, slack)
        assert all(t.dtype == kind for t in state[1:4])
    h = np.where(solvable & (largest != 0), state[1], kind(0))
    return np.minimum((h * eps) * h, np.finfo(kind).max), state[0]


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_root_is_found_on_hard_rows_in_no_more_steps_than_at_first(p, dtype):
    steps = 0
    with np.errstate(all="ignore"):  # as compiled code does
        for case in reference.CASES:
            problem = hard.Problem(p, dtype, cases=(case,))
            eta, count = search(problem)
            problem.check(eta)
            steps += count
    assert steps <= MOST[p] + 2  # should a sum be rounded otherwise


def test_nan_ends_the_search_of_its_row_alone():
    problem = hard.Problem(2.0, "float32", cases=("uniform",))
    with np.errstate(all="ignore"):
        clean, _ = search(problem)
        problem.delta[2, 3] = math.nan
        eta, count = search(problem)
    assert np.isnan(eta[2])
    others = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(eta[others], clean[others])
    assert count <= passes.PASSES


def test_a_row_that_does_not_arrive_is_halved_in_the_end():
    # all but one term so faint that their sum tells Newton nothing
    n = 50
    problem = hard.Problem(1.3, "float32", length=n, cases=("uniform",))
    problem.x[:] = 0.5
    problem.delta[:] = 10.0 ** -np.linspace(0, 30, n, dtype=np.float32)
    problem.reach = reference.reachable_norm(problem.x, problem.delta, 1.3)
    problem.eps = (np.linspace(0.1, 0.99, 6)[:, None] * problem.reach[:, None]).astype(np.float32)
    with np.errstate(all="ignore"):
        eta, _ = search(problem)
    problem.check(eta)


@pytest.mark.parametrize("p", [0.3, 0.5, 1.0, 1.3, 1.5, 2.0, 2.7, 3.0, 10.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_powers_are_exact_to_the_last_digits_and_without_a_bias(p, dtype):
    rng = np.random.default_rng(0)
    c = np.exp2(rng.uniform(-120 / max(p, 1), 0, 10_000)).astype(dtype)
    c[:3] = 0, 1, math.sqrt(0.5)
    with np.errstate(all="ignore"):
        found = power(c, p)
    assert found.dtype == dtype
    assert (found[0], found[1]) == (0, 1)
    error = found[1:] / c[1:].astype(float) ** p - 1
    digit = np.finfo(dtype).eps
    assert (
        np.abs(error).max() <= max(2, 0.4 * p) * digit
    )  # the logarithm has one, which p multiplies
    assert abs(error.mean()) <= 0.1 * digit


def test_powers_below_the_smallest_number_are_zero():
    c = np.array([1e-42, 1e-38, 1e-30, 1e-13, 1e-12], np.float32)
    np.testing.assert_array_equal(power(c, 3.1) > 0, [False, False, False, False, True])
    assert power(c, 1.1)[0] == 0
