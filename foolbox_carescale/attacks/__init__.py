"""Attacks at exactly epsilon. Importing the package adds them to ``foolbox.attacks``."""

import inspect

from foolbox.attacks.base import Attack

from .base import ClipAwareAttack
from .counting import CountingModel
from .ensemble import (
    ClipAwareAutoAttack,
    L1ClipAwareAutoAttack,
    L2ClipAwareAutoAttack,
    LinfClipAwareAutoAttack,
    LpClipAwareAutoAttack,
    Part,
)
from .minimum_norm import MinimalEpsilon
from .named import (
    ClipAwareAdamPGD,
    ClipAwareAPGD,
    ClipAwareBIM,
    ClipAwareFGM,
    ClipAwareFrankWolfe,
    ClipAwareMomentumPGD,
    ClipAwarePGD,
    L1ClipAwareAdamPGD,
    L1ClipAwareAPGD,
    L1ClipAwareBIM,
    L1ClipAwareFGM,
    L1ClipAwareFrankWolfe,
    L1ClipAwareMomentumPGD,
    L1ClipAwarePGD,
    L2ClipAwareAdamPGD,
    L2ClipAwareAPGD,
    L2ClipAwareBIM,
    L2ClipAwareFGM,
    L2ClipAwareFrankWolfe,
    L2ClipAwareMomentumPGD,
    L2ClipAwarePGD,
    LinfClipAwareAdamPGD,
    LinfClipAwareAPGD,
    LinfClipAwareBIM,
    LinfClipAwareFGM,
    LinfClipAwareFrankWolfe,
    LinfClipAwareMomentumPGD,
    LinfClipAwarePGD,
    LpClipAwareAdamPGD,
    LpClipAwareAPGD,
    LpClipAwareBIM,
    LpClipAwareFGM,
    LpClipAwareFrankWolfe,
    LpClipAwareMomentumPGD,
    LpClipAwarePGD,
)
from .noise import (
    ClipAwareGaussianNoise,
    ClipAwareLaplaceNoise,
    ClipAwareNoise,
    ClipAwareSaltAndPepperNoise,
    ClipAwareUniformNoise,
    L1ClipAwareGaussianNoise,
    L1ClipAwareLaplaceNoise,
    L1ClipAwareSaltAndPepperNoise,
    L1ClipAwareUniformNoise,
    L2ClipAwareGaussianNoise,
    L2ClipAwareLaplaceNoise,
    L2ClipAwareSaltAndPepperNoise,
    L2ClipAwareUniformNoise,
    LinfClipAwareGaussianNoise,
    LinfClipAwareLaplaceNoise,
    LinfClipAwareSaltAndPepperNoise,
    LinfClipAwareUniformNoise,
    LpClipAwareGaussianNoise,
    LpClipAwareLaplaceNoise,
    LpClipAwareSaltAndPepperNoise,
    LpClipAwareUniformNoise,
)
from .pgd import ClipAwareGradientAttack
from .registry import get_attack, list_attacks, register_attack
from .square import (
    ClipAwareSquare,
    L1ClipAwareSquare,
    L2ClipAwareSquare,
    LinfClipAwareSquare,
    LpClipAwareSquare,
)
from .state import Iterate

__all__ = [
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
    "ClipAwareMomentumPGD",
    "ClipAwareNoise",
    "ClipAwarePGD",
    "ClipAwareSaltAndPepperNoise",
    "ClipAwareSquare",
    "ClipAwareUniformNoise",
    "CountingModel",
    "Iterate",
    "L1ClipAwareAPGD",
    "L1ClipAwareAdamPGD",
    "L1ClipAwareAutoAttack",
    "L1ClipAwareBIM",
    "L1ClipAwareFGM",
    "L1ClipAwareFrankWolfe",
    "L1ClipAwareGaussianNoise",
    "L1ClipAwareLaplaceNoise",
    "L1ClipAwareMomentumPGD",
    "L1ClipAwarePGD",
    "L1ClipAwareSaltAndPepperNoise",
    "L1ClipAwareSquare",
    "L1ClipAwareUniformNoise",
    "L2ClipAwareAPGD",
    "L2ClipAwareAdamPGD",
    "L2ClipAwareAutoAttack",
    "L2ClipAwareBIM",
    "L2ClipAwareFGM",
    "L2ClipAwareFrankWolfe",
    "L2ClipAwareGaussianNoise",
    "L2ClipAwareLaplaceNoise",
    "L2ClipAwareMomentumPGD",
    "L2ClipAwarePGD",
    "L2ClipAwareSaltAndPepperNoise",
    "L2ClipAwareSquare",
    "L2ClipAwareUniformNoise",
    "LinfClipAwareAPGD",
    "LinfClipAwareAdamPGD",
    "LinfClipAwareAutoAttack",
    "LinfClipAwareBIM",
    "LinfClipAwareFGM",
    "LinfClipAwareFrankWolfe",
    "LinfClipAwareGaussianNoise",
    "LinfClipAwareLaplaceNoise",
    "LinfClipAwareMomentumPGD",
    "LinfClipAwarePGD",
    "LinfClipAwareSaltAndPepperNoise",
    "LinfClipAwareSquare",
    "LinfClipAwareUniformNoise",
    "LpClipAwareAPGD",
    "LpClipAwareAdamPGD",
    "LpClipAwareAutoAttack",
    "LpClipAwareBIM",
    "LpClipAwareFGM",
    "LpClipAwareFrankWolfe",
    "LpClipAwareGaussianNoise",
    "LpClipAwareLaplaceNoise",
    "LpClipAwareMomentumPGD",
    "LpClipAwarePGD",
    "LpClipAwareSaltAndPepperNoise",
    "LpClipAwareSquare",
    "LpClipAwareUniformNoise",
    "MinimalEpsilon",
    "Part",
    "get_attack",
    "list_attacks",
    "register_attack",
]

_BASES = (ClipAwareAttack, ClipAwareGradientAttack, ClipAwareNoise)

REGISTERED = tuple(
    exported
    for exported in map(globals().get, __all__)
    if inspect.isclass(exported) and issubclass(exported, Attack) and exported not in _BASES
)
"""What the package adds to ``foolbox.attacks``: all that is exported, but for the bases."""

for _attack in REGISTERED:
    register_attack(_attack)
