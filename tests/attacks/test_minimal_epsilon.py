"""MinimalEpsilon against the closed form on a linear model, and its budget."""

import foolbox as fb
import numpy as np
import pytest
import torch

from foolbox_carescale import attacks
from tests.attacks import model_cases


@pytest.mark.parametrize(("p", "q"), [(1, np.inf), (2, 2), (np.inf, 1)])
def test_it_finds_the_distance_to_a_linear_decision_boundary(p, q):
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 2, bias=False).eval()
    network = torch.nn.Sequential(torch.nn.Flatten(), layer).eval()
    x = torch.randn(5, 3, 4, 4)  # so far from the bounds that the clip plays no part
    model = fb.PyTorchModel(network, bounds=(-1000, 1000), device="cpu")
    with torch.no_grad():
        weights, logits = layer.weight.double().numpy(), model(x).double().numpy()
    rows = np.arange(len(logits))
    labels = logits.argmax(1)
    margin = logits[rows, labels] - logits[rows, 1 - labels]
    distance = margin / np.linalg.norm(weights[0] - weights[1], ord=q)
    search = attacks.MinimalEpsilon(
        attacks.ClipAwareFGM(p=p, loss="margin"), initial=1e-3, rel_tolerance=1e-3, max_runs=60
    )
    points, _, success = search(model, x, torch.tensor(labels), epsilons=None)
    found = torch.linalg.vector_norm((points - x).double().flatten(1), ord=p, dim=1).numpy()
    assert success.all()
    assert (found >= distance * (1 - 1e-4)).all()
    assert (found <= distance * 1.002).all()


def test_norms_beyond_the_range_of_float16_are_searched():
    class Mean(torch.nn.Module):
        def forward(self, x):
            mean = x.float().mean((1, 2, 3)) / 255
            return torch.stack([mean, 0 * mean + 0.2], 1)

    x = (torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255).half()
    model = fb.PyTorchModel(Mean().eval(), bounds=(0, 255), device="cpu")
    search = attacks.MinimalEpsilon(attacks.ClipAwarePGD(p=1, steps=3, random_start=False))
    points, _, success = search(model, x, model(x).argmax(1), epsilons=None)
    assert success.all()
    norms = (points.float() - x.float()).abs().flatten(1).sum(1)
    least = (x.float().mean((1, 2, 3)) - 0.2 * 255) * 3072
    assert (norms >= least * (1 - 1e-3)).all()
    assert (norms <= least * 1.02).all()


def test_epsilons_are_judged_on_one_search():
    case, _ = model_cases.linear()
    search = attacks.MinimalEpsilon(attacks.L2ClipAwareFGM())
    points, _, _ = search(case.model, case.x, case.labels, epsilons=None)
    found = torch.as_tensor(case.norm(points, 2))
    middle = found.median().item()
    _, _, success = search(case.model, case.x, case.labels, epsilons=[middle / 2, 1e6])
    assert success[1].all()
    assert (success[0] == (found <= middle / 2 * 1.02)).all()


def test_the_search_goes_down_from_what_its_init_attack_finds():
    case, _ = model_cases.linear()
    init = attacks.L2ClipAwareMinimumNorm(steps=5)
    start, _, found = init(case.model, case.x, case.labels, epsilons=None)
    assert found.all()
    tried = []

    class Watched(attacks.L2ClipAwareFGM):
        def run(self, *arguments, **keywords):
            tried.append(keywords["epsilon"].numpy())
            return super().run(*arguments, **keywords)

    search = attacks.MinimalEpsilon(Watched(), init_attack=init, max_runs=6, ray_passes=0)
    points, _, success = search(case.model, case.x, case.labels, epsilons=None)
    norms = case.norm(start, 2)
    assert np.allclose(tried[0], norms / 1.1, rtol=1e-5)
    assert success.all()
    assert (case.norm(points, 2) <= norms).all()


def test_where_the_init_attack_fails_the_search_begins_as_without_it():
    case, _ = model_cases.linear()
    without = attacks.MinimalEpsilon(attacks.L2ClipAwareFGM())

    class Failing(attacks.L2ClipAwareMinimumNorm):
        def run(self, model, inputs, *arguments, **keywords):
            return inputs

    search = attacks.MinimalEpsilon(attacks.L2ClipAwareFGM(), init_attack=Failing())
    expected, _, _ = without(case.model, case.x, case.labels, epsilons=None)
    points, _, _ = search(case.model, case.x, case.labels, epsilons=None)
    assert torch.equal(points, expected)


