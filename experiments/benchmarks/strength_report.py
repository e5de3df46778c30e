"""The results of ``strength``: tables, curves and goals."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from statistics import mean, stdev

from experiments.benchmarks.environment import describe
from foolbox_carescale.evaluate.config.types import norm_name

PACKAGES = (
    "torch", "torchvision", "foolbox", "eagerpy", "pyautoattack", "adversarial-robustness-toolbox",
    "foolbox-carescale",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One attack on one model at one epsilon under one seed, over all samples."""

    suite: str
    model: str
    p: float
    epsilon: float
    attack: str
    steps: int
    seed: int
    samples: int
    robust_accuracy: float
    loss: float
    least_norm: float  # of the perturbation, relative to epsilon, as the next two
    median_norm: float  # where a sample that is not adversarial counts as infinite
    greatest_norm: float
    forwards: float  # per sample, as the next
    backwards: float
    seconds: float

    @property
    def key(self) -> tuple[str | float, ...]:
        """Return the key of the measurement; rows with the same key repeat it."""
        return astuple(self)[:8]


# Attacks of the same kind in this package and in Foolbox.
SIBLINGS = {
    "fgm": "foolbox_fgm", "bim": "foolbox_bim", "pgd": "foolbox_pgd",
    "momentum": "foolbox_momentum", "adam": "foolbox_adam",
}  # fmt: skip
STEEPEST = "pgd", "apgd"
HALF_A_POINT = 0.005
# Losses below this part of each other are the same: float32 and the order of summation.
SAME = 1e-3


def append(path: Path, row: Row) -> None:
    """Add one line to the CSV."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if new:
            writer.writeheader()
        writer.writerow({key: _short(key, value) for key, value in asdict(row).items()})


def read(path: Path) -> list[Row]:
    """All lines of the CSV; none where there is no file."""
    if not path.exists():
        return []
    kinds = {"str": str, "int": int, "float": float}
    with path.open(newline="") as file:
        return [
            Row(**{field.name: kinds[str(field.type)](line[field.name]) for field in fields(Row)})
            for line in csv.DictReader(file)
        ]


def write(path: Path, folder: Path) -> None:
    """``strength.md`` and ``strength.png`` from the CSV."""
    rows = read(path)
    if not rows:
        return
    results = Results(rows)
    text = "\n".join(
        [*_head(rows), *_in_short(results), *_goals(results), *_tables(results), *_notes()]
    )
    (folder / "strength.md").write_text(text + "\n")
    if results.settings("fixed"):
        _curves(results, folder / "strength.png")


Key = tuple[str, str, float, float]
"""Suite, model, p and epsilon."""


class Results:
    """Rows by what they measured, their seeds together."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.by_setting: dict[Key, dict[tuple[str, int], list[Row]]] = {}
        for row in rows:
            setting = self.by_setting.setdefault((row.suite, row.model, row.p, row.epsilon), {})
            setting.setdefault((row.attack, row.steps), []).append(row)
        self.by_setting = dict(sorted(self.by_setting.items(), key=_order))

    def settings(self, suite: str) -> list[Key]:
        """Suite, model, p and epsilon of all attack settings."""
        return [setting for setting in self.by_setting if setting[0] == suite]

    def rows(self, setting: Key, attack: str, steps: int) -> list[Row]:
        """One row per seed; empty where it is not measured."""
        return self.by_setting[setting].get((attack, steps), [])

    def attacks(self, setting: Key, steps: int) -> list[str]:
        """Return the attacks measured there with this number of iterations."""
        return [attack for attack, count in self.by_setting[setting] if count == steps]

    def pair(
        self, setting: Key, first: str, second: str, steps: int
    ) -> tuple[list[Row], list[Row]] | None:
        """The rows of two attacks under the seeds that both have; None where there is none."""
        a = {row.seed: row for row in self.rows(setting, first, steps)}
        b = {row.seed: row for row in self.rows(setting, second, steps)}
        seeds = sorted(a.keys() & b.keys())
        return ([a[s] for s in seeds], [b[s] for s in seeds]) if seeds else None


