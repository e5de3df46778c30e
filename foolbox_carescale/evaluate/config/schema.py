"""The JSON schema of a config, made from the dataclasses and what their docstrings say."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...attacks.registry import list_attacks
from ..errors import UserError, nearest
from . import types as config

Schema = dict[str, Any]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class SchemaSpec:
    """A command whose config has a schema.

    Attributes:
        command: Its name.
        config: The dataclass of a run.
        groups: Config groups, and the classes of their files.
        choices: The values that a field of a class takes, where there are few.
    """

    command: str
    config: type
    groups: Mapping[str, type | None]
    choices: Mapping[tuple[type, str], Sequence[str | None]]


EVALUATE = SchemaSpec(
    "evaluate",
    config.Evaluation,
    config.CONFIG_GROUPS,
    {
        (config.ModelConfig, "dtype"): config.DTYPES,
        (config.ExecutorConfig, "name"): config.executor_names(),
        (config.TrackingConfig, "name"): config.TRACKERS,
        (config.Evaluation, "save"): (*config.SAVES, None),
    },
)


def json_schema(of: str | None = None, commands: Sequence[SchemaSpec] = (EVALUATE,)) -> Schema:
    """Return the schema (JSON Schema 2020-12) of a YAML file that a command reads.

    Args:
        of: The command, the first one by default; or a config group, such as ``model``, for the
            schema of its files.
        commands: Those that there are.

    Raises:
        UserError: There is no such command or group.
    """
    of = of or commands[0].command
    known = {name: each for each in commands for name in (each.command, *each.groups)}
    if of not in known:
        raise UserError(f"schema: there is no group {of!r}; {nearest(of, known)}")
    described = known[of]
    definitions: Schema = {}
    run = _object(described.config, definitions)
    run["properties"]["defaults"] = _DEFAULTS
    for (kind, name), values in described.choices.items():
        node = run if kind is described.config else definitions[kind.__name__]
        del node["properties"][name]["type"]
        node["properties"][name]["enum"] = list(values)
    if of == described.command:
        schema = run
    elif of == "attack":
        keys = {key: run["properties"][key] for key in ("attacks", "epsilons")}
        schema = {**run, "properties": keys}
    else:
        schema = definitions[typing.cast(type, described.groups[of]).__name__]
    return {"$schema": _DRAFT, "title": f"carescale {of}", **schema, "$defs": definitions}


_OWN = {"required": ["_target_"], "properties": {"_target_": {"type": "string"}}}

_DEFAULTS = {
    "description": "Files that this one starts from: one per config group, or others beside it.",
    "type": "array",
    "items": {
        "anyOf": [
            {"type": "string"},
            {"type": "object", "minProperties": 1, "maxProperties": 1},
        ]
    },
}


def _object(kind: Any, definitions: Schema) -> Schema:
    """Return the schema of a dataclass; those that it holds go below ``$defs``."""
    documented = _attribute_docs(kind)
    hints = typing.get_type_hints(kind)
    defaults = kind()
    properties = {}
    for field in dataclasses.fields(kind):
        node = _type(hints[field.name], definitions)
        properties[field.name] = {"description": documented[field.name], **node}
        value = getattr(defaults, field.name)
        if isinstance(value, (int, float, str)) and value != "":
            properties[field.name]["default"] = value
    node = {"type": "object", "properties": properties, "additionalProperties": False}
    if "params" in properties:
        del node["additionalProperties"]  # they are arguments of what is named
    if kind is config.AttackConfig:
        by_name = {"properties": {"name": {"enum": list_attacks()}}}
        node |= {"if": _OWN, "then": {}, "else": by_name}
    elif "_target_" in properties:
        closed = {"propertyNames": {"enum": list(properties)}}
        node |= {"if": _OWN, "then": {}, "else": closed}
    return {"description": inspect.cleandoc(kind.__doc__).split("\n")[0], **node}


def _type(hint: Any, definitions: Schema) -> Schema:
    inner = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [_type(option, definitions) for option in inner]
        if all(set(option) == {"type"} for option in options):
            return {"type": [option["type"] for option in options]}
        return {"anyOf": options}
    if origin is list:
        return {"type": "array", "items": _type(inner[0], definitions)}
    if origin is dict:
        if inner[1] is Any:
            return {"type": "object"}
        return {"type": "object", "additionalProperties": _type(inner[1], definitions)}
    if dataclasses.is_dataclass(hint):
        name = typing.cast(type, hint).__name__
        if name not in definitions:
            definitions[name] = _object(hint, definitions)
        return {"$ref": f"#/$defs/{name}"}
    return {"type": _NAMES[hint]}


_NAMES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    type(None): "null",
}


def _attribute_docs(kind: type) -> dict[str, str]:
    """Return the entries of a docstring's ``Attributes:``, in one line each."""
    section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?= {4}\S)", f"\n{section}"):
        names, _, text = entry.strip().partition(":")
        for name in names.split(", "):
            found[name] = " ".join(text.split())
    return found
