"""Measure again, on other samples and with a paired test, where a peer was ahead in ``strength``.

    python -m experiments.benchmarks.strength_recheck --output experiments/results

``strength.csv`` in the folder ``--output`` says where the robust accuracy of one of our attacks, on
average over the seeds, is above that of Foolbox's attack of the same kind, of either mode of
AutoAttack's APGD, or of APGD on the probability margin. Both attacks run there again, under each
seed, on samples that ``strength`` did not use: else chance that chose a pair would count again. A
sample's outcome is the share of the seeds under which it stayed correctly classified. The exact
sign test is over the samples with different outcomes. The same is done for the cross-entropy, where
that of ``ClipAwarePGD`` or ``ClipAwareAPGD`` is below that of AutoAttack's APGD.

A line of ``strength_recheck.csv`` is one attack at one epsilon under one seed, with a digit for
each sample (1: misclassified) and its loss; one that is there is not computed again.
``strength_recheck.md`` has the tables.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binomtest

from experiments.benchmarks import models, strength, strength_report
from experiments.benchmarks.environment import describe
from experiments.benchmarks.models import Target, load_target
from experiments.benchmarks.strength_report import Key, Results
from foolbox_carescale.evaluate.config.types import norm_name

Known = dict[tuple[strength.Cell, int], npt.NDArray[np.float64]]
"""Accuracy (0 or 1) and loss of each sample, (2, N), by what was measured and number of samples."""

SAMPLES = 200
SEEDS = 3
CHANCE = 0.05  # of the paired test


@dataclass(frozen=True)
class Pair:
    """Two attacks on one model, at one epsilon and number of iterations."""

    setting: Key
    ours: str
    peer: str
    steps: int

    def cells(self) -> Iterator[strength.Cell]:
        """Return what is measured for it."""
        for seed in range(SEEDS):
            for attack in (self.ours, self.peer):
                yield strength.Cell(*self.setting, attack, self.steps, seed)


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--weights", type=Path, default=Path(), help="of the robust models")
    parser.add_argument("--render", action="store_true", help="write the table again, no more")
    options = parser.parse_args(arguments)
    path = options.output / "strength_recheck.csv"
    results = Results(strength_report.read(options.output / "strength.csv"))
    pairs, of_loss = behind(results), behind_in_loss(results)
    known = read(path)
    targets: dict[str, Target] = {}
    for cell in dict.fromkeys(cell for pair in pairs + of_loss for cell in pair.cells()):
        if options.render or (cell, options.samples) in known:
            continue
        if cell.model not in targets:
            used = models.SAMPLES[cell.model]
            targets[cell.model] = load_target(cell.model, options.samples, options.weights, used)
        target = targets[cell.model]
        row, logits = strength.measure(target, cell)
        losses = torch.nn.functional.cross_entropy(logits, target.labels, reduction="none")
        outcomes = torch.stack([logits.argmax(-1) == target.labels, losses]).double().numpy()
        append(path, cell, outcomes)
        print(f"{cell}: {row.robust_accuracy:.3f}, {row.seconds:.1f} s", file=sys.stderr)
    # of the file, which rounds losses: so that rendering it again gives the same page
    text = "\n".join(page(pairs, of_loss, read(path), options.samples)) + "\n"
    (options.output / "strength_recheck.md").write_text(text, encoding="utf-8")
    print(text)


def behind(results: Results) -> list[Pair]:
    """Return where the accuracy of one of our attacks is above that of a peer."""
    kinds = [(ours, peer, 40) for ours, peer in strength_report.SIBLINGS.items()]
    kinds += [
        (ours, peer, steps)
        for steps in (strength.STEPS, strength.LONG)
        for ours in strength_report.STEEPEST
        for peer in ("autoattack_apgd", "autoattack_apgd_any", "apgd_probability")
    ]
    found = []
    for setting in results.settings("fixed"):
        for ours, peer, steps in kinds:
            pair = results.pair(setting, ours, peer, steps)
            if pair and setting[1] != "imagenet":  # there are no more samples
                mine, theirs = (mean(row.robust_accuracy for row in rows) for rows in pair)
                if mine > theirs + 1e-9:
                    found.append(Pair(setting, ours, peer, steps))
    return found


def behind_in_loss(results: Results) -> list[Pair]:
    """Return where the loss of one of our attacks is below that of AutoAttack's APGD."""
    found = []
    for setting in results.settings("fixed"):
        for steps in (strength.STEPS, strength.LONG):
            for ours in strength_report.STEEPEST:
                pair = results.pair(setting, ours, "autoattack_apgd", steps)
                if pair and setting[1] != "imagenet" and not strength_report.no_lower_loss(*pair):
                    found.append(Pair(setting, ours, "autoattack_apgd", steps))
    return found


