"""The parts of the compiled kernels.

Of compiled functions only the outermost can be called: `test_kernels.py` runs this file in a
process where numba compiles nothing.
"""

import math

import numpy as np
import pytest

from foolbox_carescale.engines.numba_cpu import arrays
from foolbox_carescale.engines.numba_cpu.kernels import (
    compiling,
    passes,
    projection,
    roots,
    steepest,
)
from foolbox_carescale.engines.numba_cpu.kernels.compiling import bits_of, room_at

# the room is 0.8, 0.9, 0.5 though nothing moves, 0 and 0.5
X = np.array([0.2, 0.9, 0.5, 1.0, 0.5])
V = np.array([1.0, -2.0, 0.0, 3.0, -0.5])
ROW = X, V, 0.0, 1.0
ARRAYS = X, V, np.zeros(5), np.ones(5)
each_bound = pytest.mark.parametrize("row", [ROW, ARRAYS], ids=["numbers", "arrays"])
in_blocks = pytest.mark.usefixtures("blocks")


@pytest.fixture(params=[1, 2, 4096], ids="blocks of {}".format)
def blocks(request, monkeypatch):
    """Rows of several blocks, the last of which is short, and of one."""
    for module in (passes, projection, steepest):
        monkeypatch.setattr(module, "BLOCK", request.param)


@each_bound
def test_room(row):
    np.testing.assert_allclose([room_at(*row, j) for j in range(5)], [0.8, 0.9, 0.5, 0, 0.5])


@each_bound
@in_blocks
def test_sums_of_a_pass(row):
    total, moving, violations = passes.sum_row(*row, 0.5, 1.0, (2.0, 2.0), 0.0)
    assert total == pytest.approx(0.5**2 + 0.9**2 + 0.25**2)
    assert moving == pytest.approx(0.5**2 + 0.25**2)
    assert violations == 0
    total, moving, violations = passes.sum_row(*row, 0.25, 0.5, (1.0,), None)
    assert total == pytest.approx(0.25 + 0.45 + 0.125)
    assert moving == pytest.approx(0.25 + 0.125)
    assert violations == 0
    # what has come to its bound by then no longer moves
    assert passes.sum_row(*row, 1.0, 1.0, (1.0,), None)[:2] == (0.8 + (1 - 0.1) + 0.5, 0)


WRONG = [
    (0, np.nan, "x", passes.NAN_X),
    (4, np.inf, "v", passes.NAN_DELTA),
    (0, np.finfo(float).max, "v", 0),
    (2, np.nan, "v", passes.NAN_DELTA),
    (1, 1.25, "x", passes.OUT_OF_BOUNDS),
    (3, -0.25, "x", passes.OUT_OF_BOUNDS),
]


@each_bound
@in_blocks
@pytest.mark.parametrize(("j", "bad", "where", "flag"), WRONG)
def test_violations_are_counted_and_told_apart(row, j, bad, where, flag):
    x, v, *bounds = row
    x, v = x.copy(), v.copy()
    (x if where == "x" else v)[j] = bad
    order = 2.0, 2.0
    for tolerance, known in ((0.2, flag), (0.25, 0 if flag == passes.OUT_OF_BOUNDS else flag)):
        assert passes.find_violations(x, v, *bounds, tolerance) == known
        assert passes.sum_row(x, v, *bounds, 0.5, 1.0, order, tolerance)[2] == bool(known)
        assert passes.largest_open(x, v, *bounds, 0.1, tolerance)[1] == bool(known)
    (v if where == "x" else x)[0] = np.nan
    both = flag | (passes.NAN_DELTA if where == "x" else passes.NAN_X)
    if (where, j) != ("x", 0):
        assert passes.find_violations(x, v, *bounds, 0.2) == both
        assert passes.sum_row(x, v, *bounds, 0.5, 1.0, order, 0.2)[2] == 1 + (j != 0)
        assert passes.largest_open(x, v, *bounds, 0.1, 0.2)[1] == 1 + (j != 0)


@each_bound
@in_blocks
def test_far_corner_is_of_what_can_move(row):
    reach, furthest, largest = passes.far_corner(*row, 2.0, (1.0,))
    assert reach == pytest.approx(2 * (0.8 + 0.9 + 0.5))
    assert (furthest, largest) == (1.0, 2.0)
    reach, furthest, largest = passes.far_corner(*row, 2.0, (2.0, 2.0))
    assert reach == pytest.approx(4 * (0.8**2 + 0.9**2 + 0.5**2))
    x, v, *bounds = row
    assert passes.far_corner(x, 0 * v, *bounds, 2.0, (1.0,)) == (0, 0, 0)
    assert passes.far_corner(x, v, x, x, 2.0, (1.0,)) == (0, 0, 0)


