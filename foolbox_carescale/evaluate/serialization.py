"""Configs as plain values: dicts, lists, texts and numbers; as YAML, and by dotted key."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any

import yaml


def to_builtins(value: Any) -> Any:
    """Dataclasses as dicts, all the way down."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_builtins(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: to_builtins(item) for key, item in value.items()}
    return [to_builtins(item) for item in value] if isinstance(value, (list, tuple)) else value


def flatten_keys(content: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dicts by dotted key; an empty dict is a leaf."""
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    return {
        key: leaf
        for name, item in content.items()
        for key, leaf in flatten_keys(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def to_yaml(content: Any) -> str:
    """Plain values as YAML that OmegaConf reads back as they are."""
    return yaml.dump(escape_interpolation(content), Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Quotes texts such as ``1e5``, which are numbers to OmegaConf but not to PyYAML."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\.?\d[-+.\deE_]*$"), list("-+.0123456789")
)


def escape_interpolation(content: Any) -> Any:
    """Plain values whose texts OmegaConf takes as they are: ``${`` begins no interpolation."""
    if isinstance(content, dict):
        return {key: escape_interpolation(item) for key, item in content.items()}
    if isinstance(content, list):
        return [escape_interpolation(item) for item in content]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", content) if isinstance(content, str) else content
