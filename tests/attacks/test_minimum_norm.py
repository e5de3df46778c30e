"""The minimum-norm attack: closed forms, every iterate on its radius, one run for all epsilons."""

import math

import foolbox as fb
import numpy as np
import pytest
import torch

from foolbox_carescale import attacks, steepest_step
from tests.attacks import model_cases, table


@pytest.mark.parametrize("p", [1, 1.5, 2, math.inf])
def test_it_finds_the_distance_to_a_linear_boundary_inside_the_box(p):
    case, weights = model_cases.linear()
    logits = case.logits(case.x)
    rows, labels = np.arange(len(logits)), logits.argmax(1)
    margin = torch.tensor(logits[rows, labels] - logits[rows, 1 - labels], dtype=torch.float64)
    ascent = torch.tensor(weights[1 - labels] - weights[labels]).reshape(case.x.shape).double()
    # the least norm whose steepest step closes the gap
    low, high = torch.zeros_like(margin), torch.full_like(margin, 100.0)
    for _ in range(60):
        middle = (low + high) / 2
        moved = steepest_step(case.x.double(), ascent, middle, p=p) - case.x
        enough = (moved * ascent).flatten(1).sum(1) >= margin
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    attack = attacks.ClipAwareMinimumNorm(p=p)
    points, _, success = attack(case.model, case.x, case.labels, epsilons=None)
    found = case.norm(points, p)
    assert success.all()
    assert (found >= high.numpy() * (1 - 1e-5)).all()
    assert (found <= high.numpy() * (1.02 if p == 1 else 1.005)).all()


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_lets_no_perturbation_pass_that_is_longer_than_epsilon(dtype, p, search):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)).eval()
    x = torch.rand(6, 3, 32, 32).to(dtype)
    labels = network(x.float()).argmax(1)
    attack = attacks.ClipAwareMinimumNorm(p=p, steps=20)
    if search:
        wrapped = attacks.ClipAwareBIM(p=p, steps=5)
        attack = attacks.MinimalEpsilon(wrapped, max_runs=8, init_attack=attack)
    raw, _, found = attack(network, x, labels, epsilons=None)
    norms = torch.linalg.vector_norm((raw.float() - x.float()).flatten(1), ord=p, dim=1)
    assert found.all()
    _, cut, success = attack(network, x, labels, epsilons=[0.0, norms.max().item() * 1.01])
    assert not success[0].any()
    assert torch.equal(cut[0], x)
    assert success[1].all()


def test_the_call_says_where_early_stop_goes():
    case, _ = model_cases.linear()
    with pytest.raises(TypeError, match="early_stop: the call takes it from epsilons; pass it to"):
        attacks.ClipAwareMinimumNorm()(
            case.model, case.x, case.labels, epsilons=None, early_stop=0.1
        )


@table.every_backend
@pytest.mark.parametrize("p", [1, 3, math.inf])
def test_every_iterate_is_inside_the_box_and_the_nearest_adversarial_one_comes_back(case, p):
    seen = []
    attack = attacks.ClipAwareMinimumNorm(p=p, steps=6)
    points, _, success = attack(case.model, case.x, case.labels, epsilons=None, on_step=seen.append)
    norms = np.stack([case.norm(i.x, p) for i in seen])
    reported = np.stack([np.asarray(i.norm) for i in seen])
    np.testing.assert_allclose(reported, norms, rtol=1e-5, atol=1e-6)
    adversarial = np.stack([np.asarray(i.is_adversarial) for i in seen])
    assert all(case.in_box(i.x) for i in seen)
    assert not np.asarray(seen[0].stepsize).any()
    least = np.where(adversarial, norms, np.inf).min(axis=0)
    assert np.asarray(success).all()
    np.testing.assert_allclose(case.norm(points, p), least, rtol=1e-6)


@table.on_torch
@pytest.mark.parametrize("p", [1, 1.5, 2, math.inf])
def test_iterates_lie_on_the_radius_of_their_sample(case, p, monkeypatch):
    radii, seen = [], []
    update = attacks.minimum_norm._Radius.update

    def record(self, *arguments):
        update(self, *arguments)
        radii.append(self.epsilon.numpy().copy())

    monkeypatch.setattr(attacks.minimum_norm._Radius, "update", record)
    attack = attacks.ClipAwareMinimumNorm(p=p, steps=8, restarts=1)
    attack.run(case.model, case.x, case.labels, on_step=seen.append)
    for radius, iterate in zip(radii, seen[1:], strict=True):
        # x + perturbation is rounded to 6e-8, which small radii feel
        np.testing.assert_allclose(case.norm(iterate.x, p), radius, rtol=1e-5, atol=5e-7)


