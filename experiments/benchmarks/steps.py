"""Measure a step of an attack without the model, against Foolbox and AutoAttack.

    python -m experiments.benchmarks.steps --output results
    python -m experiments.benchmarks.steps --quick

The model is torchvision's ResNet-18 at 224. Its forward and backward are taken out by playback:
logits and input gradients are recorded along a real attack, and the attacks then run, unchanged,
on a model that hands these out. Its own time is taken by its own clock and subtracted. That is
exact where subtracting a separately timed forward and backward is not: those take a hundred
times as long as the rest of a step, and vary by more than it from run to run.

After every operation PyTorch's OpenMP threads spin for milliseconds, which takes the processors
from whatever follows that is not OpenMP: our engine has threads of its own. So the own cost is
measured once more in a process with OMP_WAIT_POLICY=passive, whose threads sleep.

Then whole steps of the same attacks on the model itself, whose parameters ask for gradients as
those of a torchvision model do; and what the operator adds to a training step of that model.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import foolbox
import torch

from experiments.benchmarks.environment import describe
from foolbox_carescale import attacks, perturb

PACKAGES = ("torch", "torchvision", "foolbox", "eagerpy", "pyautoattack", "foolbox-carescale")

ORDERS = (1.0, 2.0, math.inf)
# About what an adversarially trained ImageNet model is attacked with.
EPSILONS = {1.0: 60.0, 2.0: 3.0, math.inf: 4 / 255}
FOOLBOX = {
    1.0: foolbox.attacks.L1ProjectedGradientDescentAttack,
    2.0: foolbox.attacks.L2ProjectedGradientDescentAttack,
    math.inf: foolbox.attacks.LinfProjectedGradientDescentAttack,
}
# A step is the difference of two runs, without the start and the checks of the inputs. From 5
# steps on all of APGD's checkpoints exist.
FEW, MANY = 5, 15
RECORDED = 4  # gradients, played in turn
WHOLE_BATCH, WHOLE_STEPS = 8, 5
TRAINING_BATCH = 16


@dataclass(frozen=True)
class OwnCost:
    """One of our attacks beside the one that it is to be compared with."""

    p: float
    ours: str
    peer: str
    step: float  # seconds per step beside the model
    peer_step: float
    whole: float  # seconds of a run of MANY steps beside the model, over MANY
    peer_whole: float

    @property
    def ratio(self) -> float:
        """Return the cost of a step relative to the peer's."""
        return self.step / self.peer_step


@dataclass(frozen=True)
class Whole:
    """Seconds per step of an attack, the model included."""

    p: float
    attack: str
    step: float
    ratio: float  # over that of Foolbox's PGD


@dataclass(frozen=True)
class Training:
    """Seconds of one training step and of the operator in it."""

    setting: str
    step: float
    with_operator: float
    operator: float


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small batch, few repetitions")
    parser.add_argument("--output", type=Path, help="folder for steps.md")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    model = resnet()
    own = own_costs(ORDERS, quick=options.quick, model=model)
    passive = passive_own_costs(quick=options.quick)
    whole = whole_steps(model, repetitions=1 if options.quick else 4)
    training = training_steps(model, repetitions=1 if options.quick else 5)
    header = (
        f"Measured {describe(PACKAGES)}; load average {load:.1f} at the beginning, "
        f"{os.getloadavg()[0]:.1f} at the end."
    )
    text = report(header, own, passive, whole, training, _batch(options.quick))
    print(text)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "steps.md").write_text(text + "\n")


def own_costs(orders: Iterable[float], *, quick: bool, model: Any = None) -> list[OwnCost]:
    """Ours against the peers, in turns.

    Args:
        orders: Orders of the norm, out of 1, 2 and inf.
        quick: Small batch, few repetitions.
        model: The ResNet; a new one by default.

    Returns:
        One comparison per order and pair of attacks.
    """
    torch.manual_seed(0)
    playback = record(model or resnet(), torch.rand(_batch(quick), 3, 224, 224))
    repetitions = 1 if quick else 8
    return [cost for p in orders for cost in _own_costs(playback, p, repetitions)]


def passive_own_costs(*, quick: bool) -> list[OwnCost]:
    """The same where OpenMP's threads sleep as they wait, which PyTorch reads when it starts."""
    program = (
        "import dataclasses, json; from experiments.benchmarks import steps; "
        f"costs = steps.own_costs(steps.ORDERS, quick={quick}); "
        "print(json.dumps([dataclasses.asdict(cost) for cost in costs]))"
    )
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, stdout=subprocess.PIPE
    )
    return [OwnCost(**cost) for cost in json.loads(run.stdout)]


def _own_costs(playback: Playback, p: float, repetitions: int) -> list[OwnCost]:
    print(f"attacks, p = {p:g}", file=sys.stderr, flush=True)
    runs = _runs(p)
    seconds: dict[tuple[str, int], list[float]] = {
        (name, steps): [] for name in runs for steps in (FEW, MANY)
    }
    for _ in range(repetitions):
        for (name, steps), times in seconds.items():
            times.append(playback.own_seconds(lambda n=name, s=steps: runs[n](playback, s)))
    least = {key: min(times) for key, times in seconds.items()}
    step = {n: (least[n, MANY] - least[n, FEW]) / (MANY - FEW) for n in runs}
    whole = {n: least[n, MANY] / MANY for n in runs}
    return [
        OwnCost(p, ours, peer, step[ours], step[peer], whole[ours], whole[peer])
        for ours, peer in PAIRS
        if ours in runs and peer in runs
    ]


