"""The search that XLA's, TensorFlow's and Triton's engines share, run by NumPy alone."""

import math

import numpy as np
import pytest

from foolbox_carescale.engines import newton, pow
from tests import reference
from tests.engines import hard

ORDERS = tuple(p for p in hard.ORDERS if p < math.inf)


def split(c):
    bits = c.view(np.int32)
    exponent = (bits - pow.ROOT_HALF_BITS) >> pow.MANTISSA_BITS
    m = (bits - (exponent << pow.MANTISSA_BITS)).astype(np.int32).view(np.float32)
    return m, exponent.astype(np.float32)


def two_to(integer):
    whole = integer.astype(np.int32) + pow.EXPONENT_BIAS
    return (whole << pow.MANTISSA_BITS).astype(np.int32).view(np.float32)


def power(c, p):
    return newton.power(np, c, p, split, two_to)


def search(problem):
    """Return eta, by `newton.step`, as the engines go about it."""
    x, delta, p, kind = problem.x, problem.delta, problem.p, np.dtype(problem.dtype).type
    eps = problem.eps.astype(kind)
    solvable = eps >= np.finfo(kind).tiny
    inverse = 1 / np.where(solvable, np.minimum(eps, kind(newton.LARGEST_EPS)), kind(1))
    most = kind(newton.most_room(problem.dtype, p))
    v, r = newton.sizes(np, x, delta, kind(problem.lower), kind(problem.upper), inverse, most)
    largest = v.max(axis=1, keepdims=True)
    spread = kind(newton.spread(x.shape[1], p))
    start = spread * np.sqrt(1 / np.where(largest != 0, largest, kind(1)))
    corner = np.sqrt(newton.breakpoints(np, v, r, np.finfo(kind).max).max(axis=1, keepdims=True))

    def sums(h):
        w = v * h * h
        q = power(np.minimum(w, r), p)
        total, moving = (t.sum(axis=1, keepdims=True, dtype=float) for t in (q, q * (w < r)))
        return total.astype(kind), moving.astype(kind)

    def beyond(stuck, high):
        return np.where(stuck, corner, high)

    infinite = np.full_like(start, math.inf)
    state = 0, start, start, infinite, ~(solvable & (largest != 0))
    digits, rtol = kind(2 * np.finfo(kind).eps), kind(newton.sum_rtol(problem.dtype, p))
    while not state[-1].all() and state[0] < newton.PASSES + newton.BRACKETED_PASSES:
        state = newton.step(np, state, sums, beyond, kind(p), digits, rtol)
        assert all(t.dtype == kind for t in state[1:4])
    h = np.where(solvable & (largest != 0), state[1], kind(0))
    return np.minimum((h * eps) * h, np.finfo(kind).max)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_root_is_found_on_hard_rows(p, dtype):
    with np.errstate(all="ignore"):  # as compiled code does
        for case in reference.CASES:
            problem = hard.Problem(p, dtype, cases=(case,))
            problem.check(search(problem))


def test_nan_ends_the_search_of_its_row_alone():
    problem = hard.Problem(2.0, "float32", cases=("uniform",))
    with np.errstate(all="ignore"):
        clean = search(problem)
        problem.delta[2, 3] = math.nan
        eta = search(problem)
    assert np.isnan(eta[2])
    others = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(eta[others], clean[others])


def test_sizes_are_in_units_of_eps_and_cut_off():
    x, v = np.array([-0.5, 0.5, 0.75, 1.5, 2.001]), np.array([-2.0, 3.0, 0.0, 1.0, 1.0])
    size, r = newton.sizes(np, x, v, -1.0, 2.0, 0.8, 1.1)  # the last has left the box by rounding
    np.testing.assert_array_equal(size, [2, 3, 0, 1, 1])
    np.testing.assert_allclose(r[[0, 1, 3, 4]], [0.4, 1.1, 0.4, 0])


@pytest.mark.parametrize(("dtype", "orders"), [("float32", 1e8), ("float64", 1e14)])
def test_the_sum_still_rises_beyond_the_root(dtype, orders):
    for p in (0.05, 1.0, 2.0, 1e3, orders):
        beyond = float(np.dtype(dtype).type(newton.most_room(dtype, p))) ** np.longdouble(p)
        assert 1 + newton.sum_rtol(dtype, p) < beyond < np.finfo(dtype).max / 1e8


