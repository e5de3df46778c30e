"""The compiled passes over rows: what `numba_cpu.arrays` calls, a file for each kind of work."""

from __future__ import annotations

from .gradients import gradient_rows
from .momentum import accumulate_rows
from .passes import NAN_DELTA, NAN_X, OUT_OF_BOUNDS
from .powers import GENERAL, KINDS, general_order
from .projection import project_rows
from .roots import SOLVE_ONLY, WRITE, WRITE_IN_PLACE, solve_rows
from .steepest import steepest_rows

__all__ = [
    "GENERAL",
    "KINDS",
    "NAN_DELTA",
    "NAN_X",
    "OUT_OF_BOUNDS",
    "SOLVE_ONLY",
    "WRITE",
    "WRITE_IN_PLACE",
    "accumulate_rows",
    "general_order",
    "gradient_rows",
    "project_rows",
    "solve_rows",
    "steepest_rows",
]