@table.on_torch
def test_a_run_costs_its_gradients_and_a_forward_pass_per_restart(case):
    model = attacks.CountingModel(case.model)
    attacks.ClipAwareMinimumNorm(steps=5, restarts=3).run(model, case.x, case.labels)
    assert model.backwards == 15 * len(case.x)
    assert model.forwards == 18 * len(case.x)


@table.on_torch
@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_one_run_serves_all_epsilons(case, p):
    attack = attacks.ClipAwareMinimumNorm(p=p, steps=10)
    points, _, _ = attack(case.model, case.x, case.labels, epsilons=None)
    norms = case.norm(points, p)
    epsilons = [*(np.sort(norms) * 1.01), *(np.sort(norms) * 0.8)]
    _, clipped, success = attack(case.model, case.x, case.labels, epsilons=[None, *epsilons])
    expected = norms[None] <= np.array(epsilons)[:, None]
    np.testing.assert_array_equal(success[1:].numpy(), expected)
    for points, epsilon in zip(clipped[1:], epsilons, strict=True):
        assert (case.norm(points, p) <= epsilon * (1 + 1e-5) + 1e-7).all()


@table.on_torch
@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_a_sample_that_is_near_enough_is_left_as_it_is(case, p):
    attack = attacks.ClipAwareMinimumNorm(p=p, steps=20)
    best = case.norm(attack.run(case.model, case.x, case.labels), p)
    enough = 2 * float(np.median(best))
    model = attacks.CountingModel(case.model)
    points = attack.run(model, case.x, case.labels, early_stop=enough)
    near = best <= enough
    assert (case.norm(points, p) > best)[near].any()
    assert model.backwards < 2 * 20 * len(case.x)  # it costs no further passes
    np.testing.assert_allclose(case.norm(points, p)[~near], best[~near], rtol=1e-4)
    each = attack.run(case.model, case.x, case.labels, early_stop=torch.full((len(best),), enough))
    np.testing.assert_array_equal(each, points)
    with pytest.raises(ValueError, match=r"early_stop: .* -1"):
        attack.run(case.model, case.x, case.labels, early_stop=-1)
    everywhere = attack.run(model, case.x, case.labels, early_stop=1e6)
    spent = model.backwards
    attack.run(model, case.x, case.labels, early_stop=1e6)
    assert model.backwards - spent < 20 * len(case.x)
    assert case.norm(everywhere, p).max() < 1e6


@table.every_backend
@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_a_sample_s_result_does_not_depend_on_its_companions(case, p):
    attack = attacks.ClipAwareMinimumNorm(p=p, steps=6)
    points = case.numpy(attack.run(case.model, case.x, case.labels))
    x, labels = case.numpy(case.x).copy(), case.numpy(case.labels).copy()
    x[1:], labels[1:] = x[:1] * 0.5 + x[1:] * 0.5, labels[0]
    others = attack.run(case.model, case.backend.tensor(x), labels)
    np.testing.assert_array_equal(case.numpy(others)[0], points[0])


@table.every_backend
def test_targets_are_reached(case):
    labels = np.asarray(model_cases.native(case.labels))
    targets = (model_cases.native(case.labels) + 1) % model_cases.CLASSES
    criterion = fb.criteria.TargetedMisclassification(targets)
    points, _, success = attacks.ClipAwareMinimumNorm(steps=20)(
        case.model, case.x, criterion, epsilons=None
    )
    assert np.asarray(success).all()
    assert (case.logits(points).argmax(1) == (labels + 1) % model_cases.CLASSES).all()


def test_a_model_that_is_certain_hides_no_gradient():
    case, _ = model_cases.linear(classes=5)
    attack = attacks.ClipAwareMinimumNorm(steps=20)
    plain = case.norm(attack.run(case.model, case.x, case.labels), 2)

    class Certain(torch.nn.Module):
        def forward(self, x):
            return 1e4 * case.model(x)

    model = fb.PyTorchModel(Certain().eval(), bounds=(0, 1), device="cpu")
    certain = case.norm(attack.run(model, case.x, case.labels), 2)
    assert (certain <= plain * 1.02).all()