@pytest.mark.parametrize(
    ("n", "lanes"), [(127, 0), (128, 16), (3072, 384), (150528, 1024), (12_000_000, 23424)]
)
def test_rows_are_cut_up_where_cache_lines_begin(n, lanes):
    assert newton.lanes_of(n) == lanes
    assert lanes * 4 % 64 == 0


def test_where_the_search_begins_and_how_near_is_near_enough():
    assert newton.spread(16, 2.0) == 0.5
    assert newton.spread(10**6, 0.01) == 1e-30
    assert newton.sum_rtol("float32", 4.0) == 6e-7
    # no less than a number of the dtype can tell from 1, nor so much that no term need move
    assert newton.sum_rtol("float32", 0.05) == 2.0**-23
    assert newton.sum_rtol("float64", 1e14) == 0.5
    assert newton.sum_rtol("float64", 2.0, {"float64": 1e-13}) == 2e-13


def test_what_is_divided_by_is_positive():
    np.testing.assert_array_equal(
        newton.positive_or_one(np, np.array([-0.5, 0.0, 0.25, 2.0])), [1, 1, 0.25, 2]
    )


def test_breakpoints_are_those_of_what_can_move():
    v, r = np.array([2.0, 4.0, 0.0, 0.0, 1e-20]), np.array([0.5, 0.0, 0.5, 0.0, 1.0])
    with np.errstate(all="ignore"):
        found = newton.breakpoints(np, v, r, 1e10)
    np.testing.assert_allclose(found, [0.25, 0, 0, 0, 1e10])


def advanced(h, low, high, total, moving, p=2.0, count=0, done=False, corner=50.0):
    """A step of one row: the next h, low, high and done."""
    arrays = [np.array([float(a)]) for a in (h, low, high)]
    asked = []

    def beyond(stuck, high):
        asked.append(stuck.item())
        return np.where(stuck, corner, high)

    def sums(at):
        assert at is arrays[0]
        return np.array([float(total)]), np.array([float(moving)])

    state = count, *arrays, np.array([done])
    with np.errstate(all="ignore"):
        after, *found = newton.step(np, state, sums, beyond, p, 1e-15, 1e-3)
    assert after == count + 1
    assert len(asked) == 1
    return tuple(t.item() for t in found)


ANY = pytest.approx


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        # u = h^4 becomes u (1 + 0.75 / 0.25), below an end that is not known
        ({"h": 1, "low": 1, "high": math.inf, "total": 0.25, "moving": 0.25},
         (ANY(2**0.5), 1, math.inf, False)),
        # half of it moves: u (1 + 0.75 / 0.125)
        ({"h": 1, "low": 1, "high": math.inf, "total": 0.25, "moving": 0.125},
         (ANY(7**0.25), 1, math.inf, False)),
        # from the far corner back, u (1 - 0.5 / 1), which is inside
        ({"h": 4, "low": 1, "high": 50, "total": 1.5, "moving": 1},
         (ANY(4 * 0.5**0.25), 1, 4, False)),
        # u (1 - 1.5 / 1) is nowhere
        ({"h": 4, "low": 1, "high": 50, "total": 2.5, "moving": 1}, (2, 1, 4, False)),
        # Newton leaves the bracket: halved in the logarithm
        ({"h": 4, "low": 3.9, "high": 50, "total": 1.5, "moving": 1},
         (ANY((3.9 * 4) ** 0.5), 3.9, 4, False)),
        ({"h": 4, "low": 1, "high": 4.1, "total": 0.5, "moving": 0.1},
         (ANY((4 * 4.1) ** 0.5), 4, 4.1, False)),
        # every third step of those inside
        ({"h": 4, "low": 1, "high": 50, "total": 1.5, "moving": 1, "count": 5}, (2, 1, 4, False)),
        ({"h": 4, "low": 1, "high": 50, "total": 1.5, "moving": 1, "count": 6},
         (ANY(4 * 0.5**0.25), 1, 4, False)),
        ({"h": 4, "low": 1, "high": 50, "total": 1.5, "moving": 1, "count": 7},
         (ANY(4 * 0.5**0.25), 1, 4, False)),
        # nothing moves any more, or it does not arrive: from the far corner
        ({"h": 1, "low": 1, "high": math.inf, "total": 0.25, "moving": 0}, (50, 1, 50, False)),
        ({"h": 1, "low": 1, "high": math.inf, "total": 0.25, "moving": 0.25,
          "count": newton.PASSES - 1}, (ANY(2**0.5), 1, math.inf, False)),
        ({"h": 1, "low": 1, "high": math.inf, "total": 0.25, "moving": 0.25,
          "count": newton.PASSES}, (50, 1, 50, False)),
        ({"h": 4, "low": 1, "high": 50, "total": 1.5, "moving": 1, "count": newton.PASSES},
         (ANY(4 * 0.5**0.25), 1, 4, False)),
        # near enough, or nothing in between
        ({"h": 4, "low": 1, "high": 50, "total": 1.0009, "moving": 1}, (4, 1, 4, True)),
        ({"h": 4, "low": 1, "high": math.inf, "total": 0.9991, "moving": 1},
         (4, 4, math.inf, True)),
        ({"h": 4, "low": 4 * (1 - 1e-16), "high": 50, "total": 1.5, "moving": 1},
         (4, ANY(4), 4, True)),
        ({"h": 4, "low": 4 * (1 - 1e-14), "high": 50, "total": 1.5, "moving": 1},
         (ANY(4), ANY(4), 4, False)),
        # a step below the last digit
        ({"h": 4, "low": 4, "high": math.inf, "total": 0.5, "moving": 1e18},
         (4, 4, math.inf, True)),
        # what is done stays
        ({"h": 4, "low": 1, "high": 50, "total": 0.5, "moving": 1, "done": True},
         (4, 4, 50, True)),
        ({"h": 4, "low": 4, "high": math.inf, "total": math.nan, "moving": 1, "done": True},
         (4, 4, math.inf, True)),
    ],
)  # fmt: skip
def test_step(state, expected):
    assert advanced(**state) == expected