def whole_steps(model: Any, repetitions: int) -> list[Whole]:
    """Runs of attacks on the model, in turns; the fastest of each, over its number of steps."""
    torch.manual_seed(0)
    images = torch.rand(WHOLE_BATCH, 3, 224, 224)
    labels = model(images).argmax(-1)
    target = Target(model, images, labels)
    found = []
    for p in (2.0, math.inf):
        print(f"whole steps, p = {p:g}", file=sys.stderr, flush=True)
        seconds: dict[str, list[float]] = {name: [] for name in _runs(p)}
        for _ in range(repetitions):
            for name, run in _runs(p).items():
                started = time.perf_counter()
                run(target, WHOLE_STEPS)
                seconds[name].append((time.perf_counter() - started) / WHOLE_STEPS)
        least = {name: min(times) for name, times in seconds.items()}
        found += [Whole(p, name, least[name], least[name] / least[PGD]) for name in least]
    model.zero_grad()
    return found


# The model.


@dataclass(frozen=True)
class Target:
    """A model, and what to attack."""

    model: Callable[[Any], Any]
    images: Any
    labels: Any

    def __call__(self, x: Any) -> Any:
        """Logits, shape (N, classes)."""
        return self.model(x)


def resnet() -> Any:
    """ResNet-18 of torchvision with random weights: its speed is that of trained ones."""
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


class Playback:
    """A model that costs nothing: recorded logits and input gradients, in turn.

    Attributes:
        images: What was recorded on, and what to attack.
        labels: The classes of the first logits.
        seconds: What forward and backward took since it was last set to 0.
    """

    def __init__(self, images: Any, logits: list[Any], gradients: list[Any]) -> None:
        self.images, self.labels = images, logits[0].argmax(-1)
        self.seconds = 0.0
        self._logits, self._gradients = logits, gradients
        self._turn = 0
        self._function = _played(self)

    def __call__(self, x: Any) -> Any:
        """Logits, shape (N, classes)."""
        return self._function.apply(x)

    def next(self) -> tuple[Any, Any]:
        """The next recorded pair."""
        self._turn = (self._turn + 1) % len(self._logits)
        return self._logits[self._turn], self._gradients[self._turn]

    def own_seconds(self, run: Callable[[], Any]) -> float:
        """Return the time of a run without this model, always on the same records."""
        self._turn, self.seconds = 0, 0.0
        torch.manual_seed(0)
        started = time.perf_counter()
        run()
        return time.perf_counter() - started - self.seconds


