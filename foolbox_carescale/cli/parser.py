"""The arguments of the command line, and the text of its ``--help``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

import foolbox_carescale

from ..evaluate.errors import UserError, printable
from . import commands, evaluation
from .console import WRONG_INPUT, require_extra
from .init import init as initialise

_EVALUATE_HELP = """\
examples:
  carescale evaluate
      the bundled default: a small classifier of digits, attacks of Foolbox and of this package
  carescale evaluate experiments/quickstart.yaml attacks.clip_aware_l2_pgd.steps=20
      a file, and an override
  carescale evaluate samples=20 '~attacks.foolbox_l1_pgd' output=runs/small
      the default with fewer samples, without one of its attacks, in a folder of your choice
  carescale evaluate '~attacks' attacks.mine.name=L2DeepFoolAttack 'epsilons.L2=[0.5,1]'
      an attack of your choice instead of the default ones
  carescale evaluate runs/train
      the model, data and weights that carescale train stored in that folder
  carescale evaluate model=resnet50 data=imagenet_samples attack=imagenet tracking=mlflow
      config groups: bundled files, or files in the folder of your config
  carescale evaluate --multirun attack=pgd,noise seed=0,1 output=runs/sweep
      every combination, each in its own folder, and one report of all
  carescale evaluate 'sweep.model=[resnet18,resnet50]' 'sweep.model.weights=[a.pt,b.pt]'
      pairs: the first model with the first weights; in a file, under the key sweep
  carescale evaluate my.yaml output=runs/mine --shard 0/8
      one of eight shards; all write to one folder, and the same command resumes a shard
  carescale evaluate my.yaml executor=ray executor.address=auto
      on a Ray cluster
  carescale evaluate --print-config
      all keys and their values, as a file to start from
"""


_INIT_HELP = """\
examples:
  carescale init
      asks for the model, the data and the epsilons, and writes evaluation.yaml
  carescale init mine.yaml --model timm/resnet50.a1_in1k --data photos --epsilons 8/255
      asks for nothing
  carescale init mine.yaml --model mymodule.model --data mymodule.data
      functions of your own
"""


_TRAIN_HELP = """\
examples:
  carescale train
      the bundled default: a small classifier of digits, in less than a minute
  carescale train recipe=gaussian-exact recipe.eps=8 patience=5
      on noise of exactly epsilon, until the loss no longer decreases
  carescale train recipe=pgd-at recipe.p=inf recipe.eps=0.03 model=resnet18 data=cifar10
      config groups: model, data, recipe, optimizer, schedule, tracking
  carescale train runs/mine/config.yaml output=runs/mine
      resume an interrupted training in that folder
  carescale train --print-config
      all keys and their values, as a file to start from
"""


_VERIFY_HELP = """\
examples:
  carescale verify --clean x.npy --adversarial x_adv.npy --eps 8/255
      the norms of the perturbations, and whether one exceeds epsilon or leaves the box
  carescale verify --clean r.npz --adversarial r.npz --labels r.npz --eps 0.5 --norm L2 \\
      --model resnet50 --robust-accuracy 0.42 --output check
      arrays of one file, named like the options (or r.npz:name), and a model's predictions
  carescale verify runs/mine
      a run with save=adversarial_examples, checked against its stored results
files: .npy, .npz, .pt (plain tensors), .safetensors, or a folder of pictures
exit code: 0 where all claims hold, 1 where one does not, 2 after wrong input
"""


_PATHS = {
    **dict.fromkeys(("base", "runs", "run"), "RUN"),
    **dict.fromkeys(("config", "file"), "FILE.yaml"),
    **{name: f"--{name}" for name in ("clean", "adversarial", "labels", "output")},
}
"""Arguments that hold paths, of which an empty one would be the working directory."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``carescale``; ``command`` of what it parses is the function to call."""
    parser = _Parser(
        prog="carescale", description="Evaluate adversarial robustness, at exactly epsilon."
    )
    parser.add_argument(
        "--version", action="version", version=f"carescale {foolbox_carescale.__version__}"
    )
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        help="print a script that completes commands and options in this shell",
    )
    subparsers = parser.add_subparsers(required=True, metavar="command")
    _add_evaluate(subparsers)
    _add_init(subparsers)
    _add_train(subparsers)
    _add_report(subparsers)
    _add_compare(subparsers)
    _add_verify(subparsers)
    _add_doctor(subparsers)
    _add_schema(subparsers)
    _add_attacks(subparsers)
    return parser


