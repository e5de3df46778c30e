"""The compiled kernels on rows that are short enough to run them as plain Python, too."""

import math

import numpy as np
import pytest

from foolbox_carescale.engines.numba_cpu import arrays as cpu
from tests import reference, solver
from tests.engines.hard import ORDERS, Problem

CONVEX = (1.0, 1.3, 1.5, 2.0, 3.0, math.inf)
# one bound for all, bounds by coordinate, bounds by coordinate and row
BOXES = [
    (0.0, 1.0),
    (-np.linspace(0, 1, 6)[None], np.linspace(1, 2, 6)[None]),
    (-np.ones((5, 6)), 0.5 + np.arange(30.0).reshape(5, 6) / 30),
]
each_convex = pytest.mark.parametrize("p", CONVEX)


def in_boxes(orders):
    """Every order in one box; in the others, for which all is compiled once more, two of them."""
    rest = [(p, box) for p in (2.0, math.inf) for box in (1, 2)]
    return pytest.mark.parametrize(("p", "box"), [*((p, 0) for p in orders), *rest])


def arrays(box, dtype=np.float64):
    return tuple(np.array(b, dtype, ndmin=2) for b in box)


def points(box=(0.0, 1.0), n=6, seed=0):
    """Some of the points are on a bound, some directions 0 or the largest out of the box."""
    rng = np.random.default_rng(seed)
    x, v = rng.uniform(size=(5, n)), rng.normal(size=(5, n))
    x[:, 0], v[:, 1], v[1, 0], x[1, 2:4], v[2, 3] = 1.0, 0.0, 100.0, (0.0, 1.0), -v[2, 2]
    x[2:4, 1] = 0.0, 1.0
    lower, upper = box
    return lower + x * (upper - lower), v


def fractions_of(x, v, p, box):
    return np.array([0.05, 0.3, 0.8, 0.99, 2.0]) * reference.reachable_norm(x, v, p, *box)


def solve(x, v, eps, p, box=(0.0, 1.0), tolerance=1e-6):
    eta, flags = cpu.solve(x, v, eps, p, *arrays(box, x.dtype), tolerance=tolerance)
    assert not flags.any()
    return eta


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norm_is_exact_in_hard_cases(p, dtype):
    for length in (1, 7):
        problem = Problem(p, dtype, length=length)
        eta = solve(problem.x, problem.delta, problem.eps[:, 0].astype(float), p)
        problem.check(eta.astype(dtype)[:, None])


@pytest.mark.parametrize("p", [0.7, 2.5, 4.0])
def test_norm_is_exact_for_orders_that_no_kernel_is_written_for(p):
    problem = Problem(p, "float64", length=9, cases=("uniform", "cauchy"))
    eta = solve(problem.x, problem.delta, problem.eps[:, 0].astype(float), p)
    problem.check(eta[:, None])


@pytest.mark.parametrize("p", [0.5, 1.3, 2.0, math.inf])
def test_norm_is_exact_where_a_sample_of_the_row_comes_first(p):
    problem = Problem(p, "float64", length=200, cases=("uniform", "cauchy", "mostly zero"))
    eta = solve(problem.x, problem.delta, problem.eps[:, 0].astype(float), p)
    problem.check(eta[:, None])


@pytest.mark.parametrize("p", [2.0, math.inf])
def test_rows_longer_than_a_block_are_summed_to_their_end(p):
    problem = Problem(p, "float64", length=4100, cases=("uniform",))
    x, v = problem.x[1:4], problem.delta[1:4]
    v[:, 4096:] *= 10  # what is at the end decides
    eps = 0.3 * reference.reachable_norm(x, v, p)
    eta = solve(x, v, eps, p)
    np.testing.assert_allclose(reference.measured_norm(eta, x, v, p), eps, rtol=1e-12)
    to_x, to_v, to_eps = cpu.gradients(x, v, eps, eta, p, *arrays((0.0, 1.0)), np.ones(3))
    for gradient, truth in zip(
        (to_x, to_v, to_eps), reference.eta_gradients(x, v, eps, p), strict=True
    ):
        np.testing.assert_allclose(gradient, truth, rtol=1e-8, atol=1e-12)
    x[0, 4099] = np.nan
    _, flags = cpu.solve(x, v, eps, p, *arrays((0.0, 1.0)), tolerance=1e-6)
    assert list(flags) == [cpu.Flags.NAN_X, 0, 0]


