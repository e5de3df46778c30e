"""What a run computes: cells, units of them, and the seed of each unit."""

from __future__ import annotations

import hashlib
import inspect
import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from foolbox_carescale import get_attack
from foolbox_carescale.evaluate.config import AttackConfig, Evaluation, field_names, norm_name
from foolbox_carescale.evaluate.errors import UserError, nearest


@dataclass(frozen=True)
class Cell:
    """One attack, with its parameters, at one epsilon of one norm.

    Attributes:
        number: Its place in the run.
        label: The attack's label in the run.
        config: The attack.
        attack: The Foolbox attack itself.
        source: Who wrote it: ``ours`` or ``foolbox``.
        p: Order of the attack's norm.
        epsilon: Size of the perturbation in that norm.
    """

    number: int
    label: str
    config: AttackConfig
    attack: Any
    source: Literal["ours", "foolbox"]
    p: float
    epsilon: float


@dataclass(frozen=True)
class Unit:
    """A cell on a block of samples: the smallest piece of work, independent of all others.

    Attributes:
        cell: What to run.
        block: Number of the block.
        samples: Positions of its samples in the run's data.
        seed: Of everything random in it; derived from the run's seed, the cell and the
            block alone, so that neither order nor company changes a result.
    """

    cell: Cell
    block: int
    samples: npt.NDArray[np.int64]
    seed: int

    @property
    def name(self) -> str:
        """Unique in the run; fit for a file name."""
        return f"{self.cell.number:04d}-{self.cell.label}-{self.cell.epsilon!r}-{self.block:05d}"


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
        for epsilon in sorted(epsilons):
            cells.append(Cell(len(cells), label, config, attack, source, p, epsilon))
    return cells


def make_units(cells: list[Cell], samples: int, batch_size: int, seed: int) -> Iterator[Unit]:
    """Every cell on every block of ``batch_size`` consecutive samples."""
    for cell in cells:
        for block, start in enumerate(range(0, samples, batch_size)):
            positions = np.arange(start, min(start + batch_size, samples))
            yield Unit(cell, block, positions, unit_seed(seed, cell, block))


def unit_seed(seed: int, cell: Cell, block: int) -> int:
    """A seed of 63 bits from a hash of all that identifies a unit."""
    identity = [seed, cell.label, cell.config.name, cell.config.repeat, cell.config.params]
    text = json.dumps([*identity, cell.epsilon, block], sort_keys=True, default=repr)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def make_attack(label: str, config: AttackConfig) -> tuple[Any, Literal["ours", "foolbox"]]:
    """The attack that a config describes, and who wrote it.

    Raises:
        UserError: There is no such attack or argument, or the attack refuses a value.
    """
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
