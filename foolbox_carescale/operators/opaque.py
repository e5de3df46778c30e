"""The operators that compilers see as one node each, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OPERATORS: dict[str, Callable[..., Any]] = {}
"""The functions themselves, without what keeps the compilers out."""
