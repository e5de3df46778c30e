"""Refuse what would run code, or send secrets, unasked, unless ``--allow-code`` is given."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..serialization import flatten_keys
from .validation import Tree

RUNTIME_ENV = ("working_dir", "py_modules", "excludes", "pip", "env_vars")
"""Keys of Ray's runtime environment that start no program of a file's choice."""

RECORDS = ("run.json", "train.json")
"""Files that make a folder a run folder."""

_REQUIREMENT = re.compile(r"\w[\w.-]*(\[[\w,. -]*\])?( *[<>=!~][^@/;]*)?")
_LOADERS = re.compile(r"(LD|DYLD|PYTHON|PIP|UV|RAY)_?[A-Z_]*|PATH|BASH_ENV|ENV")
"""Environment variables that name programs, libraries or indices of packages."""

_SERVER = re.compile(r"(?!file:|sqlite:)[^/]*://|//")
_VARIABLE = re.compile(r"\$\{oc\.env:\w+\}")


def refuse_code(config: Tree, folder: Path | None, given: Collection[str]) -> None:
    """Refuse a composed config that would run code which its user may not know of.

    Args:
        config: Its values.
        folder: That of the file it was read from, if any.
        given: Keys that the command line sets.

    Raises:
        UserError: It does; the message names the key.
    """
    executor = config.get("executor")
    executor = executor if isinstance(executor, dict) else {}
    address, environment = executor.get("address"), executor.get("runtime_env")
    if "://" in str(address) and not _is_given("executor.address", given):
        raise _refused("executor.address", f"{address} is a server of a file's choice, which")
    if isinstance(environment, dict):
        _check_runtime_env(environment)
    if folder is None or not any((folder / name).exists() for name in RECORDS):
        return
    for key, value in flatten_keys(config).items():
        target = key.endswith("._target_") and value is not None
        if (target or key.startswith("executor.runtime_env.")) and not _is_given(key, given):
            raise _refused(key, f"{value!r} is what the config of a run folder says, and")


def refuse_sending(unresolved: Any, config: Tree, given: Collection[str]) -> None:
    """Refuse a config that would send an environment variable to a server of a file's choice.

    Args:
        unresolved: Its values, in which ``${oc.env:NAME}`` is not replaced yet.
        config: Its values.
        given: Keys that the command line sets.

    Raises:
        UserError: It does; the message names the key.
    """
    tracking = config.get("tracking")
    uri = str(tracking.get("uri")) if isinstance(tracking, dict) else ""
    texts = {key: str(value) for key, value in flatten_keys(unresolved).items()}
    own = _is_given("tracking.uri", given) or _VARIABLE.fullmatch(texts.get("tracking.uri", ""))
    if own or not _SERVER.match(uri):
        return
    for key, text in texts.items():
        if "oc.env" in text and not _is_given(key, given):
            raise UserError(
                f"{key}: {text} would be sent to {uri}, the tracking.uri that a file names; set"
                " tracking.uri on the command line, or add --allow-code (allow_code=True in"
                " Python) if you trust it"
            )


def _is_given(key: str, given: Collection[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in given)


def _check_runtime_env(environment: dict[Any, Any]) -> None:
    key = "executor.runtime_env"
    for name in environment:
        if name not in RUNTIME_ENV:
            raise _refused(f"{key}.{name}", f"keys other than {', '.join(RUNTIME_ENV)}")
    for package in _listed(environment.get("pip")):
        if not _REQUIREMENT.fullmatch(str(package)):
            raise _refused(
                f"{key}.pip",
                f"{package!r} is not a requirement by name, such as [timm, 'scipy>=1.11'], and",
            )
    for name in ("working_dir", "py_modules"):
        for place in _listed(environment.get(name)):
            if "://" in str(place):
                raise _refused(f"{key}.{name}", f"{place} is not a local folder, and")
    for variable in environment.get("env_vars") or ():
        if _LOADERS.fullmatch(str(variable)):
            raise _refused(f"{key}.env_vars", f"the variable {variable}")


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _refused(key: str, what: str) -> UserError:
    return UserError(
        f"{key}: {what} can run any program; add --allow-code (allow_code=True in Python) if you"
        " trust it"
    )
