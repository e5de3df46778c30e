"""Powers, norms and dual directions: what a formula needs to know about p.

All functions take flat EagerPy tensors, rows = samples, and work under
tracing in every backend.
"""

from __future__ import annotations

import math

import eagerpy as ep

from .backends import at_least_float32, detach, dtype_name

# Rows longer than this are summed in blocks where float64 is not at hand: one
# float32 accumulator over a row of 12 million is off by 1e-5, blocks by 1e-7.
BLOCK = 1024

# of an entry of a dual direction relative to the largest: 1 / SMALLEST leaves eta its range
SMALLEST = {"float32": 1e-30, "float64": 1e-290}

# |g|^(1/(p-1)) of gradients that differ by a factor of 1e7, what float32 resolves, underflows
# there in float32
WIDE_BELOW = 1.2


def positive_or_one(a: ep.Tensor) -> ep.Tensor:
    """Return a divisor: a where it is positive, and 1 where the quotient is not used."""
    return ep.where(a > 0, a, 1.0)


def power(a: ep.Tensor, p: float) -> ep.Tensor:
    """Return ``a**p`` for ``a >= 0``, with all derivatives 0 (not infinite or NaN) at ``a = 0``."""
    if p == 1:
        return a
    if p == 2:
        return a.square()
    return ep.where(a > 0, positive_or_one(a) ** p, 0.0)


def accumulate(a: ep.Tensor) -> ep.Tensor:
    """Sum over the last axis, kept, accurate also for long rows of float32."""
    n = a.shape[-1]
    if n <= BLOCK or dtype_name(a) == "float64":
        return a.sum(axis=-1, keepdims=True)
    whole = n // BLOCK * BLOCK
    blocks = a[:, :whole].reshape((-1, n // BLOCK, BLOCK)).sum(axis=-1)
    total = accumulate(blocks)
    return total if whole == n else total + a[:, whole:].sum(axis=-1, keepdims=True)


def lp_norm(a: ep.Tensor, p: float) -> ep.Tensor:
    """Return the p-norm of each row, (N, 1), p in (0, inf], without over- or underflow."""
    magnitudes = ep.where(a < 0, -a, a)  # frameworks differ in the derivative of abs at 0
    del a
    top = magnitudes.max(axis=-1, keepdims=True)
    if p == math.inf:
        return top
    # the scale is a constant for the derivative: the norm is homogeneous in it
    scale = detach(positive_or_one(top))
    return scale * power(accumulate(power(magnitudes / scale, p)), 1 / p)


def dual_direction(gradient: ep.Tensor, p: float) -> ep.Tensor:
    """Return ``sign(g) |g|^(q-1)``, ``1/p + 1/q = 1``, p in (1, inf], scaled to a maximum of 1.

    Its clipping-aware rescaling is the step that maximises the inner product
    with the gradient over the intersection of an Lp ball and the box. For p near 1 the
    power underflows: what is not 0 stays `SMALLEST`, so that it still moves once the others
    have come to their bounds.
    """
    if p == math.inf:
        return gradient.sign()
    magnitudes = gradient.abs()
    top = positive_or_one(magnitudes.max(axis=-1, keepdims=True))
    if p == 2:
        return gradient / top
    powers = power(magnitudes / top, 1 / (p - 1))
    smallest = SMALLEST["float64" if dtype_name(gradient) == "float64" else "float32"]
    return gradient.sign() * ep.where(powers < smallest, ep.ones_like(powers) * smallest, powers)


def sample(like: ep.Tensor, distribution: str) -> ep.Tensor:
    """Sample noise of the shape, framework and device of ``like``, from its global generator.

    Args:
        like: The tensor whose shape and dtype to take (half precision is sampled in float32).
        distribution: "gaussian", "uniform" in [-1, 1], or "laplace".

    Raises:
        ValueError: another distribution.
    """
    template = at_least_float32(like)
    if distribution == "gaussian":
        noise = ep.normal(template, template.shape)
    elif distribution == "uniform":
        noise = ep.uniform(template, template.shape, low=-1.0, high=1.0)
    elif distribution == "laplace":
        u = ep.uniform(template, template.shape, low=-1.0, high=1.0)
        rest = ep.maximum(1 - u.abs(), ep.ones_like(u) * 1e-7)  # log(0)
        noise = -u.sign() * ep.log(rest)
    else:
        raise ValueError(
            f"distribution: expected 'gaussian', 'uniform' or 'laplace', got {distribution!r}"
        )
    return noise.astype(like.dtype) if noise.dtype != like.dtype else noise
