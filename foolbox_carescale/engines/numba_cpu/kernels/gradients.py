"""Vector-Jacobian products of the root and of the perturbed point."""

# numba infers the types of what it compiles
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np

from .compiling import CALLED_FROM_PYTHON, FAST, compiled, room_at, row_of
from .passes import largest_open, sum_row
from .powers import INFINITE, lowered_power
from .roots import TINY

UNREACHABLE = 1e-5  # relative distance from eps that no rounding of eta explains

# The gradient for one row, in the same units: with k = scale / moving,
#     d eta/d x_i = k r^(p-1) sign(v)         where saturated
#     d eta/d v_i = - eta k w^(p-1) sign(v)   where not
#     d eta/d eps = k


@compiled(fastmath=FAST)
def _write_gradient(x, v, lower, upper, scale, inverse, order, for_x, for_v, grad_x, grad_v):
    zero = type(scale)(0)
    largest = type(scale)(np.finfo(x.dtype).max)
    for j in range(x.size):
        r = room_at(x, v, lower, upper, j) * inverse
        w = abs(v[j]) * scale
        c = w if w < r else r
        q = lowered_power(c if c > zero else zero, order)
        q = min(q, largest)
        q = q if v[j] > 0 else (-q if v[j] < 0 else zero)
        a = min(max(q * for_x, -largest), largest)
        b = min(max(q * for_v, -largest), largest)
        grad_x[j] = zero if w < r else a
        grad_v[j] = b if w < r else zero


@compiled()
def _gradient_row(x, v, lower, upper, eps, eta, p, one, order, grad, grad_x, grad_v):
    """Writes the gradient, computing in the type of `one`; False, and 0 for eps, if it has none."""
    kind = type(one)
    scale, inverse = kind(eta / eps), kind(1 / eps)
    total, moving, _ = sum_row(x, v, lower, upper, scale, inverse, order, None)
    # where scale or inverse is no positive number nothing moves, either
    if not (TINY < moving < np.inf and total ** (1 / p) >= 1 - UNREACHABLE):
        return 0.0, False
    largest = float(np.finfo(x.dtype).max)
    for_eps = max(min(grad * float(scale) / moving, largest), -largest)
    for_v = max(min(-for_eps * eta, largest), -largest)
    _write_gradient(
        x, v, lower, upper, scale, inverse, order, kind(for_eps), kind(for_v), grad_x, grad_v
    )
    return for_eps, True


@compiled()
def _gradient_row_inf(x, v, lower, upper, eps, grad, grad_x, grad_v):
    """Write the gradient of eta = eps / |v_k|: ties for the largest |v_k| share evenly."""
    grad_x[:] = 0
    grad_v[:] = 0
    infinity = x.dtype.type(np.inf)
    bound = x.dtype.type(eps)
    largest, _ = largest_open(x, v, lower, upper, bound, infinity)
    if largest == 0 or eps == 0:
        return 0.0
    size, ties = v.dtype.type(largest), 0
    for j in range(x.size):
        room = room_at(x, v, lower, upper, j)
        ties += (abs(v[j]) == size) & (room >= bound)
    ceiling = float(np.finfo(x.dtype).max)
    each = max(min(-grad * (eps / largest / largest) / ties, ceiling), -ceiling)
    for j in range(x.size):
        room = room_at(x, v, lower, upper, j)
        if abs(v[j]) == size and room >= bound:
            grad_v[j] = each if v[j] > 0 else -each
    return max(min(grad / largest, ceiling), -ceiling)


# Of the perturbed point z = x + eta v where not saturated, the bound where it is: cotangent g goes
# straight to x, and eta times to v, where z moves; and to eta with the weight v.


@compiled(fastmath=FAST)
def _moving_dot(x, v, lower, upper, eta, g):
    """Return the sum of g v over what is not saturated."""
    total = 0.0
    for j in range(x.size):
        room = room_at(x, v, lower, upper, j)
        total += float(g[j]) * float(v[j]) if abs(v[j]) * eta < room else 0.0
    return total


@compiled(fastmath=FAST)
def _add_direct(x, v, lower, upper, eta, g, grad_x, grad_v):
    zero = x.dtype.type(0)
    for j in range(x.size):
        room = room_at(x, v, lower, upper, j)
        moves = (abs(v[j]) * eta < room) | (v[j] == 0) | (eta == 0)
        grad_x[j] += g[j] if moves else zero
        grad_v[j] += eta * g[j] if moves else zero


@compiled(**CALLED_FROM_PYTHON)
def gradient_rows(
    x, x_step, v, v_step, n, lower, upper, eps, eta, order, wide, of_points, g, grad, grad_x,
    grad_v, grad_eps, first, last,
):  # fmt: skip
    """Write the vector-Jacobian products for rows first..last; grad_x and grad_v are (N, n).

    Those of eta with grad, shape (N,); if `of_points`, those of the perturbed points with g, shape
    (N, n), and grad is scratch.
    """
    ceiling = float(np.finfo(x.dtype).max)
    for i in range(first, last):
        xi, vi = x[i * x_step : i * x_step + n], v[i * v_step : i * v_step + n]
        low, high = row_of(lower, i), row_of(upper, i)
        if of_points:
            dot = _moving_dot(xi, vi, low, high, x.dtype.type(eta[i]), g[i])
            grad[i] = min(max(dot, -ceiling), ceiling)
        if len(order) == INFINITE:
            grad_eps[i] = _gradient_row_inf(
                xi, vi, low, high, eps[i], grad[i], grad_x[i], grad_v[i]
            )
        else:
            grad_eps[i], done = _gradient_row(
                xi, vi, low, high, eps[i], eta[i], wide[-1], x.dtype.type(1), order, grad[i],
                grad_x[i], grad_v[i],
            )  # fmt: skip
            if not done:
                grad_eps[i], done = _gradient_row(
                    xi, vi, low, high, eps[i], eta[i], wide[-1], np.float64(1), wide, grad[i],
                    grad_x[i], grad_v[i],
                )  # fmt: skip
            if not done:
                grad_x[i] = 0
                grad_v[i] = 0
        if of_points:
            _add_direct(xi, vi, low, high, x.dtype.type(eta[i]), g[i], grad_x[i], grad_v[i])
