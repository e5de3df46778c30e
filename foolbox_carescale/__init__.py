"""Clipping-aware rescaling for Foolbox: perturbations that are exactly epsilon after the clip."""

from .rescale import (
    clipping_aware_rescaling,
    l2_clipping_aware_rescaling,
    perturb,
    project,
    reachable_norm,
    steepest_step,
)

__all__ = [
    "clipping_aware_rescaling",
    "l2_clipping_aware_rescaling",
    "perturb",
    "project",
    "reachable_norm",
    "steepest_step",
]
__version__ = "0.1.0"
