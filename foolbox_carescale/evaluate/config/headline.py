"""Check that epsilons which a reader chooses can be had from the attacks of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ...core.fractions import format_epsilon
from ..errors import UserError, nearest


def check_headline(
    chosen: Collection[float] | Mapping[str, Collection[float]],
    asked: Mapping[str, Collection[float]],
    minimum: Collection[str],
    key: str = "report.epsilons",
) -> None:
    """Raise a UserError that names the available epsilons where one cannot be had.

    Args:
        chosen: Epsilons by norm, or for any norm.
        asked: Those of the attacks, by norm.
        minimum: Norms with a minimum-norm attack, which is known at every epsilon.
        key: Where they were chosen.
    """
    if not isinstance(chosen, Mapping):
        known = {epsilon for epsilons in asked.values() for epsilon in epsilons}
        missing = [] if minimum else [epsilon for epsilon in chosen if epsilon not in known]
        if missing:
            listed = "; ".join(f"{norm} at {_listed(asked[norm])}" for norm in asked)
            raise UserError(_not_known(key, "no attack", missing, listed))
        return
    for norm, epsilons in chosen.items():
        if norm not in asked:
            raise UserError(f"{key}: no attack has the norm {norm!r}; {nearest(norm, asked)}")
        missing = [epsilon for epsilon in epsilons if epsilon not in asked[norm]]
        if missing and norm not in minimum:
            raise UserError(_not_known(key, f"no {norm} attack", missing, _listed(asked[norm])))


def _not_known(key: str, attack: str, missing: Collection[float], available: str) -> str:
    return (
        f"{key}: {attack} is known at {_listed(missing)}, and none looks for minimum norms, which"
        f" serve every epsilon; available: {available}"
    )


def _listed(epsilons: Collection[float]) -> str:
    return ", ".join(map(format_epsilon, sorted(set(epsilons))))
