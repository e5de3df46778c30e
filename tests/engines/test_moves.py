"""The moves of an attack in one pass, against the operators that take one pass each."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from foolbox_carescale import engines, perturb, project, steepest_step
from foolbox_carescale.attacks import steps
from foolbox_carescale.engines.numba_cpu import arrays as cpu

SIZES = {1: 20.0, 1.5: 3.0, 2: 1.0, 2.5: 0.7, 3: 0.5, math.inf: 0.1}
each_p = pytest.mark.parametrize("p", SIZES)
DTYPES = np.float32, np.float64
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_n = pytest.mark.parametrize("n", [7, 3000, 40_000])  # all of a row, or a sample of it first


def problem(n, dtype, seed=0, rows=3):
    rng = np.random.default_rng(seed)
    x = rng.random((rows, n)).astype(dtype)
    x[rng.random(x.shape) < 0.2] = 0
    return x, rng.standard_normal((rows, n)).astype(dtype)


def size(p, n):
    return SIZES[p] * (n / 3000) ** (0 if p == math.inf else 1 / p)


def close(dtype):
    return {"rtol": 0, "atol": 5e-6 if dtype == np.float32 else 1e-12}


@pytest.fixture
def without_numba(monkeypatch):
    def call(function, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(engines.numba_cpu, "_HAS_NUMBA", False)
            return function(*args, **kwargs)

    return call


@each_p
@each_n
def test_steepest_step_is_that_of_the_eager_engine(p, n, without_numba):
    for dtype in DTYPES:
        x, g = problem(n, dtype)
        expected = without_numba(steepest_step, x, g, size(p, n), p=p)
        np.testing.assert_allclose(steepest_step(x, g, size(p, n), p=p), expected, **close(dtype))


@each_p
@each_n
def test_projection_is_that_of_the_eager_engine(p, n, without_numba):
    for dtype, far in itertools.product(DTYPES, (0.02, 1.0)):
        x0, v = problem(n, dtype)
        x = x0 + dtype(far) * v
        expected = without_numba(project, x, x0, size(p, n), p=p)
        np.testing.assert_allclose(project(x, x0, size(p, n), p=p), expected, **close(dtype))


PAIRWISE = ((0.002, None, True), (0.002, 0.25, False), (1.0, None, False), (1.0, 0.25, True))


@each_p
@each_n
def test_constraint_is_momentum_then_projection_then_growth(p, n, without_numba):
    x0, v = problem(n, np.float64)
    for far, momentum, sphere in PAIRWISE:
        z, now, before = (
            np.clip(x0 + far * problem(n, np.float64, seed)[1], -0.1, 1.1) for seed in (1, 2, 3)
        )
        mix = None if momentum is None else (momentum, ep(now), ep(before))
        arguments = {"p": p, "bounds": (0, 1), "direction": ep(v), "eps": size(p, n)}
        arguments |= {"sphere": sphere, "momentum": mix}
        expected = without_numba(steps.enforce_constraint, ep(z.copy()), ep(x0), **arguments).raw
        found = steps.enforce_constraint(ep(z.copy()), ep(x0), **arguments).raw
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


@each_p
def test_both_projections_around_momentum_are_one_after_the_other(p):
    x0, v = problem(3000, np.float32)
    z, now, before = (
        np.clip(x0 + 0.1 * problem(3000, np.float32, seed)[1], 0, 1).astype(np.float32)
        for seed in (1, 2, 3)
    )
    mix = 0.25, ep(now), ep(before)
    for sphere in (True, False):
        arguments = {"p": p, "bounds": (0, 1), "direction": ep(v), "eps": size(p, 3000)}
        arguments["sphere"] = sphere
        once = steps.enforce_constraint(ep(z.copy()), ep(x0), **arguments)
        expected = steps.enforce_constraint(once, ep(x0), **arguments, momentum=mix).raw
        found = steps.enforce_constraint(
            ep(z.copy()), ep(x0), **arguments, momentum=mix, twice=True
        ).raw
        np.testing.assert_array_equal(found, expected)


@each_p
def test_step_in_memory_of_the_gradient_is_the_same(p, without_numba):
    x, g = problem(3000, np.float32)
    g[0, 7], g[2] = np.nan, 1e-44  # counts as 0; a gradient too small for a factor
    g[0, 9] = -np.inf
    arguments = {"p": p, "bounds": (0, 1)}
    expected = without_numba(steps.step, ep(x), ep(g), size(p, 3000), **arguments).raw
    given = g.copy()
    found = steps.step(ep(x), ep(given), size(p, 3000), **arguments, overwrite=True).raw
    np.testing.assert_allclose(found, expected, **close(np.float32))
    assert np.shares_memory(found, given) == (1 < p < math.inf)
    if not np.shares_memory(found, given):
        np.testing.assert_array_equal(given, g)
    np.testing.assert_array_equal(steps.step(ep(x), ep(g), size(p, 3000), **arguments).raw, found)
    assert np.isnan(g[0, 7])


@each_p
def test_sphere_ends_at_eps_in_float32(p):
    x0, v = problem(40_000, np.float32)
    eps = size(p, 40_000)
    for far in (0.001, 1.0):
        z = steps.enforce_constraint(
            ep(x0 + np.float32(far) * v),
            ep(x0),
            eps,
            p=p,
            bounds=(0, 1),
            sphere=True,
            direction=ep(v),
        ).raw
        norms = [np.linalg.norm(row, p) for row in (z - x0).astype(np.float64)]
        np.testing.assert_allclose(norms, eps, rtol=2e-6)


@each_dtype
@each_n
def test_sparse_step_moves_the_largest_gradients_that_can_move(dtype, n):
    x, g = problem(n, dtype)
    g[:, 1] = g[:, 0]  # a tie
    counts = np.array([1, 3, n // 3])
    lengths = ep((0.01 * counts).astype(dtype))
    moved = steps.sparse_step(ep(x), ep(g), lengths, counts, bounds=(0, 1)).raw
    can_move = np.where(g > 0, x < 1, x > 0)
    gain = np.where(can_move, np.abs(g), 0)
    for i, count in enumerate(counts):
        least = np.sort(gain[i])[-count]
        np.testing.assert_array_equal(moved[i] != x[i], gain[i] >= least)
        assert np.abs(moved[i] - x[i]).astype(float).sum() == pytest.approx(0.01 * count, rel=1e-4)


@each_n
def test_sparse_step_in_memory_of_the_points_is_the_same(n):
    x, g = problem(n, np.float32)
    g[0, 2], g[1] = np.nan, 1e-44  # counts as 0; a gradient too small for a factor
    counts = np.array([1, 3, n // 3])
    gradient, arguments = ep(torch.from_numpy(g)), {"counts": counts, "bounds": (0, 1)}
    expected = steps.sparse_step(ep(torch.from_numpy(x)), gradient, 0.5, **arguments).raw
    points = torch.from_numpy(x.copy())
    found = steps.sparse_step(ep(points), gradient, 0.5, **arguments, overwrite=True).raw
    assert found.data_ptr() == points.data_ptr()
    assert torch.equal(found, expected)
    assert np.isnan(g[0, 2])

    points = torch.from_numpy(x.copy())
    kept = points.detach()  # as by a model
    found = steps.sparse_step(ep(points), gradient, 0.5, **arguments, overwrite=True).raw
    assert torch.equal(found, expected)
    np.testing.assert_array_equal(kept, x)

    steps.sparse_step(ep(before := x.copy()), ep(g), 0.5, **arguments, overwrite=True)
    np.testing.assert_array_equal(before, x)  # an array's memory may be anybody's


def test_sparse_step_takes_all_where_few_can_move():
    x, g = np.zeros((1, 6), np.float32), -np.ones((1, 6), np.float32)
    g[0, 2] = 1
    moved = steps.sparse_step(ep(x), ep(g), 0.5, np.array([4]), bounds=(0, 1)).raw
    np.testing.assert_allclose(moved, [[0, 0, 0.5, 0, 0, 0]], atol=1e-6)


def test_sparse_perturbation_without_room_takes_the_next_gradients():
    x0 = np.full((1, 4), 0.5, np.float64)
    z, direction = x0.copy(), np.array([[4.0, 3.0, 2.0, 1.0]])
    z[0, 0] = 0.9
    found = steps.enforce_constraint(
        ep(z), ep(x0), 1.2, p=1, bounds=(0, 1), sphere=True, direction=ep(direction)
    ).raw
    np.testing.assert_allclose(found, [[1.0, 1.0, 0.7, 0.5]], atol=1e-12)


def test_only_memory_of_the_attack_is_written():
    x0, v = problem(3000, np.float32)
    target = x0 + v
    kept = x0.copy(), target.copy()
    project(target, x0, 1.0, p=1)
    steepest_step(x0, v, 1.0, p=2)
    np.testing.assert_array_equal(kept[0], x0)
    np.testing.assert_array_equal(kept[1], target)


def test_gradient_too_small_for_a_factor_still_gives_a_whole_step():
    x = np.full((1, 10), 0.5, np.float32)
    g = np.full((1, 10), 1e-44, np.float32)
    moved = steepest_step(x, g, 0.1, p=2)
    assert np.linalg.norm((moved - x).astype(float)) == pytest.approx(0.1, rel=1e-5)


def test_bounds_per_element_and_rows_of_a_larger_array():
    rng = np.random.default_rng(0)
    big = rng.random((4, 90))
    x0, z = big[:, :40], big[:, 45:85] * 2
    lower, upper = np.zeros((1, 40)), np.linspace(1.0, 2.0, 40)[None]
    for p in (2, math.inf):  # 1 would be compiled for long
        found = project(z, x0, 0.3, p=p, bounds=(lower, upper))
        expected = project(
            np.ascontiguousarray(z), np.ascontiguousarray(x0), 0.3, p=p, bounds=(lower, upper)
        )
        np.testing.assert_array_equal(found, expected)
        assert (found <= upper).all()


def test_flags_tell_what_is_wrong_with_a_row():
    x, g = problem(50, np.float32)
    g[1, 3] = np.nan
    x[2, 0] = 7
    low, high = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    for p in SIZES:
        _, flags = cpu.steepest(x, g, np.full(3, 0.1), p, low, high, tolerance=1e-6)
        assert list(flags) == [0, cpu.Flags.NAN_DELTA, cpu.Flags.OUT_OF_BOUNDS]


def test_growth_starts_where_the_projection_ends():
    x0, v = problem(3000, np.float64)
    z = x0 + 1e-3 * v
    grown = perturb(x0, project(z, x0, 20.0, p=1) - x0, 20.0, p=1)
    found = steps.enforce_constraint(
        ep(z.copy()), ep(x0), 20.0, p=1, bounds=(0, 1), sphere=True, direction=ep(v)
    ).raw
    np.testing.assert_allclose(found, grown, atol=1e-12)


@each_dtype
@each_n
def test_sum_of_gradients_is_that_of_the_eager_engine(dtype, n, without_numba):
    gradients = [problem(n, dtype, seed)[1] * dtype(10.0 ** (5 * seed - 5)) for seed in range(3)]
    gradients[1][0, :2] = np.nan, -np.inf
    gradients[2][1] = 0
    expected = found = None
    for g in gradients:
        expected = without_numba(steps.accumulate, expected, 0.3, ep(g))
        found = steps.accumulate(found, 0.3, ep(g.copy()))
        rounding = 100 * np.finfo(dtype).eps * np.abs(expected.raw).max()
        np.testing.assert_allclose(found.raw, expected.raw, rtol=0, atol=rounding)
    assert np.isfinite(found.raw).all()


def test_sum_of_gradients_whose_norm_overflows_keeps_their_unit_length():
    g = np.full((2, 5000), 1e38, np.float32)
    g[1] = 1
    unit = steps.accumulate(None, 0.3, ep(g)).raw
    np.testing.assert_allclose(np.abs(unit).sum(1), 1, rtol=1e-5)


def test_sum_of_gradients_in_a_memory_format_of_its_own():
    g = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    total = steps.accumulate(None, 0.5, ep(g))
    total = steps.accumulate(total, 0.5, ep(g))
    size = g.abs().sum((1, 2, 3), keepdim=True)
    torch.testing.assert_close(total.raw, 1.5 * g / size)


@each_p
def test_constraint_of_what_is_not_finite_is_refused(p):
    x0, v = problem(5000, np.float64)
    for bad in (np.nan, np.inf):
        z = x0 + 0.1 * v
        z[1, 4500] = bad
        with pytest.raises(ValueError, match=r": 1 of 15000 values are NaN or infinite"):
            steps.enforce_constraint(
                ep(z), ep(x0), 1.0, p=p, bounds=(0, 1), sphere=True, direction=ep(v)
            )


def ep(array):
    import eagerpy

    return eagerpy.astensor(array)
