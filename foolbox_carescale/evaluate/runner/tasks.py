"""The attack settings of a run, their tasks, and the seed of each task."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import types
import typing
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
from foolbox.attacks.base import MinimizationAttack, Repeated

from ... import get_attack
from ..config.headline import check_headline
from ..config.types import AttackConfig, Evaluation, norm_name
from ..config.validation import field_names
from ..errors import UserError, nearest
from ..models.targets import find_target, named_errors
from ..serialization import flatten_keys

_LOOPS = re.compile(r"(\w+_)?steps|repeats")
"""Arguments of Foolbox's attacks that say how often a loop is run, which nothing there checks."""

LOOKED_AT = 32
"""Samples, at least, that the model is diagnosed at, however small a batch is: a fault at a fifth
of the samples is at two of 32 or more in 99 of 100 draws, which is above 5%."""

IDENTIFIED = 8
"""Samples whose images and logits show whether two processes have the same data and model. Each
process decodes them beside its batches, so there are few: of 256 shards of 50,000 images, 4%."""


@dataclass(frozen=True)
class AttackSetting:
    """One attack, with its parameters, at one epsilon of one norm.

    Attributes:
        number: Its place in the run.
        label: The attack's label in the run.
        config: The attack.
        attack: The Foolbox attack itself.
        library: The package of the attack's class, such as ``foolbox`` or the user's own.
        p: Order of the attack's norm.
        epsilon: Norm of the perturbation.
        minimises: Whether the attack looks for the smallest perturbation, whatever epsilon.
    """

    number: int
    label: str
    config: AttackConfig
    attack: Any
    library: str
    p: float
    epsilon: float
    minimises: bool = False


@dataclass(frozen=True)
class Task:
    """The smallest piece of work, independent of all others: one attack on a batch of samples.

    Attributes:
        number: Its place in the run.
        settings: What to run: one setting, or all of a minimisation attack, whose one result is
            judged at every epsilon.
        batch: Number of the batch.
        samples: Positions of its samples in the run's data.
        seed: Of everything random in it; derived from the run's seed, the setting and the
            batch alone, so that neither order nor company changes a result.
        pictured: The setting whose images are stored as examples, if any.
        ahead: Batches that are likely to be needed next.
    """

    number: int
    settings: tuple[AttackSetting, ...]
    batch: int
    samples: npt.NDArray[np.int64]
    seed: int
    pictured: AttackSetting | None = None
    ahead: tuple[int, ...] = ()

    @property
    def setting(self) -> AttackSetting:
        """Return the one with the largest epsilon."""
        return self.settings[-1]

    @property
    def name(self) -> str:
        """Unique in the run; fit for a file name."""
        first = self.settings[0]
        epsilon = "all" if first.minimises else repr(first.epsilon)
        return f"{first.number:04d}-{first.label}-{epsilon}-{self.batch:05d}"


