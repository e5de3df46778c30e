"""From YAML files, config groups and dotted overrides to an Evaluation, through Hydra."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError, nearest
from ..serialization import flatten_keys
from .files import BoundedFiles, check_defaults, load_yaml, read_training, read_yaml
from .permissions import refuse_code, refuse_sending
from .types import EVALUATION, Evaluation, default_epsilons
from .validation import ConfigSpec, Tree, escape_interpolation, field_names, is_path, read

_RUN = "carescale_run"

_WITHOUT_CONFIGS = "foolbox_carescale.core"
"""Hydra searches a module before all folders; in this one it finds nothing."""

_WITHOUT: list[Any] = [
    {f"override hydra/{group}": None}
    for group in (
        *("env", "output", "launcher", "sweeper", "help", "hydra_help"),
        *("hydra_logging", "job_logging"),
    )
]
"""Configs of Hydra's own that only its applications use: a third of the time that it takes."""

SWEEP = "sweep"
"""Key of a file whose lists are zipped into several runs."""

_REFERENCE = r"(?<!\\)(?:\\\\)*\$\{([^{}]*)"  # a backslash escapes one

MOST_REFERENCES, MOST_CHAINED = 256, 16
"""References in a config, and those among them to values with references: n of the latter can
repeat a text 3 ** (n / 3) times."""


def load_evaluation(
    path: str | Path | None = None, overrides: Sequence[str] = (), *, allow_code: bool = False
) -> Evaluation:
    """Return the run that a YAML file, config groups and overrides describe.

    What the file and the groups leave out is the bundled default's. ``attacks`` and
    ``epsilons`` are the exception: a file that has them replaces them as a whole. In
    ``attacks.<label>``, and in ``model`` and ``data`` beside ``_target_``, keys that the config
    does not know are keyword arguments of what is named there.

    Args:
        path: A YAML file, which may have a Hydra defaults list; the folder of a training, whose
            model and data are evaluated; None for the default run.
        overrides: Hydra's override grammar. ``data=folder`` chooses a file of a config group:
            one in a folder ``data`` beside ``path``, or one of those that ship with the package.
            ``model.name=resnet18`` and ``attacks.mine.steps=20`` set a value, ``~attacks.mine``
            removes one, ``~attacks`` all of those so far.
        allow_code: Accept what ``docs/security.md`` says needs ``--allow-code``.

    Raises:
        UserError: The file or an override cannot be used; the message says which and why.
    """
    return compose_evaluation(path, overrides, allow_code=allow_code)


def compose_evaluation(
    path: str | Path | None,
    overrides: Sequence[str],
    swept: Sequence[str] | None = None,
    *,
    allow_code: bool = False,
) -> Evaluation:
    """Return one run of a sweep, or a run without one.

    Args:
        path: As in ``load_evaluation``.
        overrides: As there.
        swept: Overrides that stand in the file's ``sweep``; None where it must not have one.
        allow_code: As in ``load_evaluation``.

    Raises:
        UserError: As in ``load_evaluation``.
    """
    composed = compose_tree(EVALUATION, path, overrides, swept, allow_code=allow_code)
    return read(Evaluation, {"attacks": {}, "epsilons": {}, **composed})


def compose_tree(
    spec: ConfigSpec,
    path: str | Path | None,
    overrides: Sequence[str],
    swept: Sequence[str] | None = None,
    *,
    allow_code: bool = False,
) -> Tree:
    """Return what a YAML file, config groups and overrides say, before types are checked.

    Args:
        spec: Of the config.
        path: As in ``load_evaluation``.
        overrides: As there.
        swept: As in ``compose_evaluation``.
        allow_code: As there.

    Raises:
        UserError: The file or an override cannot be used.
    """
    content = read_content(Path(path), spec) if path is not None else {}
    if content.pop(SWEEP, None) is not None and swept is None:
        raise UserError(f"{path}: has a sweep, which is several runs; take load_sweep for them")
    beside = None if path is None else _folder_of(Path(path))
    own_files = content.get("defaults") or any((beside / g).is_dir() for g in spec.groups if beside)
    parsed = [parse_override(override, spec) for override in (*(swept or ()), *overrides)]
    for override in parsed:
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: holds several values; add --multirun to sweep")
    choices = [override for override in parsed if _is_choice(override, spec)]
    values = [_force(override) for override in parsed if not _is_choice(override, spec)]
    for choice in choices:
        # the command line overrides what the file says itself
        content.pop({"attack": "attacks"}.get(choice.key_or_group, choice.key_or_group), None)
        _check_option(choice.key_or_group, choice.value(), beside, spec)
    defaults = _defaults_list(content, beside, spec)
    folders = [*([] if beside is None else [beside]), *spec.folders]
    searchpath = [f"{BoundedFiles.scheme()}://{folder}" for folder in folders]
    content["hydra"] = {"searchpath": escape_interpolation(searchpath)}
    Plugins.instance().register(BoundedFiles)
    try:
        # hydra.initialize looks for its caller among all modules, most of the time that it takes
        with initialize_config_module(_WITHOUT_CONFIGS, version_base="1.3"):
            chosen = [str(choice.input_line) for choice in choices]
            if "attack" in spec.groups:
                # composing takes Hydra a tenth of a second
                plain = not own_files and not chosen
                _fill_attacks(
                    defaults,
                    content,
                    content if plain else _resolved(_compose(defaults, content, chosen)),
                )
            unresolved = _compose(defaults, content, chosen + values)
            composed = _resolved(unresolved)
    except RecursionError:
        raise UserError(
            f"{path or 'configuration'}: its defaults, or its values, include themselves"
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error, path)) from error
    if not allow_code:
        own = parsed[len(swept or ()) :]  # what a file sweeps, it says itself
        given = [one.key_or_group for one in own if not _is_choice(one, spec)]
        refuse_code(composed, beside, given)
        refuse_sending(OmegaConf.to_container(unresolved), composed, given)
    return composed


