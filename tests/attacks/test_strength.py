"""How strong attacks are: against Foolbox's, against closed forms, and which iterate is kept."""

import math

import foolbox as fb
import numpy as np
import pytest
import torch

import foolbox_carescale as fc
from foolbox_carescale import attacks
from foolbox_carescale.attacks import pgd, steps
from tests import reference
from tests.attacks import model_cases
from tests.attacks.table import (
    ORDERS,
    assert_norm,
    every_backend,
    in_turns,
    iterates_of,
    on_torch,
)

LEVELS = [(1, 8.0), (2, 0.5), (math.inf, 0.03)]
FOOLBOX_PGD = {1: fb.attacks.L1PGD, 2: fb.attacks.L2PGD, math.inf: fb.attacks.LinfPGD}


@pytest.mark.parametrize(("p", "epsilon"), LEVELS)
def test_pgd_is_stronger_than_foolbox_s_at_equal_steps(digits, p, epsilon):
    def strength(attack):
        torch.manual_seed(0)
        _, clipped, success = attack(digits.model, digits.x, digits.labels, epsilons=epsilon)
        return 1 - success.float().mean().item(), digits.losses(clipped).mean()

    robust, loss = strength(attacks.ClipAwarePGD(p=p, steps=20))
    their_robust, their_loss = strength(FOOLBOX_PGD[p](steps=20))
    assert 0 < their_robust < 1, "the level tells nothing"
    assert robust <= their_robust
    assert loss > their_loss


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("bounds", [(0, 1), (-1, 3)])
def test_fgm_gains_all_that_any_step_in_ball_and_box_can_gain(bounds, p):
    case, weights = model_cases.linear(bounds=bounds)
    epsilon = case.epsilon(p)
    raw, _, _ = attacks.ClipAwareFGM(p=p)(case.model, case.x, case.labels, epsilons=epsilon)
    g = loss_direction(case, weights)
    gain = (g * (case.numpy(raw) - case.numpy(case.x)).reshape(g.shape)).sum(1)
    room = reference.room(case.x, g.reshape(case.x.shape), *bounds)
    for row_gain, row_g, row_room in zip(gain, np.abs(g), room, strict=True):
        bound = best_gain(row_g, row_room, epsilon, p)
        assert row_gain == pytest.approx(bound, rel=1e-5)


def test_fgm_for_p_1_moves_more_coordinates_where_far_moves_gain_nothing():
    weights = 1 / torch.arange(1.0, 401.0) ** 0.1  # of equal ones all would move

    def forward(t):  # no coordinate counts further than 0.02 from where it was
        flat = (weights * (t - 0.5).clamp(-0.02, 0.02).reshape(len(t), -1)).sum(1)
        return torch.stack([0 * flat, 10 * flat - 1], 1)

    case = model_cases.build("torch", forward, np.full((2, 1, 20, 20), 0.5, np.float32))
    exact, _, _ = attacks.L1ClipAwareFGM(candidates=1)(
        case.model, case.x, case.labels, epsilons=1.0
    )
    best, _, success = attacks.L1ClipAwareFGM()(case.model, case.x, case.labels, epsilons=1.0)
    assert_norm(case, best, 1, 1.0)
    assert success.all()
    assert (case.losses(best) > case.losses(exact) + 0.1).all()


@pytest.mark.parametrize("constraint", ["sphere", "ball"])
@pytest.mark.parametrize("p", ORDERS)
def test_pgd_on_a_linear_model_reaches_the_closed_form_optimum(p, constraint):
    case, weights = model_cases.linear()
    epsilon = case.epsilon(p)
    g = loss_direction(case, weights)
    direction = torch.tensor(g, dtype=torch.float32).reshape(case.x.shape)
    optimum = fc.steepest_step(case.x, direction, epsilon, p=p)
    start = case.numpy(case.x)

    def gain(points):
        return (g * (case.numpy(points) - start).reshape(g.shape)).sum(1)

    # p = 1: its optimum is a corner, 4 of 192 coordinates here
    model_cases.seed("torch")
    attack = attacks.ClipAwarePGD(p=p, constraint=constraint, steps=80)
    raw, _, _ = attack(case.model, case.x, case.labels, epsilons=epsilon)
    short = {1: 5e-3, 3: 2e-3}.get(p, 1e-3)
    assert np.all(gain(raw) >= gain(optimum) * (1 - short))
    assert np.all(gain(raw) <= gain(optimum) * (1 + 1e-5))


