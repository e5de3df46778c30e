"""Objects that ``_target_`` names: imported, and called with the config's keys that they take."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from ..config.types import DataConfig, ModelConfig
from ..errors import UserError, describe, nearest

C = TypeVar("C", ModelConfig, DataConfig)


def call_target(
    key: str, config: C, *, inert: Sequence[str], both: Sequence[str] = ()
) -> tuple[Any, C]:
    """Return what ``_target_`` returns, and the config without the keys that it took.

    A key of the config that has a value of its own is passed where the signature has an argument
    of that name; what ``params`` holds is passed in any case.

    Args:
        key: Of the config in the run, such as ``model``.
        config: The config, whose ``_target_`` is called.
        inert: Its keys that nothing else reads where ``_target_`` is given.
        both: Its keys that are passed, and still mean what they mean.

    Raises:
        UserError: Nothing would read a key, it means two things, or the call fails.
    """
    target = str(config._target_)
    function = find_target(key, target)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some built-in callables
        signature = inspect.Signature([inspect.Parameter("_", inspect.Parameter.VAR_KEYWORD)])
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    params, taken = dict(config.params), dict[str, Any]()
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        if name in ("_target_", "params") or value == field.default:
            continue
        named = name in signature.parameters
        shared = isinstance(config, ModelConfig) or name in (*inert, *both)
        if name in params and shared and (named or name in inert):
            if params[name] != value:
                raise UserError(
                    f"{key}.{name}: is {value!r}, but {key}.params.{name} is {params[name]!r};"
                    " give one of them"
                )
        elif named or (takes_any and name in inert):
            if name in params:
                continue
            if not shared:
                raise UserError(
                    f"{key}.{name}: {target} has an argument of this name, and the config a key;"
                    f" write {key}.params.{name}={value} for the argument"
                )
            params[name] = value
        elif name in inert and value is not None:
            raise UserError(
                f"{key}.{name}: {target} has no argument of this name, and nothing else reads it;"
                f" {nearest(name, signature.parameters)}"
            )
        else:
            continue
        if name not in both:
            taken[name] = field.default
    try:
        signature.bind(**params)
    except TypeError as error:
        raise UserError(
            f"{key}._target_: {target}: {error}; its signature is {signature}"
        ) from error
    with named_errors(f"{key}._target_: {target}"):
        return function(**params), dataclasses.replace(config, **taken)


def takes(key: str, target: str, name: str) -> bool:
    """Return whether what ``_target_`` names takes a keyword argument."""
    try:
        parameters = inspect.signature(find_target(key, target)).parameters
    except (TypeError, ValueError):  # of some built-in callables
        return True
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def check_params(name: str, params: Mapping[str, Any], accepted: Mapping[str, Any]) -> None:
    """Raise a UserError for a key of ``data.params`` that a data set does not take."""
    for key in params:
        if key not in accepted:
            raise UserError(
                f"data.params.{key}: {name} has no such argument; {nearest(key, accepted)}"
            )


@contextmanager
def named_errors(where: str) -> Iterator[None]:
    """Raise an error inside a user's own code as one line that says whose it is and where."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(last.filename)}, line {last.lineno}"
        raise UserError(
            f"{where} raises {describe(error)} ({place}); --debug shows the traceback"
        ) from error


def find_target(key: str, target: str) -> Callable[..., Any]:
    """Return what ``_target_`` names.

    Modules in the working directory are found, as with ``python -m``.
    """
    module_name, _, name = target.rpartition(".")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    with named_errors(f"{key}._target_: importing {module_name}"):
        try:
            if not module_name or module_name.startswith("."):
                raise ModuleNotFoundError(name=module_name)
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not f"{module_name}.".startswith(f"{error.name}."):
                raise  # the user's module is there, but something that it imports is not
            raise UserError(
                f"{key}._target_: there is no module {module_name!r} for {target!r};"
                " write package.module.callable"
            ) from error
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        raise UserError(
            f"{key}._target_: {module_name} has no callable {name!r}; {nearest(name, vars(module))}"
        )
    return function