class Tasks(Sequence[Task]):
    """Every setting on every batch of ``batch_size`` consecutive samples, made when asked for."""

    def __init__(
        self, settings: Sequence[AttackSetting], samples: int, batch_size: int, seed: int
    ) -> None:
        self.settings = list(settings)
        self.samples = samples
        self.batches = -(-samples // batch_size)
        self.batch_size, self._seed = batch_size, seed
        self._groups = [
            group
            for _, same in groupby(self.settings, key=lambda setting: setting.label)
            for group in _groups(list(same))
        ]
        by_label = groupby(self.settings, key=lambda setting: setting.label)
        middle = [same[len(same) // 2] for same in (list(same) for _, same in by_label)]
        self._pictured = {setting.number: setting for setting in middle}

    def __len__(self) -> int:
        return len(self._groups) * self.batches

    @overload
    def __getitem__(self, number: int) -> Task: ...
    @overload
    def __getitem__(self, number: slice) -> list[Task]: ...
    def __getitem__(self, number: int | slice) -> Task | list[Task]:
        if isinstance(number, slice):
            return [self[i] for i in range(len(self))[number]]
        number = range(len(self))[number]
        settings, batch = self._groups[number // self.batches], number % self.batches
        pictured = (
            [self._pictured.get(setting.number) for setting in settings] if batch == 0 else []
        )
        return Task(
            number,
            settings,
            batch,
            self.positions(batch),
            task_seed(self._seed, settings[0], batch),
            next((setting for setting in pictured if setting is not None), None),
        )

    def positions(self, batch: int) -> npt.NDArray[np.int64]:
        """Positions of a batch's samples in the run's data."""
        start = batch * self.batch_size
        return np.arange(start, min(start + self.batch_size, self.samples))

    def probe_positions(self, *, diagnose: bool = False) -> npt.NDArray[np.int64]:
        """Return which samples a model is probed with: in sorted data the first have one class."""
        count = max(len(self.positions(0)), LOOKED_AT) if diagnose else IDENTIFIED
        return np.linspace(0, self.samples - 1, min(self.samples, count)).astype(np.int64)

    def in_batch(self, batch: int) -> range:
        """Return the numbers of all tasks on a batch."""
        return range(batch, len(self), self.batches)

    def in_shard(self, shard: int, shards: int) -> range:
        """Return the batches of a shard: consecutive ones, about as many as in any other."""
        return range(shard * self.batches // shards, (shard + 1) * self.batches // shards)

    def batch_seed(self, batch: int) -> int:
        """Return the seed of what is random in the clean predictions of a batch."""
        return _hashed([self._seed, batch])

    def named(self, name: str) -> Task | None:
        """Return the task of a name; None where there is none."""
        match = re.fullmatch(r"(\d{4,})-.+-(\d{5,})", name)
        if match is None:
            return None
        firsts = [settings[0].number for settings in self._groups]
        if int(match[1]) not in firsts or int(match[2]) >= self.batches:
            return None
        task = self[firsts.index(int(match[1])) * self.batches + int(match[2])]
        return task if task.name == name else None


def make_settings(evaluation: Evaluation) -> list[AttackSetting]:
    """Return the settings of a run, in the order of its attacks and epsilons.

    Raises:
        UserError: An attack cannot be made, there is no epsilon for its norm, or a headline
            epsilon cannot be had.
    """
    settings: list[AttackSetting] = []
    for label, config in evaluation.attacks.items():
        attack, library = make_attack(label, config)
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
            settings.append(
                AttackSetting(len(settings), label, config, attack, library, p, epsilon, minimises)
            )
    asked: dict[str, list[float]] = {}
    for one in settings:
        asked.setdefault(norm_name(one.p), []).append(one.epsilon)
    minimum = {norm_name(one.p) for one in settings if one.minimises}
    check_headline(evaluation.report.epsilons, asked, minimum)
    return settings


def task_seed(seed: int, setting: AttackSetting, batch: int) -> int:
    """Return a seed from a hash of all that identifies a task."""
    identity = [
        seed,
        setting.label,
        setting.config.name,
        setting.config.repeat,
        setting.config.params,
    ]
    epsilon = None if setting.minimises else setting.epsilon
    return _hashed([*identity, epsilon, batch])


def _hashed(identity: list[Any]) -> int:
    """Return a seed of 63 bits."""
    text = json.dumps(identity, sort_keys=True, default=repr)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def make_attack(label: str, config: AttackConfig) -> tuple[Any, str]:
    """Return the attack that a config describes, and the name of its package.

    Raises:
        UserError: There is no such attack or argument, or the attack refuses a value.
    """
    constructor: Any
    if config._target_ is not None:
        constructor = find_target(f"attacks.{label}", config._target_)
        _check_own_keys(label, config, constructor)
    else:
        try:
            constructor = get_attack(config.name)
        except ValueError as error:
            raise UserError(f"attacks.{label}.name: {error}") from error
    params = dict(config.params)
    if isinstance(params.get("distance"), str):
        params["distance"] = _distance(label, params["distance"])
    _check_arguments(label, config.name, constructor, params)
    own = f"attacks.{label}._target_: {config._target_}"
    try:
        with named_errors(own) if config._target_ else nullcontext():
            attack: Any = constructor(**params)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"attacks.{label}: {config.name} refuses {params}: {error}") from error
    try:
        attack.distance.p  # noqa: B018
    except (AttributeError, ValueError) as error:
        raise UserError(
            f"attacks.{label}: {config.name} has no Lp norm of its own;"
            f" give one, e.g. attacks.{label}.distance=L2, or take another attack"
        ) from error
    library = type(attack).__module__.partition(".")[0]
    return (attack.repeat(config.repeat) if config.repeat > 1 else attack), library


def _groups(settings: list[AttackSetting]) -> list[tuple[AttackSetting, ...]]:
    """Return an attack's settings, as far as one call of the attack serves them."""
    return [tuple(settings)] if settings[0].minimises else [(setting,) for setting in settings]


def _distance(label: str, name: str) -> Any:
    from foolbox import distances

    known = {"L0": distances.l0, "L1": distances.l1, "L2": distances.l2, "Linf": distances.linf}
    if name not in known:
        raise UserError(f"attacks.{label}.distance: {name!r} is no norm; {nearest(name, known)}")
    return known[name]


def _check_own_keys(label: str, config: AttackConfig, target: Any) -> None:
    """Refuse a key of the config that is an argument of ``_target_`` as well."""
    given = {
        "name": config.name != config._target_,
        "epsilons": config.epsilons is not None,
        "repeat": config.repeat != 1,
    }
    for key in inspect.signature(target).parameters:
        if given.get(key) and key not in config.params:
            raise UserError(
                f"attacks.{label}.{key}: {config._target_} has an argument of this name, and the"
                f" config a key; write attacks.{label}.params.{key}=... for the argument"
            )


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
            place = f"params.{key}" if key in field_names(AttackConfig) else key
            raise UserError(
                f"attacks.{label}.{key}: is missing, and {name} needs it;"
                f" give attacks.{label}.{place}=..."
            )
    for key, value in flatten_keys(params).items():
        values = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(one, float | np.floating) and np.isnan(one) for one in values):
            raise UserError(f"attacks.{label}.{key}: nan is not a number; give one")
    for key, value in params.items():
        if key in hints and not _fits(value, hints[key]):
            expected = inspect.formatannotation(hints[key])
            raise UserError(
                f"attacks.{label}.{key}: {value!r} is {type(value).__name__},"
                f" but {name} expects {expected}"
            )
        # no step at all would count as robustness
        counts = constructor.__module__.startswith("foolbox.") and _LOOPS.fullmatch(key)
        if counts and isinstance(value, int) and value < 1:
            raise UserError(f"attacks.{label}.{key}: {value} is less than 1")


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value fits a type; types that YAML cannot hold are left to the attack.

    pydantic would refuse lists for tuples when it is strict, and take texts for numbers otherwise.
    """
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
