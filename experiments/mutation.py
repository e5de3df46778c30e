"""Mutation testing: do the tests notice when an operator, a number or a comparison is another?

    pip install cosmic-ray
    python -m experiments.mutation [PART_OF_PATH ...] --output experiments/results

The mutants are those of cosmic-ray's operators, and minimum for maximum and the like, by which
tensors spell operators. cosmic-ray itself starts a process per mutant, most of whose time goes
into importing frameworks, and mutmut leaves out decorated functions, to which all operators and
kernels belong; so here each mutant is tested in a fork
of a process that has imported what it needs.

``mutation.toml`` says by which tests a module is tested, how large a sample is drawn where all
mutants take too long, and why mutants survive that do. Annotations and strings are not mutated,
nor what cannot matter: the limit of `a if a < b else b`, where both are the same.
The exit status is 1 where a survivor has no reason there. Needs Python 3.11.
"""

from __future__ import annotations

import argparse
import ast
import collections
import csv
import dataclasses
import datetime
import gc
import hashlib
import importlib
import importlib.util
import itertools
import json
import linecache
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any

import pytest
import tomllib
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

from experiments.benchmarks.environment import describe

ROOT = Path(__file__).parents[1]
PAIRS = [
    ("minimum", "maximum"),
    ("min", "max"),
    ("logical_and", "logical_or"),
    ("any", "all"),
    ("zeros", "ones"),
    ("zeros_like", "ones_like"),
]
SWAPPED = dict(PAIRS) | {b: a for a, b in PAIRS}
LIMITS = {f"ReplaceComparisonOperator_{pair}" for pair in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt")}
MEMORY = 8 << 30  # bytes: a mutant may ask for all there is
POLL = 0.02  # seconds
TALLIES, SURVIVORS = "mutation.csv", "mutation_survivors.csv"


class SwapFunction(Operator):  # type: ignore[misc]
    """Puts a function's counterpart in its place."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """Where the function is called or handed on."""
        if node.type == "name" and node.value in SWAPPED and not node.is_definition():
            keyword = node.parent.type == "argument" and node.parent.children[0] is node
            if not keyword:
                yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The other name."""
        node.value = SWAPPED[node.value]
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        """None."""
        return ()


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of a module: an occurrence of an operator, and the line where it is."""

    operator: str
    occurrence: int
    line: int


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


class Known:
    """The mutants that tests have killed before, kept in a file if there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.killed = set(path.read_text().split()) if path is not None and path.exists() else set()

    def __contains__(self, code: str) -> bool:
        return self._name(code) in self.killed

    def add(self, code: str) -> None:
        """Remember it."""
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(self._name(code) + "\n")

    def _name(self, code: str) -> str:
        return hashlib.sha256(code.encode()).hexdigest()


class Order:
    """A pytest plugin: first the tests that have killed most mutants, then the fastest."""

    def __init__(self) -> None:
        self.kills: collections.Counter[str] = collections.Counter()
        self.seconds: dict[str, float] = {}
        self.reports = -1

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort them."""
        items.sort(key=lambda i: (-self.kills[i.nodeid], self.seconds.get(i.nodeid, 0.0)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell the process that forked."""
        line = json.dumps([report.nodeid, report.duration, report.failed]) + "\n"
        os.write(self.reports, line.encode())


class Mutated(SourceFileLoader):
    """Finds one module, with other code than its file has."""

    def __init__(self, module: str, code: str) -> None:
        path = Path(module)
        self.package = path.name == "__init__.py"
        parts = (path.parent if self.package else path.with_suffix("")).parts
        super().__init__(".".join(parts), str(ROOT / path))
        self.code = code
        # Triton reads a kernel's source, by this
        linecache.cache[self.path] = len(code), None, code.splitlines(keepends=True), self.path

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """As a finder of ``sys.meta_path``."""
        if name != self.name:
            return None
        folder = [str(Path(self.path).parent)] if self.package else None
        return importlib.util.spec_from_file_location(
            name, self.path, loader=self, submodule_search_locations=folder
        )

    def get_code(self, fullname: str) -> Any:
        """Compiled each time."""
        return compile(self.code, self.path, "exec", dont_inherit=True)


def main() -> int:
    """Test the mutants, and write what became of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("modules", nargs="*", help="parts of their paths; by default all")
    parser.add_argument("--lines", default="1-999999", help="FIRST-LAST: only what is there")
    parser.add_argument("--output", type=Path, help="folder for the results")
    parser.add_argument("--known", type=Path, help="file to keep those killed in, who stay so")
    parser.add_argument("--report", action="store_true", help="only of what the folder holds")
    arguments = parser.parse_args()
    first, last = map(int, arguments.lines.split("-"))
    settings = tomllib.loads((ROOT / "experiments/mutation.toml").read_text(encoding="utf-8"))
    known = Known(arguments.known)
    targets = _expanded(settings["modules"])
    for module, target in targets.items():
        asked = not arguments.modules or any(part in module for part in arguments.modules)
        if asked and not arguments.report:
            lines = range(first, last + 1)
            tally, survivors = _tested(module, target, settings["operators"], lines, known)
            if arguments.output is not None:
                _keep(arguments.output / TALLIES, module, Tally, [tally])
                _keep(arguments.output / SURVIVORS, module, Survivor, survivors)
    if arguments.output is None:
        return 0
    text, unexplained = _report(arguments.output, targets)
    (arguments.output / "mutation.md").write_text(text, encoding="utf-8")
    return int(unexplained)


def _expanded(targets: dict[str, Any]) -> dict[str, Any]:
    """The settings by module, where some are of all that a pattern fits."""
    found = {}
    for pattern, target in targets.items():
        paths = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))
        if not paths:
            raise SystemExit(f"mutation.toml: no module is {pattern}")
        found.update({path: target for path in paths if path not in targets or path == pattern})
    return found


def _tested(
    module: str, target: dict[str, Any], operators: Iterable[str], lines: range, known: Known
) -> tuple[Tally, list[Survivor]]:
    source = (ROOT / module).read_text(encoding="utf-8")
    chosen = [m for m in _mutants(source, operators) if m.line in lines]
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    tally, survivors = Tally(module, today, len(chosen)), []
    if target.get("sample", len(chosen)) < len(chosen):
        chosen = sorted(random.Random(0).sample(chosen, target["sample"]), key=lambda m: m.line)
    os.environ.update(target.get("environment", {}))
    for name in target["imports"]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what a fork does not look at it need not copy
    order = Order()
    killed, seconds, failed = _run(module, source, target["tests"], order, 600.0)
    if killed:
        raise SystemExit(f"{module}: a test fails without any change: {failed}")
    print(f"{module}: {seconds:.1f} s for {len(order.seconds)} tests, {len(chosen)} mutants")
    for mutant in chosen:
        code = mutate_code(source, _operator(mutant.operator), mutant.occurrence)
        if _same(source, code):
            continue
        tally.tested += 1
        if code in known:
            tally.killed += 1
            continue
        killed, took, failed = _run(module, code, target["tests"], order, 10 + 4 * seconds)
        if killed:
            known.add(code)
        order.kills[failed] += 1
        tally.killed += killed
        before, after = (t.splitlines()[mutant.line - 1].strip() for t in (source, code))
        outcome = "killed" if killed else "SURVIVED"
        print(f"{outcome} {took:.1f} s, line {mutant.line}: {before} -> {after} ({failed})")
        sys.stdout.flush()
        if not killed:
            survivors.append(Survivor(module, mutant.line, before, after))
    print(f"{module}: {tally.killed} of {tally.tested} killed")
    return tally, survivors


def _mutants(source: str, operators: Iterable[str]) -> list[Mutant]:
    """All but those of annotations and strings, in the order of the lines."""
    left_out, lines = list(_left_out(source)), source.splitlines()
    choices = list(_choices(source))
    found = []
    for name in operators:
        operator, number = _operator(name), itertools.count()
        for node in ast_nodes(get_ast(source)):
            for start, _ in operator.mutation_positions(node):
                mutant = Mutant(name, next(number), start[0])
                before = lines[start[0] - 1][: start[1]]
                if name.endswith("USub_UAdd") and before.endswith(("axis=", "shape[")):
                    continue  # of rows the axes -1 and +1 are the same
                if lines[start[0] - 1][start[1] :].startswith("*,"):
                    continue  # no product: from there on arguments go by keyword
                if name in LIMITS and any(first <= start < last for first, last in choices):
                    continue  # which of two equal numbers is taken
                if not any(first <= start < last for first, last in left_out):
                    found.append(mutant)
    return sorted(found, key=lambda m: m.line)


def _operator(name: str) -> Any:
    return SwapFunction() if name == "SwapFunction" else get_operator(f"core/{name}")()


def _left_out(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Annotations and strings."""
    for node in ast.walk(ast.parse(source)):
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        for part in [*parts, node if isinstance(node, ast.JoinedStr) else None]:
            if part is not None:
                yield _extent(part)


def _extent(node: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _choices(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where the smaller or the larger of two is taken: `a if a < b else b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.IfExp) and isinstance(node.test, ast.Compare):
            test = node.test
            pair = {ast.dump(side) for side in (test.left, *test.comparators)}
            if pair == {ast.dump(node.body), ast.dump(node.orelse)}:
                yield _extent(test)


def _same(source: str, code: str) -> bool:
    """Whether the change is none, or no Python."""
    try:
        return ast.dump(ast.parse(code)) == ast.dump(ast.parse(source))
    except SyntaxError:
        return True


def _run(
    module: str, code: str, tests: list[str], order: Order, limit: float
) -> tuple[bool, float, str]:
    """The tests with this code in the place of the module's, for so many seconds of computing.

    Returns:
        Whether they fail, the seconds, and the test that failed first, if it was one.
    """
    sys.stdout.flush()
    with tempfile.TemporaryFile() as reports:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                order.reports = reports.fileno()
                _quiet()
                # of computing, so that a busy machine changes nothing
                resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit),) * 2)
                resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
                sys.meta_path.insert(0, Mutated(module, code))  # type: ignore[arg-type]
                options = ["-x", "-q", "--assert=plain"]
                for plugin in ("cacheprovider", "logging", "unraisableexception"):
                    options += ["-p", f"no:{plugin}"]
                status = int(pytest.main([*options, *tests], plugins=[order]))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        status, seconds = _wait(child, limit)
        reports.seek(0)
        failed = ""
        for line in reports:
            name, duration, wrong = json.loads(line)
            order.seconds[name] = order.seconds.get(name, 0.0) + duration
            failed = name if wrong else failed
    return status != 0, seconds, failed


def _quiet() -> None:
    os.setsid()
    log = os.open(os.environ.get("MUTATION_LOG", os.devnull), os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _wait(child: int, limit: float) -> tuple[int, float]:
    """The exit status and the seconds of computing; a child that waits forever is ended."""
    for _ in range(math.ceil((30 + 3 * limit) / POLL)):
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return status, usage.ru_utime + usage.ru_stime
        time.sleep(POLL)
    os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return status, usage.ru_utime + usage.ru_stime


def _keep(path: Path, module: str, kind: type, results: list[Any]) -> None:
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


def _report(folder: Path, targets: dict[str, Any]) -> tuple[str, bool]:
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


if __name__ == "__main__":
    sys.exit(main())
