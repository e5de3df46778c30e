"""From a YAML file and dotted overrides to an Evaluation, through Hydra's compose API."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from foolbox_carescale.evaluate.config import (
    AttackConfig,
    DataConfig,
    Evaluation,
    ModelConfig,
    default_attacks,
    default_epsilons,
    field_names,
    plain,
)
from foolbox_carescale.evaluate.errors import UserError, nearest

_SCHEMA, _RUN = "carescale_schema", "carescale_run"
_NODES = {"model": ModelConfig, "data": DataConfig}


def load_evaluation(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Evaluation:
    """The run that a YAML file and overrides describe.

    What the file leaves out is the embedded default's. ``attacks`` and ``epsilons`` are the
    exception: a file that has them replaces them as a whole. In ``attacks.<label>``, and in
    ``model`` and ``data`` beside ``_target_``, keys that the config does not know are
    keyword arguments of what is named there.

    Args:
        path: A YAML file, which may have a Hydra defaults list; None for the default run.
        overrides: Hydra's override grammar, such as ``model.name=resnet18``,
            ``attacks.mine.steps=20``, ``~attacks.mine`` (without it) and ``~attacks``
            (without any of those so far).

    Raises:
        UserError: The file or an override cannot be used; the message says which and why.
    """
    content = _read(Path(path)) if path is not None else {}
    content.setdefault("attacks", plain(default_attacks()))
    content.setdefault("epsilons", default_epsilons())
    _check_mappings(content)
    for label, attack in content["attacks"].items():
        gathered = _gather(attack, AttackConfig, f"attacks.{label}")
        content["attacks"][label] = _with_floats(gathered, "epsilons")
    content["epsilons"] = _with_floats(content["epsilons"], *content["epsilons"])
    arranged = [a for override in overrides if (a := _arrange(override, content)) is not None]
    for key, node in _NODES.items():
        given = _with_floats(content.get(key) or {}, "mean", "std")
        content[key] = _gather(given, node, key) if "_target_" in given else given
    defaults = list(content.pop("defaults", None) or [])
    if "_self_" not in defaults:
        defaults.append("_self_")

    store = ConfigStore.instance()
    store.store(_SCHEMA, Evaluation(attacks={}, epsilons={}))
    store.store(_RUN, {"defaults": [_SCHEMA, *defaults], **content})
    where = (
        initialize(config_path=None, version_base="1.3")
        if path is None
        else initialize_config_dir(str(Path(path).resolve().parent), version_base="1.3")
    )
    try:
        with where:
            composed = compose(_RUN, overrides=arranged)
        evaluation = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error, path)) from error
    assert isinstance(evaluation, Evaluation)
    evaluation.validate()
    return evaluation


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError:
        beside = {other.stem: str(other) for other in path.parent.glob("*.y*ml")}
        close = difflib.get_close_matches(path.stem, beside, n=1)
        hint = f"; did you mean {beside[close[0]]!r}?" if close else ""
        raise UserError(f"{path}: there is no such file{hint}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{path}: is not valid YAML{at}: {problem}") from error
    content: Any = OmegaConf.to_container(loaded)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a list; give a mapping, such as 'seed: 0'")
    for key in content:
        if key != "defaults" and key not in field_names(Evaluation):
            known = field_names(Evaluation)
            raise UserError(f"{path}: there is no key {key!r}; {nearest(str(key), known)}")
    return content


def _check_mappings(content: dict[str, Any]) -> None:
    for key in ("model", "data", "attacks", "epsilons"):
        value = content.get(key, {})
        if value is None:
            content[key] = {}
        elif not isinstance(value, dict):
            raise UserError(f"{key}: {value!r} is not a mapping; see carescale evaluate --help")
    for label, attack in content["attacks"].items():
        if not isinstance(attack, dict):
            raise UserError(
                f"attacks.{label}: {attack!r} is not a mapping; write attacks.{label}.name=..."
            )


def _gather(node: dict[str, Any], config: type, key: str) -> dict[str, Any]:
    """Move the keys that the config does not know below ``params``."""
    known = field_names(config)
    gathered = {k: v for k, v in node.items() if k in known}
    beside = {k: v for k, v in node.items() if k not in known}
    params = gathered.get("params") or {}
    if not isinstance(params, dict):
        raise UserError(f"{key}.params: {params!r} is not a mapping")
    return {**gathered, "params": {**params, **beside}}


def _with_floats(node: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The node with whole numbers in these lists as floats, which OmegaConf insists on."""
    lists = {key: node[key] for key in keys if isinstance(node.get(key), list)}
    return node | {
        key: [float(item) if type(item) is int else item for item in items]
        for key, items in lists.items()
    }