@pytest.mark.parametrize("p", [2.0, math.inf])
def test_out_of_reach_is_the_far_corner_to_the_last_digit(p):
    rng = np.random.default_rng(3)
    x, v = rng.random((1, 300), np.float32), rng.standard_normal((1, 300)).astype(np.float32)
    bounds = arrays((0.0, 1.0), np.float32)
    found, _, _ = cpu.perturb(x, v, np.full(1, 1e3), p, *bounds, tolerance=0.0)
    np.testing.assert_array_equal(found, v > 0)


@pytest.mark.parametrize("p", [1.3, 2.0])
def test_an_eps_beyond_float32_ends_in_the_far_corner(p):
    x, v = np.full((1, 2), 0.5, np.float32), np.array([[1.0, -2.0]], np.float32)
    assert solve(x, v, np.array([1e50]), p) == pytest.approx(0.5, rel=1e-6)


def test_what_has_just_the_room_for_eps_decides_with_the_others_that_have():
    x, v = np.array([[0.75, 0.5, 0.25, 0.5]]), np.array([[2.0, -2.0, -2.0, 1.0]])
    eps, bounds = np.array([0.25]), arrays((0.0, 1.0))
    assert solve(x, v * [2, 1, 1, 1], eps, math.inf) == 0.0625
    eta = solve(x, v, eps, math.inf)
    assert eta == 0.125
    _, to_v, to_eps = cpu.gradients(x, v, eps, eta, math.inf, *bounds, np.ones(1))
    np.testing.assert_allclose(to_v, [[-1 / 48, 1 / 48, 1 / 48, 0]], rtol=1e-12)
    assert to_eps == 0.5


def test_flags_are_bits():
    assert [int(flag) for flag in cpu.Flags] == [1, 2, 4]


@in_boxes(ORDERS)
def test_points_are_the_clipped_ones_and_in_place_the_same(p, box):
    box = BOXES[box]
    x, v = points(box)
    eps = fractions_of(x, v, p, box)
    kept, bounds = x.copy(), arrays(box)
    found, eta, flags = cpu.perturb(x, v, eps, p, *bounds, tolerance=1e-6)
    assert not flags.any()
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(eta, solve(x, v, eps, p, box))
    size = reference.measured_norm(eta, x, v, p, *box)
    reach = reference.reachable_norm(x, v, p, *box)
    np.testing.assert_allclose(size, np.minimum(eps, reach), rtol=1e-11)
    wanted = np.clip(x + eta[:, None] * v, *box)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-15)
    assert cpu.perturb(x, v, eps, p, *bounds, tolerance=1e-6, out=x)[0] is x
    np.testing.assert_array_equal(x, found)


@in_boxes((0.5, *CONVEX))
def test_gradient_of_eta_is_the_closed_form(p, box):
    box = BOXES[box]
    x, v = points(box)
    eps = fractions_of(x, v, p, box)
    cotangent = np.array([1.0, -2.0, 3.0, 0.5, 1.0])
    eta = solve(x, v, eps, p, box)
    found = cpu.gradients(x, v, eps, eta, p, *arrays(box), cotangent)
    box4 = [np.broadcast_to(b, x.shape)[:4] for b in box]
    expected = reference.eta_gradients(x[:4], v[:4], eps[:4], p, *box4)
    live = reference.room(x, v, *box) > 0  # without room only a one-sided derivative exists
    for gradient, truth in zip(found, expected, strict=True):
        truth = truth * cotangent[:4].reshape(-1, *(1,) * (truth.ndim - 1))
        mask = live[:4] if p == 1 and truth.ndim == 2 else True
        difference = np.where(mask, gradient[:4] - truth, 0.0)
        assert np.all(np.abs(difference) <= 1e-9 * np.abs(truth) + 1e-12)
        np.testing.assert_array_equal(gradient[4], 0)  # out of reach
    for gradient in found[:2]:
        np.testing.assert_array_equal(gradient[v == 0], 0)
    nothing = cpu.gradients(x, v, 0 * eps, 0 * eta, p, *arrays(box), cotangent)
    for gradient in nothing:
        np.testing.assert_array_equal(gradient, 0)


