"""How exact the operator has to be, and the assertion that it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests import backends, reference

# relative error of the norm; half: eta itself is rounded to the dtype, and the norm follows
# eta at most proportionally
TOLERANCE = {"float64": 1e-12, "float32": 1e-6, "float16": 2.0**-11, "bfloat16": 2.0**-8}
# where the dtype's normal numbers begin, and its largest one
NORMAL = {
    "float16": (2.0**-14, 65504.0),
    "bfloat16": (2.0**-126, 3.38e38),
    "float32": (2.0**-126, float(np.finfo(np.float32).max)),
    "float64": (2.0**-1022, float(np.finfo(np.float64).max)),
}


def tolerance(dtype: str, p: float) -> float:
    # for p < 1 the norm is a higher power of the sum that carries the rounding
    single = TOLERANCE[dtype] if dtype in ("float32", "float64") else TOLERANCE["float32"]
    rounding = TOLERANCE[dtype] if dtype not in ("float32", "float64") else 0.0
    return single * (5 if p < 1 else 1) + rounding


def assert_norm(
    backend: backends.Backend,
    eta: Any,
    x: Any,
    delta: Any,
    eps: Any,
    p: float,
    lower: Any = 0.0,
    upper: Any = 1.0,
) -> None:
    """The norm after the clip is eps, or all that is reachable, and eta is finite."""
    wanted = np.minimum(eps, reference.reachable_norm(x, delta, p, lower, upper))
    size = reference.measured_norm(eta, x, delta, p, lower, upper)
    error = np.abs(size - wanted)
    exact_enough = error <= tolerance(backend.dtype, p) * wanted
    if not exact_enough.all():
        exact = reference.bisected_eta(x, delta, eps, p, lower, upper)
        smallest, largest = NORMAL[backend.dtype]
        # below the normal numbers half a step of the dtype is more than a relative error says
        exact_enough |= exact < smallest
        exact_enough |= (exact > largest) & (size < wanted)
    assert np.all(np.isfinite(eta))
    assert exact_enough.all(), (size / np.where(wanted > 0, wanted, 1), eps)
