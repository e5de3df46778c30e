"""Mutation testing: do the tests notice when an operator, a number or a comparison is another?

    pip install cosmic-ray
    python -m experiments.mutation [PART_OF_PATH ...] --output experiments/results

The mutants are those of cosmic-ray's operators, and minimum for maximum and the like, by which
tensors spell operators. cosmic-ray itself starts a process per mutant, most of whose time goes
into importing frameworks, and mutmut leaves out decorated functions, to which all operators and
kernels belong; so here each mutant is tested in a fork
of a process that has imported what it needs.

``modules.toml`` says by which tests a module is tested, how large a sample is drawn where all
mutants take too long, and why mutants survive that do. Annotations and strings are not mutated,
nor what cannot matter: the limit of `a if a < b else b`, where both are the same.
The exit status is 1 where a survivor has no reason there. Needs Python 3.11.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomllib

from .mutants import mutants, mutate, same
from .report import SURVIVORS, TALLIES, Survivor, Tally, keep, report
from .trial import ROOT, Known, Order, trial


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
    text = Path(__file__).with_name("modules.toml").read_text(encoding="utf-8")
    settings = tomllib.loads(text)
    known = Known(arguments.known)
    targets = _expanded(settings["modules"])
    for module, target in targets.items():
        asked = not arguments.modules or any(part in module for part in arguments.modules)
        if not asked or arguments.report:
            continue
        if not _in_its_environment(module, target, arguments):
            lines = range(first, last + 1)
            tally, survivors = _tested(module, target, settings["operators"], lines, known)
            if arguments.output is not None:
                keep(arguments.output / TALLIES, module, Tally, [tally])
                keep(arguments.output / SURVIVORS, module, Survivor, survivors)
    if arguments.output is None:
        return 0
    text, unexplained = report(arguments.output, targets)
    (arguments.output / "mutation.md").write_text(text, encoding="utf-8")
    return int(unexplained)


def _expanded(targets: dict[str, Any]) -> dict[str, Any]:
    """The settings by module, where some are of all that a pattern fits."""
    found = {}
    for pattern, target in targets.items():
        paths = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))
        if not paths:
            raise SystemExit(f"modules.toml: no module is {pattern}")
        found.update({path: target for path in paths if path not in targets or path == pattern})
        sources = "".join((ROOT / path).read_text(encoding="utf-8") for path in paths)
        for line in (line for reason in target.get("reasons", []) for line in reason["lines"]):
            if line not in sources:
                raise SystemExit(f"modules.toml: no line of {pattern} has {line!r} any more")
    return found


def _in_its_environment(module: str, target: dict[str, Any], options: argparse.Namespace) -> bool:
    """Whether the module takes an environment that this process has not, but another has now had.

    What reads it does so when it is first imported.
    """
    environment = os.environ | target.get("environment", {})
    if environment == os.environ:
        return False
    command = [sys.executable, "-m", "experiments.mutation", module, "--lines", options.lines]
    for name in ("output", "known"):
        if path := getattr(options, name):
            command += [f"--{name}", path]
    subprocess.run(command, env=environment, check=False)
    return True


def _tested(
    module: str, target: dict[str, Any], operators: Iterable[str], lines: range, known: Known
) -> tuple[Tally, list[Survivor]]:
    source = (ROOT / module).read_text(encoding="utf-8")
    chosen = [m for m in mutants(source, operators) if m.line in lines]
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    tally, survivors = Tally(module, today, len(chosen)), []
    if target.get("sample", len(chosen)) < len(chosen):
        chosen = sorted(random.Random(0).sample(chosen, target["sample"]), key=lambda m: m.line)
    for name in target["imports"]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what a fork does not look at it need not copy
    order = Order()
    killed, seconds, failed = trial(module, source, target["tests"], order, 600.0)
    if killed:
        raise SystemExit(f"{module}: a test fails without any change: {failed}")
    print(f"{module}: {seconds:.1f} s for {len(order.seconds)} tests, {len(chosen)} mutants")
    for mutant in chosen:
        code = mutate(source, mutant)
        if same(source, code):
            continue
        tally.tested += 1
        if code in known:
            tally.killed += 1
            continue
        killed, took, failed = trial(module, code, target["tests"], order, 10 + 4 * seconds)
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


if __name__ == "__main__":
    sys.exit(main())
