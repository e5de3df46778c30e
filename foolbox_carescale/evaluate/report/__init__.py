"""The report of runs: a page, tables and figures, from their folders alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config.types import ReportConfig
from ..config.validation import expand_path
from ..errors import UserError, nearest
from ..store.results import Results
from . import figures, pictures, tables
from .aggregate import Run, aggregate, norms
from .console import print_comparison, print_report
from .page import page

SMALL = 64
"""Pixels per side up to which images are drawn as batches of equal colour."""

__all__ = ["plot_curves", "print_comparison", "print_report", "write_report"]


def plot_curves(*results: Results, norm: str | None = None, ax: Any = None) -> Any:
    """Plot robust accuracy by epsilon with 95% intervals, a line per attack, as the report does.

    Args:
        results: One run or several.
        norm: Such as "L2"; may be left out where the runs have one norm.
        ax: Matplotlib's axes to draw into; None takes the current ones of pyplot.

    Returns:
        The axes; ``ax.legend()`` names the lines.

    Raises:
        UserError: There is no run, no attack of this norm, or more than one norm and none named.
    """
    if not results:
        raise UserError("results: there is none; give at least one run")
    runs = aggregate(results)
    names = {name: p for p, name in norms(runs)}
    if norm is None and len(names) > 1:
        raise UserError(f"norm: the runs have {', '.join(names)}; name one")
    name = next(iter(names)) if norm is None else norm
    if name not in names:
        raise UserError(f"norm: no attack has {name!r}; {nearest(name, names)}")
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.gca()
    figures.draw_curves(ax, runs, names[name])
    ax.set_ylabel("robust accuracy")
    return ax


def write_report(
    *results: Results,
    output: str | Path | None = None,
    epsilons: Mapping[str, Sequence[float]] | None = None,
) -> list[Path]:
    """Write the report of a run, or of several side by side.

    ``report.html`` is one file that needs nothing else; ``summary.md`` and ``summary.csv``
    hold its numbers (for several runs, ``differences.csv`` compares every run with the
    first); ``curves``, ``norms`` and ``grid`` are figures, each as PNG and SVG. Everything comes
    from the run folders only.

    Args:
        results: The runs.
        output: The folder to write to; None takes that of the first run.
        epsilons: Headline epsilons by norm, in the place of ``report.epsilons`` of the configs:
            of the runs, or any where a minimum-norm attack ran.

    Returns:
        The files that were written.

    Raises:
        UserError: There is no run, an epsilon cannot be had, or the folder cannot be written.
    """
    if not results:
        raise UserError("runs: there is none; give at least one run folder")
    given = {norm: list(values) for norm, values in (epsilons or {}).items()}
    chosen = ReportConfig(given).validated().epsilons
    runs = [replace(run, headline={**run.headline, **chosen}) for run in aggregate(results)]
    folder = results[0].folder if output is None else expand_path(output)
    texts = {
        "report.html": page(runs),
        "summary.md": tables.summary_markdown(runs),
        "summary.csv": tables.summary_csv(runs),
    }
    if len(runs) > 1:
        texts["differences.csv"] = tables.differences_csv(runs)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            written.append(figures.replaced(folder / name))
            written[-1].write_text(text, encoding="utf-8")
        written += _draw(runs, folder)
    except OSError as error:
        raise UserError(
            f"output: {folder} cannot be written ({error.strerror or error});"
            " choose another folder with --output"
        ) from error
    return written


def _draw(runs: Sequence[Run], folder: Path) -> list[Path]:
    written = figures.save(figures.curves(runs), folder / "curves")
    if any(series.norms is None for run in runs for series in run.series):
        written += figures.save(figures.norms(runs), folder / "norms")
    if examples := pictures.of_images(runs[0]):
        pixels = max(examples[0]["clean"].shape[2:])
        drawn = figures.grid(runs[0], examples)
        written += figures.save(drawn, folder / "grid", few_colors=pixels <= SMALL)
    return written