@in_boxes((0.5, *CONVEX))
def test_gradient_of_the_points_is_that_of_eta_and_of_what_moves(p, box):
    box = BOXES[box]
    x, v = points(box)
    eps = fractions_of(x, v, p, box)
    cotangent = np.random.default_rng(1).normal(size=x.shape)
    eta = solve(x, v, eps, p, box)
    found = cpu.gradients(x, v, eps, eta, p, *arrays(box), cotangent)
    room = reference.room(x, v, *box)
    moves = (eta[:, None] * np.abs(v) < room) | (v == 0)
    weight = (cotangent * v * moves).sum(axis=1)
    to_x, to_v, to_eps = cpu.gradients(x, v, eps, eta, p, *arrays(box), weight)
    np.testing.assert_allclose(found[0], to_x + cotangent * moves, rtol=1e-9, atol=1e-12)
    through = to_v + eta[:, None] * cotangent * moves
    np.testing.assert_allclose(found[1], through, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[2], to_eps, rtol=1e-12)


@in_boxes(CONVEX)
def test_no_step_gains_more(p, box):
    box = BOXES[box]
    x, g = points(box)
    eps = fractions_of(x, g, p, box)
    found, flags = cpu.steepest(x, g, eps, p, *arrays(box), tolerance=1e-6)
    assert not flags.any()
    lower, upper = (np.broadcast_to(b, x.shape) for b in box)
    assert np.all((found >= lower) & (found <= upper))
    room = reference.room(x, g, *box)
    assert np.all(reference.norm(found - x, p) <= eps * (1 + 1e-12))
    np.testing.assert_array_equal(found[g == 0], x[g == 0])
    for i in range(5):
        best = solver.most_gain(g[i], room[i], eps[i], p)
        assert g[i] @ (found - x)[i] == pytest.approx(best, rel=1e-9)


