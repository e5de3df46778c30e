"""Configs are plain dataclasses that pydantic checks: where they are read, and before a run."""

from __future__ import annotations

import functools
import math
import os
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import CoreSchema, core_schema

from ...core.fractions import parse_fraction
from ..errors import UserError, nearest
from ..serialization import to_builtins

C = TypeVar("C", bound="Config")

Tree = dict[str, Any]

CONFIGS = Path(__file__).with_name("conf")

OPTIONS = ConfigDict(
    coerce_numbers_to_str=True,  # Hydra reads data.root=2024 as a number
    extra="forbid",
    revalidate_instances="always",
    use_attribute_docstrings=True,
    validate_default=True,
)


class Config:
    """A part of a config: pydantic's constraints stand in its annotations."""

    __pydantic_config__: ClassVar[ConfigDict] = OPTIONS

    def validated(self: C) -> C:
        """Return the config with every value checked, and of the type that it should have.

        Raises:
            UserError: It holds values that cannot be used; a line names each.
        """
        return read(type(self), self)


class Arguments(Config):
    """A config that holds arguments of what it names; in YAML they stand beside its own keys."""

    __pydantic_config__: ClassVar[ConfigDict] = {
        **OPTIONS,
        "json_schema_extra": lambda schema: schema.update(additionalProperties=True),
    }

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> CoreSchema:
        return core_schema.no_info_before_validator_function(cls._gather, handler(source))

    @classmethod
    def _gather(cls, node: Any) -> Any:
        """Move keys that the config does not know below ``params``."""
        if not isinstance(node, dict):
            return node
        known, params = field_names(cls), node.get("params") or {}
        if isinstance(params, dict):
            params = {**params, **{key: value for key, value in node.items() if key not in known}}
        return {key: value for key, value in node.items() if key in known} | {"params": params}


OWN_TARGET = {"required": ["_target_"], "properties": {"_target_": {"type": "string"}}}


class TargetArguments(Arguments):
    """A config in which arguments stand beside ``_target_`` alone."""

    __pydantic_config__: ClassVar[ConfigDict] = {
        **OPTIONS,
        "json_schema_extra": lambda schema: schema.update(
            {
                "additionalProperties": True,
                "if": OWN_TARGET,
                "then": {},
                "else": {"propertyNames": {"enum": list(schema["properties"])}},
            }
        ),
    }

    @classmethod
    def _gather(cls, node: Any) -> Any:
        own = isinstance(node, dict) and node.get("_target_") is not None
        return super()._gather(node) if own else node


@dataclass(frozen=True)
class ConfigSpec:
    """The config classes and config groups of a command."""

    command: str
    config: type[Config]
    groups: Mapping[str, type[Config] | None]
    """Hydra's config groups, folders of ``conf``, and the classes of their files."""
    choices: Mapping[str, str | None]
    """The file of each group that is taken where nobody chooses."""
    folders: tuple[Path, ...] = (CONFIGS,)
    """Where the files of the groups lie."""


def checked_by(check: Callable[[Any], object]) -> AfterValidator:
    """Return a constraint: values of which a function raises no ValueError."""

    def passed(value: Any) -> Any:
        check(value)
        return value

    return AfterValidator(passed)


def _refuse_flag(value: Any) -> Any:
    if isinstance(value, (bool, bytes)):
        raise ValueError(f"{value!r} is not a number")
    return value


def _to_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _check_path(path: str) -> None:
    if not path:
        raise ValueError("is empty; give a path, or leave it out")
    try:
        usable = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise ValueError(f"{path!r} holds a character that no path can hold")


FractionText = Annotated[str, Field(pattern=r"^[0-9.eE+-]+(/[0-9.eE+-]+)?$")]
Integer = Annotated[int, BeforeValidator(_refuse_flag)]
Natural = Annotated[int, Field(ge=0), BeforeValidator(_refuse_flag)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_refuse_flag)]
Real = Annotated[float, BeforeValidator(_refuse_flag)]
Fractional = Annotated[
    float,
    BeforeValidator(parse_fraction, json_schema_input_type=float | FractionText),
    BeforeValidator(_refuse_flag),
]
Positive = Annotated[float, Field(gt=0), BeforeValidator(_refuse_flag)]
Seed = Annotated[int, Field(ge=0, lt=2**63), BeforeValidator(_refuse_flag)]
Threads = Annotated[int, Field(ge=1, le=1024), BeforeValidator(_refuse_flag)]
Resize = Annotated[
    int | list[int],
    PlainValidator(
        lambda value: _read_resize(value),
        json_schema_input_type=Count | Annotated[list[Count], Field(min_length=2, max_length=2)],
    ),
]
PathText = Annotated[str, BeforeValidator(_to_text), checked_by(_check_path)]


adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)
"""Return pydantic's adapter of a config class, made once."""


def _read_resize(value: Any) -> int | list[int]:
    pair = isinstance(value, (list, tuple))
    try:
        height, width = adapter(list[Count]).validate_python(list(value) if pair else [value] * 2)
    except ValueError:  # pydantic's, or not two
        raise ValueError(f"{value!r} is neither a length nor [height, width] in pixels") from None
    return [height, width] if pair else height


def read(kind: type[C], content: Any) -> C:
    """Return a config from plain values, or an instance that was checked again.

    Raises:
        UserError: Keys are unknown, or values cannot be used; a line names each.
    """
    try:
        config: C = adapter(kind).validate_python(content)
    except ValidationError as error:
        lines: dict[str, str] = {}
        for found in error.errors(include_url=False):
            *path, last = found["loc"]
            # of a key that is wrong itself, and of each type that a list's item may have
            if last != "[key]" and not (path and isinstance(path[-1], int)):
                path.append(last)
            key = ".".join(map(str, path))
            lines.setdefault(key, f"{key}: {_explain(kind, key, found)}")
        raise UserError(*lines.values()) from None
    return config


def _explain(kind: type[Config], key: str, found: Mapping[str, Any]) -> str:
    """Return one of pydantic's errors in this project's words: offence and remedy."""
    value, problem = found["input"], found["type"]
    if problem == "value_error":
        return str(found["ctx"]["error"])
    if problem == "unexpected_keyword_argument":
        node, _, name = key.rpartition(".")
        known = field_names(type(getattr(kind(), node)) if node else kind)
        more = " (arguments of what is named go below params)" if "_target_" in known else ""
        return f"there is no such key; {nearest(name, known)}{more}"
    if problem == "literal_error":
        return no_such(value, re.findall(r"'([^']*)'", found["ctx"]["expected"]))
    if problem == "dataclass_type":
        first = "epsilons.L2" if key == "report" else "name"
        return f"{value!r} is not a mapping; write {key}.{first}=..."
    if problem == "list_type":
        return f"{value!r} is not a list; write [{value}]"
    if problem == "int_parsing_size":
        return f"{reprlib.repr(value)} is too large for an integer"
    if isinstance(value, float) and math.isnan(value):
        return f"{value} is not a finite number"
    said: str = found["msg"].partition(",")[0].replace("Input should be", f"{value!r} is not")
    for theirs, ours in (("dictionary", "mapping"), ("not greater than or equal to", "less than")):
        said = said.replace(theirs, ours)
    return said


def no_such(value: object, valid: Any) -> str:
    """Return that a choice does not exist, and the nearest ones that do."""
    return f"there is no {value!r}; {nearest(str(value), valid)}"


def field_names(config: type[Any]) -> list[str]:
    """Return the keys that a config class knows."""
    return [f.name for f in fields(config)]


def expand_path(path: str | Path) -> Path:
    """Return a path with the home folder in place of ``~`` or ``~user``, where there is one."""
    return Path(os.path.expanduser(path))  # Path.expanduser raises for an unknown user


def is_path(config: type[Any], key: str) -> bool:
    """Return whether the value at a dotted key is the path of a file or folder."""
    name, _, rest = key.partition(".")
    hint: Any = get_type_hints(config, include_extras=True).get(name)
    if rest:
        return isinstance(hint, type) and is_dataclass(hint) and is_path(hint, rest)
    return PathText in (hint, *get_args(hint))


def to_yaml(content: Any) -> str:
    """Return plain values as YAML that OmegaConf reads back as they are."""
    from omegaconf import OmegaConf  # a tenth of a second

    return OmegaConf.to_yaml(escape_interpolation(to_builtins(content)))


def escape_interpolation(content: Any) -> Any:
    """Return plain values whose texts OmegaConf takes as they are: ``${`` interpolates nothing."""
    if isinstance(content, dict):
        return {key: escape_interpolation(item) for key, item in content.items()}
    if isinstance(content, list):
        return [escape_interpolation(item) for item in content]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", content) if isinstance(content, str) else content
