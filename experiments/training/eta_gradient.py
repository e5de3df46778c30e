"""Does differentiating through eta matter? A noise generator trained with and without.

    python -m experiments.training.eta_gradient [--quick]

A ``NoiseGenerator`` learns to fool the bundled digits model, in three ways that differ only in
training:

    exact     clip(x + eta g(z)), differentiated through eta
    detached  the same, eta taken as a constant
    naive     clip(x + eps g(z) / ||g(z)||), as without the operator: shorter than eps

All are evaluated alike: through the operator, at exactly epsilon, on held-out digits. Seeds are
paired: initial weights, batches and z are the same for the three. Also measured: the angle between
the exact gradient of the generator's parameters and the other two, at the same point; and what
the three ways find when each image learns a perturbation of its own. Two seeds are computed at a
time, each on one thread.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from experiments.training.common import (
    Report,
    digits_network,
    images_and_labels,
    norm,
    options,
    side_by_side,
    table,
)
from foolbox_carescale import clipping_aware_rescaling
from foolbox_carescale.training import NoiseGenerator

EPSILON = 6.0  # L2
STEPS, BATCH, RATE = 100, 64, 1e-2
SEEDS = 4
DRAWS = 3  # of noise per held-out image
KERNELS = (1, 3)
OWN_EPSILON, OWN_STEPS, OWN_RATES = 0.5, 10, (0.1, 0.2, 0.3, 0.5, 0.8)
OWN_IMAGES = 150

Points = Callable[..., torch.Tensor]
Row = dict[str, Any]


def exact(x: torch.Tensor, delta: torch.Tensor, eps: float = EPSILON) -> torch.Tensor:
    """At exactly epsilon, differentiated through eta."""
    eta = clipping_aware_rescaling(x, delta, eps)
    return (x + eta * delta).clamp(0, 1)


def detached(x: torch.Tensor, delta: torch.Tensor, eps: float = EPSILON) -> torch.Tensor:
    """The same points; eta is a constant for the gradient."""
    eta = clipping_aware_rescaling(x, delta.detach(), eps)
    return (x + eta * delta).clamp(0, 1)


def naive(x: torch.Tensor, delta: torch.Tensor, eps: float = EPSILON) -> torch.Tensor:
    """Scaled to epsilon, then clipped."""
    length = delta.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    return (x + eps * delta / length).clamp(0, 1)


OWN = "one per image"
WAYS: dict[str, Points] = {"exact": exact, "detached": detached, "naive": naive}


def main(arguments: list[str] | None = None) -> None:
    """Train, compare, write."""
    chosen = options(__doc__, arguments)
    report = Report("training_eta_gradient", "Does differentiating through eta matter?")
    seeds = 1 if chosen.quick else SEEDS
    rates = OWN_RATES[:1] if chosen.quick else OWN_RATES
    jobs = [
        (_generators, kernel, seed, chosen.quick) for kernel in KERNELS for seed in range(seeds)
    ]
    jobs += [(_own, rate, seed, chosen.quick) for rate in rates for seed in range(seeds)]
    for rows in side_by_side(_call, jobs, 1 if chosen.quick else 2):
        for row in rows:
            report.add(**row)
    for row in report.rows:
        row["best_rate"] = row.get("rate", RATE) == best_rate(report, row["way"], row["kernel"])
    columns = list(dict.fromkeys(key for row in report.rows for key in row))
    report.rows = [{key: row.get(key, "") for key in columns} for row in report.rows]
    report.write(sections(report, 3 if chosen.quick else STEPS), chosen.output)


def _call(function: Callable[..., list[Row]], *arguments: Any) -> list[Row]:
    return function(*arguments)


def _generators(kernel: int, seed: int, quick: bool) -> list[Row]:
    """A generator before it learns, and after it did in each way."""
    network, train, held_out = digits_network(), images_and_labels("train"), _held_out(quick)
    rows: list[Row] = []
    if seed == 0:  # an untrained one is the noise itself, whatever its seed
        before = evaluate(new_generator(kernel, seed), network, *held_out)
        rows.append({"kernel": kernel, "seed": seed, "way": "untrained: Gaussian noise", **before})
    for way, points in WAYS.items():
        generator = new_generator(kernel, seed)
        steps = 3 if quick else STEPS
        measured = learn(generator, points, network, *train, steps=steps, seed=seed)
        found = evaluate(generator, network, *held_out)
        row = {"kernel": kernel, "seed": seed, "way": way, **found, "in_training": measured}
        rows.append(row | (angles(generator, network, *train, seed=seed) if way == "exact" else {}))
    return rows


def _own(rate: float, seed: int, quick: bool) -> list[Row]:
    """Add the result of each method for single images with steps of one length."""
    network = digits_network()
    images, labels = (part[:OWN_IMAGES] for part in _held_out(quick))
    rows = []
    for way, points in WAYS.items():
        found = own_perturbations(points, network, images, labels, rate=rate, seed=seed)
        rows.append({"kernel": OWN, "seed": seed, "way": way, "rate": rate, **found})
    return rows


def _held_out(quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = images_and_labels("test")
    return (images[:32], labels[:32]) if quick else (images, labels)


def new_generator(kernel: int, seed: int) -> NoiseGenerator:
    """The same for each way of training it."""
    torch.manual_seed(seed)
    return NoiseGenerator(3, EPSILON, kernel_size=kernel)


def learn(
    generator: NoiseGenerator,
    points: Points,
    network: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    steps: int,
    seed: int,
) -> float:
    """Ascend the network's loss; returns the mean norm in training, over epsilon."""
    torch.manual_seed(1000 + seed)
    optimizer = torch.optim.Adam(generator.parameters(), lr=RATE, maximize=True)
    parts = []
    for _ in range(steps):
        batch = torch.randint(len(images), (BATCH,))
        x = images[batch]
        z = points(x, generator.noise(x))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(z), labels[batch]).backward()
        optimizer.step()
        parts.append((norm(z.detach() - x, 2) / EPSILON).mean().item())
    return statistics.mean(parts)


