"""Configs as plain values: dicts, lists, texts and numbers; and by dotted key."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import yaml


def from_yaml(text: str) -> Any:
    """Plain values of the YAML of a config that a run or a training has stored.

    Raises:
        ValueError: It is something else. With aliases, which they never write, a short text
            can stand for a huge one.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"it is not the YAML of a config: {error}") from error


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias")
        return super().compose_node(parent, index)


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