def read(path: Path) -> Known:
    """Return what the CSV holds; nothing where there is none."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    found: Known = {}
    for suite, model, p, epsilon, attack, steps, seed, digits, losses in lines:
        numbers = float(p), float(epsilon), attack, int(steps), int(seed)
        cell = strength.Cell(suite, model, *numbers)
        accuracy = [digit == "0" for digit in digits]
        found[cell, len(digits)] = np.array([accuracy, losses.split()], dtype=float)
    return found


def append(path: Path, cell: strength.Cell, outcomes: npt.NDArray[np.float64]) -> None:
    """Add one line to the CSV."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow([*vars(cell), "misclassified", "losses"])
        digits = "".join(str(1 - int(right)) for right in outcomes[0])
        losses = " ".join(f"{loss:.6g}" for loss in outcomes[1])
        writer.writerow([*vars(cell).values(), digits, losses])


def _outcomes(
    pair: Pair, attack: str, known: Known, samples: int
) -> npt.NDArray[np.float64] | None:
    """Return the means over the seeds, (2, N); None where one is missing."""
    found = [known.get((cell, samples)) for cell in pair.cells() if cell.attack == attack]
    if any(one is None for one in found):
        return None
    return np.mean([one for one in found if one is not None], axis=0)


def table(pairs: list[Pair], known: Known, samples: int, *, loss: bool = False) -> list[str]:
    """Return a row for each pair that was measured: of the accuracy, or of the loss."""
    rows = []
    for pair in pairs:
        both = [_outcomes(pair, attack, known, samples) for attack in (pair.ours, pair.peer)]
        if any(one is None for one in both):
            continue
        ours, peer = (one[int(loss)] for one in both if one is not None)
        different = np.abs(ours - peer) > strength_report.SAME * loss * peer
        ahead = int((different & ((ours > peer) if loss else (ours < peer))).sum())
        count = int(different.sum())
        chance = float(binomtest(ahead, count).pvalue) if count else 1.0
        verdict = "level" if chance > CHANCE else "better" if 2 * ahead > count else "worse"
        _, model, p, epsilon = pair.setting
        rows.append(
            f"| {model} {norm_name(p)} {epsilon:.4g} | {pair.steps} | {pair.ours}"
            f" | {ours.mean():.4f} | {pair.peer} | {peer.mean():.4f} | {ahead} | {count - ahead}"
            f" | {chance:.3f} | {verdict} |"
        )
    return rows


def page(pairs: list[Pair], of_loss: list[Pair], known: Known, samples: int) -> list[str]:
    """Return the page with both tables."""
    lines = [
        "# Strength: where a peer was ahead, measured again",
        "",
        "`python -m experiments.benchmarks.strength_recheck` made this page; its docstring says "
        f"how. Measured {describe(('torch', 'foolbox', 'pyautoattack', 'foolbox-carescale'))}.",
        "",
        f"Means of {samples} other samples under {SEEDS} seeds, at equal gradients. Ahead and "
        "behind: on how many samples ours is better, or worse; losses within "
        f"{strength_report.SAME:.1%} count as equal. Chance: of a difference this large between "
        f"attacks of equal strength, by a paired test; below {CHANCE:.0%} ours is called better or "
        "worse.",
        "",
    ]
    for title, some, loss in (("Robust accuracy", pairs, False), ("Loss", of_loss, True)):
        rows = table(some, known, samples, loss=loss)
        verdicts = [row.split(" | ")[-1].removesuffix(" |") for row in rows]
        counts = ", ".join(f"{verdicts.count(one)} {one}" for one in ("better", "level", "worse"))
        what = title.lower()
        lines += [
            f"## {title}",
            "",
            f"Of the {len(some)} pairs in which ours was behind there, {len(rows)} were measured: "
            f"ours is {counts}.",
            "",
            f"| setting | iterations | ours | {what} | peer | {what} | ahead | behind | chance"
            " | ours is |",
            "|---" * 10 + "|",
            *rows,
            "",
        ]
    return lines[:-1]


if __name__ == "__main__":
    main()
