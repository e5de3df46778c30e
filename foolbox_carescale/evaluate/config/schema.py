"""The JSON schema of a config, made by pydantic from its class and the docstrings there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import UserError, nearest
from .types import EVALUATION
from .validation import ConfigSpec, adapter

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

_SWEEP = {
    "description": "Several runs: keys or groups, and as many values of each as there are runs.",
    "type": "object",
    "additionalProperties": {"type": "array", "minItems": 1},
}


def json_schema(
    of: str | None = None, commands: Sequence[ConfigSpec] = (EVALUATION,)
) -> dict[str, Any]:
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
    spec = known[of]
    run = adapter(spec.config).json_schema(union_format="primitive_type_array")
    definitions = run.pop("$defs")
    run["properties"]["defaults"] = _DEFAULTS
    if spec is EVALUATION:
        run["properties"]["sweep"] = _SWEEP
    if of == "attack":
        run["properties"] = {key: run["properties"][key] for key in ("attacks", "epsilons")}
    group = spec.groups.get(of)
    return {
        **(run if group is None else definitions[group.__name__]),
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"carescale {of}",
        "$defs": definitions,
    }
