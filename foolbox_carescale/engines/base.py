"""What an engine is: something that finds the root, and what else it does in the same pass.

An operator hands a checked call, a ``Problem``, to the functions of ``engines``. They ask
``ENGINES`` in order: the first engine whose ``supports`` finds no reason against a tensor serves
it. Every engine solves. All else it offers only where it is faster in one go: a method that
returns None leaves the work to the next engine, and in the end to the operators themselves.

To add an engine, subclass ``Engine`` in a file of its own, import the library that it needs in
the methods and not at the top, and add a line to ``ENGINES`` in ``engines/__init__.py``.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import eagerpy as ep
import numpy as np

from ..core import backends
from ..core.problem import Problem

# The largest number of the dtypes that the engines themselves do not compute in.
LARGEST = {"float16": 65504.0, "bfloat16": 3.38e38}


class Engine(ABC):
    """One way to compute; ``name`` and ``description`` are what ``explain`` prints."""

    name: ClassVar[str]
    description: ClassVar[str]

    @abstractmethod
    def supports(self, tensor: ep.Tensor, *, traced: bool) -> str | None:
        """Return None where the engine serves the tensor, else the reason why not.

        Args:
            tensor: x, in any shape.
            traced: Whether its values cannot be read.
        """

    @abstractmethod
    def solve(self, problem: Problem) -> ep.Tensor | None:
        """Return eta, shape (N, 1), in the dtype of ``problem.x``; None where values are bad."""

    def perturb(self, problem: Problem, *, in_place: bool) -> tuple[ep.Tensor, ep.Tensor] | None:
        """Return ``clip(x + eta delta)``, shape (N, n) or that of x, and eta.

        With ``in_place`` the points may be written over ``problem.x``, which is returned then;
        not over rows with bad values, so that the error can say what they are. An engine that finds
        those after it has written raises: None says that nothing has been written.
        """
        return None

    def steepest_step(
        self, problem: Problem, counts: Any, *, nonfinite_as_zero: bool, overwrite: bool
    ) -> ep.Tensor | None:
        """Return the point of ``steepest_step``; see ``engines.steepest_step``.

        None says that nothing has been written, also with ``overwrite``.
        """
        return None

    def project(
        self,
        problem: Problem,
        *,
        sphere: bool,
        momentum: tuple[float, ep.Tensor, ep.Tensor] | None,
        twice: bool,
        overwrite: bool,
        direction: ep.Tensor | None,
    ) -> tuple[ep.Tensor, Any, Any] | None:
        """Return the projected points and two numbers per sample; see ``engines.project``.

        None says that nothing has been written, also with ``overwrite``.
        """
        return None

    def vjp(
        self, problem: Problem, eta: ep.Tensor, cotangent: ep.Tensor, *, of_points: bool
    ) -> tuple[ep.Tensor, ep.Tensor, ep.Tensor] | None:
        """Return the products for x, delta and eps; see ``engines.vjp``."""
        return None

    def accumulate(
        self, total: ep.Tensor | None, decay: float, gradient: ep.Tensor, least: float
    ) -> ep.Tensor | None:
        """Return the new sum of gradients; see ``engines.accumulate``."""
        return None

    def reachable_norm(self, problem: Problem) -> ep.Tensor | None:
        """Return the norm of the room along ``problem.delta``, shape (N, 1)."""
        return None


@functools.cache
def load(module: str, package: str) -> tuple[Any, str | None]:
    """Return a module that an engine needs and None, or None and why it cannot be imported.

    A library that is installed and broken is reported once, by a RuntimeWarning.
    """
    try:
        return importlib.import_module(module, package), None
    except Exception as error:
        reason = f"it cannot be imported ({type(error).__name__}: {error})"
        report_unfit(package.rpartition(".")[2], reason)
        return None, reason


def report_unfit(name: str, reason: str) -> None:
    """Warn that an engine which should serve a tensor cannot."""
    message = f"engine {name}: {reason}; another engine answers"
    warnings.warn(message, RuntimeWarning, stacklevel=3)


class NotStartedError(Exception):
    """A part of an engine could not be started when it was first needed; the cause says why."""


class Starting:
    """Whether an engine's first call went through; what it raises then is a reason not to ask it.

    A compiler, a driver or headers that are missing show only when something is launched. As a
    context it turns an exception of the first call, or `NotStartedError` of any, into a warning
    and a ``failure``.
    """

    def __init__(self, name: str) -> None:
        self._name, self._started = name, False
        self.failure: str | None = None

    # a generator would take as long as a launch does

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> bool:
        if kind is None:
            self._started = True
            return False
        if issubclass(kind, NotStartedError):
            error = error.__cause__
        # what a call that worked before raises, and memory that runs out, is the caller's
        elif (
            self._started or kind.__name__ == "OutOfMemoryError" or not issubclass(kind, Exception)
        ):
            return False
        self.failure = f"it did not start ({type(error).__name__}: {error})"
        report_unfit(self._name, self.failure)
        return True


def as_tensor(problem: Problem, array: np.ndarray[Any, Any]) -> ep.Tensor:
    """Return an array as a tensor of the problem's framework, device and dtype."""
    dtype = backends.dtype_name(problem.shaped_x)
    return backends.from_numpy(problem.shaped_x, np.asarray(array, dtype))
