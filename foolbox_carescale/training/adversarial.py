"""An attack inside a step of adversarial training, which does not change the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import eagerpy as ep
import torch
from foolbox.attacks.base import FixedEpsilonAttack
from foolbox.criteria import Criterion
from foolbox.models import PyTorchModel

from ..core import backends
from ..operators.validation import checked_eps


def adversarial_step(
    model: torch.nn.Module,
    x: torch.Tensor,
    y: Any,
    attack: FixedEpsilonAttack,
    *,
    eps: Any,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> torch.Tensor:
    """Return adversarial examples to train on: the attack's argmax of the loss in ||z - x|| <= eps.

        z = adversarial_step(model, x, y, LinfClipAwarePGD(steps=5), eps=8 / 255)
        torch.nn.functional.cross_entropy(model(z), y).backward()

    The attack sees the model in evaluation mode: batch norm takes its running statistics and
    does not update them, dropout is off. Afterwards, also after an exception, each module is in
    its previous mode. The attack computes no gradients of parameters, so theirs do not change,
    and the attack is cheaper.

    Args:
        model: Maps images inside the bounds to logits, in any mode. Inside a
            ``DistributedDataParallel``, the wrapped module is attacked, because there is nothing
            to synchronise.
        x: Images inside the bounds, shape (N, ...), on the model's device.
        y: Labels, shape (N,), on the device of x, or a criterion of Foolbox's.
        attack: A fixed-epsilon attack of this package or of Foolbox.
        eps: Its epsilon, in the units of x: a number, or for attacks of this package a tensor
            of shape (N,).
        bounds: Lower and upper bound of the model's inputs.

    Returns:
        The attacked images, shape and type of x, without a graph.

    Raises:
        ValueError: an attack without an epsilon; a model, x or y that is not PyTorch's; tensors on
            several devices; not one label for each image; and the attack's own errors (x outside
            the bounds, eps negative).

    Source: Madry et al. 2018, arXiv 1706.06083; evaluation mode: Pang et al. 2021,
    arXiv 2010.00467.
    """
    if not isinstance(attack, FixedEpsilonAttack):
        raise ValueError(
            f"attack: expected a fixed-epsilon attack, got {type(attack).__name__}; "
            "L2ClipAwarePGD(steps=5) is one"
        )
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(x, torch.Tensor):
        raise ValueError(f"x: expected a PyTorch tensor, got {type(x).__name__}")
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        model = model.module
    tensors = [*model.parameters(), *model.buffers()]
    if tensors and tensors[0].device != x.device:
        # Foolbox would move the model
        raise ValueError(f"x: lies on {x.device}, the model on {tensors[0].device}; move one")
    if not isinstance(y, Criterion):
        _check_labels(y, x)
    checked_eps(eps, backends.at_least_float32(ep.astensor(x)))  # the attack calls it epsilon
    with untouched(model), torch.enable_grad():
        wrapped = PyTorchModel(model, bounds=bounds, device=x.device)
        points: torch.Tensor = attack.run(wrapped, x.detach(), y, epsilon=eps)
    return points.detach()


def _check_labels(y: Any, x: torch.Tensor) -> None:
    if not isinstance(y, torch.Tensor):
        raise ValueError(
            "y: expected labels as a PyTorch tensor, or a criterion of Foolbox's, got "
            f"{type(y).__name__}"
        )
    if y.shape != x.shape[:1]:
        raise ValueError(
            f"y: expected one label for each of {len(x)} images, got shape {tuple(y.shape)}"
        )
    if y.device != x.device:
        raise ValueError(f"y: lies on {y.device}, x on {x.device}; move one")


@contextlib.contextmanager
def untouched(model: torch.nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, without gradients of parameters, and restore it."""
    modes = [(module, module.training) for module in model.modules()]
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in learned:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training  # train() would set a module's children, too
        for parameter in learned:
            parameter.requires_grad_(True)