def _arrange(override: str, content: dict[str, Any]) -> str | None:
    """The override with keyword arguments below ``params``, and allowed to add to mappings.

    Hydra refuses to add an entry to a mapping of dataclasses, so a new attack's label is put
    into ``content`` first; and a deleted mapping would come back as the default, so it is
    emptied here, which leaves nothing to override.
    """
    if override in ("~attacks", "~epsilons"):
        content[override[1:]] = {}
        return None
    match = re.fullmatch(r"(\+\+|\+|~)?(attacks|epsilons|model|data)\.([^=]+)(=.*)?", override)
    if not match:
        return override
    prefix, group, rest, value = match[1] or "", match[2], match[3], match[4] or ""
    parts = rest.split(".")
    add = prefix if prefix == "~" else "++"
    if group == "epsilons":
        # the norm may hold a dot of its own, L1.5, which Hydra would split
        if "." in rest:
            raise UserError(f"epsilons.{rest}: write this norm into a YAML file instead")
        return f"{add}epsilons.{rest}{value}"
    if group == "attacks":
        label, *inner = parts
        if label not in content["attacks"]:
            if inner != ["name"] or prefix == "~":
                raise UserError(
                    f"attacks.{rest}: no attack has the label {label!r};"
                    f" {nearest(label, content['attacks'])}"
                    + ("" if prefix == "~" else f" (a new one: attacks.{label}.name=...)")
                )
            content["attacks"][label] = {"params": {}}
        if inner and inner[0] not in field_names(AttackConfig):
            inner = ["params", *inner]
        return f"{add}{'.'.join(['attacks', label, *inner])}{value}"
    given = content.setdefault(group, {})
    if parts == ["_target_"]:
        given["_target_"] = value[1:]
    if "_target_" in given and parts[0] not in field_names(_NODES[group]):
        return f"{add}{'.'.join([group, 'params', *parts])}{value}"
    return f"{add}{group}.{rest}{value}" if parts[0] == "params" else override


def _explain(error: BaseException, path: str | Path | None) -> str:
    """One line from Hydra's and OmegaConf's chain of errors: key, offence, remedy."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    found = next((e for e in chain if isinstance(e, OmegaConfBaseException)), None)
    if isinstance(error, OverrideParseException):
        given = (error.override or "").lstrip("+")
        return f"the override {given!r} does not parse; write key=value, and lists as [1,2]"
    if found is None:  # a delete, or a group, that is not there
        first = str(error).split("\n")[0].replace(f"In '{_RUN}': ", "")
        return f"{path or 'configuration'}: {first}"
    problem = str(found).split("\n")[0]
    key = str(found.full_key or path or "configuration")
    parent = found.object_type
    if problem.startswith("Key ") and dataclasses.is_dataclass(parent):
        known = field_names(parent if isinstance(parent, type) else type(parent))
        hint = nearest(key.rpartition(".")[2], known)
        if "_target_" in known:
            hint += " (arguments of what is named go below params)"
        return f"{key}: there is no such key; {hint}"
    for pattern, replacement in _PLAINER:
        if match := re.match(pattern, problem):
            return f"{key}: {match.expand(replacement).replace('KEY', key)}"
    return f"{key}: {problem}"


_PLAINER = (
    (r"Value (.+) of type '.*' could not be converted to (\w+)", r"\1 is not of type \2"),
    (
        r"Value (.+) \(\w+\) is incompatible with type hint 'typing\.List.*",
        r"\1 is not a list; write [\1]",
    ),
    (r"Value (.+) \(\w+\) is incompatible with type hint '(.+)'", r"\1 is not a \2"),
    (r"Invalid value assigned: (\w+) is not a ListConfig.*", r"\1 is not a list; write KEY=[...]"),
    (
        r"(?:Merge error|Invalid type assigned): .* is not a subclass of \w+\. value: (.*)",
        r"'\1' is not a mapping; write KEY.name=\1",
    ),
)
"""OmegaConf's messages in this project's words."""
