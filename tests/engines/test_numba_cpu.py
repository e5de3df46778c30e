"""The compiled CPU engine against float64 references; figures of speed are in experiments/."""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from foolbox_carescale.engines.numba_cpu import arrays as cpu
from foolbox_carescale.engines.numba_cpu import threads
from tests import reference

# Each further p or dtype is compiled for itself; p = 0.3 to 50 without a specialisation share one.
ORDERS = [
    *[(np.float32, p) for p in (0.3, 0.5, 1.0, 1.3, 1.5, 2.0, 2.5, 3.0, 10.0, 50.0, math.inf)],
    *[(np.float64, p) for p in (0.3, 0.5, 1.3, 2.0, 2.5, 10.0, 50.0, math.inf)],
]
ACCURACY = {np.float32: 1e-6, np.float64: 1e-12}
TOLERANCE = {np.float32: 1e-6, np.float64: 1e-12}


def reached(eta, x, delta, p, lower=0.0, upper=1.0) -> np.ndarray:
    with np.errstate(over="ignore"):
        return reference.measured_norm(eta.astype(x.dtype), x, delta, p, lower, upper)


def furthest(x, delta, p, lower=0.0, upper=1.0) -> np.ndarray:
    """The norm at the largest eta of the dtype: R, but for directions that no eta can move."""
    return reached(np.full(len(x), np.finfo(x.dtype).max), x, delta, p, lower, upper)


def scalar(value, dtype) -> np.ndarray:
    return np.full((1, 1), value, dtype)


def solve(x, delta, eps, p, lower=0.0, upper=1.0, tolerance=None) -> np.ndarray:
    dtype = x.dtype.type
    lower, upper = (b if isinstance(b, np.ndarray) else scalar(b, dtype) for b in (lower, upper))
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    eta, flags = cpu.solve(x, delta, eps, p, lower, upper, tolerance=tolerance)
    assert eta.dtype == np.float64
    assert flags.dtype == np.uint8
    assert not flags.any()
    assert np.isfinite(eta.astype(dtype)).all()
    return eta


def assert_exact(eta, x, delta, eps, p, lower=0.0, upper=1.0) -> None:
    wanted = np.minimum(eps, furthest(x, delta, p, lower, upper))
    got = reached(eta, x, delta, p, lower, upper)
    accuracy = ACCURACY[x.dtype.type] * (5 if p < 1 else 1)
    np.testing.assert_allclose(got, wanted, rtol=accuracy, atol=0)


def uniform(rng, shape):
    return rng.random(shape), rng.standard_normal(shape)


def mostly_on_bounds(rng, shape):
    x, delta = uniform(rng, shape)
    return np.where(rng.random(shape) < 0.99, np.round(x), x), delta


def with_directions(draw):
    return lambda rng, shape: (rng.random(shape), draw(rng, shape))


def signs(rng, shape):
    return rng.choice([-1.0, 1.0], shape)


CASES = {
    "uniform": uniform,
    "mostly on bounds": mostly_on_bounds,
    "Cauchy": with_directions(lambda rng, shape: rng.standard_cauchy(shape)),
    "log-uniform 1e-6": with_directions(lambda r, s: signs(r, s) * 10 ** (-6 * r.random(s))),
    "log-uniform 1e-12": with_directions(lambda r, s: signs(r, s) * 10 ** (-12 * r.random(s))),
    "geometric 0.9": with_directions(lambda r, s: signs(r, s) * 0.9 ** np.arange(s[1])),
    "geometric 0.5": with_directions(lambda r, s: signs(r, s) * 0.5 ** np.arange(s[1])),
    "sparse": with_directions(lambda r, s: r.standard_normal(s) * (r.random(s) < 1e-3)),
    "large": with_directions(lambda r, s: r.standard_normal(s) * 1e25),
    "small": with_directions(lambda r, s: r.standard_normal(s) * 1e-25),
}
SHARES = np.array([1e-3, 0.1, 0.5, 0.9, 0.999999, 1.0, 10.0])


@pytest.mark.parametrize(("dtype", "p"), ORDERS)
def test_norm_after_the_clip_is_eps_or_the_largest_within_reach(dtype, p):
    for draw in CASES.values():
        rng = np.random.default_rng(0)
        for n in (1, 10, 700, 5000):
            x, delta = (a.astype(dtype) for a in draw(rng, (len(SHARES), n)))
            eps = SHARES * reference.reachable_norm(x, delta, p)
            assert_exact(solve(x, delta, eps, p), x, delta, eps, p)