@in_turns([pytest.param(p, id=str(p)) for p in ORDERS], ("p",))
def test_the_best_iterate_is_adversarial_first_and_then_of_highest_loss(case, p):
    def run(keep):
        model_cases.seed(case.backend.framework)
        return iterates_of(
            attacks.ClipAwarePGD(p=p, steps=6, keep=keep, schedule="constant"),
            case,
            epsilons=case.epsilon(p) / 10,
        )

    (best, _, _), seen = run("best")
    (last, _, _), _ = run("last")
    labels = np.asarray(case.labels)
    found = np.stack([case.logits(i.x).argmax(1) != labels for i in seen])
    losses = np.stack([case.losses(i.x) for i in seen])
    ranked = np.where(found == found.any(0), losses, -math.inf).max(0)
    assert case.losses(best) == pytest.approx(ranked, rel=1e-5)
    assert np.array_equal(case.numpy(last), case.numpy(seen[-1].x))
    assert np.all(case.losses(best) >= losses[-1] * (1 - 1e-5))


@pytest.mark.parametrize(("width", "best_step"), [(0.15, 6), (0.05, 5)])
def test_an_adversarial_iterate_is_kept_over_one_of_higher_loss(width, best_step):
    def forward(t):
        s = t.reshape(len(t), -1)[:, 0]
        own = 0.6 - 0.4 * s  # the loss rises all the way
        other = (1 - own) * (0.05 + 0.9 * torch.exp(-(((s - 0.5) / width) ** 2)))
        rest = ((1 - own - other) / 8)[:, None].expand(-1, 8)
        return torch.log(torch.cat([own[:, None], other[:, None], rest], 1))

    case = model_cases.build("torch", forward, np.zeros((1, 1, 1, 1), np.float32))
    attack = attacks.ClipAwareBIM(
        p=math.inf, steps=10, schedule="constant", rel_stepsize=0.1, momentum=0, constraint="ball"
    )
    (raw, _, success), seen = iterates_of(attack, case, epsilons=1.0)
    path = [iterate.x.item() for iterate in seen]
    assert path == pytest.approx(np.arange(1, 11) / 10, abs=1e-5)
    end = seen[-1].x
    assert case.logits(end).argmax() == 0
    assert success.all()
    assert case.losses(raw) < case.losses(end)
    assert raw.item() == path[best_step - 1]


@every_backend
def test_a_radius_that_falls_costs_no_step_and_only_what_is_within_epsilon_counts(case):
    model = attacks.CountingModel(case.model)
    seen = []
    attack = attacks.ClipAwarePGD(p=1, steps=10, larger_epsilon=2)
    raw, _, _ = attack(model, case.x, case.labels, epsilons=case.epsilon(1), on_step=seen.append)
    assert model.backwards == 10 * model_cases.SAMPLES
    assert [iterate.step for iterate in seen] == [6, 7, 8, 9, 10]
    assert [iterate.gradients for iterate in seen] == [7, 8, 9, 10, 10]
    for points in (raw, *(iterate.x for iterate in seen)):
        assert_norm(case, points, 1, case.epsilon(1))


@on_torch
@pytest.mark.parametrize("constraint", ["sphere", "ball"])
def test_the_radius_falls_linearly_to_epsilon(case, constraint, monkeypatch):
    radii = []
    enforce = steps.enforce_constraint

    def record(z, x0, eps, **arguments):
        points = enforce(z, x0, eps, **arguments)
        radii.append(eps)
        if constraint == "sphere":
            assert_norm(case, points.raw, 2, eps)
        return points

    monkeypatch.setattr(steps, "enforce_constraint", record)
    attack = attacks.ClipAwarePGD(
        p=2, steps=10, larger_epsilon=4, momentum=0, constraint=constraint
    )
    attack.run(case.model, case.x, case.labels, epsilon=0.1)
    expected = 0.1 * np.array([3.5, 3, 2.5, 2, 1.5, 1, 1, 1, 1, 1])
    assert radii == pytest.approx(expected)


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("count", [1, 2, 3])
@on_torch
def test_a_radius_falls_in_any_number_of_steps(case, count, keep):
    model = attacks.CountingModel(case.model)
    attack = attacks.ClipAwarePGD(p=2, steps=count, larger_epsilon=2, keep=keep)
    raw, _, _ = attack(model, case.x, case.labels, epsilons=case.epsilon(2))
    assert_norm(case, raw, 2, case.epsilon(2))
    assert model.backwards == count * model_cases.SAMPLES


@on_torch
@pytest.mark.parametrize("arguments", [{"abs_stepsize": 0.05}, {"rel_stepsize": 0.05 / 3.5}])
def test_the_first_step_is_the_one_asked_for_also_on_a_larger_radius(case, arguments, monkeypatch):
    lengths = []
    take = pgd.step

    def record(x, gradient, size, **others):
        lengths.append(float(size if isinstance(size, float) else size.max().item()))
        return take(x, gradient, size, **others)

    monkeypatch.setattr(pgd, "step", record)
    attack = attacks.ClipAwareAPGD(p=2, steps=10, larger_epsilon=4, momentum=0, **arguments)
    attack.run(case.model, case.x, case.labels, epsilon=1.0)
    assert lengths[0] == pytest.approx(0.05)
    radii = [3.5, 3, 2.5, 2, 1.5] if "rel_stepsize" in arguments else [3.5] * 5
    assert lengths[:5] == pytest.approx([0.05 * radius / 3.5 for radius in radii])
    assert lengths[6] <= lengths[4] / 2 * 1.001  # halved once where the radius is epsilon


