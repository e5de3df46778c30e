"""What became of the mutants: tables, and a page."""

from __future__ import annotations

import collections
import csv
import dataclasses
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
    """The results of a module in the place of those that the file has of it."""
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


def report(folder: Path, targets: dict[str, Any]) -> tuple[str, bool]:
    """The page, and whether a survivor has no reason."""
    tallies = {row["module"]: row for row in _rows(folder / TALLIES)}
    survivors = collections.defaultdict(list)
    for row in _rows(folder / SURVIVORS):
        survivors[row["module"]].append(row)
    lines = [
        "# Mutation testing",
        "",
        describe(("cosmic-ray", "pytest")) + ".",
        "",
        "| module | date | mutants | tested | killed | explained | killed, of tested |"
        " killed, of the others |",
        "|---|---|---|---|---|---|---|---|",
    ]
    sums = [0] * 4
    for module in filter(tallies.__contains__, targets):
        row = tallies[module]
        explained = sum(bool(_reason(s, targets[module])) for s in survivors[module])
        counts = [int(row[name]) for name in ("mutants", "tested", "killed")] + [explained]
        sums = [a + b for a, b in zip(sums, counts, strict=True)]
        lines.append(_line(module.partition("/")[2], row["date"], counts))
    lines.append(_line("together", "", sums))
    lines += ["", "## Survivors, and why", ""]
    unexplained = False
    for module in filter(survivors.__contains__, targets):
        groups = collections.defaultdict(list)
        for row in survivors[module]:
            groups[_reason(row, targets[module])].append(row)
        unexplained |= "" in groups
        lines += [f"### {module.partition('/')[2]}", ""]
        for reason, group in sorted(groups.items()):
            lines += [
                f"{reason or 'No reason known: a test is missing'} ({len(group)}):",
                "",
                "```diff",
            ]
            for row in group:
                lines += [f"@@ {row['line']} @@", f"-{row['before']}", f"+{row['after']}"]
            lines += ["```", ""]
    return "\n".join(lines).rstrip() + "\n", unexplained


def _line(module: str, date: str, counts: list[int]) -> str:
    mutants, tested, killed, explained = counts
    shares = (f"{killed / number:.1%}" for number in (tested, tested - explained))
    return (
        f"| {' | '.join(map(str, (module, date, mutants, tested, killed, explained, *shares)))} |"
    )


def _reason(row: dict[str, str], target: dict[str, Any]) -> str:
    for reason in target.get("reasons", []):
        if any(part in row["before"] for part in reason["lines"]):
            return str(reason["why"])
    return ""