def test_sparse_step_takes_all_of_a_tie():
    x, g = np.full((2, 4), 0.5), np.array([[3.0, -2.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    found, _ = cpu.steepest(
        x, g, np.full(2, 0.3), 1, *arrays((0.0, 1.0)), tolerance=0.0, counts=np.array([2.0, 1.0])
    )
    np.testing.assert_allclose(found - x, [[0.1, -0.1, 0.1, 0], [0.075] * 4])


@pytest.mark.parametrize("counts", [None, np.ones(1)])
def test_step_of_one_coordinate(counts):
    x, g = np.array([[0.5]]), np.array([[-1e-3]])
    for eps, end in ((0.25, 0.25), (2.0, 0.0)):
        found, flags = cpu.steepest(
            x, g, np.array([eps]), 1, *arrays((0.0, 1.0)), tolerance=0.0, counts=counts
        )
        assert not flags.any()
        assert found.item() == pytest.approx(end, abs=1e-12)


@pytest.mark.parametrize("n", [6, 300])
def test_sparse_step_goes_evenly_along_the_largest_gradients_that_can_move(n):
    x, g = points(n=n)
    counts = np.array([1, 2, 2, 3, n], float)
    eps = 1e-3 * counts
    found, flags = cpu.steepest(x, g, eps, 1, *arrays((0.0, 1.0)), tolerance=1e-6, counts=counts)
    assert not flags.any()
    gain = np.where(reference.room(x, g) > 0, np.abs(g), 0.0)
    for i, count in enumerate(counts.astype(int)):
        least = max(np.sort(gain[i])[-count], 1e-300)
        chosen = gain[i] >= least
        np.testing.assert_array_equal(found[i] != x[i], chosen)
        moved = np.where(chosen, np.sign(g[i]) * eps[i] / chosen.sum(), 0.0)
        np.testing.assert_allclose(found[i] - x[i], moved, atol=1e-3 if i == 4 else 1e-12)
        assert np.abs(found[i] - x[i]).sum() == pytest.approx(eps[i])


def constrained(x, x0, eps, p, box, **options):
    options = {"sphere": False, "momentum": None, **options}
    bounds = arrays(box)
    point, threshold, missing, flags = cpu.project(
        x0, x.copy(), eps, p, *bounds, tolerance=1e-6, **options
    )
    assert not flags.any()
    return point, threshold, missing


@in_boxes((1.0, 2.0, math.inf))
def test_no_point_of_ball_and_box_is_nearer(p, box):
    box = BOXES[box]
    x0, v = points(box)
    x = x0 + 0.5 * v
    eps = np.array([0.05, 0.3, 0.8, 1.0, 2.0]) * reference.norm(np.clip(x, *box) - x0, p)
    z, threshold, _ = constrained(x, x0, eps, p, box)
    lower, upper = (np.broadcast_to(b, x.shape) for b in box)
    assert np.all((z >= lower) & (z <= upper))
    assert np.all(reference.norm(z - x0, p) <= eps * (1 + 1e-12))
    for i in range(5):
        least = solver.least_distance(x[i], x0[i], eps[i], p, lower[i], upper[i])
        assert np.sum((z[i] - x[i]) ** 2) / 2 == pytest.approx(least, abs=1e-9)
    if p == 1:
        assert np.all(threshold[:3] > 0)
        assert threshold[4] == 0
        room = reference.room(x0, x - x0, *box)
        shrunk = np.clip(np.abs(x - x0) - threshold[:, None], 0, room).sum(axis=1)
        np.testing.assert_allclose(shrunk[:3], eps[:3], rtol=1e-11)


def test_projection_onto_the_centre_takes_off_just_less_than_the_largest():
    x0, v = points()
    z, threshold, _ = constrained(x0 + 0.1 * v, x0, np.zeros(5), 1, (0.0, 1.0))
    np.testing.assert_array_equal(z, x0)
    largest = np.where(reference.room(x0, v) > 0, np.abs(x0 + 0.1 * v - x0), 0.0).max(axis=1)
    assert np.all(threshold < largest)
    np.testing.assert_allclose(threshold, largest, rtol=1e-12)


@pytest.mark.parametrize("p", [1.3, 1.5, 3.0])
def test_projection_of_other_orders_is_radial(p):
    x0, v = points()
    eps = fractions_of(x0, v, p, (0.0, 1.0))
    eta = solve(x0, v, eps, p)
    z, _, _ = constrained(x0 + v, x0, eps, p, (0.0, 1.0))
    wanted = np.clip(x0 + np.minimum(eta, 1)[:, None] * v, 0, 1)
    np.testing.assert_allclose(z, wanted, atol=1e-12)


@in_boxes(CONVEX)
def test_sphere_goes_on_to_eps_or_as_far_as_the_direction_leads(p, box):
    box = BOXES[box]
    x0, v = points(box)
    eps = fractions_of(x0, v, p, box)
    for x in (x0 + far * v for far in (0.01, 0.3, 2.0)):
        inner, _, _ = constrained(x, x0, eps, p, box)
        z, _, missing = constrained(x, x0, eps, p, box, sphere=True)
        size, reach = reference.norm(z - x0, p), reference.reachable_norm(x0, inner - x0, p, *box)
        np.testing.assert_allclose(size, np.minimum(eps, reach), rtol=1e-6)
        there = reference.norm(inner - x0, p) >= eps * (1 - 1e-9)
        np.testing.assert_allclose(z[there], inner[there], rtol=0, atol=1e-9)
        if p == 1:
            np.testing.assert_allclose(missing, eps - size, atol=1e-9)


@each_convex
def test_momentum_mixes_before_the_projection(p):
    x0, v = points()
    now, before = x0 + 0.1 * v, x0 - 0.3 * v
    eps = fractions_of(x0, v, p, (0.0, 1.0))
    z = x0 + v * np.random.default_rng(2).normal(size=v.shape)
    mixed = now + 0.75 * (z - now) + 0.25 * (now - before)
    found, _, _ = constrained(z, x0, eps, p, (0.0, 1.0), momentum=(0.25, now, before))
    expected, _, _ = constrained(mixed, x0, eps, p, (0.0, 1.0))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("p", [1.0, 1.3, 2.0, math.inf])
def test_each_row_is_flagged_for_what_is_wrong_with_it(p):
    x, v = points()
    x[0, 5], v[1, 2], v[2, 2], x[3, 4] = np.nan, np.nan, np.inf, 1.01
    eps, bounds = np.full(5, 0.1), arrays((0.0, 1.0))
    wanted = [cpu.Flags.NAN_X, cpu.Flags.NAN_DELTA, cpu.Flags.NAN_DELTA, cpu.Flags.OUT_OF_BOUNDS, 0]
    assert list(cpu.solve(x, v, eps, p, *bounds, tolerance=1e-6)[1]) == wanted
    assert list(cpu.solve(x, v, 0 * eps, p, *bounds, tolerance=1e-6)[1]) == wanted
    assert list(cpu.steepest(x, v, eps, p, *bounds, tolerance=1e-6)[1]) == wanted
    x[0, 4] = v[0, 0] = np.nan  # nor does one hide the other
    both = cpu.Flags.NAN_X | cpu.Flags.NAN_DELTA
    for scale in (1.0, 1e-300):  # which another search begins with
        eta, flags = cpu.solve(x, scale * v, eps, p, *bounds, tolerance=1e-6)
        assert list(flags) == [both, *wanted[1:]]
        assert not eta[:4].any()
    x[3, 4] = -0.01
    assert cpu.solve(x, v, eps, p, *bounds, tolerance=1e-6)[1][3] == cpu.Flags.OUT_OF_BOUNDS
    assert cpu.solve(x, v, eps, p, *bounds, tolerance=0.011)[1][3] == 0
    centers = np.full((3, 6), 0.5)
    centers[1, 3], centers[2, 0] = -0.01, 1.01
    for sphere in (False, True):
        flags = cpu.project(
            centers, np.full((3, 6), 0.5), eps[:3], p, *bounds,
            tolerance=0.005, sphere=sphere, momentum=None,
        )[3]  # fmt: skip
        assert list(flags) == [0, cpu.Flags.OUT_OF_BOUNDS, cpu.Flags.OUT_OF_BOUNDS]
    for bad in (np.nan, np.inf, -np.inf):
        target = np.where(np.arange(6) == 3, bad, 0.5)[None].repeat(3, axis=0)
        target[1] = 0.3
        flags = cpu.project(
            np.full((3, 6), 0.5), target, eps[:3], p, *bounds,
            tolerance=1e-6, sphere=False, momentum=None,
        )[3]  # fmt: skip
        assert list(flags) == [cpu.Flags.NAN_DELTA, 0, cpu.Flags.NAN_DELTA]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_of_unit_length_are_added_to_what_decays(dtype):
    total = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0], [0.0, 0.0]], dtype)
    total = np.concatenate([total, [[2.0, 2.0]]]).astype(dtype)
    g = np.array([[3.0, -1.0], [np.nan, 2.0], [1e-3, 0.0], [np.inf, -np.inf], [0, 0]], dtype)
    g[4] = np.finfo(dtype).max, np.inf
    cpu.accumulate(total, 0.5, g, 0.1)
    expected = [[1.25, 0.75], [1.5, 3.0], [0.01, 0.5], [0.0, 0.0], [2.0, 1.0]]
    np.testing.assert_allclose(total, expected, rtol=1e-6)