def test_a_larger_radius_is_the_default_of_long_runs_for_p_1_only(digits):
    def reported(p, steps, **arguments):
        seen = []
        attacks.ClipAwarePGD(p=p, steps=steps, **arguments).run(
            digits.model, digits.x[:1], digits.labels[:1], epsilon=1.0, on_step=seen.append
        )
        return len(seen)

    assert reported(1, 20) == 9
    assert reported(1, 20, larger_epsilon=1) == 21
    assert reported(1, 19) == 20
    assert reported(2, 20) == 21


STOPPING = [
    {"direction": direction} for direction in ("gradient", "momentum", "adam", "conjugate")
] + [{"schedule": "halving", "restarts": 2}, {"p": 1, "larger_epsilon": 2}, {"p": math.inf}]


@in_turns([pytest.param(one, id=str(one)) for one in STOPPING], ("arguments",))
def test_samples_that_are_broken_leave_the_batch_with_the_iterate_that_broke_them(case, arguments):
    def run(**more):
        attack = attacks.ClipAwareGradientAttack(
            **{"p": 2, "steps": 12, "random_start": False, **arguments, **more}
        )
        model, seen = attacks.CountingModel(case.model), []
        # so small that some samples break late, or not at all
        points, _, success = attack(
            model, case.x, case.labels, epsilons=case.epsilon(attack.p) / 40, on_step=seen.append
        )
        return case.numpy(points), np.asarray(success), seen, model.backwards

    points, success, seen, gradients = run()
    stopped, same, left, fewer = run(stop_when_broken=True)
    assert np.array_equal(same, success)
    assert fewer < gradients or not success.any()
    firsts = {}
    for iterate in seen:
        for i in np.flatnonzero(np.asarray(iterate.is_adversarial)):
            firsts.setdefault(i, case.numpy(iterate.x)[i])
    expected = np.stack([firsts.get(i, points[i]) for i in range(len(points))])
    np.testing.assert_allclose(stopped, expected, atol=1e-5 * case.span)
    for iterate in left:
        assert len(iterate.samples) == len(iterate.x) == len(iterate.norm)
        assert iterate.gradients <= gradients // len(points)


@on_torch
def test_an_attack_ends_once_every_sample_is_broken(case):
    attack = attacks.ClipAwarePGD(p=2, steps=12, random_start=False, stop_when_broken=True)
    _, seen = iterates_of(attack, case, epsilons=2 * case.epsilon(2))
    broken = [int(np.asarray(iterate.is_adversarial).sum()) for iterate in seen]
    assert sum(broken) == len(case.x)  # each once
    assert broken[-1] > 0
    assert len(seen) < 12


@on_torch
def test_the_default_direction_is_momentum_for_steps_of_signs_and_the_gradient_else(case):
    def outcome(p, **arguments):
        model_cases.seed("torch")
        attack = attacks.ClipAwarePGD(p=p, steps=5, **arguments)
        return case.numpy(attack.run(case.model, case.x, case.labels, epsilon=case.epsilon(p)))

    for p in (1, math.inf):
        assert np.array_equal(outcome(p), outcome(p, direction="momentum"))
        assert not np.array_equal(outcome(p), outcome(p, direction="gradient"))
    assert np.array_equal(outcome(2), outcome(2, direction="gradient"))


def loss_direction(case, weights):
    """Return the other class's weights minus the label's, (N, n) in float64."""
    difference = (weights[1] - weights[0]).astype(float)
    return np.where(np.asarray(case.labels)[:, None] == 0, difference, -difference)


def best_gain(g, room, epsilon, p):
    """max <g, t> over 0 <= t <= room, ||t||_p <= epsilon, for g >= 0: SciPy on the dual."""
    from scipy import optimize

    if p == math.inf:
        return (g * np.minimum(room, epsilon)).sum()

    def dual(log_multiplier):
        m = math.exp(log_multiplier)
        if p == 1:
            t = np.where(g > m, room, 0.0)
        else:
            t = np.minimum(room, (g / (p * m)) ** (1 / (p - 1)))
        return m * epsilon**p + (g * t - m * t**p).sum()

    found = optimize.minimize_scalar(dual, bounds=(-20, 20), options={"xatol": 1e-10})
    return found.fun
