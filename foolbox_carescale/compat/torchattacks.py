"""This package's attacks under the signatures of torchattacks.

::

    from foolbox_carescale.compat import torchattacks

    attack = torchattacks.PGD(model, eps=8 / 255, steps=10)
    adv_images = attack(images, labels)

Images are in [0, 1], and results exactly eps away from them. Arguments that say how long an attack
runs are theirs; where a step size is not given, its schedule is this package's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import eagerpy as ep
import torch
from foolbox.criteria import Misclassification, TargetedMisclassification

from .. import attacks
from ..attacks.arguments import checked_epsilons
from ..attacks.seeding import seeded
from .autoattack import ORDERS, device_of

Tensor = torch.Tensor
Norm = Literal["L1", "L2", "Linf"]


class Attack:
    """Call a fixed-epsilon attack as torchattacks does: ``attack(images, labels)``.

    Args:
        model: A PyTorch module from images in [0, 1] to logits; it is in evaluation mode during
            the attack.
        eps: Norm of the perturbation; or a fraction such as "8/255".
        attack: The attack.
        seed: Of all random numbers; None draws others in each call.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        eps: float,
        attack: attacks.ClipAwareAttack,
        seed: int | None = None,
    ) -> None:
        self.model, self.attack, self.seed = model, attack, seed
        self.eps = checked_epsilons(eps, minimizes=False, name="eps")
        self._target: Callable[[Tensor, Tensor], Tensor] | None = None

    def set_mode_default(self) -> None:
        """Move away from the labels."""
        self._target = None

    def set_mode_targeted_by_label(self) -> None:
        """Take labels for the classes to move towards."""
        self._target = lambda images, labels: labels

    def set_mode_targeted_by_function(
        self, target_map_function: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        """Move towards the classes that a function of images and labels returns."""
        self._target = target_map_function

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return adversarial images.

        Args:
            images: Shape (N, ...), in [0, 1].
            labels: Shape (N,).
        """
        device = device_of(self.model) or images.device
        images, labels = images.detach().to(device), labels.to(device)
        criterion: Any = Misclassification(labels)
        if self._target is not None:
            criterion = TargetedMisclassification(self._target(images, labels))
        model: Any = self.model
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with seeded(ep.astensor(images), self.seed):
                found: Tensor = self.attack.run(model, images, criterion, epsilon=self.eps)
        finally:
            for module, training in modes:  # a frozen batch norm stays frozen
                module.training = training
        return found


def _stepsizes(alpha: float | None) -> dict[str, Any]:
    """Return the arguments for constant steps of this length; for None, the package's schedule."""
    return {"abs_stepsize": alpha, "schedule": "cosine" if alpha is None else "constant"}


class FGSM(Attack):
    """``ClipAwareFGM`` for Linf."""

    def __init__(self, model: torch.nn.Module, eps: float = 8 / 255) -> None:
        super().__init__(model, eps, attacks.ClipAwareFGM(p=ORDERS["Linf"]))


class PGD(Attack):
    """``ClipAwarePGD`` for Linf; with ``alpha``, constant steps of this length."""

    _norm: Norm = "Linf"

    def __init__(
        self,
        model: torch.nn.Module,
        eps: float = 8 / 255,
        alpha: float | None = None,
        steps: int = 10,
        random_start: bool = True,
    ) -> None:
        super().__init__(
            model,
            eps,
            attacks.ClipAwarePGD(
                p=ORDERS[self._norm],
                steps=steps,
                random_start=random_start,
                **_stepsizes(alpha),
            ),
        )


class PGDL2(PGD):
    """``ClipAwarePGD`` for L2; with ``alpha``, constant steps of this length."""

    _norm = "L2"

    def __init__(
        self,
        model: torch.nn.Module,
        eps: float = 1.0,
        alpha: float | None = None,
        steps: int = 10,
        random_start: bool = True,
    ) -> None:
        super().__init__(model, eps, alpha, steps, random_start)


class MIFGSM(Attack):
    """``ClipAwareMomentumPGD`` for Linf; with ``alpha``, constant steps of this length.

    ``decay`` is the part of the sum of gradients that each step keeps: 1 there, 0.5 by default
    here, which is stronger against the model itself.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        eps: float = 8 / 255,
        alpha: float | None = None,
        steps: int = 10,
        decay: float | None = None,
    ) -> None:
        attack = attacks.ClipAwareMomentumPGD(
            p=ORDERS["Linf"], steps=steps, decay=decay, **_stepsizes(alpha)
        )
        super().__init__(model, eps, attack)


class APGD(Attack):
    """``ClipAwareAPGD``."""

    def __init__(
        self,
        model: torch.nn.Module,
        norm: Norm = "Linf",
        eps: float = 8 / 255,
        steps: int = 10,
        n_restarts: int = 1,
        seed: int | None = 0,
        loss: Literal["ce", "dlr"] = "ce",
    ) -> None:
        attack = attacks.ClipAwareAPGD(p=ORDERS[norm], steps=steps, restarts=n_restarts, loss=loss)
        super().__init__(model, eps, attack, seed)


class Square(Attack):
    """``ClipAwareSquare``."""

    def __init__(
        self,
        model: torch.nn.Module,
        norm: Norm = "Linf",
        eps: float = 8 / 255,
        n_queries: int = 5000,
        *,  # restarts come next there
        p_init: float = 0.8,
        seed: int | None = 0,
    ) -> None:
        attack = attacks.ClipAwareSquare(p=ORDERS[norm], queries=n_queries, part=p_init, seed=seed)
        super().__init__(model, eps, attack)


class AutoAttack(Attack):
    """``ClipAwareAutoAttack``."""

    def __init__(
        self,
        model: torch.nn.Module,
        norm: Norm = "Linf",
        eps: float = 8 / 255,
        version: Literal["standard", "plus", "fast", "rand"] = "standard",
        n_classes: int | None = None,  # the model's logits tell it
        seed: int | None = None,
        verbose: bool = False,
    ) -> None:
        attack = attacks.ClipAwareAutoAttack(
            p=ORDERS[norm],
            version=version,
            seed=seed,
            verbose=verbose,
        )
        super().__init__(model, eps, attack)
