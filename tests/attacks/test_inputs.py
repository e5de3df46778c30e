"""Labels, epsilons and models as users bring them, in every kind of attack."""

import dataclasses
import math
import re
from decimal import Decimal
from fractions import Fraction

import eagerpy as ep
import foolbox
import numpy as np
import pandas as pd
import pytest
import torch
from foolbox.criteria import Misclassification, TargetedMisclassification

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
    "repeated search": attacks.MinimalEpsilon(PGD, max_runs=2).repeat(2),
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
    given += [np.array(LABELS.tolist(), object), pd.Series(LABELS)]
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


quantized_may_be = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
"""PyTorch is about to drop them."""


def quantized(t):
    return torch.quantize_per_tensor(t.float(), 1.0, 0, torch.qint8)


@each_attack
@quantized_may_be
def test_labels_that_hold_no_values_are_refused(attack):
    labels = torch.tensor(LABELS)
    for wrong, message in (
        (np.ma.array(LABELS, mask=[True, False, False, False]), "is a masked array; fill it"),
        (labels.to_sparse(), "is a sparse_coo tensor; make it dense"),
        (labels.to("meta"), "is on the device meta, which holds no values"),
        (quantized(labels), r"is quantized; give criterion.dequantize\(\)"),
        ([[1, 2], [1], 1, 1], r"expected labels as a tensor of shape \(4,\), .* got list"),
        ([None, 1, 1, 1], "expected whole numbers as labels, got None"),
        ([10**30, 1, 1, 1], "expected whole numbers as labels, got 10{30}"),
    ):
        for given in (wrong, Misclassification(wrong)) if hasattr(wrong, "dtype") else (wrong,):
            with pytest.raises(ValueError, match=f"^criterion: {message}"):
                run(attack, given)


@each_attack
@quantized_may_be
def test_inputs_that_are_no_tensor_of_the_model_are_refused(attack):
    x, network = torch.tensor(X), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))
    model = foolbox.PyTorchModel(network.eval(), bounds=(0, 1), device="cpu")
    tensorflow = backends.Backend("tensorflow", "float32")
    rows = torch.nested.nested_tensor([x[0], x[1]], layout=torch.jagged)
    for wrong, message in (
        (X, "expected a torch tensor, as the model takes, got numpy; convert them first"),
        (tensorflow.tensor(X), "expected a torch tensor, as the model takes, got tensorflow"),
        (X.tolist(), "expected a NumPy array, a PyTorch, .* got list"),
        (None, "expected a NumPy array, a PyTorch, .* got NoneType"),
        (rows, "is a nested tensor; make it dense"),
        (x.to("meta"), "is on the device meta, which holds no values"),
        (quantized(x), r"is quantized; give inputs.dequantize\(\)"),
        (x[..., :0], r"expected samples that hold values, got the shape \(4, 3, 8, 0\)"),
        (x.sum(), r"expected a batch of shape \(N, \.\.\.\), got a scalar"),
    ):
        for around in (model, attacks.CountingModel(model)):
            with pytest.raises(ValueError, match=f"^inputs: {message}"):
                attack(around, wrong, LABELS, epsilons=0.5)


@each_attack
def test_one_logit_is_refused_with_the_way_to_two(attack):
    for change in (lambda z: z[:, :1], lambda z: z[:, 0]):
        with pytest.raises(ValueError, match=re.escape("torch.cat([torch.zeros_like(z), z], 1)")):
            run(attack, LABELS * 0, change)


@each_attack
def test_epsilons_may_be_any_numbers_and_nothing_else(attack):
    tensor = torch.tensor([0.1, 0.2])
    pair = (0.1, 0.2)
    for several in (pair, iter(pair), tensor, tensor.bfloat16(), np.array(pair), pd.Series(pair)):
        found, clipped, success = run(attack, epsilons=several)
        assert len(found) == len(clipped) == 2
        assert success.shape == (2, 4)
    for one in (np.float32(0.1), torch.tensor(0.1), 1, Fraction(8, 255), Decimal("0.1"), "8/255"):
        assert run(attack, epsilons=one)[2].shape == (4,)
    for wrong in (-5, float("nan"), "a", b"1", True, [np.True_], [0.1, -1], [[0.1, 0.2]], {0.1: 5}):
        with pytest.raises(ValueError, match="epsilons: expected finite numbers >= 0, got"):
            run(attack, epsilons=wrong)
    with pytest.raises(ValueError, match="epsilons: there is none"):
        run(attack, epsilons=[])
    for wrong, message in (
        (tensor.to("meta"), "is on the device meta"),
        ([tensor[0].to("meta")], "expected finite numbers >= 0, got"),
        (tensor.to_sparse(), "is a sparse_coo tensor"),
    ):
        with pytest.raises(ValueError, match=f"^epsilons: {message}"):
            run(attack, epsilons=wrong)


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


@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_run_takes_no_inputs_either(p):
    pgd = attacks.ClipAwarePGD(p=p)
    fixed = [pgd, attacks.ClipAwareAdamPGD(p=p), attacks.ClipAwareFGM(p=p)]
    fixed += [attacks.ClipAwareSquare(p=p), attacks.ClipAwareGaussianNoise(p=p)]
    fixed += [attacks.ClipAwareAutoAttack(p=p)]
    minimizing = [attacks.ClipAwareMinimumNorm(p=p), attacks.MinimalEpsilon(pgd)]
    nothing = model("torch"), torch.tensor(X[:0]), LABELS[:0]
    found = [attack.run(*nothing, epsilon=0.5) for attack in fixed]
    found += [attack.run(*nothing) for attack in minimizing]
    assert all(points.shape == (0, 3, 8, 8) for points in found)


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
    for change in (lambda z: z.detach().numpy(), lambda z: {"logits": z.detach().numpy()}):
        with pytest.raises(
            ValueError, match=r"^model: returns logits in numpy for inputs in torch"
        ):
            run(attack, change=change)
    with pytest.raises(ValueError, match=r"^model \(its logits\): is a sparse_coo tensor"):
        run(attack, change=torch.Tensor.to_sparse)


