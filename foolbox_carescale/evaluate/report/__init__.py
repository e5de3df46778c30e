"""The report of runs: a page, tables and figures, from their folders alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config.validation import expand_path
from ..errors import UserError
from ..store.results import Results
from . import figures, pictures, tables
from .aggregate import Run, aggregate
from .console import print_comparison, print_report
from .page import page

SMALL = 64
"""Pixels per side up to which images are drawn as batches of equal colour."""

__all__ = ["print_comparison", "print_report", "write_report"]


def write_report(*results: Results, output: str | Path | None = None) -> list[Path]:
    """Write the report of a run, or of several side by side.

    ``report.html`` is one file that needs nothing else; ``summary.md`` and ``summary.csv``
    hold its numbers (for several runs, ``differences.csv`` compares every run with the
    first); ``curves``, ``norms`` and ``grid`` are figures, each as PNG and SVG. Everything comes
    from the run folders only.

    Args:
        results: The runs.
        output: The folder to write to; None takes that of the first run.

    Returns:
        The files that were written.

    Raises:
        UserError: There is no run, or the folder cannot be written.
    """
    if not results:
        raise UserError("runs: there is none; give at least one run folder")
    runs = aggregate(results)
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
        written += figures.save(figures.grid(examples), folder / "grid", few_colors=pixels <= SMALL)
    return written
