"""Attacks by name, Foolbox's and this package's, in ``foolbox.attacks``."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import inspect
import warnings
from importlib.metadata import entry_points
from typing import Any

import foolbox.attacks
from foolbox.attacks import additive_noise, fast_minimum_norm, gradient_descent_base
from foolbox.attacks.base import Attack

ENTRY_POINTS = "carescale.attacks"
"""The group of entry points by which other packages offer their attacks."""

FOOLBOX_KINDS: dict[type, str] = {
    foolbox.attacks.L1FastGradientAttack: "single gradient",
    foolbox.attacks.L2FastGradientAttack: "single gradient",
    foolbox.attacks.LinfFastGradientAttack: "single gradient",
    gradient_descent_base.BaseGradientDescent: "gradient",
    foolbox.attacks.L2CarliniWagnerAttack: "minimum norm",
    foolbox.attacks.DDNAttack: "minimum norm",
    fast_minimum_norm.FMNAttackLp: "minimum norm",
    additive_noise.BaseAdditiveNoiseAttack: "noise",
    additive_noise.BaseRepeatedAdditiveNoiseAttack: "noise",
    foolbox.attacks.SaltAndPepperNoiseAttack: "noise",
    foolbox.attacks.LinearSearchBlendedUniformNoiseAttack: "noise",
    foolbox.attacks.GaussianBlurAttack: "noise",
    foolbox.attacks.InversionAttack: "noise",
    foolbox.attacks.L2ContrastReductionAttack: "noise",
    foolbox.attacks.BinarySearchContrastReductionAttack: "noise",
    foolbox.attacks.LinearSearchContrastReductionAttack: "noise",
}
"""Kinds of Foolbox's classes and their subclasses; other classes have an attribute ``kind``."""


def get_attack(name: str) -> type[Attack]:
    """Return the attack class of this name, from Foolbox, this package or an entry point.

    Args:
        name: As in ``foolbox.attacks``: ``"LinfPGD"``, ``"L2ClipAwarePGD"``.

    Returns:
        The class; call it with the attack's parameters.

    Raises:
        ValueError: there is none; the message names the nearest ones.
    """
    attacks = _attacks()
    if name in attacks:
        return attacks[name]
    by_lower = {known.lower(): known for known in attacks}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(by_lower[n] for n in near)}?" if near else ""
    raise ValueError(f"attack: there is no attack named {name!r}{hint}")


def kind_of(name: str) -> str | None:
    """Return the kind of the attack of this name, its class's attribute ``kind``.

    Args:
        name: As in ``foolbox.attacks``.

    Returns:
        ``noise``, ``single gradient``, ``gradient``, ``minimum norm`` or ``ensemble``; None for
        attacks of no such kind, and for names that are not in ``foolbox.attacks``.
    """
    attack = _attacks().get(name)
    if attack is None:
        return None
    foolboxs = (FOOLBOX_KINDS[base] for base in attack.__mro__ if base in FOOLBOX_KINDS)
    kind: str | None = getattr(attack, "kind", None) or next(foolboxs, None)
    return kind


def list_attacks(pattern: str = "*") -> list[str]:
    """Return the names of all attacks, Foolbox's and this package's, sorted.

    Args:
        pattern: Keep the names that match, with ``*`` and ``?``, in any case: ``"l2*pgd"``.
    """
    return sorted(n for n in _attacks() if fnmatch.fnmatch(n.lower(), pattern.lower()))


def register_attack(attack: type[Attack]) -> None:
    """Add a class to ``foolbox.attacks`` under its own name, for ``get_attack`` and configs too.

    A package that is installed need not call it: the entry points of the group
    ``carescale.attacks`` are registered when an attack is first asked for by name.

    Args:
        attack: A subclass of Foolbox's ``Attack``. Its attribute ``kind``, if any, is one of
            those of ``kind_of``.

    Raises:
        ValueError: It is no attack, or Foolbox already has something else of that name.
    """
    if not (inspect.isclass(attack) and issubclass(attack, Attack)):
        raise ValueError(f"attack: expected a subclass of foolbox's Attack, got {attack!r}")
    name = attack.__name__
    taken = getattr(foolbox.attacks, name, attack)
    if taken is not attack:
        raise ValueError(
            f"attack: foolbox.attacks already has a {name}, from {taken.__module__}; rename it"
        )
    setattr(foolbox.attacks, name, attack)


@functools.cache
def _register_entry_points() -> None:
    for point in entry_points(group=ENTRY_POINTS):
        try:
            register_attack(point.load())
        except Exception as error:
            warnings.warn(
                f"entry point {point.name} = {point.value} of {ENTRY_POINTS} gives no attack: "
                f"{type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=4,
            )


def _attacks() -> dict[str, type[Attack]]:
    _register_entry_points()

    def is_attack(value: Any) -> bool:
        return inspect.isclass(value) and issubclass(value, Attack) and value is not Attack

    return dict(inspect.getmembers(foolbox.attacks, is_attack))
