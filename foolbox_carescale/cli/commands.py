"""The commands: each takes parsed arguments and returns an exit code."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..evaluate.errors import UserError, nearest, printable

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from ..evaluate import Progress, Results

CLAIM_FAILS = 1
"""Exit code of ``verify`` where a claim does not hold."""

WRONG_INPUT, CANNOT_STORE, INTERRUPTED, TERMINATED = 2, 3, 130, 143
"""Exit codes. After the last three the same command resumes the run."""

_EXTRA = {
    "hydra": "hydra-core",
    "matplotlib": "matplotlib",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "rich": "rich",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "torchvision": "torchvision",
}
"""Modules of the evaluate extra, and the packages that bring them."""

_PLAIN_WIDTH = 110
"""Columns of a table that is written to a file or a pipe."""


def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate a model's robustness; store, print and draw the results."""
    require_extra()
    from ..evaluate import load_evaluation, load_sweep

    path, overrides = _split(arguments.config)
    if arguments.shard is not None:
        overrides.append(f"shard={arguments.shard}")
    if arguments.multirun:
        evaluations = load_sweep(path, overrides, allow_code=arguments.allow_code)
    else:
        evaluations = [load_evaluation(path, overrides, allow_code=arguments.allow_code)]
    if arguments.print_config:
        print("---\n".join(evaluation.to_yaml() for evaluation in evaluations), end="")
        return 0
    # two busy-waiting threads on a core that another process uses wait for each other's time
    # slices: 6 to 90 times slower; must be set before torch loads its OpenMP library
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # imports torch, which takes seconds: only after errors in the config were reported
    from ..evaluate import evaluate, print_report, write_report
    from ..evaluate.console import Terminated, terminable, to_json

    silent = arguments.quiet or arguments.json
    console = _console(silent=silent)
    runs = []
    for evaluation in evaluations:
        last: list[Progress] = []
        try:
            with terminable(), _progress(last, silent=silent) as on_progress:
                results = evaluate(evaluation, on_progress=on_progress)
        except KeyboardInterrupt as stopped:
            _print_resume_command(arguments, last)
            return TERMINATED if isinstance(stopped, Terminated) else INTERRUPTED
        if arguments.multirun:
            console.print()
            _print(console, str(evaluation.output))
        written = []
        if results.complete:
            print_report(results, console)
            written = write_report(results)
            _print(console, _named(written))
            runs.append(results)
        else:
            none = "" if last[-1].total else " (it has no task)"
            _print(
                console,
                f"{results.folder}: shard {evaluation.shard} is done{none}, others are not; when"
                f" all are done, run: carescale report {results.folder}",
            )
        if arguments.json:
            print(to_json(results, last[-1], written), flush=True)
    if len(runs) > 1:
        _summarise(runs, console)
    return 0


def _print_resume_command(arguments: argparse.Namespace, last: Sequence[Progress]) -> None:
    from ..evaluate.console import resume_command

    if not last:
        print("carescale: interrupted before anything was computed", file=sys.stderr)
        return
    folder = last[-1].folder
    command = resume_command(arguments.given, folder.parent if arguments.multirun else folder)
    print(
        f"carescale: interrupted; {last[-1].done} of {last[-1].total} tasks are in"
        f" {printable(str(folder))}; resume with: {command}",
        file=sys.stderr,
    )


def _summarise(runs: Sequence[Results], console: Console) -> None:
    """Print how the runs of a sweep differ, and write one report beside them."""
    from ..evaluate import print_comparison, write_report

    console.print(f"\n{len(runs)} runs", style="bold")
    # a sweep over attacks or epsilons has no setting that two runs share
    with contextlib.suppress(UserError):
        print_comparison(runs, console)
    _print(console, _named(write_report(*runs, output=runs[0].folder.parent)))


