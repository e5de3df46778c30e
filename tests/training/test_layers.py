"""Modules that perturb by exactly epsilon."""

import math

import numpy as np
import pytest
import torch

from foolbox_carescale import perturb, reachable_norm
from foolbox_carescale.training import NormalizedPerturbation, UniversalPerturbation

ORDERS = (0.5, 1.0, 1.5, 2.0, math.inf)


def problem(shape=(4, 3, 6, 6), dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator, dtype=dtype)
    x[:, :, 0] = 0.0  # a row on a bound, as digits have
    return x, torch.randn(shape, generator=generator, dtype=dtype)


def norms(change, p):
    return torch.linalg.vector_norm(change.flatten(1), ord=p, dim=1)


def test_output_is_exactly_epsilon_from_input():
    for p in ORDERS:
        x, delta = problem()
        eps = 0.3 * reachable_norm(x, delta, p=p).min().item()
        z = NormalizedPerturbation(eps, p)(x, delta)
        assert z.min() >= 0
        assert z.max() <= 1
        assert norms(z - x, p).numpy() == pytest.approx(np.full(4, eps), rel=1e-9)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, math.inf])
def test_gradient_in_x_delta_and_learned_epsilon_is_that_of_finite_differences(p):
    x, delta = problem((2, 1, 3, 3))
    x = (0.1 + 0.8 * x).requires_grad_()
    delta.requires_grad_()
    eps = 0.5 * reachable_norm(x, delta, p=p).min().item()
    module = NormalizedPerturbation(eps, p, learn_eps=True).double()
    saturated = (module(x, delta) == 0) | (module(x, delta) == 1)
    assert p == math.inf or saturated.any()

    def run(x, delta, log_eps):
        return torch.func.functional_call(module, {"log_eps": log_eps}, (x, delta))

    assert torch.autograd.gradcheck(run, (x, delta, module.log_eps))


def test_learned_epsilon_finds_the_size_of_a_given_perturbation():
    x, delta = problem(dtype=torch.float32)
    target = perturb(x, delta, 0.7)
    module = NormalizedPerturbation(3.0, learn_eps=True)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        (module(x, delta) - target).square().sum().backward()
        optimizer.step()
    assert module.eps.item() == pytest.approx(0.7, rel=0.02)


def test_learned_epsilon_stays_positive_and_is_saved():
    x, delta = problem(dtype=torch.float32)
    module = NormalizedPerturbation(0.1, learn_eps=True)
    optimizer = torch.optim.SGD(module.parameters(), lr=100.0)
    norms(module(x, delta) - x, 2).sum().backward()
    optimizer.step()
    assert 0 < module.eps.item() < 1e-3
    again = NormalizedPerturbation(5.0, learn_eps=True)
    again.load_state_dict(module.state_dict())
    assert again.eps.item() == module.eps.item()


def test_a_fixed_epsilon_is_no_parameter():
    assert not list(NormalizedPerturbation(0.1).parameters())
    assert repr(NormalizedPerturbation(0.5, math.inf)) == "NormalizedPerturbation(eps=0.5, p=inf)"
    assert "(eps=0.5, learned, p=2)" in repr(NormalizedPerturbation(0.5, learn_eps=True))


def test_bounds_per_channel_move_with_the_module_and_hold():
    x, delta = problem(dtype=torch.float32)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    channel = (1, 3, 1, 1)
    lower, upper = ((bound - mean) / std for bound in (0.0, 1.0))
    module = NormalizedPerturbation(4.0, bounds=(lower.reshape(channel), upper.reshape(channel)))
    module = module.to(torch.float64)
    assert module.bounds[0].dtype == torch.float64
    assert not module.state_dict()
    normalized = (x.double() - mean.reshape(channel)) / std.reshape(channel)
    z = module(normalized, delta.double())
    assert (z >= module.bounds[0]).all()
    assert (z <= module.bounds[1]).all()
    assert norms(z - normalized, 2).numpy() == pytest.approx(np.full(4, 4.0), rel=1e-6)


def test_settings_that_cannot_be_are_refused_at_once():
    for arguments, message in [
        ({"eps": -1.0}, r"eps: expected a finite number >= 0, got -1\.0"),
        ({"eps": math.nan}, "eps: expected a finite number >= 0, got nan"),
        ({"eps": torch.ones(2)}, "eps: expected one number"),
        ({"eps": 0.0, "learn_eps": True}, "eps: a learned epsilon must begin above 0"),
        ({"eps": 1.0, "p": 0}, r"p: expected a number in \(0, inf\], got 0"),
        ({"eps": 1.0, "bounds": (1, 0)}, "bounds: expected finite lower < upper"),
        ({"eps": 1.0, "bounds": 1}, r"bounds: expected a pair \(lower, upper\), got 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            NormalizedPerturbation(**arguments)


def test_wrong_tensors_are_refused_by_name():
    x, delta = problem(dtype=torch.float32)
    module = NormalizedPerturbation(0.5)
    with pytest.raises(ValueError, match=r"delta: expected the shape of x, \(4, 3, 6, 6\)"):
        module(x, delta[:1])
    with pytest.raises(ValueError, match=r"delta: lies on meta, x on cpu; move delta"):
        module(x, delta.to("meta"))
    with pytest.raises(ValueError, match=r"eps: lies on meta, x on cpu; move the module"):
        NormalizedPerturbation(0.5, learn_eps=True).to("meta")(x, delta)
    with pytest.raises(ValueError, match=r"x: .* outside the bounds"):
        module(x + 1, delta)
    with pytest.raises(ValueError, match="delta: expected a PyTorch tensor, got ndarray"):
        module(x, delta.numpy())


def test_universal_perturbation_is_exactly_epsilon_from_every_input_and_learns():
    for p in [1.0, 2.0, math.inf]:
        x, direction = problem(dtype=torch.float32)
        weights = direction[0]
        torch.manual_seed(0)
        universal = UniversalPerturbation(x.shape[1:], eps=1.0 if p != math.inf else 0.1, p=p)
        optimizer = torch.optim.SGD(universal.parameters(), lr=0.1, maximize=True)
        gains = []
        for _ in range(40):
            optimizer.zero_grad()
            z = universal(x)
            gain = ((z - x) * weights).sum()
            gain.backward()
            gains.append(gain.item())
            optimizer.step()
        assert gains[-1] > gains[0] + 0.2 * abs(gains[0])
        eps = universal.perturbation.eps
        assert norms(z.detach() - x, p).numpy() == pytest.approx(np.full(4, eps), rel=1e-5)


def test_universal_perturbation_of_another_shape_is_refused():
    universal = UniversalPerturbation((3, 6, 6), eps=1.0)
    with pytest.raises(ValueError, match=r"x: expected samples of shape \(3, 6, 6\), got \(1, 6"):
        universal(torch.rand(2, 1, 6, 6))
    with pytest.raises(ValueError, match="x: expected a PyTorch tensor, got ndarray"):
        universal(np.zeros((2, 3, 6, 6)))
    with pytest.raises(ValueError, match="shape: expected that of one sample"):
        UniversalPerturbation((0, 6, 6), eps=1.0)
