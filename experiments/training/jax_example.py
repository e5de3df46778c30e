"""Noise and adversarial training in JAX: everything inside one jitted step.

    python -m experiments.training.jax_example [--quick]

A two-layer network on scikit-learn's 8 x 8 digits, trained clean, on Gaussian noise at exactly
epsilon, on noise of a generator that is trained against it, and on adversarial examples; plain
gradient descent with momentum. Prints held-out accuracy, on all at the same epsilon.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from foolbox_carescale import perturb
from foolbox_carescale.training import functional

EPSILON = 1.0  # L2; an image has a norm of about 3.5
RECIPES = ("clean", "noise", "generator", "adversarial")
BATCH, RATE, MOMENTUM = 128, 0.05, 0.9


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Train and print; returns the accuracies, by recipe and by what is evaluated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="40 steps in place of 600")
    options = parser.parse_args(arguments)

    data: Any = load_digits()
    images = jnp.asarray(data.images[..., None] / 16, jnp.float32)  # (N, 8, 8, 1)
    labels = jnp.asarray(data.target)
    held_out = np.arange(len(images)) % 3 == 0
    results = {}
    print(f"held-out accuracy at L2 epsilon {EPSILON:g}\n")
    print("| trained on | clean | Gaussian noise | adversarial |\n|---|---|---|---|")
    for recipe in RECIPES:
        steps = 40 if options.quick else 600
        network = train(recipe, images[~held_out], labels[~held_out], steps)
        results[recipe] = evaluate(network, images[held_out], labels[held_out])
        figures = " | ".join(f"{value:.3f}" for value in results[recipe].values())
        print(f"| {recipe} | {figures} |", flush=True)
    return results


def train(recipe: str, images: Any, labels: Any, steps: int, seed: int = 0) -> Any:
    """The parameters of a network trained on one kind of perturbation."""
    parameters = {"network": initial(seed), "generator": functional.generator(seed, 1)}
    velocity = jax.tree.map(jnp.zeros_like, parameters)
    for key in jax.random.split(jax.random.key(seed), steps):
        parameters, velocity = step(recipe, parameters, velocity, images, labels, key)
    return parameters["network"]


@functools.partial(jax.jit, static_argnums=0)
def step(
    recipe: str, parameters: Any, velocity: Any, images: Any, labels: Any, key: Any
) -> tuple[Any, Any]:
    """One step of gradient descent; the generator, where it is used, ascends."""
    batch_key, noise_key = jax.random.split(key)
    batch = jax.random.choice(batch_key, len(images), (BATCH,), replace=False)
    x, y = images[batch], labels[batch]

    def objective(parameters: Any) -> Any:
        network = parameters["network"]
        z = x
        if recipe == "noise":
            z = functional.noisy(noise_key, x, EPSILON)
        elif recipe == "generator":
            noise = functional.sample(noise_key, x)
            z = perturb(x, functional.generated(parameters["generator"], noise), EPSILON)
        elif recipe == "adversarial":
            z = functional.adversarial(lambda z: losses(network, z, y), x, EPSILON)
        return losses(network, z, y).mean()

    gradient = jax.grad(objective)(parameters)
    gradient["generator"] = jax.tree.map(jnp.negative, gradient["generator"])
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)
    return jax.tree.map(lambda w, v: w - RATE * v, parameters, velocity), velocity


def evaluate(network: Any, x: Any, y: Any) -> dict[str, float]:
    """Accuracy on clean, noisy and attacked images."""

    def accuracy(z: Any) -> float:
        return float((logits(network, z).argmax(-1) == y).mean())

    noisy = functional.noisy(jax.random.key(1), x, EPSILON)
    return {
        "clean": accuracy(x),
        "noise": accuracy(noisy),
        "adversarial": accuracy(attacked(network, x, y)),
    }


@jax.jit
def attacked(network: Any, x: Any, y: Any) -> Any:
    """Adversarial examples; compiled once for all networks, which are an argument."""
    return functional.adversarial(lambda z: losses(network, z, y), x, EPSILON, steps=20)


def initial(seed: int) -> Any:
    """Weights and biases of the network."""
    rng = np.random.default_rng(seed)
    sizes = ((64, 128), (128, 10))
    return [
        (jnp.asarray(rng.normal(0, (2 / n) ** 0.5, (n, m)), jnp.float32), jnp.zeros(m))
        for n, m in sizes
    ]


def logits(network: Any, x: Any) -> Any:
    """Shape (N, 10)."""
    (w1, b1), (w2, b2) = network
    return jax.nn.relu(x.reshape(len(x), -1) @ w1 + b1) @ w2 + b2


def losses(network: Any, x: Any, y: Any) -> Any:
    """Cross-entropy per sample."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits(network, x)), y[:, None], axis=1)[:, 0]


if __name__ == "__main__":
    main()
