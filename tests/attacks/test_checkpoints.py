"""Models that checkpoint their activations the reentrant way, which knows backward() alone."""

import eagerpy as ep
import foolbox as fb
import pytest
import torch
import torch.utils.checkpoint

from foolbox_carescale import attacks
from foolbox_carescale.attacks.counting import CountingModel
from foolbox_carescale.core.gradients import value_aux_and_grad
from tests.attacks.test_models import convolution


# PyTorch's, where the model is asked for logits alone
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_reentrant_checkpoints_leave_the_gradients_of_parameters_and_cost_nothing_more():
    network, passes = convolution(use_reentrant=True), []
    network.register_forward_hook(lambda *_: passes.append(1))
    held = [torch.rand_like(parameter) for parameter in network.parameters()]
    for parameter, gradient in zip(network.parameters(), held, strict=True):
        parameter.grad = gradient.clone()
    model = CountingModel(fb.PyTorchModel(network, bounds=(0, 1)))
    x, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    attacks.L2ClipAwareBIM(steps=3)(model, x, labels, epsilons=0.5)
    for parameter, gradient in zip(network.parameters(), held, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert len(passes) * len(x) == model.forwards


def test_checkpoints_are_reentrant_again_after_an_error_in_a_model():
    original = torch.utils.checkpoint.CheckpointFunction

    def failing(_):
        assert torch.utils.checkpoint.CheckpointFunction is not original
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        value_aux_and_grad(failing, ep.astensor(torch.rand(2)))
    assert torch.utils.checkpoint.CheckpointFunction is original
