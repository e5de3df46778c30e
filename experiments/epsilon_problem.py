"""Measured L2 norm of Gaussian noise, scaled before and after the clip.

    python -m experiments.epsilon_problem [--output docs/images/epsilon.png]

On held-out digits (most pixels on the bounds) and on Foolbox's ImageNet samples (photographs).
Epsilon is divided by the square root of the number of elements, so that both share one axis. It is
the root mean square of the perturbation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from foolbox_carescale import perturb
from foolbox_carescale.evaluate.config.types import DataConfig
from foolbox_carescale.evaluate.data.sources import load_data

DATA = {"digits": DataConfig(), "photographs": DataConfig(name="foolbox/imagenet", size=224)}
SIZES = np.linspace(0.0, 0.5, 11)[1:]


def measured(images: np.ndarray, size: float, exact: bool, seed: int = 0) -> np.ndarray:
    """Return the root mean square of the clipped perturbation, per image."""
    noise = np.random.default_rng(seed).standard_normal(images.shape)
    epsilon = size * np.sqrt(images[0].size)
    if exact:
        perturbed = perturb(images, noise, epsilon)
    else:
        norm = np.linalg.norm(noise.reshape(len(noise), -1), axis=1)
        scale = (epsilon / norm).reshape(-1, *[1] * (images.ndim - 1))
        perturbed = np.clip(images + scale * noise, 0, 1)
    return np.sqrt(((perturbed - images) ** 2).reshape(len(images), -1).mean(axis=1))


def main() -> None:
    """Print measured / target norm, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/images/epsilon.png"))
    parser.add_argument("--samples", type=int, default=100)
    options = parser.parse_args()

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    print("measured / target norm, mean over the images\n")
    print("| RMS epsilon |" + "|".join(f" {n}, naive | {n}, exact " for n in DATA) + "|")
    print("|---" * (1 + 2 * len(DATA)) + "|")
    columns = []
    for (name, config), color in zip(DATA.items(), ("tab:red", "tab:orange"), strict=True):
        images = load_data(config).images[: options.samples].astype(np.float64)
        naive = np.array([measured(images, s, exact=False).mean() for s in SIZES])
        exact = np.array([measured(images, s, exact=True).mean() for s in SIZES])
        columns += [naive / SIZES, exact / SIZES]
        axes.plot(SIZES, naive, "o-", color=color, label=f"scaled, then clipped: {name}")
        axes.plot(SIZES, exact, "x", color=color, label=f"foolbox_carescale: {name}")
    for row in zip(SIZES, *columns, strict=True):
        print(f"| {row[0]:.2f} | " + " | ".join(f"{value:.3f}" for value in row[1:]) + " |")
    axes.axline((0, 0), slope=1, color="0.6", linewidth=1, zorder=0)
    axes.set_xlabel("target epsilon (root mean square per element)")
    axes.set_ylabel("norm after the clip")
    axes.set_title("Gaussian noise: target norm and measured norm")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=120)
    print(f"\nwrote {options.output}")


if __name__ == "__main__":
    main()
