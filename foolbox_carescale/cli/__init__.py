"""The command line: ``carescale evaluate``, ``train``, ``report``, ``compare``, ``attacks``, ..."""

from __future__ import annotations

import argparse
import contextlib
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..evaluate.errors import LOGGER, EvaluationWarning, StorageError, UserError, printable
from .console import CANNOT_STORE, INTERRUPTED, WRONG_INPUT
from .output import guarded
from .parser import parse

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; None takes the process's.

    Returns:
        The exit code: 0, 2 after wrong input, 3 if results cannot be stored or printed, 130 after
        Ctrl-C, 143 after SIGTERM.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with guarded() as output:
        code = _run(given)
    return CANNOT_STORE if output.full and code == 0 else code


def _run(given: list[str]) -> int:
    try:
        parsed = parse(given)
        parsed.given = given
        with _warnings_in_one_line():
            command: Callable[[argparse.Namespace], int] = parsed.command
            return command(parsed)
    except UserError as error:
        if "--debug" in given:
            traceback.print_exception(error)
        for line in str(error).split("\n"):
            print(f"carescale: error: {line}", file=sys.stderr)
        return CANNOT_STORE if isinstance(error, StorageError) else WRONG_INPUT
    except KeyboardInterrupt as interrupt:  # also while PyTorch is imported
        how = f"; {printable(str(interrupt))}" if interrupt.args else ""
        print(f"carescale: interrupted{how}", file=sys.stderr)
        return INTERRUPTED


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show this package's warnings to its users as they are: once, without a place in the code."""
    propagates = LOGGER.propagate
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        # an attack of Foolbox that logs gives the root logger a handler, which prints them again
        LOGGER.propagate = False
        stack.callback(setattr, LOGGER, "propagate", propagates)
        shown = warnings.showwarning
        printed: set[str] = set()

        def show(message: Any, category: Any, *rest: Any) -> None:
            if issubclass(category, EvaluationWarning):
                if str(message) in printed:
                    return
                printed.add(str(message))
                print(f"carescale: warning: {message}", file=sys.stderr)
            else:
                shown(message, category, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        warnings.simplefilter("always", EvaluationWarning)
        yield
