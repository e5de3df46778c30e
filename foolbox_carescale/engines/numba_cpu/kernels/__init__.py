"""The compiled passes over rows: what `numba_cpu.arrays` calls, a file for each kind of work."""

from __future__ import annotations

from pathlib import Path

from .gradients import gradient_rows, point_gradient_rows
from .momentum import accumulate_rows
from .passes import NAN_DELTA, NAN_X, OUT_OF_BOUNDS
from .powers import GENERAL, KINDS, general_order
from .projection import constrain_rows
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
    "constrain_rows",
    "general_order",
    "gradient_rows",
    "point_gradient_rows",
    "solve_rows",
    "steepest_rows",
]


def forget_stale(folder: Path) -> None:
    """Remove what numba has cached of older sources than the folder's newest.

    numba itself looks at the file of the outermost function only, and would go on with what an
    edited or upgraded file next to it was.
    """
    newest = max(path.stat().st_mtime for path in folder.glob("*.py"))
    for index in folder.glob("__pycache__/*.nbi"):
        try:
            if index.stat().st_mtime < newest:
                index.unlink()
        except OSError:  # another process was faster, or the folder cannot be written to
            pass


forget_stale(Path(__file__).parent)
