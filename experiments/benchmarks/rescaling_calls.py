"""The calls that `rescaling` times: data, frameworks, and the contestants in each."""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

with contextlib.suppress(ImportError):
    # TensorFlow and Triton each bring an LLVM; the process ends when TensorFlow's comes first
    import triton  # noqa: F401
import torch
from foolbox.external.clipping_aware_rescaling import l2_clipping_aware_rescaling as official

from foolbox_carescale import clipping_aware_rescaling, engines, perturb, reachable_norm

ORDERS = (1.0, 1.3, 1.5, 2.0, 3.0, math.inf)
# Compiling for an order takes seconds.
COMPILED_ORDERS = (1.3, 2.0)
BIG, SMALL = (32, 3, 224, 224), (128, 3, 32, 32)

# eps is this part of what the first row can reach: about a fifth of the coordinates end on the
# bounds, so that neither the naive rescaling nor the far corner is nearly right.
TYPICAL_SHARE = 0.25
# Decades that the magnitudes of a geometric direction span; float32 has 38 below 1.
GEOMETRIC_DECADES = 30
BISECTION_STEPS = 40  # float32 has 24 bits, and the first bracket is wide

Call = Callable[[], Any]


@dataclass(frozen=True)
class Cell:
    """The key of one number."""

    shape: tuple[int, ...]
    data: str
    p: float
    name: str


# Data.