def test_what_is_adversarial_already_is_not_moved_and_costs_one_gradient():
    case, _ = model_cases.linear()
    model = attacks.CountingModel(case.model)
    points, _, success = attacks.ClipAwareMinimumNorm()(
        model, case.x, 1 - case.labels, epsilons=None
    )
    assert success.all()
    assert torch.equal(points, case.x)
    assert model.backwards == len(case.x)


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_where_nothing_succeeds_the_input_comes_back_and_is_no_success(p):
    class Stubborn(torch.nn.Module):
        def forward(self, x):
            total = x.flatten(1).sum(1, keepdim=True)
            return torch.cat([total + 1e4, -total], dim=1)

    x = torch.rand(3, 3, 8, 8)
    model = fb.PyTorchModel(Stubborn().eval(), bounds=(0, 1), device="cpu")
    attack = attacks.ClipAwareMinimumNorm(p=p, steps=10)
    points, _, success = attack(model, x, torch.zeros(3, dtype=torch.long), epsilons=None)
    assert not success.any()
    assert torch.equal(points, x)


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_equal_logits_are_not_taken_for_the_boundary(p):
    weights = torch.randn(192, generator=torch.Generator().manual_seed(0)) * 3

    class Rounded(torch.nn.Module):
        def forward(self, x):
            z = (x.flatten(1) - 0.5) @ weights
            z = z + (z.round() - z).detach()
            return torch.stack([0 * z, z], dim=1)

    at = torch.tensor([-0.1, -1.0])  # which round to a tie, where the first class wins, and to -1
    x = 0.5 + at[:, None] * weights / weights.square().sum()
    model = fb.PyTorchModel(Rounded().eval(), bounds=(0, 1), device="cpu")
    attack = attacks.ClipAwareMinimumNorm(p=p, steps=30)
    points, _, success = attack(model, x, torch.zeros(2, dtype=torch.long), epsilons=None)
    least = (0.5 - at) / torch.linalg.vector_norm(weights, {1: math.inf, math.inf: 1}.get(p, 2))
    norms = torch.linalg.vector_norm(points - x, p, dim=1)
    assert success.all()
    assert (norms >= least * (1 - 1e-5)).all()
    assert (norms <= least * 1.01).all()


def test_a_sample_without_finite_logits_leaves_the_others_alone():
    case, _ = model_cases.linear()
    alone = attacks.ClipAwareMinimumNorm(steps=5).run(case.model, case.x, case.labels)
    bad = case.x[:1] * 0 + 0.25

    class Undefined(torch.nn.Module):
        def forward(self, x):
            undefined = (x == bad).flatten(1).all(1, keepdim=True)
            return torch.where(undefined, math.nan, case.model(x))

    model = fb.PyTorchModel(Undefined().eval(), bounds=(0, 1), device="cpu")
    x = torch.cat([case.x, bad])
    labels = torch.cat([case.labels, torch.zeros(1, dtype=torch.long)])  # NaN counts as class 0
    attack = attacks.ClipAwareMinimumNorm(steps=5)
    with pytest.warns(RuntimeWarning, match="the logits of 1 of 7 samples are not finite"):
        points, _, success = attack(model, x, labels, epsilons=None)
    assert not success[-1]
    assert torch.equal(points[-1:], bad)
    np.testing.assert_allclose(points[:-1], alone, atol=1e-6)


@pytest.mark.parametrize("ensemble", [False, True])
def test_a_model_that_draws_numbers_is_warned_of_unless_its_logits_are_averaged(ensemble):
    case, _ = model_cases.linear()

    class Random(torch.nn.Module):
        def forward(self, x):
            logits = case.model(x)
            return logits + torch.randn_like(logits)

    model = fb.PyTorchModel(Random().eval(), bounds=(0, 1), device="cpu")
    attack = attacks.ClipAwareMinimumNorm(steps=2)
    arguments = {"attacks": ["minimum-norm", "pgd-margin"], "steps": 4}
    if ensemble:
        attack = attacks.ClipAwareAutoAttack(**arguments)
    torch.manual_seed(0)
    message = "model: another call gives other logits for [0-9] of [0-9] inputs"
    with pytest.warns(RuntimeWarning, match=message) as said:
        attack(model, case.x, case.labels, epsilons=0.1)
    assert len(said) == 1
    averaged = attacks.ClipAwareAutoAttack(**arguments, draws=2)
    averaged(model, case.x, case.labels, epsilons=0.1)


def test_numbers_of_numpy_are_taken_as_python_s():
    attack = attacks.ClipAwareMinimumNorm(steps=np.uint8(255), restarts=np.int64(2))
    assert (type(attack.steps), attack.steps) == (int, 255)
    assert (type(attack.restarts), attack.restarts) == (int, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 0.5}, "p: "),
        ({"steps": 0}, "steps: expected an integer >= 1, got 0"),
        ({"steps": True}, "steps: expected an integer >= 1, got True"),
        ({"restarts": 0}, "restarts: expected an integer >= 1, got 0"),
        ({"loss": "dlr"}, "loss: .*soft_margin.* got 'dlr'"),
        ({"momentum": 1}, "momentum: .* got 1"),
    ],
)
def test_the_constructor_names_what_it_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        attacks.ClipAwareMinimumNorm(**arguments)
