"""Several attacks in turn, each on the samples that the earlier ones did not break."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import eagerpy as ep
import numpy as np
from foolbox.attacks.base import get_is_adversarial, raise_if_kwargs
from foolbox.criteria import Misclassification
from foolbox.devutils import atleast_kd, flatten
from foolbox.models import Model

from ..core import backends, checks, memory
from ..core.norms import sample
from ..operators.api import perturb
from . import losses
from .base import ClipAwareAttack, checked_arguments, lp_distance
from .counting import CountingModel
from .indexing import Index, put_samples, take_criterion, take_samples
from .minimum_norm import ClipAwareMinimumNorm, linear_radius
from .model import WrappedModel
from .named import ClipAwareAPGD, ClipAwarePGD
from .parameters import Parameter, boolean, integer, one_of, seed_or_none
from .seeding import seeded
from .square import ClipAwareSquare
from .state import AttackState

STAGES = ("minimum-norm", "apgd-ce", "apgd-t", "pgd-margin", "square")
Version = Literal["standard", "plus", "fast", "rand"]
_STANDARD = {
    "attacks": ("minimum-norm", "apgd-t", "pgd-margin", "square"),
    "restarts": 1,
    "targets": 6,
    "queries": 500,
    "draws": 1,
}
VERSIONS: dict[Version, dict[str, Any]] = {
    "standard": _STANDARD,
    "plus": _STANDARD | {"attacks": STAGES, "restarts": 5, "targets": 9, "queries": 5000},
    "fast": _STANDARD | {"attacks": ("minimum-norm", "apgd-t", "pgd-margin")},
    "rand": _STANDARD | {"attacks": ("apgd-ce", "pgd-margin"), "draws": 20},
}
LITTLE = 1e-6  # of the largest displacement: noise that counts only where the rest is at the bounds
CANDIDATES = 3  # classes that are ranked for each of "apgd-t"'s targets
Passes = np.ndarray[Any, np.dtype[np.floating[Any]]]
TargetedLoss = Literal["dlr", "margin", "dlr_or_margin"]


@dataclass(frozen=True)
class StageResult:
    """The result of one stage of an ensemble, for ``on_stage``; NumPy arrays of k samples.

    Attributes:
        name: "minimum-norm", "apgd-ce", "apgd-t1" (towards the nearest other class), "apgd-t2",
            ..., "pgd-margin1" (its first restart), ..., "square".
        samples: Positions in the batch of the samples that were still unbroken, shape (k,).
        broken: Whether it broke each, shape (k,), bool.
        forwards: Forward passes that it spent on each, shape (k,); the mean, as gradient attacks
            stop with each sample that they break.
        backwards: Backward passes likewise, shape (k,).
    """

    name: str
    samples: Index
    broken: np.ndarray[Any, np.dtype[np.bool_]]
    forwards: Passes
    backwards: Passes


class ClipAwareAutoAttack(ClipAwareAttack):
    """An ensemble like AutoAttack, with exact steps and projections, for any p.

    "minimum-norm" is ``ClipAwareMinimumNorm``, which ends its search for a sample at epsilon.
    "apgd-ce" is ``ClipAwareAPGD`` on the cross-entropy. "apgd-t" is the same on the targeted DLR
    loss towards each of the nearest other classes in turn: those with the smallest
    ``(z_y - z_t) / ||grad(z_y - z_t)||_q``, q dual to p, at the input, among the most likely.
    "pgd-margin" is ``ClipAwarePGD``, with its own schedule, on the difference of logits. "square"
    is ``ClipAwareSquare``, which needs no gradients. Each attacks only unbroken samples, and
    stops with each that it breaks. A targeted criterion has "apgd-ce" in place of "apgd-t".

    Args:
        p: Order of the norm, in [1, inf].
        version: Sets the arguments that are None. "standard": "minimum-norm", "apgd-t"
            towards 6 classes, "pgd-margin", and "square" with 500 queries. "plus": all stages,
            with 5 restarts, 9 classes and 5000 queries, as AutoAttack has. "fast": "standard"
            without "square". "rand", for models with random parts: "apgd-ce" and "pgd-margin"
            with 20 draws.
        attacks: The stages, in this order.
        steps: Gradients of each run of a gradient attack.
        restarts: Runs of "pgd-margin" from new random starts, each on the samples still unbroken.
        targets: Number of classes that "apgd-t" aims at; fewer if the model has fewer.
        targeted_loss: For "apgd-t": "dlr", which needs 4 classes; "margin", the difference between
            the target's logit and the label's; or "dlr_or_margin", which uses the margin for
            fewer than 4 classes.
        queries: Forward passes of "square" per sample, at most.
        draws: Passes whose logits are averaged wherever a stage asks the model. The success that
            the call returns is of one more pass.
        verbose: Print a line after each stage: its name, the robust accuracy, the passes that it
            spent, and its seconds.
        seed: Seed of all random numbers, so that two runs are the same; None draws from the
            framework's generator.

    An unbroken sample gets the result of the first stage but "minimum-norm": exactly epsilon
    away, with the highest loss. With "minimum-norm" alone it stays as it is. What "minimum-norm"
    breaks is brought to epsilon, where it is adversarial there too; else it stays nearer. What is
    misclassified already may stay as it is.

    Source: Croce & Hein 2020, arXiv 2003.01690; the order of the classes is that of Melamed &
    Yehudai 2024, arXiv 2407.02240.
    """

    kind = "ensemble"
    least_p = 1.0

    version: Parameter[Version] = one_of(Version)
    attacks: Parameter[Sequence[str]] = Parameter(
        f"some of {', '.join(STAGES)}",
        lambda value: (
            isinstance(value, (list, tuple))
            and bool(value)
            and all(name in STAGES for name in value)
        ),
    )
    steps = integer(least=1)
    restarts = integer(least=1)
    targets = integer(least=1)
    targeted_loss: Parameter[TargetedLoss] = one_of(TargetedLoss)
    queries = integer(least=1)
    draws = integer(least=1)
    verbose = boolean()
    seed = seed_or_none()

    def __init__(
        self,
        *,
        p: float = 2.0,
        version: Version = "standard",
        attacks: Sequence[str] | None = None,
        steps: int = 100,
        restarts: int | None = None,
        targets: int | None = None,
        targeted_loss: TargetedLoss = "dlr_or_margin",
        queries: int | None = None,
        draws: int | None = None,
        verbose: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(p=p)
        self.version = version
        if isinstance(attacks, Iterable) and not isinstance(attacks, str):
            attacks = tuple(attacks)
        given = {
            "attacks": attacks,
            "restarts": restarts,
            "targets": targets,
            "queries": queries,
            "draws": draws,
        }
        for name, standing in VERSIONS[version].items():
            setattr(self, name, standing if given[name] is None else given[name])
        self.steps = steps
        self.targeted_loss = targeted_loss
        self.verbose = verbose
        self.seed = seed

    @checks.deferred()
    def run(
        self,
        model: Model,
        inputs: Any,
        criterion: Any,
        *,
        epsilon: Any,
        on_stage: Callable[[StageResult], None] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the stages in turn.

        Args:
            model: A Foolbox model with gradients.
            inputs: Points inside the model's bounds, shape (N, ...).
            criterion: Labels, Misclassification or TargetedMisclassification.
            epsilon: A number, or a tensor of shape (N,).
            on_stage: Called with a ``StageResult`` after each; pass it when calling the attack.
            **kwargs: Unknown arguments, which raise a TypeError.

        Returns:
            The adversarial examples, type of the inputs.

        Raises:
            ValueError: "apgd-t" with the DLR loss on a model of fewer than 4 classes.
        """
        raise_if_kwargs(kwargs)
        arguments = checked_arguments(model, inputs, criterion, epsilon)
        model, x0, criterion, epsilon, restore = arguments
        counting = CountingModel(model)
        model = counting if self.draws == 1 else _MeanModel(counting, self.draws)
        ranking = _Ranking(x0, criterion, self.p, self.targets)

        result, active = x0, np.arange(len(x0))
        without_result = True
        with seeded(x0, self.seed):
            for name in self._names(criterion):
                if len(active) == 0:
                    break
                counting.forwards = counting.backwards = 0
                started = time.perf_counter()
                here = take_criterion(criterion, active)
                attack = self._attack(name, model, active, ranking)
                if attack is None:
                    continue
                at: Any = epsilon if isinstance(epsilon, float) else take_samples(epsilon, active)
                queries: list[Index] = []
                points = take_samples(x0, active)
                if isinstance(attack, ClipAwareMinimumNorm):
                    nearest = attack.run(model, points, here, early_stop=at)
                    x, found = _at_epsilon(nearest, points, model, here, at, self.p)
                else:
                    square = isinstance(attack, ClipAwareSquare)
                    report = {"on_end": queries.append} if square else {}
                    x = attack.run(model, points, here, epsilon=at, **report)
                    found = get_is_adversarial(here, model)(x)
                broken = taken = np.asarray(found.numpy())
                if without_result and not isinstance(attack, ClipAwareMinimumNorm):
                    without_result, taken = False, np.ones_like(broken)
                result = put_samples(result, active[taken], take_samples(x, np.flatnonzero(taken)))
                if on_stage is not None:
                    on_stage(_stage_result(name, active, broken, counting, queries))
                active = active[~broken]
                if self.verbose:
                    print(
                        f"{name}: robust accuracy {len(active) / len(x0):.2%},"
                        f" {counting.forwards} forward and {counting.backwards} backward passes,"
                        f" {time.perf_counter() - started:.1f} s",
                        flush=True,
                    )
        return restore(result)

    def _names(self, criterion: Any) -> Iterator[str]:
        stages = self.attacks
        if not isinstance(criterion, Misclassification):
            # these have their target; the cross-entropy aims at it
            named = ("apgd-ce" if stage == "apgd-t" else stage for stage in stages)
            stages = list(dict.fromkeys(named))
        for stage in stages:
            runs = {"apgd-t": self.targets, "pgd-margin": self.restarts}.get(stage)
            if runs is None:
                yield stage
            else:
                for run in range(1, runs + 1):
                    yield f"{stage}{run}"

    def _attack(
        self, name: str, model: Model, active: Index, ranking: _Ranking
    ) -> ClipAwareAttack | ClipAwareMinimumNorm | None:
        """Return the attack of this stage, or None where there is no such target class."""
        if name == "minimum-norm":
            return ClipAwareMinimumNorm(p=self.p, steps=-(-self.steps // 2))
        if name == "square":
            return ClipAwareSquare(p=self.p, queries=self.queries)
        settings: dict[str, Any] = {"p": self.p, "steps": self.steps, "stop_when_broken": True}
        if name == "apgd-ce":
            return ClipAwareAPGD(**settings)
        if name.startswith("pgd-margin"):
            return ClipAwarePGD(**settings, loss="margin")
        classes = ranking.classes(model, active, int(name.removeprefix("apgd-t")))
        if classes is None:
            return None
        labels = take_samples(ranking.criterion.labels, active)
        return ClipAwareAPGD(**settings, loss=self._towards(labels, classes))

    def _towards(self, labels: ep.Tensor, targets: ep.Tensor) -> losses.LossFn:
        def loss(logits: ep.Tensor, labels: ep.Tensor, targets: ep.Tensor) -> ep.Tensor:
            few = logits.shape[-1] < losses.LEAST_CLASSES
            if few and self.targeted_loss == "dlr":
                raise ValueError(
                    f"targeted_loss: 'dlr' needs at least {losses.LEAST_CLASSES} classes, the model"
                    f" has {logits.shape[-1]}; use 'margin' or 'dlr_or_margin'"
                )
            if self.targeted_loss == "margin" or (few and self.targeted_loss == "dlr_or_margin"):
                return losses.targeted_margin(logits, labels, targets)
            return losses.targeted_dlr(logits, labels, targets)

        return losses.LossFn(loss, labels, targets)


class _MeanModel(WrappedModel):
    """A model with random parts, whose logits are averaged over some passes."""

    def __init__(self, model: Model, draws: int) -> None:
        super().__init__(model)
        self._draws, self.is_diagnosed = draws, True

    def __call__(self, inputs: Any) -> Any:
        logits = memory.copied(self._model(inputs))  # the next call may write over them
        for _ in range(self._draws - 1):
            logits = logits + self._model(inputs)
        return logits / self._draws


class _Ranking:
    """Per sample the classes to aim at, the nearest one first."""

    def __init__(self, x0: ep.Tensor, criterion: Any, p: float, targets: int) -> None:
        self.x0, self.criterion, self.p, self.targets = x0, criterion, p, targets
        self.order: Any = None

    def classes(self, model: Model, active: Index, rank: int) -> ep.Tensor | None:
        """Return the classes of rank 1, 2, ...; None where there are fewer classes."""
        if self.order is None:  # once, on those that are left when it is first asked for
            x, criterion = take_samples(self.x0, active), take_criterion(self.criterion, active)
            found = targets_of(model, x, criterion, self.p, self.targets)
            self.order = np.zeros((len(self.x0), found.shape[1]), found.dtype)
            self.order[active] = found
        if rank > self.order.shape[1]:
            return None
        return backends.from_numpy(self.x0, self.order[active, rank - 1])


def targets_of(
    model: Model, x: ep.Tensor, criterion: Misclassification, p: float, targets: int
) -> np.ndarray[Any, Any]:
    """Return the nearest other classes of each input, (N, up to ``targets``), the nearest first.

    By ``(z_y - z_t) / ||grad(z_y - z_t)||_q``, q dual to p, among the ``CANDIDATES * targets``
    classes of the highest logits; it costs a gradient for each of these.
    """
    labels = criterion.labels
    likely = losses.other_classes(model(x), labels)[:, : CANDIDATES * targets]
    state = AttackState(model, x, criterion, 0.0)
    radii = []
    for column in likely.T:
        classes = backends.from_numpy(x, np.ascontiguousarray(column))
        loss_fn = losses.LossFn(losses.targeted_margin, labels, classes)
        point = state.evaluate(x, loss_fn, gradient=True)
        radii.append(linear_radius(point.loss, x, point.gradient, p, model.bounds).numpy())
    nearest = np.argsort(np.stack(radii, axis=1), axis=1, kind="stable")[:, :targets]
    order: np.ndarray[Any, Any] = np.take_along_axis(likely, nearest, axis=1)
    return order


def _at_epsilon(
    nearest: ep.Tensor, x0: ep.Tensor, model: Model, criterion: Any, epsilon: Any, p: float
) -> tuple[ep.Tensor, ep.Tensor]:
    """Return nearest adversarial examples brought to epsilon, and which are adversarial.

    One that is nearer than epsilon, and not adversarial at it, stays as it is.
    """
    norm = lp_distance(x0, nearest, p)
    delta = nearest - x0
    # where what the attack moved is at the bounds, noise takes the rest
    largest = flatten(delta).abs().max(axis=-1)
    rest = LITTLE * atleast_kd(largest, x0.ndim) * sample(x0, "gaussian").astype(x0.dtype)
    x = perturb(x0, delta + rest, epsilon, p=p, bounds=model.bounds)
    found = get_is_adversarial(criterion, model)(x)
    near = ep.logical_and(norm > 0, norm <= epsilon)
    stays = ep.logical_and(near, ep.logical_not(found))
    return ep.where(atleast_kd(stays, x.ndim), nearest, x), ep.logical_or(found, near)


def _stage_result(
    name: str, active: Index, broken: Any, counting: CountingModel, queries: list[Index]
) -> StageResult:
    n = len(active)
    forwards: Passes = np.full(n, counting.forwards / n)
    if queries:  # each sample stops on its own; and one more judges the result
        passes = queries[0] + 1
        forwards = passes * (counting.forwards / passes.sum())  # each may be the mean of draws
    return StageResult(name, active, broken, forwards, np.full(n, counting.backwards / n))
