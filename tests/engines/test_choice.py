"""The engine that is meant to serve a tensor is the one that does: others end at the same point."""

import itertools
import math

import eagerpy as ep
import numpy as np
import pytest
import torch

import foolbox_carescale as fc
from foolbox_carescale import engines
from foolbox_carescale.core import norms
from foolbox_carescale.operators.validation import prepare
from tests import backends

RNG = np.random.default_rng(0)
X, V = RNG.random((3, 2, 4)), RNG.normal(size=(3, 2, 4))
EPS = 0.3
LOWER, UPPER = np.full((1, 2, 1), -0.5), np.full((1, 2, 1), 1.5)


@pytest.fixture
def without_eager(monkeypatch):
    def refuse(*_):
        raise AssertionError("the eager engine was asked")

    monkeypatch.setattr(engines.eager.Eager, "solve", refuse)


@pytest.fixture(params=backends.FRAMEWORKS)
def backend(request):
    return backends.Backend(request.param, "float32")


@pytest.mark.usefixtures("without_eager")
def test_tensors_in_main_memory_are_served_by_compiled_code_alone(backend, monkeypatch):
    if backend.framework in ("jax", "tensorflow"):
        from foolbox_carescale.engines.xla import jax_ops as xla
        from foolbox_carescale.engines.xla import tensorflow_ops as graph

        for module in (graph, xla):
            monkeypatch.setattr(module, "solve", None)
    x, v = backend.tensor(X), backend.tensor(V)
    assert engines.explain(x).startswith("numba_cpu: ")
    for p in (0.5, 1, 2, math.inf):
        fc.clipping_aware_rescaling(x, v, EPS, p=p)
        fc.perturb(x, v, EPS, p=p)
    problem = prepare(x, v, EPS, 2, (0, 1))
    assert engines.project(prepare(x, backend.tensor(X + V), EPS, 1, (0, 1))) is not None
    assert engines.steepest_step(problem) is not None
    assert engines.steepest_step(prepare(x, v, EPS, 1, (0, 1))) is not None
    eta = engines.solve(problem)
    assert engines.vjp(problem, eta, eta, of_points=False) is not None


BOUNDS = {"numbers": (-0.5, 1.5), "tensors": (LOWER, UPPER)}


@pytest.mark.usefixtures("without_eager")
@pytest.mark.parametrize(
    ("framework", "bounds"),
    backends.by_day(
        [("jax", "tensors"), ("tensorflow", "numbers")],
        list(itertools.product(("jax", "tensorflow"), BOUNDS)),
    ),
)
def test_what_jax_and_tensorflow_trace_is_served_by_xla(framework, bounds):
    def eta(x, v):
        return fc.clipping_aware_rescaling(x, v, EPS, bounds=BOUNDS[bounds])

    expected = eta(X, V)  # in float64, for which others compile it, too
    library = pytest.importorskip(framework)
    traced = library.jit(eta) if framework == "jax" else library.function(eta)
    backend = backends.Backend(framework, "float32")
    found = np.asarray(traced(backend.tensor(X), backend.tensor(V)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_gradients_are_summed_in_memory_that_can_be_written(backend):
    writable = backend.framework in ("numpy", "torch")
    total = engines.accumulate(None, 1.0, ep.astensor(backend.tensor(V)), 1e-12)
    assert (total is not None) == writable
    half = backends.Backend(backend.framework, "float16").tensor(V)
    assert engines.accumulate(None, 1.0, ep.astensor(half), 1e-12) is None


def test_without_a_sample_nothing_is_summed():
    for shape in ((0, 3), (2, 0)):
        assert engines.accumulate(None, 1.0, ep.astensor(np.zeros(shape)), 1e-12) is None


def test_points_are_written_in_the_pass_that_finds_eta(monkeypatch):
    from foolbox_carescale.engines.numba_cpu import arrays as cpu

    expected = fc.perturb(X, V, EPS)
    monkeypatch.setattr(cpu, "solve", None)
    np.testing.assert_array_equal(fc.perturb(X, V, EPS), expected)


def test_a_batch_of_vectors_goes_back_through_torch_at_once():
    x, v = (torch.tensor(t, requires_grad=True) for t in (X, V))
    eta = fc.clipping_aware_rescaling(x, v, EPS)
    vectors = torch.tensor(RNG.normal(size=(4, *eta.shape)))
    together = torch.autograd.grad(eta, (x, v), vectors, is_grads_batched=True, retain_graph=True)
    for k, vector in enumerate(vectors):
        alone = torch.autograd.grad(eta, (x, v), vector, retain_graph=True)
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_allclose(b[k], a, rtol=1e-9, atol=1e-12)


def test_what_torch_traces_without_compiling_is_served_by_the_eager_engine():
    said = []

    def eta(x, v):
        said.append(engines.explain(x))
        return fc.clipping_aware_rescaling(x[None], v[None], EPS)[0]

    x, v = torch.tensor(X), torch.tensor(V)
    found = torch.func.vmap(eta)(x, v)
    assert said[0].startswith("eager: ")
    np.testing.assert_allclose(found, fc.clipping_aware_rescaling(x, v, EPS), rtol=1e-9)


def test_what_an_engine_has_not_in_one_pass_is_none():
    near_one = prepare(X, V, EPS, 1.1, (0, 1))
    assert engines.steepest_step(near_one) is None
    assert engines.project(near_one) is not None
    assert engines.steepest_step(prepare(X, V, EPS, norms.WIDE_BELOW, (0, 1))) is not None

    def asked(x, v):
        problem = prepare(x[None], v[None], EPS, 2, (0, 1))
        eta = ep.astensor(torch.ones(1, 1))
        assert engines.steepest_step(problem) is None
        assert engines.project(problem) is None
        assert engines.vjp(problem, eta, eta, of_points=False) is None
        return x

    torch.func.vmap(asked)(torch.tensor(X), torch.tensor(V))
