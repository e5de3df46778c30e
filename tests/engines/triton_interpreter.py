"""Triton's interpreter, which decides by the environment when Triton is first imported."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


def speed_up() -> None:
    """Have functions that a kernel calls prepared once, not in every call: four times as fast."""
    from triton.runtime import interpreter

    prepared: set[str] = set()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fn.__module__ not in prepared:
            prepared.add(self.fn.__module__)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call

    look_up, known = interpreter._get_np_dtype, {}

    def np_dtype(kind: Any) -> Any:  # which makes a table of all types for one of them
        name = kind.scalar.name
        if name not in known:
            known[name] = look_up(kind)
        return known[name]

    interpreter._get_np_dtype = np_dtype


def nightly(*values: Any) -> Any:
    """Return a case that the interpreter, which takes seconds for it, leaves to the night."""
    return pytest.param(*values, marks=[pytest.mark.nightly] if INTERPRETED else [])


def run_tests_of(*paths: str, cases: str = "not nightly") -> None:
    """Run files of tests in a process of its own whose kernels are interpreted."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", cases, *paths],
        cwd=pathlib.Path(__file__).parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
