"""The algorithm on one page: rows are samples, float64, nothing but NumPy.

Given x in [a, b], a direction v and eps, clipping-aware rescaling is the smallest eta >= 0 with

    || clip(x + eta v, a, b) - x ||_p = || min(eta |v|, room) ||_p = eps.

Every engine that runs without a GPU is tested against this page. It trades speed and range for
clarity: |v|^p is taken as it is, so that very large p, or numbers near the ends of float64, under-
or overflow here.

Sources: Rauber & Bethge 2020, arXiv 2007.07677; for the root without a sort Cominetti,
Mascarenhas & Silva 2014, Math. Prog. Comp. 6; docs/mathematics.md has the proofs.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def room(x: Any, v: Any, a: Any = 0.0, b: Any = 1.0) -> Any:
    """Return the distance from x to the bound that v points at; 0 where v is 0."""
    return np.where(v > 0, b - x, np.where(v < 0, x - a, 0.0))


def eta(x: Any, v: Any, eps: Any, p: float, a: Any = 0.0, b: Any = 1.0) -> Any:
    """Return the rescaling factor of each row, shape (N, 1).

    Newton for u = eta^p on G(u) = sum min(u |v|^p, room^p), which is concave and piecewise
    linear: from u = 0 it rises to the root, and ends there when no coordinate joins the
    saturated ones. Where eps cannot be reached, eta is the largest breakpoint room / |v|.
    """
    v, r, eps = abs(v), room(x, v, a, b), np.broadcast_to(np.reshape(eps, (-1, 1)), (len(x), 1))
    live = (v > 0) & (r > 0)
    breakpoints = np.divide(r, v, out=np.zeros_like(r), where=live)
    corner = breakpoints.max(axis=1, keepdims=True, initial=0.0)
    if np.isinf(p):
        fastest = np.where(live & (r >= eps), v, 0.0).max(axis=1, keepdims=True, initial=0.0)
        return np.where(fastest > 0, eps / np.where(fastest > 0, fastest, 1.0), corner)

    def total(terms: Any, where: Any) -> Any:
        return np.where(where, terms, 0.0).sum(axis=1, keepdims=True)

    root = np.zeros_like(eps)
    saturated = ~live
    while True:
        slope = total(v**p, ~saturated)
        missing = eps**p - total(r**p, saturated & live)
        u = np.divide(missing, slope, out=np.zeros_like(eps), where=slope > 0)
        root = np.maximum(root, np.maximum(u, 0.0) ** (1 / p))
        now = saturated | (breakpoints <= root)
        if (now == saturated).all():
            return np.minimum(root, corner)
        saturated = now


def eta_gradient(x: Any, v: Any, eps: Any, p: float, a: Any = 0.0, b: Any = 1.0) -> Any:
    """Return d eta / d x, d eta / d v and d eta / d eps, by the implicit function theorem.

    With M = sum |v|^p over the unsaturated set U: on U d eta/d v = -eta |v|^(p-1) sign(v) / M,
    on the rest d eta/d x = (room / eta)^(p-1) sign(v) / M, and d eta/d eps = (eps / eta)^(p-1) / M.
    0 where eps cannot be reached. For p = inf the fastest coordinate with room for eps decides
    alone. On the bound that v points at it is the derivative from inside the box; 0 for p < 1.
    """
    factor, r, eps = eta(x, v, eps, p, a, b), room(x, v, a, b), np.reshape(eps, (-1, 1))
    if np.isinf(p):
        fastest = np.where(r >= eps, abs(v), 0.0).max(axis=1, keepdims=True, initial=0.0)
        share = np.divide(1.0, fastest, out=np.zeros_like(fastest), where=fastest > 0)
        first = (r >= eps) & (abs(v) == fastest)
        return np.zeros_like(r), np.where(first, -factor * np.sign(v) * share, 0.0), share
    unsaturated = factor * abs(v) < r
    weight = np.where(unsaturated, abs(v) ** p, 0.0).sum(axis=1, keepdims=True)
    share = np.divide(1.0, weight, out=np.zeros_like(weight), where=weight > 0)
    scale = np.where(factor > 0, factor, 1.0)
    to_v = -factor * np.where(unsaturated, abs(v), 1.0) ** (p - 1) * np.sign(v) * share
    to_x = (np.where(r > 0, r, 1.0) / scale) ** (p - 1) * np.sign(v) * share
    to_eps = (np.where(eps > 0, eps, 1.0) / scale) ** (p - 1) * share
    counts = ~unsaturated & ((r > 0) | (p == 1))  # without room, room^(p-1) is 0 for p > 1
    return np.where(counts, to_x, 0.0), np.where(unsaturated, to_v, 0.0), to_eps


def project(z: Any, x: Any, eps: Any, p: float, a: Any = 0.0, b: Any = 1.0) -> Any:
    """Return the point of the ball of radius eps around x, inside the box, that is nearest to z.

    p = inf: two clips. p = 1: sign(v) min(max(|v| - t, 0), room), whose norm falls piecewise
    linearly in t. p = 2, where it is exact, and any other p: along v = z - x to eps.
    """
    v, eps = z - x, np.reshape(eps, (-1, 1))
    r, size = room(x, v, a, b), abs(v)
    if np.isinf(p):
        return np.clip(np.clip(z, x - eps, x + eps), a, b)
    if p == 1:
        t = []
        for size_i, r_i, eps_i in zip(size, r, np.broadcast_to(eps[:, 0], len(x)), strict=True):
            kinks = np.unique(np.concatenate([[0.0], size_i, np.maximum(size_i - r_i, 0.0)]))
            norms = [np.minimum(np.maximum(size_i - k, 0.0), r_i).sum() for k in kinks]
            t.append(np.interp(-eps_i, -np.array(norms), kinks))  # 0 inside the ball
        moved = np.maximum(size - np.reshape(t, (-1, 1)), 0)
        return np.clip(x + np.sign(v) * moved, a, b)
    return np.clip(x + np.minimum(1.0, eta(x, v, eps, p, a, b)) * v, a, b)


def steepest_step(x: Any, g: Any, eps: Any, p: float, a: Any = 0.0, b: Any = 1.0) -> Any:
    """Return x + s with s = argmax <g, s> over ||s||_p <= eps and x + s in the box.

    p > 1: the rescaling of sign(g) |g|^(1/(p-1)), the sign alone for p = inf. p = 1: all the room
    of each coordinate in the order of |g|, until eps is spent.
    """
    if p == 1:
        order = np.argsort(-abs(g), axis=1, kind="stable")
        r = np.take_along_axis(room(x, g, a, b), order, axis=1)
        spent = np.cumsum(r, axis=1) - r
        taken = np.clip(np.reshape(eps, (-1, 1)) - spent, 0.0, r)
        s = np.zeros_like(r)
        np.put_along_axis(s, order, taken, axis=1)
        return x + np.sign(g) * s
    scaled = abs(g) / np.maximum(abs(g).max(axis=1, keepdims=True), np.finfo(float).tiny)
    v = np.sign(g) * (1.0 if np.isinf(p) else scaled ** (1 / (p - 1)))
    return np.clip(x + eta(x, v, eps, p, a, b) * v, a, b)
