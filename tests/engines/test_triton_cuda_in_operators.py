"""The operators through the Triton engine, end to end, in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import torch
import foolbox_carescale as fc
from foolbox_carescale import engines

def everything(x, delta):
    bounds = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    eps = torch.tensor([0.5, 1.0, 2.0])
    direction = delta.clone().requires_grad_()
    fc.perturb(x, direction, eps).square().sum().backward()
    return [
        fc.clipping_aware_rescaling(x, delta, eps),
        fc.clipping_aware_rescaling(x.half(), delta.half(), 1.0),
        fc.perturb(x, delta, 1.0, p=1.5),
        fc.perturb(x, delta, 1.0, bounds=bounds),
        fc.perturb(x.clone(), delta, 1.0, in_place=True),
        direction.grad,
    ]

torch.manual_seed(0)
x, delta = torch.rand(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
expected = everything(x, delta)
numba, triton, *others = engines.ENGINES
triton.supports = lambda t, traced: "the values are traced" if traced else None
engines.ENGINES = (triton, *others)
for ours, theirs in zip(everything(x, delta), expected, strict=True):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    rtol = 1e-3 if ours.dtype == torch.half else 1e-5
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-6)
try:
    fc.perturb(x + 2, delta, 1.0)
except ValueError as error:
    assert "x: 144 of 144 values lie outside the bounds" in str(error), error
else:
    raise AssertionError("bad values went unnoticed")
print("passed")
"""


def test_the_operators_agree_with_the_cpu_engine_in_value_gradient_and_errors():
    pytest.importorskip("triton", reason="Triton is not installed: it has no wheel here")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("passed"), done.stderr


@pytest.mark.skipif(
    not hasattr(torch.Tag, "cudagraph_unsafe"), reason="this PyTorch has no such tag"
)
def test_cuda_graphs_stop_at_the_node_that_reads_flags():
    from foolbox_carescale.operators import torch_compile

    assert torch.Tag.cudagraph_unsafe in torch_compile._solve._opoverload.tags
