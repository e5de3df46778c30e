"""The ensemble: who attacks what, at which price, and under which seed."""

import itertools

import eagerpy as ep
import foolbox as fb
import numpy as np
import pytest
import torch

from foolbox_carescale import attacks
from foolbox_carescale.attacks.counting import CountingModel
from foolbox_carescale.attacks.ensemble import VERSIONS, targets_of
from foolbox_carescale.attacks.seeding import seeded
from tests import backends
from tests.attacks import model_cases

every_backend = pytest.mark.parametrize("case", model_cases.WITH_GRADIENT, indirect=True)
# JAX compiles for every number of samples that is left: by day where nothing breaks, and in the
# tests of the attacks that the ensemble runs
fast_backends = pytest.mark.parametrize(
    "case",
    backends.by_day(model_cases.WITH_GRADIENT[:-1], model_cases.WITH_GRADIENT),
    indirect=True,
)
on_torch = pytest.mark.parametrize("case", ["torch"], indirect=True)


def attacked(case, criterion=None, *, part=0.06, model=None, **arguments):
    arguments = {"p": 2, "steps": 3, "restarts": 1, "queries": 4, **arguments}
    attack, seen = attacks.ClipAwareAutoAttack(**arguments), []
    raw, _, success = attack(
        model or case.model,
        case.x,
        case.labels if criterion is None else criterion,
        epsilons=part * case.epsilon(arguments["p"]),
        on_stage=seen.append,
    )
    return raw, np.asarray(success), seen


@fast_backends
def test_each_stage_attacks_only_what_is_unbroken_and_says_what_it_spent(case):
    model = CountingModel(case.model)
    _, success, seen = attacked(case, model=model, version="plus")
    ranks = [f"apgd-t{rank}" for rank in range(1, model_cases.CLASSES)]
    names = ["minimum-norm", "apgd-ce", *ranks, "pgd-margin1", "square"]
    assert [stage.name for stage in seen] == names
    left = np.arange(model_cases.SAMPLES)
    for stage in seen:
        assert np.array_equal(stage.samples, left)
        assert stage.forwards.shape == stage.backwards.shape == stage.broken.shape == left.shape
        left = left[~stage.broken]
    assert np.array_equal(np.flatnonzero(~success), left)
    assert sum(stage.backwards.sum() for stage in seen) == model.backwards
    # and Foolbox judges the result
    assert sum(stage.forwards.sum() for stage in seen) + model_cases.SAMPLES == model.forwards
    # two restarts of half the steps; and a gradient for each class that is ranked
    gradients = {"minimum-norm": 4, "apgd-t1": 3 + len(ranks), "square": 0}
    for stage in seen:
        # a sample that is broken costs no further gradient
        most = gradients.get(stage.name, 3)
        assert (stage.backwards <= most).all()
        assert stage.broken.any() or (stage.backwards == most).all()
    assert not seen[-1].backwards.any()


@on_torch
def test_a_version_says_what_is_not_given(case):
    for version, settings in VERSIONS.items():
        attack = attacks.ClipAwareAutoAttack(version=version)
        assert {name: getattr(attack, name) for name in settings} == settings
    attack = attacks.ClipAwareAutoAttack(version="plus", targets=2)
    assert (attack.targets, attack.queries) == (2, 5000)
    _, _, seen = attacked(case, version="fast", targets=1)
    assert [stage.name for stage in seen] == ["minimum-norm", "apgd-t1", "pgd-margin1"]


@pytest.mark.parametrize(
    ("case", "p"),
    backends.by_day(
        list(itertools.product(model_cases.WITH_GRADIENT[:-1], [1, 2, np.inf])),
        list(itertools.product(model_cases.WITH_GRADIENT[-1:], [1, 2, np.inf])),
    ),
    indirect=["case"],
)
def test_what_the_smallest_perturbation_breaks_is_brought_to_epsilon(case, p):
    epsilon = 0.5 * case.epsilon(p)
    attack = attacks.ClipAwareAutoAttack(p=p, attacks=("minimum-norm",), steps=40)
    points, _, success = attack(case.model, case.x, case.labels, epsilons=epsilon)
    success = np.asarray(success)
    norms = case.norm(points, p)
    wrong = np.asarray(case.logits(case.x).argmax(1) != np.asarray(case.numpy(case.labels)))
    assert success.any()
    assert norms[success & ~wrong] == pytest.approx(epsilon, rel=1e-4)


