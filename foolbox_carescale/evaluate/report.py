"""What a run shows: tables on the console, figures and a summary in the run folder."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from foolbox_carescale.evaluate import figures
from foolbox_carescale.evaluate.config import norm_name
from foolbox_carescale.evaluate.results import CellSummary, Results
from foolbox_carescale.evaluate.store import RunFolder


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
                *(
                    f"{cell.robust_accuracy:.3f}\n[dim]{cell.norm_mean:.3f}, {cell.norm_min:.3f}[/]"
                    for cell in cells
                ),
            )
        console.print(table)


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
