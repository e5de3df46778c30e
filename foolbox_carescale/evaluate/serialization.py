"""Configs as plain values: dicts, lists, texts and numbers; and by dotted key."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any


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
