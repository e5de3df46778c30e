"""Training recipes: clean images, noise, noise that learns, or an attack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import eagerpy as ep
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ..attacks.named import ClipAwarePGD
from ..core.norms import lp_norm, sample
from .adversarial import adversarial_step, untouched
from .noise import ExactNoise, NoiseGenerator

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from .config import RecipeConfig


class Recipe:
    """Perturbs a batch before the network is trained on it; this one leaves it clean.

    Args:
        config: Which recipe, and its settings.
        channels: Of the images.
    """

    def __init__(self, config: RecipeConfig, channels: int) -> None:
        self.config = config

    @property
    def eps(self) -> float:
        """Return the norm of the perturbation."""
        return self.config.eps or 0.0

    def prepare(self, fabric: Fabric) -> None:
        """Move what is learned to where the training runs."""

    def perturbed(
        self, network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return images to train on, inside [0, 1], without a graph.

        Args:
            network: Maps images to logits; left as it is.
            images: Shape (N, C, H, W), in [0, 1].
            labels: Shape (N,).
        """
        return images

    def learn(
        self, fabric: Fabric, network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> None:
        """Make the perturbation worse for the network, where it learns; else nothing."""

    def remember(self) -> None:
        """Keep what was learned, at the end of an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of what is learned."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


class NaiveGaussian(Recipe):
    """Gaussian noise scaled to eps, then clipped: ``clip(x + eps n / ||n||_p)``."""

    def perturbed(
        self, network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return noisy images, at most eps away."""
        noise = sample(ep.astensor(images), "gaussian")
        norms = lp_norm(noise.reshape((len(images), -1)), self.config.p).raw
        noisy: torch.Tensor = images + self.eps * noise.raw / norms.reshape(-1, 1, 1, 1)
        return noisy.clamp(0, 1)


class ExactGaussian(Recipe):
    """Gaussian noise of exactly eps after the clip: ``clip(x + eta n)``."""

    def __init__(self, config: RecipeConfig, channels: int) -> None:
        super().__init__(config, channels)
        self._noise = ExactNoise(self.eps, config.p, "gaussian")

    def perturbed(
        self, network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return noisy images, exactly eps away."""
        noisy: torch.Tensor = self._noise(images)
        return noisy


class AdversarialNoise(Recipe):
    """Noise of exactly eps from a network that learns to raise the loss, in turns with the other.

    One step of Adam for the generator before each batch; the gradient passes through eta. Half of
    the noise comes from the generator as it was at the end of an earlier epoch, or at the
    beginning, when it was Gaussian: otherwise the classifier unlearns what is no longer made.

    Source: Rusak et al. 2020, arXiv 2001.06057, with their experience replay.
    """

    def __init__(self, config: RecipeConfig, channels: int) -> None:
        super().__init__(config, channels)
        self._generator = NoiseGenerator(
            channels, self.eps, config.p, kernel_size=config.kernel_size
        )
        self._optimizer = torch.optim.Adam(self._generator.parameters(), lr=config.generator_lr)

    def prepare(self, fabric: Fabric) -> None:
        """Move the generator; its gradients are averaged over processes."""
        self._learner, self._stepper = fabric.setup(self._generator, self._optimizer)
        self._past: list[dict[str, torch.Tensor]] = []
        self.remember()

    def perturbed(
        self, network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return noisy images, exactly eps away."""
        earlier = self._past[int(torch.randint(len(self._past), ()))]
        half = len(images) // 2
        with torch.no_grad():
            replayed = functional_call(self._generator, earlier, (images[:half],))
            return torch.cat([replayed, self._generator(images[half:])])

    def learn(
        self, fabric: Fabric, network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> None:
        """Take one step up the loss of the network, which is in evaluation mode meanwhile."""
        with untouched(network):
            noisy = self._learner(images)
            with fabric.autocast():
                logits = network(noisy)
            self._stepper.zero_grad()
            fabric.backward(-cross_entropy(logits.float(), labels))
            self._stepper.step()

    def remember(self) -> None:
        """Keep the generator for later epochs."""
        state = self._generator.state_dict()
        self._past.append({name: value.clone() for name, value in state.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return the generator, its optimiser, and the earlier generators for replay."""
        return {
            "past": self._past,
            "generator": self._generator.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._generator.load_state_dict(state["generator"])
        self._optimizer.load_state_dict(state["optimizer"])
        device = next(self._generator.parameters()).device
        self._past = [{k: v.to(device) for k, v in past.items()} for past in state["past"]]


class PGD(Recipe):
    """Images under a short attack at exactly eps: adversarial training.

    Source: Madry et al. 2018, arXiv 1706.06083.
    """

    def __init__(self, config: RecipeConfig, channels: int) -> None:
        super().__init__(config, channels)
        self._attack = ClipAwarePGD(p=config.p, steps=config.steps, keep="last")

    def perturbed(
        self, network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return attacked images, exactly eps away."""
        return adversarial_step(network, images, labels, self._attack, eps=self.eps)


_RECIPES: dict[str, type[Recipe]] = {
    "clean": Recipe,
    "gaussian-naive": NaiveGaussian,
    "gaussian-exact": ExactGaussian,
    "adversarial-noise": AdversarialNoise,
    "pgd-at": PGD,
}


def make_recipe(config: RecipeConfig, channels: int = 3) -> Recipe:
    """Return the recipe that a config names."""
    return _RECIPES[config.name](config, channels)
