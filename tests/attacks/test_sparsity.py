"""How many coordinates a step for p = 1 moves, in numbers."""

import eagerpy as ep
import foolbox as fb
import numpy as np
import pytest
import torch

from foolbox_carescale.attacks.state import AttackState, Evaluation, Sparsity

N, SIZE, STEPS = 2, 1000, 50


@pytest.fixture
def state():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIZE, 3))
    model = fb.PyTorchModel(network.eval(), bounds=(0, 2))
    x0 = ep.astensor(torch.full((N, SIZE), 0.5))
    return AttackState(model, x0, fb.criteria.Misclassification(torch.zeros(N, dtype=int)), 4.0)


def moved(x0, *counts):
    points = x0.raw.clone()
    for row, count in enumerate(counts):
        points[row, :count] += 0.1
    return ep.astensor(points)


def test_the_adaptive_part_begins_with_a_fifth_and_follows_the_best_at_checkpoints(state):
    sparsity = Sparsity("adaptive", STEPS, state)
    x0 = state.x0
    assert sparsity.counts(0, x0).tolist() == [200, 200]
    best = moved(x0, 90, 300)
    for t in (0, 1, 3):  # a checkpoint is every second of 50 steps, and not the start
        sparsity.observe(t, best, x0)
        assert sparsity.counts(t, x0).tolist() == [200, 200]
    sparsity.observe(2, best, x0)
    assert sparsity.counts(2, x0).tolist() == [60, 200]
    sparsity.observe(4, moved(x0, 0, SIZE), x0)
    assert sparsity.counts(4, x0).tolist() == [1, 667]


def test_a_given_part_stays(state):
    sparsity = Sparsity(0.03, STEPS, state)
    sparsity.observe(2, moved(state.x0, 90, 300), state.x0)
    assert sparsity.counts(2, state.x0).tolist() == [30, 30]


def test_the_moves_of_auto_are_parts_of_the_box_that_grow_from_step_to_step(state):
    sparsity = Sparsity("auto", STEPS, state)
    state.move = np.array([0.01, 0.1])  # of a box of width 2, of which epsilon is twice the width
    expected = [2 / (1.25 * 0.01), 2 / (1.25 * 0.1)]
    assert sparsity.counts(0, state.x0).tolist() == np.round(expected).tolist()
    expected = [2 / (5 * 0.01), 2 / (5 * 0.1)]
    assert sparsity.counts(STEPS - 1, state.x0).tolist() == np.round(expected).tolist()
    assert Sparsity("auto", 1, state).counts(0, state.x0).tolist() == [160, 16]


def test_moves_are_probed_from_all_of_the_box_down_and_only_once(state):
    probes = list(Sparsity.PROBES)
    assert probes == sorted(probes, reverse=True)
    assert probes[0] == 1
    sparsity = Sparsity("auto", STEPS, state)
    seen = []

    def evaluate(x, loss_fn, *, gradient):
        seen.append((x.raw != state.x0.raw).sum(dim=1).tolist())
        loss = ep.astensor(torch.tensor([1.0, 3.0]) * (len(seen) == 3))
        return Evaluation(loss, logits=None, is_adversarial=None, gradient=None)

    state.evaluate = evaluate
    grad = ep.astensor(torch.arange(1.0, 1 + N * SIZE).reshape(N, SIZE))
    sparsity.probe(state.x0, grad, None)
    assert [row[0] for row in seen] == [2, 7, 20, 67, 200, 667, 1000]
    np.testing.assert_allclose(state.move, probes[2], rtol=1e-6)
    sparsity.probe(state.x0, grad, None)
    assert len(seen) == len(probes)
