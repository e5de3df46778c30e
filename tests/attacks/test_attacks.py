"""Every attack on every backend with gradients: norm of each iterate, box, seeds, targets."""

import inspect
import math

import eagerpy as ep
import foolbox as fb
import numpy as np
import pytest
import torch

from foolbox_carescale import attacks
from foolbox_carescale.attacks import indexing, pgd, registry, schedules
from foolbox_carescale.attacks.base import lp_distance
from tests import reference
from tests.attacks import model_cases
from tests.attacks.table import (
    ORDERS,
    ROWS,
    SOME,
    SOME_GRADIENT,
    assert_norm,
    in_turns,
    iterates_of,
    on_torch,
)


@in_turns(ROWS)
def test_every_iterate_is_exactly_epsilon_away_and_inside_the_box(case, make, arguments):
    attack = make(**arguments)
    epsilon = case.epsilon(1.5 if attack.p == 1.3 else attack.p)
    ball = arguments.get("constraint") == "ball"
    (raw, clipped, success), seen = iterates_of(attack, case, epsilons=epsilon)
    for iterate in seen:
        assert_norm(case, iterate.x, attack.p, epsilon, at_most=ball)
    assert_norm(case, raw, attack.p, epsilon, at_most=ball)
    assert np.array_equal(case.numpy(raw), case.numpy(clipped))
    assert np.array_equal(
        np.asarray(success), case.logits(raw).argmax(1) != np.asarray(case.labels)
    )


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("back", [[True, False, True, False], [True] * 4, [False] * 4])
def test_samples_that_go_back_step_from_their_best_iterate(monkeypatch, back, watched):
    """Compare the points that are stepped from with those of a run in which none goes back."""
    weights = torch.randn(192, 5, generator=torch.Generator().manual_seed(0))

    def waves(x):
        return 3 * torch.sin(x.reshape(len(x), -1) @ weights)

    case = model_cases.build("torch", waves, model_cases.images())

    def starts_of(back):
        starts, copies, observe = [], [], schedules.Halving.observe
        step = pgd.step

        def observed(self, t, losses):
            assert observe(self, t, losses) is None or t > 4
            return ep.astensor(np.array(back)) if t == 3 else None

        def stepped(x, direction, size, **arguments):
            starts.append(case.numpy(x.raw))
            return step(x, direction, size, **arguments)

        with monkeypatch.context() as patched:
            patched.setattr(schedules.Halving, "observe", observed)
            patched.setattr(pgd, "step", stepped)
            attack = attacks.ClipAwareAPGD(p=2, steps=25, random_start=False)
            told = {"on_step": lambda i: copies.append((i.x, case.numpy(i.x)))} if watched else {}
            attack(case.model, case.x, case.labels, epsilons=case.epsilon(2), **told)
        for x, as_it_was in copies:  # what was told stays what it was
            np.testing.assert_array_equal(case.numpy(x), as_it_was)
        return starts

    straight, starts = starts_of([False] * 4), starts_of(back)
    losses = np.array([case.losses(case.backend.tensor(x)) for x in straight[1:4]])
    best = 1 + losses.argmax(axis=0)  # the input itself is not at epsilon, and does not count
    assert (best[[0, 2]] < 3).any()  # or going back would be staying
    for row, goes in enumerate(back):
        np.testing.assert_array_equal(starts[3][row], straight[best[row] if goes else 3][row])


@on_torch
def test_variants_of_one_norm_are_exactly_epsilon_away(case):
    names = set(registry.list_attacks("L*ClipAware*"))
    for name in names - set(registry.list_attacks("*MinimumNorm")):  # which has no epsilon
        own = inspect.signature(getattr(attacks, name)).parameters
        short = {"steps": 1, "restarts": 1, "queries": 1}
        arguments = {key: value for key, value in short.items() if key in own}
        attack = getattr(attacks, name)(**arguments, **({"p": 3} if "p" in own else {}))
        raw, _, _ = attack(case.model, case.x, case.labels, epsilons=case.epsilon(attack.p))
        assert_norm(case, raw, attack.p, case.epsilon(attack.p))


@in_turns(SOME)
def test_the_seed_of_the_framework_decides_the_outcome(case, make, arguments):
    def outcome(seed):
        model_cases.seed(case.backend.framework, seed)
        raw, _, _ = make(**arguments)(
            case.model, case.x, case.labels, epsilons=case.epsilon(arguments["p"]) / 4
        )
        return case.numpy(raw)

    first = outcome(1)
    assert np.array_equal(first, outcome(1))
    if make not in (attacks.ClipAwareBIM, attacks.ClipAwareFGM):
        assert not np.array_equal(first, outcome(2))


