"""Tables of runs for papers and spreadsheets: Markdown and CSV."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from ...core.fractions import format_epsilon
from ..config.types import norm_name
from ..errors import printable
from ..statistics import quantile, wilson
from .aggregate import Difference, Run, differences, norms
from .curve import QUANTILES
from .headline import headline_epsilons, strongest
from .series import NOT_ATTACKED, QUANTITIES, Point, Series


def summary_csv(runs: Sequence[Run]) -> str:
    """Return a row per run, attack and epsilon, with all means in full precision, as CSV."""
    rows = []
    for run in runs:
        for series in (*run.series, *run.worst):
            for point in series.points:
                low, high = point.interval
                row: dict[str, Any] = {
                    "run": run.name,
                    "model": run.model,
                    "data": run.data,
                    "attack": series.attack,
                    "attack_name": series.attack_name,
                    "attack_params": series.params,
                    "library": series.library,
                    "norm": norm_name(series.p),
                    "p": series.p,
                    "epsilon": point.epsilon,
                    "samples": len(point.robust),
                    "attacked": point.attacked,
                    "robust_accuracy": point.accuracy,
                    "robust_accuracy_low": low,
                    "robust_accuracy_high": high,
                }
                for quantity in QUANTITIES:
                    spread = point.spread(quantity)
                    row |= {
                        f"{quantity}_{kind}": None if spread is None else getattr(spread, kind)
                        for kind in ("mean", "low", "high")
                    }
                row |= {
                    f"minimum_norm_{100 * share:g}_percent": None
                    if series.norms is None
                    else quantile(series.norms, share)
                    for share in QUANTILES
                }
                row["seconds"] = point.seconds if series.library else None
                row["still_adversarial_after_8_bits"] = point.quantised
                rows.append(row)
    return to_csv(rows, list(rows[0]))


def differences_csv(runs: Sequence[Run]) -> str:
    """Return a row per setting that a run shares with the first, as CSV."""
    rows = [{**vars(one), "beyond_chance": one.beyond_chance} for one in differences(runs)]
    return to_csv(rows, [*(field.name for field in fields(Difference)), "beyond_chance"])


def summary_markdown(runs: Sequence[Run]) -> str:
    """Return Markdown of robust accuracy with 95% intervals by norm, and of the diagnostics."""
    lines = ["# Robustness\n"]
    for run in runs:
        correct, total = run.clean
        low, high = wilson(correct, total)
        lines.append(
            f"- **{escape(run.name)}**: {escape(run.model)} on {escape(run.data)},"
            f" {total} samples, clean accuracy {run.clean_accuracy:.3f} ({low:.3f} to {high:.3f})"
        )
        lines += _headlines(run, runs)
        lines += [f"  - warning: {escape(str(diagnostic))}" for diagnostic in run.diagnostics]
    for p, name in norms(runs):
        settings = {
            (number, series.attack): {point.epsilon: point for point in series.points}
            for number, run in enumerate(runs)
            for series in (*run.series, *run.worst)
            if series.p == p
        }
        epsilons = sorted({epsilon for points in settings.values() for epsilon in points})
        lines.append(f"\n## {name}: robust accuracy (95% interval)\n")
        head = ["run"] * (len(runs) > 1) + ["attack", *map(format_epsilon, epsilons)]
        body = []
        for (number, attack), points in settings.items():
            named = [escape(runs[number].name)] * (len(runs) > 1) + [escape(attack)]
            shown = []
            for epsilon in epsilons:
                point = points.get(epsilon)
                shown.append("" if point is None else accuracy_text(point))
            body.append([*named, *shown])
        lines.append(markdown_table(head, body))
    if found_norms := _minimum_norms(runs):
        lines.append("\n## Minimum norms: quantiles over all samples\n")
        head = ["attack", "norm", *(f"{share:.0%}" for share in QUANTILES)]
        body = [
            [escape(one.attack), norm_name(one.p), *(f"{norm:.4g}" for norm in quantiles)]
            for _, one, quantiles in found_norms
        ]
        if len(runs) > 1:
            head = ["run", *head]
            body = [[escape(run), *row] for (run, _, _), row in zip(found_norms, body, strict=True)]
        lines.append(markdown_table(head, body))
    if len(runs) > 1 and (found := differences(runs)):
        lines.append(f"\n## Robust accuracy minus that of {escape(runs[0].name)}\n")
        lines.append(
            markdown_table(
                ["run", "attack", "norm", "epsilon", "difference (95% interval)", "samples"],
                [
                    [
                        escape(one.run),
                        escape(one.attack),
                        norm_name(one.p),
                        format_epsilon(one.epsilon),
                        f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})",
                        str(one.samples),
                    ]
                    for one in found
                ],
            )
        )
    return "\n".join(lines) + "\n"


def _headlines(run: Run, runs: Sequence[Run]) -> Iterator[str]:
    """Yield a line per headline epsilon that a run knows."""
    for p, name in norms(runs):
        for epsilon in headline_epsilons(runs, p):
            if (found := strongest(run, p, epsilon)) is not None:
                series, point = found
                yield (
                    f"  - {name} {format_epsilon(epsilon)}: robust accuracy"
                    f" {accuracy_text(point)}, {escape(series.attack)}"
                )


def accuracy_text(point: Point) -> str:
    """Return a robust accuracy with its 95% interval."""
    if not point.attacked:
        return NOT_ATTACKED
    low, high = point.interval
    return f"{point.accuracy:.3f} ({low:.3f}–{high:.3f})"  # noqa: RUF001


def _minimum_norms(runs: Sequence[Run]) -> list[tuple[str, Series, list[float]]]:
    """Return run, series and ``QUANTILES`` of its norms for every minimum-norm attack."""
    return [
        (run.name, series, [quantile(series.norms, share) for share in QUANTILES])
        for run in runs
        for series in run.series
        if series.norms is not None
    ]


def to_csv(rows: list[dict[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as CSV that spreadsheets and libraries read alike."""
    lines = [columns, *([row[column] for column in columns] for row in rows)]
    return "".join(",".join(map(_csv_field, line)) + "\n" for line in lines)


def _csv_field(value: Any) -> str:
    """Return a field of CSV that no spreadsheet takes for a formula.

    All texts are quoted, as a spreadsheet may split them at semicolons too; what is missing is
    not, so that a column of numbers stays one. The csv module does both from Python 3.12 on.
    """
    if not isinstance(value, str):
        return "" if value is None else str(value)
    first = unicodedata.normalize("NFKC", value[:1])  # a full-width sign is one too
    text = printable(f"'{value}" if first in {*"=+-@\t\r"} else value)
    return '"' + text.replace('"', '""') + '"'


def markdown_table(head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, in one cell of a table."""
    for character in "\\|*_<>`[]~&":
        text = text.replace(character, f"\\{character}")
    return printable(" ".join(text.split()))
