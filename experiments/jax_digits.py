"""A small JAX network, trained on the digits within seconds, as a ``_target_``.

carescale evaluate experiments/jax_digits.yaml
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from foolbox import JAXModel

from foolbox_carescale.evaluate.data.digits import digits

LEARNING_RATE = 3e-3
BETAS = (0.9, 0.999)  # Adam's, of Kingma & Ba 2015, arXiv 1412.6980


def build(hidden: int = 64, epochs: int = 150, seed: int = 0) -> JAXModel:
    """A network with one hidden layer, on images in [0, 1], shape (N, 3, 32, 32)."""
    images, labels, _ = digits("train")
    x, y = jnp.asarray(images), jnp.asarray(labels)
    first, second = jax.random.split(jax.random.PRNGKey(seed))
    inputs = x[0].size
    params = {
        "hidden": jax.random.normal(first, (inputs, hidden)) * (2 / inputs) ** 0.5,
        "shift": jnp.zeros(hidden),
        "output": jax.random.normal(second, (hidden, 10)) * hidden**-0.5,
    }

    def loss(params: Any) -> Any:
        log_p = jax.nn.log_softmax(logits(params, x))
        return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()

    def step(state: Any, number: Any) -> Any:
        params, means, squares = state
        gradient = jax.grad(loss)(params)
        means = jax.tree.map(lambda m, g: BETAS[0] * m + (1 - BETAS[0]) * g, means, gradient)
        squares = jax.tree.map(lambda s, g: BETAS[1] * s + (1 - BETAS[1]) * g**2, squares, gradient)
        rate = LEARNING_RATE * (1 - BETAS[1] ** number) ** 0.5 / (1 - BETAS[0] ** number)
        params = jax.tree.map(
            lambda w, m, s: w - rate * m / (jnp.sqrt(s) + 1e-8), params, means, squares
        )
        return (params, means, squares), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    # one compiled program for the whole training
    (params, _, _), _ = jax.lax.scan(step, (params, zeros, zeros), jnp.arange(1.0, epochs + 1))
    return JAXModel(jax.jit(lambda x: logits(params, x)), bounds=(0, 1))


def logits(params: Any, x: Any) -> Any:
    """Logits, shape (N, 10)."""
    flat = (x.reshape(len(x), -1) - 0.5) / 0.5
    return jax.nn.relu(flat @ params["hidden"] + params["shift"]) @ params["output"]
