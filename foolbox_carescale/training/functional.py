"""Training on exact perturbations as pure functions, for JAX and TensorFlow.

There is no global state. Randomness comes from a key, so everything may be compiled (``jax.jit``,
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
from typing import Any, Literal, TypeVar

import eagerpy as ep
import numpy as np

from ..attacks.directions import Momentum, make_direction
from ..attacks.schedules import FINAL_STEP, Cosine
from ..attacks.steps import momentum_weight
from ..core import backends
from ..operators.api import perturb, project, steepest_step
from ..operators.validation import checked_eps
from .draws import DISTRIBUTIONS, draw_jax, draw_tensorflow

T = TypeVar("T")
Layers = list[tuple[Any, Any]]
State = tuple[Any, ...]
"""The state of the loop: point, point before, accumulated gradients, best point, its loss."""
Plan = tuple[Any, ...]
"""A step: its size in epsilons, the weight of momentum, whether its point may be returned."""


def sample(key: Any, like: T, distribution: str = "gaussian") -> T:
    """Draw independent noise of the shape and dtype of ``like``, from a key.

    Args:
        key: A key of ``jax.random``, or a seed of shape (2,) in TensorFlow.
        like: A tensor of JAX or TensorFlow.
        distribution: "gaussian", "uniform" in [-1, 1), or "laplace".

    Raises:
        ValueError: another distribution, what is no key, or a tensor of another framework.
    """
    if distribution not in DISTRIBUTIONS:
        raise ValueError(
            f"distribution: expected one of {', '.join(DISTRIBUTIONS)}, got {distribution!r}"
        )
    draw = {"jax": draw_jax, "tensorflow": draw_tensorflow}[_framework(like, "like")]
    noise: T = draw(key, like, distribution)
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
    """Return random noise at exactly epsilon: ``||clip(x + eta noise) - x||_p = eps``.

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
    """Move all inputs along one direction, at exactly epsilon from each; differentiable in delta.

    The pure form of ``UniversalPerturbation``.

    Args:
        x: Points inside the bounds, shape (N, ...).
        delta: Direction, shape of one sample.
        eps: A number, or a tensor of shape (N,).
        p: Order of the norm, in (0, inf].
        bounds: Lower and upper bound.

    Raises:
        ValueError: delta of another shape than a sample or another framework, and as ``perturb``.
    """
    x_, delta_ = backends.as_eagerpy(x, "x"), backends.as_eagerpy(delta, "delta")
    kind, other = backends.framework(x_), backends.framework(delta_)
    if other not in (kind, "numpy"):
        raise ValueError(f"delta: expected a tensor of {kind}, as x is, got one of {other}")
    if tuple(delta_.shape) != tuple(x_.shape[1:]):
        raise ValueError(
            f"delta: expected the shape of one sample, {tuple(x_.shape[1:])}, "
            f"got {tuple(delta_.shape)}"
        )
    spread = (ep.zeros_like(x_) + delta_.expand_dims(0)).raw
    points: T = perturb(x, spread, eps, p=p, bounds=bounds)
    return points


