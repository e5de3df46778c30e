"""One table of robust accuracies, as a paper prints it: LaTeX, Markdown, CSV or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ...core.fractions import format_epsilon
from ..config.headline import check_headline
from ..config.types import norm_name, norm_order
from ..errors import UserError, nearest, printable
from ..serialization import to_json_values
from .aggregate import Run
from .curve import Epsilons, check_epsilons
from .headline import availability, chosen_epsilons
from .series import NOT_ATTACKED
from .tables import escape, markdown_table, to_csv

Format = Literal["latex", "markdown", "csv", "json"]

FORMATS: tuple[Format, ...] = ("latex", "markdown", "csv", "json")

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


# a model with its clean accuracy in percent, an attack, and what stands in the columns
_Row = tuple[tuple[str, str], str, list[str | None]]


@dataclass(frozen=True)
class Entry:
    """Robust accuracy of a run under one attack at one epsilon, with its 95% interval."""

    run: str
    model: str
    data: str
    attack: str
    norm: str
    p: float
    epsilon: float
    samples: int
    attacked: int
    robust_accuracy: float
    low: float
    high: float


def entries(
    runs: Sequence[Run],
    attacks: Sequence[str] | None = None,
    epsilons: Epsilons | None = None,
) -> list[Entry]:
    """Return what a table shows, by run, attack, norm and epsilon.

    Args:
        runs: The runs.
        attacks: Names of those that are shown, in this order; None takes all of the runs.
        epsilons: Those that are shown, as for ``accuracy_at``. Minimum-norm attacks are known at
            each; others at those that they ran with. None takes the headline epsilons of the
            runs' configs, and all epsilons of norms without one.

    Raises:
        UserError: No run has such an attack, or one at such an epsilon.
    """
    known = list(dict.fromkeys(one.attack for run in runs for one in (*run.series, *run.worst)))
    for name in attacks or ():
        if name not in known:
            raise UserError(f"--attacks: no run has {name!r}; {nearest(name, known)}")
    chosen = chosen_epsilons(runs) if epsilons is None else epsilons
    if epsilons is not None:
        check_epsilons(epsilons)
        every = (one for run in runs for one in run.series)
        check_headline(
            epsilons,
            *availability(one for one in every if one.attack in (attacks or known)),
            "--epsilons",
        )
    found = []
    for run in runs:
        series = [one for one in (*run.series, *run.worst) if one.attack in (attacks or known)]
        if attacks is not None:
            series.sort(key=lambda one: attacks.index(one.attack))
        for one in series:
            wanted: Sequence[float]
            if isinstance(chosen, Mapping):
                own = [point.epsilon for point in one.points] if epsilons is None else []
                wanted = chosen.get(norm_name(one.p), own)
            else:
                wanted = chosen
            for epsilon in sorted(wanted):
                if (point := one.at(epsilon)) is not None:
                    about = (run.name, run.model, run.data, one.attack, norm_name(one.p), one.p)
                    counts = len(point.robust), point.attacked
                    found.append(Entry(*about, epsilon, *counts, point.accuracy, *point.interval))
    if not found:
        raise UserError("--epsilons: no attack is known at one of these; leave them out to see all")
    return found


def paper_table(
    runs: Sequence[Run],
    form: Format,
    attacks: Sequence[str] | None = None,
    epsilons: Epsilons | None = None,
) -> str:
    """Return a table of robust accuracies.

    LaTeX (for the package booktabs) and Markdown have a row per run and attack and a column per
    norm and epsilon, in percent, with the lowest of each run and column in bold. A model that
    several runs evaluate is shown with the name of the run. CSV and JSON
    have a row per run, attack, norm and epsilon, with the 95% interval, as shares.

    Args:
        runs: What ``aggregate`` returned.
        form: One of ``FORMATS``.
        attacks: As for ``entries``.
        epsilons: As for ``entries``.
    """
    found = entries(runs, attacks, epsilons)
    if form == "json":
        return json.dumps([to_json_values(vars(one)) for one in found], indent=2) + "\n"
    if form == "csv":
        return to_csv([vars(one) for one in found], list(vars(found[0])))
    columns = sorted(
        {(one.norm, one.epsilon) for one in found}, key=lambda c: (norm_order(c[0]), c[1])
    )
    rows: list[_Row] = []
    models = [run.model for run in runs]
    bold = r"\textbf{{{}}}" if form == "latex" else "**{}**"
    for run in runs:
        name = run.model if models.count(run.model) == 1 else f"{run.model} ({run.name})"
        model = name, f"{100 * run.clean_accuracy:.1f}"
        own = {(one.attack, one.norm, one.epsilon): one for one in found if one.run == run.name}
        single = {series.attack for series in run.series}
        best = {
            column: min((one.robust_accuracy for key, one in own.items()
                         if key[1:] == column and key[0] in single and one.attacked), default=None)
            for column in columns
        }  # fmt: skip
        for attack in dict.fromkeys(key[0] for key in own):
            shown: list[str | None] = []
            for column in columns:
                one = own.get((attack, *column))
                text = None if one is None else f"{100 * one.robust_accuracy:.1f}"
                if one is not None and not one.attacked:
                    text = NOT_ATTACKED
                elif one is not None and attack in single and one.robust_accuracy == best[column]:
                    text = bold.format(text)
                shown.append(text)
            rows.append((model, attack, shown))
    return _latex(rows, columns) if form == "latex" else _markdown(rows, columns)


def _markdown(rows: list[_Row], columns: list[tuple[str, float]]) -> str:
    head = ["model", "clean", "attack", *(f"{norm} {format_epsilon(e)}" for norm, e in columns)]
    body = [
        [escape(model), clean, escape(attack), *("" if text is None else text for text in shown)]
        for (model, clean), attack, shown in rows
    ]  # fmt: skip
    return markdown_table(head, body) + "\n"


def _latex(rows: list[_Row], columns: list[tuple[str, float]]) -> str:
    norms = list(dict.fromkeys(norm for norm, _ in columns))
    wide = [sum(norm == name for norm, _ in columns) for name in norms]
    ends = [3 + sum(wide[: i + 1]) for i in range(len(wide))]
    groups = [
        f"\\multicolumn{{{width}}}{{c}}{{{_norm_in_latex(name)}}}"
        for name, width in zip(norms, wide, strict=True)
    ]
    rules = [
        f"\\cmidrule(lr){{{end - width + 1}-{end}}}" for end, width in zip(ends, wide, strict=True)
    ]
    lines = [
        f"\\begin{{tabular}}{{lrl{'r' * len(columns)}}}",
        "\\toprule",
        f"& & & {' & '.join(groups)} \\\\",
        " ".join(rules),
        f"Model & Clean & Attack & {' & '.join(format_epsilon(e) for _, e in columns)} \\\\",
        "\\midrule",
    ]
    before: tuple[str, str] | None = None
    for model, attack, shown in rows:
        if before is not None and model != before:
            lines.append("\\midrule")
        about = ["", ""] if model == before else [_in_latex(model[0]), model[1]]
        texts = ("--" if text is None else text for text in shown)
        lines.append(f"{' & '.join([*about, _in_latex(attack), *texts])} \\\\")
        before = model
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _norm_in_latex(name: str) -> str:
    order = name.removeprefix("L").replace("inf", r"\infty")
    return rf"$\ell_{{{order}}}$"


def _in_latex(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in printable(text))
