"""``carescale doctor``: versions, devices, engines, threads and extras."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import engines

PACKAGES = (
    "foolbox-carescale",
    "foolbox",
    "eagerpy",
    "numpy",
    "numba",
    "torch",
    "torchvision",
    "triton",
    "jax",
    "tensorflow",
)

FOR_DEVELOPERS = ("test", "dev")
"""Extras that nobody misses who only uses the package."""


def diagnose() -> Iterator[tuple[str, str]]:
    """Yield pairs of a subject and what was found; imports every framework that is installed.

    A framework that cannot be imported is a finding, not an error.
    """
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for name in PACKAGES:
        yield name, _version(name)
    frameworks = _frameworks()
    for name, found in frameworks.items():
        if isinstance(found, str):
            yield name, found
        else:
            devices, tensor = found
            yield f"{name} devices", devices
            yield f"{name} engine", engines.explain(tensor)
    yield "numpy engine", engines.explain(np.zeros((1, 1)))
    yield from _threads()
    if importlib.util.find_spec("numba") is not None:
        yield "numba cache", _cache()
    yield from _extras()


def _version(name: str) -> str:
    candidates = (name, f"{name}-cpu")  # of TensorFlow
    for candidate in candidates:
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _frameworks() -> dict[str, tuple[str, Any] | str]:
    """Return by framework its devices and a tensor on the first, or why it does not work."""

    def torch() -> tuple[str, Any]:
        import torch

        count = torch.cuda.device_count()
        names = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(count)]
        where = "cuda" if count else "cpu"
        return ", ".join(["cpu", *names]), torch.zeros(1, 1, device=where)

    def jax() -> tuple[str, Any]:
        import jax

        return ", ".join(map(str, jax.devices())), jax.numpy.zeros((1, 1))

    def tensorflow() -> tuple[str, Any]:
        import tensorflow as tf

        names = [device.name for device in tf.config.list_physical_devices()]
        return ", ".join(names), tf.zeros((1, 1))

    # TensorFlow last: imported before Triton, which torch may import, it crashes the process
    ways: dict[str, Callable[[], tuple[str, Any]]] = {
        "torch": torch,
        "jax": jax,
        "tensorflow": tensorflow,
    }
    if importlib.util.find_spec("triton") is not None:
        importlib.import_module("triton")
    found: dict[str, tuple[str, Any] | str] = {}
    for name, way in ways.items():
        if importlib.util.find_spec(name) is not None:
            try:
                found[name] = way()
            except Exception as error:  # whatever a broken installation raises is the finding
                found[name] = f"cannot be used: {type(error).__name__}: {error}"
    return found


def _threads() -> Iterator[tuple[str, str]]:
    yield "processors", str(os.cpu_count())
    if importlib.util.find_spec("numba") is not None:
        from ..engines.numba_cpu.threads import ENVIRONMENT_VARIABLE, get_num_threads

        yield "threads of the engine", f"{get_num_threads()} ({ENVIRONMENT_VARIABLE} sets them)"
    if (torch := sys.modules.get("torch")) is not None:
        yield "threads of torch", str(torch.get_num_threads())


def _cache() -> str:
    from ..engines.numba_cpu.kernels import solve_rows

    path = Path(solve_rows.stats.cache_path)
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if os.access(there, os.W_OK):
        return f"{path}, writable"
    return (
        f"{path}, not writable: every process compiles again, which takes seconds;"
        " set NUMBA_CACHE_DIR to a writable folder"
    )


def _extras() -> Iterator[tuple[str, str]]:
    groups: dict[str, list[str]] = {}
    alternatives: dict[str, list[str]] = {}  # one package or another, by platform
    for line in importlib.metadata.requires("foolbox-carescale") or ():
        marked = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        name = re.match(r"[\w.-]+", line)
        if marked and name and marked[1] not in FOR_DEVELOPERS and name[0] != "foolbox-carescale":
            where = alternatives if "sys_platform" in line else groups
            where.setdefault(marked[1], []).append(name[0])
    for extra in dict.fromkeys([*groups, *alternatives]):
        missing = [n for n in groups.get(extra, ()) if _version(n) == "not installed"]
        options = alternatives.get(extra, [])
        if options and all(_version(n) == "not installed" for n in options):
            missing.append(" or ".join(options))
        yield (
            f"extra {extra}",
            f"lacks {', '.join(missing)}; run: pip install 'foolbox-carescale[{extra}]'"
            if missing
            else "complete",
        )
