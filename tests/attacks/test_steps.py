"""What an attack does between two gradients, on rows that can be worked out by hand."""

import math

import eagerpy
import numpy as np
import pytest

from foolbox_carescale import engines, perturb, project, steepest_step
from foolbox_carescale.attacks import steps

BOX = (0.0, 1.0)


@pytest.fixture(params=["compiled", "eager"])
def engine(request, monkeypatch):
    monkeypatch.setattr(engines.numba_cpu, "_HAS_NUMBA", request.param == "compiled")
    return request.param


@pytest.fixture
def only_compiled(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("one pass was to do")

    for name in ("steepest_step", "perturb", "project"):
        monkeypatch.setattr(steps, name, refuse)


def ep(values, dtype=np.float64):
    return eagerpy.astensor(np.array(values, dtype))


def test_what_is_not_finite_counts_as_zero():
    g = ep([[1.0, np.nan, -np.inf], [np.inf, 3e38, -2.0]])
    np.testing.assert_array_equal(steps.finite(g).raw, [[1, 0, 0], [0, 3e38, -2]])
    whole = ep([[1e308, 1e308]])  # whose sum is not
    np.testing.assert_array_equal(steps.finite(whole).raw, whole.raw)
    g = ep([[1.0, 2.0]])
    assert steps.finite(g) is g


def test_on_an_accelerator_it_does_so_without_a_look_at_the_values(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(steps.backends, "on_accelerator", lambda _: True)
    g = eagerpy.astensor(torch.tensor([[1.0, math.nan, -math.inf, math.inf]]))
    assert steps.finite(g).raw.tolist() == [[1, 0, 0, 0]]


def test_gradients_of_unit_length_are_summed(engine):
    first = steps.accumulate(None, 0.5, ep([[3.0, -1.0], [0.0, 0.0], [1e-13, 0.0]]))
    np.testing.assert_allclose(first.raw, [[0.75, -0.25], [0, 0], [0.1, 0]])
    second = steps.accumulate(first, 0.5, ep([[0.0, 2.0], [np.nan, -5.0], [4.0, 4.0]]))
    np.testing.assert_allclose(second.raw, [[0.375, 0.875], [0, -1], [0.55, 0.5]])


@pytest.mark.parametrize("p", [1, 1.1, 1.5, 2, math.inf])
def test_step_is_the_steepest_along_what_is_finite(engine, p):
    x, g = ep([[0.5, 0.5, 1.0], [0.2, 0.5, 0.5]]), ep([[1.0, -2.0, 3.0], [-1.0, np.nan, 0.5]])
    found = steps.step(x, g, 0.3, p=p, bounds=BOX).raw
    expected = steepest_step(x.raw, np.nan_to_num(g.raw), 0.3, p=p)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_array_equal(found[0, 2], 1)
    np.testing.assert_array_equal(found[1, 1], 0.5)


@pytest.mark.usefixtures("only_compiled")
def test_one_pass_makes_a_step():
    x, g = ep([[0.5, 0.5]]), ep([[3.0, 4.0]])
    np.testing.assert_allclose(steps.step(x, g, 0.5, p=2, bounds=BOX).raw, [[0.8, 0.9]])
    found = steps.sparse_step(x, g, 0.25, np.array([1]), bounds=BOX).raw
    np.testing.assert_allclose(found, [[0.5, 0.75]])
    z = ep([[0.8, 0.9]])
    found = steps.enforce_constraint(z, x, 0.25, p=2, bounds=BOX, sphere=False, direction=g)
    np.testing.assert_allclose(found.raw, [[0.65, 0.7]])
    assert np.shares_memory(found.raw, z.raw)
    np.testing.assert_array_equal(x.raw, [[0.5, 0.5]])


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_of_nothing_comes_nothing(engine, shape):
    x = ep(np.zeros(shape))
    assert steps.step(x, x, 0.3, p=2, bounds=BOX).shape == shape
    counts = np.ones(shape[0])
    assert steps.sparse_step(x, x, 0.3, counts, bounds=BOX).shape == shape
    arguments = {"p": 1, "bounds": BOX, "sphere": True, "direction": x}
    assert steps.enforce_constraint(x, x, 0.3, **arguments) is x


def test_sparse_step_goes_along_the_largest_that_can_move(engine):
    x = ep([[0.5, 0.5, 0.5, 1.0], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 1.0]])
    g = ep([[3.0, -2.0, 1.0, 4.0], [-3.0, 2.0, -2.0, 1.0], [-1.0, -1.0, -1.0, 1.0]])
    counts = np.array([2, 1, 2])
    found = steps.sparse_step(x, g, ep([0.2, 0.4, 0.2]), counts, bounds=BOX).raw
    expected = [[0.6, 0.4, 0.5, 1.0], [0.0, 0.2, 0.3, 0.5], [0.0, 0.0, 0.0, 1.0]]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(("x", "g"), [(1.0, 0.5), (0.0, -0.5)])
def test_a_faint_gradient_at_its_bound_is_not_counted(engine, x, g):
    x, g = ep([[x, 0.5, 0.5]]), ep([[g, 0.4, 0.3]])
    found = steps.sparse_step(x, g, 0.2, np.array([1]), bounds=BOX).raw
    np.testing.assert_allclose(found, [[x.raw[0, 0], 0.7, 0.5]], atol=1e-12)


def test_sparse_step_leaves_what_has_no_finite_gradient(engine):
    x, g = ep([[0.5, 0.5, 0.5]]), ep([[np.nan, 1.0, -0.5]])
    found = steps.sparse_step(x, g, 0.2, np.array([3]), bounds=BOX).raw
    np.testing.assert_allclose(found, [[0.5, 0.6, 0.4]], atol=1e-12)


@pytest.mark.parametrize("p", [1, 1.5, 2, math.inf])
@pytest.mark.parametrize("sphere", [False, True])
def test_constraint_is_the_projection_and_then_all_of_eps(engine, p, sphere):
    x0 = np.array([[0.5, 0.5, 0.25], [0.5, 0.5, 0.25]])
    z = np.array([[0.9, 0.1, 0.25], [0.55, 0.5, 0.2]])
    eps = np.array([0.2, 0.15])
    expected = project(z, x0, eps, p=p)
    if sphere:
        expected = perturb(x0, expected - x0, eps, p=p)
    arguments = {"p": p, "bounds": BOX, "sphere": sphere, "direction": ep(np.ones((2, 3)))}
    found = steps.enforce_constraint(ep(z), ep(x0), ep(eps), **arguments).raw
    np.testing.assert_allclose(found, expected, atol=1e-9)
    size = [np.linalg.norm(row, p) for row in found - x0]
    assert size == pytest.approx(eps, rel=1e-5) if sphere else np.all(size <= eps * (1 + 1e-9))


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_momentum_comes_before_the_projection(engine, p):
    x0 = np.full((1, 3), 0.5)
    z, now, before = np.array([[[0.6, 0.45, 0.5]], [[0.55, 0.5, 0.45]], [[0.5, 0.55, 0.5]]])
    arguments = {"p": p, "bounds": BOX, "sphere": False, "direction": ep(np.ones((1, 3)))}
    arguments["momentum"] = 0.25, ep(now), ep(before)
    mixed = now + 0.75 * (z - now) + 0.25 * (now - before)
    found = steps.enforce_constraint(ep(z), ep(x0), 9.0, **arguments).raw
    np.testing.assert_allclose(found, mixed, atol=1e-12)
    found = steps.enforce_constraint(ep(z), ep(x0), 0.02, **arguments).raw
    np.testing.assert_allclose(found, project(mixed, x0, 0.02, p=p), atol=1e-9)


def test_a_sparse_perturbation_out_of_room_takes_the_next_coordinates(engine):
    x0 = np.full((3, 4), 0.5)
    # of the last the gradient leads back where it has moved
    direction = np.array([[4.0, 3.0, -2.0, np.nan], [1.0, 2.0, 3.0, 4.0], [4.0, 0.2, -0.1, 0.1]])
    z = x0.copy()
    z[0, 0], z[1, 3], z[2, 0] = 0.9, 0.7, 0.1
    arguments = {"p": 1, "bounds": BOX, "sphere": True, "direction": ep(direction)}
    found = steps.enforce_constraint(ep(z), ep(x0), ep([1.2, 0.4, 0.8]), **arguments).raw
    expected = [[1.0, 1.0, 0.3, 0.5], [0.5, 0.5, 0.5, 0.9], [0.0, 0.8, 0.5, 0.5]]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(("missing", "moves"), [(1e-6, False), (1e-4, True)])
def test_what_rounding_alone_leaves_is_not_completed(engine, missing, moves):
    x0, z = np.array([[0.0, 50.0]]), np.array([[100.0, 50.0]])
    arguments = {"p": 1, "bounds": (0, 100), "sphere": True, "direction": ep([[1.0, 1.0]])}
    found = steps.enforce_constraint(ep(z), ep(x0), 100 * (1 + missing), **arguments).raw
    np.testing.assert_allclose(found, [[100, 50 + 100 * missing * moves]], atol=1e-9)


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_the_next_iterate_is_projected_before_and_after_momentum(p):
    rng = np.random.default_rng(0)
    x0 = rng.uniform(0.3, 0.7, (2, 30))
    z, x, previous = (ep(x0 + s * rng.normal(size=x0.shape)) for s in (5, 0.05, 0.02))
    x0, direction, eps = ep(x0), ep(rng.normal(size=(2, 30))), 0.5
    if p == math.inf:
        eps = 0.1
    constraint = {"p": p, "bounds": (0, 1), "sphere": True, "direction": direction}
    copy = ep(z.raw.copy())
    once = steps.enforce_constraint(copy, x0, eps, **constraint)
    mix = 0.25, x, previous
    expected = steps.enforce_constraint(once, x0, eps, **constraint, momentum=mix).raw
    found = steps.next_iterate(z, x, previous, x0, eps, momentum=0.25, **constraint).raw
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_momentum_is_a_quarter_and_none_where_gradients_accumulate_unless_given():
    assert [steps.momentum_weight(None, p) for p in (1, 1.5, 2, math.inf)] == [0, 0.25, 0.25, 0]
    assert steps.momentum_weight(0.4, 1) == steps.momentum_weight(0.4, 2) == 0.4
