"""Small models in every framework, with inputs that mostly sit on the bounds."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import eagerpy as ep
import foolbox as fb
import numpy as np
import torch

from tests import backends, reference

SAMPLES, SHAPE, CLASSES = 4, (3, 8, 8), 5
WITH_GRADIENT = ("torch", "torch-conv", "torch-wide", "tensorflow", "jax")
EVERY = ("numpy", *WITH_GRADIENT)
# in units of the range of the bounds: well inside what most directions reach, far above rounding
EPSILONS = {0.5: 300.0, 1: 6.0, 1.5: 2.5, 2: 1.5, 3: 0.8, float("inf"): 0.15}


@dataclass(frozen=True)
class ModelCase:
    """A model of Foolbox's, with inputs and the labels that it gives them."""

    backend: backends.Backend
    model: Any
    x: Any
    labels: Any

    @property
    def span(self) -> float:
        lower, upper = self.model.bounds
        return float(upper - lower)

    def numpy(self, tensor: Any) -> np.ndarray:
        return self.backend.numpy(native(tensor))

    def norm(self, tensor: Any, p: float) -> np.ndarray:
        """Return the norm of the perturbation, in float64 from the values as they are."""
        return reference.norm(self.numpy(tensor) - self.numpy(self.x), p)

    def in_box(self, tensor: Any) -> bool:
        values = self.numpy(tensor)
        lower, upper = self.model.bounds
        return bool(values.min() >= lower and values.max() <= upper)

    def epsilon(self, p: float) -> float:
        return EPSILONS[p] * self.span

    def logits(self, tensor: Any) -> np.ndarray:
        return self.numpy(self.model(native(tensor)))

    def losses(self, tensor: Any, labels: Any = None) -> np.ndarray:
        """Cross-entropy in float64."""
        logits = self.logits(tensor)
        shifted = logits - logits.max(axis=1, keepdims=True)
        classes = np.asarray(native(self.labels if labels is None else labels))
        own = shifted[np.arange(len(classes)), classes]
        return np.log(np.exp(shifted).sum(axis=1)) - own


def make(name: str) -> ModelCase:
    """``torch-wide`` has the bounds (-1, 3), ``torch-conv`` is a convolution."""
    framework, _, kind = name.partition("-")
    return _build(framework, kind)


def build(
    framework: str, forward: Any, x: np.ndarray, *, bounds: Any = (0, 1), dtype: str = "float32"
) -> ModelCase:
    """The case that the function of native tensors makes."""
    backend = backends.Backend(framework, dtype)
    model = _wrap(framework, forward, bounds)
    points = backend.tensor(x)
    labels = model(ep.astensor(points)).argmax(-1)
    return ModelCase(backend, model, points, labels.raw)


def images(bounds: Any = (0, 1), *, on_bounds: float = 0.7, shape: Any = None) -> np.ndarray:
    rng = np.random.default_rng(7)
    shape = shape or (SAMPLES, *SHAPE)
    unit = rng.uniform(size=shape)
    unit = np.where(rng.uniform(size=shape) < on_bounds, np.round(unit), unit)
    lower, upper = bounds
    return (lower + (upper - lower) * unit).astype(np.float32)


def seed(framework: str, value: int = 0) -> None:
    """The framework's own seed, as a user sets it."""
    if framework == "torch":
        torch.manual_seed(value)
    elif framework == "tensorflow":
        import tensorflow as tf

        tf.random.set_seed(value)
    elif framework == "jax":
        import jax

        ep.JAXTensor.key = jax.random.PRNGKey(value)
    else:
        np.random.seed(value)  # noqa: NPY002  # the generator that EagerPy draws from


def native(tensor: Any) -> Any:
    return tensor.raw if isinstance(tensor, ep.Tensor) else tensor


def linear(
    *, bounds: Any = (0, 1), classes: int = 2, samples: int = 6, seed: int = 1
) -> tuple[ModelCase, np.ndarray]:
    """A linear model in PyTorch, and its weights (classes, n)."""
    rng = np.random.default_rng(seed)
    n = int(np.prod(SHAPE))
    weights = rng.normal(size=(classes, n)).astype(np.float32) / 4
    w = torch.tensor(weights)
    x = images(bounds, shape=(samples, *SHAPE))
    # no constant: the inputs decide the label
    mean = torch.tensor(x).reshape(samples, -1).mean(0)
    return build("torch", lambda t: (t.reshape(len(t), -1) - mean) @ w.T, x, bounds=bounds), weights


def digits(samples: int) -> ModelCase:
    from foolbox_carescale.evaluate.config import types as config
    from foolbox_carescale.evaluate.data import digits as data
    from foolbox_carescale.evaluate.models.loading import load_model

    model, _ = load_model(config.ModelConfig(), device="cpu")
    x, labels, _ = data.digits()
    backend = backends.Backend("torch", "float32")
    return ModelCase(backend, model, torch.tensor(x[:samples]), torch.tensor(labels[:samples]))


@functools.cache
def _build(framework: str, kind: str) -> ModelCase:
    bounds = (-1, 3) if kind == "wide" else (0, 1)
    x = images(bounds)
    if kind == "conv":
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1),
            torch.nn.Softplus(),
            torch.nn.Flatten(),
            torch.nn.Linear(8 * 64, CLASSES),
        ).eval()
        return build(framework, network, x)
    rng = np.random.default_rng(3)
    n, hidden = int(np.prod(SHAPE)), 16
    first = (rng.normal(size=(n, hidden)) / n**0.5 * 2).astype(np.float32)
    second = rng.normal(size=(hidden, CLASSES)).astype(np.float32)
    return build(framework, _perceptron(framework, first, second), x, bounds=bounds)


def _perceptron(framework: str, first: np.ndarray, second: np.ndarray) -> Any:
    """tanh(x @ first) @ second, the same numbers in each framework's own idiom."""
    if framework == "torch":
        # in float64: on some processors sums depend on how many samples are in the batch, and a
        # dozen steps of an attack make a thousand times as much of the last digit
        a, b = torch.tensor(first).double(), torch.tensor(second).double()
        return lambda x: (torch.tanh(x.reshape(len(x), -1).double() @ a) @ b).to(x.dtype)
    if framework == "jax":
        import jax.numpy as jnp

        return lambda x: jnp.tanh(x.reshape(len(x), -1) @ first) @ second
    if framework == "tensorflow":
        import tensorflow as tf

        layers = tf.keras.layers
        network = tf.keras.Sequential(
            [
                layers.Input(SHAPE),
                layers.Flatten(),
                layers.Dense(first.shape[1], activation="tanh", use_bias=False),
                layers.Dense(second.shape[1], use_bias=False),
            ]
        )
        network.set_weights([first, second])
        return network
    return lambda x: np.tanh(x.reshape(len(x), -1) @ first) @ second


def _wrap(framework: str, forward: Any, bounds: Any) -> Any:
    if framework == "torch":
        if not isinstance(forward, torch.nn.Module):
            forward = Function(forward)
        return fb.PyTorchModel(forward.eval(), bounds=bounds, device="cpu")
    if framework == "tensorflow":
        return fb.TensorFlowModel(forward, bounds=bounds, device="/CPU:0")
    if framework == "jax":
        return fb.JAXModel(forward, bounds=bounds)
    return fb.NumPyModel(forward, bounds=bounds)


class Function(torch.nn.Module):
    """Foolbox takes modules only."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.function = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)
