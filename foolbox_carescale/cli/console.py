"""What all commands share: exit codes, the console, extras, and the arguments of a config."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..evaluate.errors import UserError, printable

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

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


def files_in_one_line(written: Sequence[Path]) -> str:
    """Return the files of one folder in one line."""
    return f"{written[0].parent}: {', '.join(path.name for path in written)}"


def split_config(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
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


def make_console(*, silent: bool = False) -> Console:
    """Return a console of fixed width where stdout is no terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    return Console(width=width, quiet=silent, emoji=False)


def print_lines(console: Console, *lines: str) -> None:
    """Print lines that hold names of files, which may hold anything."""
    for line in lines:
        console.print(printable(line), highlight=False, markup=False)
