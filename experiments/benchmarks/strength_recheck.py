"""Measure again, on other samples and with a paired test, where a peer was ahead in ``strength``.

    python -m experiments.benchmarks.strength_recheck --output experiments/results

``strength.csv`` in the folder ``--output`` says where the robust accuracy of one of our attacks, on
average over the seeds, is above that of Foolbox's attack of the same kind, of either mode of
AutoAttack's APGD, or of APGD on the probability margin. Both attacks run there again, under each
seed, on samples that ``strength`` did not use: else chance that chose a pair would count again. A
sample's outcome is the share of the seeds under which it stayed correctly classified. The exact
sign test is over the samples with different outcomes.

A line of ``strength_recheck.csv`` is one attack at one epsilon under one seed, with a digit for
each sample (1: misclassified); one that is there is not computed again. ``strength_recheck.md`` has
the table.
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

Known = dict[tuple[strength.Cell, int], npt.NDArray[np.bool_]]
"""Which samples are misclassified, by what was measured and number of samples."""

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
    pairs = behind(Results(strength_report.read(options.output / "strength.csv")))
    known = read(path)
    targets: dict[str, Target] = {}
    for cell in dict.fromkeys(cell for pair in pairs for cell in pair.cells()):
        if options.render or (cell, options.samples) in known:
            continue
        if cell.model not in targets:
            used = models.SAMPLES[cell.model]
            targets[cell.model] = load_target(cell.model, options.samples, options.weights, used)
        row, found = strength.measure(targets[cell.model], cell)
        known[cell, options.samples] = found.numpy()
        append(path, cell, found)
        print(f"{cell}: {row.robust_accuracy:.3f}, {row.seconds:.1f} s", file=sys.stderr)
    text = "\n".join(table(pairs, known, options.samples)) + "\n"
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


def read(path: Path) -> Known:
    """Return what the CSV holds; nothing where there is none."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    found: Known = {}
    for suite, model, p, epsilon, attack, steps, seed, digits in lines:
        numbers = float(p), float(epsilon), attack, int(steps), int(seed)
        cell = strength.Cell(suite, model, *numbers)
        found[cell, len(digits)] = np.array([digit == "1" for digit in digits])
    return found


def append(path: Path, cell: strength.Cell, found: torch.Tensor) -> None:
    """Add one line to the CSV."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow([*vars(cell), "misclassified"])
        writer.writerow([*vars(cell).values(), "".join(str(int(one)) for one in found)])


def _outcomes(
    pair: Pair, attack: str, known: Known, samples: int
) -> npt.NDArray[np.float64] | None:
    """Return the share of the seeds that each sample withstands; None where one is missing."""
    found = [known.get((cell, samples)) for cell in pair.cells() if cell.attack == attack]
    if any(one is None for one in found):
        return None
    return 1 - np.mean([one for one in found if one is not None], axis=0)


def table(pairs: list[Pair], known: Known, samples: int) -> list[str]:
    """Return the page: a row for each pair that was measured."""
    rows = []
    for pair in pairs:
        ours, peer = (_outcomes(pair, attack, known, samples) for attack in (pair.ours, pair.peer))
        if ours is None or peer is None:
            continue
        fewer, different = int((ours < peer).sum()), int((ours != peer).sum())
        chance = float(binomtest(fewer, different).pvalue) if different else 1.0
        verdict = "level" if chance > CHANCE else "better" if 2 * fewer > different else "worse"
        _, model, p, epsilon = pair.setting
        rows.append(
            f"| {model} {norm_name(p)} {epsilon:.4g} | {pair.steps} | {pair.ours}"
            f" | {ours.mean():.4f} | {pair.peer} | {peer.mean():.4f} | {chance:.3f} | {verdict} |"
        )
    verdicts = [row.split(" | ")[-1].removesuffix(" |") for row in rows]
    counts = ", ".join(f"{verdicts.count(one)} {one}" for one in ("better", "level", "worse"))
    return [
        "# Strength: where a peer was ahead, measured again",
        "",
        "`python -m experiments.benchmarks.strength_recheck` made this page; its docstring says "
        f"how. Measured {describe(('torch', 'foolbox', 'pyautoattack', 'foolbox-carescale'))}.",
        "",
        f"Robust accuracy of {samples} other samples under {SEEDS} seeds, at equal gradients. Of "
        f"the {len(pairs)} pairs in which ours was higher there, whatever the difference, "
        f"{len(rows)} were measured: ours is {counts}. Chance: of a difference this large between "
        f"attacks of equal strength, by a paired test; below {CHANCE:.0%} ours is called better or "
        "worse.",
        "",
        "| setting | iterations | ours | accuracy | peer | accuracy | chance | ours is |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]


if __name__ == "__main__":
    main()
