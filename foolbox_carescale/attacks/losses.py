"""The losses of gradient attacks: one number per input, from its logits.

Every loss grows as the attack gets nearer to its goal. ``classes`` are the labels to move away
from, or, for a targeted criterion, the classes to move towards.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import eagerpy as ep
import numpy as np
from foolbox.criteria import Misclassification

from ..core import backends
from .indexing import Index, take_samples

Loss = Callable[[ep.Tensor, ep.Tensor], ep.Tensor]

NAMES = ("ce", "dlr", "margin", "soft_margin", "dlr_or_margin", "dlr_targeted")
LEAST_CLASSES = 4  # that the targeted DLR needs


class LossFn:
    """A loss for one batch: logits -> (N,).

    Args:
        function: (logits, *classes) -> (N,).
        classes: Labels or target classes, each of shape (N,).
    """

    def __init__(self, function: Callable[..., ep.Tensor], *classes: ep.Tensor) -> None:
        self.function, self.classes = function, classes

    def __call__(self, logits: ep.Tensor) -> ep.Tensor:
        """Return the loss of each sample."""
        return self.function(logits, *self.classes)

    def select(self, index: Index) -> LossFn:
        """Return the loss for the samples at these positions."""
        return LossFn(self.function, *(take_samples(of, index) for of in self.classes))


def make_losses(
    criterion: Any, loss: str | Loss | LossFn, targets: int, logits: Callable[[], ep.Tensor]
) -> list[LossFn]:
    """Return the losses to ascend in turn: one, or for "dlr_targeted" one per target class.

    Args:
        criterion: As for ``make_loss``.
        loss: As for ``make_loss``, or "dlr_targeted".
        targets: How many of the most likely other classes to aim at, one run each.
        logits: The model's logits of the clean inputs, called where they are needed.

    Raises:
        ValueError: as ``make_loss``; "dlr_targeted" with a criterion that has targets already.
    """
    if loss != "dlr_targeted":
        return [make_loss(criterion, loss)]
    if not isinstance(criterion, Misclassification):
        raise ValueError(
            "loss: 'dlr_targeted' chooses the target classes itself and needs labels or "
            f"Misclassification, got {criterion!r}; use 'dlr' or 'margin'"
        )
    clean, labels = logits(), criterion.labels
    order = other_classes(clean, labels)

    ranks = range(min(targets, order.shape[1]))
    likely = [backends.from_numpy(clean, order[:, rank]) for rank in ranks]
    return [LossFn(targeted_dlr, labels, classes) for classes in likely]


def other_classes(logits: ep.Tensor, labels: ep.Tensor) -> np.ndarray[Any, Any]:
    """Return all classes but the label by falling logit, (N, K - 1), dtype of the labels."""
    others = _without(logits, _one_hot(logits, labels))
    order = np.argsort(-others.numpy(), axis=-1)[:, :-1]
    return order.astype(backends.to_numpy(labels).dtype)


def make_loss(criterion: Any, loss: str | Loss | LossFn) -> LossFn:
    """Return the loss of a criterion.

    Args:
        criterion: Foolbox's Misclassification, or one with ``target_classes``.
        loss: "ce" cross-entropy; "margin" the difference of logits, between the best other
            class and the label (untargeted), or the target and the best other one (targeted);
            "soft_margin" the same with the logarithm of the sum of the exponentials of all other
            logits, whose gradient has the direction of the cross-entropy's and does not vanish
            where the model is certain;
            "dlr" the difference-of-logits ratio of Croce & Hein 2020, arXiv 2003.01690;
            "dlr_or_margin" the same, and the margin where there are too few classes for it;
            or a function (logits, classes) -> (N,), ascended for labels and descended for
            target classes, like cross-entropy.

    Raises:
        ValueError: the criterion has no classes, or the loss is not known.
    """
    if isinstance(criterion, Misclassification):
        targeted, classes = False, criterion.labels
    elif hasattr(criterion, "target_classes"):
        targeted, classes = True, criterion.target_classes
    else:
        raise ValueError(
            "criterion: expected labels, Misclassification or TargetedMisclassification, got "
            f"{criterion!r}; gradient attacks need a class to move away from or towards"
        )
    if isinstance(loss, LossFn):
        return loss
    if callable(loss):
        function: Any = loss
    else:
        kinds = {"ce": ep.crossentropy, "margin": _margin, "soft_margin": _soft_margin}
        function = kinds.get(loss) or functools.partial(_dlr, few=loss == "dlr_or_margin")

    def ascended(logits: ep.Tensor, own: ep.Tensor) -> ep.Tensor:
        value: ep.Tensor = ep.astensor(function(logits, own))
        return -1.0 * value if targeted else value

    return LossFn(ascended, classes)


def _dlr(logits: ep.Tensor, classes: ep.Tensor, *, few: bool) -> ep.Tensor:
    """Return the difference-of-logits ratio; with ``few``, the margin where it needs more."""
    if logits.shape[-1] < 3:
        if few:
            return _margin(logits, classes)
        raise ValueError(
            f"loss: 'dlr' needs at least 3 classes (it divides by the gap between the first "
            f"and the third logit), the model has {logits.shape[-1]}; use loss='margin', or "
            "'dlr_or_margin'"
        )
    top = _sorted(logits)
    return _margin(logits, classes) / (top[:, -1] - top[:, -3] + 1e-12)


def targeted_dlr(logits: ep.Tensor, labels: ep.Tensor, targets: ep.Tensor) -> ep.Tensor:
    """Return ``(z_t - z_y) / (z_1 - (z_3 + z_4) / 2)``: towards t, away from y.

    Source: Croce & Hein 2020, arXiv 2003.01690.

    Raises:
        ValueError: fewer than 4 classes.
    """
    if logits.shape[-1] < LEAST_CLASSES:
        raise ValueError(
            "loss: the targeted DLR needs at least 4 classes (it divides by the gap between the "
            f"first and the third and fourth logit), the model has {logits.shape[-1]}; use "
            "loss='margin'"
        )
    top = _sorted(logits)
    denominator = top[:, -1] - (top[:, -3] + top[:, -4]) / 2
    return targeted_margin(logits, labels, targets) / (denominator + 1e-12)


def targeted_margin(logits: ep.Tensor, labels: ep.Tensor, targets: ep.Tensor) -> ep.Tensor:
    """Return ``z_t - z_y``: towards t, away from y; of any number of classes."""
    return _pick(logits, targets) - _pick(logits, labels)


def _margin(logits: ep.Tensor, classes: ep.Tensor) -> ep.Tensor:
    own = _one_hot(logits, classes)
    return _without(logits, own).max(axis=-1) - (logits * own).sum(axis=-1)


def _soft_margin(logits: ep.Tensor, classes: ep.Tensor) -> ep.Tensor:
    own = _one_hot(logits, classes)
    others = _without(logits, own)
    top = backends.detach(others.max(axis=-1, keepdims=True))
    total = (others - top).exp().sum(axis=-1).log() + top.squeeze(axis=-1)
    return total - (logits * own).sum(axis=-1)


def _without(logits: ep.Tensor, own: ep.Tensor) -> ep.Tensor:
    """Return -inf in the place of each sample's own logit."""
    return ep.where(own > 0, ep.ones_like(logits) * -math.inf, logits)


def _pick(logits: ep.Tensor, classes: ep.Tensor) -> ep.Tensor:
    return (logits * _one_hot(logits, classes)).sum(axis=-1)


def _one_hot(logits: ep.Tensor, classes: ep.Tensor) -> ep.Tensor:
    return backends.one_hot(backends.detach(logits), classes)


def _sorted(logits: ep.Tensor) -> ep.Tensor:
    return logits.sort(axis=-1)
