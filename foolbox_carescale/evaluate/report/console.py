"""Tables of runs on the console."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...core.fractions import format_epsilon
from ..config.types import norm_name
from ..errors import UserError, printable
from ..store.results import (
    SETTING_COLUMNS,
    Results,
    SettingSummary,
    clean_counts,
    minimum_norms,
    summary,
)
from .aggregate import aggregate, config_differences, differences
from .curve import QUANTILES, Epsilons, accuracy_at
from .series import NOT_ATTACKED


def print_report(results: Results, console: Console) -> None:
    """Print the clean accuracy and one table per norm and list of epsilons."""
    columns = results.columns("model", "data", *SETTING_COLUMNS)
    model, data = (columns.settings[0].about[name] for name in ("model", "data"))
    found, (correct, samples) = summary(columns), clean_counts(columns)
    console.print(
        f"[bold]{_plain(model)}[/] on [bold]{_plain(data)}[/]: {found[0].samples} samples,"
        f" clean accuracy [bold]{correct / samples:.3f}[/]",
        highlight=False,
    )
    minimum = minimum_norms(columns)
    for p, epsilons, attacks in _batches(found):
        table = Table(
            title=f"{norm_name(p)}: robust accuracy; below it measured norm / epsilon: mean, min",
            title_justify="left",
            title_style="bold",
        )
        table.add_column("attack \\ epsilon", no_wrap=True)
        for epsilon in epsilons:
            table.add_column(format_epsilon(epsilon), justify="right", no_wrap=True)
        for settings in attacks:
            seconds = sum(setting.seconds for setting in settings)
            table.add_row(
                f"{_plain(settings[0].attack)}\n[dim]{seconds:.1f} s[/]",
                *(
                    f"{setting.robust_accuracy:.3f}\n"
                    f"[dim]{'' if setting.attack in minimum else _norms(setting)}[/]"
                    if setting.attacked
                    else NOT_ATTACKED
                    for setting in settings
                ),
            )
        console.print(table)
    for one in minimum.values():
        low, median, high = (f"{one.quantile(share):.4g}" for share in QUANTILES)
        console.print(
            f"{_plain(one.attack)}: median of the minimum norm {median}; 10% {low}, 90% {high}",
            highlight=False,
        )


def print_epsilons(results: Results, epsilons: Epsilons, console: Console) -> None:
    """Print robust accuracy at epsilons of your choice, as ``accuracy_at`` returns it."""
    points = accuracy_at(results, epsilons)
    table = Table(title=_plain(str(results.folder)), title_justify="left", title_style="bold")
    for name in ("attack", "norm", "epsilon", "robust accuracy", "95%"):
        table.add_column(name, justify="left" if name in ("attack", "norm") else "right")
    for one in points:
        table.add_row(
            _plain(one.attack),
            norm_name(one.p),
            format_epsilon(one.epsilon),
            f"{one.robust_accuracy:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
        )
    console.print(table)
    known = results.minimum_norms()
    others = dict.fromkeys(s.attack for s in results.summary() if s.attack not in known)
    if others:
        names = _plain(", ".join(others))
        console.print(
            f"no minimum-norm attacks, known at their own epsilons only: {names}", highlight=False
        )


def print_comparison(results: Sequence[Results], console: Console) -> None:
    """Print what differs between the runs: their configs, and their robust accuracies.

    Raises:
        UserError: No attack was run at the same epsilon in two of them.
    """
    runs = aggregate(results)
    for key, values in config_differences(runs):
        console.print(_plain(f"{key}: {' | '.join(values)}"), highlight=False)
    found = differences(runs)
    if not found:
        raise UserError(
            f"runs: {', '.join(run.name for run in runs)} share no attack at the same epsilon;"
            " give runs whose attacks have the same names"
        )
    table = Table(
        title=f"robust accuracy minus that of {_plain(runs[0].name)}; * = beyond chance (95%)",
        title_justify="left",
        title_style="bold",
    )
    base, others = runs[0].name, runs[1:]
    left, short = ("attack", "norm", "run"), ("epsilon", "accuracy", "difference", "95%")
    other = ("run", "accuracy") if len(others) > 1 else (others[0].name,)
    for name in ("attack", "norm", "epsilon", base, *other, "difference", "95%"):
        table.add_column(
            _plain(name),
            justify="left" if name in left else "right",
            no_wrap=name in (*left, *short),
        )
    for one in found:
        table.add_row(
            _plain(one.attack),
            norm_name(one.p),
            format_epsilon(one.epsilon),
            f"{one.base_accuracy:.3f}",
            *([_plain(one.run)] if len(others) > 1 else []),
            f"{one.accuracy:.3f}",
            f"{one.value:+.3f}{'*' if one.beyond_chance else ' '}",
            f"{one.low:+.3f} to {one.high:+.3f}",
        )
    console.print(table)
    paired = {one.run: one.paired for one in found}
    texts = {True: "over the same samples, paired", False: "of different samples, not paired"}
    for kind in (True, False):
        names = ", ".join(name for name, is_paired in paired.items() if is_paired is kind)
        if names:
            which = "" if len(set(paired.values())) == 1 else f"{_plain(names)}: "
            console.print(f"{which}{texts[kind]}", highlight=False)


def _plain(text: str) -> str:
    """Return text as a terminal shows it, without markup and control sequences."""
    return escape(printable(text))


def _norms(setting: SettingSummary) -> str:
    return f"{setting.norm_mean:.3f}, {setting.norm_min:.3f}"


def _batches(
    summary: list[SettingSummary],
) -> Iterator[tuple[float, tuple[float, ...], list[list[SettingSummary]]]]:
    """Group attacks that share a table: norm, epsilons, and each attack's settings."""
    by_attack = [
        list(settings) for _, settings in groupby(summary, key=lambda setting: setting.attack)
    ]

    def key(settings: list[SettingSummary]) -> tuple[float, tuple[float, ...]]:
        return settings[0].p, tuple(setting.epsilon for setting in settings)

    batches: dict[tuple[float, tuple[float, ...]], list[list[SettingSummary]]] = {}
    for settings in by_attack:
        batches.setdefault(key(settings), []).append(settings)
    for (p, epsilons), attacks in batches.items():
        yield p, epsilons, attacks
