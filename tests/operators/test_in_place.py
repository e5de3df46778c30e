"""perturb(..., in_place=True) writes over x what it would have returned, or says why it cannot."""

import numpy as np
import pytest
import torch

import foolbox_carescale as fc
from foolbox_carescale import engines
from tests import reference


@pytest.fixture
def arrays():
    x, delta = reference.case("uniform", shape=(4, 3, 5), seed=1)
    return np.asarray(x, np.float32), np.asarray(delta, np.float32)


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, np.inf])
@pytest.mark.parametrize("compiled", [True, False])
def test_numpy_and_torch_are_overwritten_with_the_same_points(arrays, p, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(engines, "ENGINES", engines.ENGINES[-1:])
    x, delta = arrays
    expected = fc.perturb(x, delta, 0.7, p=p)
    tensor = torch.tensor(x)
    assert fc.perturb(tensor, torch.tensor(delta), 0.7, p=p, in_place=True) is tensor
    np.testing.assert_array_equal(tensor.numpy(), expected)
    assert fc.perturb(x, delta, 0.7, p=p, in_place=True) is x
    np.testing.assert_array_equal(x, expected)


def test_autograd_refuses_a_gradient_that_needs_the_points_before(arrays):
    x, delta = (torch.tensor(a) for a in arrays)
    weights = torch.ones_like(x, requires_grad=True)
    direction = delta.clone().requires_grad_()
    losses = (weights * x).sum(), fc.perturb(x, direction, 0.7).sum()
    fc.perturb(x, delta, 0.7, in_place=True)
    for loss in losses:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_bad_values_leave_x_as_it_was(arrays):
    x, delta = arrays
    delta[3, 0, 0] = np.nan
    before = x.copy()
    with pytest.raises(ValueError, match="delta: 1 of 60 values are NaN"):
        fc.perturb(x, delta, 0.7, in_place=True)
    np.testing.assert_array_equal(x, before)


def test_what_cannot_be_written_is_refused_with_the_reason(arrays):
    x, delta = arrays
    with pytest.raises(ValueError, match=r"in_place: .* not contiguous"):
        fc.perturb(x[:, :, ::2], delta[:, :, ::2], 0.7, in_place=True)
    with pytest.raises(ValueError, match=r"in_place: .* float16"):
        fc.perturb(x.astype(np.float16), delta.astype(np.float16), 0.7, in_place=True)
    with pytest.raises(ValueError, match=r"in_place: .* differentiated"):
        fc.perturb(torch.tensor(x, requires_grad=True), torch.tensor(delta), 0.7, in_place=True)
    x.flags.writeable = False
    with pytest.raises(ValueError, match=r"in_place: .* read-only"):
        fc.perturb(x, delta, 0.7, in_place=True)


@pytest.mark.parametrize("framework", ["tensorflow", "jax.numpy"])
def test_tensors_that_cannot_be_written_are_refused_by_name(arrays, framework):
    make = pytest.importorskip(framework)
    x, delta = ((make.constant if framework == "tensorflow" else make.asarray)(t) for t in arrays)
    kind = framework.partition(".")[0]
    with pytest.raises(ValueError, match=f"in_place: .* a {kind} tensor cannot be written"):
        fc.perturb(x, delta, 0.7, in_place=True)