@pytest.mark.parametrize("p", ORDERS)
def test_the_backends_agree(p):
    results = []
    for name in ("torch", "tensorflow", "jax"):
        case = model_cases.make(name)
        raw, _, _ = attacks.ClipAwareBIM(p=p, steps=3)(
            case.model, case.x, case.labels, epsilons=case.epsilon(p)
        )
        results.append((case.numpy(raw), case.losses(raw)))
    for points, losses in results[1:]:
        # a sign of a gradient near 0, or a tie, may fall differently in single pixels
        assert np.mean(np.abs(points - results[0][0]) > 1e-3) < 0.02
        assert losses == pytest.approx(results[0][1], rel=1e-3)


@in_turns(SOME)
def test_a_list_of_epsilons_gives_lists_and_one_epsilon_a_tensor(case, make, arguments):
    attack, p = make(**arguments), arguments["p"]
    epsilons = [case.epsilon(p) * part for part in (0.1, 0.5, 1)]
    raw, clipped, success = attack(case.model, case.x, case.labels, epsilons=epsilons)
    assert len(raw) == len(clipped) == 3
    assert tuple(success.shape) == (3, model_cases.SAMPLES)
    for points, epsilon in zip(raw, epsilons, strict=True):
        ball = arguments.get("constraint") == "ball"
        assert_norm(case, points, p, epsilon, at_most=ball)
    raw, _, success = attack(case.model, case.x, case.labels, epsilons=epsilons[0])
    assert tuple(raw.shape) == tuple(case.x.shape)
    assert tuple(success.shape) == (model_cases.SAMPLES,)


@in_turns(SOME)
def test_each_sample_has_its_own_epsilon(case, make, arguments):
    p = arguments["p"]
    epsilon = case.epsilon(p) * np.linspace(0, 1, model_cases.SAMPLES).astype(np.float32)
    ball = arguments.get("constraint") == "ball"
    for form in (case.backend.tensor(epsilon), epsilon):
        raw = make(**arguments).run(case.model, case.x, case.labels, epsilon=form)
        assert_norm(case, raw, p, epsilon.astype(float), at_most=ball)


@in_turns(SOME)
def test_epsilon_zero_returns_the_inputs(case, make, arguments):
    raw, clipped, success = make(**arguments)(case.model, case.x, case.labels, epsilons=0.0)
    for points in (raw, clipped):
        assert np.array_equal(case.numpy(points), case.numpy(case.x))
    assert not np.asarray(success).any()


@in_turns(SOME)
def test_an_epsilon_out_of_reach_goes_as_far_as_the_box_allows(case, make, arguments):
    p = arguments["p"]
    far = 10 * case.span * np.prod(model_cases.SHAPE)
    (raw, clipped, _), seen = iterates_of(make(**arguments), case, epsilons=far)
    assert np.array_equal(case.numpy(raw), case.numpy(clipped))
    x, bounds = case.numpy(case.x), case.model.bounds
    for points in [iterate.x for iterate in seen] or [raw]:
        assert case.in_box(points)
        moved = case.numpy(points) - x
        if arguments.get("constraint") == "ball":  # its momentum stays inside the box
            assert np.isfinite(moved).all()
            continue
        reachable = reference.reachable_norm(x, moved, p, *bounds)
        assert reachable.min() > 0
        assert case.norm(points, p) == pytest.approx(reachable, rel=1e-5)


@in_turns(SOME_GRADIENT)
def test_on_step_gets_native_tensors_numbered_in_order(case, make, arguments):
    attack = make(**arguments)
    _, seen = iterates_of(attack, case, epsilons=case.epsilon(attack.p))
    first = 0 if attack.random_start else 1
    assert [iterate.step for iterate in seen] == list(range(first, attack.steps + 1))
    assert all(case.backend.is_own(iterate.x) for iterate in seen)
    sizes = [iterate.stepsize for iterate in seen]
    assert all(isinstance(size, float) or case.backend.is_own(size) for size in sizes)
    assert np.isfinite([np.asarray(size).max() for size in sizes]).all()


@on_torch
def test_the_cosine_schedule_falls_from_two_epsilon_and_the_constant_one_stays(case):
    def stepsizes(**arguments):
        _, seen = iterates_of(attacks.ClipAwareBIM(steps=5, **arguments), case, epsilons=0.5)
        return [iterate.stepsize for iterate in seen]

    def fifth(first, last):
        return last + (first - last) * (1 + math.cos(math.pi * 4 / 5)) / 2

    falling = stepsizes()
    assert falling[0] == 1.0
    assert np.all(np.diff(falling) < 0)
    assert falling[-1] == pytest.approx(0.5 * fifth(2.0, 0.005))
    assert stepsizes(schedule="constant") == pytest.approx([2.5 / 5 * 0.5] * 5)
    assert stepsizes(schedule="constant", rel_stepsize=0.1) == pytest.approx([0.05] * 5)
    given = stepsizes(schedule="constant", rel_stepsize=0.1, abs_stepsize=0.3)
    assert given == pytest.approx([0.3] * 5)
    given = stepsizes(abs_stepsize=0.3)
    assert given[0] == pytest.approx(0.3)
    assert given[-1] == pytest.approx(fifth(0.3, 0.005 * 0.3))


