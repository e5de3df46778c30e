"""The JSON schema of a config, made from the dataclasses and what their docstrings say."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from typing import Any

from foolbox_carescale.attacks.registry import list_attacks
from foolbox_carescale.evaluate import config
from foolbox_carescale.evaluate.errors import UserError, nearest

Schema = dict[str, Any]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"

_CHOICES = {
    (config.ModelConfig, "dtype"): config.DTYPES,
    (config.ExecutorConfig, "name"): config.EXECUTORS,
    (config.TrackingConfig, "name"): config.TRACKERS,
}


def json_schema(group: str | None = None) -> Schema:
    """The schema (JSON Schema 2020-12) of a YAML file that ``carescale evaluate`` reads.

    Args:
        group: Of the files of a config group instead, such as ``model``.

    Raises:
        UserError: There is no such group.
    """
    definitions: Schema = {}
    run = _object(config.Evaluation, definitions)
    run["properties"]["defaults"] = _DEFAULTS
    if group is None:
        schema = {"title": "carescale evaluate", **run}
    elif group == "attack":
        keys = {key: run["properties"][key] for key in ("attacks", "epsilons")}
        schema = {"title": "carescale attack", **run, "properties": keys}
    elif group in config.CONFIG_GROUPS:
        kind = typing.cast(type, config.CONFIG_GROUPS[group])
        schema = {"title": f"carescale {group}", **definitions[kind.__name__]}
    else:
        raise UserError(
            f"schema: there is no group {group!r}; {nearest(group, config.CONFIG_GROUPS)}"
        )
    return {"$schema": _DRAFT, **schema, "$defs": definitions}


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
    """The schema of a dataclass; those that it holds go below ``$defs``."""
    documented = _attribute_docs(kind)
    hints = typing.get_type_hints(kind)
    defaults = kind()
    properties = {}
    for field in dataclasses.fields(kind):
        node = _type(hints[field.name], definitions)
        choices = _CHOICES.get((kind, field.name))
        if choices is not None:
            node = {"enum": list(choices)}
        properties[field.name] = {"description": documented[field.name], **node}
        value = getattr(defaults, field.name)
        if isinstance(value, (int, float, str)) and value != "":
            properties[field.name]["default"] = value
    node = {"type": "object", "properties": properties, "additionalProperties": False}
    if kind is config.AttackConfig:
        del node["additionalProperties"]  # they are arguments of the attack
        by_name = {"properties": {"name": {"enum": list_attacks()}}}
        node |= {"if": _OWN, "then": {}, "else": by_name}
    elif "_target_" in properties:
        del node["additionalProperties"]
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
    """The entries of a docstring's ``Attributes:``, in one line each."""
    section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?= {4}\S)", f"\n{section}"):
        names, _, text = entry.strip().partition(":")
        for name in names.split(", "):
            found[name] = " ".join(text.split())
    return found
