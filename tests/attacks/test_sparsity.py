"""How many coordinates a step for p = 1 moves, in numbers."""

import contextlib

import eagerpy as ep
import pytest
import torch

from experiments.gpu import counting
from foolbox_carescale.attacks.state import Sparsity

N, SIZE = 2, 1000
X0 = torch.full((N, SIZE), 0.5)


def moved(*counts):
    points = X0.clone()
    for row, count in enumerate(counts):
        points[row, :count] += 0.1
    return ep.astensor(points)


@pytest.fixture(params=["CPU", "GPU"])
def road(request):
    with counting.on_gpu_road() if request.param == "GPU" else contextlib.nullcontext():
        yield


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("radius", [4.0, ep.astensor(torch.tensor([4.0, 4.0]))])
def test_adaptive_begins_with_moves_of_a_part_of_the_box_and_follows_the_best(radius):
    sparsity = Sparsity("adaptive", ep.astensor(X0), (-1, 1))
    first = round(4.0 / (0.3 * 2))
    assert sparsity.counts(ep.astensor(X0), radius).tolist() == [first, first]
    assert sparsity.counts(moved(90, 300), radius).tolist() == [60, 200]
    assert sparsity.counts(moved(0, SIZE), radius).tolist() == [first, 667]
    assert sparsity.counts(moved(1, 2), radius).tolist() == [1, 1]
    assert Sparsity("adaptive", ep.astensor(X0), (-1, 1)).counts(ep.astensor(X0), 1e9).max() == SIZE


def test_a_share_may_be_an_integer():
    sparsity = Sparsity(1, ep.astensor(X0), (0, 2))
    assert sparsity.counts(moved(90, 300), 4.0).tolist() == [SIZE, SIZE]


def test_a_given_share_stays():
    sparsity = Sparsity(0.03, ep.astensor(X0), (0, 2))
    assert sparsity.counts(moved(90, 300), 4.0).tolist() == [30, 30]
    assert Sparsity(1e-9, ep.astensor(X0), (0, 2)).counts(moved(90, 300), 4.0).tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_coordinates_are_counted_beyond_what_half_precision_holds(dtype):
    x0 = ep.astensor(torch.zeros(1, 70_001, dtype=dtype))
    sparsity = Sparsity("adaptive", x0, (0, 1))
    assert sparsity.counts(x0 + 0.5, 4.0).tolist() == [round(70_001 / 1.5)]
