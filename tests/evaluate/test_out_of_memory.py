"""Memory that runs out: one line on the batch size, and what was computed stays."""

import numpy as np
import pytest
import torch

from foolbox_carescale.evaluate import UserError, evaluate
from tests.evaluate.factories import Brightness, rows, tiny


def on_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")


def in_pytorch():
    torch.empty(2**55, dtype=torch.uint8)


def in_numpy():
    np.empty(2**55, np.uint8)


@pytest.mark.parametrize("allocate", [on_a_gpu, in_pytorch, in_numpy])
def test_a_gradient_that_does_not_fit_names_the_batch_size_and_keeps_finished_tasks(
    tmp_path, monkeypatch, allocate
):
    monkeypatch.setattr("tests.evaluate.factories.SAMPLES", 12)  # batches enough to finish one
    evaluate(tiny(tmp_path / "whole", batch_size=4))
    forward, asked = Brightness.forward, []

    def exhausted(self, x):
        if x.requires_grad:
            asked.append(len(x))
            if len(asked) > 8:  # the probe asks for some, the first batch for more
                allocate()
        return forward(self, x)

    with monkeypatch.context() as patched:
        patched.setattr(Brightness, "forward", exhausted)
        with pytest.raises(UserError, match=r"^batch_size: 4 samples at once") as raised:
            evaluate(tiny(tmp_path / "run", batch_size=4))
    assert "\n" not in str(raised.value)
    assert "give batch_size=2 and another output" in str(raised.value)
    seen = []
    evaluate(tiny(tmp_path / "run", batch_size=4), on_progress=seen.append)
    assert seen[0].resumed > 0
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_a_single_sample_that_does_not_fit_needs_more_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(Brightness, "forward", lambda self, x: on_a_gpu())
    with pytest.raises(UserError, match="free memory, and run it again") as raised:
        evaluate(tiny(tmp_path / "run", batch_size=1))
    assert "batch_size=0" not in str(raised.value)


def test_other_errors_of_a_model_do_not_blame_the_batch_size(tmp_path, monkeypatch):
    def broken(self, x):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Brightness, "forward", broken)
    with pytest.raises(UserError, match="shapes differ") as raised:
        evaluate(tiny(tmp_path / "run"))
    assert "batch_size" not in str(raised.value)