def _order(item: tuple[Key, object]) -> tuple[int, int, float, float]:
    suite, model, p, epsilon = item[0]
    return (
        ("fixed", "ensemble").index(suite),
        ("digits", "robust", "robust_linf", "imagenet").index(model),
        p,
        epsilon,
    )


def _head(rows: list[Row]) -> list[str]:
    samples = ", ".join(f"{m} {n}" for m, n in {r.model: r.samples for r in rows}.items())
    seeds = len({row.seed for row in rows})
    hours = sum(row.seconds for row in rows) / 3600
    return [
        "# Strength at equal gradients",
        "",
        "`python -m experiments.benchmarks.strength` made this page; its docstring says what is "
        "compared.",
        f"Correctly classified samples: {samples}. "
        + ("One seed" if seeds == 1 else f"Up to {seeds} seeds")
        + " for everything random in the attacks, with the same model and samples. "
        f"{len(rows)} runs in {hours:.1f} hours.",
        f"Measured {describe(PACKAGES)}.",
        "",
        "![Security curves](strength.png)",
        "",
    ]


# ------------------------------------------------------------------------------------- in short

SHORT = {
    "Foolbox PGD": ("foolbox_pgd",),
    "`ClipAwarePGD`": ("pgd",),
    "`ClipAwareAPGD`": ("apgd",),
    "AutoAttack APGD-CE": ("autoattack_apgd", "autoattack_apgd_any"),
    "APGD, probability margin": ("apgd_probability",),
}
SHORT_ENSEMBLES = {
    "`ClipAwareAutoAttack`": "ensemble",
    '`version="fast"`': "ensemble_fast",
    "MALT": "malt",
    "AutoAttack `standard`": "autoattack_standard",
}


def _in_short(results: Results) -> list[str]:
    """Return a table of single attacks and one of ensembles, at one epsilon for each norm."""
    single, ensembles = [], []
    for setting in _middle(results):
        modes = {
            name: [rows for label in labels if (rows := results.rows(setting, label, 40))]
            for name, labels in SHORT.items()
        }
        lowest = {name: min(map(_accuracy, rows)) for name, rows in modes.items() if rows}
        highest = {name: max(map(_loss, rows)) for name, rows in modes.items() if rows}
        entries = ["-"] * len(SHORT)
        for number, name in enumerate(SHORT):
            if name in lowest:
                broken = lowest[name] <= min(lowest.values()) + 1e-9
                loss = highest[name] >= max(highest.values()) * (1 - SAME)
                accuracy = _bold(f"{lowest[name]:.3f}", broken and len(lowest) > 1)
                entries[number] = (
                    f"{accuracy} / {_bold(f'{highest[name]:.2f}', loss and len(lowest) > 1)}"
                )
        single.append((_name(setting), entries))
    for setting in results.settings("ensemble"):
        found = {
            name: rows[0]
            for name, label in SHORT_ENSEMBLES.items()
            if (rows := results.rows(setting, label, 100))
        }
        least = min((row.robust_accuracy for row in found.values()), default=0.0)
        entries = ["-"] * len(SHORT_ENSEMBLES)
        for number, name in enumerate(SHORT_ENSEMBLES):
            if name in found:
                row = found[name]
                best = row.robust_accuracy <= least + 1e-9 and len(found) > 1
                accuracy = _bold(f"{row.robust_accuracy:.3f}", best)
                entries[number] = f"{accuracy}, {row.forwards + row.backwards:.0f}"
        ensembles.append((_name(setting), entries))
    return [
        "## In short",
        "",
        "40 iterations at the middle epsilon of each norm: robust accuracy / loss, means over the "
        "seeds; bold is the best. AutoAttack's APGD-CE has two modes: each figure is that of the "
        "better one (on ImageNet, only the mode of highest loss ran).",
        "",
        *_table(single, list(SHORT)),
        "Ensembles: robust accuracy, and forward and backward passes per sample.",
        "",
        *_table(ensembles, list(SHORT_ENSEMBLES)),
    ]