def _add_evaluate(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="evaluate a model's robustness; store, print and draw the results",
        epilog=_EVALUATE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _take_config(parser)
    parser.add_argument(
        "--multirun",
        action="store_true",
        help="run every combination of the values that overrides list, as in seed=0,1",
    )
    parser.add_argument(
        "--shard", metavar="i/n", help="compute only shard i of n, counted from 0, for job arrays"
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing but warnings and errors"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per run instead of tables"
    )
    parser.set_defaults(command=evaluation.evaluate)


def _add_init(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "init",
        help="write a commented config for your own model and data",
        epilog=_INIT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file",
        nargs="?",
        default="evaluation.yaml",
        metavar="FILE.yaml",
        help="the file to write; default: evaluation.yaml",
    )
    parser.add_argument("--model", help="a name, or your own function as module.function")
    parser.add_argument("--data", help="a folder, your own function, or a name")
    parser.add_argument("--epsilons", help="by norm, such as 'Linf=4/255,8/255 L2=0.5'")
    parser.set_defaults(command=initialise)


def _add_train(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train a model on clean, noisy or attacked images",
        epilog=_TRAIN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _take_config(parser)
    parser.set_defaults(command=commands.train)


def _add_report(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report", help="write the page, tables and figures of runs from their folders"
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder; several are compared")
    parser.add_argument(
        "--output", help="the folder to write to; default: the run's own, or report for several"
    )
    parser.add_argument(
        "--epsilons",
        nargs="+",
        metavar="EPSILON",
        help="print only robust accuracy at these, such as 0.1 8/255 or L2=0.1,0.2, from the norms"
        " that minimum-norm attacks found",
    )
    parser.add_argument(
        "--headline",
        nargs="+",
        metavar="NORM=EPSILON",
        help="the epsilons of the page's first screen, such as Linf=8/255 or L2=0.25,0.5, instead"
        " of the runs' report.epsilons",
    )
    parser.add_argument(
        "--format",
        choices=("latex", "markdown", "csv", "json"),
        help="print one table of robust accuracies instead of writing a report",
    )
    parser.add_argument(
        "--attacks", nargs="+", metavar="NAME", help="with --format: show only these, in this order"
    )
    parser.set_defaults(command=commands.report)


def _add_compare(subparsers: Any) -> None:
    parser = subparsers.add_parser("compare", help="print how runs differ")
    parser.add_argument("base", metavar="RUN", help="the run folder to compare with")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.set_defaults(command=commands.compare)


def _add_verify(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "verify",
        help="check adversarial examples: norms, box, predictions",
        epilog=_VERIFY_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="a run folder with adversarial examples, instead of files",
    )
    parser.add_argument("--clean", metavar="FILE", help="the clean images")
    parser.add_argument("--adversarial", metavar="FILE", help="the same images, perturbed")
    parser.add_argument("--labels", metavar="FILE", help="their classes")
    parser.add_argument("--eps", help="the claim: no norm is above this, such as 0.5 or 8/255")
    parser.add_argument(
        "--norm", default="Linf", help="norm of the claim: L0, L1, L2 or Linf (default)"
    )
    parser.add_argument(
        "--model",
        nargs="+",
        metavar="NAME | FILE.yaml | key=value",
        help="the model to run: a name or a config, then overrides, such as model.weights=w.pt",
    )
    parser.add_argument(
        "--robust-accuracy",
        type=float,
        metavar="SHARE",
        help="the claim: the share of images that the model classifies correctly, clean and"
        " perturbed",
    )
    parser.add_argument("--output", metavar="FOLDER", help="write a page, a CSV and JSON there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--allow-code",
        action="store_true",
        help="accept a model that can run any program: see docs/security.md",
    )
    parser.set_defaults(command=commands.verify)


def _add_doctor(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "doctor", help="print versions, devices, engines and missing packages"
    )
    parser.set_defaults(command=commands.doctor)


def _add_schema(subparsers: Any) -> None:
    parser = subparsers.add_parser("schema", help="print the JSON schema of a config, for editors")
    parser.add_argument(
        "of",
        nargs="?",
        metavar="COMMAND | GROUP",
        help="evaluate (the default), train, or a config group for its files, such as model",
    )
    parser.set_defaults(command=commands.schema)


def _add_attacks(subparsers: Any) -> None:
    parser = subparsers.add_parser("attacks", help="list the attacks and their arguments")
    parser.add_argument("word", nargs="?", default="", help="list only names that contain this")
    parser.set_defaults(command=commands.attacks)


def _take_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", nargs="*", metavar="FILE.yaml | key=value", help="a file first, then overrides"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved config and stop"
    )
    parser.add_argument(
        "--allow-code",
        action="store_true",
        help="accept a config that can run any program: see docs/security.md",
    )
    parser.add_argument(
        "--debug", action="store_true", help="also show the traceback of an error in your own code"
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; overrides and runs may stand on both sides of an option."""
    parser = make_parser()
    if not arguments:
        parser.print_help()
        parser.exit()
    parsed, rest = parser.parse_known_args(arguments)
    # argparse ends a list at the first option, and does not know what follows
    listed = [name for name in ("config", "runs") if hasattr(parsed, name)]
    unknown = [word for word in rest if word.startswith("-") or not listed]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    for name in listed:
        getattr(parsed, name).extend(rest)
    for name, shown in _PATHS.items():
        value = getattr(parsed, name, None)
        if value == "" or (isinstance(value, list) and "" in value):
            raise UserError(f"{shown}: is empty; give a path, or leave it out")
    return parsed


class _PrintCompletion(argparse.Action):
    """Print the completion script that shtab makes; positional arguments complete to files."""

    def __call__(self, parser: Any, _: Any, shell: Any, option: str | None = None) -> None:
        require_extra({"shtab": "shtab"})
        import shtab

        (subparsers,) = parser._subparsers._group_actions
        for command in subparsers.choices.values():
            for action in command._actions:
                if action.dest in ("config", "base", "runs"):
                    action.complete = shtab.FILE
        print(shtab.complete(parser, shell))
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """Report an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        message = printable(" ".join(message.split()))
        self.exit(WRONG_INPUT, f"carescale: error: {message}; see {self.prog} --help\n")
