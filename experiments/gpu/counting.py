"""Launches and host waits of PyTorch on a GPU, counted without one, on CPU tensors.

`on_gpu_road` sends CPU tensors where CUDA tensors go: to the Triton engine, by Triton's
interpreter, and to the code for accelerators. `counted` counts there what a GPU would see: a
launch for each kernel and each ATen operation that computes, a wait for each value that the host
reads, and a copy for each array or number that it sends. What the model itself costs, forward and
backward, is counted too; `of_a_gradient` counts that alone.

    TRITON_INTERPRET=1 python -m experiments.gpu.counting
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import foolbox as fb
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import foolbox_carescale as fc
from foolbox_carescale import attacks, engines
from foolbox_carescale.core import backends

# ATen operations that launch nothing: views, and memory as it is
FREE = {
    *("view", "_unsafe_view", "_reshape_alias", "alias", "as_strided", "detach", "lift_fresh"),
    *("expand", "permute", "t", "transpose", "squeeze", "unsqueeze", "unfold", "diagonal"),
    *("slice", "select", "narrow", "split", "split_with_sizes", "unbind"),
    *("empty", "empty_like", "empty_strided", "new_empty", "resize_", "set_"),
    "_local_scalar_dense",
}
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero"}
READS = ("numpy", "tolist", "__array__")  # methods of a tensor that copy it to the host
COPIES = ("from_numpy", "tensor", "as_tensor")  # functions that copy from the host


@dataclasses.dataclass
class Count:
    """What was counted.

    Attributes:
        launches: How often each operation or kernel was launched.
        waits: How often the host waited, by reason.
        copied: Elements of each array that was copied to the device, in turn.
    """

    launches: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    waits: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    copied: list[int] = dataclasses.field(default_factory=list)
    paused: bool = False

    def minus(self, other: Count) -> Count:
        """Return what was counted here and not there."""
        copied = self.copied[len(other.copied) :]
        return Count(self.launches - other.launches, self.waits - other.waits, copied)


@contextlib.contextmanager
def on_gpu_road(*, compiled: bool = True) -> Iterator[None]:
    """Treat PyTorch's CPU tensors as those of a GPU, as far as Python can tell.

    Args:
        compiled: Whether there is Triton, whose interpreter then has to be on; else the eager
            engine does all.
    """
    triton, eager = engines.TritonCUDA(), engines.ENGINES[-1]
    with contextlib.ExitStack() as stack:
        patch = functools.partial(_patched, stack)
        patch(triton, "supports", lambda t, traced: "traced" if traced else None)
        patch(engines, "ENGINES", (triton, eager) if compiled else (eager,))
        patch(backends, "on_accelerator", lambda t: backends.framework(t) == "torch")
        patch(backends, "on_cpu", lambda t: backends.framework(t) != "torch")
        yield


@contextlib.contextmanager
def counted(*, computed: bool = True) -> Iterator[Count]:
    """Count in a block.

    Args:
        computed: Whether Triton's interpreter computes, or leaves the memory of results as it is,
            which takes a hundredth of the time.
    """
    count = Count()
    with contextlib.ExitStack() as stack:
        patch = functools.partial(_patched, stack)
        for name in READS:
            patch(torch.Tensor, name, _counting_read(count, getattr(torch.Tensor, name)))
        for name in COPIES:
            patch(torch, name, _counting_copy(count, getattr(torch, name)))
        for name in ("__getitem__", "__setitem__"):
            patch(torch.Tensor, name, _counting_index(count, getattr(torch.Tensor, name)))
        with contextlib.suppress(ImportError):
            from triton.runtime import interpreter

            call = interpreter.GridExecutor.__call__ if computed else lambda *_, **__: None
            patch(interpreter.GridExecutor, "__call__", _counting_kernel(count, call))
        stack.enter_context(_Mode(count))
        yield count


class _Mode(TorchDispatchMode):
    def __init__(self, count: Count) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if self.count.paused:
            return result
        by_mask = name.lstrip("_").startswith("index") and any(
            isinstance(t, torch.Tensor) and t.dtype == torch.bool for t in tree_leaves(args[1:2])
        )
        if name in WAITS or by_mask:
            self.count.waits[name] += 1
        if name not in FREE:
            self.count.launches[name] += 1
        return result


def _counting_read(count: Count, method: Any) -> Any:
    def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        count.waits["read"] += not count.paused
        with _pause(count):
            return method(self, *args, **kwargs)

    return read


def _counting_copy(count: Count, function: Any) -> Any:
    def copy(data: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(data, torch.Tensor) and not count.paused:
            count.copied.append(int(np.size(data)))
        with _pause(count):
            return function(data, *args, **kwargs)

    return copy


def _counting_index(count: Count, method: Any) -> Any:
    def index(self: Any, where: Any, *values: Any) -> Any:
        parts = where if isinstance(where, tuple) else (where,)
        count.copied += [
            len(part) for part in parts if isinstance(part, (np.ndarray, list)) and not count.paused
        ]
        return method(self, where, *values)

    return index


def _counting_kernel(count: Count, call: Any) -> Any:
    def launch(self: Any, *args: Any, **kwargs: Any) -> Any:
        count.launches[f"triton {self.fn.__name__}"] += not count.paused
        with _pause(count):
            return call(self, *args, **kwargs)

    return launch


@contextlib.contextmanager
def _pause(count: Count) -> Iterator[None]:
    before, count.paused = count.paused, True
    try:
        yield
    finally:
        count.paused = before


def _patched(stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, value)
    if own:
        stack.callback(setattr, owner, name, before)
    else:
        stack.callback(delattr, owner, name)


def example(samples: int = 3) -> tuple[Any, Any, Any]:
    """Return a linear network as a Foolbox model, inputs, and the labels that it gives them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((samples, 3, 5, 5), generator=generator)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(75, 10)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.randn((10, 75), generator=generator) / 4)
        labels = network(x).argmax(1)
    return fb.PyTorchModel(network, bounds=(0, 1), device="cpu"), x, labels


