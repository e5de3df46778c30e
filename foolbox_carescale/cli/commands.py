"""The commands: each takes parsed arguments and returns an exit code."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..evaluate.errors import UserError, nearest
from .console import (
    CLAIM_FAILS,
    files_in_one_line,
    make_console,
    print_lines,
    require_extra,
    split_config,
)

if TYPE_CHECKING:
    from ..evaluate import Results


def train(arguments: argparse.Namespace) -> int:
    """Train a model on clean, noisy or attacked images."""
    require_extra()
    from ..training.config import load_training

    training = load_training(*split_config(arguments.config), allow_code=arguments.allow_code)
    if arguments.print_config:
        print(training.to_yaml(), end="")
        return 0
    require_extra({"lightning_fabric": "lightning-fabric"}, "train")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in evaluate
    from ..training.trainer import train

    trained = train(training, progress=sys.stdout.isatty())
    if os.environ.get("RANK", "0") != "0":  # one of torchrun's processes speaks
        return 0
    about, last = trained.about, trained.epochs[-1]
    own = training.model._target_ or training.data._target_
    flag = " --allow-code" if own else ""
    print_lines(
        make_console(),
        f"{about['architecture']}, {about['recipe']['name']}: epoch {about['epoch']} of"
        f" {last.epoch}, held out {about['accuracy']:.3f}, perturbed"
        f" {about['perturbed_accuracy']:.3f}",
        str(trained.weights),
        f"evaluate it with: carescale evaluate {shlex.quote(str(trained.folder))}{flag}",
    )
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write the page, tables and figures of runs, or print robust accuracy at other epsilons."""
    require_extra()
    from ..evaluate import print_report, write_report
    from ..evaluate.report.console import print_epsilons
    from ..evaluate.report.curve import parse_epsilons

    epsilons = parse_epsilons(arguments.epsilons, "--epsilons") if arguments.epsilons else None
    headline = parse_epsilons(arguments.headline, "--headline") if arguments.headline else {}
    if not isinstance(headline, Mapping):
        raise UserError(f"--headline: {arguments.headline[0]} names no norm; write Linf=8/255")
    runs = _load_runs(arguments.runs)
    output = arguments.output or (None if len(runs) == 1 else "report")
    console = make_console()
    if arguments.format is not None:
        if headline:
            raise UserError("--headline: is for the page; with --format, give --epsilons")
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
    print_lines(console, files_in_one_line(write_report(*runs, output=output, epsilons=headline)))
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Print how runs differ."""
    require_extra()
    from ..evaluate import print_comparison

    print_comparison(_load_runs([arguments.base, *arguments.runs]), make_console())
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
        print_verification(found, make_console())
    if arguments.output is not None:
        written = write_verification(found, clean, adversarial, Path(arguments.output))
        print_lines(make_console(silent=arguments.json), files_in_one_line(written))
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
        if "=" in arguments.run:
            raise UserError(f"{arguments.run}: is an override; write --model NAME {arguments.run}")
        option = given[0].replace("_", "-")
        raise UserError(f"--{option}: a run says itself; leave it out, or the run folder")
    settings = verify_run(arguments.run, allow_code=arguments.allow_code)
    if arguments.json:
        print(json.dumps([{"attack": one.attack, **one.found.to_dict()} for one in settings]))
    else:
        print_settings(settings, make_console())
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
    # what has no weights for the images would be untrained: ImageNet's, unless they are bundled
    classes = 1000 if evaluation.model.weights == "auto" else 10
    model, _ = load_model(evaluation.model, data=data._target_ or data.name, num_classes=classes)
    return model


def _load_runs(folders: Sequence[str]) -> list[Results]:
    from ..evaluate import Results

    return [Results.load(folder) for folder in folders]


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
