"""Models that hold, or write again to, the memory of points, logits and gradients."""

import contextlib
import itertools
import math

import eagerpy as ep
import foolbox as fb
import numpy as np
import pytest
import torch

from experiments.gpu import counting
from foolbox_carescale import attacks
from foolbox_carescale.attacks.state import BestIterate, HighestLoss
from foolbox_carescale.core import gradients

EPSILONS = {1.0: 3.0, 2.0: 0.5, 3.0: 0.3, math.inf: 0.05}
RUNS = {
    "PGD": lambda p: attacks.ClipAwarePGD(p=p, steps=8),
    "APGD": lambda p: attacks.ClipAwareAPGD(p=p, steps=12),
    "Adam": lambda p: attacks.ClipAwareAdamPGD(p=p, steps=8),
    "minimum norm": lambda p: attacks.ClipAwareMinimumNorm(p=p, steps=8),
}


class _Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last = (
            torch.randn(shape, generator=generator) / 3 for shape in ((75, 20), (20, 10))
        )
        self.x = torch.rand((6, 3, 5, 5), generator=generator)

    def forward(self, x):
        return torch.tanh(x.flatten(1) @ self.first) @ self.last


class _Replayed(_Network):
    """Writes to the same memory in every call, as ``torch.cuda.make_graphed_callables`` does."""

    def __init__(self):
        super().__init__()
        self.memory = {}

    def forward(self, x):
        network, fixed = super().forward, self._fixed

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                with torch.enable_grad():
                    ctx.x = x.detach().requires_grad_()
                    ctx.logits = network(ctx.x)
                return fixed("logits", ctx.logits.detach())

            @staticmethod
            def backward(ctx, cotangent):
                return fixed("gradient", *torch.autograd.grad(ctx.logits, ctx.x, cotangent))

        return Replay.apply(x)

    def _fixed(self, name, value):
        place = self.memory.setdefault((name, value.shape), torch.empty_like(value))
        return place.copy_(value).detach()


def points(network, attack, p, criterion=fb.Misclassification):
    model = fb.PyTorchModel(network.eval(), bounds=(0, 1), device="cpu")
    epsilon = None if isinstance(attack, attacks.ClipAwareMinimumNorm) else EPSILONS[p]
    torch.manual_seed(0)
    labels = network(network.x).argmax(1)
    return attack(model, network.x, criterion(labels), epsilons=epsilon)[1]


@pytest.mark.parametrize("name", RUNS)
def test_a_model_that_writes_its_gradients_to_one_place_is_attacked_like_any_other(name):
    for p in EPSILONS:  # 1.5 would be compiled for itself
        found = [points(network(), RUNS[name](p), p) for network in (_Network, _Replayed)]
        torch.testing.assert_close(*found, rtol=0, atol=0)


class _Drawing(_Replayed):
    def _fixed(self, name, value):
        shift = torch.rand(value.shape[:1]) if name == "logits" else torch.zeros(len(value))
        return super()._fixed(name, value + shift.reshape(-1, *[1] * (value.ndim - 1)))


def test_a_model_that_draws_numbers_and_writes_its_logits_to_one_place_is_told():
    with pytest.warns(RuntimeWarning, match="another call"):
        points(_Drawing(), attacks.ClipAwareMinimumNorm(p=2, steps=2), 2.0)


def test_the_mean_of_draws_is_that_of_a_model_that_writes_its_logits_to_one_place():
    model = fb.PyTorchModel(_Drawing().eval(), bounds=(0, 1), device="cpu")
    x = ep.astensor(_Network().x)
    mean = attacks.ensemble._MeanModel(model, 3)
    torch.manual_seed(0)
    expected = sum(model(x).raw.clone() for _ in range(3)) / 3
    torch.manual_seed(0)
    torch.testing.assert_close(mean(x).raw, expected)


@pytest.mark.parametrize("name", RUNS)
def test_gradients_that_a_hook_has_kept_are_not_written_over(name):
    class Recording(_Network):
        alias = False

        def forward(self, x):
            if x.requires_grad:
                x.register_hook(self._keep)
            return super().forward(x)

        def _keep(self, gradient):
            kept.append((gradient.detach() if self.alias else gradient, gradient.clone()))

    for p, alias in itertools.product((2.0, math.inf), (False, True)):
        kept, network = [], Recording()
        network.alias = alias
        points(network, RUNS[name](p), p)
        assert kept
        for gradient, copy in kept:
            torch.testing.assert_close(gradient, copy, rtol=0, atol=0)


@pytest.mark.parametrize("road", ["CPU", "GPU"])
@pytest.mark.parametrize("name", RUNS)
def test_points_that_a_model_or_a_criterion_has_kept_are_not_written_over(name, road):
    class Remembering(_Network):
        def forward(self, x):
            kept.append((x.detach() if p == 1 else x, x.detach().clone()))
            return super().forward(x)

    class Criterion(fb.Misclassification):
        def __call__(self, perturbed, outputs):
            kept.append((perturbed.raw, perturbed.raw.clone()))
            return super().__call__(perturbed, outputs)

    for p, by in itertools.product((1.0, 2.0, math.inf), ("model", "criterion")):
        kept = []
        with counting.on_gpu_road(compiled=False) if road == "GPU" else contextlib.nullcontext():
            if by == "model":
                points(Remembering(), RUNS[name](p), p)
            else:
                points(_Network(), RUNS[name](p), p, Criterion)
        assert kept
        for x, copy in kept:
            torch.testing.assert_close(x, copy, rtol=0, atol=0)


def test_a_gradient_that_the_model_holds_is_copied_and_others_are_not():
    x = torch.rand(2, 3)
    constant = {"a tensor": torch.ones(2, 3), "an array": np.ones((2, 3), np.float32)}
    constant["x"] = x

    def gradient_of(held):
        class Given(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.sum()

            @staticmethod
            def backward(ctx, _):
                return held if isinstance(held, torch.Tensor) else torch.from_numpy(held)

        value = gradients.value_aux_and_grad(
            lambda t: (ep.astensor(Given.apply(t.raw)), None), ep.astensor(x)
        )
        return value[2].raw

    for name, held in constant.items():
        found = gradient_of(held)
        memory = held.data_ptr() if isinstance(held, torch.Tensor) else held.ctypes.data
        assert found.data_ptr() != memory, name
        torch.testing.assert_close(found, torch.as_tensor(held))

    network, places = _Network(), []

    def loss(t):
        t.raw.register_hook(lambda g: places.append(g.data_ptr()))
        return ep.astensor(network(t.raw).sum()), None

    *_, gradient = gradients.value_aux_and_grad(loss, ep.astensor(network.x))
    assert places == [gradient.raw.data_ptr()]


def test_the_gradient_of_the_best_iterate_outlives_the_next_on_an_accelerator():
    x, gradient, loss = (ep.astensor(torch.rand(shape)) for shape in ((2, 3), (2, 3), (2,)))
    with counting.on_gpu_road(compiled=False):
        highest = HighestLoss(BestIterate())
        highest.update(x, loss, gradient)
    assert highest.gradient.raw.data_ptr() != gradient.raw.data_ptr()
    torch.testing.assert_close(highest.gradient.raw, gradient.raw)