def of_a_gradient(model: Any, x: Any, labels: Any) -> Count:
    """Count one gradient of the cross-entropy and the model's decision, as anybody computes it."""
    with counted() as count:
        point = x.detach().requires_grad_()
        logits = model(point)
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        torch.autograd.grad(loss.sum(), point)
        logits.argmax(1) != labels  # noqa: B015
    return count


def per_step(
    run: Callable[[int], Any], first: int = 4, more: int = 5, *, computed: bool = True
) -> tuple[dict[str, float], dict[str, float], list[int]]:
    """Return launches and waits per step by name, and the sizes of what was copied.

    Args:
        run: Runs an attack of as many steps as it is given.
        first: Steps of the shorter run.
        more: How many more steps the longer run has.
        computed: As for ``counted``; else values are not checked either.
    """
    counts = []
    for steps in (first, first + more):
        torch.manual_seed(0)
        when: Any = "each_call" if computed else "never"
        with counted(computed=computed) as count, fc.value_checks(when):
            run(steps)
        counts.append(count)
    extra = counts[1].minus(counts[0])
    launches, waits = (
        {name: number / more for name, number in of.items()} for of in (extra.launches, extra.waits)
    )
    return launches, waits, extra.copied


EPSILONS = {1.0: 3.0, 2.0: 0.5, math.inf: 0.05}
OPERATORS: dict[str, Callable[..., Any]] = {
    "clipping_aware_rescaling": fc.clipping_aware_rescaling,
    "perturb": fc.perturb,
    "project": lambda x, delta, eps, p: fc.project(x + delta, x, eps, p=p),
    "steepest_step": fc.steepest_step,
    "reachable_norm": lambda x, delta, eps, p: fc.reachable_norm(x, delta, p=p),
}


def of_operators() -> Iterator[tuple[str, float, Count, Count]]:
    """Yield each operator's name, p, and what a call costs, with checks and without."""
    _, x, _ = example()
    delta = torch.randn_like(x)
    for name, operator in OPERATORS.items():
        for p, epsilon in EPSILONS.items():
            for eps in (epsilon, torch.full((len(x),), epsilon)):
                counts = []
                for when in ("each_call", "never"):
                    with counted() as count, fc.value_checks(when):
                        operator(x, delta, eps, p=p)
                    counts.append(count)
                yield f"{name}{'' if isinstance(eps, float) else ', eps a tensor'}", p, *counts


def of_derivatives() -> Iterator[tuple[str, float, Count, Count]]:
    """Yield each operator's name, p, and what a call that is differentiated and its gradient cost.

    Values are not checked.
    """
    _, x, _ = example()
    delta = torch.randn_like(x)
    for (name, operator), (p, epsilon) in itertools.product(OPERATORS.items(), EPSILONS.items()):
        eps = torch.full((len(x),), epsilon)
        leaves = [t.clone().requires_grad_() for t in (x, delta, eps)]
        with fc.value_checks("never"):
            with counted() as forward:
                result = operator(*leaves, p=p)
            with counted() as backward:
                torch.autograd.grad(result.sum(), leaves, allow_unused=True)
        yield name, p, forward, backward


ATTACKS: dict[str, Callable[..., Any]] = {
    "PGD": lambda p, n: attacks.ClipAwarePGD(p=p, steps=n),
    "APGD": lambda p, n: attacks.ClipAwareAPGD(p=p, steps=n),
    "minimum norm": lambda p, n: attacks.ClipAwareMinimumNorm(p=p, steps=n, restarts=1),
    "Square": lambda p, n: attacks.ClipAwareSquare(p=p, queries=n, seed=0),
}


def of_attack(
    name: str, p: float, *, computed: bool = True
) -> tuple[dict[str, float], dict[str, float], list[int]]:
    """Return launches and waits per step of an attack by name, and the sizes of copies."""
    model, x, labels = example()
    # Square is to find nothing, so that all queries are made
    epsilons = {"minimum norm": None, "Square": 1e-3 * EPSILONS[p]}.get(name, EPSILONS[p])
    make = ATTACKS[name]
    return per_step(
        lambda steps: make(p, steps)(model, x, labels, epsilons=epsilons), computed=computed
    )


def main() -> None:
    """Print a line for each operator and each attack."""
    with on_gpu_road():
        plain = sum(of_a_gradient(*example()).launches.values())
        for name, p, checked, unchecked in of_operators():
            print(
                f"{name} p={p:g}: {checked.launches.total()} launches, waits"
                f" {checked.waits.total()}, without checks {unchecked.waits.total()}, copies"
                f" {checked.copied}"
            )
        for name, p, forward, backward in of_derivatives():
            print(
                f"{name} p={p:g}, differentiated: {forward.launches.total()} launches, its"
                f" gradient {backward.launches.total()}, waits"
                f" {forward.waits.total() + backward.waits.total()}"
            )
        print(f"a gradient alone: {plain} launches")
        for name, p in itertools.product(ATTACKS, EPSILONS):
            launches, waits, copied = of_attack(name, p, computed=name == "Square")
            print(
                f"{name} p={p:g}: per step {sum(launches.values()):g} launches, of which"
                f" {plain} for a gradient; waits {sum(waits.values()):g} {waits}, copies {copied}"
            )
            print("   ", dict(sorted(launches.items(), key=lambda item: -item[1])))


if __name__ == "__main__":
    main()
