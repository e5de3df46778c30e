"""The models of the strength benchmark, with samples that they classify correctly."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from foolbox_carescale.attacks.counting import CountingModel
from foolbox_carescale.evaluate.config.types import DataConfig, ModelConfig
from foolbox_carescale.evaluate.data.sources import load_data
from foolbox_carescale.evaluate.models.loading import load_model

SAMPLES = {"digits": 200, "robust": 200, "robust_linf": 200, "imagenet": 17}
# of experiments.train_digits
ROBUST = {
    "robust": ["--adversarial", "1.0"],
    "robust_linf": ["--adversarial", "0.05", "--norm", "Linf"],
}


@dataclass(frozen=True)
class Target:
    """A model with the samples that it is attacked on, all of them classified correctly."""

    name: str
    model: CountingModel
    images: torch.Tensor
    labels: torch.Tensor


def load_target(name: str, samples: int, weights: Path, skip: int = 0) -> Target:
    """The model, and the first samples but ``skip`` that it classifies correctly.

    Args:
        name: One of ``SAMPLES``.
        samples: How many; fewer where there are no more.
        weights: Folder of the adversarially trained models, which are trained and written to it
            where they are missing (five minutes each).
        skip: How many of the first ones to leave out.
    """
    if name == "imagenet":
        data = load_data(DataConfig(name="foolbox/imagenet", size=224))
        config = ModelConfig(_target_="experiments.efficientnet_lite.build")
    else:
        data = load_data(DataConfig(name="digits", seed=0))
        config = ModelConfig(weights="bundled")
        if name in ROBUST:
            path = weights / f"{name}_digits.safetensors"
            if not path.exists():
                script = [sys.executable, "-m", "experiments.train_digits"]
                subprocess.run([*script, *ROBUST[name], "--output", str(path)], check=True)
            config = ModelConfig(weights=str(path))
    model, _ = load_model(config)
    images = torch.as_tensor(data.images).to(model.device)
    labels = torch.as_tensor(data.labels).to(model.device)
    right = torch.cat([model(part).argmax(-1) for part in images.split(100)]) == labels
    print(f"{name}: {right.float().mean().item():.3f} clean accuracy", file=sys.stderr)
    chosen = slice(skip, skip + samples)
    return Target(name, CountingModel(model), images[right][chosen], labels[right][chosen])
