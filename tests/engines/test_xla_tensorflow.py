"""The TensorFlow engine: exact on hard rows, in graphs, compiled graphs and under tapes."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from foolbox_carescale.engines.xla import tensorflow_ops as graph
from tests import backends, reference
from tests.engines import hard

ORDERS = (0.5, 1.3, 2.0, math.inf)
LONG = 20_011  # several segments and a rest


def solve(problem):
    return graph.solve(
        tf.constant(problem.x),
        tf.constant(problem.delta),
        tf.constant(problem.eps),
        problem.p,
        problem.lower,
        problem.upper,
    ).numpy()


def tensors(name, shape):
    return (tf.constant(a, tf.float32) for a in reference.case(name, shape=shape))


# not all orders and lengths: each is compiled for some seconds, and the formulas are those of the
# JAX engine; in float64 tests/operators checks graphs by day
@pytest.mark.parametrize(
    ("length", "p"),
    backends.by_day([(1, 2.0), (LONG, 1.3)], itertools.product((hard.LENGTH, LONG), ORDERS)),
)
def test_norm_is_exact_on_hard_rows(length, p):
    problem = hard.Problem(p, "float32", length)
    problem.check(solve(problem))


@pytest.mark.nightly
@pytest.mark.parametrize("p", [1.3, math.inf])
def test_norm_is_exact_on_hard_rows_in_double_precision(p):
    problem = hard.Problem(p, "float64")
    problem.check(solve(problem))


def test_bounds_may_differ_by_element():
    rng = np.random.default_rng(1)
    lower = rng.uniform(-1, 0, size=(1, hard.LENGTH)).astype(np.float32)
    upper = lower + rng.uniform(0.1, 1, size=lower.shape).astype(np.float32)
    problem = hard.Problem(2.0, "float32", lower=lower, upper=upper)
    problem.check(solve(problem))


@pytest.mark.parametrize("p", backends.by_day([0.5], [math.inf]))
def test_extreme_eps_gives_a_finite_eta(p):
    x, delta = tensors("cauchy", (4, 50))
    eps = np.asarray([[1e-42], [1e-30], [1e30], [3e38]], np.float32)
    eta = graph.solve(x, delta, tf.constant(eps), p, 0.0, 1.0).numpy()
    assert np.all(np.isfinite(eta))
    wanted = np.where(eps[:, 0] < 1e-38, 0.0, eps[:, 0])
    wanted = np.minimum(wanted, reference.reachable_norm(x, delta, p))
    np.testing.assert_allclose(reference.measured_norm(eta, x, delta, p), wanted, rtol=5e-6)


@pytest.mark.parametrize("compiled", backends.by_day([True], [False]))
def test_a_graph_takes_any_number_of_rows(compiled):
    specification = [tf.TensorSpec((None, 300), tf.float32)] * 2

    @tf.function(input_signature=specification, jit_compile=compiled)
    def eta(x, delta):
        return graph.solve(x, delta, tf.fill((1, 1), 0.7), 2.0, 0.0, 1.0)

    for rows in (1, 3):
        x, delta = tensors("cauchy", (rows, 300))
        size = reference.measured_norm(eta(x, delta), x, delta, 2.0)
        np.testing.assert_allclose(size, 0.7, rtol=1e-6)


@pytest.mark.parametrize("compiled", backends.by_day([False], [True]))
def test_a_graph_with_an_attack_loop_is_traced_once(compiled):
    x, delta = tensors("uniform", (2, 300))
    traced = []

    @tf.function(jit_compile=compiled)
    def attack(x, delta, eps):
        traced.append(1)
        point = x
        for _ in tf.range(5):
            direction = point - x + delta
            eta = graph.solve(x, direction, eps, 2.0, 0.0, 1.0)
            point = tf.clip_by_value(x + eta * direction, 0.0, 1.0)
        return point

    for eps in (0.3, 0.5):
        moved = attack(x, delta, tf.fill((1, 1), eps))
        np.testing.assert_allclose(tf.norm(moved - x, axis=1), eps, rtol=1e-5)
    assert len(traced) == 1


def test_the_search_is_traced_once_for_three_batch_sizes(monkeypatch):
    traced = []
    search = graph.solver.solve
    monkeypatch.setattr(graph.solver, "solve", lambda *a: (traced.append(1), search(*a))[1])
    for rows in (1, 2, 3):
        x, delta = tensors("uniform", (rows, 31))
        for eps in (tf.fill((1, 1), 0.7), tf.fill((rows, 1), 0.7)):
            eta = graph.solve(x, delta, eps, math.inf, 0.0, 1.0)
            size = reference.measured_norm(eta, x, delta, math.inf)
            np.testing.assert_allclose(size, 0.7, rtol=1e-6)
    assert len(traced) == 1


@pytest.mark.parametrize("in_graph", backends.by_day([True], [False]))
def test_eta_is_a_constant_for_a_tape(in_graph):
    x, delta = tensors("uniform", (2, 300))

    def gradient(x, delta):
        with tf.GradientTape() as tape:
            tape.watch([x, delta])
            eta = graph.solve(x, delta, tf.fill((1, 1), 0.7), 2.0, 0.0, 1.0)
            total = tf.reduce_sum(eta * x)
        return eta, *tape.gradient(total, [x, delta])

    eta, for_x, for_delta = (tf.function(gradient) if in_graph else gradient)(x, delta)
    np.testing.assert_array_equal(for_x, tf.broadcast_to(eta, x.shape))
    assert for_delta is None


def test_nan_in_a_row_ends_the_search_and_spoils_no_other_row():
    x, delta = (a.numpy() for a in tensors("uniform", (2, 300)))
    delta[0, 3] = np.nan
    eta = graph.solve(tf.constant(x), tf.constant(delta), tf.fill((1, 1), 0.7), 2.0, 0.0, 1.0)
    assert np.isnan(eta[0, 0])
    np.testing.assert_allclose(
        reference.measured_norm(eta[1:], x[1:], delta[1:], 2.0), 0.7, rtol=1e-6
    )


def test_eta_is_cut_to_half_of_what_the_caller_can_hold():
    x, delta = tf.fill((1, 3), 0.5), tf.fill((1, 3), 1e-9)
    eta = graph.solve(x, delta, tf.fill((1, 1), 0.1), 2.0, 0.0, 1.0, largest_eta=65504.0)
    assert eta.numpy().item() == 0.5 * 65504.0