@in_turns(SOME)
def test_a_targeted_attack_reaches_its_target(case, make, arguments):
    labels = np.asarray(case.labels)
    target = (labels + 1) % model_cases.CLASSES
    criterion = fb.TargetedMisclassification(ep.from_numpy(ep.astensor(case.labels), target).raw)
    p, epsilon = arguments["p"], case.epsilon(arguments["p"]) * 2
    attack = make(**arguments)
    if isinstance(attack, attacks.ClipAwarePGD):
        attack.steps = 20
    (raw, clipped, success), seen = iterates_of(attack, case, criterion, epsilons=epsilon)
    ball = arguments.get("constraint") == "ball"
    for points in [raw, *(iterate.x for iterate in seen)]:
        assert_norm(case, points, p, epsilon, at_most=ball)
    assert np.array_equal(np.asarray(success), case.logits(clipped).argmax(1) == target)
    if seen:
        assert np.all(case.losses(raw, target) < case.losses(case.x, target))
    if isinstance(attack, attacks.ClipAwarePGD):
        assert np.asarray(success).all()


@in_turns(SOME)
def test_repeat_keeps_size_and_box_and_never_loses_a_success(case, make, arguments):
    p, epsilon = arguments["p"], case.epsilon(arguments["p"]) / 4

    def successes(attack):
        model_cases.seed(case.backend.framework)
        raw, clipped, success = attack(case.model, case.x, case.labels, epsilons=[epsilon])
        for points in (raw[0], clipped[0]):
            ball = arguments.get("constraint") == "ball"
            assert_norm(case, points, p, epsilon, at_most=ball)
        return np.asarray(success)

    once, thrice = successes(make(**arguments)), successes(make(**arguments).repeat(3))
    assert np.all(thrice >= once)


@pytest.mark.parametrize("bounds", [(-2.1, 2.64), (-0.3, 0.7), (0, 255)], ids=repr)
@pytest.mark.parametrize(("make", "arguments"), SOME[1::2])
def test_bounds_that_float32_cannot_hold_are_kept_as_it_rounds_them(make, arguments, bounds):
    lower, upper = (np.float32(bound) for bound in bounds)
    x = np.clip(model_cases.images(bounds), lower, upper)
    assert x.min() == lower
    assert x.max() == upper
    centre = torch.tensor(x).reshape(len(x), -1)
    # small, for a loss that is 0 has no gradient
    weights = torch.arange(3 * 192).reshape(192, 3).sin() / float(upper - lower) / 10
    case = model_cases.build(
        "torch", lambda t: (t.reshape(len(t), -1) - centre.mean(0)) @ weights, x, bounds=bounds
    )
    p = arguments["p"]
    raw, clipped, _ = make(**arguments)(case.model, case.x, case.labels, epsilons=case.epsilon(p))
    for points in (raw, clipped):
        values = case.numpy(points).astype(np.float32)
        assert values.min() >= lower
        assert values.max() <= upper
        error = case.norm(points, p) / case.epsilon(p) - 1
        assert np.abs(error).max() <= 1e-5


@pytest.mark.parametrize(("make", "arguments"), SOME)
def test_half_precision_is_exact_up_to_the_rounding_of_the_points(make, arguments):
    weights = torch.arange(3 * 192).reshape(192, 3).sin().half()
    x = model_cases.images().astype(np.float16)
    case = model_cases.build(
        "torch", lambda t: (t.reshape(len(t), -1) - 0.5) @ weights, x, dtype="float16"
    )
    p, epsilon = arguments["p"], case.epsilon(arguments["p"])
    (raw, clipped, _), seen = iterates_of(make(**arguments), case, epsilons=epsilon)
    assert raw.dtype == clipped.dtype == torch.float16
    # by the triangle inequality: half a unit in the last place below 1, for every coordinate
    rounding = 2.0**-12 * (1 if p == math.inf else 192 ** (1 / p))
    for points in [raw, clipped, *(iterate.x for iterate in seen)]:
        assert case.in_box(points)
        assert np.abs(case.norm(points, p) - epsilon).max() <= rounding
    assert torch.equal(raw, clipped)


@pytest.mark.parametrize("p", [1, 1.5, 2, math.inf])
@pytest.mark.parametrize("to_tensor", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("count", [1, 5])
def test_norms_of_a_few_samples_at_a_time_are_those_of_all(monkeypatch, to_tensor, count, p):
    monkeypatch.setattr(indexing, "PART", 2 * 12)  # two samples
    x, y = np.random.default_rng(0).normal(size=(2, count, 3, 4))
    found = lp_distance(ep.astensor(to_tensor(x)), ep.astensor(to_tensor(y)), p).numpy()
    expected = [np.linalg.norm(row, ord=p) for row in (y - x).reshape(count, 12)]
    np.testing.assert_allclose(found, np.reshape(expected, (count,)), rtol=1e-14)
