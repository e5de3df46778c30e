"""Vector-Jacobian products, the sum of gradients, and how far a row reaches; a program a row."""

# Triton infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from .elements import constant, inverse_of, largest_number, load_block, number_of, power, sizes_of
from .rows import any_fault, faults_in, length_of, report, room_along, sums
from .sweeps import RUN

# Relative distance from eps that no rounding of eta explains: eps is out of reach.
UNREACHABLE = tl.constexpr(1e-5)
# Sums below have lost their small terms to float32's underflow.
TINY = tl.constexpr(1e-30)


@triton.jit
def _lowered_power(c, P: tl.constexpr, HIGH: tl.constexpr, TYPE: tl.constexpr):
    """Return c^(P - 1), HIGH being that of P - 1; 0 instead of the infinity at c = 0, P < 1."""
    if P == 1.0:  # noqa: SIM108
        q = c * 0.0 + 1.0
    else:
        q = power(c, P - 1.0, HIGH, TYPE)
    return q


@triton.jit
def _cut(a, most):
    return tl.minimum(tl.maximum(a, -most), most)


@triton.jit
def _direct(point, v, low, high, eta):
    """Return where x + eta v is a point's own sum, and not a bound."""
    room = tl.where(eta > 0, room_along(point, v, low, high), 1.0)
    return (tl.abs(v) * eta < room) | (v == 0)


