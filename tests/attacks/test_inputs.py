"""Labels, epsilons and models as users bring them, in every kind of attack."""

import dataclasses
import math
import re
from decimal import Decimal
from fractions import Fraction

import eagerpy as ep
import foolbox
import numpy as np
import pytest
import torch
from foolbox.criteria import TargetedMisclassification

from foolbox_carescale import attacks
from tests import backends

RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((192, 5)).astype(np.float32)
X = RNG.random((4, 3, 8, 8)).astype(np.float32)
LABELS = (X.reshape(4, -1) @ WEIGHTS).argmax(1)

PGD = attacks.ClipAwarePGD(steps=2)
ATTACKS = {
    "gradient": PGD,
    "noise": attacks.ClipAwareGaussianNoise(),
    "query": attacks.ClipAwareSquare(queries=4),
    "ensemble": attacks.ClipAwareAutoAttack(steps=2, queries=4, restarts=1, targets=1),
    "minimum norm": attacks.ClipAwareMinimumNorm(steps=2),
    "minimal epsilon": attacks.MinimalEpsilon(PGD, max_runs=2),
    "repeated": PGD.repeat(2),
}
WITHOUT_GRADIENT = {name: ATTACKS[name] for name in ("noise", "query")}
each_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def network(x):
    return ep.matmul(x.reshape((-1, 192)), ep.from_numpy(x, WEIGHTS))


def model(framework, change=lambda logits: logits):
    """A Foolbox model of raw tensors, whose network returns its logits changed."""
    names = {"torch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX", "numpy": "NumPy"}

    def forward(x):
        return change(network(ep.astensor(x)).raw)

    if framework == "torch":
        module = torch.nn.Module()
        module.forward = forward
        return foolbox.PyTorchModel(module.eval(), bounds=(0, 1))
    return getattr(foolbox, f"{names[framework]}Model")(forward, bounds=(0, 1))


def run(attack, labels=LABELS, change=lambda logits: logits, framework="torch", epsilons=0.5, x=X):
    return attack(
        model(framework, change),
        backends.Backend(framework, "float32").tensor(x),
        labels,
        epsilons=epsilons,
    )


@pytest.mark.parametrize("framework", backends.FRAMEWORKS)
def test_labels_of_any_integral_type_are_the_same_labels(framework):
    backend = backends.Backend(framework, "float32")
    given = [LABELS.astype(dtype) for dtype in ("int8", "uint8", ">i4", "uint16", "float32")]
    given += [LABELS.tolist(), tuple(LABELS), torch.tensor(LABELS), backend.tensor(LABELS)]
    names = {"torch": ATTACKS, "numpy": WITHOUT_GRADIENT}.get(framework, ("gradient", "noise"))
    for name in names:
        for labels in given:
            _, _, success = run(ATTACKS[name], labels, framework=framework)
            assert success.shape == (4,), name


@each_attack
def test_a_label_that_is_no_class_is_refused(attack):
    for framework in ("torch", "jax"):
        for label in (7, -1):
            wrong = np.where(np.arange(4) == 2, label, LABELS)
            message = f"criterion: the class {label} of sample 2 is none of the model's 5"
            with pytest.raises(ValueError, match=message):
                run(attack, wrong, framework=framework)
    for wrong in (LABELS + 0.5, np.full(4, np.nan)):
        with pytest.raises(ValueError, match="criterion: expected whole numbers as labels, got"):
            run(attack, wrong)
    with pytest.raises(ValueError, match=r"one class for each of 4 inputs, .* shape \(4, 5\)"):
        run(attack, np.eye(5)[LABELS])


def test_a_target_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match="criterion: the class 5 of sample 0"):
        run(PGD, TargetedMisclassification(torch.full((4,), 5)))
    targets = TargetedMisclassification(torch.tensor((LABELS + 1) % 5, dtype=torch.int8))
    assert run(PGD, targets)[2].shape == (4,)
    assert targets.target_classes.raw.dtype == torch.int8  # the caller's own is left as it was


@each_attack
def test_one_logit_is_refused_with_the_way_to_two(attack):
    for change in (lambda z: z[:, :1], lambda z: z[:, 0]):
        with pytest.raises(ValueError, match=re.escape("torch.cat([torch.zeros_like(z), z], 1)")):
            run(attack, LABELS * 0, change)


@each_attack
def test_epsilons_may_be_any_numbers_and_nothing_else(attack):
    for several in ((0.1, 0.2), iter([0.1, 0.2]), torch.tensor([0.1, 0.2]), np.array([0.1, 0.2])):
        found, clipped, success = run(attack, epsilons=several)
        assert len(found) == len(clipped) == 2
        assert success.shape == (2, 4)
    for one in (np.float32(0.1), torch.tensor(0.1), 1, Fraction(8, 255), Decimal("0.1")):
        assert run(attack, epsilons=one)[2].shape == (4,)
    for wrong in (-5, float("nan"), "a", True, [0.1, -1], [[0.1, 0.2]]):
        with pytest.raises(ValueError, match="epsilons: expected finite numbers >= 0, got"):
            run(attack, epsilons=wrong)
    with pytest.raises(ValueError, match="epsilons: there is none"):
        run(attack, epsilons=[])


