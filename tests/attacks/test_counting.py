"""Passes of a model, counted in samples, by attacks whose cost is known."""

import eagerpy as ep
import foolbox as fb
import numpy as np
import pytest
import torch

from foolbox_carescale import attacks
from foolbox_carescale.attacks.counting import CountingModel
from tests.attacks import model_cases
from tests.attacks.table import in_turns

N = model_cases.SAMPLES
CLOSING = N  # Foolbox judges the result by one more forward pass

# attack, forward and backward passes of its run
COSTS = [
    (fb.attacks.LinfPGD(steps=5), 5 * N, 5 * N),
    (fb.attacks.FGSM(), N, N),
    (fb.attacks.L2AdditiveGaussianNoiseAttack(), 0, 0),
    (fb.attacks.L2AdamPGD(steps=3), 3 * N, 3 * N),
    # with keep="best" the last iterate's loss is one more forward pass
    (attacks.L2ClipAwarePGD(steps=5), 6 * N, 5 * N),
    (attacks.L2ClipAwarePGD(steps=5, keep="last"), 5 * N, 5 * N),
    (attacks.L1ClipAwareAPGD(steps=4, restarts=2), 10 * N, 8 * N),
    (attacks.L1ClipAwarePGD(steps=20), 21 * N, 20 * N),
    (attacks.LinfClipAwareFGM(), N, N),
    (attacks.L1ClipAwareFGM(), 9 * N, N),
    (attacks.L1ClipAwareFGM(candidates=1), N, N),
    # one more forward pass ranks the target classes
    (attacks.L2ClipAwarePGD(steps=2, loss="dlr_targeted", targets=3), N + 3 * 3 * N, 3 * 2 * N),
    (attacks.L2ClipAwareGaussianNoise(), 0, 0),
]


@in_turns(
    [pytest.param(*row, id=str(row[0])) for row in COSTS], ("attack", "forwards", "backwards")
)
def test_an_attack_costs_the_passes_that_its_steps_say(case, attack, forwards, backwards):
    model = CountingModel(case.model)
    attack(model, case.x, case.labels, epsilons=case.epsilon(2) / 4)
    assert (model.forwards, model.backwards) == (forwards + CLOSING, backwards)
    # and it attacks as it does without being counted
    model_cases.seed(case.backend.framework)
    counted, _, _ = attack(model, case.x, case.labels, epsilons=case.epsilon(2) / 4)
    model_cases.seed(case.backend.framework)
    plain, _, _ = attack(case.model, case.x, case.labels, epsilons=case.epsilon(2) / 4)
    assert np.array_equal(case.numpy(counted), case.numpy(plain))


def test_the_targeted_loss_aims_at_nine_classes_by_default():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 12)).eval()
    model = CountingModel(fb.PyTorchModel(network, bounds=(0, 1)))
    x = torch.rand(N, 3, 2, 2)
    attack = attacks.L2ClipAwarePGD(steps=2, loss="dlr_targeted")
    attack(model, x, network(x).argmax(-1), epsilons=0.5)
    assert model.backwards == 9 * 2 * N


@pytest.mark.parametrize("case", model_cases.EVERY, indirect=True)
def test_it_answers_as_the_model_does_and_keeps_bounds_and_format(case):
    model = CountingModel(case.model)
    assert model.bounds == case.model.bounds
    assert hasattr(model, "data_format") == hasattr(case.model, "data_format")
    assert np.array_equal(case.logits(case.x), case.numpy(model(case.x)))
    assert isinstance(model(ep.astensor(case.x)), ep.Tensor)
    assert (model.forwards, model.backwards) == (2 * N, 0)
    other = model.transform_bounds((0, 2))
    other(ep.astensor(case.x))
    assert model.forwards == 3 * N, "a view with other bounds counts into the same numbers"


@pytest.mark.parametrize("case", ["numpy"], indirect=True)
def test_noise_counts_its_repeats_in_numpy(case):
    model = CountingModel(case.model)
    noise = attacks.L2ClipAwareGaussianNoise(repeats=3)
    noise(model, case.x, case.labels, epsilons=1e-3 * case.epsilon(2))
    assert (model.forwards, model.backwards) == (3 * N + CLOSING, 0)
