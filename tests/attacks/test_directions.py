"""Directions and schedules by hand-made sequences whose answer is known."""

import math

import eagerpy as ep
import foolbox
import numpy as np
import pytest
import torch

from foolbox_carescale import attacks
from foolbox_carescale.attacks import directions, indexing, schedules
from foolbox_carescale.attacks.state import BestIterate, HighestLoss


def tensor(*rows):
    return ep.astensor(torch.tensor(rows, dtype=torch.float64))


def test_cosine_falls_from_the_first_size_towards_the_last():
    schedule = schedules.Cosine(2.0, 0.005, 10)
    sizes = [schedule.size(t) for t in range(10)]
    assert sizes[0] == 2.0
    assert sizes == sorted(sizes, reverse=True)
    assert schedule.size(5) == pytest.approx((2.0 + 0.005) / 2)
    assert schedule.size(10) == pytest.approx(0.005)


def numbers(*values):
    return ep.astensor(np.array(values, float))


def test_halving_halves_what_stalls_and_leaves_alone_what_rises():
    schedule = schedules.Halving(2.0, 100)  # the first checkpoint is after 22 steps
    for t in range(22):
        assert schedule.observe(t, numbers(float(t), -float(t))) is None
    back = schedule.observe(22, numbers(22.0, -22.0))
    assert back.raw.tolist() == [False, True]
    assert schedule.size(22).raw.tolist() == [2.0, 1.0]
    # the next period is 3 shorter
    for t in range(23, 41):
        assert schedule.observe(t, numbers(float(t), 0.0)) is None
    assert schedule.observe(41, numbers(41.0, 0.0)).raw.tolist() == [False, True]
    assert schedule.size(41).raw.tolist() == [2.0, 0.5]


def checkpoints(steps, losses):
    """Return which samples each checkpoint sends back; ``losses`` has a row for each iterate."""
    schedule = schedules.Halving(1.0, steps)
    found = [(t, schedule.observe(t, numbers(*row))) for t, row in enumerate(losses)]
    return {t: back.raw.tolist() for t, back in found if back is not None}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (100, [22, 41, 57, 70, 80, 87, 93, 99]),
        (30, [6, 11, 15, 18, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29]),
        (4, [1, 2, 3]),
    ],
)
def test_checkpoints_of_halving_follow_each_other_ever_faster(steps, expected):
    assert list(checkpoints(steps, np.zeros((steps, 1)))) == expected


def test_a_sample_stalls_whose_loss_rises_in_at_most_three_of_four_steps():
    # of 73 steps the first period has 16, the second 14
    def path(*rises):
        steps = [[1] * n + [-1] * (period - n) for n, period in zip(rises, (16, 14), strict=True)]
        return np.cumsum([0, *steps[0], *steps[1]])

    losses = np.transpose([path(12, 10), path(13, 11)])
    assert checkpoints(73, losses) == {16: [True, False], 30: [True, False]}


def test_a_sample_stalls_whose_best_loss_and_step_stay_what_they_were():
    losses = [[100.0], *([float(t)] for t in range(71))]  # rises, and never gets back to 100
    assert checkpoints(100, losses) == {22: [False], 41: [True], 57: [False], 70: [True]}


def test_a_loss_that_is_nan_is_worse_than_every_other():
    losses = [[np.nan], *([float(t)] for t in range(41))]
    assert checkpoints(100, losses) == {22: [False], 41: [False]}


def test_what_is_gone_back_to_has_the_highest_loss_and_its_own_gradient():
    highest = HighestLoss(BestIterate())
    for number, losses in enumerate([[np.nan, -5.0], [-1.0, -5.0], [np.nan, -4.0]], 1):
        x, gradient = tensor([number], [number]), tensor([10 * number], [10 * number])
        highest.update(x, tensor(*losses), gradient)
    assert highest.x.numpy().tolist() == [[2], [3]]
    assert highest.gradient.numpy().tolist() == [[20], [30]]


@pytest.mark.parametrize("lent", [True, False])
def test_a_gradient_that_a_direction_still_needs_is_not_written_to(lent):
    highest = HighestLoss(BestIterate(), lent=lent)
    first = tensor([1.0], [1.0])
    highest.update(first, tensor(1.0, 1.0), first)
    highest.update(tensor([2.0], [2.0]), tensor(0.0, 2.0), tensor([20.0], [20.0]))
    assert highest.gradient.numpy().tolist() == [[1], [20]]
    assert first.numpy().tolist() == [[1], [1 if lent else 20]]  # in its memory, or in another
    highest.update(tensor([3.0], [3.0]), tensor(3.0, 0.0), tensor([30.0], [30.0]))
    assert highest.gradient.numpy().tolist() == [[30], [20]]