def train(arguments: argparse.Namespace) -> int:
    """Train a model on clean, noisy or attacked images."""
    require_extra()
    from ..training.config import load_training

    training = load_training(*_split(arguments.config), allow_code=arguments.allow_code)
    if arguments.print_config:
        print(training.to_yaml(), end="")
        return 0
    require_extra({"lightning_fabric": "lightning-fabric"}, "train")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in evaluate
    from ..training.trainer import train

    try:
        trained = train(training, progress=sys.stdout.isatty())
    except KeyboardInterrupt as interrupt:
        print(f"carescale: interrupted; {printable(str(interrupt))}", file=sys.stderr)
        return INTERRUPTED
    if os.environ.get("RANK", "0") != "0":  # one of torchrun's processes speaks
        return 0
    about, last = trained.about, trained.epochs[-1]
    _print(
        _console(),
        f"{about['architecture']}, {about['recipe']['name']}: epoch {about['epoch']} of"
        f" {last.epoch}, held out {about['accuracy']:.3f}, perturbed"
        f" {about['perturbed_accuracy']:.3f}",
        str(trained.weights),
        f"evaluate it with: carescale evaluate {shlex.quote(str(trained.folder))}",
    )
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write the page, tables and figures of runs, or print robust accuracy at other epsilons."""
    require_extra()
    from ..evaluate import print_report, write_report
    from ..evaluate.report.console import print_epsilons
    from ..evaluate.report.curve import parse_epsilons

    if arguments.output == "":
        raise UserError("--output: is empty; give a path, or leave it out")
    runs = _load_runs(arguments.runs)
    output = arguments.output or (None if len(runs) == 1 else "report")
    console = _console()
    epsilons = parse_epsilons(arguments.epsilons) if arguments.epsilons else None
    if arguments.format is not None:
        from ..evaluate.report.aggregate import aggregate
        from ..evaluate.report.paper import paper_table

        table = paper_table(aggregate(runs), arguments.format, arguments.attacks, epsilons)
        print(table, end="")
        return 0
    if arguments.attacks is not None:
        raise UserError("--attacks: needs --format; give one, such as --format latex")
    if epsilons is not None:
        for results in runs:
            print_epsilons(results, epsilons, console)
        return 0
    for results in runs:
        print_report(results, console)
    _print(console, _named(write_report(*runs, output=output)))
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Print how runs differ."""
    require_extra()
    from ..evaluate import print_comparison

    print_comparison(_load_runs([arguments.base, *arguments.runs]), _console())
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Check adversarial examples, and print what was found; a claim that fails is exit code 1."""
    require_extra()
    from pathlib import Path

    from ..evaluate import verify
    from ..evaluate.verification.files import read_array
    from ..evaluate.verification.page import print_verification, write_verification

    if arguments.run is not None:
        return _verify_run(arguments)
    for name in ("clean", "adversarial", "eps"):
        if getattr(arguments, name) is None:
            raise UserError(f"--{name}: is missing; give it, or a run folder in the place of files")
    clean = read_array(arguments.clean, "clean")
    adversarial = read_array(arguments.adversarial, "adversarial")
    labels = None if arguments.labels is None else read_array(arguments.labels, "labels")
    model = None if arguments.model is None else _load_model(arguments)
    found = verify(
        clean,
        adversarial,
        labels,
        epsilon=arguments.eps,
        norm=arguments.norm,
        model=model,
        robust_accuracy=arguments.robust_accuracy,
    )
    if arguments.json:
        print(json.dumps(found.to_dict()))
    else:
        print_verification(found, _console())
    if arguments.output is not None:
        written = write_verification(found, clean, adversarial, Path(arguments.output))
        _print(_console(silent=arguments.json), _named(written))
    return 0 if found.holds else CLAIM_FAILS


def _verify_run(arguments: argparse.Namespace) -> int:
    from ..evaluate import verify_run
    from ..evaluate.verification.page import print_settings

    given = [
        name
        for name in ("clean", "adversarial", "labels", "eps", "model", "robust_accuracy", "output")
        if getattr(arguments, name) is not None
    ]
    if given:
        option = given[0].replace("_", "-")
        raise UserError(f"--{option}: a run says itself; leave it out, or the run folder")
    settings = verify_run(arguments.run, allow_code=arguments.allow_code)
    if arguments.json:
        print(json.dumps([{"attack": one.attack, **one.found.to_dict()} for one in settings]))
    else:
        print_settings(settings, _console())
    return 0 if all(one.found.holds for one in settings) else CLAIM_FAILS


def _load_model(arguments: argparse.Namespace) -> Any:
    """Return the Foolbox model that ``--model`` names."""
    from ..evaluate import load_evaluation, load_model

    first, *overrides = arguments.model
    path = None
    if "=" in first:
        overrides = arguments.model
    elif first.endswith((".yaml", ".yml")):
        path = first
    else:
        overrides = [f"model.name={first}", *overrides]
    evaluation = load_evaluation(path, overrides, allow_code=arguments.allow_code)
    data = evaluation.data
    model, _ = load_model(evaluation.model, data=data._target_ or data.name)
    return model


def _load_runs(folders: Sequence[str]) -> list[Results]:
    from ..evaluate import Results

    if "" in folders:  # a path that is empty is the working directory
        raise UserError("RUN: is empty; give a run folder")
    return [Results.load(folder) for folder in folders]


def require_extra(modules: Mapping[str, str] = _EXTRA, extra: str = "evaluate") -> None:
    """Raise a UserError that names the modules of an extra that are missing."""
    missing = [
        package for name, package in modules.items() if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise UserError(
            f"this command needs {', '.join(missing)};"
            f" run: pip install 'foolbox-carescale[{extra}]'"
        )


def _named(written: Sequence[Path]) -> str:
    """Return the files of one folder in one line."""
    return f"{written[0].parent}: {', '.join(path.name for path in written)}"


def doctor(_: argparse.Namespace) -> int:
    """Print versions, devices, engines and missing packages."""
    from .doctor import diagnose

    for subject, finding in diagnose():
        print(f"{subject:24} {finding}", flush=True)
    return 0


def schema(arguments: argparse.Namespace) -> int:
    """Print the JSON schema of a config."""
    from ..evaluate.config.schema import json_schema
    from ..evaluate.config.types import EVALUATION
    from ..training.config import TRAINING

    print(json.dumps(json_schema(arguments.of, (EVALUATION, TRAINING)), indent=2))
    return 0


def attacks(arguments: argparse.Namespace) -> int:
    """List the attacks and their arguments."""
    from .. import get_attack, list_attacks

    names = [name for name in list_attacks() if arguments.word.lower() in name.lower()]
    if not names:
        raise UserError(
            f"attacks: no name contains {arguments.word!r};"
            f" {nearest(arguments.word, list_attacks())}"
        )
    for name in names:
        attack: Any = get_attack(name)
        accepted = inspect.signature(attack).parameters.values()
        print(f"{name}({', '.join(map(_described, accepted))})")
        print(f"    {_source(attack)}")
    return 0


def _source(attack: type[Any]) -> str:
    """Return an attack's module, and the paper that its docstring names."""
    module = attack.__module__
    found = re.search(r"(?:Source:|References:)(.+?)(?:\n\n|$)", attack.__doc__ or "", re.DOTALL)
    if found is None:
        return module
    named = " ".join(re.sub(r"\.\. \[#?\w+\]_?", "", found[1]).split())
    return f"{module}; {named}"


