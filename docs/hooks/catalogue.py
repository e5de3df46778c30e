"""Write the catalogue of attacks from everything that the package registers.

Descriptions and parameters come from the classes, costs and strength from attack_costs.csv and
strength.csv in experiments/results: nothing is attacked here, and no framework is needed.
"""

import csv
import functools
import inspect
import statistics
import warnings
from pathlib import Path
from typing import Any

from griffe import Docstring, DocstringSectionKind, parse_google

with warnings.catch_warnings():
    # foolbox/attacks/blur.py imports from an old name of SciPy, and MkDocs shows such warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    from foolbox_carescale import attacks

MARK = "<!-- catalogue -->"
RESULTS = Path(__file__).parents[2] / "experiments" / "results"
COSTS, STRENGTH = RESULTS / "attack_costs.csv", RESULTS / "strength.csv"
# Names in experiments/benchmarks/strength.py.
LABELS = {
    "ClipAwareAPGD": "apgd",
    "ClipAwareAdamPGD": "adam",
    "ClipAwareAutoAttack": "ensemble",
    "ClipAwareBIM": "bim",
    "ClipAwareFGM": "fgm",
    "ClipAwareMomentumPGD": "momentum",
    "ClipAwarePGD": "pgd",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the catalogue at its mark."""
    if MARK not in markdown:
        return markdown
    return markdown.replace(MARK, "\n\n".join(_entry(attack) for attack in families()))


def families() -> list[type[Any]]:
    """Return the registered attacks without their variants by norm, by name."""
    found = (*attacks.FAMILIES, attacks.MinimalEpsilon)
    return sorted(found, key=lambda attack: attack.__name__)


def _entry(attack: type[Any]) -> str:
    name = attack.__name__
    doc = inspect.getdoc(attack) or ""
    parts = [f"### {name}", _prose(doc)]
    if attack in attacks.FAMILIES:
        variants = [f"`{prefix}{name}`" for prefix in attacks.NORMS]
        parts.append("In `foolbox.attacks` also as " + ", ".join(variants) + ".")
    parts.append(_parameters(attack, doc))
    cost = _cost(attack)
    parts.append(
        f"**Cost** of the default: {cost['gradients']:,} gradients and"
        f" {cost['forward_passes']:,} forward passes for a "
        "sample that stays correctly classified."
    )
    if measured := _strength(LABELS.get(name, "")):
        parts.append(measured)
    return "\n\n".join(parts)


def _prose(doc: str) -> str:
    """Return the docstring without its sections."""
    sections = parse_google(Docstring(doc, lineno=1), warnings=False)
    return "\n\n".join(s.value for s in sections if s.kind is DocstringSectionKind.text)


def _parameters(attack: type[Any], doc: str) -> str:
    described: dict[str, str] = {}
    for text in (inspect.getdoc(attacks.ClipAwareGradientAttack) or "", doc):
        for section in parse_google(Docstring(text, lineno=1), warnings=False):
            if section.kind is DocstringSectionKind.parameters:
                for p in section.value:
                    if not p.description.startswith("As for"):
                        described[p.name] = " ".join(p.description.split())
    lines = ['??? note "Parameters"', "", "| parameter | default | |", "|---|---|---|"]
    for parameter in inspect.signature(attack).parameters.values():
        default = "" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        meaning = described.get(parameter.name, "").replace("|", "\\|")
        lines.append(f"| `{parameter.name}` | {default} | {meaning} |")
    return "\n    ".join(lines)


def _cost(attack: type[Any]) -> dict[str, int]:
    """Return the passes that are recorded of an attack."""
    for row in _rows(COSTS):
        if row["attack"] == attack.__name__:
            return {name: int(row[name]) for name in ("forward_passes", "gradients")}
    raise LookupError(
        f"{COSTS} lacks {attack.__name__}; run: python -m experiments.attack_costs --output"
        " experiments/results"
    )


def _strength(label: str) -> str:
    """Return the rows of the strength benchmark, with Foolbox's attack of the same kind."""
    rows = [row for row in _rows(STRENGTH) if row["suite"] == "fixed"]
    beside = f"foolbox_{label}"
    settings: dict[tuple[str, str, str, str], dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        if row["attack"] in (label, beside):
            key = (row["model"], row["p"], row["epsilon"], row["steps"])
            value = (float(row["robust_accuracy"]), float(row["loss"]))
            settings.setdefault(key, {}).setdefault(row["attack"], []).append(value)
    if not any(label in by for by in settings.values()):
        return ""
    lines = [
        '??? note "Measured strength"',
        "",
        "Robust accuracy / mean cross-entropy ([all settings and other libraries]"
        "(results/strength.md)).",
        "",
        "| model | norm | epsilon | iterations | this | Foolbox's |",
        "|---|---|---|---|---|---|",
    ]
    for (model, p, epsilon, steps), by in sorted(
        settings.items(), key=lambda item: _order(item[0])
    ):
        if label not in by:
            continue
        shown = [_entry_text(by.get(attack)) for attack in (label, beside)]
        norm = f"L{float(p):g}"
        lines.append(
            f"| {model} | {norm} | {float(epsilon):.4g} | {steps} | {shown[0]} | {shown[1]} |"
        )
    return "\n    ".join(lines)


def _order(key: tuple[str, ...]) -> tuple[str, float, float, int]:
    return key[0], float(key[1]), float(key[2]), int(key[3])


def _entry_text(values: list[tuple[float, float]] | None) -> str:
    if values is None:
        return ""
    means = [statistics.mean(column) for column in zip(*values, strict=True)]
    return "{:.3f} / {:.2f}".format(*means)


@functools.cache
def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