@torch.no_grad()
def evaluate(
    generator: NoiseGenerator, network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, float]:
    """Accuracy and cross-entropy of the network on noise at exactly epsilon."""
    torch.manual_seed(9)
    logits = [network(generator(images)) for _ in range(DRAWS)]
    losses = [torch.nn.functional.cross_entropy(out, labels).item() for out in logits]
    hits = [(out.argmax(1) == labels).double().mean().item() for out in logits]
    return {"accuracy": statistics.mean(hits), "cross_entropy": statistics.mean(losses)}


def own_perturbations(
    points: Points,
    network: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    rate: float,
    seed: int,
) -> dict[str, float]:
    """Each image's own delta, by steps of a fixed length along its gradient, from noise."""
    torch.manual_seed(seed)

    def unit(t: torch.Tensor) -> torch.Tensor:
        return t / t.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(-1, 1, 1, 1)

    delta = unit(torch.randn_like(images))
    for _ in range(OWN_STEPS):
        delta.requires_grad_()
        logits = network(points(images, delta, OWN_EPSILON))
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, delta)
        delta = unit(delta.detach() + rate * unit(gradient))
    with torch.no_grad():
        logits = network(exact(images, delta, OWN_EPSILON))
    return {
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "cross_entropy": torch.nn.functional.cross_entropy(logits, labels).item(),
    }


def best_rate(report: Report, way: str, kernel: Any) -> float:
    """The rate at which a way reaches the highest mean cross-entropy."""
    found: dict[float, list[float]] = {}
    for row in report.rows:
        if row["way"] == way and row["kernel"] == kernel:
            found.setdefault(row.get("rate", RATE), []).append(row["cross_entropy"])
    return max(found, key=lambda rate: statistics.mean(found[rate]))


def angles(
    generator: NoiseGenerator,
    network: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    seed: int,
) -> dict[str, float]:
    """Cosine of the exact parameter gradient and the other two, on one batch and noise."""
    x, y = images[:BATCH], labels[:BATCH]
    gradients = {}
    for way, points in WAYS.items():
        torch.manual_seed(seed)
        loss = torch.nn.functional.cross_entropy(network(points(x, generator.noise(x))), y)
        parts = torch.autograd.grad(loss, list(generator.parameters()))
        gradients[way] = torch.cat([g.flatten() for g in parts])
    return {
        f"cosine_{way}": torch.cosine_similarity(gradients["exact"], gradients[way], dim=0).item()
        for way in ("detached", "naive")
    }