def _played(playback: Playback) -> Any:
    class Played(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            started = time.perf_counter()
            logits, ctx.gradient = playback.next()
            logits = logits.clone()
            playback.seconds += time.perf_counter() - started
            return logits

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            started = time.perf_counter()
            gradient = ctx.gradient.clone()  # a model's gradient is new each time, too
            playback.seconds += time.perf_counter() - started
            return gradient

    return Played


def record(model: Any, images: Any) -> Playback:
    """Logits and gradients of the loss along an attack on the model."""
    logits: list[Any] = []
    gradients: list[Any] = []
    labels = None
    x, size = images, EPSILONS[2.0]
    for _ in range(RECORDED):
        x = x.detach().requires_grad_()
        out = model(x)
        labels = out.argmax(-1) if labels is None else labels
        loss = torch.nn.functional.cross_entropy(out, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        logits.append(out.detach())
        gradients.append(gradient)
        x = perturb(images, x.detach() + size * gradient.sign() - images, size)
    return Playback(images, logits, gradients)


# The attacks.

OURS_PLAIN = "ClipAwarePGD as Foolbox's"
OURS = "ClipAwarePGD"
OURS_HALVING = "ClipAwarePGD, halving schedule"
PGD, APGD = "Foolbox's PGD", "AutoAttack's APGD"
PAIRS = ((OURS_PLAIN, PGD), (OURS, PGD), (OURS, APGD), (OURS_HALVING, APGD))


Run = Callable[["Playback | Target", int], Any]


def _runs(p: float) -> dict[str, Run]:
    # Foolbox keeps the last iterate of a constant step, without momentum of any kind
    plain = {"schedule": "constant", "momentum": 0.0, "direction": "gradient", "keep": "last"}
    halving = {"schedule": "halving"}
    runs = {
        PGD: _foolbox(FOOLBOX[p], EPSILONS[p]),
        OURS_PLAIN: _foolbox(attacks.ClipAwarePGD, EPSILONS[p], p=p, **plain),
        OURS: _foolbox(attacks.ClipAwarePGD, EPSILONS[p], p=p),
        OURS_HALVING: _foolbox(attacks.ClipAwarePGD, EPSILONS[p], p=p, **halving),
    }
    if importlib.util.find_spec("pyautoattack") is None:
        print("skipped: APGD, pyautoattack is not installed", file=sys.stderr)
    else:
        runs[APGD] = _apgd(p)
    return runs


def _foolbox(attack: Any, epsilon: float, **parameters: Any) -> Run:
    def run(playback: Playback | Target, steps: int) -> Any:
        model = _Wrapped(playback)
        return attack(steps=steps, **parameters).run(
            model, playback.images, playback.labels, epsilon=epsilon
        )

    return run


class _Wrapped(foolbox.models.Model):
    """A model of Foolbox, without the conversions of PyTorchModel."""

    bounds = foolbox.types.Bounds(0.0, 1.0)

    def __init__(self, playback: Playback | Target) -> None:
        self._playback = playback

    def __call__(self, inputs: Any) -> Any:
        return type(inputs)(self._playback(inputs.raw))


def _apgd(p: float) -> Run:
    from pyautoattack.autopgd_base import APGDAttack

    norm = "Linf" if p == math.inf else f"L{p:g}"

    def run(playback: Playback | Target, steps: int) -> Any:
        attack = APGDAttack(playback, n_iter=steps, norm=norm, eps=EPSILONS[p], device="cpu")
        return attack.perturb(playback.images, playback.labels, best_loss=True)

    return run


# Training.


def training_steps(model: Any, repetitions: int) -> list[Training]:
    """A training step with noise through the operator, in turns with one without."""
    torch.manual_seed(0)
    images = torch.rand(TRAINING_BATCH, 3, 224, 224)
    noise = torch.randn_like(images)
    labels = torch.arange(TRAINING_BATCH)
    learned = noise.clone().requires_grad_()
    model = model.train()

    def train(x: Any) -> None:
        torch.nn.functional.cross_entropy(model(x), labels).backward()

    def fixed() -> Any:
        return perturb(images, noise, EPSILONS[2.0])

    def differentiable() -> Any:
        return perturb(images, learned, EPSILONS[2.0])

    upstream = torch.ones_like(images)
    calls: dict[str, Callable[[], Any]] = {
        "without": lambda: train(images),
        "fixed noise": lambda: train(fixed()),
        "learned noise": lambda: train(differentiable()),
        "fixed noise, alone": fixed,
        "learned noise, alone": lambda: differentiable().backward(upstream),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repetitions):
        for name, call in calls.items():
            # the operator alone is short: ten times as often
            for _ in range(10 if name.endswith("alone") else 1):
                started = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - started)
    model.eval()
    return [
        Training(s, min(seconds["without"]), min(seconds[s]),
                 statistics.median(seconds[f"{s}, alone"]))
        for s in ("fixed noise", "learned noise")
    ]  # fmt: skip


def _batch(quick: bool) -> int:
    return 4 if quick else 32


def report(
    header: str,
    own: list[OwnCost],
    passive: list[OwnCost],
    whole: list[Whole],
    training: list[Training],
    batch: int,
) -> str:
    """Everything as Markdown."""
    lines = [
        "# Steps of attacks, and of training", "", header, "",
        f"## A step's own cost in milliseconds, {batch}x3x224x224, without the model", "",
        *_own_table(own), "",
        "## The same with OMP_WAIT_POLICY=passive", "",
        "PyTorch's idle threads sleep and leave the processors to the engine's threads.", "",
        *_own_table(passive),
    ]  # fmt: skip
    lines += [
        "", f"## A whole step in milliseconds, {WHOLE_BATCH}x3x224x224, with the model", "",
        f"The time of {WHOLE_STEPS} steps, divided by {WHOLE_STEPS}.", "",
        "| p | attack | a step | relative to Foolbox's PGD |", "|---|---|---|---|",
    ]  # fmt: skip
    for w in whole:
        order = "inf" if w.p == math.inf else f"{w.p:g}"
        lines.append(f"| {order} | {w.attack} | {w.step * 1e3:.4g} | {w.ratio:.3g} |")
    lines += [
        "", f"## A training step of ResNet-18 in milliseconds, {TRAINING_BATCH}x3x224x224", "",
        "| setting | step without | with perturb | perturb alone | its share of the step |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for t in training:
        lines.append(
            f"| {t.setting} | {t.step * 1e3:.4g} | {t.with_operator * 1e3:.4g} "
            f"| {t.operator * 1e3:.3g} | {t.operator / t.step:.2%} |"
        )
    return "\n".join(lines)


def _own_table(costs: list[OwnCost]) -> list[str]:
    lines = [
        "| p | ours | against | a step | theirs | ratio | whole run / step | theirs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in costs:
        order = "inf" if c.p == math.inf else f"{c.p:g}"
        lines.append(
            f"| {order} | {c.ours} | {c.peer} | {c.step * 1e3:.3g} | {c.peer_step * 1e3:.3g} "
            f"| {c.ratio:.3g} | {c.whole * 1e3:.3g} | {c.peer_whole * 1e3:.3g} |"
        )
    return lines


if __name__ == "__main__":
    main()
