"""One seed for every generator of random numbers that an attack or a model may draw from."""

from __future__ import annotations

import random
import sys

import numpy as np


def seed_everything(seed: int) -> None:
    """Seed every generator that an attack may draw from, of frameworks in use only."""
    short = seed % 2**32  # all that NumPy's and TensorFlow's global generators take
    random.seed(seed)
    np.random.seed(short)  # noqa: NPY002 - Foolbox draws from the global generator
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)
    if (tensorflow := sys.modules.get("tensorflow")) is not None:
        tensorflow.random.set_seed(short)
    if (jax := sys.modules.get("jax")) is not None:
        from eagerpy.tensor.jax import JAXTensor

        JAXTensor.key = jax.random.PRNGKey(short)
