"""Refuse what would run code, or send secrets, unasked, unless ``--allow-code`` is given."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from ..errors import UserError
from ..serialization import flatten_keys
from .validation import Tree

RUNTIME_ENV = ("working_dir", "py_modules", "excludes", "pip", "env_vars")
"""Keys of Ray's runtime environment that start no program of a file's choice."""

RECORDS = ("run.json", "train.json")
"""Files that make a folder a run folder."""

VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "MKL_NUM_THREADS",
    "NCCL_DEBUG", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY",
    "OPENBLAS_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
    "TF_CPP_MIN_LOG_LEVEL", "TF_FORCE_GPU_ALLOW_GROWTH", "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
)  # fmt: skip
"""Environment variables that name no program, library, file or server."""

_ARCHIVE = re.compile(r"\.(whl|zip|jar|tar|t[bglx]z)\b", re.IGNORECASE)
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
    model = config.get("model")
    params = model.get("params") if isinstance(model, dict) else None
    if isinstance(params, dict) and params.get("trust_remote_code"):
        raise _refused("model.params.trust_remote_code", "code of the model's repository")
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
    pip = environment.get("pip")
    if pip is not None and not (isinstance(pip, list) and all(map(_is_requirement, pip))):
        raise _refused(
            f"{key}.pip",
            f"{pip!r} is not a list of requirements by name, such as [timm, 'scipy>=1.11'], and",
        )
    for name in ("working_dir", "py_modules"):
        for place in map(str, _listed(environment.get(name))):
            if "://" in place or _ARCHIVE.search(place):
                raise _refused(f"{key}.{name}", f"{place} is not a local folder, and")
    for variable in _listed(environment.get("env_vars")):
        if str(variable) not in VARIABLES:
            raise _refused(
                f"{key}.env_vars", f"{variable} is not a variable that docs/security.md lists, and"
            )


def _is_requirement(package: Any) -> bool:
    """Return whether pip, in a file of requirements, takes a package from an index by name."""
    try:
        found = Requirement(package)
    except (InvalidRequirement, TypeError, AttributeError):
        return False
    # '===' takes any text, also an option or a path, and so does a marker
    free = found.url or found.marker or any(one.operator == "===" for one in found.specifier)
    return not free and not _ARCHIVE.search(package)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, dict)) else [value]


def _refused(key: str, what: str) -> UserError:
    return UserError(
        f"{key}: {what} can run any program; add --allow-code (allow_code=True in Python) if you"
        " trust it"
    )
