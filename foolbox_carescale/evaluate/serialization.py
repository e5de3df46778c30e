"""Configs as plain values: dicts, lists, texts and numbers; and by dotted key."""

from __future__ import annotations

import functools
import json
import math
import re
from dataclasses import fields, is_dataclass
from typing import Any

import yaml

DEEPEST, LARGEST, LONGEST_NUMBER = 32, 2**20, 1000
"""Limits of the YAML that is read: nested values; characters and ``VALUE`` for each value, where an
alias counts as what it stands for; and characters of a number, which take quadratic time."""

VALUE = 50
"""Characters that take as long as a value: 20,000 values are read in a second or two."""

_TAGS = (None, "!", "tag:yaml.org,2002:str")


def from_yaml(text: str) -> Any:
    """Return the plain values of YAML.

    Raises:
        ValueError: It is not valid, or beyond the limits of ``check_yaml``.
    """
    try:
        check_yaml(text)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not valid YAML: {error}") from error


@functools.lru_cache(16)  # the files of groups are read for every run of a sweep
def check_yaml(text: str) -> None:
    """Raise a ValueError where reading YAML would take much more time or memory than its length.

    Raises:
        ValueError: It nests too deeply, is too large, or has an alias inside what it stands for.
        yaml.YAMLError: It is not valid.
    """
    sizes: dict[str, int] = {}  # of what an anchor names
    parents: list[tuple[str | None, int]] = []
    size = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"the alias *{event.anchor} names nothing that ends above it")
            size += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            parents.append((event.anchor, size))
            size += VALUE
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = parents.pop()
            if anchor is not None:
                sizes[anchor] = size - before
        elif isinstance(event, yaml.ScalarEvent):
            own = VALUE + len(event.value)
            size += own
            if event.anchor is not None:
                sizes[event.anchor] = own
            quoted = event.implicit[1]  # and without a tag: the rest may be numbers
            if (
                len(event.value) > LONGEST_NUMBER
                and not quoted
                and re.match(r"[-+.]?\d", event.value)
            ):
                raise ValueError(
                    f"{event.value[:20]}... has too many digits; quote it if it is text"
                )
        if (tag := getattr(event, "tag", None)) not in _TAGS:
            mark: Any = event.start_mark
            raise yaml.MarkedYAMLError(problem=f"the tag {tag}", problem_mark=mark)
        if len(parents) > DEEPEST:
            raise ValueError(f"its values nest more than {DEEPEST} deep")
        if size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST} characters with its aliases written out")


def to_builtins(value: Any) -> Any:
    """Dataclasses as dicts, all the way down."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_builtins(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: to_builtins(item) for key, item in value.items()}
    return [to_builtins(item) for item in value] if isinstance(value, (list, tuple)) else value


def to_json_text(value: Any) -> str:
    """Return valid JSON with sorted keys; what JSON cannot hold stands there as text."""
    return json.dumps(to_json_values(value), sort_keys=True, default=repr, allow_nan=False)


def to_json_values(value: Any) -> Any:
    """Return plain values that JSON can hold: numbers that are not finite as texts, as in "inf"."""
    if isinstance(value, dict):
        return {key: to_json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_values(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def flatten_keys(content: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dicts by dotted key; an empty dict is a leaf."""
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    return {
        key: leaf
        for name, item in content.items()
        for key, leaf in flatten_keys(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }
