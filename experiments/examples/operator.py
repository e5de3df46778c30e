"""The operator in NumPy, PyTorch, TensorFlow and JAX: the same call, each framework's own tensors.

python -m experiments.examples.operator
"""

# ruff: noqa: I001  # torchvision, which imports Triton, and then TensorFlow: both bring an LLVM, and
# the other order ends the process
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision  # noqa: F401
import tensorflow as tf

from foolbox_carescale import perturb


def main() -> dict[str, float]:
    """The derivative of a sum of pixels in epsilon, as each framework computes it."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(1, 3, 8, 8)).astype(np.float32)
    delta = rng.normal(size=x.shape).astype(np.float32)
    slopes = {}

    # NumPy has no derivatives: a difference quotient
    above, below = (perturb(x, delta, 2.0 + step).sum(dtype=np.float64) for step in (1e-2, -1e-2))
    slopes["numpy"] = float(above - below) / 2e-2

    eps = torch.tensor([2.0], requires_grad=True)
    perturb(torch.from_numpy(x), torch.from_numpy(delta), eps).sum().backward()
    slopes["torch"] = float(eps.grad.sum())

    size = tf.Variable([2.0])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(perturb(tf.constant(x), tf.constant(delta), size))
    slopes["tensorflow"] = float(tf.reduce_sum(tape.gradient(total, size)))

    slope = jax.jit(jax.grad(lambda e: perturb(jnp.asarray(x), jnp.asarray(delta), e).sum()))
    slopes["jax"] = float(slope(jnp.array([2.0]))[0])

    for framework, value in slopes.items():
        print(f"{framework:>10}: d sum / d epsilon = {value:.4f}")
    return slopes


if __name__ == "__main__":
    main()