@pytest.mark.parametrize(("dtype", "p"), ORDERS)
def test_eta_is_that_of_a_bisection(dtype, p):
    rng = np.random.default_rng(1)
    x, delta = (a.astype(dtype) for a in uniform(rng, (3, 500)))
    eps = np.array([0.01, 0.1, 0.5]) * reference.reachable_norm(x, delta, p)
    # At p = 50 the norm, which is what is exact, hardly depends on some eta.
    accuracy = ACCURACY[dtype] * (100 if p >= 10 else 10)
    np.testing.assert_allclose(
        solve(x, delta, eps, p), reference.bisected_eta(x, delta, eps, p), rtol=accuracy
    )


@pytest.mark.parametrize(
    ("dtype", "p"), [(np.float32, 2.0), (np.float32, math.inf), (np.float64, 2.0)]
)
def test_unreachable_eps_takes_every_coordinate_to_its_bound(dtype, p):
    x, delta = (a.astype(dtype) for a in uniform(np.random.default_rng(2), (4, 1000)))
    eps = 10 * reference.reachable_norm(x, delta, p)
    out, eta, _ = cpu.perturb(
        x, delta, eps, p, scalar(0, dtype), scalar(1, dtype), tolerance=TOLERANCE[dtype]
    )
    np.testing.assert_array_equal(out, (delta > 0).astype(dtype))
    breakpoints = reference.room(x, delta) / np.abs(delta.astype(np.float64))
    np.testing.assert_allclose(eta, breakpoints.max(axis=1), rtol=1e-6)


@pytest.mark.parametrize(("dtype", "p"), ORDERS)
def test_eta_is_zero_where_nothing_is_wanted_or_nothing_can_move(dtype, p):
    x, delta = (a.astype(dtype) for a in uniform(np.random.default_rng(3), (3, 2000)))
    eps = np.array([0.0, 0.1, 0.1])
    delta[1] = 0
    x[2] = delta[2] > 0
    np.testing.assert_array_equal(solve(x, delta, eps, p), 0)


@pytest.mark.parametrize("p", [2.0, math.inf])
def test_bounds_may_differ_by_element_and_be_negative(p):
    rng = np.random.default_rng(4)
    n = 900
    for low, high in (
        (np.full((1, 1), -2.0), np.full((1, 1), 0.5)),
        (rng.uniform(-3, -1, (1, n)), rng.uniform(0, 1, (1, n))),
        (rng.uniform(-3, -1, (5, n)), rng.uniform(0, 1, (5, n))),
        (np.zeros((1, 1)), rng.uniform(0.5, 1, (1, n))),
    ):
        x = low + (high - low) * rng.random((5, n))
        delta = rng.standard_normal((5, n))
        eps = np.array([0.01, 0.1, 0.5, 0.99, 2]) * reference.reachable_norm(x, delta, p, low, high)
        eta = solve(x, delta, eps, p, low, high)
        assert_exact(eta, x, delta, eps, p, low, high)
        out, same, _ = cpu.perturb(x, delta, eps, p, low, high, tolerance=1e-6)
        np.testing.assert_array_equal(same, eta)
        wanted = np.clip(x + eta[:, None] * delta, low, high)
        np.testing.assert_allclose(out, wanted, atol=1e-15)


def test_norm_is_exact_in_a_row_of_twelve_million():
    rng = np.random.default_rng(5)
    x = rng.random((1, 12_000_000), dtype=np.float32)
    delta = rng.standard_normal((1, 12_000_000), dtype=np.float32)
    eps = 0.3 * reference.reachable_norm(x, delta, 2.0)
    got = reached(solve(x, delta, eps, 2.0), x, delta, 2.0)
    np.testing.assert_allclose(got, eps, rtol=1e-6)


