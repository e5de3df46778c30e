"""A seed for what EagerPy draws from: each framework's global generator."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import eagerpy as ep
import numpy as np

from ..core import backends


def fresh_seed(like: ep.Tensor) -> int:
    """Draw a seed in [0, 2**24) from the global generator of the framework of ``like``."""
    template = backends.at_least_float32(like)
    return int(ep.uniform(template, (1,), low=0.0, high=1.0).item() * 2**24)


@contextlib.contextmanager
def seeded(like: ep.Tensor, seed: int | None) -> Iterator[None]:
    """Seed the framework's generator within the block; with None leave it alone.

    Afterwards the global generator goes on from where it was: PyTorch's, NumPy's, and the key
    that EagerPy keeps for JAX. TensorFlow's cannot be read; it goes on from a seed that it drew
    itself before.

    Args:
        like: A tensor of the framework and on the device to draw for.
        seed: An integer in [0, 2**32), or None.
    """
    if seed is None:
        yield
        return
    kind = backends.framework(like)
    if kind == "torch":
        torch = sys.modules["torch"]
        devices = [like.raw.device] if like.raw.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield
    elif kind == "jax":
        key = ep.JAXTensor.key
        ep.JAXTensor.key = sys.modules["jax"].random.PRNGKey(seed)
        try:
            yield
        finally:
            ep.JAXTensor.key = key
    elif kind == "tensorflow":
        onwards = fresh_seed(like)
        tf = sys.modules["tensorflow"]
        tf.random.set_seed(seed)
        try:
            yield
        finally:
            tf.random.set_seed(onwards)
    else:
        state = np.random.get_state()  # noqa: NPY002  # the generator that EagerPy draws from
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002
