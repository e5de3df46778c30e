"""Independent noise from a key, by JAX's own distributions, and TensorFlow's stateless ones."""

from __future__ import annotations

import sys
from typing import Any

DISTRIBUTIONS = ("gaussian", "uniform", "laplace")


def draw_jax(key: Any, like: Any, distribution: str) -> Any:
    """Return noise of the shape and dtype of ``like``; raise a ValueError for what is no key."""
    random = sys.modules["jax"].random
    try:
        whole = random.key_data(key).ndim == 1  # a mapped key has one axis, too
    except TypeError:
        whole = False
    if not whole:
        raise ValueError(
            f"key: expected one key, jax.random.key(0), got {_said(key)}; jax.vmap takes several"
        )
    if distribution == "gaussian":
        return random.normal(key, like.shape, like.dtype)
    if distribution == "uniform":
        return random.uniform(key, like.shape, like.dtype, minval=-1.0)
    return random.laplace(key, like.shape, like.dtype)


def draw_tensorflow(key: Any, like: Any, distribution: str) -> Any:
    """Return the same in TensorFlow; a key is a seed of shape (2,)."""
    tf = sys.modules["tensorflow"]
    try:
        seed = tf.convert_to_tensor(key)
        whole = seed.dtype.is_integer and seed.shape.is_compatible_with((2,))
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"key: expected a seed, two integers such as [0, 1], got {_said(key)}")
    random, shape = tf.random, tf.shape(like)
    if distribution == "gaussian":
        return random.stateless_normal(shape, seed, dtype=like.dtype)
    # in float32: half precision would draw the ends too often
    uniform = random.stateless_uniform(shape, seed, -1.0, 1.0)
    if distribution == "laplace":
        rest = tf.maximum(1 - tf.abs(uniform), 1e-7)  # log(0)
        uniform = -tf.sign(uniform) * tf.math.log(rest)
    return tf.cast(uniform, like.dtype)


def _said(key: Any) -> str:
    shape = getattr(key, "shape", None)
    return repr(key) if shape is None else f"{key.dtype} of shape {tuple(shape)}"
