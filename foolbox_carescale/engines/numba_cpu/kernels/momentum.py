"""What an ascent keeps of its steps before."""

# numba infers the types of what it compiles
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np

from .compiling import BLOCK, CALLED_FROM_PYTHON, FAST, compiled


@compiled(fastmath=FAST)
def mix(a, b, c, momentum):
    """Make a of b + (1 - momentum) (a - b) + momentum (b - c)."""
    rest = a.dtype.type(1) - momentum
    for j in range(a.size):
        a[j] = b[j] + rest * (a[j] - b[j]) + momentum * (b[j] - c[j])


@compiled(fastmath=FAST)
def _size_block(g):
    size = g.dtype.type(0)
    for j in range(g.size):
        size += abs(g[j])
    return size


@compiled(fastmath=FAST)
def _decay_and_add(total, decay, g, scale):
    for j in range(g.size):
        total[j] = decay * total[j] + scale * g[j]


@compiled(**CALLED_FROM_PYTHON)
def accumulate_rows(total, decay, g, least, first, last):
    """Rows first..last: total = decay total + g / max(||g||_1, least), g being 0 where not finite.

    The usual row is read for its norm, and for the sum while it is in the cache.
    """
    largest = np.finfo(g.dtype).max
    for i in range(first, last):
        row, size = g[i], 0.0
        for start in range(0, row.size, BLOCK):
            size += _size_block(row[start : start + BLOCK])
        if size < np.inf:
            _decay_and_add(total[i], decay, row, g.dtype.type(1 / max(size, least)))
            continue
        size = 0.0  # a term, or in float32 the sum of a block, is not finite
        for j in range(row.size):
            size += float(abs(row[j])) if abs(row[j]) <= largest else 0.0
        for j in range(row.size):
            part = float(row[j]) / size if abs(row[j]) <= largest else 0.0
            total[i, j] = decay * total[i, j] + g.dtype.type(part)
