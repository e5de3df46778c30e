"""Newton's search for eta, compiled by XLA: one for JAX and TensorFlow; see `newton`.

``ops`` is the module of a framework, `jax_ops` or `tensorflow_ops`: its array functions (``xp``,
where the two have the same names and meanings), and the control flow and bits, which they spell
differently.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from .. import newton, pow
from ..newton import BRACKETED_PASSES, LARGEST_EPS, PARTS, PASSES

Array: TypeAlias = Any  # of JAX or TensorFlow, which has no types
Terms: TypeAlias = Callable[[Any, int], Array]


def solve(
    ops: Any,
    x: Array,
    delta: Array,
    eps: Array,
    lower: float | Array,
    upper: float | Array,
    p: float,
    largest_eta: float | Array,
) -> Array:
    """Return the smallest eta with ``||min(eta |delta|, room)||_p = eps``.

    room is upper - x where delta > 0, x - lower where delta < 0, and 0 where delta = 0.

    Args:
        ops: See above.
        x: Points, shape (N, n), n known, float32 or float64; outside of the bounds counts as on
            them.
        delta: Directions, shape and dtype of x.
        eps: Target norm, shape (N, 1) or (1, 1), dtype of x.
        lower: Lower bound, a number or an array of shape (1, n) or (N, n).
        upper: Upper bound.
        p: Order of the norm, in (0, inf].
        largest_eta: What a larger eta is cut to half of.

    Returns:
        eta, shape (N, 1): 0 where eps is 0 or no coordinate can move; the largest breakpoint
        ``room / |delta|`` where eps is out of reach.
    """
    xp = ops.xp
    eps = eps + xp.zeros_like(x[:, :1])
    solvable = eps >= float(ops.finfo(x).tiny)
    inverse = 1.0 / xp.where(solvable, xp.minimum(eps, LARGEST_EPS), xp.ones_like(eps))
    rows = _Rows(ops, x, delta, lower, upper, inverse, p)
    h = rows.root_inf() if p == math.inf else rows.root()
    h = xp.where(solvable, h, xp.zeros_like(h))
    # a half, so that no rounding makes infinity of it
    return xp.minimum((h * eps) * h, 0.5 * largest_eta)


@dataclass(frozen=True)
class _Rows:
    """The rows of a problem, of which ``count`` columns from ``first`` on are computed at a time.

    So nothing is stored: XLA computes what a sum or a maximum needs inside its loop.
    """

    ops: Any
    x: Array
    delta: Array
    lower: float | Array
    upper: float | Array
    inverse: Array  # 1 / eps
    p: float

    def root(self) -> Array:
        """Return h for finite p."""
        xp, like = self.ops.xp, self.delta[:, :1]
        largest = self.largest(
            lambda first, count: xp.abs(self.ops.columns(self.delta, first, count))
        )
        movable = largest != 0
        # the largest term alone is at most as large as the sum, and n times it at least
        start = newton.spread(self.n, self.p) * xp.sqrt(1.0 / newton.positive_or_one(xp, largest))
        digits = 2.0 * float(self.ops.finfo(like).eps)
        rtol = newton.sum_rtol(self.dtype, self.p)

        def beyond(stalled: Array, high: Array) -> Array:
            return self.ops.where_any(stalled, lambda: xp.sqrt(self.far_corner()), high)

        def unfinished(count: Array, *state: Array) -> Array:
            return (count < PASSES + BRACKETED_PASSES) & ~self.ops.all(state[-1])

        def step(*state: Array) -> tuple[Array, ...]:
            return newton.step(xp, state, self.sums, beyond, self.p, digits, rtol)

        state = (start, start, xp.zeros_like(start) + math.inf, ~movable)
        h = self.ops.while_loop(unfinished, step, (self.ops.zero(), *state))[1]
        return xp.where(movable, h, xp.zeros_like(h))

    def root_inf(self) -> Array:
        """Return h for p = inf: of the first coordinate to move by eps, or the far corner."""
        xp = self.ops.xp

        def open_terms(first: Any, count: int) -> Array:
            v, r = self.sizes(first, count)
            return xp.where(r >= 1.0, v, xp.zeros_like(v))

        top = self.largest(open_terms)
        root = xp.sqrt(1.0 / newton.positive_or_one(xp, top))
        return self.ops.where_any(~(top > 0), lambda: xp.sqrt(self.far_corner()), root)

    def sums(self, h: Array) -> tuple[Array, Array]:
        """Return total and moving, accurate for rows of any length, each (N, 1)."""
        xp = self.ops.xp
        tied = self.ops.tie((self.x, self.delta, self.lower, self.upper, h))
        rows, scale = replace(self, **dict(zip(_FIELDS, tied, strict=False))), tied[-1]

        def terms(first: Any, count: int) -> tuple[Array, Array]:
            v, r = rows.sizes(first, count)
            w = v * scale * scale
            q = newton.power(xp, xp.minimum(w, r), self.p, self.split, self.two_to)
            return q, xp.where(w < r, q, xp.zeros_like(q))

        def packed() -> tuple[Array, Array]:
            # Two outputs would be two loops on the CPU, each computing all terms: a complex number
            # carries both through one.
            total = self.reduce(lambda *columns: self.ops.complex(*terms(*columns)), xp.add, "sum")
            both: tuple[Array, Array] = self.ops.parts(total)
            return both

        def plain() -> tuple[Array, Array]:
            total, moving = (self.ops.over_row("sum", a) for a in terms(0, self.n))
            return total, moving

        total, moving = self.ops.by_platform(packed, plain)
        return total, moving

    def far_corner(self) -> Array:
        """Return the largest breakpoint of each row, (N, 1)."""
        xp, most = self.ops.xp, float(self.ops.finfo(self.x).max)
        return self.largest(lambda *columns: newton.breakpoints(xp, *self.sizes(*columns), most))

    def sizes(self, first: Any, count: int) -> tuple[Array, Array]:
        """Return |v| and r; see `newton.sizes`."""
        x, v, low, high = (self.ops.columns(getattr(self, name), first, count) for name in _FIELDS)
        most = newton.most_room(self.dtype, self.p)
        return newton.sizes(self.ops.xp, x, v, low, high, self.inverse, most)

    @property
    def n(self) -> int:
        """Return how many columns there are."""
        n: int = self.x.shape[-1]
        return n

    @property
    def dtype(self) -> str:
        """Return ``"float32"`` or ``"float64"``."""
        name: str = self.ops.finfo(self.x).dtype.name
        return name

    def largest(self, terms: Terms) -> Array:
        """Return the maximum over the row of terms >= 0, (N, 1)."""
        # numbers >= 0 and their bits have one order; the maximum of floats, which has to mind
        # NaN, is not vectorised
        bits = self.reduce(
            lambda *columns: self.ops.bitcast(terms(*columns), _SAME_BITS[self.dtype]),
            self.ops.xp.maximum,
            "max",
        )
        return self.ops.bitcast(bits, self.dtype)

    def reduce(self, terms: Terms, combine: Any, name: str, begin: int = 0) -> Array:
        """Combine the row, `PARTS` parts at a time, element by element into `lanes` results."""
        n = self.n - begin
        lanes = newton.lanes_of(n)
        if lanes == 0:
            return self.ops.over_row(name, terms(begin, n))
        size = PARTS * lanes
        whole = n // size * size

        def segment(first: Any) -> Array:
            parts = [terms(begin + first + j * lanes, lanes) for j in range(PARTS)]
            return functools.reduce(combine, parts)

        narrow = self.ops.repeat(whole // size, combine, lambda i: segment(i * size))
        result = self.ops.over_row(name, self.ops.tie(narrow))
        if whole < n:
            result = combine(result, self.reduce(terms, combine, name, begin + whole))
        return result

    def split(self, c: Array) -> tuple[Array, Array]:
        """Return m and e with ``c = m 2^e``, float32; see `newton.power`."""
        bits = self.ops.bitcast(c, "int32")
        exponent = self.ops.shift(bits - pow.ROOT_HALF_BITS, -pow.MANTISSA_BITS)
        m = self.ops.bitcast(bits - self.ops.shift(exponent, pow.MANTISSA_BITS), "float32")
        return m, self.ops.cast(exponent, "float32")

    def two_to(self, integer: Array) -> Array:
        """Return a power of two, float32."""
        biased = self.ops.cast(integer, "int32") + pow.EXPONENT_BIAS
        return self.ops.bitcast(self.ops.shift(biased, pow.MANTISSA_BITS), "float32")


_FIELDS = ("x", "delta", "lower", "upper")
_SAME_BITS = {"float32": "int32", "float64": "int64"}