@pytest.mark.parametrize(
    ("kind", "p", "expected"),
    [
        (None, 1, directions.Momentum),
        (None, 1.5, directions.Gradient),
        (None, 3, directions.Gradient),
        (None, np.inf, directions.Momentum),
        ("gradient", 1, directions.Gradient),
        ("adam", 2, directions.Adam),
        ("conjugate", 2, directions.Conjugate),
    ],
)
def test_a_direction_is_the_one_that_is_asked_for_or_that_of_the_order(kind, p, expected):
    assert type(directions.make_direction(kind, p)) is expected


def test_adam_takes_signs_alone_where_steps_do():
    signs, whole = directions.make_direction("adam", np.inf), directions.make_direction("adam", 2)
    gradient = tensor([4.0, -1.0])
    assert signs(gradient).sign().numpy().tolist() == [[1.0, -1.0]]
    assert whole(gradient).sign().numpy().tolist() == [[1.0, -1.0]]
    assert signs.signs
    assert not whole.signs


def test_what_is_gone_back_to_is_held_once_while_it_is_the_best_of_all():
    best = BestIterate()
    highest = HighestLoss(best)
    found = [[False, False], [False, True], [True, False], [True, True]]
    losses = [[1.0, 1.0], [2.0, 0.5], [0.5, 3.0], [9.0, 9.0]]
    told = []
    for number, (loss, wrong) in enumerate(zip(losses, found, strict=True), 1):
        loss, wrong = tensor(*loss), ep.astensor(torch.tensor(wrong))
        x = tensor([number], [number])
        highest.update(x, loss, x, best.better(loss, wrong))
        best.update(x, loss, wrong, free_after=0)
        told.append((highest.is_best, highest.x.raw.flatten().tolist()))
    # the second iterate is adversarial at a lower loss; the last is better in all respects
    assert told == [(True, [1, 1]), (False, [2, 1]), (False, [2, 3]), (True, [4, 4])]
    assert best.x.raw.flatten().tolist() == [4, 4]


def test_gradients_are_summed_with_a_decay_of_half_for_linf_and_less_for_others():
    decays = [directions.make_direction("momentum", p).decay for p in (1, 2, math.inf)]
    assert decays == [0.3, 0.3, 0.5]
    assert directions.make_direction(None, math.inf).decay == 0.5


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_an_attack_keeps_as_much_of_the_sum_as_it_is_told(decay, monkeypatch):
    made, make = [], directions.make_direction
    monkeypatch.setattr(directions, "make_direction", lambda *of: made.append(make(*of)) or made[0])
    x, labels = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.long)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    model = foolbox.PyTorchModel(network.eval(), bounds=(0, 1), device="cpu")
    attack = attacks.ClipAwareMomentumPGD(p=math.inf, steps=3, decay=decay)
    attack.run(model, x, labels, epsilon=0.1)
    # gradients of a linear model of two classes are parallel: sums of L1 norm 1 each
    assert made[0].sum.raw.abs().sum().item() == pytest.approx(1 + 2 * decay, rel=1e-5)


@pytest.mark.parametrize(("p", "arguments"), [(2, {}), (1, {"direction": "adam"})])
def test_decay_needs_a_sum_of_gradients(p, arguments):
    with pytest.raises(ValueError, match=r"decay: needs direction='momentum', got 0\.5 with '"):
        attacks.ClipAwarePGD(p=p, decay=0.5, **arguments)
    assert attacks.ClipAwarePGD(p=1, decay=0.5).decay == 0.5


def test_momentum_sums_gradients_of_unit_l1_norm():
    momentum = directions.Momentum(0.5)
    assert momentum(tensor([4.0, 0.0])).numpy().tolist() == [[1.0, 0.0]]
    assert momentum(tensor([0.0, -2.0])).numpy().tolist() == [[0.5, -1.0]]
    momentum.reset(ep.astensor(torch.tensor([[True]])))
    assert momentum(tensor([1.0, 1.0])).numpy().tolist() == [[0.5, 0.5]]


