"""The memory of attacks at their peak; memory that is not theirs stays as it is."""

import sys
from pathlib import Path

import pytest
import torch

from experiments.benchmarks import memory
from foolbox_carescale import attacks

MOST = 5  # batches beside the inputs
SCRATCH = 0.7  # batches: rows that the threads of the engine work on, and rounding to pages
SHAPE = (32, 3, 160, 160)


@pytest.mark.skipif(
    sys.platform != "linux" or not Path("/proc/self/clear_refs").exists(),
    reason="only Linux tells the peak of a process",
)
@pytest.mark.parametrize("p", memory.ORDERS)
@pytest.mark.parametrize("name", ["ClipAwareFGM", "ClipAwarePGD", "ClipAwareFrankWolfe"])
def test_attacks_hold_five_batches_where_the_best_iterate_is_an_old_one(name, p):
    attack = memory.runs(p)[name]
    assert memory.batches(attack, p, SHAPE, wavering=True) <= MOST + SCRATCH


@pytest.mark.parametrize("p", memory.ORDERS)
def test_iterates_that_a_caller_keeps_stay_as_they_were(p):
    model, images, labels = memory.problem((6, 3, 8, 8), wavering=True)
    kept = []
    attacks.ClipAwarePGD(p=p, steps=20).run(
        model,
        images,
        labels,
        epsilon=0.5,
        on_step=lambda iterate: kept.append((iterate.x, iterate.x.clone())),
    )
    assert len(kept) == 21 or p == 1  # for p = 1 the first ones are at a larger radius
    assert all(torch.equal(now, then) for now, then in kept)


def test_inputs_stay_as_they_were_and_are_not_returned():
    model, images, labels = memory.problem((6, 3, 8, 8))
    before = images.clone()
    for p in memory.ORDERS:
        for attack in memory.runs(p).values():
            points, _, _ = attack(model, images, labels, epsilons=0.1)
            assert points.data_ptr() != images.data_ptr()
    assert torch.equal(images, before)