def _defaults_list(content: Tree, beside: Path | None, spec: ConfigSpec) -> list[Any]:
    """Take the defaults list out of a file's content; return it with what every run has."""
    defaults = list(content.pop("defaults", None) or [])
    named = {g: o for entry in defaults if isinstance(entry, dict) for g, o in entry.items()}
    for group, option in named.items():
        if group in spec.groups:
            _check_option(group, option, beside, spec)
    # what a file names itself takes no arguments of the default: those are another optimiser's
    named_here = {group for group in spec.groups if "name" in content.get(group, {})}
    standing: list[Any] = [
        {group: None if group in named_here else option}
        for group, option in spec.choices.items()
        if group not in named
    ]
    return standing + defaults + ([] if "_self_" in defaults else ["_self_"])


def _fill_attacks(defaults: list[Any], content: Tree, given: Tree) -> None:
    """Add the default attacks and epsilons to a config in which nobody gives any."""
    if "epsilons" not in given:
        content["epsilons"] = default_epsilons()
    if "attacks" not in given:
        defaults[defaults.index({"attack": None})] = {"attack": "default"}


def parse_override(override: str, spec: ConfigSpec = EVALUATION) -> Override:
    """Return an override in Hydra's grammar, of a key that a run has.

    Raises:
        UserError: It does not parse, or there is no such key.
    """
    key, _, value = override.partition("=")
    parser = OverridesParser.create()
    try:
        path = is_path(spec.config, key.lstrip("+"))
        try:
            parsed = parser.parse_override(override)
            is_text = not isinstance(parsed.value(), (list, dict))
        except HydraException:
            if not path:
                raise
            is_text = False
        if path and not is_text:
            # names of files hold anything, also what means something in Hydra's grammar
            quoted = value.replace("'", r"\'")
            parsed = parser.parse_override(f"{key}='{quoted}'")
    except HydraException as error:
        raise UserError(
            f"the override {override!r} does not parse; write key=value, lists as [1,2], and quotes"
            " around a text of more than a-z, 0-9 and _-./, as in \"data.classes=['Füße']\""
        ) from error
    except (ValueError, RecursionError):  # Python's, of thousands of digits or brackets
        raise UserError(f"the override {override[:60]!r}... is too long or too deep") from None
    first = parsed.key_or_group.partition(".")[0]
    known = {*field_names(spec.config), *spec.groups}
    if parsed.key_or_group == SWEEP:
        raise UserError("sweep: holds lists by key; write one for each key, as in sweep.seed=[0,1]")
    if first not in known:
        raise UserError(f"{first}: there is no such key; {nearest(first, known)}")
    if re.match(r"(report\.)?epsilons\..*\.", parsed.key_or_group):
        # the norm may hold a dot of its own, L1.5, at which Hydra would split
        raise UserError(f"{parsed.key_or_group}: write this norm into a YAML file instead")
    return parsed


def options(group: str, beside: Path | None = None, spec: ConfigSpec = EVALUATION) -> list[str]:
    """Return the names that a config group can take: files of the package, and beside a file."""
    roots = [*spec.folders, *([] if beside is None else [beside])]
    folders = [root / group for root in roots]
    return sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})


def _folder_of(path: Path) -> Path:
    return path.resolve() if path.is_dir() else path.resolve().parent