def test_adam_begins_with_a_power_of_the_gradient_at_any_scale():
    grad = tensor([3e-20, -1e-20, 0.0])
    signs = directions.Adam(partial=0.5)(grad).numpy()
    np.testing.assert_allclose(signs, [[1.0, -1.0, 0.0]], rtol=1e-6)
    # m / v^(1/8), where at first v = m^2: the power 3/4 of the gradient
    partial = directions.Adam()(grad).numpy()
    np.testing.assert_allclose(partial, [[1.0, -((1 / 3) ** 0.75), 0.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("adam", "a", "b", "power"),
    [(directions.Adam(0.8, 0.95, 0.25), 0.8, 0.95, 0.25), (directions.Adam(), 0.9, 0.999, 0.125)],
    ids=["chosen", "default"],
)
def test_adam_follows_the_formula_over_several_gradients(adam, a, b, power):
    rng = np.random.default_rng(0)
    first = second = 0.0
    for t, gradient in enumerate(rng.normal(size=(5, 1, 4)), 1):
        direction = adam(tensor(*gradient.tolist())).numpy()
        scaled = gradient / np.abs(gradient).max()
        first = a * first + (1 - a) * scaled
        second = b * second + (1 - b) * scaled**2
        expected = first / (1 - a**t) / (second / (1 - b**t)) ** power
        np.testing.assert_allclose(direction, expected, rtol=1e-6)


def test_adam_has_the_same_signs_where_only_those_count():
    whole, signs = directions.Adam(), directions.Adam(signs=True)
    rng = np.random.default_rng(0)
    for scale in (1.0, 1e-30, 1e-38, 1e20, 1.0):
        gradient = rng.normal(size=(3, 50)) * rng.choice([0, 1e-6, 1], size=(3, 50)) * scale
        given = ep.astensor(torch.tensor(gradient, dtype=torch.float32))
        np.testing.assert_array_equal(signs(given).sign().numpy(), whole(given).sign().numpy())


def test_adam_computes_by_parts_what_it_does_at_once(monkeypatch):
    gradients = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0))
    adam = directions.Adam()
    at_once = [adam(ep.astensor(gradient)).numpy() for gradient in gradients]
    monkeypatch.setattr(indexing, "PART", 14)
    adam = directions.Adam()
    for gradient, expected in zip(gradients, at_once, strict=True):
        direction = adam(ep.astensor(gradient), overwrite=True)
        assert direction.raw.data_ptr() == gradient.data_ptr()
        np.testing.assert_array_equal(direction.numpy(), expected)


@pytest.mark.parametrize("signs", [False, True])
def test_adam_leaves_a_gradient_as_it_is_and_its_moments_where_they_are(signs):
    gradients = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    adam, before, places = directions.Adam(signs=signs), gradients.clone(), set()
    for gradient in gradients:
        adam(ep.astensor(gradient))
        places.add((adam.first.raw.data_ptr(), None if signs else adam.second.raw.data_ptr()))
    assert torch.equal(gradients, before)
    assert len(places) == 1


def test_adam_goes_nowhere_without_a_gradient():
    assert directions.Adam()(tensor([0.0, 0.0])).numpy().tolist() == [[0.0, 0.0]]


def test_conjugate_directions_solve_a_quadratic_in_as_many_steps_as_dimensions():
    a = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 2.0]])
    b = np.array([1.0, 2.0, -1.0])
    conjugate, x = directions.Conjugate(), np.zeros(3)
    for _ in range(3):  # ascend -x'Ax/2 + b'x with exact line search
        gradient = b - a @ x
        direction = conjugate(tensor(gradient.tolist())).numpy()[0]
        x = x + (direction @ gradient) / (direction @ a @ direction) * direction
    np.testing.assert_allclose(a @ x, b, atol=1e-10)


def test_conjugate_directions_start_over_where_no_multiple_of_the_last_one_is_conjugate():
    conjugate = directions.Conjugate()
    conjugate(tensor([1.0, 0.0]))
    # the gradient changes at a right angle to the direction
    assert conjugate(tensor([1.0, 1.0])).numpy().tolist() == [[1.0, 1.0]]
    conjugate.reset(ep.astensor(torch.tensor([[True]])))
    assert conjugate(tensor([-3.0, 2.0])).numpy().tolist() == [[-3.0, 2.0]]


@pytest.mark.parametrize("kind", directions.KINDS)
def test_a_direction_that_keeps_none_may_be_written_over(kind):
    rows = torch.randn((4, 2, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept, written = directions.make_direction(kind, 2.0), directions.make_direction(kind, 2.0)
    for row in rows:
        expected = kept(ep.astensor(row.clone())).raw.clone()
        found = written(ep.astensor(row.clone())).raw
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        if not written.keeps_directions:
            found.fill_(torch.nan)