@each_attack
def test_bounds_per_channel_are_refused_with_what_to_do_instead(attack):
    bounds = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))
    model = foolbox.PyTorchModel(network.eval(), bounds=bounds, device="cpu")
    with pytest.raises(ValueError, match=r"two numbers as bounds, .* mean and std"):
        attack(model, torch.tensor(X), torch.tensor(LABELS), epsilons=0.1)


def test_only_an_attack_that_minimizes_takes_none():
    with pytest.raises(ValueError, match=r"got None; .* use ClipAwareMinimumNorm"):
        run(PGD, epsilons=None)
    assert run(ATTACKS["minimum norm"], epsilons=None)[2].shape == (4,)


@each_attack
def test_no_inputs_give_no_adversarial_examples(attack):
    for epsilons, shape in ((0.5, (0,)), ([0.1, 0.2], (2, 0))):
        found, _, success = run(attack, LABELS[:0], epsilons=epsilons, x=X[:0])
        assert success.shape == shape
        assert success.dtype == torch.bool
        assert (found[0] if len(shape) == 2 else found).shape == (0, 3, 8, 8)


@dataclasses.dataclass
class Output:
    """The output of a Hugging Face network, in short."""

    logits: torch.Tensor
    hidden: torch.Tensor


@each_attack
def test_logits_are_taken_out_of_what_a_network_returns(attack):
    expected = run(attack)[2]
    for change in (
        lambda z: (z,),
        lambda z: [z, None],
        lambda z: {"logits": z, "hidden": -z},
        lambda z: {"output": z},
        lambda z: Output(z, -z),
    ):
        assert run(attack, change=change)[2].shape == expected.shape
    with pytest.raises(ValueError, match=r"returns a tuple with 2 tensors \(0: \(4, 5\), 1"):
        run(attack, change=lambda z: (z, z))
    with pytest.raises(ValueError, match="model: returns int64, not logits"):
        run(attack, change=lambda z: z.argmax(1))
    with pytest.raises(ValueError, match=r"model: expected logits of shape \(4, classes\)"):
        run(attack, change=lambda z: z[:3])


@each_attack
def test_logits_may_be_of_any_floating_type(attack):
    for change in (torch.Tensor.bfloat16, torch.Tensor.half, torch.Tensor.double):
        found, _, _ = run(attack, change=change)
        assert found.dtype == torch.float32


@each_attack
def test_logits_that_are_not_finite_are_warned_of_once(attack):
    message = r"model: the logits of 1 of 4 samples are not finite \(float32\).*; compute in"
    for value in (math.nan, -math.inf, math.inf):
        with pytest.warns(RuntimeWarning, match=message) as said:
            run(attack, change=lambda z, value=value: z.index_fill(0, torch.tensor([0]), value))
        assert len(said) == 1


@pytest.mark.parametrize("framework", backends.FRAMEWORKS)
def test_logits_that_are_not_finite_are_warned_of_in_every_framework(framework):
    for name in ("noise",) if framework == "numpy" else ("gradient", "noise"):
        with pytest.warns(RuntimeWarning, match="the logits of 4 of 4 samples") as said:
            run(ATTACKS[name], change=lambda z: z * math.nan, framework=framework)
        assert len(said) == 1


def test_finite_logits_whose_sum_overflows_are_not_warned_of():
    assert run(PGD, change=lambda z: 3e38 * z.sign())[2].shape == (4,)


def without_gradient(z):
    with torch.no_grad():
        return z * 1


def test_a_model_without_gradient_is_refused_by_those_that_need_one():
    tensorflow = pytest.importorskip("tensorflow")
    changes = {
        "detach": ("torch", torch.Tensor.detach),
        "no_grad": ("torch", without_gradient),
        "one-hot": ("torch", lambda z: torch.nn.functional.one_hot(z.argmax(1), 5).float()),
        "stop_gradient": ("tensorflow", tensorflow.stop_gradient),
    }
    for framework, change in changes.values():
        for name, attack in ATTACKS.items():
            if name in WITHOUT_GRADIENT:
                run(attack, change=change, framework=framework)
                continue
            with pytest.raises(ValueError, match=r"model: gives no gradient.*ClipAwareSquare"):
                run(attack, change=change, framework=framework)


@each_attack
def test_a_network_in_the_place_of_a_model_is_told_how_to_be_one(attack):
    with pytest.raises(ValueError, match="model: expected a Foolbox model, got Linear; wrap"):
        attack(torch.nn.Linear(2, 2), torch.rand(3, 2), torch.zeros(3), epsilons=0.5)
