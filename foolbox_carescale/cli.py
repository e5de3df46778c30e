"""The command line: ``carescale evaluate``, ``train``, ``report``, ``compare``, ``attacks``, ..."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import foolbox_carescale
from foolbox_carescale.evaluate.errors import EvaluationWarning, StorageError, UserError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from foolbox_carescale.evaluate import Progress, Results

WRONG_INPUT, CANNOT_STORE, INTERRUPTED, TERMINATED = 2, 3, 130, 143
"""Exit codes. After the last three the same command goes on where the run stopped."""

_EXTRA = {
    "hydra": "hydra-core",
    "matplotlib": "matplotlib",
    "pyarrow": "pyarrow",
    "rich": "rich",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "torchvision": "torchvision",
}
"""Modules of the evaluate extra, and the packages that bring them."""

_PLAIN_WIDTH = 110
"""Columns of a table that is written to a file or a pipe."""

_EVALUATE_HELP = """\
examples:
  carescale evaluate
      the embedded default: a small classifier of digits, Foolbox's attacks beside ours
  carescale evaluate experiments/quickstart.yaml model.name=resnet18 attacks.ours.steps=20
      a file, and overrides of what is in it
  carescale evaluate samples=20 '~attacks.foolbox_l1_pgd' output=runs/small
      the default with fewer samples, without one of its attacks, into a folder of your choice
  carescale evaluate '~attacks' attacks.mine.name=L2DeepFoolAttack 'epsilons.L2=[0.5,1]'
      an attack of your choice instead of the default ones
  carescale evaluate model=resnet50 data=imagenet_samples attack=imagenet tracking=mlflow
      config groups: files that ship with the package, or lie beside yours
  carescale evaluate --multirun attack=pgd,noise seed=0,1 output=runs/sweep
      every combination, each in its own folder, and one report of all
  carescale evaluate my.yaml output=runs/mine --shard 0/8
      one of eight parts; all write into one folder, and running any again completes it
  carescale evaluate my.yaml executor=ray executor.address=auto
      on a Ray cluster
  carescale evaluate --print-config
      all keys and their values, as a file to start from
