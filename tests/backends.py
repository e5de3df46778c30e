"""One interface to the tensors of the four frameworks, so that a test is written once."""

from __future__ import annotations

import contextlib
import importlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

FRAMEWORKS = ("numpy", "torch", "tensorflow", "jax")
# NumPy itself has no bfloat16
DTYPES = {
    "numpy": ("float16", "float32", "float64"),
    "torch": ("float16", "bfloat16", "float32", "float64"),
    "tensorflow": ("float16", "bfloat16", "float32", "float64"),
    "jax": ("float16", "bfloat16", "float32", "float64"),
}
SINGLE = [f"{framework}-float32" for framework in FRAMEWORKS]
DOUBLE = [f"{framework}-float64" for framework in FRAMEWORKS]
FULL = SINGLE + DOUBLE
HALF = [f"{f}-{d}" for f in FRAMEWORKS for d in DTYPES[f] if d in ("float16", "bfloat16")]
WITH_GRADIENT = ["torch-float64", "tensorflow-float64", "jax-float64"]


def covering(names: Sequence[str], *factors: Any) -> list[tuple[Any, ...]]:
    """Return all combinations for the first framework, and two for each of the others.

    The same engine answers for all of them. Steps of the golden section spread the two evenly.
    """
    combinations = list(itertools.product(*factors))
    frameworks = [name.partition("-")[0] for name in names]
    chosen: list[tuple[Any, ...]] = []
    turn = 0
    for name, framework in zip(names, frameworks, strict=True):
        some = combinations
        few = max(1, 2 // frameworks.count(framework))
        if framework != frameworks[0] and len(combinations) > few:
            golden = [int(0.618034 * (turn + i) * len(combinations)) for i in range(few)]
            some = [combinations[i % len(combinations)] for i in golden]
            turn += few
        chosen += [(name, *values) for values in some]
    return chosen


def cover(argument: str, names: Sequence[str], *, loop: str = "", **factors: Any) -> Any:
    """Parametrise over `covering`; the fixture `argument` gets the names.

    Of the factor ``loop`` a test gets all values at once that go with the others.
    """
    rows = covering(names, *factors.values())
    if loop:
        at = 1 + list(factors).index(loop)
        together: dict[tuple[Any, ...], list[Any]] = {}
        for row in rows:
            together.setdefault((*row[:at], *row[at + 1 :]), []).append(row[at])
        rows = [(*key[:at], values, *key[at:]) for key, values in together.items()]
    return pytest.mark.parametrize((argument, *factors), rows, indirect=[argument])


def by_day(day: Sequence[Any], cases: Sequence[Any]) -> list[Any]:
    """Return parameters: those in `day` run always, the other cases at night."""
    others = [case if isinstance(case, tuple) else (case,) for case in cases if case not in day]
    return [*day, *(pytest.param(*case, marks=pytest.mark.nightly) for case in others)]


class Backend:
    """Makes, reads and differentiates tensors of one framework and dtype."""

    def __init__(self, framework: str, dtype: str) -> None:
        self.framework, self.dtype = framework, dtype
        self.compiled = True  # in JAX
        self.library = importlib.import_module("jax.numpy" if framework == "jax" else framework)

    def tensor(self, values: Any) -> Any:
        if self.framework == "torch":
            return self.library.tensor(np.array(values), dtype=getattr(self.library, self.dtype))
        if self.framework == "tensorflow":
            return self.library.cast(self.library.constant(np.array(values)), self.dtype)
        return self.library.array(values, dtype=self.dtype)

    def numpy(self, tensor: Any) -> np.ndarray:
        """Return the values in float64."""
        if self.framework == "torch":
            return tensor.detach().cpu().double().numpy()
        return np.asarray(tensor).astype(np.float64)

    def rounded(self, values: Any) -> np.ndarray:
        """Return the values as this dtype holds them, in float64."""
        return self.numpy(self.tensor(values))

    def dtype_of(self, tensor: Any) -> str:
        return str(getattr(tensor.dtype, "name", tensor.dtype)).removeprefix("torch.")

    def is_own(self, tensor: Any) -> bool:
        kinds = {
            "numpy": lambda: np.ndarray,
            "torch": lambda: self.library.Tensor,
            "tensorflow": lambda: self.library.Tensor,
            "jax": lambda: importlib.import_module("jax").Array,
        }
        return isinstance(tensor, kinds[self.framework]())

    def gradient(self, f: Any, *values: Any) -> list[np.ndarray]:
        """Return the gradient of the sum of f's outcome by every argument."""
        tensors = [self.tensor(v) for v in values]
        if self.framework == "torch":
            for t in tensors:
                t.requires_grad_()
            grads = self.library.autograd.grad(f(*tensors).sum(), tensors, materialize_grads=True)
        elif self.framework == "tensorflow":
            with self.library.GradientTape() as tape:
                for t in tensors:
                    tape.watch(t)
                total = self.library.reduce_sum(f(*tensors))
            unconnected = self.library.UnconnectedGradients.ZERO
            grads = tape.gradient(total, tensors, unconnected_gradients=unconnected)
        else:
            jax = importlib.import_module("jax")
            grad = jax.grad(lambda *a: f(*a).sum(), argnums=tuple(range(len(tensors))))
            # one program: outside of jit each operation of the gradient is compiled for itself
            grads = (jax.jit(grad) if self.compiled else grad)(*tensors)
        return [self.numpy(g) for g in grads]


@contextlib.contextmanager
def make(name: str) -> Iterator[Backend]:
    """Yield the backend of a name like "jax-float64"; JAX has float64 only in this context."""
    framework, dtype = name.split("-")
    if name == "jax-float64":
        jax = importlib.import_module("jax")
        enable = getattr(jax, "enable_x64", None)
        if enable is None:
            enable = importlib.import_module("jax.experimental").enable_x64
        with enable(True):
            yield Backend(framework, dtype)
    else:
        yield Backend(framework, dtype)