def generator(seed: int, channels: int, *, hidden: int = 20) -> Layers:
    """Return weights and biases of a noise generator of four 1 x 1 convolutions.

    The pure form of ``NoiseGenerator``; it begins as the identity.

    Args:
        seed: Of NumPy's generator.
        channels: Of the images.
        hidden: Channels of the inner layers.

    Returns:
        Four pairs of a matrix (inputs, outputs) and a bias (outputs,), float32 arrays of NumPy:
        JAX takes them as they are; for TensorFlow ``tf.nest.map_structure(tf.Variable, ...)``.

    Raises:
        ValueError: channels or hidden below 1.

    Source: Rusak et al. 2020, arXiv 2001.06057.
    """
    for name, count in (("channels", channels), ("hidden", hidden)):
        if count < 1:
            raise ValueError(f"{name}: expected an integer >= 1, got {count!r}")
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
    """Turn noise into a direction for ``perturb`` with a noise generator.

    Args:
        layers: As ``generator`` returns them.
        noise: From ``sample``, channels last: (N, H, W, C).

    Returns:
        Shape of the noise; differentiable in the layers.

    Raises:
        ValueError: noise of other channels.
    """
    channels, shape = layers[0][0].shape[0], tuple(noise.shape)  # type: ignore[attr-defined]
    if shape[-1] != channels:
        raise ValueError(
            f"noise: expected {channels} channels in its last axis, as the generator has, got "
            f"shape {shape}; make a generator for these"
        )
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
    momentum: float | None = None,
    keep: Literal["best", "last"] = "best",
    key: Any = None,
) -> T:
    """Return adversarial examples at exactly epsilon from x, by gradient ascent on sphere and box.

    As ``ClipAwarePGD``: each step is the exact maximiser of the linearised loss inside the box
    (``steepest_step``), for p = 1 and p = inf along accumulated gradients; its result goes back
    to the sphere, for other p moves with momentum, and goes to the sphere again. The step
    decreases from ``rel_stepsize * eps`` by a cosine. Omitted are sparse steps and larger balls for
    p = 1, restarts, and the check for misclassification, which a loss does not show. It compiles to
    one loop, ``lax.fori_loop`` or ``tf.while_loop``.

    Args:
        loss: Inputs (N, ...) -> a loss for each, shape (N,), of a model in the mode of
            evaluation; further axes are summed.
        x: Points inside the bounds, shape (N, ...), of JAX or TensorFlow.
        eps: A number, or a tensor of shape (N,).
        p: Order of the norm, in [1, inf].
        bounds: Lower and upper bound.
        steps: Number of gradients.
        rel_stepsize: First step relative to epsilon.
        momentum: Weight of the previous displacement, in [0, 1); by default 0.25, and 0 for p = 1
            and p = inf.
        keep: "best" returns, per input, the iterate with the highest loss, for which the last one
            costs one more forward pass; "last" the last one.
        key: For a random start, as for ``sample``; None starts from x.

    Returns:
        The adversarial examples, without a gradient.

    Raises:
        ValueError: p < 1, steps < 1, momentum, rel_stepsize or keep that cannot be, one loss for
            all inputs, a tensor of another framework, and as ``perturb``.

    Source: Madry et al. 2018, arXiv 1706.06083, on the operator of Rauber & Bethge 2020,
    arXiv 2007.07677; momentum of Croce & Hein 2020, arXiv 2003.01690, and Dong et al. 2018,
    arXiv 1710.06081.
    """
    kind = _framework(x, "x")
    _check_arguments(steps, rel_stepsize, momentum, keep)
    perturb(x, x, eps, p=p, bounds=bounds)  # for its checks: in the loop it can read no values
    weight_of_previous, direction = momentum_weight(momentum, p), make_direction(None, p)
    start = x if key is None else noisy(key, x, eps, p=p, bounds=bounds)

    def on_sphere(z: Any, direction: Any) -> Any:
        if p != 2:  # there the rescaling is the projection
            z = project(z, x, eps, p=p, bounds=bounds)
        z = perturb(x, z - x, eps, p=p, bounds=bounds)
        return z if p != 1 else _complete_l1(z, x, eps, direction, bounds)

    def move(state: State, values: Any, gradient: Any, plan: Plan) -> State:
        now, before, total, best, highest = state
        size, weight, offered = plan
        best, highest = _best_of(now, values, best, highest, offered)
        gradient = ep.astensor(gradient)
        gradient = ep.where(gradient.abs() < math.inf, gradient, ep.zeros_like(gradient))
        if isinstance(direction, Momentum):  # whose own sum may read values
            length = ep.maximum(_summed(gradient.abs()), 1e-12)
            unit = gradient / backends.reshape(length, (-1,) + (1,) * (gradient.ndim - 1))
            gradient = direction.decay * ep.astensor(total) + unit
            total = gradient.raw
        z = steepest_step(now, gradient.raw, eps * size, p=p, bounds=bounds)
        z = on_sphere(z, gradient.raw)
        if weight_of_previous:
            z = now + (1 - weight) * (z - now) + weight * (now - before)
            z = on_sphere(z, gradient.raw)
        return z, now, total, best, highest

    schedule = Cosine(rel_stepsize, FINAL_STEP, steps)
    plans = [
        (schedule.size(t), weight_of_previous if t else 0.0, float(t > 0 or key is not None))
        for t in range(steps)
    ]
    zeros = ep.zeros_like(ep.astensor(start))
    lowest = _summed(backends.at_least_float32(zeros)) - math.inf
    run = {"jax": _run_jax, "tensorflow": _run_tensorflow}[kind]
    state = run(loss, (start, start, zeros.raw, start, lowest.raw), move, plans)
    last, _, _, best, highest = state
    if keep == "best":
        last, _ = _best_of(last, loss(last), best, highest, True)
    return backends.detach(ep.astensor(last)).raw  # type: ignore[no-any-return]