@pytest.mark.parametrize("p", [1.3, 3.0])
def test_gradient_ends_where_eps_is_out_of_reach_by_more_than_rounding(p):
    x, v = points()
    eps = fractions_of(x, v, p, (0.0, 1.0))
    eps[:] = eps[1]
    x, v = x[1:2].repeat(5, axis=0), v[1:2].repeat(5, axis=0)
    eta = solve(x, v, eps, p)
    size = reference.measured_norm(eta * (1 - 1e-4), x, v, p)
    slope = np.log(eps / size) / -np.log1p(-1e-4)  # of log norm by log eta
    eta *= (1 - np.array([1e-7, 6e-6, 9e-6, 1.2e-5, 1e-4])) ** (1 / slope)
    to_x, *others = cpu.gradients(x, v, eps, eta, p, *arrays((0.0, 1.0)), np.ones(5))
    assert not to_x[3:].any()
    for gradient in others:
        there = gradient.reshape(5, -1).any(axis=1)
        np.testing.assert_array_equal(there, [True, True, True, False, False])


def test_the_smallest_eps_that_has_an_inverse_has_a_root_and_a_gradient():
    x, v = np.full((1, 3), 0.5), np.array([[2.0, -1.0, 2.0]])
    eps = np.array([np.finfo(float).tiny])
    eta = solve(x, v, eps, 2.0)
    assert eta * 3 == pytest.approx(eps[0], rel=1e-9)
    _, _, to_eps = cpu.gradients(x, v, eps, eta, 2.0, *arrays((0.0, 1.0)), np.ones(1))
    assert to_eps == pytest.approx(1 / 3)
    assert solve(x, v, eps / 2, 2.0) == 0