@pytest.mark.parametrize("p", [2.0, 0.5, math.inf])
def test_bad_values_are_flagged_row_by_row(p):
    n = 5000
    x, delta = (a.astype(np.float32) for a in uniform(np.random.default_rng(6), (9, n)))
    eps = np.full(9, 0.1)
    x[1, n - 1] = np.nan
    delta[2, 17] = np.nan
    delta[3, 17] = -np.inf
    x[4, 3] = 1 + 1e-4
    x[5, 3], delta[5, 3] = -1e-4, 0  # no room is needed, but the point is wrong all the same
    x[6, 3] = np.inf
    x[7, 3], delta[7, 4], eps[7] = np.nan, np.nan, 0
    x[8, 3], delta[8] = 2, 0
    nan_x, nan_delta, outside = cpu.Flags
    wanted = [0, nan_x, nan_delta, nan_delta, *[outside] * 3, nan_x | nan_delta, outside]
    bounds = scalar(0, np.float32), scalar(1, np.float32)
    eta, flags = cpu.solve(x, delta, eps, p, *bounds, tolerance=1e-5)
    np.testing.assert_array_equal(flags, wanted)
    np.testing.assert_array_equal(eta[1:], 0)
    assert eta[0] > 0
    np.testing.assert_array_equal(cpu.perturb(x, delta, eps, p, *bounds, tolerance=1e-5)[2], wanted)


def test_points_out_of_bounds_by_rounding_count_as_on_the_bound():
    x = np.array([[1 + 1e-6, 0.5, -1e-6]], np.float32)
    delta = np.array([[1, 1, -1]], np.float32)
    np.testing.assert_allclose(solve(x, delta, np.array([0.25]), 2.0, tolerance=1e-5), [0.25])


@pytest.mark.parametrize("p", [2.0, math.inf])
def test_perturb_moves_by_eta_and_clips_in_place_too(p):
    x, delta = (a.astype(np.float32) for a in uniform(np.random.default_rng(7), (50, 3000)))
    eps = np.full(50, 0.3)
    bounds = scalar(0, np.float32), scalar(1, np.float32)
    eta = solve(x, delta, eps, p)
    wanted = np.clip(x + eta.astype(np.float32)[:, None] * delta, 0, 1)
    before = x.copy()
    out, same, flags = cpu.perturb(x, delta, eps, p, *bounds, tolerance=1e-6)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(same, eta)
    assert not flags.any()
    np.testing.assert_allclose(out, wanted, atol=1e-7)
    given = np.empty_like(x)
    assert cpu.perturb(x, delta, eps, p, *bounds, tolerance=1e-6, out=given)[0] is given
    np.testing.assert_array_equal(given, out)
    assert cpu.perturb(x, delta, eps, p, *bounds, tolerance=1e-6, out=x)[0] is x
    np.testing.assert_array_equal(x, out)


def test_any_strides_are_served():
    rng = np.random.default_rng(8)
    wide, tall = rng.random((6, 4000)).astype(np.float32), rng.random((700, 6)).astype(np.float32)
    bounds = scalar(0, np.float32), scalar(1, np.float32)
    eps = np.full(6, 0.7)
    for x in (wide[:, 100:800], wide[::2, :700].repeat(2, axis=0), wide[::-1, 7:707], tall.T):
        delta = (x - 0.4).T.copy().T
        wanted = solve(x.copy(order="C"), delta.copy(order="C"), eps, 2.0)
        np.testing.assert_array_equal(solve(x, delta, eps, 2.0), wanted)
    row = np.broadcast_to(wide[0], wide.shape)
    np.testing.assert_array_equal(
        solve(row, wide - 0.5, eps, 2.0), solve(row.copy(), wide - 0.5, eps, 2.0)
    )
    x, delta = wide[:, 100:800], wide[:, 200:900] - 0.5
    wanted, _, _ = cpu.perturb(x, delta, eps, 2.0, *bounds, tolerance=1e-6)
    for base in (np.zeros((6, 900), np.float32), np.zeros((900, 6), np.float32).T):
        out = base[:, 100:800]
        cpu.perturb(x, delta, eps, 2.0, *bounds, tolerance=1e-6, out=out)
        np.testing.assert_array_equal(out, wanted)
        assert not base[:, :100].any()
        assert not base[:, 800:].any()
    cpu.perturb(x, delta, eps, 2.0, *bounds, tolerance=1e-6, out=x)
    np.testing.assert_array_equal(x, wanted)


