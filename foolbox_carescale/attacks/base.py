"""The base of all fixed-epsilon attacks: order, distance, checks, variants."""

from __future__ import annotations

import inspect
import math
import sys
from abc import ABC
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import eagerpy as ep
from foolbox.attacks.base import (
    AttackWithDistance,
    FixedEpsilonAttack,
    Repeated,
)
from foolbox.criteria import Criterion
from foolbox.devutils import atleast_kd, flatten
from foolbox.distances import LpDistance
from foolbox.models import Model

from ..core import backends, checks
from ..core.fractions import parse_fraction
from ..core.norms import lp_norm
from ..operators.validation import checked_eps, checked_order
from .arguments import HALF_ROUNDING, checked_criterion, checked_epsilons, checked_inputs
from .indexing import parts_of
from .model import as_foolbox_model, checked_model
from .parameters import integer
from .steps import NORM_ROUNDING

NORMS: dict[str, float | None] = {"L1": 1.0, "L2": 2.0, "Linf": math.inf, "Lp": None}
"""Prefixes of the attacks for one order of the norm; the order of Lp is an argument."""

A = TypeVar("A", bound="LpAttack")


class ClipAwareDistance(LpDistance):
    """The Lp distance, which does not change perturbations of norm epsilon.

    Foolbox clips every result of an attack to epsilon again. For a perturbation that is
    already exactly epsilon long, this would only move pixels off the bounds by a rounding error.

    Args:
        p: Order of the norm.
        made_at_epsilon: Whether the attack made perturbations of norm epsilon, so that one in half
            precision exceeds it by rounding only. A minimum-norm attack did not.
    """

    def __init__(self, p: float, *, made_at_epsilon: bool = True) -> None:
        super().__init__(p)
        self.made_at_epsilon = made_at_epsilon

    def __call__(self, references: Any, perturbed: Any) -> Any:
        """Return the p-norm of ``perturbed - references``, shape (N,), in float32 at least."""
        (x, y), restore = ep.astensors_(references, perturbed)
        return restore(lp_distance(x, y, self.p))

    def clip_perturbation(self, references: Any, perturbed: Any, epsilon: Any) -> Any:
        """Shorten perturbations that are longer than epsilon, and only those."""
        (x, y), restore = ep.astensors_(references, perturbed)
        size = lp_distance(x, y, self.p)
        rounding = _half_rounding(y, self.p) if self.made_at_epsilon else 0.0
        fits = size <= epsilon * (1 + NORM_ROUNDING) + rounding
        if fits.all():
            return restore(y)
        shrink = ep.where(fits, ep.ones_like(size), epsilon / ep.maximum(size, 1e-30))
        shrunk = x + atleast_kd(shrink.astype(x.dtype), x.ndim) * (y - x)
        if self.p == math.inf:
            limit = atleast_kd((ep.ones_like(size) * epsilon).astype(x.dtype), x.ndim)
            shrunk = x + ep.minimum(ep.maximum(y - x, -limit), limit)
        return restore(ep.where(atleast_kd(fits, x.ndim), y, shrunk))


class CheckedCall(AttackWithDistance):
    """An attack whose call says what is wrong with its arguments, in place of Foolbox's asserts."""

    _minimizes = False

    def __call__(
        self, model: Any, inputs: Any, criterion: Any, *, epsilons: Any, **kwargs: Any
    ) -> Any:
        """Run the attack; arguments and results as for every attack of Foolbox.

        Args:
            model: A Foolbox model, or a PyTorch module that takes inputs in [0, 1].
            inputs: Points inside the model's bounds, shape (N, ...). What exceeds them by
                rounding only is clipped.
            criterion: Labels, whole numbers of any type, or a Foolbox criterion.
            epsilons: One epsilon or several of them, in the units of the inputs.
            **kwargs: For ``run``.

        Returns:
            Adversarial examples as found, the same clipped, success; lists where epsilons is one.

        Raises:
            ValueError: inputs outside the model's bounds; not one label for each, or none of the
                model's classes; no epsilon, or one that is negative or not finite; another
                network than PyTorch's in the place of a Foolbox model; no logits.

        Warns:
            RuntimeWarning: logits of the model are not all finite, so success may mean nothing; on
                an accelerator only the first are looked at.
        """
        if self._minimizes and "early_stop" in kwargs:
            raise TypeError("early_stop: the call takes it from epsilons; pass it to run")
        checked = checked_call(model, inputs, criterion, epsilons, minimizes=self._minimizes)
        model, inputs, criterion, epsilons = checked
        if len(inputs) == 0:
            return _nothing(inputs, epsilons)
        with checks.deferred():
            return super().__call__(model, inputs, criterion, epsilons=epsilons, **kwargs)  # type: ignore[safe-super]

    def repeat(self, times: int) -> RepeatedClipAware:
        """Return the attack run ``times`` times; a sample keeps its first success."""
        return RepeatedClipAware(self, times)


