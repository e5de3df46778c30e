"""Keep and show the results of mutation testing: two tables, and a page."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.benchmarks.environment import describe

TALLIES, SURVIVORS = "mutation.csv", "mutation_survivors.csv"


@dataclasses.dataclass
class Tally:
    """What became of a module's mutants, of which a sample may have been tested."""

    module: str
    date: str
    mutants: int
    tested: int = 0
    killed: int = 0


@dataclasses.dataclass
class Survivor:
    """A mutant that no test noticed: a line as it was, and as it was then."""

    module: str
    line: int
    before: str
    after: str


def keep(path: Path, module: str, kind: type, results: list[Any]) -> None:
    """Write a module's results in the place of those that the file has of it."""
    rows = [row for row in _rows(path) if row["module"] != module]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in dataclasses.fields(kind)])
        writer.writeheader()
        writer.writerows(rows + [dataclasses.asdict(r) for r in results])


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def report(folder: Path, groups: dict[str, Iterable[str]]) -> str:
    """Return the page: a row for each module that the folder has results of, and each group's sum.

    Args:
        folder: Where ``keep`` wrote.
        groups: The modules of each group.
    """
    tallies = {row["module"]: row for row in _rows(folder / TALLIES)}
    lines = [
        "# Mutation testing",
        "",
        describe(("cosmic-ray", "pytest")) + ".",
        "",
        "| module | date | mutants | tested | killed | killed, of tested |",
        "|---|---|---|---|---|---|",
    ]
    for group, modules in groups.items():
        sums = [0] * 3
        for row in map(tallies.__getitem__, filter(tallies.__contains__, modules)):
            counts = [int(row[name]) for name in ("mutants", "tested", "killed")]
            sums = [a + b for a, b in zip(sums, counts, strict=True)]
            lines.append(_line(row["module"].partition("/")[2], row["date"], counts))
        if sums[1]:
            lines.append(_line(f"**{group}**", "", sums))
    return "\n".join(lines) + "\n"


def _line(name: str, date: str, counts: list[int]) -> str:
    cells = [name, date, *map(str, counts), f"{counts[2] / counts[1]:.1%}"]
    return f"| {' | '.join(cells)} |"
