"""Mutation testing: do the tests notice when an operator, a number or a comparison is another?

    pip install cosmic-ray
    python -m experiments.mutation [PART_OF_PATH ...] --output experiments/results

The mutants are those of cosmic-ray's operators, and minimum for maximum and the like, by which
tensors spell operators. cosmic-ray itself starts a process per mutant, most of whose time goes
into importing frameworks, and mutmut leaves out decorated functions, to which all operators and
kernels belong; so here each mutant is tested in a fork of a process that has imported what it
needs.

``modules.toml`` says by which tests a module is tested. Annotations and strings are not mutated,
nor what cannot matter: the limit of `a if a < b else b`, where both are the same. Needs Python
3.11.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib
import random
import sys
from pathlib import Path

import tomllib

from .mutants import Mutant, mutants, mutate, same
from .report import SURVIVORS, TALLIES, Survivor, Tally, keep, report
from .trial import ROOT, Known, Order, trial


def main() -> None:
    """Test the mutants, and write what became of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("modules", nargs="*", help="parts of their paths; by default all")
    parser.add_argument("--lines", default="1-999999", help="FIRST-LAST: only what is there")
    parser.add_argument("--sample", type=int, default=30, help="at most so many of each module")
    parser.add_argument("--output", type=Path, help="folder for the results")
    parser.add_argument("--known", type=Path, help="file to keep those killed in, who stay so")
    parser.add_argument("--report", action="store_true", help="only of what the folder holds")
    arguments = parser.parse_args()
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
    first, last = map(int, arguments.lines.split("-"))
    text = Path(__file__).with_name("modules.toml").read_text(encoding="utf-8")
    settings = tomllib.loads(text)
    known = Known(arguments.known)
    groups = {name: _modules(group["tests"]) for name, group in settings["groups"].items()}
    for name, modules in groups.items():
        for module, tests in modules.items():
            asked = not arguments.modules or any(part in module for part in arguments.modules)
            if not asked or arguments.report:
                continue
            for library in settings["groups"][name]["imports"]:
                importlib.import_module(library)
            source = (ROOT / module).read_text(encoding="utf-8")
            chosen = [
                mutant
                for mutant in mutants(source, settings["operators"])
                if first <= mutant.line <= last
            ]
            tally = Tally(module, _today(), len(chosen))
            if arguments.sample < len(chosen):
                chosen = random.Random(0).sample(chosen, arguments.sample)
            survivors = _tested(tally, source, tests, chosen, known)
            if arguments.output is not None:
                keep(arguments.output / TALLIES, module, Tally, [tally])
                keep(arguments.output / SURVIVORS, module, Survivor, survivors)
    if arguments.output is not None:
        page = report(arguments.output, groups)
        (arguments.output / "mutation.md").write_text(page, encoding="utf-8")


def _modules(tests: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the tests by module, where those of a pattern are for all that it fits."""
    return {
        path.relative_to(ROOT).as_posix(): arguments
        for pattern, arguments in tests.items()
        for path in sorted(ROOT.glob(pattern))
    }


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def _tested(
    tally: Tally, source: str, tests: list[str], chosen: list[Mutant], known: Known
) -> list[Survivor]:
    """Count the mutants that tests notice, and return the others."""
    module, survivors = tally.module, []
    gc.collect()
    gc.freeze()  # what a fork does not look at it need not copy
    order = Order()
    killed, seconds, failed = trial(module, source, tests, order, 600.0)
    if killed:
        raise SystemExit(f"{module}: a test fails without any change: {failed}")
    print(f"{module}: {seconds:.1f} s for {len(order.seconds)} tests, {len(chosen)} mutants")
    for mutant in sorted(chosen, key=lambda m: m.line):
        code = mutate(source, mutant)
        if same(source, code):
            continue
        tally.tested += 1
        if code in known:
            tally.killed += 1
            continue
        killed, took, failed = trial(module, code, tests, order, 10 + 4 * seconds)
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
    return survivors


if __name__ == "__main__":
    main()
