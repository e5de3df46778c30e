"""Clipping-aware rescaling for Foolbox: perturbations that are exactly epsilon after the clip.

Importing the package adds its attacks to ``foolbox.attacks``. No deep-learning framework is
imported: an operator uses the one that its tensors come from.
"""

from . import attacks
from .attacks import get_attack, list_attacks, register_attack
from .core.checks import value_checks
from .operators.api import (
    clipping_aware_rescaling,
    l2_clipping_aware_rescaling,
    perturb,
    project,
    reachable_norm,
    steepest_step,
)

__all__ = [
    "attacks",
    "clipping_aware_rescaling",
    "get_attack",
    "l2_clipping_aware_rescaling",
    "list_attacks",
    "perturb",
    "project",
    "reachable_norm",
    "register_attack",
    "steepest_step",
    "value_checks",
]
__version__ = "0.1.0"
