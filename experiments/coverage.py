"""Report the lines and branches of each module that the tests run.

    coverage run -m pytest
    coverage combine
    python -m experiments.coverage --output experiments/results

What is left out, and why, says ``[tool.coverage]`` in pyproject.toml.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from coverage import Coverage

from experiments.benchmarks.environment import describe

PACKAGES = ("foolbox-carescale", "coverage", "pytest", "numba", "torch", "jax", "tensorflow-cpu")
WANTED = 95


def main() -> None:
    """Print the table, and write ``coverage.md``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tests", default="all tests", help="what was run, for the first lines")
    parser.add_argument("--output", type=Path, help="folder for the file")
    arguments = parser.parse_args()
    text = table(measured(), arguments.tests)
    print(text, end="")
    if arguments.output is not None:
        (arguments.output / "coverage.md").write_text(text, encoding="utf-8")


def measured() -> dict[str, dict[str, Any]]:
    """Coverage's own summary of each file of the package, and of all as ``"all"``."""
    coverage = Coverage()
    coverage.load()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "coverage.json"
        coverage.json_report(outfile=str(file))
        found = json.loads(file.read_text(encoding="utf-8"))
    parts = {path: part["summary"] for path, part in found["files"].items()}
    return {**dict(sorted(parts.items())), "all": found["totals"]}


def table(summaries: dict[str, dict[str, Any]], tests: str) -> str:
    """The page: one row for each module that has a statement, the sum last."""
    lines = [
        "# Coverage",
        "",
        f"{describe(PACKAGES)}.",
        "",
        f"Lines and branches of the package, and the share of both that was run; the goal is"
        f" {WANTED}%. Tests: {tests}.",
        "",
        "| module | lines | not run | branches | not taken | run |",
        "|---|---|---|---|---|---|",
    ]
    for path, found in summaries.items():
        if found["num_statements"]:
            numbers = (
                found["num_statements"], found["missing_lines"], found["num_branches"],
                found["missing_branches"], f"{found['percent_covered']:.1f}%",
            )  # fmt: skip
            name = path.partition("foolbox_carescale/")[2] or path
            lines.append(f"| {name} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
