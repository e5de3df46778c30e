"""Noise and adversarial training in Keras: a ``train_step`` on exact perturbations.

    python -m experiments.training.keras_example [--quick]

A two-layer network on scikit-learn's 8 x 8 digits, trained clean, on Gaussian noise at exactly
epsilon and on adversarial examples, by ``fit``, which compiles the step into a graph. Prints
held-out accuracy, on all at the same epsilon.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from foolbox_carescale.training import functional

EPSILON = 1.0  # L2; an image has a norm of about 3.5
RECIPES = ("clean", "noise", "adversarial")
BATCH = 128


class Perturbed(keras.Sequential):
    """A classifier that is trained on perturbed inputs; elsewhere it is what it contains."""

    def __init__(self, layers: list[Any], recipe: str) -> None:
        super().__init__(layers)
        self.recipe = recipe

    def train_step(self, data: Any) -> Any:
        """Train on one batch."""
        x, y = data
        # fresh in each step: drawn when the graph runs
        key = tf.random.uniform((2,), maxval=2**31 - 1, dtype=tf.int32)
        if self.recipe == "noise":
            x = functional.noisy(key, x, EPSILON)
        elif self.recipe == "adversarial":
            x = functional.adversarial(lambda z: losses(self, z, y), x, EPSILON)
        return super().train_step((x, y))


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Train and print; returns the accuracies, by recipe and by what is evaluated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4 epochs in place of 60")
    options = parser.parse_args(arguments)

    data: Any = load_digits()
    images = (data.images[..., None] / 16).astype(np.float32)  # (N, 8, 8, 1)
    held_out = np.arange(len(images)) % 3 == 0
    results = {}
    print(f"held-out accuracy at L2 epsilon {EPSILON:g}\n")
    print("| trained on | clean | Gaussian noise | adversarial |\n|---|---|---|---|")
    for recipe in RECIPES:
        keras.utils.set_random_seed(0)
        model = Perturbed(
            [
                keras.layers.Flatten(),
                keras.layers.Dense(128, activation="relu"),
                keras.layers.Dense(10),
            ],
            recipe,
        )
        model.compile(
            keras.optimizers.Adam(3e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        epochs = 4 if options.quick else 60
        model.fit(images[~held_out], data.target[~held_out], BATCH, epochs, verbose=0)
        results[recipe] = evaluate(model, images[held_out], data.target[held_out])
        figures = " | ".join(f"{value:.3f}" for value in results[recipe].values())
        print(f"| {recipe} | {figures} |", flush=True)
    return results


def evaluate(model: Any, x: Any, y: Any) -> dict[str, float]:
    """Accuracy on clean, noisy and attacked images."""
    x, y = tf.constant(x), tf.constant(y)

    def accuracy(z: Any) -> float:
        return float(np.mean(np.argmax(model(z), -1) == y.numpy()))

    noisy = functional.noisy(tf.constant([1, 2]), x, EPSILON)
    attacked = functional.adversarial(lambda z: losses(model, z, y), x, EPSILON, steps=20)
    return {"clean": accuracy(x), "noise": accuracy(noisy), "adversarial": accuracy(attacked)}


def losses(model: Any, x: Any, y: Any) -> Any:
    """Cross-entropy per sample, of the model in the mode of evaluation."""
    return keras.losses.sparse_categorical_crossentropy(
        y, model(x, training=False), from_logits=True
    )


if __name__ == "__main__":
    main()