def test_step_from_nan():
    h, *_, done = advanced(h=1, low=1, high=math.inf, total=math.nan, moving=1)
    assert math.isnan(h)
    assert done


def test_a_row_that_does_not_arrive_is_halved_in_the_end():
    # all but one term so faint that their sum tells Newton nothing
    n = 50
    problem = hard.Problem(1.3, "float32", length=n, cases=("uniform",))
    problem.x[:] = 0.5
    problem.delta[:] = 10.0 ** -np.linspace(0, 30, n, dtype=np.float32)
    problem.reach = reference.reachable_norm(problem.x, problem.delta, 1.3)
    problem.eps = (np.linspace(0.1, 0.99, 6)[:, None] * problem.reach[:, None]).astype(np.float32)
    with np.errstate(all="ignore"):
        eta = search(problem)
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
    error = (found[1:] / c[1:].astype(np.longdouble) ** p - 1).astype(float)
    digit = np.finfo(dtype).eps
    assert (
        np.abs(error).max() <= max(2, 0.4 * p) * digit
    )  # the logarithm has one, which p multiplies
    assert abs(error.mean()) <= 0.2 * digit


def test_powers_below_the_smallest_number_are_zero():
    c = np.array([1e-42, 1e-38, 1e-30, 1e-13, 1e-12], np.float32)
    np.testing.assert_array_equal(power(c, 3.1) > 0, [False, False, False, False, True])
    assert power(c, 1.1)[0] == 0
    c = np.exp2(np.array([-126.5, -125.5], np.float32))  # no normal number, and the first
    assert power(c, 0.3).tolist() == pytest.approx([0, 2 ** (-125.5 * 0.3)], rel=1e-6)
    assert power(np.exp2(c[:1] * 0 - 96.5), 1.3).item() == pytest.approx(2 ** (-96.5 * 1.3), 1e-6)
    c = np.exp2(
        np.array([-12.57, -12.65], np.float32)
    )  # of which the tenth power is on either side
    assert power(c, 10.0).tolist() == pytest.approx([2**-125.7, 0], rel=1e-5, abs=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_usual_powers_are_not_rounded_twice(dtype):
    c = np.random.default_rng(0).random(1000).astype(dtype)
    expected = {1: c, 2: c * c, 3: c * c * c, 1.5: c * np.sqrt(c), 0.5: np.sqrt(c)}
    for p, wanted in expected.items():
        np.testing.assert_array_equal(power(c, p), wanted)
