"""Noise of exactly epsilon after the clip: as augmentation, and from a network."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import eagerpy as ep
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..core.norms import sample
from ..operators.api import perturb
from .draws import DISTRIBUTIONS
from .layers import NormalizedPerturbation, checked_settings

Distribution = Literal["gaussian", "uniform", "laplace"]


class ExactNoise(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Random noise at exactly epsilon, as augmentation: ``||clip(x + eta noise) - x||_p = eps``.

    A transform of ``torchvision.transforms.v2``, for floating images inside the bounds (after
    ``ToDtype(torch.float32, scale=True)``, before ``Normalize``). It takes one image (C, H, W)
    in a ``DataLoader``'s worker, or a batch (..., C, H, W) in the training loop; each image
    gets its own noise and its own epsilon. Masks, boxes and labels pass through. It draws from
    PyTorch's global generator, which a ``DataLoader`` seeds differently in each worker.

    Args:
        eps: Norm of the noise: a number, a range (low, high) to draw uniformly from, or a
            ``torch.distributions.Distribution`` of numbers >= 0.
        p: Order of the norm, in (0, inf].
        distribution: Of each element: "gaussian", "uniform" in [-1, 1], or "laplace".
        bounds: Lower and upper bound, numbers or tensors that broadcast to (N, C, H, W).

    Raises:
        ValueError: another distribution, eps negative, low above high; when called, images
            that are not floating tensors, or outside the bounds.

    Source: Rauber & Bethge 2020, arXiv 2007.07677.
    """

    def __init__(
        self,
        eps: Any,
        p: float = 2.0,
        distribution: Distribution = "gaussian",
        bounds: Any = (0.0, 1.0),
    ) -> None:
        super().__init__()
        _check_distribution(distribution)
        self.distribution = distribution
        self.eps = tuple(eps) if isinstance(eps, (tuple, list)) else eps
        largest = eps
        if isinstance(eps, torch.distributions.Distribution):
            largest = 0.0  # what it draws is checked when it is drawn
        elif isinstance(self.eps, tuple):
            if not (len(self.eps) == 2 and 0 <= self.eps[0] <= self.eps[1]):
                raise ValueError(f"eps: expected (low, high) with 0 <= low <= high, got {eps!r}")
            largest = self.eps[1]
        self.p, _, self.bounds = checked_settings(p, largest, bounds)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Return the noisy images; torchvision calls it."""
        if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(
            inpt, (tv_tensors.Image, tv_tensors.Video)
        ):
            return inpt
        if not (isinstance(inpt, torch.Tensor) and inpt.is_floating_point() and inpt.ndim >= 3):
            what = f"{inpt.dtype} of shape {tuple(inpt.shape)}" if torch.is_tensor(inpt) else "PIL"
            raise ValueError(
                f"image: expected a floating tensor (..., C, H, W), got {what}; put "
                "v2.ToImage() and v2.ToDtype(torch.float32, scale=True) before ExactNoise"
            )
        images = inpt.as_subclass(torch.Tensor).reshape(-1, *inpt.shape[-3:])
        noise = sample(ep.astensor(images), self.distribution).raw
        eps = self._drawn(images)
        lower, upper = (b.to(images.device) if torch.is_tensor(b) else b for b in self.bounds)
        noisy = perturb(images, noise, eps, p=self.p, bounds=(lower, upper)).reshape(inpt.shape)
        return tv_tensors.wrap(noisy, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else noisy

    _transform = transform  # its name before torchvision 0.21

    def _drawn(self, images: torch.Tensor) -> Any:
        """Return epsilon for each image."""
        if isinstance(self.eps, tuple):
            low, high = self.eps
            return low + (high - low) * torch.rand(len(images)).to(images.device)
        if isinstance(self.eps, torch.distributions.Distribution):
            return self.eps.sample((len(images),)).to(images.device)
        return self.eps


class NoiseGenerator(torch.nn.Module):
    """A network that turns noise into more harmful noise, at exactly epsilon from each input.

    ``forward(x)`` is clip(x + eta g(z)) with fresh noise z of the shape of x and the eta that
    makes the result exactly eps long; g is four convolutions with a residual connection, and
    begins as the identity. With ``kernel_size=1`` every pixel's noise depends on its own z
    alone: the network learns a distribution over colours. A larger kernel correlates neighbours.
    Train it to raise a classifier's loss; gradients pass through eta.

    Args:
        channels: Of the images.
        eps: Norm of the noise on each image.
        p: Order of the norm, in (0, inf].
        bounds: Lower and upper bound.
        hidden: Channels of the inner layers.
        kernel_size: Side of the second layer's kernel, odd; the others are 1 x 1.
        distribution: Of z: "gaussian", "uniform" or "laplace".

    Raises:
        ValueError: an even kernel, another distribution, and as ``NormalizedPerturbation``.

    Source: Rusak et al. 2020, arXiv 2001.06057.
    """

    def __init__(
        self,
        channels: int,
        eps: float,
        p: float = 2.0,
        bounds: Any = (0.0, 1.0),
        *,
        hidden: int = 20,
        kernel_size: int = 1,
        distribution: Distribution = "gaussian",
    ) -> None:
        super().__init__()
        _check_distribution(distribution)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number >= 1, got {kernel_size!r}")
        for name, count in (("channels", channels), ("hidden", hidden)):
            if not (isinstance(count, int) and count >= 1):
                raise ValueError(f"{name}: expected an integer >= 1, got {count!r}")
        self.channels, self.kernel_size = channels, kernel_size
        self.distribution = distribution
        self.perturbation = NormalizedPerturbation(eps, p, bounds)
        widths = itertools.pairwise([channels, hidden, hidden, hidden, channels])
        layers: list[torch.nn.Module] = []
        for (inputs, outputs), side in zip(widths, (1, kernel_size, 1, 1), strict=True):
            # reflected: zeros would make the noise quieter along the border
            # (by no pixel it would still copy)
            mode: Literal["reflect", "zeros"] = "reflect" if side > 1 else "zeros"
            layers += [
                torch.nn.Conv2d(inputs, outputs, side, padding=side // 2, padding_mode=mode),
                torch.nn.ReLU(),
            ]
        last = layers[-2]
        torch.nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        torch.nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.layers = torch.nn.Sequential(*layers[:-1])

    def noise(self, like: torch.Tensor) -> torch.Tensor:
        """Return the direction g(z) with fresh z, not rescaled.

        Args:
            like: Images, shape (N, C, H, W).

        Returns:
            Shape, dtype and device of ``like``.

        Raises:
            ValueError: no tensor of that shape, other channels, images smaller than the kernel.
        """
        self._check(like)
        z = sample(ep.astensor(like.detach()), self.distribution).raw
        # few channels: with these last in memory the CPU takes a third of the time
        made = self.layers(z.contiguous(memory_format=torch.channels_last))
        direction: torch.Tensor = z + made.contiguous()
        return direction

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return noisy images, each exactly eps away, differentiable in x and in the parameters.

        Args:
            x: Images inside the bounds, shape (N, C, H, W).

        Raises:
            ValueError: as ``NormalizedPerturbation``.
        """
        points: torch.Tensor = self.perturbation(x, self.noise(x))
        return points

    def _check(self, x: torch.Tensor) -> None:
        if not isinstance(x, torch.Tensor):
            raise ValueError(f"x: expected a PyTorch tensor, got {type(x).__name__}")
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"x: expected images of shape (N, {self.channels}, H, W), got {tuple(x.shape)}; "
                "make a NoiseGenerator with their channels"
            )
        if min(x.shape[2:]) <= self.kernel_size // 2:
            raise ValueError(
                f"x: images of {x.shape[2]} x {x.shape[3]} pixels are too small for kernel_size "
                f"{self.kernel_size}; take at most {2 * min(x.shape[2:]) - 1}"
            )


def _check_distribution(distribution: str) -> None:
    if distribution not in DISTRIBUTIONS:
        raise ValueError(
            f"distribution: expected one of {', '.join(DISTRIBUTIONS)}, got {distribution!r}"
        )