@triton.jit
def _write_products(
    x, v, lower, upper, scale, inverse, for_x, for_v, eta, g, to_x, to_v, n, POINTS: tl.constexpr,
    P: tl.constexpr, LOWERED: tl.constexpr, LOWER: tl.constexpr, UPPER: tl.constexpr,
    TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write the products of a row; those of eta are 0 where for_x and for_v are."""
    # of the arrays' type, in which TYPE may not fit
    kind = to_x.dtype.element_ty
    most = largest_number(kind).to(TYPE)
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        point, v_, low, high = load_block(x, v, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK)
        size, room = sizes_of(point, v_, low, high, inverse, P, TYPE)
        w = size * scale
        q = tl.minimum(_lowered_power(tl.minimum(w, room), P, LOWERED, TYPE), most)
        q = tl.where(v_ > 0, q, tl.where(v_ < 0, -q, 0.0))
        moves = w < room
        a = tl.where(moves, 0.0, _cut(q * for_x, most)).to(kind)
        b = tl.where(moves, _cut(q * for_v, most), 0.0).to(kind)
        if POINTS:
            cotangent = tl.load(g + at, mask=at < n, other=0.0).to(kind)
            direct = _direct(point.to(kind), v_.to(kind), low.to(kind), high.to(kind), eta.to(kind))
            a += tl.where(direct, cotangent, 0.0)
            b += tl.where(direct, eta.to(kind) * cotangent, 0.0)
        tl.store(to_x + at, a, mask=at < n)
        tl.store(to_v + at, b, mask=at < n)


@triton.jit
def _moving_dot(
    x, v, lower, upper, eta, g, n, LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr,
    BLOCK: tl.constexpr
):  # fmt: skip
    """Return the sum of g v over what is not saturated, a number of TYPE."""
    total = tl.zeros((), tl.float64)
    factor = eta.to(TYPE)
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        point, v_, low, high = load_block(x, v, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK)
        cotangent = tl.load(g + at, mask=at < n, other=0.0).to(TYPE)
        free = tl.abs(v_) * factor < room_along(point, v_, low, high)
        # a product in float32 may overflow, a sum of both signs cancel
        product = tl.where(free, cotangent.to(tl.float64) * v_.to(tl.float64), 0.0)
        total += tl.sum(product, 0)
    return _cut(total, largest_number(TYPE))


@triton.jit
def _products(
    x, v, lower, upper, wanted, eta, weight, g, to_x, to_v, n, POINTS: tl.constexpr,
    P: tl.constexpr, HIGH: tl.constexpr, LOWERED: tl.constexpr, LOWER: tl.constexpr,
    UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write the products of a row, computing in TYPE; return that of eps and whether it has any.

    With k = scale / moving: d eta/d x = k r^(p-1) sign(v) where saturated, d eta/d v =
    -eta k w^(p-1) sign(v) where not, d eta/d eps = k. Where there are none, they are 0.
    """
    most = largest_number(to_x.dtype.element_ty)
    usable = tl.where(wanted > 0, wanted, 1.0)
    scale, inverse = (eta / usable).to(TYPE), inverse_of(wanted, TYPE)
    total, moving = sums(
        x, v, lower, upper, inverse, scale, 1.0, n, P, HIGH, LOWER, UPPER, TYPE, BLOCK
    )
    norm = tl.exp2(tl.log2(tl.maximum(total, 1e-300)) * constant(1.0 / P, tl.float64))
    found = (wanted > 0) & (moving > constant(TINY, tl.float64)) & (moving < float("inf"))
    found = found & (norm >= 1.0 - constant(UNREACHABLE, tl.float64))
    share = weight * scale.to(tl.float64) / tl.where(found, moving, 1.0)
    for_eps = tl.where(found, _cut(share, most), 0.0)
    for_v = _cut(-for_eps * eta, most)
    _write_products(
        x, v, lower, upper, scale, inverse, for_eps.to(TYPE), for_v.to(TYPE), eta, g, to_x, to_v,
        n, POINTS, P, LOWERED, LOWER, UPPER, TYPE, BLOCK,
    )  # fmt: skip
    return for_eps, found


@triton.jit
def _products_inf(
    x, v, lower, upper, wanted, eta, weight, g, to_x, to_v, n, POINTS: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write the products of eta = eps / |v_k|: ties for the largest |v_k| share evenly."""
    most = largest_number(TYPE)
    bound = wanted.to(TYPE)
    top = tl.zeros((BLOCK,), TYPE)
    count = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, n, BLOCK):
        point, v_, low, high = load_block(x, v, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK)
        size = tl.where(room_along(point, v_, low, high) >= bound, tl.abs(v_), 0.0)
        count = tl.where(size > top, 1, count + tl.where(size == top, 1, 0))
        top = tl.maximum(top, size)
    largest = tl.max(top, 0)
    ties = tl.sum(tl.where(top == largest, count, 0), 0).to(tl.float64)
    found = (largest > 0) & (wanted > 0)
    size = tl.where(found, largest, 1.0).to(tl.float64)
    each = tl.where(found, _cut(-weight * (wanted / size / size) / ties, most), 0.0).to(TYPE)
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        point, v_, low, high = load_block(x, v, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK)
        room = room_along(point, v_, low, high)
        first = (room >= bound) & (tl.abs(v_) == largest)
        a = tl.zeros((BLOCK,), TYPE)
        b = tl.where(first, tl.where(v_ > 0, each, -each), 0.0)
        if POINTS:
            cotangent = tl.load(g + at, mask=at < n, other=0.0).to(TYPE)
            direct = _direct(point, v_, low, high, eta.to(TYPE))
            a += tl.where(direct, cotangent, 0.0)
            b += tl.where(direct, eta.to(TYPE) * cotangent, 0.0)
        tl.store(to_x + at, a, mask=at < n)
        tl.store(to_v + at, b, mask=at < n)
    return tl.where(found, _cut(weight / size, most), 0.0)


@triton.jit(do_not_specialize=["eps"])
def product_kernel(
    x, v, lower, upper, eps, eta, g, to_x, to_v, to_eps, x_step, v_step, lower_step, upper_step,
    eps_step, eta_step, g_step, to_step, n, BITS: tl.constexpr, POINTS: tl.constexpr,
    P: tl.constexpr, HIGH: tl.constexpr, LOWERED: tl.constexpr, INFINITE: tl.constexpr,
    LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write a row's products of g with the derivatives of eta, or if POINTS of clip(x + eta v)."""
    row = tl.program_id(0).to(tl.int64)
    x, v, g = x + row * x_step, v + row * v_step, g + row * g_step
    lower, upper = lower + row * lower_step, upper + row * upper_step
    to_x, to_v = to_x + row * to_step, to_v + row * to_step
    wanted = length_of(eps, row, eps_step, BITS)
    root = tl.load(eta + row * eta_step).to(tl.float64)
    if POINTS:
        weight = _moving_dot(x, v, lower, upper, root, g, n, LOWER, UPPER, TYPE, BLOCK)
    else:
        weight = tl.load(g).to(tl.float64)
    if INFINITE:
        for_eps = _products_inf(
            x, v, lower, upper, wanted, root, weight, g, to_x, to_v, n, POINTS, LOWER, UPPER,
            TYPE, BLOCK,
        )  # fmt: skip
    else:
        for_eps, found = _products(
            x, v, lower, upper, wanted, root, weight, g, to_x, to_v, n, POINTS, P, HIGH, LOWERED,
            LOWER, UPPER, TYPE, BLOCK,
        )  # fmt: skip
        if TYPE == tl.float32:  # noqa: SIM102, SIM300
            if found == 0:  # perhaps float32 alone cannot tell
                tl.debug_barrier()
                for_eps, found = _products(
                    x, v, lower, upper, wanted, root, weight, g, to_x, to_v, n, POINTS, P, HIGH,
                    LOWERED, LOWER, UPPER, tl.float64, BLOCK,
                )  # fmt: skip
    tl.store(to_eps + row, for_eps.to(TYPE))


@triton.jit(do_not_specialize=["decay"])
def accumulate_kernel(
    total, g, out, decay, total_step, g_step, out_step, n, FIRST: tl.constexpr,
    LEAST: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write decay * total (0 if FIRST) + g / max(||g||_1, LEAST), g being 0 where not finite."""
    row = tl.program_id(0).to(tl.int64)
    total, g, out = total + row * total_step, g + row * g_step, out + row * out_step
    most = largest_number(TYPE).to(TYPE)
    least = constant(LEAST, tl.float64)
    size = tl.zeros((), tl.float64)
    for start in range(0, n, BLOCK * RUN):
        part = tl.zeros((BLOCK,), TYPE)
        for begin in range(start, tl.minimum(start + BLOCK * RUN, n), BLOCK):
            at = begin + tl.arange(0, BLOCK)
            part += tl.abs(tl.load(g + at, mask=at < n, other=0.0).to(TYPE))
        size += tl.sum(part, 0).to(tl.float64)
    plain = size < float("inf")
    if plain == 0:  # a term, or the sum of a block, is not finite
        size = tl.zeros((), tl.float64)
        for begin in range(0, n, BLOCK):
            at = begin + tl.arange(0, BLOCK)
            term = tl.abs(tl.load(g + at, mask=at < n, other=0.0).to(TYPE))
            size += tl.sum(tl.where(term <= most, term, 0.0).to(tl.float64), 0)
    scale = 1.0 / tl.maximum(size, least)
    # of a sum that is more than the largest number the inverse alone has lost digits
    half = tl.where(plain, 1.0, constant(2.0**-64, tl.float64))
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        term = tl.load(g + at, mask=at < n, other=0.0).to(TYPE)
        term = tl.where(tl.abs(term) <= most, term, 0.0)
        value = term * half.to(TYPE) * (scale / half).to(TYPE)
        if not FIRST:
            before = tl.load(total + at, mask=at < n, other=0.0).to(TYPE)
            value += number_of(decay).to(TYPE) * before
        tl.store(out + at, value.to(out.dtype.element_ty), mask=at < n)


@triton.jit
def reach_kernel(
    x, v, lower, upper, reach, flags, x_step, v_step, lower_step, upper_step, n,
    P: tl.constexpr, HIGH: tl.constexpr, INFINITE: tl.constexpr,
    TOLERANCE: tl.constexpr, LOWER: tl.constexpr, UPPER: tl.constexpr, TYPE: tl.constexpr,
    BLOCK: tl.constexpr
):  # fmt: skip
    """Write the p-norm of the room of a row."""
    row = tl.program_id(0).to(tl.int64)
    x, v = x + row * x_step, v + row * v_step
    lower, upper = lower + row * lower_step, upper + row * upper_step
    faults = tl.zeros((BLOCK,), tl.int32)
    top = tl.zeros((BLOCK,), TYPE)
    for begin in range(0, n, BLOCK):
        point, v_, low, high = load_block(x, v, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK)
        faults |= faults_in(point, tl.abs(v_), low, high, TOLERANCE, TYPE)
        top = tl.maximum(top, room_along(point, v_, low, high))
    largest = tl.max(top, 0)
    norm = largest.to(tl.float64)
    if not INFINITE:
        inverse = 1.0 / tl.where(largest > 0, largest, 1.0)
        total = tl.zeros((), tl.float64)
        for start in range(0, n, BLOCK * RUN):
            part = tl.zeros((BLOCK,), TYPE)
            for begin in range(start, tl.minimum(start + BLOCK * RUN, n), BLOCK):
                point, v_, low, high = load_block(
                    x, v, lower, upper, begin, n, LOWER, UPPER, TYPE, BLOCK
                )
                ratio = tl.minimum(room_along(point, v_, low, high) * inverse, 1.0)
                part += power(ratio, P, HIGH, TYPE)
            total += tl.sum(part, 0).to(tl.float64)
        root = tl.exp2(tl.log2(tl.maximum(total, 1.0)) * constant(1.0 / P, tl.float64))
        norm = norm * root
    tl.store(reach + row, norm.to(TYPE))
    report(flags, any_fault(faults))
