"""Several runs that differ in their overrides, each in a folder of its own below one."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import RangeSweep
from hydra.errors import HydraException

from ..errors import UserError
from .compose import SWEEP, compose_evaluation, parse_override, read_content
from .types import Evaluation

MOST_RUNS = 10_000
"""Runs of a sweep; the configs alone of so many are read for minutes."""

_PREFIX = f"{SWEEP}."

_NO_TEXTS = ("null", "true", "false", "nan", "inf")
"""What the grammar of overrides takes for values of other types."""

LONGEST_NAME = 100
"""Characters of a folder's name; file systems take 255, and paths have several."""


def load_sweep(
    path: str | Path | None, overrides: Sequence[str], *, allow_code: bool = False
) -> list[Evaluation]:
    """Return the runs of a sweep: every combination of the values that its overrides hold.

    The lists of a file's key ``sweep``, and of overrides such as ``sweep.seed=[0,1]``, are not
    combined with each other but zipped: the first run takes the first value of each.

    The run with ``model=resnet18 seed=0`` goes into ``output/model=resnet18,seed=0``, so that a
    sweep which is started again, also with more values, computes only what is missing. Without
    ``output`` it goes below ``runs``, into a folder named for the time.

    Args:
        path: As in ``load_evaluation``.
        overrides: As there; ``seed=0,1``, ``seed=range(3)`` and ``model=choice(resnet18,swin_t)``
            hold several values, in Hydra's grammar. The last one varies fastest.
        allow_code: As in ``load_evaluation``.

    Raises:
        UserError: As in ``load_evaluation``, of any of the runs.
    """
    new = Path("runs") / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S_sweep")
    given = [one for one in overrides if not one.startswith(_PREFIX)]
    values = [_values(override) for override in given]
    zipped = _zipped(path, [one for one in overrides if one.startswith(_PREFIX)], given)
    if len(zipped) * math.prod(map(len, values)) > MOST_RUNS:
        raise UserError(f"the sweep holds more than {MOST_RUNS} runs; give fewer values")
    runs = []
    for (of_file, asked), choice in itertools.product(zipped, itertools.product(*values)):
        every = [*asked, *choice]
        evaluation = compose_evaluation(path, every, of_file, allow_code=allow_code)
        swept = [c for c, of in zip(choice, values, strict=True) if len(of) > 1]
        folder = Path(evaluation.output or new) / _folder_name([*of_file, *asked, *swept])
        runs.append(dataclasses.replace(evaluation, output=str(folder)))
    if len({run.output for run in runs}) < len(runs):
        raise UserError("the sweep holds a run twice; give each value once")
    return runs


def is_sweep(path: str | Path | None, overrides: Sequence[str]) -> bool:
    """Return whether a file or overrides have lists to be zipped."""
    if any(override.startswith(_PREFIX) for override in overrides):
        return True
    return path is not None and read_content(Path(path)).get(SWEEP) is not None


def _zipped(
    path: str | Path | None, overrides: Sequence[str], given: Sequence[str]
) -> list[tuple[list[str], list[str]]]:
    """Return the overrides of each run: those of the file's lists, and of the command line's."""
    of_file = (read_content(Path(path)).get(SWEEP) if path is not None else None) or {}
    if not isinstance(of_file, dict):
        raise UserError(f"{path}: sweep: {of_file!r} is not a mapping; write keys with lists")
    asked = dict(_listed(override) for override in overrides)
    lists = {**of_file, **asked}
    for key, values in lists.items():
        if not isinstance(values, list) or not values:
            raise UserError(
                f"sweep.{key}: {values!r} is no list of values; write one for each run, as in [0,1]"
            )
        if key == "output":
            raise UserError("sweep.output: give one folder as output, below which the runs go")
        if any(one.partition("=")[0] == key for one in given):
            raise UserError(f"sweep.{key}: {key} is set beside it; leave one of them out")
    if len({len(values) for values in lists.values()}) > 1:
        counts = ", ".join(f"{key} has {len(values)}" for key, values in lists.items())
        raise UserError(f"sweep: its lists are zipped, but {counts}; give each as many values")
    runs = len(next(iter(lists.values()), [None]))
    return [
        (
            [_override(k, values[i]) for k, values in lists.items() if k not in asked],
            [_override(k, values[i]) for k, values in asked.items()],
        )
        for i in range(runs)
    ]


def _listed(override: str) -> tuple[str, Any]:
    """Return the key and the list of an override such as ``sweep.seed=[0,1]``."""
    try:
        parsed = OverridesParser.create().parse_override(override.removeprefix(_PREFIX))
    except HydraException as error:
        raise UserError(
            f"{override!r} does not parse; write sweep.key=[a,b], with quotes around a text that"
            " holds more than letters, digits, _ . / and -"
        ) from error
    return parsed.key_or_group, parsed.value()


def _override(key: str, value: Any) -> str:
    return f"{key}={_in_grammar(key, value)}"


def _in_grammar(key: str, value: Any) -> str:
    """Return a value as an override has it."""
    if isinstance(value, list):
        return f"[{','.join(_in_grammar(key, item) for item in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value.lower() not in _NO_TEXTS
        return value if plain else "'" + value.replace("'", r"\'") + "'"
    if isinstance(value, (int, float)):
        return repr(value)
    raise UserError(f"sweep.{key}: {value!r} is no number, text or list; give keys of their own")


def _values(override: str) -> list[str]:
    parsed = parse_override(override)
    if not parsed.is_sweep_override():
        return [override]
    if parsed.key_or_group == "output":
        raise UserError(f"{override}: give one folder, below which the runs go")
    values: list[Any] = []
    # an interval, a glob, or a range whose step is 0
    with contextlib.suppress(HydraException, ArithmeticError, ValueError):
        found = parsed.value()
        if isinstance(found, RangeSweep):
            values = [*itertools.islice(found.range(), MOST_RUNS + 1)]
        if len(values) <= MOST_RUNS:  # to shuffle a range, Hydra lists it, however long it is
            values = [*parsed.sweep_string_iterator()]
    if not values:
        raise UserError(f"{override}: has no values to list; write them, as 0,1 or range(3)")
    return [f"{parsed.get_key_element()}={value}" for value in values]


def _folder_name(swept: Sequence[str]) -> str:
    """Return what tells a run from the others, as far as file systems allow."""
    full = ",".join(swept) or "run"
    name = re.sub(r"[^\w.,=+-]", "_", full)
    if name == full and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.blake2b(os.fsencode(full), digest_size=4).hexdigest()
    return f"{name[: LONGEST_NAME - len(digest) - 1]}-{digest}"