def typical(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Points uniform in [0, 1] and Gaussian directions, float32."""
    rng = np.random.default_rng(0)
    return rng.random(shape, np.float32), rng.standard_normal(shape, np.float32)


def cauchy(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Directions with heavy tails: a few coordinates dwarf all others."""
    rng = np.random.default_rng(0)
    return rng.random(shape, np.float32), rng.standard_cauchy(shape).astype(np.float32)


def geometric(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Magnitudes of the directions fall geometrically, in random order."""
    rng = np.random.default_rng(0)
    n = math.prod(shape[1:])
    falling = np.logspace(0, -GEOMETRIC_DECADES, n)
    rows = rng.permuted(np.tile(falling, (shape[0], 1)), axis=1)
    delta = rows * rng.choice([-1.0, 1.0], rows.shape)
    return rng.random(shape, np.float32), delta.reshape(shape).astype(np.float32)


# Name: the data, and eps as a part of what each row can reach.
HARD: dict[str, tuple[Callable[[tuple[int, ...]], tuple[Any, Any]], float]] = {
    "typical": (typical, TYPICAL_SHARE),
    "0.01 of reachable": (typical, 0.01),
    "0.9 of reachable": (typical, 0.9),
    "0.999999 of reachable": (typical, 0.999999),
    "Cauchy": (cauchy, TYPICAL_SHARE),
    "geometric": (geometric, TYPICAL_SHARE),
}


def typical_eps(x: Any, delta: Any, p: float) -> float:
    """One eps for all rows, as the official code wants it."""
    return TYPICAL_SHARE * float(reachable_norm(x[:1], delta[:1], p=p)[0])


# Frameworks: how arrays become tensors, when a result is there, and what compiles a function.


@dataclass(frozen=True)
class Framework:
    """A framework, for the measurements."""

    name: str
    tensor: Callable[[Any], Any]
    wait: Callable[[Any], Any]
    compiler: str = ""
    compile: Callable[[Any], Any] | None = None


def _same(value: Any) -> Any:
    return value


@functools.cache
def frameworks() -> dict[str, Framework]:
    """Those that are installed; a line says which are not."""
    found = {
        "numpy": Framework("numpy", _same, _same),
        "torch": Framework("torch", torch.from_numpy, _same),
    }
    if (tf := _imported("tensorflow")) is not None:
        # eager operations have finished when they return on a CPU; this waits for others
        found["tensorflow"] = Framework(
            "tensorflow", tf.constant, operator.methodcaller("numpy"), "tf.function", tf.function
        )
    if (jax := _imported("jax")) is not None:
        found["jax"] = Framework("jax", jax.numpy.array, jax.block_until_ready, "jax.jit", jax.jit)
    if torch.cuda.is_available():
        found["cuda"] = Framework("cuda", lambda a: torch.from_numpy(a).cuda(), _wait_for_cuda)
    else:
        say("skipped: CUDA, there is no GPU")
    return found


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        say(f"skipped: {name} ({error})")
        return None


def _wait_for_cuda(value: Any) -> Any:
    torch.cuda.synchronize()
    return value


# Contestants.

CLIP, BISECTION = "clip, torch", "bisection, torch"
CLIP_INTO = "clip, torch, into given memory"
FUSED, BACKWARD, GENERIC = (
    "ours, torch, perturb", "ours, torch, with backward", "ours, torch, eager engine"
)  # fmt: skip
COPY = "copy of x and delta, cuda"


def calls_of(shape: tuple[int, ...]) -> dict[Cell, Call]:
    """All contestants on typical data of one shape, for every order they know."""
    x, delta = typical(shape)
    tensors = {
        name: (framework.tensor(x), framework.tensor(delta))
        for name, framework in frameworks().items()
    }
    calls: dict[Cell, Call] = {}
    for p in ORDERS:
        eps = typical_eps(x, delta, p)
        named: dict[str, Call] = {}
        for name, framework in frameworks().items():
            named.update(_calls_in(framework, *tensors[name], eps, p, shape))
        named.update(more_in_torch(*tensors["torch"], eps, p))
        calls.update({Cell(shape, "typical", p, name): call for name, call in named.items()})
    return calls


def hard_calls(shape: tuple[int, ...]) -> dict[Cell, Call]:
    """Eta on every kind of hard rows, for every order."""
    calls: dict[Cell, Call] = {}
    for data, (make, share) in HARD.items():
        x, delta = (torch.from_numpy(a) for a in make(shape))
        for p in ORDERS:
            eps = share * reachable_norm(x, delta, p=p)
            call = functools.partial(clipping_aware_rescaling, x, delta, eps, p=p)
            calls[Cell(shape, data, p, "ours, torch, eps per row")] = call
    return calls


def growth_calls(n: int) -> dict[Cell, Call]:
    """One row of n elements, p = 2, in PyTorch."""
    x, delta = typical((1, n))
    eps = typical_eps(x, delta, 2.0)
    x, delta = torch.from_numpy(x), torch.from_numpy(delta)
    named = {
        "ours, torch": functools.partial(clipping_aware_rescaling, x, delta, eps),
        "Foolbox, torch": functools.partial(official, x, delta, eps),
        **more_in_torch(x, delta, eps, 2.0),
    }
    return {
        Cell((1, n), "growth", 2.0, name): named[name]
        for name in named
        if name not in (GENERIC, CLIP_INTO)
    }


def _calls_in(
    framework: Framework, x: Any, delta: Any, eps: float, p: float, shape: tuple[int, ...]
) -> dict[str, Call]:
    """Ours and the official code in one framework, as it is and compiled."""
    ways: dict[str, Callable[[Any], Any]] = {framework.name: _same}
    if framework.compile is not None and p in COMPILED_ORDERS:
        ways[framework.compiler] = framework.compile
    calls: dict[str, Call] = {}
    for way, compiled in ways.items():
        ours = compiled(lambda x, delta: clipping_aware_rescaling(x, delta, eps, p=p))
        calls[f"ours, {way}"] = lambda f=ours: framework.wait(f(x, delta))
        # one row of 12 million takes the official code minutes outside of PyTorch
        if p == 2 and (framework.name == "torch" or shape in (BIG, SMALL)):
            sorting = compiled(lambda x, delta: official(x, delta, eps))
            calls[f"Foolbox, {way}"] = lambda f=sorting: framework.wait(f(x, delta))
    if framework.name == "cuda":
        calls[COPY] = lambda: framework.wait((x.clone(), delta.clone()))
    return calls


def more_in_torch(x: Any, delta: Any, eps: float, p: float) -> dict[str, Call]:
    """Return the calls that only PyTorch times."""
    eta, memory = clipping_aware_rescaling(x, delta, eps, p=p), torch.empty_like(x)
    ours = functools.partial(clipping_aware_rescaling, eps=eps, p=p)
    calls = {
        FUSED: lambda: perturb(x, delta, eps, p=p),
        BACKWARD: lambda: _backward(ours, x, delta),
        BISECTION: lambda: bisection(x, delta, eps, p),
        CLIP: lambda: torch.clamp(x + eta * delta, 0, 1),
        CLIP_INTO: lambda: torch.addcmul(x, eta, delta, out=memory).clamp_(0, 1),
    }
    if p == 2:
        calls[GENERIC] = lambda: _by_eager_engine(ours, x, delta)
        sorting = functools.partial(official, eps=eps)
        calls["Foolbox, torch, with backward"] = lambda: _backward(sorting, x, delta)
    return calls


def _backward(function: Callable[[Any, Any], Any], x: Any, delta: Any) -> Any:
    x, delta = x.detach().requires_grad_(), delta.detach().requires_grad_()
    return torch.autograd.grad(function(x, delta).sum(), (x, delta))


def _by_eager_engine(function: Callable[[Any, Any], Any], x: Any, delta: Any) -> Any:
    with mock.patch.object(engines, "ENGINES", engines.ENGINES[-1:]):
        return function(x, delta)


def bisection(x: Any, delta: Any, eps: float, p: float) -> Any:
    """Halve an interval of eta by the norm after the clip, as a user would."""
    column = (-1,) + (1,) * (x.ndim - 1)
    low = torch.zeros(len(x), dtype=x.dtype)
    high = 1 / delta.abs().flatten(1).amin(1).clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        moved = torch.clamp(x + middle.reshape(column) * delta, 0, 1) - x
        short = torch.linalg.vector_norm(moved.flatten(1), ord=p, dim=1) < eps
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return high.reshape(column)


def say(line: str) -> None:
    """Progress, beside what is printed."""
    print(line, file=sys.stderr, flush=True)
