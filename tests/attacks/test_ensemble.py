"""The ensemble: who attacks what, at which price, and under which seed."""

import eagerpy as ep
import foolbox as fb
import numpy as np
import pytest
import torch

from foolbox_carescale import attacks
from foolbox_carescale.attacks.counting import CountingModel
from foolbox_carescale.attacks.seeding import seeded
from tests.attacks import model_cases

every_backend = pytest.mark.parametrize("case", model_cases.WITH_GRADIENT, indirect=True)
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


@every_backend
def test_each_stage_attacks_only_what_is_unbroken_and_says_what_it_spent(case):
    model = CountingModel(case.model)
    _, success, seen = attacked(case, model=model)
    ranks = [f"apgd-t{rank}" for rank in range(1, model_cases.CLASSES)]
    assert [stage.name for stage in seen] == ["apgd-ce", *ranks, "pgd-margin1", "square"]
    left = np.arange(model_cases.SAMPLES)
    for stage in seen:
        assert np.array_equal(stage.samples, left)
        assert stage.forwards.shape == stage.backwards.shape == stage.broken.shape == left.shape
        left = left[~stage.broken]
    assert np.array_equal(np.flatnonzero(~success), left)
    assert sum(stage.backwards.sum() for stage in seen) == model.backwards
    # and Foolbox judges the result
    assert sum(stage.forwards.sum() for stage in seen) + model_cases.SAMPLES == model.forwards
    for stage in seen:
        # a sample that is broken costs no further gradient
        assert (stage.backwards <= 3).all()
        assert stage.name == "square" or stage.broken.any() or (stage.backwards == 3).all()
    assert not seen[-1].backwards.any()


@on_torch
def test_a_verbose_run_prints_a_line_per_stage(case, capsys):
    _, success, seen = attacked(case, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [stage.name for stage in seen]
    assert f"robust accuracy {1 - success.mean():.2%}," in lines[-1]
    assert "forward and 0 backward passes" in lines[-1]


@every_backend
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
    assert not np.array_equal(points(seed=None), points(seed=None))


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
    points, success, _ = attacked(case, part=1e-3, p=1)
    assert not success.any()
    assert case.norm(points, 1) == pytest.approx(1e-3 * case.epsilon(1), rel=1e-4)


@on_torch
def test_a_targeted_criterion_leaves_the_targeted_loss_out(case):
    target = (case.labels + 1) % model_cases.CLASSES
    _, success, seen = attacked(case, fb.TargetedMisclassification(target), part=2.0, steps=20)
    assert not any(stage.name.startswith("apgd-t") for stage in seen)
    assert success.all()


@on_torch
def test_nothing_to_run_is_an_error(case):
    criterion = fb.TargetedMisclassification((case.labels + 1) % model_cases.CLASSES)
    with pytest.raises(ValueError, match=r"attacks: .* leaves nothing to run for Targeted"):
        attacked(case, criterion, attacks=("apgd-t",))


@on_torch
def test_samples_have_their_own_epsilon(case):
    epsilon = torch.linspace(0.05, 1, model_cases.SAMPLES) * case.epsilon(2)
    attack = attacks.ClipAwareAutoAttack(p=2, steps=2, queries=3)
    raw = attack.run(case.model, case.x, case.labels, epsilon=epsilon)
    assert case.norm(raw, 2) == pytest.approx(epsilon.numpy(), rel=1e-5)


def test_few_classes_need_the_margin_and_get_it_only_when_asked():
    case, _ = model_cases.linear(classes=3)
    with pytest.raises(ValueError, match=r"targeted DLR needs at least 4 classes .* has 3"):
        attacked(case, part=1e-3)
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
        ({"attacks": ()}, r"attacks: expected some of apgd-ce, .*, got \(\)"),
        ({"attacks": "square"}, "attacks: expected some of .*, got 'square'"),
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
