"""What a run computes: cells, units of them, and the seed of each unit."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
from foolbox.attacks.base import MinimizationAttack, Repeated

from foolbox_carescale import get_attack
from foolbox_carescale.evaluate.config import AttackConfig, Evaluation, field_names, norm_name
from foolbox_carescale.evaluate.errors import UserError, nearest
from foolbox_carescale.evaluate.models import find_target


@dataclass(frozen=True)
class Cell:
    """One attack, with its parameters, at one epsilon of one norm.

    Attributes:
        number: Its place in the run.
        label: The attack's label in the run.
        config: The attack.
        attack: The Foolbox attack itself.
        source: Who wrote it: ``ours``, or ``foolbox``, which also stands for the user's own.
        p: Order of the attack's norm.
        epsilon: Size of the perturbation in that norm.
        minimises: Whether the attack looks for the smallest perturbation, whatever epsilon.
    """

    number: int
    label: str
    config: AttackConfig
    attack: Any
    source: Literal["ours", "foolbox"]
    p: float
    epsilon: float
    minimises: bool = False


@dataclass(frozen=True)
class Unit:
    """The smallest piece of work, independent of all others: one attack on a block of samples.

    Attributes:
        number: Its place in the run.
        cells: What to run: one cell, or all of a minimisation attack, whose one result is
            judged at every epsilon.
        block: Number of the block.
        samples: Positions of its samples in the run's data.
        seed: Of everything random in it; derived from the run's seed, the cell and the
            block alone, so that neither order nor company changes a result.
        pictured: The cell whose images are stored as examples, if any.
    """

    number: int
    cells: tuple[Cell, ...]
    block: int
    samples: npt.NDArray[np.int64]
    seed: int
    pictured: Cell | None = None

    @property
    def cell(self) -> Cell:
        """The one with the largest epsilon."""
        return self.cells[-1]

    @property
    def name(self) -> str:
        """Unique in the run; fit for a file name."""
        first = self.cells[0]
        epsilon = "all" if first.minimises else repr(first.epsilon)
        return f"{first.number:04d}-{first.label}-{epsilon}-{self.block:05d}"


class Units(Sequence[Unit]):
    """Every cell on every block of ``batch_size`` consecutive samples, made when asked for."""

    def __init__(self, cells: Sequence[Cell], samples: int, batch_size: int, seed: int) -> None:
        self.cells = list(cells)
        self.samples = samples
        self.blocks = -(-samples // batch_size)
        self._batch_size, self._seed = batch_size, seed
        self._groups = [
            group
            for _, same in groupby(self.cells, key=lambda cell: cell.label)
            for group in _groups(list(same))
        ]
        by_label = groupby(self.cells, key=lambda cell: cell.label)
        middle = [same[len(same) // 2] for same in (list(same) for _, same in by_label)]
        self._pictured = {cell.number: cell for cell in middle}

    def __len__(self) -> int:
        return len(self._groups) * self.blocks

    @overload
    def __getitem__(self, number: int) -> Unit: ...
    @overload
    def __getitem__(self, number: slice) -> list[Unit]: ...
    def __getitem__(self, number: int | slice) -> Unit | list[Unit]:
        if isinstance(number, slice):
            return [self[i] for i in range(len(self))[number]]
        number = range(len(self))[number]
        cells, block = self._groups[number // self.blocks], number % self.blocks
        pictured = [self._pictured.get(cell.number) for cell in cells] if block == 0 else []
        return Unit(
            number,
            cells,
            block,
            self.positions(block),
            unit_seed(self._seed, cells[0], block),
            next((cell for cell in pictured if cell is not None), None),
        )

    def positions(self, block: int) -> npt.NDArray[np.int64]:
        """Positions of a block's samples in the run's data."""
        start = block * self._batch_size
        return np.arange(start, min(start + self._batch_size, self.samples))

    def named(self, name: str) -> Unit | None:
        """The unit of a name; None where there is none."""
        match = re.fullmatch(r"(\d{4,})-.+-(\d{5,})", name)
        if match is None:
            return None
        firsts = [cells[0].number for cells in self._groups]
        if int(match[1]) not in firsts or int(match[2]) >= self.blocks:
            return None
        unit = self[firsts.index(int(match[1])) * self.blocks + int(match[2])]
        return unit if unit.name == name else None


def make_cells(evaluation: Evaluation) -> list[Cell]:
    """The cells of a run, in the order of its attacks and epsilons.

    Raises:
        UserError: An attack cannot be made, or there is no epsilon for its norm.
    """
    cells: list[Cell] = []
    for label, config in evaluation.attacks.items():
        attack, source = make_attack(label, config)
        p = float(attack.distance.p)
        norm = norm_name(p)
        epsilons = config.epsilons or evaluation.epsilons.get(norm)
        if epsilons is None:
            raise UserError(
                f"epsilons.{norm}: is missing, but attack {label!r} ({config.name}) needs it;"
                f" give epsilons.{norm}=[...] or attacks.{label}.epsilons=[...]"
            )
        single = attack.attack if isinstance(attack, Repeated) else attack
        minimises = isinstance(single, MinimizationAttack)
        for epsilon in sorted(epsilons):
            cells.append(Cell(len(cells), label, config, attack, source, p, epsilon, minimises))
    return cells


def unit_seed(seed: int, cell: Cell, block: int) -> int:
    """A seed of 63 bits from a hash of all that identifies a unit."""
    identity = [seed, cell.label, cell.config.name, cell.config.repeat, cell.config.params]
    epsilon = None if cell.minimises else cell.epsilon
    text = json.dumps([*identity, epsilon, block], sort_keys=True, default=repr)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def make_attack(label: str, config: AttackConfig) -> tuple[Any, Literal["ours", "foolbox"]]:
    """The attack that a config describes, and who wrote it.

    Raises:
        UserError: There is no such attack or argument, or the attack refuses a value.
    """
    constructor: Any
    if config._target_ is not None:
        constructor = find_target(f"attacks.{label}", config._target_)
    else:
        try:
            constructor = get_attack(config.name)
        except ValueError as error:
            raise UserError(f"attacks.{label}.name: {error}") from error
    params = dict(config.params)
    if isinstance(params.get("distance"), str):
        params["distance"] = _distance(label, params["distance"])
    _check_arguments(label, config.name, constructor, params)
    try:
        attack: Any = constructor(**params)
    except (TypeError, ValueError) as error:
        raise UserError(f"attacks.{label}: {config.name} refuses {params}: {error}") from error
    try:
        attack.distance.p  # noqa: B018
    except (AttributeError, ValueError) as error:
        raise UserError(
            f"attacks.{label}: {config.name} has no Lp norm of its own;"
            f" give one, e.g. attacks.{label}.distance=L2, or take another attack"
        ) from error
    source: Literal["ours", "foolbox"] = (
        "ours" if constructor.__module__.startswith("foolbox_carescale.") else "foolbox"
    )
    return (attack.repeat(config.repeat) if config.repeat > 1 else attack), source


def _groups(cells: list[Cell]) -> list[tuple[Cell, ...]]:
    """An attack's cells, as far as one call of the attack serves them."""
    return [tuple(cells)] if cells[0].minimises else [(cell,) for cell in cells]


