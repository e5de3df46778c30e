"""The operators through the Triton engine, end to end: on a GPU, or in Triton's interpreter."""

import pytest
import torch

import foolbox_carescale as fc
from foolbox_carescale import engines
from tests.engines.triton_interpreter import INTERPRETED, speed_up

DEVICE = "cpu" if INTERPRETED else "cuda"
if INTERPRETED:
    speed_up()


def everything(x, delta):
    bounds = torch.zeros(1, 3, 1, 1).to(x), torch.ones(1, 3, 1, 1).to(x)
    eps = torch.tensor([0.5, 1.0, 2.0]).to(x)
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


@pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="the interpreter runs this elsewhere"
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numbers that a mask discards
def test_the_operators_agree_with_the_cpu_engine_in_value_gradient_and_errors(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed: it has no wheel here")
    torch.manual_seed(0)
    x, delta = torch.rand(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    expected = everything(x, delta)
    _, triton, *others = engines.ENGINES
    monkeypatch.setattr(triton, "supports", lambda t, traced: "traced" if traced else None)
    monkeypatch.setattr(engines, "ENGINES", (triton, *others))
    x, delta = x.to(DEVICE), delta.to(DEVICE)
    for ours, theirs in zip(everything(x, delta), expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        rtol = 1e-3 if ours.dtype == torch.half else 1e-5
        torch.testing.assert_close(ours.cpu(), theirs, rtol=rtol, atol=1e-6)
    with pytest.raises(ValueError, match="x: 144 of 144 values lie outside the bounds"):
        fc.perturb(x + 2, delta, 1.0)


@pytest.mark.skipif(
    not hasattr(torch.Tag, "cudagraph_unsafe"), reason="this PyTorch has no such tag"
)
def test_cuda_graphs_stop_at_the_node_that_reads_flags():
    from foolbox_carescale.operators import torch_compile

    assert torch.Tag.cudagraph_unsafe in torch_compile._solve._opoverload.tags
