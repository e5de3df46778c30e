"""Doubts about the numbers of a run: what was seen, for how many, and what to do about it.

``of_model`` asks the model before the first attack and costs a few passes over one block;
``of_results`` reads the stored rows. Neither raises: a doubt is for the reader to judge.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import eagerpy as ep
import numpy as np
import numpy.typing as npt
from foolbox.models import TransformBoundsWrapper

from foolbox_carescale import backends
from foolbox_carescale.evaluate.config import norm_name
from foolbox_carescale.evaluate.errors import EvaluationWarning
from foolbox_carescale.evaluate.results import Results, by_cell
from foolbox_carescale.evaluate.statistics import chance_of_more

FEW = 0.05
"""Share of the samples up to which something may be an oddity of single images."""

SINGLE = 5
"""Fewer samples than that are single images, whatever their share."""

CHANCE = 0.01
"""A difference between two attacks on the same samples is doubted only where a fair coin would
give it, or a greater one, less often than this."""

SAME = {"float16": 3e-2, "bfloat16": 1e-1}
"""Relative difference up to which two sets of logits are the same, by dtype: kernels differ by
batch size, and rounding with them. 1e-3 for all other dtypes."""

MARGIN, EFFORT = 0.1, 2.0
"""An attack is far behind another if it leaves this much more robust accuracy, though it took
this many times its gradients."""

STRENGTH = (
    ("random", r"Noise|SaltAndPepper|Blur|Contrast|Inversion"),
    (
        "iterative",
        r"PGD|BIM|Iterative|ProjectedGradient|SparseL1Descent|MIFGSM|FrankWolfe"
        r"|CarliniWagner|DDN|FMN|AutoAttack",
    ),
    ("one-gradient", r"FGM|FGSM|FastGradient"),
)
"""Kinds of attacks, told by their names; the first pattern that is found counts."""

ORDER = {"random": 0, "one-gradient": 1, "iterative": 2}
"""A kind should do no worse than any kind of a lower number."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Doubt:
    """A reason not to trust a number yet.

    Attributes:
        code: Which check found it, such as ``gradients``.
        seen: What was seen, and for how many.
        remedy: What to do.
    """

    code: str
    seen: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.seen}; {self.remedy}" if self.remedy else self.seen


def of_model(model: Any, images: Array, labels: Array) -> list[Doubt]:
    """Doubts about a model, from its answers to some images and its gradients there.

    Args:
        model: A Foolbox model.
        images: Shape (N, ...), inside the model's bounds: a block, as the attacks will see it.
        labels: Shape (N,).
    """
    doubts = [*_training_mode(model)]
    x = ep.from_numpy(model.dummy, np.ascontiguousarray(images))
    first, dtype = _answers(model, x)
    finite = np.asarray(np.isfinite(first).all(axis=1))
    if not finite.all():
        doubts.append(
            Doubt(
                "overflow",
                f"the logits of {_share(~finite)} images are not finite (they are {dtype})",
                "compute in bfloat16 or float32, or scale the logits down",
            )
        )
    if finite.all():
        doubts += _probabilities(first)
        doubts += _two_answers(model, x, first, SAME.get(dtype, 1e-3))
    chosen = finite & (first.argmax(1) == labels)
    doubts += _gradients(model, images[chosen], labels[chosen])
    return doubts


def of_results(results: Results) -> list[Doubt]:
    """Doubts about the results of a run, complete or not."""
    cells = list(_cells(results))
    return [
        *_outside(cells),
        *_beyond_reach(cells),
        *_robust_beyond_reach(cells),
        *_rising(cells),
        *_weaker_than_expected(cells),
        *_far_behind(cells),
        *_lost_by_rounding(cells),
    ]


def announce(doubts: Iterable[Doubt]) -> None:
    """Say each doubt once, as an EvaluationWarning."""
    for message in dict.fromkeys(map(str, doubts)):
        warnings.warn(message, EvaluationWarning, stacklevel=2)


@contextmanager
def heard() -> Iterator[list[Doubt]]:
    """Collect the EvaluationWarnings of a block of code, and pass them on when it ends."""
    said: list[Doubt] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EvaluationWarning)
        yield said
    for warning in caught:
        if issubclass(warning.category, EvaluationWarning):
            seen, _, remedy = str(warning.message).partition("; ")
            said.append(Doubt("model", seen, remedy))
        warnings.warn_explicit(
            warning.message, warning.category, warning.filename, warning.lineno, source=None
        )


