"""A pytest plugin: numba's kernels as plain Python, in which a mutant needs no compiler."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numba
import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox  # noqa: F401  # whose own classes have to be compiled


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    """Before anything imports the kernels."""
    numba.config.DISABLE_JIT = True
    from tests.engines import interpreted

    interpreted.by_python()


@pytest.fixture(autouse=True)
def _as_in_compiled_code() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield
