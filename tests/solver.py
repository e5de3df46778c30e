"""How far a step or a projection is from the best one, at most: by Lagrangian duality.

For every multiplier of the norm constraint the Lagrangian falls apart into one problem per
coordinate, solved by hand, and its value bounds the optimum (weak duality, which asks for no
theorem about the operator). The best multiplier is found by a scalar search. A gap of zero
proves the operator's answer optimal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar


def most_gain(grad: Any, room: Any, eps: float, p: float) -> float:
    """An upper bound of max <grad, s> over ||s||_p <= eps, 0 <= sign(grad) s <= room; one sample.

    Moving against the gradient never gains.
    """
    g = np.abs(grad)
    if p == math.inf:
        return float(np.sum(g * np.minimum(room, eps)))

    def bound(multiplier: float) -> float:
        if p == 1:
            return float(np.sum(np.maximum(g - multiplier, 0) * room) + multiplier * eps)
        s = np.minimum(g / multiplier, room ** (p - 1)) ** (1 / (p - 1))
        return float(np.sum(g * s - multiplier * s**p / p) + multiplier * eps**p / p)

    kinks = g if p == 1 else ()
    return min([float(np.sum(g * room)), _least(bound), *(bound(k) for k in kinks)])


def least_distance(
    x: Any, x0: Any, eps: float, p: float, lower: Any = 0.0, upper: Any = 1.0
) -> float:
    """A lower bound of ||z - x||^2 / 2 over ||z - x0||_p <= eps, z in the box; one sample."""
    if p == math.inf:
        z = np.clip(x, np.maximum(lower, x0 - eps), np.minimum(upper, x0 + eps))
        return float(np.sum((z - x) ** 2) / 2)

    def bound(multiplier: float) -> float:
        if p == 2:
            z = np.clip((x + multiplier * x0) / (1 + multiplier), lower, upper)
            spent = (np.sum((z - x0) ** 2) - eps**2) / 2
        else:
            v = x - x0
            z = np.clip(x0 + np.sign(v) * np.maximum(np.abs(v) - multiplier, 0), lower, upper)
            spent = np.sum(np.abs(z - x0)) - eps
        return float(np.sum((z - x) ** 2) / 2 + multiplier * spent)

    kinks = [] if p == 2 else np.abs(x - x0)
    return max([bound(0.0), -_least(lambda m: -bound(m)), *(bound(k) for k in kinks)])


def _least(convex: Callable[[float], float]) -> float:
    # 24 decades by halves of a decade, then the best neighbourhood to the last digit
    grid = np.arange(-12.0, 12.0, 0.5)
    best = grid[np.argmin([convex(10.0**m) for m in grid])]
    found = minimize_scalar(
        lambda m: convex(10.0**m),
        bounds=(best - 0.5, best + 0.5),
        method="bounded",
        options={"xatol": 1e-12},
    )
    return float(found.fun)