def test_targets_are_the_nearest_classes_of_a_linear_model():
    weights = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.1, 0.1], [0.0, 1.0]])
    offsets = torch.tensor([1.0, 0.4, 0.5, 0.0])  # of the highest logit is the farthest class

    def network(x):
        return x.flatten(1) @ weights.T + offsets

    model = fb.PyTorchModel(torch.nn.Identity().eval(), bounds=(-9, 9))
    model._model = network
    x, labels, seen = torch.zeros(1, 1, 1, 2), torch.zeros(1, dtype=torch.int64), []
    # gap over slope: class 1 0.6 / 4, class 2 0.5 / 0.14, class 3 1 / 1
    criterion = fb.criteria.Misclassification(ep.astensor(labels))
    order = targets_of(model, ep.astensor(x), criterion, 2.0, 3)
    np.testing.assert_array_equal(order, [[1, 3, 2]])
    run = {"p": 2, "attacks": ("apgd-t",), "targets": 1, "steps": 60, "targeted_loss": "margin"}
    for epsilon, broken_by in ((0.16, "apgd-t1"), (0.14, None)):
        seen.clear()
        attacks.ClipAwareAutoAttack(**run).run(
            model, x, labels, epsilon=epsilon, on_stage=seen.append
        )
        assert [stage.name for stage in seen if stage.broken.any()] == [broken_by] * bool(broken_by)


@on_torch
def test_draws_average_the_logits_of_a_random_model(case):
    class Random(CountingModel):
        def __call__(self, inputs):
            logits = super().__call__(inputs)
            return logits + 5 * ep.normal(logits, logits.shape)

    model = Random(case.model)
    arguments = {"p": 2, "attacks": ("apgd-ce",), "steps": 5, "draws": 8}
    attacks.ClipAwareAutoAttack(**arguments).run(model, case.x, case.labels, epsilon=1e-9)
    assert model.backwards % 8 == 0
    assert 8 * len(case.x) <= model.forwards - model.backwards < model.forwards


@on_torch
def test_the_queries_of_a_stage_count_every_draw(case):
    model = CountingModel(case.model)
    arguments = {"p": 2, "attacks": ("square",), "queries": 3, "draws": 4}
    _, _, (stage,) = attacked(case, model=model, part=0.01, **arguments)
    assert stage.forwards.tolist() == [4 * (3 + 1)] * model_cases.SAMPLES
    # and Foolbox judges the result
    assert model.forwards == stage.forwards.sum() + model_cases.SAMPLES