def test_what_gets_to_its_bound_just_so_does_not_move_with_the_point():
    x, v = np.array([[0.75, 0.5]]), np.ones((1, 2))
    eps, g = np.array([0.25]), np.array([[8.0, 2.0]])
    eta = solve(x, v, eps, math.inf)
    found = cpu.gradients(x, v, eps, eta, math.inf, *arrays((0.0, 1.0)), g)
    # through eta, which is eps / |v|, of both; what goes straight on, of the second alone
    np.testing.assert_allclose(found[0], [[0, 2]])
    np.testing.assert_allclose(found[1], [[-0.25, -0.25 + 0.5]])
    assert found[2] == 2


def test_the_largest_that_can_move_is_the_unit_of_a_faint_gradient():
    x, g = np.array([[1.0, 0.5, 0.5]]), 1e-100 * np.array([[1e100, 1.0, 0.5]])
    found, flags = cpu.steepest(x, g, np.array([0.25]), 1.3, *arrays((0.0, 1.0)), tolerance=0.0)
    assert not flags.any()
    most = solver.most_gain(1e100 * g[0, 1:], reference.room(x, g)[0, 1:], 0.25, 1.3)
    assert 1e100 * g[0] @ (found - x)[0] == pytest.approx(most)


def test_a_root_is_found_also_where_the_far_corner_is_beyond_float32():
    x, v = np.full((2, 2), 0.5, np.float32), np.array([[1e-37, 1e-39], [1e-39, 0]], np.float32)
    eps = np.array([1e-4, 0.45])
    eta = solve(x, v, eps, 2.0)
    assert eta[0] * float(v[0, 0]) == pytest.approx(1e-4, rel=1e-3)
    assert eta[1] == np.finfo(np.float32).max


def test_the_least_gradient_takes_no_more_than_its_room():
    least = np.finfo(float).smallest_subnormal
    x, g = np.full((1, 3), 0.25), np.array([[1.0, -least, least]])
    for eps, end in ((1.0, [1, 0.1875, 0.4375]), (2.0, [1, 0, 1])):
        found, _ = cpu.steepest(x, g, np.array([eps]), 1, *arrays((0.0, 1.0)), tolerance=0.0)
        np.testing.assert_allclose(found, [end], atol=1e-12)