def to_json(doubts: Iterable[Doubt]) -> str:
    """Doubts as JSON: a list of objects with code, seen and remedy."""
    unique = dict.fromkeys(doubts)
    listed = [dataclasses.asdict(doubt) for doubt in unique]
    return json.dumps(listed, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> list[Doubt]:
    """What ``to_json`` wrote."""
    return [Doubt(**fields) for fields in json.loads(text)]


def kind_of(attack: str) -> str | None:
    """``random``, ``one-gradient`` or ``iterative``; None for attacks of no such kind."""
    return next((kind for kind, pattern in STRENGTH if re.search(pattern, attack)), None)


def _training_mode(model: Any) -> Iterator[Doubt]:
    while isinstance(model, TransformBoundsWrapper):
        model = model._model
    # Foolbox's PyTorchModel keeps the module in a function's closure only
    function = getattr(model, "_model", None)
    kept = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
    if any(getattr(value, "training", False) is True for value in kept.values()):
        yield Doubt(
            "training",
            "the model is in training mode, so dropout and batch statistics change its answers",
            "call model.eval() before it is handed over",
        )


def _answers(model: Any, x: ep.Tensor) -> tuple[Array, str]:
    """Logits in float64, and the name of the dtype that they came in."""
    logits = ep.astensor(model(x.raw))
    dtype = backends.dtype_name(logits)
    wide = logits.float32() if dtype in SAME else logits
    return np.asarray(backends.to_numpy(backends.detach(wide)), np.float64), dtype


def _probabilities(logits: Array) -> Iterator[Doubt]:
    tolerance = 1e-3  # of a softmax in half precision
    inside = np.all((logits >= 0) & (logits <= 1))
    if logits.shape[1] > 1 and inside and np.allclose(logits.sum(1), 1, atol=tolerance):
        yield Doubt(
            "probabilities",
            f"the model's outputs look like probabilities: all {len(logits)} rows are in [0, 1]"
            " and sum to 1",
            "return logits (drop the softmax): with a second softmax in the loss, gradients"
            " vanish and attacks look weak",
        )


def _two_answers(model: Any, x: ep.Tensor, first: Array, relative: float) -> Iterator[Doubt]:
    tolerance = relative * max(float(np.abs(first).max()), 1e-3)

    def differ(one: Array, other: Array) -> Array:
        different: Array = np.abs(one - other).max(axis=1) > tolerance
        return different

    again = differ(first, _answers(model, x)[0])
    if again.any():
        yield Doubt(
            "nondeterministic",
            f"the model answers differently when asked twice: {_share(again)} images",
            "switch its randomness off, or average over it in the model and attack the average",
        )
        return
    some = max(len(first) // 3, 1) | 1  # odd, so that alternating classes are no longer balanced
    alone = differ(first[:some], _answers(model, x[:some])[0])
    if alone.any():
        yield Doubt(
            "company",
            f"the model's answer to an image depends on the other images in the batch:"
            f" {_share(alone)} images",
            "use stored statistics in its normalisation layers (evaluation mode)",
        )


def _gradients(model: Any, images: Array, labels: Array) -> Iterator[Doubt]:
    if not len(images):
        return
    x = ep.from_numpy(model.dummy, np.ascontiguousarray(images))
    y = ep.from_numpy(model.dummy, np.ascontiguousarray(labels))

    def loss(inputs: ep.Tensor) -> tuple[ep.Tensor, None]:
        return ep.crossentropy(model(inputs), y).sum(), None

    try:
        _, _, gradient = backends.value_aux_and_grad(loss, x)
    except (RuntimeError, TypeError, AttributeError, ValueError):
        return  # a model without gradients, as each framework says it: for attacks without any
    rows = np.abs(backends.to_numpy(ep.astensor(gradient)).reshape(len(images), -1))
    largest = rows.max(axis=1)
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.mean() > FEW:
        yield Doubt(
            "gradients",
            f"the gradient of the cross-entropy is not finite at {_share(bad)} clean images",
            "look for overflow, or for 0/0 and log(0) inside the model",
        )
    zero = largest == 0
    if zero.mean() > FEW:
        yield Doubt(
            "gradients",
            f"the gradient of the cross-entropy is zero at {_share(zero)} clean images, so that"
            " gradient attacks cannot start",
            "use loss=margin where confident outputs saturate; look for rounding, thresholds or"
            " a softmax in the model; add an attack without gradients",
        )


@dataclass(frozen=True)
class _Cell:
    attack: str
    kind: str | None
    p: float
    epsilon: float
    samples: Array  # ascending
    robust: Array
    attacked: Array
    columns: dict[str, Array]

    @property
    def name(self) -> str:
        return f"{self.attack}, {norm_name(self.p)} {self.epsilon:g}"


def _cells(results: Results) -> Iterator[_Cell]:
    measured = ("in_bounds", "reachable_norm", "backward_passes", "success", "quantised_success")
    fixed = ("attack", "attack_name", "p", "epsilon")
    rows = results.select(*fixed, "robust", "attacked", *measured)
    for cell in by_cell(rows):
        attack, name, p, epsilon = (cell[key][0].as_py() for key in fixed)
        yield _Cell(
            attack=attack,
            kind=kind_of(name),
            p=p,
            epsilon=epsilon,
            samples=cell["sample"].to_numpy(),
            robust=cell["robust"].to_numpy(),
            attacked=cell["attacked"].to_numpy(),
            columns={key: cell[key].cast("double").to_numpy() for key in measured},  # NaN: null
        )


def _numbers(cell: _Cell, name: str) -> Array:
    """A column as floats, NaN where it is null."""
    return cell.columns[name]


def _outside(cells: list[_Cell]) -> Iterator[Doubt]:
    found = [(cell, n) for cell in cells if (n := int((_numbers(cell, "in_bounds") == 0).sum()))]
    if found:
        total = sum(int(cell.attacked.sum()) for cell, _ in found)
        yield Doubt(
            "bounds",
            f"{sum(n for _, n in found)} of {total} images that an attack returned were outside"
            f" the bounds ({_listed(cell.name for cell, _ in found)}); they were clipped before"
            " they were judged",
            "use an attack that keeps to the model's bounds",
        )


def _beyond_reach(cells: list[_Cell]) -> Iterator[Doubt]:
    found = []
    for cell in cells:
        beyond = cell.epsilon > _numbers(cell, "reachable_norm") * (1 + 1e-6)
        n = int((beyond & cell.attacked).sum())
        if n:
            found.append((cell, n))
    if found:
        total = sum(int(cell.attacked.sum()) for cell, _ in found)
        yield Doubt(
            "reach",
            f"epsilon is above the norm that the bounds let an image reach for"
            f" {sum(n for _, n in found)} of {total} perturbations"
            f" ({_listed(cell.name for cell, _ in found)})",
            "leave these epsilons out: the perturbation there is smaller than its label says",
        )


def _robust_beyond_reach(cells: list[_Cell]) -> Iterator[Doubt]:
    """Every image of the box is within such an epsilon, that of another class too."""
    for p, epsilon in sorted({(cell.p, cell.epsilon) for cell in cells}):
        same = [c for c in cells if (c.p, c.epsilon) == (p, epsilon) and c.kind != "random"]
        left: set[int] | None = None
        for cell in same:
            reached = epsilon >= _numbers(cell, "reachable_norm")
            robust = set(cell.samples[reached & cell.robust].tolist())
            left = robust if left is None else left & robust
        if left:
            yield Doubt(
                "reaches_everything",
                f"{len(left)} of {len(same[0].samples)} samples are still robust at"
                f" {norm_name(p)} {epsilon:g}, where every image of the box can be reached,"
                " one of another class too",
                "do not trust the smaller epsilons either: look for masked gradients, and try"
                " more steps, another loss or an attack without gradients",
            )


def _rising(cells: list[_Cell]) -> Iterator[Doubt]:
    for attack in dict.fromkeys(cell.attack for cell in cells):
        own = sorted((c for c in cells if c.attack == attack), key=lambda c: c.epsilon)
        for number, cell in enumerate(own[1:], start=1):
            lowest = min(own[:number], key=lambda c: float(c.robust.mean()))
            more = _significantly_more(cell, lowest)
            if more is not None:
                yield Doubt(
                    "rising",
                    f"robust accuracy under {attack} rises from {more[1]:.3f} at"
                    f" {norm_name(cell.p)} {lowest.epsilon:g} to {more[0]:.3f} at"
                    f" {cell.epsilon:g} ({more[2]} samples)",
                    "a larger ball holds the smaller one, so the attack fails at the larger: give"
                    " it more steps or a smaller step, or report the best over smaller epsilons",
                )
                break


def _weaker_than_expected(cells: list[_Cell]) -> Iterator[Doubt]:
    said = set()
    for strong, weak in _pairs(cells):
        if strong.kind is None or weak.kind is None or ORDER[strong.kind] <= ORDER[weak.kind]:
            continue
        more = _significantly_more(strong, weak)
        if more is not None and (strong.attack, weak.attack) not in said:
            said.add((strong.attack, weak.attack))
            yield Doubt(
                "weaker",
                f"{strong.attack} ({strong.kind}) leaves robust accuracy {more[0]:.3f} at"
                f" {norm_name(strong.p)} {strong.epsilon:g}, where {weak.attack} ({weak.kind})"
                f" leaves {more[1]:.3f} ({more[2]} samples)",
                "this is how masked gradients look: check the gradients, the steps and the step"
                " size, and report the worst case of all attacks",
            )


def _far_behind(cells: list[_Cell]) -> Iterator[Doubt]:
    worst: dict[str, tuple[float, str]] = {}
    for slow, quick in _pairs(cells):
        efforts = [_numbers(cell, "backward_passes") for cell in (slow, quick)]
        if any(np.isnan(effort).all() for effort in efforts):
            continue
        gradients, fewer = (float(np.nanmean(effort)) for effort in efforts)
        more = _significantly_more(slow, quick)
        if more is None or more[0] - more[1] < MARGIN:
            continue
        if fewer >= 1 and gradients >= EFFORT * fewer:
            behind = more[0] - more[1]
            text = (
                f"{slow.attack} leaves robust accuracy {more[0]:.3f} at {norm_name(slow.p)}"
                f" {slow.epsilon:g} after {gradients:.0f} gradients per sample, where"
                f" {quick.attack} leaves {more[1]:.3f} after {fewer:.0f} ({more[2]} samples)"
            )
            if behind > worst.get(slow.attack, (0.0, ""))[0]:
                worst[slow.attack] = behind, text
    for _, text in worst.values():
        yield Doubt("behind", text, "check its settings before its numbers are quoted")


def _lost_by_rounding(cells: list[_Cell]) -> Iterator[Doubt]:
    found, lost, total = [], 0, 0
    for cell in cells:
        success, kept = _numbers(cell, "success"), _numbers(cell, "quantised_success")
        of = (success == 1) & ~np.isnan(kept)
        gone = of & (kept == 0)
        if gone.sum() >= SINGLE and gone.sum() > FEW * of.sum():
            found.append(cell.name)
            lost, total = lost + int(gone.sum()), total + int(of.sum())
    if found:
        yield Doubt(
            "rounding",
            f"{lost} of {total} adversarials are none any more after rounding to 8 bits"
            f" ({_listed(found)})",
            "store them as floats, and do not quote these epsilons for image files",
        )


def _pairs(cells: list[_Cell]) -> Iterator[tuple[_Cell, _Cell]]:
    """Ordered pairs of different attacks at the same p and epsilon."""
    groups: dict[tuple[float, float], list[_Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.p, cell.epsilon), []).append(cell)
    for group in groups.values():
        yield from ((a, b) for a in group for b in group if a.attack != b.attack)


def _significantly_more(one: _Cell, other: _Cell) -> tuple[float, float, int] | None:
    """Both robust accuracies on the shared samples, if the first is higher beyond chance."""
    _, i, j = np.intersect1d(one.samples, other.samples, assume_unique=True, return_indices=True)
    if not len(i):
        return None
    a, b = one.robust[i], other.robust[j]
    if chance_of_more(int((a & ~b).sum()), int((b & ~a).sum())) > CHANCE:
        return None
    return float(a.mean()), float(b.mean()), len(i)


def _share(flags: Array) -> str:
    return f"{int(flags.sum())} of {len(flags)}"


def _listed(names: Iterable[str], few: int = 3) -> str:
    names = list(names)
    rest = f" and {len(names) - few} more" if len(names) > few else ""
    return "; ".join(names[:few]) + rest