def _middle(results: Results) -> list[Key]:
    """Return the settings of fixed epsilon with the middle epsilon of each model and norm."""
    groups: dict[tuple[str, float], list[Key]] = {}
    for setting in results.settings("fixed"):
        groups.setdefault((setting[1], setting[2]), []).append(setting)
    return [group[(len(group) - 1) // 2] for group in groups.values()]


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text


# ---------------------------------------------------------------------------------------- goals


def _goals(results: Results) -> list[str]:
    """Return for each goal the settings that miss it, and the number of those that meet it."""
    lines = [
        "## Goals",
        "",
        "Means over the seeds. `acc` is robust accuracy, `loss` the mean cross-entropy of the "
        f"adversarial examples; losses within {SAME:.1%} count as equal.",
        "",
        "| goal | met in | not met |",
        "|---|---|---|",
    ]
    for text, wanted, check in _GOALS:
        verdicts = check(results)
        if not verdicts:
            lines.append(f"| {text} | not measured | |")
            continue
        missed = [note for met, note in verdicts if not met]
        good = len(verdicts) - len(missed)
        mark = "✓" if good >= wanted * len(verdicts) else "✗"
        lines.append(f"| {text} | {mark} {good} of {len(verdicts)} | {'; '.join(missed)} |")
    return [*lines, ""]


Verdicts = list[tuple[bool, str]]


def _accuracy(rows: list[Row]) -> float:
    return mean(row.robust_accuracy for row in rows)


def _loss(rows: list[Row]) -> float:
    return mean(row.loss for row in rows)


def _compared(
    results: Results,
    pairs: Iterable[tuple[str, str, int]],
    met: Callable[[list[Row], list[Row]], bool],
    value: Callable[[list[Row]], float],
    orders: Callable[[float], bool] = lambda p: True,
) -> Verdicts:
    verdicts = []
    for setting in results.settings("fixed"):
        for ours, theirs, steps in pairs:
            found = results.pair(setting, ours, theirs, steps)
            if found is None or not orders(setting[2]):
                continue
            a, b = found
            note = f"{_name(setting)} {ours} {steps}: {value(a):.3f} against {value(b):.3f}"
            verdicts.append((met(a, b), note))
    return verdicts


def _sibling_pairs() -> list[tuple[str, str, int]]:
    return [(a, b, 1 if a == "fgm" else 40) for a, b in SIBLINGS.items()]


def _peer_pairs(*peers: str) -> list[tuple[str, str, int]]:
    return [(a, b, steps) for steps in (40, 100) for a in STEEPEST for b in peers]


def _against_better_mode(results: Results, slack: float) -> Verdicts:
    """Robust accuracy against the lower one of APGD's two modes."""
    verdicts = []
    for setting in results.settings("fixed"):
        for attack, _, steps in _peer_pairs("autoattack_apgd"):
            modes = [
                results.pair(setting, attack, mode, steps)
                for mode in ("autoattack_apgd", "autoattack_apgd_any")
            ]
            known = [mode for mode in modes if mode is not None]
            if not known:
                continue
            theirs = min(_accuracy(b) for _, b in known)
            mine = _accuracy(known[0][0])
            note = f"{_name(setting)} {attack} {steps}: {mine:.3f} against {theirs:.3f}"
            verdicts.append((mine <= theirs + slack, note))
    return verdicts


def no_lower_loss(a: list[Row], b: list[Row]) -> bool:
    """Return whether the mean loss of a is at least that of b, but for ``SAME``."""
    return _loss(a) >= _loss(b) * (1 - SAME)


def _higher_loss(a: list[Row], b: list[Row]) -> bool:
    return _loss(a) > _loss(b)


def _no_higher_accuracy(a: list[Row], b: list[Row]) -> bool:
    return _accuracy(a) <= _accuracy(b) + 1e-9


def _norms(results: Results) -> Verdicts:
    verdicts = []
    for setting in results.settings("fixed"):
        for attack in ("bim", "pgd", "momentum", "adam", "apgd"):
            rows = results.rows(setting, attack, 40)
            if rows:
                off = max(abs(n - 1) for r in rows for n in (r.least_norm, r.greatest_norm))
                verdicts.append((off <= 1e-5, f"{_name(setting)} {attack}: off by {off:.1e}"))
    return verdicts


def _ensembles(results: Results, name: str, peer: str, share: float) -> Verdicts:
    """Compare an ensemble with a peer: accuracy not higher, with this share of its passes."""
    verdicts = []
    for setting in results.settings("ensemble"):
        found = results.pair(setting, name, peer, 100)
        if found is not None:
            a, b = found
            passes = [mean(r.forwards + r.backwards for r in part) for part in found]
            met = _no_higher_accuracy(a, b) and passes[0] <= share * passes[1]
            note = (
                f"{_name(setting)}: {_accuracy(a):.3f} with {passes[0]:.0f} passes against "
                f"{_accuracy(b):.3f} with {passes[1]:.0f}"
            )
            verdicts.append((met, note))
    return verdicts


_GOALS: tuple[tuple[str, float, Callable[[Results], Verdicts]], ...] = (
    (
        "Foolbox's attack of the same kind: acc never higher", 1.0,
        lambda r: _compared(r, _sibling_pairs(), _no_higher_accuracy, _accuracy),
    ),
    (
        "the same, finite p: loss higher in 95%", 0.95,
        lambda r: _compared(r, _sibling_pairs(), _higher_loss, _loss, math.isfinite),
    ),
    (
        "the same, p = inf: loss not lower by more than 1%", 1.0,
        lambda r: _compared(
            r, _sibling_pairs(), lambda a, b: _loss(a) >= 0.99 * _loss(b), _loss, math.isinf
        ),
    ),
    (
        "APGD-CE of highest loss, 40 and 100: loss not below", 1.0,
        lambda r: _compared(r, _peer_pairs("autoattack_apgd"), no_lower_loss, _loss),
    ),
    (
        "the same: loss above in 90%", 0.9,
        lambda r: _compared(r, _peer_pairs("autoattack_apgd"), _higher_loss, _loss),
    ),
    (
        "the better of APGD-CE's modes: acc not higher by more than 0.5 points", 1.0,
        lambda r: _against_better_mode(r, HALF_A_POINT),
    ),
    (
        "the same: acc not higher in 90%", 0.9,
        lambda r: _against_better_mode(r, 1e-9),
    ),
    (
        "ACG and ReACG: acc not higher", 1.0,
        lambda r: _compared(
            r, [(a, b, 40) for a in STEEPEST for b in ("acg", "reacg")],
            _no_higher_accuracy, _accuracy,
        ),
    ),
    (
        "APGD on the probability margin: acc not higher by more than 0.5 points", 1.0,
        lambda r: _compared(
            r, [(a, "apgd_probability", 40) for a in STEEPEST],
            lambda a, b: _accuracy(a) <= _accuracy(b) + HALF_A_POINT, _accuracy,
        ),
    ),
    ("every norm at epsilon to 1e-5", 1.0, _norms),
    (
        "ensemble: acc not higher than AutoAttack's standard, with a quarter of its passes", 1.0,
        lambda r: _ensembles(r, "ensemble", "autoattack_standard", 0.25),
    ),
    (
        "ensemble, fast: acc not higher than MALT's, with no more passes", 1.0,
        lambda r: _ensembles(r, "ensemble_fast", "malt", 1.0),
    ),
)  # fmt: skip


# --------------------------------------------------------------------------------------- tables


def _tables(results: Results) -> list[str]:
    lines: list[str] = []
    for steps in (1, 40, 100):
        settings = [
            c
            for c in results.settings("fixed")
            if any(s == steps for _, s in results.by_setting[c])
        ]
        names = list(
            dict.fromkeys(a for c in settings for a, s in results.by_setting[c] if s == steps)
        )
        lines += [f"## {steps} iteration{'s' if steps > 1 else ''}: acc / loss", ""]
        lines += _table(
            [
                (_name(c), [_entry(results.rows(c, name, steps)) for name in names])
                for c in settings
            ],
            names,
        )
    lines += ["## Ensembles: acc, passes per sample", ""]
    body = []
    for setting in results.settings("ensemble"):
        for (attack, _), rows in results.by_setting[setting].items():
            row = rows[0]
            cost = [f"{row.forwards:.0f}", f"{row.backwards:.0f}"]
            body.append((f"{_name(setting)} {attack}", [f"{row.robust_accuracy:.3f}", *cost]))
    return [*lines, *_table(body, ["acc", "forward", "backward"])]


def _table(body: list[tuple[str, list[str]]], names: list[str]) -> list[str]:
    head = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    return [*head, *(f"| {name} | " + " | ".join(entries) + " |" for name, entries in body), ""]


def _entry(rows: list[Row]) -> str:
    if not rows:
        return "-"
    accuracy = _spread([row.robust_accuracy for row in rows], 3)
    return f"{accuracy} / {_spread([row.loss for row in rows], 2)}"


def _spread(values: list[float], digits: int) -> str:
    """The mean, and the standard deviation over the seeds where there are several."""
    text = f"{mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text}±{stdev(values):.{digits}f}"


def _name(setting: Key) -> str:
    return f"{setting[1]} {norm_name(setting[2])} {setting[3]:.4g}"


def _notes() -> list[str]:
    return [
        "## Notes",
        "",
        "- `autoattack_apgd` keeps the iterate of the highest loss, `autoattack_apgd_any` any "
        "adversarial one, as `apgd_probability` does, whose loss is the probability margin. For L1 "
        "all of them start with AutoAttack's larger epsilons.",
        "- ± is the standard deviation over seeds. FGM, BIM and Foolbox's momentum attack have "
        "no randomness.",
        "- The other libraries have no attack for p = 1.5.",
        "",
    ]


# --------------------------------------------------------------------------------------- curves

CURVES = {
    "foolbox_pgd": ("Foolbox PGD", "tab:gray", "s"),
    "autoattack_apgd_any": ("AutoAttack APGD", "tab:orange", "^"),
    "reacg": ("ReACG", "tab:green", "v"),
    "pgd": ("ClipAwarePGD", "tab:blue", "o"),
    "apgd": ("ClipAwareAPGD", "tab:red", "."),
}


def _curves(results: Results, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    settings = results.settings("fixed")
    models = list(dict.fromkeys(setting[1] for setting in settings))
    orders = sorted({setting[2] for setting in settings})
    figure, axes = pyplot.subplots(
        len(models), len(orders), squeeze=False, sharey=True,
        figsize=(3.2 * len(orders), 2.6 * len(models)),
    )  # fmt: skip
    for model, line in zip(models, axes, strict=True):
        for p, axis in zip(orders, line, strict=True):
            here = [setting for setting in settings if setting[1] == model and setting[2] == p]
            for attack, (label, colour, marker) in CURVES.items():
                points = [(c[3], results.rows(c, attack, 40)) for c in here]
                known = [(0.0, 1.0)] + [(e, _accuracy(rows)) for e, rows in points if rows]
                if len(known) > 1:
                    axis.plot(*zip(*known, strict=True), marker=marker, color=colour, label=label)
            axis.set_title(f"{model} {norm_name(p)}", fontsize=9)
            axis.set_xlabel("epsilon", fontsize=8)
            axis.locator_params(axis="x", nbins=5)
            axis.tick_params(labelsize=7)
        line[0].set_ylabel("robust accuracy, 40 iterations", fontsize=8)
    handles = {}
    for axis in axes.flat:
        handles.update(dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True)))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=5, fontsize=8)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _short(key: str, value: str | float) -> str | float:
    measured = isinstance(value, float) and key not in ("p", "epsilon")
    return f"{value:.7g}" if measured else value