def test_gradient_that_float32_cannot_hold_is_cut():
    x, v = np.full((1, 2), 0.5, np.float32), np.array([[3e-40, -4e-40]], np.float32)
    eps, most = np.array([1e-4]), float(np.finfo(np.float32).max)
    eta = eps / np.linalg.norm(v.astype(float))
    bounds = arrays((0.0, 1.0), np.float32)
    for sign in (1.0, -1.0):
        found = cpu.gradients(x, v, eps, eta, 2.0, *bounds, np.full(1, sign))
        assert found[2] == sign * most
        np.testing.assert_array_equal(found[0], 0)
        np.testing.assert_allclose(found[1], np.float32([[-sign * most, sign * most]]), rtol=0.5)


def test_where_nothing_moves_the_points_are_the_inputs():
    x, v = points()
    g, zero = np.random.default_rng(5).normal(size=x.shape), np.zeros(5)
    for p in (1.3, 2.0, math.inf):
        to_x, to_v, to_eps = cpu.gradients(x, v, zero, zero, p, *arrays((0.0, 1.0)), g)
        np.testing.assert_array_equal(to_x, g)
        np.testing.assert_array_equal(to_v, 0)
        np.testing.assert_array_equal(to_eps, 0)


def test_a_point_on_the_sphere_stays_to_the_last_digit():
    x0, x = np.full((1, 4), 0.5), np.array([[0.75, 0.5, 0.25, 0.5]])
    z, threshold, missing = constrained(x, x0, np.array([0.5]), 1, (0.0, 1.0))
    np.testing.assert_array_equal(z, x)
    assert threshold == missing == 0


@pytest.mark.parametrize(("short", "moves"), [(1e-7, False), (1e-5, True)])
def test_what_misses_the_sphere_by_rounding_stays_for_the_maximum_norm(short, moves):
    x0, x = np.full((1, 2), 0.5), np.array([[0.75, 0.5]])
    eps = np.array([0.25 / (1 - short)])
    z, *_ = constrained(x, x0, eps, math.inf, (0.0, 1.0), sphere=True)
    np.testing.assert_allclose(z, [[0.5 + eps[0] if moves else 0.75, 0.5]], rtol=1e-15)


def test_two_rows_have_bounds_of_their_own():
    x, v = np.full((2, 3), 0.5), np.ones((2, 3))
    box = np.zeros((2, 3)), np.array([[0.6], [0.9]]).repeat(3, axis=1)
    found, _, flags = cpu.perturb(x, v, np.full(2, 9.0), 2.0, *box, tolerance=0.0)
    assert not flags.any()
    np.testing.assert_array_equal(found, box[1])


def test_gradient_where_float32_has_no_inverse_of_eps():
    x, v = np.full((1, 2), 0.5, np.float32), np.array([[3.0, -4.0]], np.float32)
    eps, bounds = np.array([1e-40]), arrays((0.0, 1.0), np.float32)
    found = cpu.gradients(x, v, eps, eps / 5, 2.0, *bounds, np.ones(1))
    assert found[2] == pytest.approx(0.2, rel=1e-6)
    np.testing.assert_array_equal(found[0], 0)
    np.testing.assert_allclose(found[1] / 1e-40, [[-0.2 * 3 / 25, 0.2 * 4 / 25]], rtol=1e-3)


def test_faint_gradients_keep_their_ratio_beside_one_without_room():
    x, g = np.array([[0.9, 0.5, 0.5]]), np.array([[1.0, 1e-12, 2e-12]])
    found, flags = cpu.steepest(x, g, np.array([0.3]), 1.25, *arrays((0.0, 1.0)), tolerance=0.0)
    assert not flags.any()
    moved = (found - x)[0]
    assert moved[0] == pytest.approx(0.1)
    assert moved[2] / moved[1] == pytest.approx(2**4, rel=1e-9)


def test_gradient_is_zero_where_nothing_but_dust_moves():
    x, v, eps = np.full((1, 2), 0.5), np.array([[1.0, 1e-20]]), np.array([0.5])
    eta = solve(x, v, eps, 2.0)  # which takes the first to its bound
    for gradient in cpu.gradients(x, v, eps, eta, 2.0, *arrays((0.0, 1.0)), np.ones(1)):
        np.testing.assert_array_equal(gradient, 0)