def test_read_only_arrays_are_served_without_compiling_again():
    x, delta, eps = (a.astype(np.float64) for a in batch(14, rows=4))
    bounds = np.zeros((1, 3072)), np.ones((1, 3072))
    wanted = solve(x, delta, eps, 2.0), solve(x, delta, eps, 2.0, *bounds)
    compiled = len(cpu.kernels.solve_rows.signatures)
    for array in (x, delta, eps, *bounds):
        array.flags.writeable = False
    np.testing.assert_array_equal(solve(x, delta, eps, 2.0), wanted[0])
    np.testing.assert_array_equal(solve(x, delta, eps, 2.0, *bounds), wanted[1])
    assert solve(x[:, :9], delta[:, :9], eps, 2.0).shape == (4,)
    assert len(cpu.kernels.solve_rows.signatures) == compiled
    with pytest.raises(ValueError, match="read-only"):
        cpu.perturb(
            x, delta, eps, 2.0, scalar(0, np.float32), scalar(1, np.float32), tolerance=0, out=x
        )


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_empty_batches_are_served(shape):
    x = np.zeros(shape, np.float32)
    eps = np.ones(shape[0])
    bounds = scalar(0, np.float32), scalar(1, np.float32)
    np.testing.assert_array_equal(solve(x, x, eps, 2.0), np.zeros(shape[0]))
    found, eta, flags = cpu.perturb(x, x, eps, 2.0, *bounds, tolerance=0)
    assert found.shape == shape
    np.testing.assert_array_equal([eta, flags], np.zeros((2, shape[0])))
    _, to_v, to_eps = cpu.gradients(x, x, eps, eps, 2.0, *bounds, eps)
    assert to_v.shape == shape
    np.testing.assert_array_equal(to_eps, np.zeros(shape[0]))
    for p in (1.0, 2.0):
        found, flags = cpu.steepest(x, x, eps, p, *bounds, tolerance=0)
        assert found.shape == shape
        assert not flags.any()
        options = {"tolerance": 0, "sphere": False, "momentum": None}
        found, threshold, *_ = cpu.project(x, x, eps, p, *bounds, **options)
        assert found.shape == shape
        np.testing.assert_array_equal(threshold, np.zeros(shape[0]))


@pytest.mark.parametrize("p", [0.5, 2.0, 2.5, math.inf])
def test_gradients_are_those_of_central_differences(p):
    rng = np.random.default_rng(9)
    x, delta = uniform(rng, (4, 30))
    x = 0.02 + 0.96 * x
    eps = np.array([0.05, 0.3, 0.6, 0.8]) * reference.reachable_norm(x, delta, p)
    weights = rng.standard_normal(4)
    bounds = scalar(0, np.float64), scalar(1, np.float64)
    eta = solve(x, delta, eps, p)
    grad_x, grad_delta, grad_eps = cpu.gradients(x, delta, eps, eta, p, *bounds, weights)
    step = 1e-6

    def slope(change_x, change_delta, change_eps):
        ends = (
            solve(x + s * change_x, delta + s * change_delta, eps + s * change_eps, p)
            for s in (step, -step)
        )
        return weights * (next(ends) - next(ends)) / (2 * step)

    scale = np.abs(weights) * eta
    np.testing.assert_allclose(grad_eps, slope(0, 0, 1), rtol=1e-4)
    for j in range(30):
        unit = np.zeros_like(x)
        unit[:, j] = 1
        np.testing.assert_array_less(np.abs(grad_x[:, j] - slope(unit, 0, 0)), 1e-4 * (1 + scale))
        difference = np.abs(grad_delta[:, j] - slope(0, unit, 0))
        np.testing.assert_array_less(difference, 2e-4 * (np.abs(grad_delta[:, j]) + 1 + scale))
    # eta is homogeneous of degree -1 in delta
    np.testing.assert_allclose((delta * grad_delta).sum(axis=1), -weights * eta, rtol=1e-8)


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, math.inf])
def test_gradients_are_zero_where_eta_cannot_change_and_never_nan(p):
    rng = np.random.default_rng(10)
    x, delta = (a.astype(np.float32) for a in mostly_on_bounds(rng, (7, 1000)))
    delta[:, ::7] = 0
    delta[1] = 0
    x[2] = delta[2] > 0
    eps = 0.5 * reference.reachable_norm(x, delta, p)
    eps[3], eps[4] = 0, 10 * eps[4]
    delta[5] *= 1e-30
    bounds = scalar(0, np.float32), scalar(1, np.float32)
    eps[1:3] = 1
    eta = solve(x, delta, eps, p)
    grad_x, grad_delta, grad_eps = cpu.gradients(x, delta, eps, eta, p, *bounds, np.ones(7))
    for grad in (grad_x, grad_delta, grad_eps):
        assert np.isfinite(grad).all()
        assert not grad[1:5].any()
    for row in (0, 6):
        assert grad_x[row].any() or p == math.inf
        assert grad_delta[row].any()
        assert grad_eps[row] > 0


