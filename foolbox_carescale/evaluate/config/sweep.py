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

from hydra.core.override_parser.types import RangeSweep
from hydra.errors import HydraException

from ..errors import UserError
from .compose import load_evaluation, parse_override
from .types import Evaluation

MOST_RUNS = 10_000
"""Runs of a sweep; the configs alone of so many are read for minutes."""

LONGEST_NAME = 100
"""Characters of a folder's name; file systems take 255, and paths have several."""


def load_sweep(
    path: str | Path | None, overrides: Sequence[str], *, allow_code: bool = False
) -> list[Evaluation]:
    """Return the runs of a sweep: every combination of the values that its overrides hold.

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
    values = [_values(override) for override in overrides]
    if math.prod(map(len, values)) > MOST_RUNS:
        raise UserError(f"the sweep holds more than {MOST_RUNS} runs; give fewer values")
    runs = []
    for choice in itertools.product(*values):
        evaluation = load_evaluation(path, choice, allow_code=allow_code)
        swept = [c for c, of in zip(choice, values, strict=True) if len(of) > 1]
        folder = Path(evaluation.output or new) / _folder_name(swept)
        runs.append(dataclasses.replace(evaluation, output=str(folder)))
    if len({run.output for run in runs}) < len(runs):
        raise UserError("the sweep holds a run twice; give each value once")
    return runs


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
