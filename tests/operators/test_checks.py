"""When values are checked, on CPU tensors that pass for those of an accelerator."""

import math

import pytest
import torch

import foolbox_carescale as fc
from foolbox_carescale import engines
from foolbox_carescale.core import backends, checks


@pytest.fixture(autouse=True)
def accelerator(monkeypatch):
    monkeypatch.setattr(backends, "on_accelerator", lambda t: backends.framework(t) == "torch")
    monkeypatch.setattr(backends, "on_cpu", lambda t: backends.framework(t) != "torch")
    monkeypatch.setattr(engines, "ENGINES", engines.ENGINES[-1:])


@pytest.fixture
def x():
    return torch.full((2, 3), 0.5)


def call(x, delta=None, eps=None):
    delta = torch.ones_like(x) if delta is None else delta
    return fc.perturb(x, delta, torch.tensor([0.1, 0.2]) if eps is None else eps)


def with_one(bad):
    """Return values of which one alone, in the last row, is bad."""
    values = torch.full((2, 3), 0.5)
    values[1, 2] = bad
    return values


BAD = [
    ({"x": with_one(2.0)}, "x: .*outside the bounds"),
    ({"x": with_one(-1.0)}, "x: .*outside the bounds"),
    ({"x": with_one(math.nan)}, "x: .*NaN|x or delta: .*NaN"),
    ({"delta": with_one(math.nan)}, "delta: .*NaN"),
    ({"delta": with_one(-math.inf)}, "delta: .*infinite"),
    ({"eps": torch.tensor([0.1, -1.0])}, "eps: .*negative|eps: expected .* got -1.0 for sample 1"),
    ({"eps": torch.tensor([math.inf, 0.1])}, "eps: .*infinite|eps: .* got inf for sample 0"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_each_call_rejects_bad_values_by_default(x, changes, message):
    with pytest.raises(ValueError, match=message):
        call(**{"x": x} | changes)


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_a_block_that_defers_rejects_them_at_its_end(x, changes, message, monkeypatch):
    monkeypatch.setattr(checks, "MOST_COLLECTED", 3)
    found = []

    def calls():
        with fc.value_checks("end"):
            for _ in range(checks.MOST_COLLECTED + 1):
                call(**{"x": x} | changes)
                found.append(call(x))

    with pytest.raises(ValueError, match=message):
        calls()
    torch.testing.assert_close(found[checks.MOST_COLLECTED], call(x))


def test_a_block_without_checks_lets_them_pass_and_ends_with_the_block(x):
    with fc.value_checks("never"), fc.value_checks("end"):
        call(x + 2)
    with pytest.raises(ValueError, match="outside"):
        call(x + 2)


def test_the_outermost_block_that_defers_reads(x):
    after = []

    def calls():
        with fc.value_checks("end"):
            with fc.value_checks("end"):
                call(x + 2)
            after.append(call(x))

    with pytest.raises(ValueError, match="outside"):
        calls()
    assert after


def test_flags_that_another_stream_writes_are_waited_for(x, monkeypatch):
    streams, waited = [0, 7, 0], []
    monkeypatch.setattr(checks, "_stream_of", lambda device: streams.pop(0))
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)

    def calls():
        with fc.value_checks("end"):
            call(x)
            call(x + 2)
            assert not waited

    with pytest.raises(ValueError, match="outside the bounds"):
        calls()
    assert waited == [x.device]
    streams[:] = [7, 7]
    with fc.value_checks("end"):
        call(x)
    assert len(waited) == 1


def test_an_unknown_time_is_refused():
    with pytest.raises(ValueError, match="when: expected 'each_call'"), fc.value_checks("later"):
        pass


def test_no_flag_is_read_while_a_cuda_graph_is_captured(x, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    call(x + 2)
    assert checks.are_skipped()


def test_bounds_that_are_tensors_are_read_once_or_within_never_not_at_all(x, monkeypatch):
    reads = []
    item = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda t: (reads.append(1), item(t))[1])
    bounds = torch.zeros(1, 3), torch.ones(1, 3)
    fc.perturb(x, torch.ones_like(x), 0.1, bounds=bounds)
    assert len(reads) == 2  # one for the bounds, one for all other values
    with fc.value_checks("never"):
        fc.perturb(x, torch.ones_like(x), 0.1, bounds=bounds)
    assert len(reads) == 2
    with pytest.raises(ValueError, match="bounds: expected finite lower < upper everywhere"):
        fc.perturb(x, torch.ones_like(x), 0.1, bounds=(bounds[0], 0 * bounds[1]))


def test_bounds_that_stay_the_same_tensors_are_not_read_again(x, monkeypatch):
    reads = []
    item = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda t: (reads.append(1), item(t))[1])
    lower, upper = torch.zeros(1, 3), torch.ones(1, 3)
    for known in ((lower, upper), (lower, 1.0)):
        fc.perturb(x, torch.ones_like(x), 0.1, bounds=known)
        reads.clear()
        fc.perturb(x, torch.ones_like(x), 0.1, bounds=known)
        assert len(reads) == 1
    with fc.value_checks("end"):
        reads.clear()
        fc.perturb(x, torch.ones_like(x), 0.1, bounds=(lower, upper))
        assert not reads
    upper.mul_(0)
    with pytest.raises(ValueError, match="bounds: expected finite lower < upper everywhere"):
        fc.perturb(x, torch.ones_like(x), 0.1, bounds=(lower, upper))
    for _ in range(3):  # tensors that are gone are not taken for others in their place
        with pytest.raises(ValueError, match="bounds: expected finite lower < upper everywhere"):
            fc.perturb(x, torch.ones_like(x), 0.1, bounds=(lower, torch.zeros(1, 3)))
        fc.perturb(x, torch.ones_like(x), 0.1, bounds=(lower, torch.ones(1, 3)))
