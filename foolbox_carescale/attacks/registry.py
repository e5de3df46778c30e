"""Attacks by name: Foolbox's and ours in one place, which is ``foolbox.attacks`` itself."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
from typing import Any

import foolbox.attacks
from foolbox.attacks.base import Attack


def get_attack(name: str) -> type[Attack]:
    """The attack class of this name, from Foolbox or from this package.

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


def list_attacks(pattern: str = "*") -> list[str]:
    """Names of all attacks, Foolbox's and ours, sorted.

    Args:
        pattern: Keep the names that match, with ``*`` and ``?``, in any case: ``"l2*pgd"``.
    """
    return sorted(n for n in _attacks() if fnmatch.fnmatch(n.lower(), pattern.lower()))


def register(attack: type[Attack]) -> None:
    """Add a class to ``foolbox.attacks`` under its own name.

    Raises:
        ValueError: Foolbox already has something else of that name.
    """
    name = attack.__name__
    taken = getattr(foolbox.attacks, name, attack)
    if taken is not attack:
        raise ValueError(
            f"attack: foolbox.attacks already has a {name}, from {taken.__module__}; rename ours"
        )
    setattr(foolbox.attacks, name, attack)


def _attacks() -> dict[str, type[Attack]]:
    def is_attack(value: Any) -> bool:
        return inspect.isclass(value) and issubclass(value, Attack) and value is not Attack

    return dict(inspect.getmembers(foolbox.attacks, is_attack))
