"""The JAX engine: exact on hard rows, in one or two precisions, under every transform."""

import itertools
import math

import eagerpy as ep
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import foolbox_carescale as fc
from foolbox_carescale.core import backends as package_backends
from foolbox_carescale.engines.xla import jax_ops as xla
from tests import backends, reference
from tests.engines import hard


def solve(problem):
    arrays = (jnp.asarray(a) for a in (problem.x, problem.delta, problem.eps))
    bounds = (b if isinstance(b, float) else jnp.asarray(b) for b in (problem.lower, problem.upper))
    x, delta, eps = arrays
    return xla.solve(x, delta, eps, problem.p, *bounds)


@pytest.mark.parametrize("p", backends.by_day([0.5, 1.3, math.inf], hard.ORDERS))
def test_norm_is_exact_on_hard_rows(p):
    problem = hard.Problem(p, "float32")
    problem.check(solve(problem))


@pytest.mark.parametrize("p", backends.by_day([1.3], [10.0, math.inf]))
def test_norm_is_exact_on_hard_rows_in_double_precision(p):
    problem = hard.Problem(p, "float64")
    with backends.make("jax-float64"):
        problem.check(solve(problem))


@pytest.mark.parametrize(
    ("length", "p"),
    backends.by_day([(1, 2.0)], list(itertools.product([1, 129], [1.3, 2.0, math.inf]))),
)
def test_norm_is_exact_on_short_rows(length, p):
    problem = hard.Problem(p, "float32", length)
    problem.check(solve(problem))


@pytest.mark.parametrize("p", [1.3])
def test_norm_is_exact_on_rows_of_several_segments_and_a_rest(p):
    problem = hard.Problem(p, "float32", 20_011, cases=("on the bounds", "cauchy", "geometric"))
    problem.check(solve(problem))


@pytest.mark.nightly
def test_norm_is_exact_for_a_row_of_twelve_million():
    # four bytes per element: the memory of a random row in float64 would be the costly part
    n = 12_000_000
    rng = np.random.default_rng(0)
    x, delta = rng.random((1, n), np.float32), rng.standard_normal((1, n), np.float32)
    eta = xla.solve(jnp.asarray(x), jnp.asarray(delta), jnp.full((1, 1), 500.0), 2.0, 0.0, 1.0)
    assert reference.measured_norm(eta, x, delta, 2.0) == pytest.approx(500.0, rel=1e-6)


@pytest.mark.parametrize(
    ("p", "rows"), backends.by_day([(2.0, 60)], [(2.0, 1), (math.inf, 1), (math.inf, 60)])
)
def test_bounds_may_differ_by_element(p, rows):
    rng = np.random.default_rng(1)
    lower = rng.uniform(-1, 0, size=(rows, hard.LENGTH)).astype(np.float32)
    upper = lower + rng.uniform(0.1, 1, size=lower.shape).astype(np.float32)
    problem = hard.Problem(p, "float32", lower=lower, upper=upper)
    problem.check(solve(problem))


def test_one_eps_serves_all_rows():
    x, delta = (jnp.asarray(a, jnp.float32) for a in reference.case("uniform", shape=(2, 300)))
    together = xla.solve(x, delta, jnp.full((1, 1), 0.7), 2.0, 0.0, 1.0)
    np.testing.assert_array_equal(
        together, xla.solve(x, delta, jnp.full((2, 1), 0.7), 2.0, 0.0, 1.0)
    )


@pytest.mark.parametrize("p", backends.by_day([0.5, 10.0], [math.inf]))
def test_extreme_eps_gives_a_finite_eta(p):
    x, delta = (jnp.asarray(a, jnp.float32) for a in reference.case("cauchy", shape=(4, 50)))
    eps = np.asarray([[1e-42], [1e-30], [1e30], [3e38]], np.float32)
    eta = xla.solve(x, delta, jnp.asarray(eps), p, 0.0, 1.0)
    assert np.all(np.isfinite(eta))
    wanted = np.where(eps[:, 0] < 1e-38, 0.0, eps[:, 0])
    wanted = np.minimum(wanted, reference.reachable_norm(x, delta, p))
    np.testing.assert_allclose(reference.measured_norm(eta, x, delta, p), wanted, rtol=5e-6)


@pytest.mark.parametrize("part", [0, 1])
def test_nan_in_a_traced_row_ends_the_search_and_spoils_no_other_row(part):
    parts = [jnp.asarray(a, jnp.float32) for a in reference.case("uniform", shape=(2, 300))]
    clean = xla.solve(*parts, jnp.full((1, 1), 0.7), 2.0, 0.0, 1.0)
    parts[part] = parts[part].at[0, 3].set(jnp.nan)
    eta = xla.solve(*parts, jnp.full((1, 1), 0.7), 2.0, 0.0, 1.0)
    assert np.isnan(eta[0, 0])
    assert eta[1, 0] == clean[1, 0]