def _check_arguments(steps: Any, rel_stepsize: float, momentum: float | None, keep: str) -> None:
    if not (isinstance(steps, int) and steps >= 1):
        raise ValueError(f"steps: expected an integer >= 1, got {steps!r}")
    if not 0 < rel_stepsize < math.inf:
        raise ValueError(f"rel_stepsize: expected a finite number > 0, got {rel_stepsize!r}")
    if momentum is not None and not 0 <= momentum < 1:
        raise ValueError(f"momentum: expected a number in [0, 1), got {momentum!r}")
    if keep not in ("best", "last"):
        raise ValueError(f"keep: expected one of best, last, got {keep!r}")


def _complete_l1(z: Any, x: Any, eps: Any, direction: Any, bounds: Any) -> Any:
    """Spend what is missing to eps (p = 1) on coordinates that did not move yet."""
    z_, x_, direction_ = ep.astensor(z), ep.astensor(x), ep.astensor(direction)
    size = _summed((backends.at_least_float32(z_) - backends.at_least_float32(x_)).abs())
    whole = checked_eps(eps, size)
    whole = whole if isinstance(whole, float) else _summed(whole)
    missing = ep.maximum(whole - size, ep.zeros_like(size))
    unmoved = ep.where(z_ == x_, direction_, ep.zeros_like(direction_))
    return steepest_step(z, unmoved.raw, missing.raw, p=1, bounds=bounds)


def _best_of(z: Any, values: Any, best: Any, highest: Any, offered: Any) -> tuple[Any, Any]:
    """Return per sample the point with the higher loss; z counts where it is offered."""
    values, highest = ep.astensor(_per_sample(values, z)), ep.astensor(highest)
    values = values.astype(highest.dtype)
    # NaN never wins
    higher = ep.logical_and(values >= highest, ep.ones_like(values) * offered > 0)
    chosen = ep.where(
        backends.reshape(higher, (-1,) + (1,) * (len(z.shape) - 1)),
        ep.astensor(z),
        ep.astensor(best),
    )
    return chosen.raw, ep.where(higher, values, highest).raw


def _per_sample(values: Any, z: Any) -> Any:
    """Return a loss for each sample."""
    shape = values.shape
    if len(shape) == 0 or (None not in (shape[0], z.shape[0]) and shape[0] != z.shape[0]):
        raise ValueError(
            f"loss: expected a loss for each of {z.shape[0]} inputs, got shape {tuple(shape)}; "
            "return it before the mean or sum over the batch"
        )
    return _summed(ep.astensor(values)).raw


def _summed(t: ep.Tensor) -> ep.Tensor:
    """Sum over all axes but the first, whose length a graph of TensorFlow may not know."""
    return t.sum(axis=tuple(range(1, t.ndim))) if t.ndim > 1 else t


def _framework(value: Any, name: str) -> str:
    kind = backends.framework(backends.as_eagerpy(value, name))
    if kind not in ("jax", "tensorflow"):
        raise ValueError(
            f"{name}: expected a tensor of JAX or TensorFlow, got {kind}; "
            "foolbox_carescale.training has modules for PyTorch"
        )
    return kind


def _run_jax(loss: Any, state: State, move: Any, plans: list[Plan]) -> State:
    jax = sys.modules["jax"]

    def total(z: Any) -> tuple[Any, Any]:
        values = loss(z)
        return values.sum(), values

    grad_fn = jax.grad(total, has_aux=True)
    tables = [jax.numpy.asarray(column, state[0].dtype) for column in zip(*plans, strict=True)]

    def body(t: Any, state: State) -> State:
        gradient, values = grad_fn(state[0])
        found: State = move(state, values, gradient, tuple(table[t] for table in tables))
        return found

    found: State = jax.lax.fori_loop(0, len(plans), body, state)
    return found


def _run_tensorflow(loss: Any, state: State, move: Any, plans: list[Plan]) -> State:
    tf = sys.modules["tensorflow"]
    tables = [tf.constant(column, state[0].dtype) for column in zip(*plans, strict=True)]

    def body(t: Any, *state: Any) -> Any:
        state = tuple(tf.stop_gradient(tensor) for tensor in state)
        with tf.GradientTape() as tape:
            tape.watch(state[0])
            values = loss(state[0])
        gradient = tape.gradient(values, state[0])
        found = move(state, values, gradient, tuple(table[t] for table in tables))
        return (
            t + 1,
            *(tf.ensure_shape(new, old.shape) for new, old in zip(found, state, strict=True)),
        )

    # one body, however many steps: a graph with as many copies takes minutes to build
    found = tf.while_loop(lambda t, *_: t < len(plans), body, (tf.constant(0), *state))
    return tuple(found[1:])