def _described(parameter: inspect.Parameter) -> str:
    bare = str(parameter.replace(annotation=parameter.empty, default=parameter.empty))
    return bare if parameter.default is parameter.empty else f"{bare}={parameter.default!r}"


def _split(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split arguments into a file, if the first one is that, and overrides."""

    def is_override(argument: str) -> bool:
        return "=" in argument or argument.startswith("~")

    path = arguments[0] if arguments and not is_override(arguments[0]) else None
    overrides = list(arguments[1:] if path is not None else arguments)
    for argument in overrides:
        if not is_override(argument):
            raise UserError(
                f"{argument!r} is neither an override (key=value) nor the first argument (a file)"
            )
    return path, overrides


def _console(*, silent: bool = False) -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    return Console(width=width, quiet=silent, emoji=False)


def _print(console: Console, *lines: str) -> None:
    """Print lines that hold names of files, which may hold anything."""
    for line in lines:
        console.print(printable(line), highlight=False, markup=False)


@contextlib.contextmanager
def _progress(last: list[Progress], *, silent: bool) -> Iterator[Callable[[Progress], None]]:
    """Keep the last progress, and show it: as bars where stdout is a terminal, else as lines."""
    from ..evaluate.console import print_settings, progress_bars

    bars = not silent and sys.stdout.isatty()
    lines = None if silent else print_settings
    with progress_bars(_console()) if bars else contextlib.nullcontext(lines) as show:

        def on_progress(state: Progress) -> None:
            last[:] = [state]
            if show is not None:
                show(state)

        yield on_progress