def sections(report: Report, steps: int) -> list[str]:
    """The tables, and what they say."""
    kernels = list(dict.fromkeys(row["kernel"] for row in report.rows))
    ways = list(dict.fromkeys(row["way"] for row in report.rows))
    rows, verdicts = [], []
    for kernel in kernels:
        subject = OWN if kernel == OWN else f"generator, {kernel}x{kernel}"
        columns = {w: _column(report, kernel, w, "cross_entropy") for w in ways}
        for way in (w for w in ways if columns[w]):
            accuracy = _column(report, kernel, way, "accuracy")
            measured = _column(report, kernel, way, "in_training")
            rows.append(
                [
                    subject, way,
                    *(f"{statistics.mean(v):.3f} +- {_spread(v):.3f}"
                      for v in (accuracy, columns[way])),
                    f"{statistics.mean(measured):.3f}" if measured else "",
                ]
            )  # fmt: skip
        for way in ("detached", "naive"):
            gains = [e - o for e, o in zip(columns["exact"], columns[way], strict=True)]
            error = _spread(gains) / len(gains) ** 0.5
            cosines = _column(report, kernel, "exact", f"cosine_{way}")
            says = "a difference" if abs(statistics.mean(gains)) > 2 * error else "no difference"
            if len(gains) < 3:
                says = "too few seeds"
            verdicts.append(
                [
                    subject, f"exact - {way}", f"{statistics.mean(gains):+.3f}",
                    f"{error:.3f}", f"{sum(g > 0 for g in gains)} of {len(gains)}",
                    says, f"{statistics.mean(cosines):.3f}" if cosines else "",
                ]
            )  # fmt: skip
    return [
        f"Generators: L2 epsilon {EPSILON:g} in training and evaluation, {steps} steps of Adam,"
        f" batches of {BATCH}, {DRAWS} draws of noise per held-out image. {OWN.capitalize()}: a"
        f" perturbation for each of {OWN_IMAGES} held-out images, epsilon {OWN_EPSILON:g},"
        f" {OWN_STEPS} steps of gradient ascent on the unit sphere of directions from noise, each"
        " method with its best step length, evaluated at exactly epsilon. Mean and standard"
        " deviation over seeds. A stronger perturbation has a lower accuracy and a higher"
        " cross-entropy. The norm in training is relative to epsilon.",
        table(
            ["what learns", "gradient", "accuracy", "cross-entropy", "norm in training"], rows
        ),
        "Paired by seed; `a difference` means that the mean is more than two standard errors from"
        " 0. The last column is the cosine between the exact gradient of the generator's parameters"
        " and the other gradient, at the generator trained with the exact gradient.",
        table(
            [
                "what learns", "cross-entropy", "mean", "standard error", "exact is better",
                "in short", "cosine",
            ],
            verdicts,
        ),
        f"{OWN.capitalize()}, cross-entropy by the length of a step:",
        _by_rate(report),
    ]  # fmt: skip


def _column(report: Report, kernel: Any, way: str, key: str) -> list[Any]:
    rows = [r for r in report.rows if (r["kernel"], r["way"]) == (kernel, way) and r["best_rate"]]
    return [row[key] for row in rows if row.get(key, "") != ""]


def _by_rate(report: Report) -> str:
    rates = list(dict.fromkeys(r["rate"] for r in report.rows if r["kernel"] == OWN))
    rows = []
    for rate in rates:
        cells = [f"{rate:g}"]
        for way in WAYS:
            found = [
                r["cross_entropy"] for r in report.rows
                if (r["kernel"], r["way"], r["rate"]) == (OWN, way, rate)
            ]  # fmt: skip
            cells.append(f"{statistics.mean(found):.3f} +- {_spread(found):.3f}")
        rows.append(cells)
    return table(["length of a step", *WAYS], rows)


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
