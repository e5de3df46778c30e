"""The command ``carescale init``: a config for one's own model and data, from three questions."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from pathlib import Path

from ..evaluate.errors import UserError, nearest, printable
from .console import require_extra, split_config

NORMS = ("L1", "L2", "Linf")
"""Norms for which the file has attacks."""

_QUESTIONS = {
    "model": "Model, by name (resnet50, timm/..., hf/...) or your own function (module.function)",
    "data": "Data, a folder with one folder of images per class, your own function, or a name"
    " (cifar10, digits)",
    "epsilons": "Epsilons by norm, for pixels in [0, 1]",
}
_DEFAULTS = {"epsilons": "Linf=8/255 L2=0.5"}

_FUNCTION = r"[^\W\d]\w*(\.[^\W\d]\w*)+"

_WITHOUT_FOLDER = re.compile("digits|.*_samples")

_FILE = """\
# Written by carescale init. Run it with: carescale evaluate {path}
# All keys with their values: carescale evaluate {path} --print-config
{defaults}
model:
{model}
{data}
epsilons: # by norm; pixels are in [0, 1]
{epsilons}

attacks: # by names of your choice; carescale attacks lists the attacks and their arguments
{attacks}

samples: 100 # at most, drawn at random; null takes all
batch_size: 50 # images that are attacked at once: fewer need less memory
# device: cuda:0 # without it, a GPU where there is one
# output: runs/mine # without it, a new folder for each run; with it, the same command resumes
"""


def init(arguments: argparse.Namespace) -> int:
    """Write a commented config for one's own model and data."""
    require_extra()
    path = Path(arguments.file)
    if os.path.lexists(path):
        raise UserError(f"init: {path} exists; give another name: carescale init FILE.yaml")
    if split_config([arguments.file])[0] is None:
        raise UserError(
            f"init: {path} would be read as an override; give a name without = that does not begin"
            " with ~"
        )
    answers = {name: _answer(name, getattr(arguments, name)) for name in _QUESTIONS}
    text = _content(path, **answers)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"init: {path} cannot be written ({error.strerror})") from error
    _check(path)
    shown = shlex.quote(printable(str(path)))
    print(f"{printable(str(path))}: edit it, then run: carescale evaluate {shown}")
    return 0


def _answer(name: str, given: str | None) -> str:
    """Return what the command line says, or else what the user answers."""
    default = _DEFAULTS.get(name, "")
    if given is None and sys.stdin is not None and sys.stdin.isatty():
        shown = f" [{default}]" if default else ""
        try:
            given = input(f"{_QUESTIONS[name]}{shown}: ")
        except EOFError:
            print()
    if answer := (given or "").strip() or default:
        return answer
    raise UserError(f"--{name}: is missing; give --model and --data, or answer on a terminal")


def _content(path: Path, model: str, data: str, epsilons: str) -> str:
    by_norm = _epsilons(epsilons)
    defaults, data_lines = _data(data)
    return _FILE.format(
        path=printable(str(path)),
        defaults=defaults,
        model=_model(model),
        data=data_lines,
        epsilons="\n".join(f"  {norm}: [{', '.join(by_norm[norm])}]" for norm in by_norm),
        attacks="\n".join(
            f"  {norm.lower()}_pgd: {{ name: {norm}ClipAwarePGD, steps: 40 }}\n"
            f"  {norm.lower()}_minimum_norm: {{ name: {norm}ClipAwareMinimumNorm, steps: 100 }}"
            " # one run for every epsilon"
            for norm in by_norm
        ),
    )


def _model(answer: str) -> str:
    if re.fullmatch(_FUNCTION, answer):
        return (
            f"  _target_: {answer} # returns a torch.nn.Module; keys beside it are its arguments\n"
            "  # weights: mine.pth # a state dict for it\n"
            "  # mean: [0.485, 0.456, 0.406] # if it was trained on normalised images, with std\n"
            "  # std: [0.229, 0.224, 0.225]"
        )
    return (
        f"  name: {_quoted(answer)}\n"
        "  # weights: mine.pth # a state dict of your own; without it, those of the name"
    )


def _data(answer: str) -> tuple[str, str]:
    """Return the lines of the defaults list, and those of the data."""
    from ..evaluate.config.compose import options

    groups = [name for name in options("data") if name not in ("folder", "webdataset")]
    if answer in groups:
        lies = f"data:\n  root: {answer if answer == 'imagenet' else 'data'} # where it lies\n"
        chosen = f"defaults:\n  - data: {answer}\n"
        return chosen, "" if _WITHOUT_FOLDER.fullmatch(answer) else lies
    size = "  # size: 224 # pixels; without it, what the weights expect, or images as they are\n"
    if answer.startswith("hf/"):
        return "", f"data:\n  name: {_quoted(answer)}\n{size}"
    if os.path.isdir(os.path.expanduser(answer)) or "/" in answer or os.sep in answer:
        tars = re.search(r"\.tar\b", answer)
        name = "webdataset # tar files" if tars else "folder # one folder of images per class"
        return "", f"data:\n  name: {name}\n  root: {_quoted(answer)}\n{size}"
    if re.fullmatch(_FUNCTION, answer):
        about = "# returns images in [0, 1] and labels, or a data set"
        return "", f"data:\n  _target_: {answer} {about}\n"
    raise UserError(
        f"--data: there is no folder {answer!r}, nor data of this name; {nearest(answer, groups)}"
    )


def _epsilons(answer: str) -> dict[str, list[str]]:
    """Return epsilons by norm, as they were written."""
    from ..evaluate.report.curve import parse_epsilons

    words = re.sub(r"\s*,\s*", ",", answer).split()
    if isinstance(parse_epsilons(words), list):
        words = [f"Linf={','.join(words)}"]
    found = {norm: values.split(",") for norm, _, values in (w.partition("=") for w in words)}
    for norm in found:
        if norm not in NORMS:
            raise UserError(f"--epsilons: {norm!r} is not a norm; {nearest(norm, NORMS)}")
    return found


def _check(path: Path) -> None:
    """Remove a file that ``carescale evaluate`` would refuse, and raise its error."""
    from ..evaluate import load_evaluation

    try:
        load_evaluation(path)
    except UserError:
        path.unlink()
        raise


def _quoted(text: str) -> str:
    """Return text as YAML that OmegaConf reads as it is."""
    from ..evaluate.config.validation import escape_interpolation

    plain = re.fullmatch(r"[A-Za-z_./][\w./-]*[A-Za-z_/]\w*", text)
    return text if plain else json.dumps(escape_interpolation(text), ensure_ascii=False)