def _distance(label: str, name: str) -> Any:
    from foolbox import distances

    known = {"L0": distances.l0, "L1": distances.l1, "L2": distances.l2, "Linf": distances.linf}
    if name not in known:
        raise UserError(f"attacks.{label}.distance: {name!r} is no norm; {nearest(name, known)}")
    return known[name]


def _check_arguments(label: str, name: str, constructor: Any, params: dict[str, Any]) -> None:
    accepted = inspect.signature(constructor).parameters
    hints = typing.get_type_hints(constructor.__init__)
    if not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        for key in params:
            if key not in accepted:
                valid = nearest(key, [*accepted, *field_names(AttackConfig)])
                raise UserError(f"attacks.{label}.{key}: {name} takes no {key!r}; {valid}")
    for key, parameter in accepted.items():
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if not variadic and parameter.default is parameter.empty and key not in params:
            raise UserError(
                f"attacks.{label}.{key}: is missing, and {name} needs it;"
                f" give attacks.{label}.{key}=..."
            )
    for key, value in params.items():
        if key in hints and not _fits(value, hints[key]):
            expected = inspect.formatannotation(hints[key])
            raise UserError(
                f"attacks.{label}.{key}: {value!r} is {type(value).__name__},"
                f" but {name} expects {expected}"
            )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value may be of a type; types that YAML cannot hold are left to the attack."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    return True
