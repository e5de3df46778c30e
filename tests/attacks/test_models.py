"""Attacks and the models they are run on: gradients, checkpoints, how many pixels decide."""

import foolbox as fb
import pytest
import torch
import torch.utils.checkpoint

from foolbox_carescale import attacks
from tests.attacks import model_cases
from tests.attacks.table import ORDERS, assert_norm, iterates_of


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("direction", ["gradient", "momentum", "adam", "conjugate"])
def test_a_gradient_that_is_nan_does_not_reach_the_result(direction, p):
    def forward(t):
        flat = t.reshape(len(t), -1)
        # the root of 0 has an infinite slope, times 0: NaN
        broken = torch.sqrt(flat[:, :50] * 0).sum(1)
        return torch.stack([flat[:, 50:].sum(1) - broken, flat[:, 100:].sum(1) * 3 - 60], 1)

    case = model_cases.build("torch", forward, model_cases.images())
    x = case.x.clone().requires_grad_()
    case.model(x)[:, 0].sum().backward()
    assert x.grad.isnan().any()
    for keep in ("best", "last"):
        attack = attacks.ClipAwarePGD(p=p, steps=4, keep=keep, direction=direction)
        (raw, clipped, _), seen = iterates_of(attack, case, epsilons=case.epsilon(p))
        for points in [raw, clipped, *(iterate.x for iterate in seen)]:
            assert_norm(case, points, p, case.epsilon(p))


def convolution(**options):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5)]
    if options:
        layers[0] = Checkpointed(layers[0], **options)
    return torch.nn.Sequential(*layers).eval()


class Checkpointed(torch.nn.Module):
    def __init__(self, inner, **options):
        super().__init__()
        self.inner, self.options = inner, options

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.inner, x, **self.options)


@pytest.mark.parametrize("make", [attacks.L2ClipAwarePGD, attacks.LinfClipAwareFGM])
def test_parameters_get_no_gradient_and_keep_what_they_have(make):
    network = convolution()
    held = [torch.full_like(parameter, 7) for parameter in network.parameters()]
    for parameter, gradient in zip(network.parameters(), held, strict=True):
        parameter.grad = gradient.clone()
    model = fb.PyTorchModel(network, bounds=(0, 1))
    make()(model, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), epsilons=0.1)
    for parameter, gradient in zip(network.parameters(), held, strict=True):
        assert parameter.requires_grad
        assert torch.equal(parameter.grad, gradient)


def test_attacks_work_where_gradients_are_switched_off():
    model = fb.PyTorchModel(convolution(), bounds=(0, 1))
    x, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    attack = attacks.L2ClipAwareBIM(steps=3)
    expected, _, _ = attack(model, x, labels, epsilons=0.5)
    with torch.no_grad():
        found, _, _ = attack(model, x, labels, epsilons=0.5)
    assert torch.equal(found, expected)


# PyTorch's, where the model is asked for logits alone
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_models_that_checkpoint_activations_are_attacked_alike(reentrant):
    x, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    with torch.no_grad():
        found = [
            attacks.L2ClipAwareBIM(steps=3)(
                fb.PyTorchModel(network, bounds=(0, 1)), x, labels, epsilons=0.5
            )[0]
            for network in (convolution(), convolution(use_reentrant=reentrant))
        ]
    torch.testing.assert_close(*found)


def foolbox_model(function):
    return fb.PyTorchModel(Function(function), bounds=(0, 1))


class Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x):
        return self.function(x)
