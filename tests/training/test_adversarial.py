"""The attack inside a training step: strong, and without a trace in the model."""

import foolbox
import pytest
import torch

from foolbox_carescale.attacks import (
    ClipAwareAPGD,
    L1ClipAwarePGD,
    L2ClipAwareGaussianNoise,
    L2ClipAwarePGD,
    LinfClipAwareFGM,
    MinimalEpsilon,
)
from foolbox_carescale.training import adversarial_step


def network():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(5),
    )
    model(torch.rand(4, 3, 6, 6))
    return model.train()


def batch(count=8):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 6, 6, generator=generator), torch.arange(count) % 5


def loss(model, x, y):
    return torch.nn.functional.cross_entropy(model.eval()(x), y).item()


def test_attacked_batch_is_within_epsilon_and_has_no_graph():
    for attack, p, eps in [
        (L2ClipAwarePGD(steps=3), 2, 0.5),
        (L1ClipAwarePGD(steps=3), 1, 5.0),
        (LinfClipAwareFGM(), float("inf"), 0.05),
        (ClipAwareAPGD(steps=4), 2, 0.5),
        (L2ClipAwareGaussianNoise(), 2, 0.5),
        (foolbox.attacks.L2PGD(steps=3), 2, 0.5),
    ]:
        model, (x, y) = network(), batch()
        z = adversarial_step(model, x, y, attack, eps=eps)
        assert not z.requires_grad
        norms = torch.linalg.vector_norm((z - x).flatten(1), ord=p, dim=1)
        assert (norms <= eps * (1 + 1e-5)).all()
        assert (norms > 0.9 * eps).all()
        if not isinstance(attack, L2ClipAwareGaussianNoise):
            assert loss(model, z, y) > loss(model, x, y)


def test_nothing_of_the_model_changes():
    model, (x, y) = network(), batch()
    model[1].eval()  # a frozen batch norm in a model that trains
    model[5].bias.requires_grad_(False)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    learned = [p.requires_grad for p in model.parameters()]

    with torch.no_grad():  # a validation loop may attack, too
        adversarial_step(model, x, y, L2ClipAwarePGD(steps=2), eps=0.5)

    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for name, parameter in model.named_parameters():
        before = gradients[name]
        assert parameter.grad is before or torch.equal(parameter.grad, before)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == learned


def test_model_is_as_before_when_the_attack_fails():
    model, (x, y) = network(), batch()
    with pytest.raises(ValueError, match=r"inputs: .* outside the bounds"):
        adversarial_step(model, x + 1, y, L2ClipAwarePGD(steps=2), eps=0.5)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_attack_is_deterministic_although_the_model_has_dropout():
    model, (x, y) = network(), batch()
    attack = L2ClipAwarePGD(steps=3, random_start=False)
    first = adversarial_step(model, x, y, attack, eps=0.5)
    assert torch.equal(first, adversarial_step(model, x, y, attack, eps=0.5))


def test_epsilon_may_be_one_per_sample_and_the_goal_a_criterion():
    model, (x, y) = network(), batch()
    eps = torch.linspace(0.1, 0.8, 8)
    goal = foolbox.criteria.TargetedMisclassification((y + 1) % 5)
    z = adversarial_step(model, x, goal, L2ClipAwarePGD(steps=3), eps=eps)
    torch.testing.assert_close((z - x).flatten(1).norm(dim=1), eps, rtol=1e-5, atol=0)
    assert loss(model, z, (y + 1) % 5) < loss(model, x, (y + 1) % 5)


def test_wrong_use_is_one_clear_error():
    model, (x, y) = network(), batch()
    pgd = L2ClipAwarePGD(steps=2)
    with pytest.raises(ValueError, match="attack: expected a fixed-epsilon attack, got MinimalEps"):
        adversarial_step(model, x, y, MinimalEpsilon(pgd), eps=0.5)
    with pytest.raises(ValueError, match=r"model: expected a torch\.nn\.Module, got function"):
        adversarial_step(lambda x: x, x, y, pgd, eps=0.5)
    with pytest.raises(ValueError, match="x: expected a PyTorch tensor, got ndarray"):
        adversarial_step(model, x.numpy(), y, pgd, eps=0.5)
    with pytest.raises(ValueError, match="x: lies on meta, the model on cpu"):
        adversarial_step(model, x.to("meta"), y, pgd, eps=0.5)
    with pytest.raises(ValueError, match=r"eps: expected a finite number >= 0, got -0\.5"):
        adversarial_step(model, x, y, pgd, eps=-0.5)
    with pytest.raises(ValueError, match=r"y: expected one label for each of 8 .* shape \(7,\)"):
        adversarial_step(model, x, y[1:], pgd, eps=0.5)
    with pytest.raises(ValueError, match=r"y: expected labels as a PyTorch tensor, .* got list"):
        adversarial_step(model, x, y.tolist(), pgd, eps=0.5)
    with pytest.raises(ValueError, match="y: lies on meta, x on cpu; move one"):
        adversarial_step(model, x, y.to("meta"), pgd, eps=0.5)


def test_adversarial_training_makes_a_model_robust():
    y = torch.arange(128) % 2
    sign = (2.0 * y - 1)[:, None]
    # the first feature is 0.1 or 0.9, the second 0.46 or 0.54, and counts ten times as much
    x = 0.5 + sign * torch.tensor([0.4, 0.04])
    scale = torch.tensor([1.0, 10.0])

    def robust_accuracy(train_eps):
        torch.manual_seed(0)
        model = torch.nn.Sequential(Scale(scale), torch.nn.Linear(2, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(100):
            z = adversarial_step(model, x, y, LinfClipAwareFGM(), eps=train_eps)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(z), y).backward()
            optimizer.step()
        z = adversarial_step(model, x, y, LinfClipAwareFGM(), eps=0.1)
        return (model(z).argmax(-1) == y).float().mean().item()

    assert robust_accuracy(0.0) < 0.1
    assert robust_accuracy(0.1) > 0.9


class Scale(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x):
        return (x - 0.5) * self.scale


def test_a_data_parallel_model_is_attacked_and_trained_as_before():
    model, (x, y) = network(), batch()
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        for _ in range(2):  # a reducer that the attack had begun would refuse the second
            z = adversarial_step(parallel, x, y, L2ClipAwarePGD(steps=2), eps=0.5)
            torch.nn.functional.cross_entropy(parallel(z), y).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert (z - x).flatten(1).norm(dim=1).numpy() == pytest.approx(0.5, rel=1e-5)


def test_mixed_precision_of_the_model_leaves_the_norm_exact():
    model, (x, y) = network(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        z = adversarial_step(model, x, y, L2ClipAwarePGD(steps=2), eps=0.5)
    assert z.dtype == torch.float32
    assert (z - x).flatten(1).norm(dim=1).numpy() == pytest.approx(0.5, rel=1e-5)