@each_attack
def test_logits_may_be_of_any_floating_type(attack):
    for change in (torch.Tensor.bfloat16, torch.Tensor.half, torch.Tensor.double):
        found, _, _ = run(attack, change=change)
        assert found.dtype == torch.float32


def linear(dtype):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5, bias=False))
    network[1].weight.data = torch.tensor(WEIGHTS.T)
    return network.to(dtype).eval()


@each_attack
def test_a_module_gets_inputs_of_its_own_dtype_where_it_takes_no_other(attack):
    shift = {"mean": [0.1] * 3, "std": [0.5] * 3, "axis": -3}
    types = (torch.float16, torch.bfloat16, torch.float64)
    for module, given in [
        *((t, torch.float32) for t in types),
        *((torch.float32, t) for t in types),
    ]:
        model = foolbox.PyTorchModel(linear(module), (0, 1), device="cpu", preprocessing=shift)
        x = torch.tensor(X).to(given)
        found, _, success = attack(model, x, LABELS, epsilons=0.5)
        assert found.dtype == given
        assert success.shape == (4,)


def test_a_module_that_casts_its_inputs_itself_gets_them_as_they_are():
    class Casting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.seen = linear(torch.float16), set()

        def forward(self, x):
            self.seen.add(x.dtype)
            return self.network(x.half()).float()

    module = Casting().eval()
    PGD(foolbox.PyTorchModel(module, (0, 1), device="cpu"), torch.tensor(X), LABELS, epsilons=0.5)
    assert module.seen == {torch.float32}


def test_a_module_whose_dtypes_do_not_fit_is_one_line_or_its_own_error():
    class Own(torch.nn.Module):
        def __init__(self, network, last):
            super().__init__()
            self.network, self.last = network, last

        def forward(self, x):
            return self.last(self.network(x))

    double = torch.eye(5).double()
    takes = r"model: takes no inputs of torch.float32, .* of torch.float16, torch.float32; cast"
    for network, last, error, message in (
        (linear(torch.float16), torch.nn.Linear(5, 5), ValueError, takes),
        (linear(torch.float32), lambda z: z @ double, RuntimeError, "same dtype"),
    ):
        model = foolbox.PyTorchModel(Own(network, last).eval(), (0, 1), device="cpu")
        with pytest.raises(error, match=message):
            PGD(model, torch.tensor(X), LABELS, epsilons=0.5)


@each_attack
def test_logits_that_are_not_finite_are_warned_of_once(attack):
    message = r"model: the logits of 1 of 4 samples are not finite \(float32\).*; compute in"
    for value in (math.nan, -math.inf, math.inf):
        with pytest.warns(RuntimeWarning, match=message) as said:
            run(attack, change=lambda z, value=value: z.index_fill(0, torch.tensor([0]), value))
        assert len(said) == 1


@each_attack
def test_logits_that_are_not_finite_at_perturbed_inputs_only_are_warned_of_once(attack):
    clean = torch.tensor(X.reshape(4, -1) @ WEIGHTS)

    def change(z):
        unknown = (z[:, None] - clean).abs().amax(2).amin(1, keepdim=True) > 1e-3
        return torch.where(unknown, z * 0 + math.nan, z)

    with pytest.warns(RuntimeWarning, match=r"model: the logits of \d of \d samples") as said:
        run(attack, change=change)
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
        "numpy": ("numpy", lambda z: z),
    }
    for framework, change in changes.values():
        for name, attack in ATTACKS.items():
            if name in WITHOUT_GRADIENT:
                run(attack, change=change, framework=framework)
                continue
            with pytest.raises(ValueError, match=r"model: gives no gradient.*ClipAwareSquare"):
                run(attack, change=change, framework=framework)


@pytest.mark.parametrize("wrapper", ["bounds", "expectation", "both"])
def test_logits_are_taken_out_of_what_a_network_in_foolbox_wrappers_returns(wrapper):
    plain, wrapped = model("torch"), model("torch", lambda logits: (logits,))
    x, span = torch.tensor(X), 1
    if wrapper != "bounds":
        wrapped = foolbox.models.ExpectationOverTransformationWrapper(wrapped, n_steps=2)
    if wrapper != "expectation":
        wrapped, span = foolbox.models.TransformBoundsWrapper(wrapped, (0, 2)), 2
    attack = attacks.ClipAwareBIM(steps=2)
    labels = torch.tensor(LABELS)
    _, expected, _ = attack(plain, x, labels, epsilons=0.5)
    _, found, _ = attack(wrapped, span * x, labels, epsilons=span * 0.5)
    torch.testing.assert_close(found / span, expected)


@each_attack
def test_a_pytorch_module_is_a_model_for_inputs_in_0_to_1(attack):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval()
    x = torch.rand(3, 3, 4, 4)
    y = network(x).argmax(1)
    found = []
    for model in (network, foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")):
        torch.manual_seed(0)
        found.append(attack(model, x, y, epsilons=0.5)[1])
    assert torch.equal(*found)


@each_attack
def test_another_network_in_the_place_of_a_model_is_told_how_to_be_one(attack):
    with pytest.raises(ValueError, match="PyTorch module, got function; wrap a network"):
        attack(lambda x: x, torch.rand(3, 2), torch.zeros(3), epsilons=0.5)