def test_gradient_for_the_maximum_norm_is_shared_by_ties():
    x = np.full((1, 4), 0.5)
    delta = np.array([[2.0, -2.0, 1.0, 5.0]])
    x[0, 3] = 0.99  # the largest, but with less room than eps
    bounds = scalar(0, np.float64), scalar(1, np.float64)
    eps = np.array([0.25])
    eta = solve(x, delta, eps, math.inf)
    np.testing.assert_allclose(eta, [0.125])
    grads = cpu.gradients(x, delta, eps, eta, math.inf, *bounds, np.array([3.0]))
    np.testing.assert_array_equal(grads[0], 0)
    np.testing.assert_allclose(grads[1], 3 * np.array([[-0.03125, 0.03125, 0, 0]]))
    np.testing.assert_allclose(grads[2], [1.5])


@pytest.fixture
def four_threads():
    before = cpu.get_num_threads()
    cpu.set_num_threads(4)
    yield
    cpu.set_num_threads(before)


def batch(seed, rows=64):
    x, delta = (a.astype(np.float32) for a in uniform(np.random.default_rng(seed), (rows, 3072)))
    return x, delta, np.full(rows, 1.0)


def test_threads_do_not_change_the_result(four_threads):
    x, delta, eps = batch(11)
    assert x.size > threads.MIN_WORK
    shared = solve(x, delta, eps, 2.0)
    cpu.set_num_threads(1)
    np.testing.assert_array_equal(shared, solve(x, delta, eps, 2.0))


def test_eight_threads_may_call_at_once(four_threads):
    batches = [batch(seed) for seed in range(8)]
    wanted = [solve(*b, 2.0) for b in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            got = pool.map(lambda b: solve(*b, 2.0), batches)
            for eta, known in zip(got, wanted, strict=True):
                np.testing.assert_array_equal(eta, known)


def test_threads_that_came_too_late_keep_no_arrays(four_threads):
    held = np.ones(3)
    known, done = weakref.ref(held), threading.Event()
    busy = threads._submit(done.wait, 3)
    threads.spread(lambda first, last, held=held: None, 4, threads.MIN_WORK)
    del held
    kept = known() is not None
    done.set()
    assert all(helper.result() for helper in busy)
    assert not kept


def _solve_in_child(wanted) -> None:
    np.testing.assert_array_equal(solve(*batch(12), 2.0), wanted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")
def test_a_forked_child_has_a_pool_of_its_own(four_threads):
    wanted = solve(*batch(12), 2.0)
    child = multiprocessing.get_context("fork").Process(target=_solve_in_child, args=(wanted,))
    child.start()
    child.join(60)
    alive = child.is_alive()
    child.kill()
    assert not alive, "the child waits for threads that it does not have"
    assert child.exitcode == 0
    np.testing.assert_array_equal(solve(*batch(12), 2.0), wanted)


def test_an_exception_in_a_thread_reaches_the_caller(four_threads):
    def fail(first: int, last: int) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        threads.spread(fail, 100, threads.MIN_WORK)


def test_number_of_threads_comes_from_the_environment_or_the_affinity(monkeypatch):
    monkeypatch.setenv(threads.ENVIRONMENT_VARIABLE, "3")
    assert threads._default() == 3
    monkeypatch.setenv(threads.ENVIRONMENT_VARIABLE, "many")
    with pytest.raises(ValueError, match="CARESCALE_NUM_THREADS"):
        threads._default()
    monkeypatch.delenv(threads.ENVIRONMENT_VARIABLE)
    assert 1 <= threads._default() <= threads.MAX_DEFAULT
    with pytest.raises(ValueError, match="at least 1"):
        cpu.set_num_threads(0)


@pytest.mark.skipif(sys.platform == "win32", reason="tracemalloc sees other allocations there")
def test_extra_memory_is_a_small_part_of_the_batch():
    import tracemalloc

    x, delta, eps = batch(13)
    solve(x, delta, eps, 2.0)
    tracemalloc.start()
    solve(x, delta, eps, 2.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * x.nbytes


@pytest.mark.parametrize("size", [1e-140, 1e-160, 1e-200])
def test_direction_and_eps_that_are_tiny_together_are_solved(size):
    delta = np.array([[0.0, size]])
    low, high = np.full((1, 1), -1.0), np.full((1, 1), 1.0)
    eta, flags = cpu.solve(np.zeros((1, 2)), delta, np.array([size]), 1, low, high, tolerance=0.0)
    np.testing.assert_allclose(eta, 1.0, rtol=1e-12)
    assert not flags.any()
