"""Training on exact perturbations as pure functions, for JAX and TensorFlow.

No global state: randomness comes from a key, so that all of it may be compiled (``jax.jit``,
``jax.vmap`` over keys, ``tf.function``, a Keras ``train_step``) and fresh noise is fresh in
each call. In JAX a key is one of ``jax.random``; in TensorFlow a seed of its stateless functions,
integers of shape (2,).

``perturb(x, delta, eps)`` itself is the pure form of ``NormalizedPerturbation``; epsilon may be
learned there as ``exp`` of a variable.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import eagerpy as ep
import numpy as np

from .. import backends
from ..attacks.parts import FINAL_STEP, Cosine
from ..rescale import perturb, project, steepest_step

T = TypeVar("T")
Layers = list[tuple[Any, Any]]


def sample(key: Any, like: T, distribution: str = "gaussian") -> T:
    """Independent noise of the shape and dtype of ``like``, from a key.

    Args:
        key: A key of ``jax.random``, or a seed of shape (2,) in TensorFlow.
        like: A tensor of JAX or TensorFlow.
        distribution: "gaussian", "uniform" in [-1, 1), or "laplace".

    Raises:
        ValueError: another distribution, or a tensor of another framework.
    """
    kind = _framework(like, "like")
    draw = {"jax": _sample_jax, "tensorflow": _sample_tensorflow}[kind]
    noise: T | None = draw(key, like, distribution)
    if noise is None:
        raise ValueError(
            f"distribution: expected one of gaussian, uniform, laplace, got {distribution!r}"
        )
    return noise


def noisy(
    key: Any,
    x: T,
    eps: Any,
    *,
    p: float = 2.0,
    bounds: Any = (0.0, 1.0),
    distribution: str = "gaussian",
) -> T:
    """Random noise at exactly epsilon: ``||clip(x + eta noise) - x||_p = eps``.

    The pure form of ``ExactNoise``.

    Args:
        key: As for ``sample``.
        x: Points inside the bounds, shape (N, ...).
        eps: A number, or a tensor of shape (N,): drawn from a range, for example.
        p: Order of the norm, in (0, inf].
        bounds: Lower and upper bound.
        distribution: As for ``sample``.

    Raises:
        ValueError: as ``perturb`` and ``sample``.
    """
    return perturb(x, sample(key, x, distribution), eps, p=p, bounds=bounds)


def universal(x: T, delta: Any, eps: Any, *, p: float = 2.0, bounds: Any = (0.0, 1.0)) -> T:
    """One direction for all inputs, at exactly epsilon from each; differentiable in delta.

    The pure form of ``UniversalPerturbation``.

    Args:
        x: Points inside the bounds, shape (N, ...).
        delta: Direction, shape of one sample.
        eps: A number, or a tensor of shape (N,).
        p: Order of the norm, in (0, inf].
        bounds: Lower and upper bound.

    Raises:
        ValueError: delta of another shape than a sample, and as ``perturb``.
    """
    x_, delta_ = backends.as_eagerpy(x, "x"), backends.as_eagerpy(delta, "delta")
    if tuple(delta_.shape) != tuple(x_.shape[1:]):
        raise ValueError(
            f"delta: expected the shape of one sample, {tuple(x_.shape[1:])}, "
            f"got {tuple(delta_.shape)}"
        )
    spread = (ep.zeros_like(x_) + delta_.expand_dims(0)).raw
    points: T = perturb(x, spread, eps, p=p, bounds=bounds)
    return points


def generator(seed: int, channels: int, *, hidden: int = 20) -> Layers:
    """Weights and biases of a noise generator of four 1 x 1 convolutions.

    The pure form of ``NoiseGenerator``; it begins as the identity.

    Args:
        seed: Of NumPy's generator.
        channels: Of the images.
        hidden: Channels of the inner layers.

    Returns:
        Four pairs of a matrix (inputs, outputs) and a bias (outputs,), float32 arrays of NumPy:
        JAX takes them as they are; for TensorFlow ``tf.nest.map_structure(tf.Variable, ...)``.

    Source: Rusak et al. 2020, arXiv 2001.06057.
    """
    rng = np.random.default_rng(seed)
    widths = (channels, hidden, hidden, hidden, channels)
    layers = [
        # He et al. 2015, arXiv 1502.01852
        (rng.normal(0.0, math.sqrt(2 / inputs), (inputs, outputs)), np.zeros(outputs))
        for inputs, outputs in itertools.pairwise(widths)
    ]
    layers[-1] = (np.zeros((hidden, channels)), np.zeros(channels))
    return [(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers]


def generated(layers: Layers, noise: T) -> T:
    """What a noise generator makes of noise: a direction for ``perturb``.

    Args:
        layers: As ``generator`` returns them.
        noise: From ``sample``, channels last: (N, H, W, C).

    Returns:
        Shape of the noise; differentiable in the layers.
    """
    hidden: Any = noise
    for weight, bias in layers[:-1]:
        hidden = ep.maximum(ep.astensor(hidden @ weight + bias), 0.0).raw
    weight, bias = layers[-1]
    return noise + (hidden @ weight + bias)  # type: ignore[no-any-return]


def adversarial(
    loss: Callable[[Any], Any],
    x: T,
    eps: Any,
    *,
    p: float = 2.0,
    bounds: Any = (0.0, 1.0),
    steps: int = 5,
    rel_stepsize: float = 2.0,
    key: Any = None,
) -> T:
    """Points of high loss at exactly epsilon from x: gradient ascent on sphere and box.

    Each step is the exact maximiser of the linearised loss inside the box (``steepest_step``),
    and its result goes back onto the sphere; the step falls from ``rel_stepsize * eps`` by a
    cosine, as in ``ClipAwarePGD``, but the last point is returned and there is no momentum. In
    JAX it is one ``lax.fori_loop``; in a graph of TensorFlow the steps are unrolled.

    Args:
        loss: Points (N, ...) -> losses, shape (N,) or their sum, of a model in the mode of
            evaluation.
        x: Points inside the bounds, shape (N, ...), of JAX or TensorFlow.
        eps: A number, or a tensor of shape (N,).
        p: Order of the norm, in [1, inf]. For p = 1 a step fills the few coordinates with the
            largest gradients; where these have no more room, the norm stays below epsilon.
        bounds: Lower and upper bound.
        steps: Number of gradients.
        rel_stepsize: First step relative to epsilon.
        key: For a random start, as for ``sample``; None starts from x.

    Returns:
        The points, constant for every differentiation.

    Raises:
        ValueError: p < 1, steps < 1, a tensor of another framework, and as ``perturb``.

    Source: Madry et al. 2018, arXiv 1706.06083, on the operator of Rauber & Bethge 2020,
    arXiv 2007.07677.
    """
    kind = _framework(x, "x")
    if not (isinstance(steps, int) and steps >= 1):
        raise ValueError(f"steps: expected an integer >= 1, got {steps!r}")
    schedule = Cosine(rel_stepsize, FINAL_STEP, steps)
    sizes = [schedule.size(t) for t in range(steps)]

    def step(z: Any, gradient: Any, size: Any) -> Any:
        finite = ep.astensor(gradient)
        finite = ep.where(finite.abs() < math.inf, finite, ep.zeros_like(finite)).raw
        z = steepest_step(z, finite, eps * size, p=p, bounds=bounds)
        if p != 2:  # there the rescaling below is the projection
            z = project(z, x, eps, p=p, bounds=bounds)
        return perturb(x, z - x, eps, p=p, bounds=bounds)

    ascend = {"jax": _ascend_jax, "tensorflow": _ascend_tensorflow}[kind]
    start = x if key is None else noisy(key, x, eps, p=p, bounds=bounds)
    return backends.detach(ep.astensor(ascend(loss, start, step, sizes))).raw  # type: ignore[no-any-return]


def _framework(value: Any, name: str) -> str:
    kind = backends.framework(backends.as_eagerpy(value, name))
    if kind not in ("jax", "tensorflow"):
        raise ValueError(
            f"{name}: expected a tensor of JAX or TensorFlow, got {kind}; "
            "foolbox_carescale.training has modules for PyTorch"
        )
    return kind


def _sample_jax(key: Any, like: Any, distribution: str) -> Any:
    random = sys.modules["jax"].random
    if distribution == "gaussian":
        return random.normal(key, like.shape, like.dtype)
    if distribution == "uniform":
        return random.uniform(key, like.shape, like.dtype, minval=-1.0)
    return random.laplace(key, like.shape, like.dtype) if distribution == "laplace" else None


def _sample_tensorflow(key: Any, like: Any, distribution: str) -> Any:
    tf = sys.modules["tensorflow"]
    random, shape = tf.random, tf.shape(like)
    if distribution == "gaussian":
        return random.stateless_normal(shape, key, dtype=like.dtype)
    if distribution not in ("uniform", "laplace"):
        return None
    # in float32: half precision would draw the ends too often
    uniform = random.stateless_uniform(shape, key, -1.0, 1.0)
    if distribution == "laplace":
        rest = tf.maximum(1 - tf.abs(uniform), 1e-7)  # log(0)
        uniform = -tf.sign(uniform) * tf.math.log(rest)
    return tf.cast(uniform, like.dtype)


def _ascend_jax(loss: Any, start: Any, step: Any, sizes: list[float]) -> Any:
    jax = sys.modules["jax"]
    slope = jax.grad(lambda z: loss(z).sum())
    table = jax.numpy.asarray(sizes, start.dtype)
    return jax.lax.fori_loop(0, len(sizes), lambda t, z: step(z, slope(z), table[t]), start)


def _ascend_tensorflow(loss: Any, start: Any, step: Any, sizes: list[float]) -> Any:
    tf = sys.modules["tensorflow"]
    z = start
    for size in sizes:
        z = tf.stop_gradient(z)
        with tf.GradientTape() as tape:
            tape.watch(z)
            total = tf.reduce_sum(loss(z))
        z = step(z, tape.gradient(total, z), size)
    return z