class LpAttack(CheckedCall, ABC):
    """Base of attacks that measure perturbations by a p-norm.

    Args:
        p: Order of the norm.
    """

    least_p = 0.0  # the smallest order that the attack is defined for

    def __init__(self, *, p: float = 2.0) -> None:
        self.p = checked_order(p, self.least_p)

    @property
    def distance(self) -> ClipAwareDistance:
        """Return the Lp distance of the attack's order."""
        return ClipAwareDistance(self.p, made_at_epsilon=not self._minimizes)


class ClipAwareAttack(LpAttack, FixedEpsilonAttack):  # type: ignore[misc]  # a final call
    """Base of attacks whose perturbation has p-norm epsilon after the clip.

    Args:
        p: Order of the norm.
    """


class RepeatedClipAware(CheckedCall, Repeated):
    """Foolbox's repetition, with the same checks."""

    times = integer(least=1)

    @property
    def _minimizes(self) -> bool:  # type: ignore[override]
        return bool(getattr(self.attack, "_minimizes", False))

    def repeat(self, times: int) -> RepeatedClipAware:
        """Return the attack run ``times`` as often."""
        return RepeatedClipAware(self.attack, self.times * times)


def checked_arguments(
    model: Any, inputs: Any, criterion: Any, epsilon: Any, name: str = "epsilon"
) -> tuple[Model, ep.Tensor, Any, Any, Callable[[ep.Tensor], Any]]:
    """Check the arguments of an attack's ``run``, and return them as it needs them.

    Args:
        model: A Foolbox model, or a PyTorch module that takes inputs in [0, 1].
        inputs: Points inside its bounds, shape (N, ...).
        criterion: Labels, or a Foolbox criterion, or None.
        epsilon: A number, a fraction such as "8/255", or a tensor of shape (N,).
        name: Of epsilon, for messages.

    Returns:
        The model as ``checked_model`` gives it; the inputs as ``checked_inputs`` gives them; the
        criterion or None; epsilon as a number, or as a tensor of shape (N,), of the framework of
        the inputs, in float32 at least; and a function that converts an EagerPy tensor to the
        type of the inputs.

    Raises:
        ValueError: inputs outside the bounds; not one label for each, or none of the model's
            classes; epsilon negative, not finite or of another shape.
    """
    model = as_foolbox_model(model, inputs)
    x, restore = checked_inputs(inputs, model)
    try:
        epsilon = parse_fraction(epsilon)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    # half precision would round an epsilon of its own to 3 digits
    epsilon = checked_eps(epsilon, backends.at_least_float32(x), name)
    if not isinstance(epsilon, float):
        epsilon = (epsilon + ep.zeros(epsilon, (len(x), 1))).reshape((-1,))
    criterion = None if criterion is None else checked_criterion(criterion, x)
    return checked_model(model, criterion), x, criterion, epsilon, restore


def lp_distance(x: ep.Tensor, y: ep.Tensor, p: float) -> ep.Tensor:
    """Return the p-norm of ``y - x``, shape (N,), in float32 at least."""
    # a few samples at a time: the powers of a whole batch would be the peak of a call
    if backends.framework(x) in ("torch", "numpy") and backends.on_cpu(x) and len(x):
        return ep.concatenate([_lp_distance(x[part], y[part], p) for part in parts_of(x)])
    return _lp_distance(x, y, p)


def _lp_distance(x: ep.Tensor, y: ep.Tensor, p: float) -> ep.Tensor:
    x, y = backends.at_least_float32(x), backends.at_least_float32(y)
    return lp_norm(flatten(y - x), p).reshape((-1,))