@each_bound
@in_blocks
def test_largest_that_has_room(row):
    sizes = [passes.largest_open(*row, eps, 0.0)[0] for eps in (0.5, 0.8, 0.9, 0.95)]
    assert sizes[:2] == [2, 2]
    assert sizes[3] == 0
    x, v, *bounds = row
    assert passes.largest_open(x, np.abs(v), *bounds, 0.125, 0.0)[0] == 1
    assert passes.largest_movable(*row) == 2
    assert passes.largest_movable(x, 0 * v, *bounds) == 0
    assert passes.largest_movable(x, v, x, x) == 0


def test_samples_are_whole_runs_from_end_to_end():
    sizes = {1: 1, 128: 128, 129: 128, 3072: 192, 65535: 4064, 65536: 4096, 10**7: 4096}
    assert {n: passes.sample_size(n) for n in sizes} == sizes
    for n in (129, 3072, 65537):
        runs = passes.sample_size(n) // 32
        starts = [passes.start_of_run(k, runs, n) for k in range(runs)]
        assert (starts[0], starts[-1]) == (0, n - 32)
        assert np.ptp(np.diff(starts)) <= 1


@pytest.mark.parametrize("n", [5, 300])
def test_a_sample_is_of_room_and_directions(n):
    rng = np.random.default_rng(0)
    x, v = rng.random(n), rng.normal(size=n)
    x[3], v[3] = 1.0, 100.0  # which cannot move
    upper = 1 + rng.random(n)
    upper[3] = 1.0
    lower = -rng.random(n)
    m = passes.sample_size(n)
    room, direction = np.full(m, np.nan), np.full(m, np.nan)
    largest = passes.take_sample(x, v, lower, upper, room, direction)
    starts = [passes.start_of_run(k, m // 32, n) for k in range(m // 32)]
    chosen = np.concatenate([np.arange(s, s + 32) for s in starts]) if n > m else np.arange(n)
    np.testing.assert_array_equal(direction, -np.abs(v)[chosen])
    np.testing.assert_array_equal(room, np.where(v > 0, upper - x, x - lower)[chosen])
    assert largest == np.abs(v)[chosen][room > 0].max()
    assert passes.take_sample(x, 0 * v, lower, upper, room, direction) == 0


GAINS = np.array([3.0, 1.0, 2.0, 2.0, 0.0])


RANGES = [(0, 3, np.inf), (1, 2, 3), (2, 2, 2), (3, 1, 2), (4, 0, 1), (5, 0, 0)]


@in_blocks
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("count", "least", "most"), RANGES)
def test_threshold_lets_so_many_pass(dtype, count, least, most):
    gains, budget = GAINS.astype(dtype), 0.25 * count
    row = X, np.where(GAINS > 1, V, -V), 0.0, 1.0
    room = np.array([room_at(*row, j) for j in range(5)])
    least_positive = np.finfo(dtype).smallest_subnormal
    for guess in ((0, 0), (1.5, 2.5), (7, 0.1), (2, 3)):
        guesses = tuple(map(dtype, guess))
        t = steepest._threshold_of(gains, count, None, guesses)
        assert least <= t <= most or t == least_positive
        assert np.sum(gains >= t) == {2: 3, 5: 4}.get(count, count)
        t = steepest._threshold_of(gains, budget, row, guesses)
        assert room[gains > t].sum() <= budget
        assert room[gains >= t].sum() >= budget or t == least_positive


def test_bracket_is_of_two_standard_errors_of_the_sample():
    gains = np.random.default_rng(0).permutation(4096).astype(float)
    sample = np.empty(passes.sample_size(4096))
    m = sample.size
    for share in (0.01, 0.25, 0.5, 0.9, 1.0):
        low, high = steepest._sample_bracket(gains, share, sample)
        assert low <= (1 - share) * 4096 <= high or share == 1
        inside = np.sum((sample >= low) & (sample <= high))
        below, above = m - share * m, share * m
        margin = 2 * math.sqrt(share * m) + 1
        assert inside == pytest.approx(min(margin, below) + min(margin, above), abs=2)
        assert np.sum(sample < low) == pytest.approx(max(below - margin, 0), abs=1)
    # the 96th of 128, and 2 sqrt(32) + 1 to either side
    assert steepest._sample_bracket(np.arange(128.0), 0.25, np.empty(128)) == (83, 108)


@pytest.mark.parametrize("eps", [0.1, 1.0, 2.0])
def test_threshold_of_the_projection(eps):
    room = np.array([0.8, 0.9, 0.5, 0.0, 0.5])
    for start in (1e-9, 0.3, 1.9, 5.0):
        t = projection._threshold_l1(*ROW, eps, start, 2.0, 1e-12)
        assert np.clip(np.abs(V) - t, 0, room).sum() == pytest.approx(eps, rel=1e-11)
    # near enough is enough, in units of eps
    for part in (eps, 1e-3 * eps):
        t = projection._threshold_l1(*ROW, part, 0.3, 2.0, 0.01)
        assert np.clip(np.abs(V) - t, 0, room).sum() == pytest.approx(part, rel=0.01)
    assert projection._shrunk_block(*ROW, 0.0)[1] == 0  # all are at their bounds, the last just so
    size, active = projection._shrunk_block(*ROW, 0.25)
    assert size == pytest.approx(0.75 + 0.9 + 0.25)
    assert active == 2


def test_points_are_clipped_and_shrunk_into_the_bounds():
    for bounds in (ROW[2:], ARRAYS[2:]):
        out = np.empty(5)
        roots.write_row(X, V, *bounds, 0.5, out)
        np.testing.assert_allclose(out, [0.7, 0, 0.5, 1, 0.25])
        projection._write_shrunk(X, V, *bounds, 0.25, out)
        np.testing.assert_allclose(out, [0.95, 0, 0.5, 1, 0.25])
        projection._write_shrunk(X, V, *bounds, 0.75, out)
        np.testing.assert_allclose(out, [0.45, 0, 0.5, 1, 0.5])
        steepest._write_signs(X, V, *bounds, 0.25, out)
        np.testing.assert_allclose(out, [0.45, 0.65, 0.5, 1, 0.25])
        steepest._fill_gains(X, V, *bounds, out)
        np.testing.assert_array_equal(out, [1, 2, 0, 0, 0.5])
        steepest._fill_signs(V, 1.0, out)
        np.testing.assert_array_equal(out, [1, -1, 0, 0, 0])


def test_bits_keep_the_order_of_numbers():
    for dtype in (np.float32, np.float64):
        numbers = np.array([0, 1e-40, 1e-3, 1, 7e30, np.inf], dtype)
        bits = [int(bits_of(a)) for a in numbers]
        assert bits == sorted(set(bits))
        assert [steepest._of_bits(b, numbers) for b in bits] == list(numbers)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_beyond_a_breakpoint_is_a_digit_or_two_further(dtype):
    digit = np.finfo(dtype).eps
    assert 1 + digit < passes.beyond(X.astype(dtype)) < 1 + 3 * digit


def test_a_slope_that_is_too_flat_ends_no_search(monkeypatch):
    def sums(x, v, lower, upper, scale, *_):
        return (scale / 3) ** 2, 1e-6, 0

    monkeypatch.setattr(roots, "sum_row", sums)
    one, order = np.float64(1), (2.0, 2.0)
    for start in (1.0, 3 - 1e-8, 3 + 1e-8):
        first = sums(X, V, 0.0, 1.0, start)[:2]
        root = roots._newton(*ROW, 1.0, 2.0, one, order, start, *first, 0.5, 100.0, 1e-12, 200)
        assert root == pytest.approx(3, rel=1e-9)


@pytest.mark.parametrize("start", [1.0, 50.0])
def test_a_search_that_creeps_is_halved(monkeypatch, start):
    def sums(x, v, lower, upper, scale, *_):  # the root is 3, by the slope it is far nearer
        return (scale / 3) ** 2, 1e4 if scale < 3 else np.inf, 0

    monkeypatch.setattr(roots, "sum_row", sums)
    one, order = np.float64(1), (2.0, 2.0)
    first = sums(X, V, 0.0, 1.0, start)[:2]
    root = roots._newton(*ROW, 1.0, 2.0, one, order, start, *first, 0.5, 100.0, 1e-12, 200)
    assert root == pytest.approx(3, rel=1e-11)
    assert roots._newton(*ROW, 1.0, 2.0, one, order, start, *first, 0.5, 100.0, 1e-12, 30) == -1


@pytest.mark.parametrize("order", [(1.0,), (2.0, 2.0), (3.0, 3.0, 3.0)], ids=len)
def test_one_step_arrives_where_nothing_is_saturated(order):
    p = order[0]

    def sums(scale):
        return roots.sum_row(X, V, -9.0, 9.0, scale, 1.0, order, None)[:2]

    root = np.sum(np.abs(V[V != 0]) ** p) ** (-1 / p)
    for start in (0.01 * root, 0.9 * root, 1.05 * root):
        found = roots._newton(
            X, V, -9.0, 9.0, 1.0, p, 1.0, order, start, *sums(start), 0.0, np.inf, 1e-12, 2
        )
        assert found == pytest.approx(root, rel=1e-11)


@pytest.mark.parametrize("part", [0.5, 0.999, 1.001, 1.5, 3.0])
def test_what_is_out_of_reach_ends_in_the_far_corner_and_nothing_else_does(part):
    room = np.array([0.8, 0.9, 0, 0, 0.5])
    eps = part * np.linalg.norm(room)
    eta = roots._bracketed(*ROW, eps, (2.0, 2.0), 1e-12)
    if part > 1:
        assert eta == passes.beyond(X)  # where the last, 0.5 away, arrives
    else:
        assert np.linalg.norm(np.minimum(eta * np.abs(V), room)) == pytest.approx(eps, rel=1e-11)


def test_eta_of_directions_below_the_normal_numbers_is_found():
    eta = roots._bracketed(X, 1e-310 * V, -9.0, 9.0, 1e-3, (2.0, 2.0), 1e-12)
    assert eta == pytest.approx(1e-3 / 1e-310 / np.linalg.norm(V), rel=1e-9)


def test_a_long_row_is_looked_at_first_just_beyond_its_root_and_never_in_float64_again(monkeypatch):
    rng = np.random.default_rng(0)
    n, p = 20_000, 2.0
    x, v, m = rng.random(n), rng.normal(size=n), passes.sample_size(n)
    scales = {m: [], n: []}

    def sums(row, *arguments):
        scales[row.size].append(arguments[3])
        return passes.sum_row(row, *arguments)

    monkeypatch.setattr(roots, "sum_row", sums)
    monkeypatch.setattr(roots, "_bracketed", None)
    scratch, eps = (np.empty(m), np.empty(m)), 10.0
    eta, _ = roots.solve_row(x, v, 0.0, 1.0, eps, (p, p), (p, p), 0.0, 1e-12, *scratch)
    # of the sample it comes from below, where nothing is saturated
    assert eps * scales[m][0] < eta < eps * scales[n][0] < 1.2 * eta


def test_the_threshold_of_a_sparse_step_is_guessed_from_a_sample_of_a_long_row(monkeypatch):
    guesses, threshold_of = [], steepest._threshold_of

    def recorded(*arguments):
        guesses.append(arguments[3])
        return threshold_of(*arguments)

    monkeypatch.setattr(steepest, "_threshold_of", recorded)
    x, g = np.full((1, 4096), 0.5), np.random.default_rng(0).normal(size=(1, 4096))
    bounds = np.zeros((1, 1)), np.ones((1, 1))
    given = {"tolerance": 0.0, "counts": np.array([100])}
    found, _ = arrays.steepest(x, g, np.ones(1), 1.0, *bounds, **given)
    *_, (low, high) = guesses  # the first ones are of the sample itself
    assert 0 < low <= np.sort(np.abs(g[0]))[-100] <= high < np.inf
    over, _ = arrays.steepest(x, g, np.ones(1), 1.0, *bounds, **given, overwrite=True)
    assert over is x
    np.testing.assert_array_equal(over, found)


def test_a_step_takes_what_is_not_finite_for_nothing_and_the_scale_of_a_row_for_its_own():
    rng = np.random.default_rng(0)
    x, g = rng.uniform(0.3, 0.7, (4, 40)), rng.normal(size=(4, 40))
    plain = g.copy()
    g[1, :3] = np.nan, np.inf, -np.inf
    plain[1, :3] = 0
    g[2] *= 1e-311  # eta is beyond the numbers; scaled it is not
    g[3] = np.nan
    plain[3] = 0
    bounds = np.zeros((1, 1)), np.ones((1, 1))
    norms = np.linalg.norm(plain, axis=1, keepdims=True)
    expected = x + 0.1 * plain / np.where(norms > 0, norms, 1)
    for overwrite in (False, True):
        found, flags = arrays.steepest(
            x, g.copy(), np.full(4, 0.1), 2.0, *bounds,
            tolerance=0.0, lenient=True, overwrite=overwrite,
        )  # fmt: skip
        assert not flags.any()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    finite = np.empty(5)
    steepest._fill_finite(np.array([-4.0, 1.0, np.nan, np.inf, 2.0]), finite)
    assert list(finite) == [-1, 0.25, 0, 0, 0.5]


def test_kernels_compile_where_no_place_for_their_cache_can_be_written(monkeypatch):
    def njit(**options):
        if options.get("cache"):
            raise RuntimeError("no writable place")
        return lambda function: function

    monkeypatch.setattr(compiling, "njit", njit)
    assert compiling.compiled()(abs) is abs
