"""Attacks at exactly epsilon. Importing the package adds them to ``foolbox.attacks``.

Every attack with an argument p has subclasses for one order of the norm, which are made here:
``L2ClipAwarePGD(steps=20)`` is ``ClipAwarePGD(p=2, steps=20)``.
"""

from inspect import isclass
from typing import TYPE_CHECKING, Any

from foolbox.attacks.base import Attack

from .base import NORMS, ClipAwareAttack, LpAttack, norm_variants
from .counting import CountingModel
from .ensemble import ClipAwareAutoAttack, StageResult
from .minimal_epsilon import MinimalEpsilon
from .minimum_norm import ClipAwareMinimumNorm
from .named import (
    ClipAwareAdamPGD,
    ClipAwareAPGD,
    ClipAwareBIM,
    ClipAwareFGM,
    ClipAwareFrankWolfe,
    ClipAwareMomentumPGD,
    ClipAwarePGD,
)
from .noise import (
    ClipAwareGaussianNoise,
    ClipAwareLaplaceNoise,
    ClipAwareNoise,
    ClipAwareSaltAndPepperNoise,
    ClipAwareUniformNoise,
)
from .pgd import ClipAwareGradientAttack
from .registry import get_attack, list_attacks, register_attack
from .square import ClipAwareSquare
from .state import Iterate

__all__ = [
    "FAMILIES",
    "NORMS",
    "REGISTERED",
    "ClipAwareAPGD",
    "ClipAwareAdamPGD",
    "ClipAwareAttack",
    "ClipAwareAutoAttack",
    "ClipAwareBIM",
    "ClipAwareFGM",
    "ClipAwareFrankWolfe",
    "ClipAwareGaussianNoise",
    "ClipAwareGradientAttack",
    "ClipAwareLaplaceNoise",
    "ClipAwareMinimumNorm",
    "ClipAwareMomentumPGD",
    "ClipAwareNoise",
    "ClipAwarePGD",
    "ClipAwareSaltAndPepperNoise",
    "ClipAwareSquare",
    "ClipAwareUniformNoise",
    "CountingModel",
    "Iterate",
    "MinimalEpsilon",
    "StageResult",
    "get_attack",
    "list_attacks",
    "register_attack",
]

_BASES = (ClipAwareAttack, ClipAwareGradientAttack, ClipAwareNoise)

FAMILIES: tuple[type[LpAttack], ...] = tuple(
    exported
    for exported in map(globals().get, __all__)
    if isclass(exported) and issubclass(exported, LpAttack) and exported not in _BASES
)
"""The attacks with an argument p: all that are exported, but for the bases."""

_variants = norm_variants(*FAMILIES)

REGISTERED: tuple[type[Attack], ...] = (*FAMILIES, *_variants, MinimalEpsilon)
"""What the package adds to ``foolbox.attacks``."""

for _attack in REGISTERED:
    register_attack(_attack)

globals().update({variant.__name__: variant for variant in _variants})
__all__ += [variant.__name__ for variant in _variants]

if TYPE_CHECKING:  # the names of the variants are made above

    def __getattr__(name: str) -> Any: ...