def test_what_is_adversarial_already_is_not_moved():
    case, _ = model_cases.linear()
    wrong = 1 - case.labels
    points, _, success = attacks.MinimalEpsilon(attacks.L2ClipAwareFGM())(
        case.model, case.x, wrong, epsilons=None
    )
    assert success.all()
    assert torch.equal(points, case.x)


def test_samples_may_be_near_enough_at_different_distances():
    case, _ = model_cases.linear()
    search = attacks.MinimalEpsilon(attacks.L2ClipAwareFGM())
    models = [attacks.CountingModel(case.model) for _ in range(2)]
    whole = case.norm(search.run(models[0], case.x, case.labels), 2)
    enough = torch.tensor(2 * whole, dtype=torch.float32)
    norms = case.norm(search.run(models[1], case.x, case.labels, early_stop=enough), 2)
    assert (norms <= 2 * whole).all()
    assert models[1].backwards < models[0].backwards
    with pytest.raises(ValueError, match="early_stop: expected finite numbers >= 0, got -1"):
        search.run(case.model, case.x, case.labels, early_stop=-enough - 1)


def test_where_nothing_succeeds_the_input_comes_back_and_is_no_success():
    x = torch.rand(3, 3, 8, 8)
    model = fb.PyTorchModel(Stubborn().eval(), bounds=(0, 1), device="cpu")
    search = attacks.MinimalEpsilon(attacks.L2ClipAwareFGM(), max_runs=30)
    points, _, success = search(model, x, torch.zeros(3, dtype=torch.long), epsilons=None)
    assert not success.any()
    assert torch.equal(points, x)


def test_the_budget_limits_the_runs():
    case, _ = model_cases.linear()
    runs = []

    class Counted(attacks.ClipAwareGradientAttack):
        def run(self, *arguments, **keywords):
            runs.append(keywords["epsilon"])
            return super().run(*arguments, **keywords)

    search = attacks.MinimalEpsilon(Counted(steps=1), rel_tolerance=1e-6, max_runs=3)
    search(case.model, case.x, case.labels, epsilons=None)
    assert len(runs) == 3
    assert all(tuple(epsilon.shape) == (len(case.x),) for epsilon in runs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attack": fb.attacks.L2PGD()}, "attack: expected a fixed-epsilon attack of this package"),
        ({"initial": -1}, "initial: .* got -1"),
        ({"rel_tolerance": 0}, "rel_tolerance: .* got 0"),
        ({"max_runs": 0}, "max_runs: .* got 0"),
        ({"growth": 1}, "growth: .* got 1"),
        ({"init_attack": fb.attacks.L2PGD()}, "init_attack: expected None or a minimisation"),
    ],
)
def test_the_constructor_names_what_it_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        attacks.MinimalEpsilon(**{"attack": attacks.L2ClipAwareFGM(), **arguments})


class Stubborn(torch.nn.Module):
    """Always the first class, with a gradient that leads nowhere."""

    def forward(self, x):
        total = x.flatten(1).sum(1, keepdim=True)
        return torch.cat([total + 1e4, -total], dim=1)


def test_points_are_drawn_back_along_their_ray_without_gradients():
    case, _ = model_cases.linear()
    found, passes = {}, {}
    for ray_passes in (0, 8):
        model = attacks.CountingModel(case.model)
        search = attacks.MinimalEpsilon(
            attacks.L2ClipAwareFGM(), initial=5.0, max_runs=1, ray_passes=ray_passes
        )
        points, _, success = search(model, case.x, case.labels, epsilons=None)
        assert success.all()
        found[ray_passes] = case.norm(points, 2)
        passes[ray_passes] = model.backwards
    assert passes[0] == passes[8]
    assert (found[8] < 0.9 * found[0]).all()


def test_a_negative_number_of_ray_passes_is_refused():
    with pytest.raises(ValueError, match="ray_passes: expected an integer >= 0, got -1"):
        attacks.MinimalEpsilon(attacks.L2ClipAwareFGM(), ray_passes=-1)
