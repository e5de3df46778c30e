"""Measure adversarial examples against the claim that they are within epsilon."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import eagerpy as ep
import numpy as np
import numpy.typing as npt
from foolbox.criteria import Misclassification

from ...attacks.model import as_foolbox_model, checked_model, unwrapped
from ...core import backends
from ...core.fractions import format_epsilon, parse_fraction
from ..config.types import norm_name, norm_order
from ..errors import UserError, describe
from ..runner.measures import perturbation_norms, quantise
from ..serialization import to_json_values

Array = npt.NDArray[Any]

ORDERS = (0.0, 1.0, 2.0, math.inf)

ROUNDING = 2.0**-24
"""The largest error of a coordinate in [0, 1] that is rounded to float32, with a factor of 2."""

RTOL = 1e-6
"""Share of epsilon by which a norm may exceed it: the rounding of a sum in float32."""


@dataclass(frozen=True)
class Check:
    """One claim.

    Attributes:
        name: "finite", "box", "epsilon", "robust_accuracy".
        holds: Whether it does.
        text: What was found, in words.
    """

    name: str
    holds: bool
    text: str


@dataclass(frozen=True)
class Verification:
    """The measurements of ``verify``; arrays of shape (N,), one entry per sample.

    Attributes:
        p: Order of the norm of the claim.
        epsilon: Of the claim.
        norms: By name ("L0", "L1", "L2", "Linf", and the claim's own): norms of the perturbations,
            float64. L0 counts values that differ.
        excess: How far the claim's norm is above epsilon, 0 where it is not, beyond rounding.
        outside: How far the adversarial example leaves [0, 1].
        finite: Whether all values of the adversarial example are finite; norms, excess and
            outside are infinite where they are not.
        labels: True classes, or the model's clean predictions where none were given; None without
            both.
        clean, adversarial, rounded: The model's predictions, of the adversarial examples rounded to
            8 bits too; None without a model. -1 where a logit is not finite, which counts as
            misclassified.
        checks: The claims, and whether they hold.
    """

    p: float
    epsilon: float
    norms: dict[str, Array]
    excess: Array
    outside: Array
    finite: Array
    labels: Array | None = None
    clean: Array | None = None
    adversarial: Array | None = None
    rounded: Array | None = None
    checks: list[Check] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Return whether every claim holds."""
        return all(check.holds for check in self.checks)

    @property
    def unchanged(self) -> Array:
        """Return which adversarial examples are their clean images."""
        same: Array = self.norms["L0"] == 0
        return same

    def accuracy(self, predictions: Array | None) -> float | None:
        """Return the share of correctly classified samples, clean and in these predictions."""
        if predictions is None or self.clean is None:
            return None
        correct = (self.clean == self.labels) & (predictions == self.labels) & (predictions >= 0)
        return float(np.mean(correct))

    def to_dict(self) -> dict[str, Any]:
        """Return the summary in plain values, for JSON: p of Linf is "inf", NaN is None."""
        name = norm_name(self.p)
        return {
            "norm": name,
            "p": to_json_values(self.p),
            "epsilon": self.epsilon,
            "samples": len(self.excess),
            "norms": {key: _spread(values) for key, values in self.norms.items()},
            "exceeding": int(np.count_nonzero(self.excess)),
            "greatest_excess": _finite(float(self.excess.max(initial=0))),
            "outside_the_box": int(np.count_nonzero(self.outside)),
            "not_finite": int(np.count_nonzero(~self.finite)),
            "unchanged": int(np.count_nonzero(self.unchanged)),
            "clean_accuracy": self.accuracy(self.clean),
            "robust_accuracy": self.accuracy(self.adversarial),
            "robust_accuracy_after_8_bits": self.accuracy(self.rounded),
            "checks": [vars(check) for check in self.checks],
            "holds": self.holds,
        }


def verify(
    clean: Any,
    adversarial: Any,
    labels: Any = None,
    *,
    epsilon: float | str,
    norm: str | float = "Linf",
    model: Any = None,
    robust_accuracy: float | None = None,
    batch_size: int = 64,
) -> Verification:
    """Check that adversarial examples are what somebody says they are.

    A perturbation exceeds epsilon where its norm, in float64, is more than 1e-6 of epsilon above
    it and rounding to float32 does not explain it: 2**-24 in each value that differs.

    Args:
        clean: Images in [0, 1], or of 8 bits; shape (N, ...).
        adversarial: The same, perturbed; shape of ``clean``.
        labels: True classes, shape (N,).
        epsilon: The claim: a number, or a text such as "8/255".
        norm: "L0", "L1", "L2", "Linf", another such as "L1.5", or its order as a number.
        model: A Foolbox model, or a PyTorch module that takes images in [0, 1].
        robust_accuracy: The claim: the part of all samples that ``model`` classifies correctly
            both clean and adversarial; needs a model.
        batch_size: Images that the model and the measuring take at once.

    Returns:
        What was measured, and whether each claim holds.

    Raises:
        UserError: Shapes do not fit, values are no images, the model cannot classify them, or an
            argument cannot be used.
    """
    try:
        limit = float(parse_fraction(epsilon))
    except (TypeError, ValueError):
        limit = math.nan
    if not 0 <= limit < math.inf:
        raise UserError(f"eps: {epsilon!r} is no number >= 0; give one such as 0.5 or 8/255")
    name = norm if isinstance(norm, str) else _name(float(norm))
    try:
        p = 0.0 if name == "L0" else norm_order(name)
    except UserError as error:
        raise UserError(f"norm: {error}") from error
    try:
        batch_size = operator.index(batch_size)
    except TypeError:
        batch_size = 0
    if batch_size < 1:
        raise UserError("batch_size: is no whole number of at least 1; give one such as 64")
    x, z = as_images(clean, "clean"), as_images(adversarial, "adversarial")
    if x.shape != z.shape:
        raise UserError(
            f"adversarial: has the shape {z.shape}, and clean {x.shape}; give the same images in"
            " the same order"
        )
    y = None if labels is None else _classes(labels, len(x))
    if robust_accuracy is not None and model is None:
        raise UserError("robust_accuracy: needs a model; give one with --model")
    if robust_accuracy is not None and not 0 <= robust_accuracy <= 1:
        raise UserError(f"robust_accuracy: {robust_accuracy} is no part of 1; give one in [0, 1]")
    classify = None if model is None else _classifier(model, y)
    parts = [
        _measured(_unit(x[i : i + batch_size]), _unit(z[i : i + batch_size]), p, limit, classify)
        for i in range(0, len(x), batch_size)
    ]
    found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    names = dict.fromkeys([*map(_name, ORDERS), _name(p)])
    result = Verification(
        p,
        limit,
        {name: found[name] for name in names},
        found["excess"],
        found["outside"],
        found["finite"],
        labels=found.get("clean") if y is None else y,
        clean=found.get("clean"),
        adversarial=found.get("adversarial"),
        rounded=found.get("rounded"),
    )
    result.checks.extend(_checks(result, robust_accuracy))
    return result


def merge(parts: Sequence[Verification]) -> Verification:
    """Return what ``verify`` would of all samples at once, of parts with the same claim."""
    first = parts[0]

    def joined(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    names = ("excess", "outside", "finite", "labels", "clean", "adversarial", "rounded")
    norms = {key: np.concatenate([part.norms[key] for part in parts]) for key in first.norms}
    found = Verification(first.p, first.epsilon, norms, **{name: joined(name) for name in names})
    found.checks.extend(_checks(found, None))
    return found


def _checks(found: Verification, claimed: float | None) -> list[Check]:
    n, name = len(found.excess), _name(found.p)
    limit = f"{name} {format_epsilon(found.epsilon)}"
    claims = {
        "finite": (~found.finite, "hold values that are not finite", None),
        "box": (found.outside > 0, "leave [0, 1]", found.outside),
        "epsilon": (found.excess > 0, f"exceed {limit}", found.excess),
    }
    checks = []
    for claim, (bad, text, size) in claims.items():
        count = int(np.count_nonzero(bad))
        worst = f", the worst by {size.max():.3g}" if count and size is not None else ""
        checks.append(Check(claim, not count, f"{count} of {n} {text}{worst}"))
    measured = found.accuracy(found.adversarial)
    if claimed is not None and measured is not None:
        text = f"robust accuracy is {measured:.4f}, claimed {claimed:.4f}"
        # a claim may be rounded to a sample
        checks.append(Check("robust_accuracy", abs(measured - claimed) < 0.5 / n + 1e-9, text))
    return checks


def _measured(
    x: Array, z: Array, p: float, limit: float, classify: Callable[[Array], Array] | None
) -> dict[str, Array]:
    """Return what is measured of one batch, by name."""
    if not (np.isfinite(x).all() and x.min() >= -_CLEAN and x.max() <= 1 + _CLEAN):
        raise UserError(
            f"clean: values span [{x.min():g}, {x.max():g}], outside the box [0, 1]; give the"
            " images that the model takes, before its normalisation"
        )
    finite = np.isfinite(z).reshape(len(z), -1).all(axis=1)
    values = np.where(np.isfinite(z), z, 0.5).astype(z.dtype)
    orders = list(dict.fromkeys([*ORDERS, p]))
    norms = perturbation_norms(x, values, *orders)
    norms[:, ~finite] = np.inf
    found = {_name(order): row for order, row in zip(orders, norms, strict=True)}
    size, moved = found[_name(p)], np.where(finite, found["L0"], 0)
    rounding = ROUNDING * (moved ** (1 / p) if 0 < p < math.inf else float(p > 0))
    beyond = size > limit * (1 + RTOL) + rounding
    flat = values.reshape(len(values), -1)
    outside = np.maximum(-flat.min(axis=1), flat.max(axis=1) - 1).clip(0)
    found |= {
        "excess": np.where(beyond, size - limit, 0.0),
        "outside": np.where(finite, outside, np.inf),
        "finite": finite,
    }
    if classify is not None:
        inside = np.clip(values, 0, 1).astype(np.float32)
        named = {"clean": x, "adversarial": inside, "rounded": quantise(inside)}
        found |= {key: classify(images) for key, images in named.items()}
    return found


def _classifier(model: Any, labels: Array | None) -> Callable[[Array], Array]:
    known = None if labels is None else Misclassification(ep.astensor(labels))
    foolbox_model = as_foolbox_model(model, None)
    dummy = ep.astensor(unwrapped(foolbox_model).dummy)  # type: ignore[attr-defined]
    checked = checked_model(foolbox_model, known)

    def classify(images: Array) -> Array:
        try:
            returned = checked(backends.from_numpy(dummy, images).raw)
        except ValueError as error:  # it names the model, or a label
            raise UserError(str(error).replace("criterion:", "labels:")) from error
        except RuntimeError as error:
            raise UserError(
                f"model: cannot classify images of shape {images.shape[1:]} ({describe(error)})"
            ) from error
        logits = backends.to_numpy(ep.astensor(returned))
        classes: Array = np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)
        return classes

    return classify


def as_images(values: Any, name: str) -> Array:
    """Return images as an array, whatever framework they are of; nothing is copied yet."""
    array = _array(values, name)
    if array.ndim == 4 and array.shape[-1] in (1, 3) and array.shape[1] not in (1, 3):
        array = np.moveaxis(array, -1, 1)  # channels last
    if array.ndim < 2 or not array.size:
        raise UserError(f"{name}: has the shape {array.shape}; give images of shape (N, ...)")
    if array.dtype.kind == "f" or array.dtype == np.uint8:
        return array
    raise UserError(f"{name}: holds {array.dtype}; give floats in [0, 1], or uint8 from 0 to 255")


def _array(values: Any, name: str) -> Array:
    try:
        tensor = backends.detach(backends.as_eagerpy(values, name))
    except ValueError as error:
        raise UserError(str(error)) from error
    if backends.dtype_name(tensor) == "bfloat16":  # NumPy has none
        tensor = backends.at_least_float32(tensor)
    return backends.to_numpy(tensor)


def _unit(images: Array) -> Array:
    """Return images in float32 or wider, those of 8 bits divided by 255."""
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / np.float32(255)
    if (highest := float(np.max(images, initial=0, where=np.isfinite(images)))) > _UNSCALED:
        raise UserError(
            f"clean, adversarial: values reach {highest:g}; divide images of 0 to 255 by 255, or"
            " undo the normalisation"
        )
    return images if images.dtype == np.float64 else images.astype(np.float32)


_CLEAN = 1e-5
"""The distance by which clean images may leave the box, as a resize leaves them."""

_UNSCALED = 16.0
"""Above this, values are not in another box by a mistake of an attack, but in other units."""


def _classes(labels: Any, n: int) -> Array:
    if isinstance(labels, (list, tuple)):
        labels = np.asarray(labels)
    labels = _array(labels, "labels")
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise UserError(
            f"labels: are {labels.dtype} of shape {labels.shape}; give {n} whole numbers, one per"
            " image"
        )
    classes: Array = labels
    return classes


def _name(p: float) -> str:
    return "L0" if p == 0 else norm_name(p)


def _spread(values: Array) -> dict[str, float | None]:
    spread = {
        "mean": float(values.mean()),
        "least": float(values.min()),
        "median": float(np.median(values)),
        "greatest": float(values.max()),
    }
    return {name: _finite(value) for name, value in spread.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