"""


_TRAIN_HELP = """\
examples:
  carescale train
      the embedded default: a small classifier of digits, in less than a minute
  carescale train recipe=gaussian-exact recipe.eps=8 patience=5
      on noise of exactly epsilon, until the loss falls no more
  carescale train recipe=pgd-at recipe.p=inf recipe.eps=0.03 model=resnet18 data=cifar10
      config groups: model, data, recipe, optimizer, schedule, tracking
  carescale train output=runs/mine
      goes on with the training in that folder, if it was interrupted
  carescale train --print-config
      all keys and their values, as a file to start from
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; None takes the process's.

    Returns:
        The exit code: 0, 2 after wrong input, 3 if results cannot be stored, 130 after Ctrl-C,
        143 after SIGTERM.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parsed = _parser().parse_args(given)
    parsed.given = given
    try:
        with _warnings_in_one_line():
            command: Callable[[argparse.Namespace], int] = parsed.command
            return command(parsed)
    except UserError as error:
        print(f"carescale: error: {error}", file=sys.stderr)
        return CANNOT_STORE if isinstance(error, StorageError) else WRONG_INPUT
    except BrokenPipeError:  # the reader, such as head, has seen enough
        sys.stdout = None
        return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_INPUT, f"carescale: error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="carescale", description="Measure adversarial robustness, at exactly epsilon."
    )
    parser.add_argument(
        "--version", action="version", version=f"carescale {foolbox_carescale.__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    evaluate = commands.add_parser(
        "evaluate",
        help="attack a model and store, print and draw what it withstands",
        epilog=_EVALUATE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate.add_argument(
        "config", nargs="*", metavar="FILE.yaml | key=value", help="a file first, then overrides"
    )
    evaluate.add_argument(
        "--print-config", action="store_true", help="print the resolved config and stop"
    )
    evaluate.add_argument(
        "--multirun",
        action="store_true",
        help="run every combination of the values that overrides list, as in seed=0,1",
    )
    evaluate.add_argument(
        "--shard", metavar="i/n", help="compute part i of n only, counted from 0, for job arrays"
    )
    evaluate.add_argument(
        "--quiet", action="store_true", help="print nothing but warnings and errors"
    )
    evaluate.add_argument(
        "--json", action="store_true", help="print one JSON object per run instead of tables"
    )
    evaluate.set_defaults(command=_evaluate)
    train = commands.add_parser(
        "train",
        help="train a model on clean, noisy or attacked images",
        epilog=_TRAIN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument(
        "config", nargs="*", metavar="FILE.yaml | key=value", help="a file first, then overrides"
    )
    train.add_argument(
        "--print-config", action="store_true", help="print the resolved config and stop"
    )
    train.set_defaults(command=_train)
    report = commands.add_parser(
        "report", help="write the page, tables and figures of runs, from their folders"
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="a run folder; several: compared")
    report.add_argument(
        "--output", help="the folder to write to; default: that of a single run, else report"
    )
    report.set_defaults(command=_report)
    compare = commands.add_parser("compare", help="print what runs differ in, from their folders")
    compare.add_argument("base", metavar="RUN", help="the run folder to compare with")
    compare.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    compare.set_defaults(command=_compare)
    doctor = commands.add_parser(
        "doctor", help="print versions, devices, engines and what is not installed"
    )
    doctor.set_defaults(command=_doctor)
    schema = commands.add_parser("schema", help="print the JSON schema of a config, for editors")
    schema.add_argument(
        "of",
        nargs="?",
        metavar="COMMAND | GROUP",
        help="evaluate (the default), train, or a config group for its files, such as model",
    )
    schema.set_defaults(command=_schema)
    attacks = commands.add_parser("attacks", help="list the attacks and their arguments")
    attacks.add_argument("word", nargs="?", default="", help="only names that contain this")
    attacks.set_defaults(command=_attacks)
    return parser


def _evaluate(arguments: argparse.Namespace) -> int:
    _require_extra()
    from foolbox_carescale.evaluate import load_evaluation, load_sweep

    path, overrides = _split(arguments.config)
    if arguments.shard is not None:
        overrides.append(f"shard={arguments.shard}")
    load = load_sweep if arguments.multirun else lambda *of: [load_evaluation(*of)]
    evaluations = load(path, overrides)
    if arguments.print_config:
        print("---\n".join(evaluation.to_yaml() for evaluation in evaluations), end="")
        return 0
    # two busy-waiting threads on a core that another process uses wait for each other's time
    # slices: 6 to 90 times slower; must be set before torch loads its OpenMP library
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # imports torch, which takes seconds: only after what is wrong with the config was said
    from foolbox_carescale.evaluate import evaluate, print_report, write_report
    from foolbox_carescale.evaluate.console import Terminated, terminable, to_json

    silent = arguments.quiet or arguments.json
    console = _console(silent=silent)
    runs = []
    for evaluation in evaluations:
        last: list[Progress] = []
        try:
            with terminable(), _progress(last, silent=silent) as on_progress:
                results = evaluate(evaluation, on_progress=on_progress)
        except KeyboardInterrupt as stopped:
            _say_how_to_go_on(arguments, last)
            return TERMINATED if isinstance(stopped, Terminated) else INTERRUPTED
        if arguments.multirun:
            console.print(f"\n{evaluation.output}", highlight=False, markup=False)
        written = []
        if results.complete:
            print_report(results, console)
            written = write_report(results)
            console.print(_named(written), highlight=False)
            runs.append(results)
        else:
            console.print(
                f"{results.folder}: shard {evaluation.shard} is done, others are not; when all"
                f" are: carescale report {results.folder}",
                highlight=False,
            )
        if arguments.json:
            print(to_json(results, last[-1], written), flush=True)
    if len(runs) > 1:
        _summarise(runs, console)
    return 0


def _say_how_to_go_on(arguments: argparse.Namespace, last: Sequence[Progress]) -> None:
    from foolbox_carescale.evaluate.console import command_to_go_on

    if not last:
        print("carescale: interrupted before anything was computed", file=sys.stderr)
        return
    folder = last[-1].folder
    command = command_to_go_on(arguments.given, folder.parent if arguments.multirun else folder)
    print(
        f"carescale: interrupted; {last[-1].done} of {last[-1].total} units are in {folder};"
        f" go on with: {command}",
        file=sys.stderr,
    )


def _summarise(runs: Sequence[Results], console: Console) -> None:
    """What the runs of a sweep differ in, on the console and on one page beside them."""
    from foolbox_carescale.evaluate import print_comparison, write_report

    console.print(f"\n{len(runs)} runs", style="bold")
    # a sweep over attacks or epsilons has no cell that two runs share
    with contextlib.suppress(UserError):
        print_comparison(runs, console)
    written = write_report(*runs, output=runs[0].folder.parent)
    console.print(_named(written), highlight=False)


def _train(arguments: argparse.Namespace) -> int:
    _require_extra({**_EXTRA, "lightning_fabric": "lightning-fabric"}, "train")
    from foolbox_carescale.training.config import load_training

    training = load_training(*_split(arguments.config))
    if arguments.print_config:
        print(training.to_yaml(), end="")
        return 0
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in _evaluate
    from foolbox_carescale.training.trainer import train

    try:
        trained = train(training, progress=sys.stdout.isatty())
    except KeyboardInterrupt as interrupt:
        print(f"carescale: interrupted; {interrupt}", file=sys.stderr)
        return INTERRUPTED
    if os.environ.get("RANK", "0") != "0":  # one of torchrun's processes speaks
        return 0
    about, last = trained.about, trained.epochs[-1]
    _console().print(
        f"{about['architecture']}, {about['recipe']['name']}: epoch {about['epoch']} of"
        f" {last.epoch}, held out {about['accuracy']:.3f}, perturbed"
        f" {about['perturbed_accuracy']:.3f}\n{trained.weights}",
        highlight=False,
        markup=False,
    )
    return 0


def _report(arguments: argparse.Namespace) -> int:
    _require_extra()
    from foolbox_carescale.evaluate import Results, print_report, write_report

    runs = [Results.load(run) for run in arguments.runs]
    output = arguments.output or (None if len(runs) == 1 else "report")
    console = _console()
    for results in runs:
        print_report(results, console)
    console.print(_named(write_report(*runs, output=output)), highlight=False)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    _require_extra()
    from foolbox_carescale.evaluate import Results, print_comparison

    runs = [Results.load(run) for run in (arguments.base, *arguments.runs)]
    print_comparison(runs, _console())
    return 0


def _named(written: Sequence[Path]) -> str:
    """Files of one folder, in one line."""
    return f"{written[0].parent}: {', '.join(path.name for path in written)}"


def _doctor(_: argparse.Namespace) -> int:
    from foolbox_carescale.doctor import diagnose

    for subject, finding in diagnose():
        print(f"{subject:24} {finding}", flush=True)
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from foolbox_carescale.evaluate.schema import EVALUATE, json_schema
    from foolbox_carescale.training.schema import TRAIN

    print(json.dumps(json_schema(arguments.of, (EVALUATE, TRAIN)), indent=2))
    return 0


def _attacks(arguments: argparse.Namespace) -> int:
    from foolbox_carescale import get_attack, list_attacks

    for name in list_attacks():
        if arguments.word.lower() in name.lower():
            attack: Any = get_attack(name)
            accepted = inspect.signature(attack).parameters.values()
            print(f"{name}({', '.join(map(_described, accepted))})")
            print(f"    {_source(attack)}")
    return 0


def _source(attack: type[Any]) -> str:
    """Whose code it is, and the paper that its docstring names."""
    whose = "ours" if attack.__module__.startswith("foolbox_carescale.") else "Foolbox's"
    found = re.search(r"(?:Source:|References:)(.+?)(?:\n\n|$)", attack.__doc__ or "", re.DOTALL)
    if found is None:
        return whose
    named = " ".join(re.sub(r"\.\. \[#\w+\]_?", "", found[1]).split())
    return f"{whose}; {named}"


def _described(parameter: inspect.Parameter) -> str:
    bare = str(parameter.replace(annotation=parameter.empty, default=parameter.empty))
    return bare if parameter.default is parameter.empty else f"{bare}={parameter.default!r}"


def _split(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """A file, if the first argument is one, and overrides."""

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


def _require_extra(modules: Mapping[str, str] = _EXTRA, extra: str = "evaluate") -> None:
    missing = [
        package for name, package in modules.items() if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise UserError(
            f"this command needs {', '.join(missing)};"
            f" run: pip install 'foolbox-carescale[{extra}]'"
        )


def _console(*, silent: bool = False) -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH, quiet=silent)


@contextlib.contextmanager
def _progress(last: list[Progress], *, silent: bool) -> Iterator[Callable[[Progress], None]]:
    """Keep the last progress, and show it, where stdout is a terminal."""
    from foolbox_carescale.evaluate.console import progress_bars

    shown = contextlib.nullcontext() if silent or not sys.stdout.isatty() else None
    with shown or progress_bars(_console()) as show:

        def on_progress(state: Progress) -> None:
            last[:] = [state]
            if show is not None:
                show(state)

        yield on_progress


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show this package's warnings to its users as they are: without a place in the code."""
    with warnings.catch_warnings():
        shown = warnings.showwarning
        said: set[str] = set()

        def show(message: Any, category: Any, *rest: Any) -> None:
            if issubclass(category, EvaluationWarning):
                if str(message) in said:
                    return
                said.add(str(message))
                print(f"carescale: warning: {message}", file=sys.stderr)
            else:
                shown(message, category, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        warnings.simplefilter("always", EvaluationWarning)
        yield
