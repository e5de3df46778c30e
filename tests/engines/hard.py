"""All hard cases of `tests.reference` as the rows of one problem, and what an engine owes them."""

from __future__ import annotations

import math

import numpy as np

from tests import reference

ORDERS = (0.5, 1.0, 1.3, 1.5, 2.0, 3.0, 10.0, math.inf)
LENGTH = 1083  # longer than what the engines sum in order
# Relative error of the norm that design and issue ask for. For p < 1 it is a higher power of the
# sum that carries the rounding.
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


class Problem:
    """Rows: each case at each fraction of what it can reach; as the dtype holds them."""

    def __init__(self, p, dtype, length=LENGTH, lower=0.0, upper=1.0, cases=reference.CASES):
        count = len(reference.FRACTIONS)
        parts = [reference.case(name, shape=(count, length)) for name in cases]
        x = np.concatenate([x for x, _ in parts])
        delta = np.concatenate([delta for _, delta in parts])
        self.names = np.repeat(cases, count)
        self.p, self.dtype, self.lower, self.upper = p, dtype, lower, upper
        low, high = np.asarray(lower, dtype), np.asarray(upper, dtype)
        self.x = np.clip((low + (high - low) * x).astype(dtype), low, high)
        self.delta = delta.astype(dtype)
        self.reach = reference.reachable_norm(self.x, self.delta, p, lower, upper)
        fractions = np.resize(reference.FRACTIONS, len(x))
        self.eps = (fractions * self.reach).astype(dtype).reshape(-1, 1)

    def check(self, eta):
        """The norm is eps, or all that is reachable; eta is a finite number in any case."""
        eta = np.asarray(eta)
        assert eta.shape == (len(self.x), 1)
        assert eta.dtype == self.dtype
        assert np.all(np.isfinite(eta))
        wanted = np.minimum(self.eps[:, 0].astype(float), self.reach)
        size = reference.measured_norm(eta, self.x, self.delta, self.p, self.lower, self.upper)
        error = np.abs(size - wanted) / np.where(wanted > 0, wanted, 1.0)
        allowed = TOLERANCE[self.dtype] * (5 if self.p < 1 else 1)
        worst = int(np.argmax(error))
        assert error[worst] <= allowed, (self.names[worst], self.p, self.eps[worst], error[worst])
        np.testing.assert_array_equal(eta[self.eps == 0], 0)
        np.testing.assert_array_equal(eta[self.reach == 0], 0)
        return error