def variant(
    attack: type[A],
    name: str,
    doc: str,
    *,
    fixed: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    required: Iterable[str] = (),
) -> type[A]:
    """Return the subclass of an attack with some of its arguments fixed.

    Args:
        attack: The class.
        name: Name of the subclass.
        doc: Its docstring.
        fixed: Arguments that the subclass no longer takes, and their values.
        defaults: Arguments with another default.
        required: Arguments that lose their default.

    Returns:
        The subclass; its signature has the remaining parameters.
    """
    settled, defaults = dict(fixed or {}), dict(defaults or {})
    signature = inspect.signature(attack.__init__)
    parameters = []
    for key, parameter in signature.parameters.items():
        if key in settled:
            continue
        if key in defaults:
            parameter = parameter.replace(default=defaults[key])
        if key in required:
            parameter = parameter.replace(default=inspect.Parameter.empty)
        parameters.append(parameter)
    own = signature.replace(parameters=parameters)

    def initialize(self: Any, **kwargs: Any) -> None:
        try:
            own.bind(self, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        attack.__init__(self, **{**defaults, **kwargs, **settled})

    initialize.__signature__ = own  # type: ignore[attr-defined]
    module = sys._getframe(1).f_globals["__name__"]  # where pickle looks for the class
    body = {"__init__": initialize, "__doc__": doc, "__module__": module}
    return type(name, (attack,), body)


def norm_variant(attack: type[A], p: float | None) -> type[A]:
    """Return the subclass for one order: ``L2ClipAwarePGD()`` is ``ClipAwarePGD(p=2)``.

    With p None it is the general one, ``LpClipAwarePGD(p=..., ...)``, which has no default p.
    """
    name = next(prefix for prefix, order in NORMS.items() if order == p) + attack.__name__
    doc = inspect.getdoc(attack) or ""
    if p is None:
        made = variant(attack, name, doc, required=("p",))
    else:
        made = variant(
            attack, name, f"``{attack.__name__}(p={p:g}, ...)``.\n\n{doc}", fixed={"p": p}
        )
    made.__module__ = attack.__module__
    return made


def norm_variants(*attacks: type[A]) -> list[type[A]]:
    """Return the subclasses of attacks for every order of ``NORMS``, named by it.

    Each becomes an attribute of its attack's module too, where pickle looks for it.
    """
    made = [norm_variant(attack, p) for attack in attacks for p in NORMS.values()]
    for attack in made:
        setattr(sys.modules[attack.__module__], attack.__name__, attack)
    return made


def _half_rounding(y: ep.Tensor, p: float) -> Any:
    """Return how much rounding to half precision can add to a norm; 0 for other dtypes."""
    part = HALF_ROUNDING.get(backends.dtype_name(y))
    if part is None:
        return 0.0
    largest = flatten(y.float32().abs()).max(axis=-1)
    return part * largest * math.prod(y.shape[1:]) ** (1 / p)


def checked_call(
    model: Any, inputs: Any, criterion: Any, epsilons: Any, *, minimizes: bool = False
) -> tuple[Model, Any, Criterion, Any]:
    """Return what a call of an attack hands on to Foolbox, or raise a ValueError.

    Args:
        model: A Foolbox model, or a PyTorch module that takes inputs in [0, 1].
        inputs: Points inside its bounds, shape (N, ...).
        criterion: Labels, or a Foolbox criterion.
        epsilons: A number, or several: a sequence, an iterator or a tensor.
        minimizes: Whether an epsilon may be None, and none a tensor of one for each input.

    Returns:
        The model that checks its logits, inputs inside the bounds, the criterion, and epsilons: a
        number, None, or a list.
    """
    model = as_foolbox_model(model, inputs)
    x, restore = checked_inputs(inputs, model)
    criterion = checked_criterion(criterion, x)
    model = checked_model(model, criterion)
    return model, restore(x), criterion, checked_epsilons(epsilons, minimizes)


def _nothing(inputs: Any, epsilons: Any) -> Any:
    """Return what an attack returns for no inputs."""
    x, restore = ep.astensor_(inputs)
    if not isinstance(epsilons, list):
        return inputs, inputs, restore(ep.zeros(x, (0,)) > 0)
    copies = [inputs] * len(epsilons)
    return copies, copies, restore(ep.zeros(x, (len(epsilons), 0)) > 0)
