"""Training on perturbations that are exactly epsilon after the clip.

In PyTorch: ``NormalizedPerturbation``, ``UniversalPerturbation``, ``ExactNoise`` (a torchvision
transform), ``NoiseGenerator`` and ``adversarial_step``. For JAX and TensorFlow the pure functions
of ``foolbox_carescale.training.functional``. No framework is imported before a name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adversarial import adversarial_step
    from .layers import NormalizedPerturbation, UniversalPerturbation
    from .noise import ExactNoise, NoiseGenerator

_MODULES = {
    "ExactNoise": "noise",
    "NoiseGenerator": "noise",
    "NormalizedPerturbation": "layers",
    "UniversalPerturbation": "layers",
    "adversarial_step": "adversarial",
}

__all__ = [
    "ExactNoise",
    "NoiseGenerator",
    "NormalizedPerturbation",
    "UniversalPerturbation",
    "adversarial_step",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