def test_eta_is_cut_to_half_of_what_the_caller_can_hold():
    x, delta = jnp.full((1, 3), 0.5), jnp.full((1, 3), 1e-9)
    eta = xla.solve(x, delta, jnp.full((1, 1), 0.1), 2.0, 0.0, 1.0, largest_eta=65504.0)
    assert eta.item() == 0.5 * 65504.0


@pytest.mark.parametrize("p", backends.by_day([2.0], [math.inf]))
def test_vmap_gives_what_a_loop_gives(p):
    x, delta = (jnp.asarray(a, jnp.float32) for a in reference.case("cauchy", shape=(3, 2, 300)))
    eps = jnp.asarray([[[0.1]], [[1.0]], [[100.0]]])  # the last out of reach
    looped = [xla.solve(*row, p, 0.0, 1.0) for row in zip(x, delta, eps, strict=True)]
    mapped = jax.vmap(lambda *row: xla.solve(*row, p, 0.0, 1.0))(x, delta, eps)
    np.testing.assert_allclose(mapped, jnp.stack(looped), rtol=1e-6)


def test_eta_is_a_constant_for_every_kind_of_derivative():
    x, delta = (jnp.asarray(a, jnp.float32) for a in reference.case("uniform", shape=(2, 20)))

    def eta(x):
        return xla.solve(x, delta, jnp.full((1, 1), 0.3), 2.0, 0.0, 1.0).sum()

    for derivative in (jax.grad, jax.hessian):  # this in forward mode, too
        assert not np.any(derivative(eta)(x))


def test_a_jitted_attack_loop_compiles_once():
    x, delta = (jnp.asarray(a, jnp.float32) for a in reference.case("uniform", shape=(2, 300)))
    traced = []

    @jax.jit
    def attack(x, delta, eps):
        traced.append(1)

        def step(_, point):
            eta = xla.solve(x, point - x + delta, eps, 2.0, 0.0, 1.0)
            return jnp.clip(x + eta * (point - x + delta), 0, 1)

        return jax.lax.fori_loop(0, 5, step, x)

    for eps in (0.3, 0.5):
        moved = attack(x, delta, jnp.full((1, 1), eps))
        np.testing.assert_allclose(jnp.linalg.norm(moved - x, axis=1), eps, rtol=1e-5)
    assert len(traced) == 1


@pytest.fixture
def reads(monkeypatch):
    """Values that the host reads, of arrays that are said to lie on an accelerator."""
    found = []
    item = ep.JAXTensor.item

    def counted(function):
        return lambda *args: (found.append(function), function(*args))[1]

    monkeypatch.setattr(package_backends, "on_cpu", lambda t: False)
    monkeypatch.setattr(ep.JAXTensor, "item", counted(item))
    monkeypatch.setattr(package_backends, "to_numpy", counted(package_backends.to_numpy))
    return found


@pytest.mark.parametrize(
    ("operator", "most"),
    backends.by_day(
        [(fc.perturb, 1), (fc.steepest_step, 2)],
        [(fc.clipping_aware_rescaling, 1), (fc.project, 1)],
    ),
)
def test_an_eager_call_reads_once_from_an_accelerator_and_a_traced_one_never(reads, operator, most):
    x, delta = (jnp.asarray(a, jnp.float32) for a in reference.case("uniform", shape=(2, 30)))
    eps = jnp.full(2, 0.3)
    arguments = (x + delta, x) if operator is fc.project else (x, delta)
    jax.jit(lambda *a: operator(*a, eps, p=math.inf))(*arguments)
    assert not reads
    operator(*arguments, eps, p=math.inf)
    assert len(reads) == most
    with fc.value_checks("never"):
        operator(*arguments, eps, p=math.inf)
    assert len(reads) == most
    for bad in (jnp.full(2, -1.0), jnp.full(2, jnp.nan)):
        with pytest.raises(ValueError, match="eps: expected finite numbers >= 0"):
            operator(*arguments, bad, p=math.inf)


def test_both_precisions_agree():
    x, delta = reference.case("log-uniform", shape=(3, 500))
    with backends.make("jax-float64") as backend:
        wide = xla.solve(
            backend.tensor(x), backend.tensor(delta), backend.tensor([[0.5]]), 3.0, 0.0, 1.0
        )
        wide = np.asarray(wide)
    x, delta = (jnp.asarray(a, jnp.float32) for a in (x, delta))
    narrow = xla.solve(x, delta, jnp.full((1, 1), 0.5), 3.0, 0.0, 1.0)
    np.testing.assert_allclose(narrow, wide, rtol=1e-5)