@on_torch
def test_a_verbose_run_prints_a_line_per_stage(case, capsys):
    _, success, seen = attacked(case, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [stage.name for stage in seen]
    assert f"robust accuracy {1 - success.mean():.2%}," in lines[-1]
    assert "forward and 0 backward passes" in lines[-1]


@fast_backends
def test_a_seed_makes_two_runs_equal_and_leaves_the_framework_s_generator_alone(case):
    framework = case.backend.framework

    def draw():
        return case.numpy(ep.normal(ep.astensor(case.x), (3,)))

    def points(**arguments):
        return case.numpy(attacked(case, **arguments)[0])

    model_cases.seed(framework, 5)
    expected = draw()
    model_cases.seed(framework, 5)
    first = points(seed=1)
    if framework != "tensorflow":  # whose generator cannot be read; see below
        assert np.array_equal(draw(), expected)
    assert np.array_equal(first, points(seed=1))
    assert not np.array_equal(first, points(seed=2))
    assert not np.array_equal(points(), points()), "by default it draws, as every attack does"


@pytest.mark.parametrize("case", model_cases.EVERY, indirect=True)
def test_what_follows_a_seeded_block_depends_on_the_seed_before_it(case):
    like, framework = ep.astensor(case.x), case.backend.framework

    def after(seed):
        model_cases.seed(framework, seed)
        with seeded(like, 3):
            inside = case.numpy(ep.normal(like, (4,)))
        return inside, case.numpy(ep.normal(like, (4,)))

    inside, outside = after(1)
    assert np.array_equal(after(2)[0], inside)
    assert np.array_equal(after(1)[1], outside)
    assert not np.array_equal(after(2)[1], outside)


@every_backend
def test_what_nothing_breaks_is_exactly_epsilon_away(case):
    points, success, _ = attacked(case, part=3e-3, p=1)
    assert not success.any()
    assert case.norm(points, 1) == pytest.approx(3e-3 * case.epsilon(1), rel=1e-4)


@on_torch
def test_a_targeted_criterion_has_the_cross_entropy_in_place_of_targeted_runs(case):
    target = (case.labels + 1) % model_cases.CLASSES
    _, success, seen = attacked(case, fb.TargetedMisclassification(target), part=2.0, steps=20)
    assert not any(stage.name.startswith("apgd-t") for stage in seen)
    assert success.all()
    points, success, seen = attacked(case, fb.TargetedMisclassification(target), part=1e-3)
    assert [stage.name for stage in seen] == ["minimum-norm", "apgd-ce", "pgd-margin1", "square"]
    assert not success.any()
    assert case.norm(points, 2) == pytest.approx(1e-3 * case.epsilon(2), rel=1e-3)


@on_torch
def test_samples_have_their_own_epsilon(case):
    epsilon = torch.linspace(0.05, 1, model_cases.SAMPLES) * case.epsilon(2)
    attack = attacks.ClipAwareAutoAttack(p=2, steps=2, queries=3)
    raw = attack.run(case.model, case.x, case.labels, epsilon=epsilon)
    assert case.norm(raw, 2) == pytest.approx(epsilon.numpy(), rel=1e-5)


def test_few_classes_get_the_margin_unless_the_dlr_is_asked_for():
    case, _ = model_cases.linear(classes=3)
    with pytest.raises(ValueError, match=r"targeted_loss: 'dlr' needs at least 4 .* has 3; use"):
        attacked(case, part=1e-3, targeted_loss="dlr")
    for loss in ("margin", "dlr_or_margin"):
        _, _, seen = attacked(case, part=1e-3, targeted_loss=loss)
        assert [p.name for p in seen if "-t" in p.name] == ["apgd-t1", "apgd-t2"]


def test_together_they_are_stronger_than_the_first_alone(digits):
    def robust(**arguments):
        _, success, seen = attacked(digits_in_units, part=0.5, steps=10, **arguments)
        return (~success).sum(), seen

    class Digits(model_cases.ModelCase):
        def epsilon(self, p):
            return 0.55

    digits_in_units = Digits(digits.backend, digits.model, digits.x, digits.labels)
    alone, _ = robust(attacks=("apgd-ce",))
    together, seen = robust()
    assert together <= alone
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"version": "custom"},
            "version: expected one of standard, plus, fast, rand, got",
        ),
        ({"draws": 0}, "draws: .* >= 1, got 0"),
        ({"attacks": ()}, r"attacks: expected some of minimum-norm, .*, got \(\)"),
        ({"attacks": "square"}, "attacks: expected some of .*, got 'square'"),
        ({"attacks": 5}, "attacks: expected some of .*, got 5"),
        ({"verbose": 3}, "verbose: expected True or False, got 3"),
        ({"attacks": ("fab",)}, "attacks: expected some of .*'fab'"),
        ({"targeted_loss": "ce"}, "targeted_loss: expected one of .*, got 'ce'"),
        ({"targets": 0}, "targets: .* >= 1, got 0"),
        ({"steps": 0}, "steps: .* >= 1, got 0"),
        ({"queries": 0}, "queries: .* >= 1, got 0"),
        ({"seed": -1}, "seed: .* got -1"),
        ({"p": 0.5}, r"p: expected a number in \[1, inf\], got 0.5"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        attacks.ClipAwareAutoAttack(**arguments)
