"""What a run shows: tables on the console, figures and a summary in the run folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from foolbox_carescale.evaluate import figures
from foolbox_carescale.evaluate.config import norm_name
from foolbox_carescale.evaluate.results import CellSummary, Results
from foolbox_carescale.evaluate.store import RunFolder

SMALL = 64
"""Pixels per side up to which images are drawn as blocks of equal colour."""


def write_report(results: Results) -> list[Path]:
    """Write ``summary.csv`` and the figures of a run into its folder; made from its results only.

    Returns:
        The files that were written.
    """
    folder = results.folder
    written = [folder / "summary.csv", folder / "curves.png", folder / "norms.png"]
    results.write_summary(written[0])
    figures.curves(results).savefig(written[1])
    figures.norms(results).savefig(written[2])
    examples = RunFolder(folder).read_examples()
    if examples and any(len(example["label"]) for example in examples):
        written.append(folder / "grid.png")
        figures.grid(examples).savefig(written[-1])
        if max(examples[0]["clean"].shape[2:]) <= SMALL:
            _shrink(written[-1])
    return written


def print_report(results: Results, console: Console) -> None:
    """Print the clean accuracy and one table per norm and list of epsilons."""
    summary = results.summary()
    model, data = results.column("model")[0], results.column("data")[0]
    console.print(
        f"[bold]{model}[/] on [bold]{data}[/]: {summary[0].samples} samples,"
        f" clean accuracy [bold]{results.clean_accuracy:.3f}[/]",
        highlight=False,
    )
    for p, epsilons, attacks in _blocks(summary):
        table = Table(
            title=f"{norm_name(p)}: robust accuracy, and below it norm / epsilon: mean, min",
            title_justify="left",
            title_style="bold",
        )
        table.add_column("attack \\ epsilon", no_wrap=True)
        for epsilon in epsilons:
            table.add_column(f"{epsilon:g}", justify="right", no_wrap=True)
        for cells in attacks:
            table.add_row(
                f"{cells[0].attack}\n[dim]{sum(cell.seconds for cell in cells):.1f} s[/]",
                *(f"{cell.robust_accuracy:.3f}\n[dim]{_norms(cell)}[/]" for cell in cells),
            )
        console.print(table)


def _shrink(path: Path) -> None:
    """Keep 256 colours: noise on large blocks of pixels does not compress, and needs no more."""
    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _norms(cell: CellSummary) -> str:
    if math.isnan(cell.norm_mean):
        return "not attacked"
    return f"{cell.norm_mean:.3f}, {cell.norm_min:.3f}"


def _blocks(
    summary: list[CellSummary],
) -> Iterator[tuple[float, tuple[float, ...], list[list[CellSummary]]]]:
    """Attacks that share a table: norm, epsilons, and each attack's cells."""
    by_attack = [list(cells) for _, cells in groupby(summary, key=lambda cell: cell.attack)]

    def key(cells: list[CellSummary]) -> tuple[float, tuple[float, ...]]:
        return cells[0].p, tuple(cell.epsilon for cell in cells)

    blocks: dict[tuple[float, tuple[float, ...]], list[list[CellSummary]]] = {}
    for cells in by_attack:
        blocks.setdefault(key(cells), []).append(cells)
    for (p, epsilons), attacks in blocks.items():
        yield p, epsilons, attacks