def read_content(path: Path, spec: ConfigSpec = EVALUATION) -> Tree:
    """Return what a YAML file says, or the folder of a training.

    Raises:
        UserError: It cannot be read, or has a key that no config has.
    """
    if path.is_dir():
        if spec is EVALUATION:
            return read_training(path)
        raise UserError(f"{path}: is a folder; give a YAML file (output={path} resumes there)")
    try:
        text = read_yaml(path)
    except FileNotFoundError:
        beside = {other.stem: str(other) for other in path.parent.glob("*.y*ml")}
        close = difflib.get_close_matches(path.stem, beside, n=1)
        hint = f"; did you mean {beside[close[0]]!r}?" if close else ""
        raise UserError(f"{path}: there is no such file{hint}") from None
    content = load_yaml(path, text)
    known = field_names(spec.config)
    for key in content:
        if key not in ("defaults", *([SWEEP] if spec is EVALUATION else []), *known):
            group = (
                f"choose a file of the group {key} in the defaults list or on the command line"
                if key in spec.groups
                else nearest(str(key), known)
            )
            raise UserError(f"{path}: there is no key {key!r}; {group}")
    check_defaults(path, content)
    said = {k: v for k, v in content.items() if v is not None or not _is_node(k, spec)}
    for key, value in said.items():
        if _is_node(key, spec) and not isinstance(value, dict):
            raise UserError(f"{key}: {value!r} is not a mapping; see carescale {spec.command} -h")
    return said


def _is_node(key: str, spec: ConfigSpec) -> bool:
    return key in ("attacks", "epsilons", "report") or spec.groups.get(key) is not None


def _is_choice(override: Override, spec: ConfigSpec) -> bool:
    return override.key_or_group in spec.groups and not override.is_delete()


def _check_option(group: str, option: Any, beside: Path | None, spec: ConfigSpec) -> None:
    valid = options(group, beside, spec)
    if option in valid:
        return
    if group == "data" and isinstance(option, str) and Path(option).is_dir():
        raise UserError(f"data: {option!r} is a folder; write data=folder data.root={option}")
    if isinstance(option, str) and "/" not in option:
        own = {"model": "model.name", "data": "data.name"}.get(group)
        more = f" (anything else by name: {own}={option})" if own else ""
        raise UserError(f"{group}: there is no {option!r}; {nearest(option, valid)}{more}")
    raise UserError(f"{group}: {option!r} is not the name of a config; {nearest('', valid)}")


def _force(override: Override) -> str:
    """Return the override with leave to add a key: keys are checked once, afterwards."""
    line = str(override.input_line)
    return line if override.is_delete() else f"++{line.lstrip('+')}"


def _compose(defaults: list[Any], content: Tree, overrides: list[str]) -> DictConfig:
    """Return a config whose references can be resolved."""
    ConfigStore.instance().store(_RUN, {"defaults": [*defaults, *_WITHOUT], **content})
    composed = compose(_RUN, overrides=overrides)
    _check_interpolation(cast(Tree, OmegaConf.to_container(composed)))
    return composed


def _resolved(config: DictConfig) -> Tree:
    return cast(Tree, OmegaConf.to_container(config, resolve=True, throw_on_missing=True))


def _check_interpolation(config: Tree) -> None:
    """Raise a UserError where ``${...}`` does more than name a key or an environment variable.

    A resolver whose name is a reference itself would hide what it reads, and references to
    references could repeat a text over and over.
    """
    texts = {key: str(value) for key, value in flatten_keys(config).items() if "${" in str(value)}
    references = [
        (key, one)
        for key, value in flatten_keys(config).items()
        for text in _strings(value)
        for one in re.findall(_REFERENCE, text)
    ]
    chained = []
    for key, reference in references:
        if not re.fullmatch(r"oc\.env:[^$]*|\.*\w[\w.\[\]-]*", reference.strip()):
            raise UserError(
                f"{key}: {texts[key][:80]!r} is not available; ${{...}} takes a key, or oc.env:NAME"
            )
        ends = f"{reference}."
        inside = any(f"{one}.".startswith(ends) or ends.startswith(f"{one}.") for one in texts)
        if inside or not re.fullmatch(r"oc\.env:.*|\w[\w.]*", reference):
            chained.append(key)
    if len(chained) > MOST_CHAINED or len(references) > MOST_REFERENCES:
        raise UserError(
            f"{references[0][0]}: {len(references)} references with ${{...}}, {len(chained)} of"
            " them relative or to values with references, are too many; write out some of them"
        )


def _strings(value: Any) -> Iterator[str]:
    """Yield the texts in a value, and in lists and mappings within it."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


def _explain(error: BaseException, path: str | Path | None) -> str:
    """Return one line of Hydra's and OmegaConf's chain of errors: key, offence, remedy."""
    chain = [error]
    # under a debugger, OmegaConf's errors may be their own causes
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    found = next((e for e in chain if isinstance(e, OmegaConfBaseException)), None)
    first = str(found or error).split("\n")[0].replace(f"In '{_RUN}': ", "")
    if match := re.match(r"Could not delete from config. '(.+)' does not exist", first):
        return f"{match[1]}: is not there to be removed"
    return f"{(found and found.full_key) or path or 'configuration'}: {first}"
