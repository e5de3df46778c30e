"""How a series is drawn, the same on the page and in the figures for papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .aggregate import Run, Series

LIGHT = {
    "ours": ("#0b5394", "#12888f", "#6b4fa0", "#4a90d9", "#2e7d4f"),
    "foolbox": ("#c9500c", "#b8860b", "#a61e5c", "#7a4b1e", "#e08a3c"),
}
"""Cold colours for this package's attacks, warm ones for Foolbox's; neighbours differ in
lightness too, for readers who do not see the hue, and markers tell them apart again."""

DARK = {
    "ours": ("#6db3f2", "#3cc6c6", "#b9a3e3", "#a9cdf5", "#6fd09c"),
    "foolbox": ("#ff9357", "#e6c04a", "#f07ab0", "#d0a070", "#ffc890"),
}
"""The same on a dark ground."""

MARKERS = "osD^vP"
"""Matplotlib's letters; the page draws the same shapes."""


@dataclass(frozen=True)
class Look:
    """Of one series.

    Attributes:
        source: ``ours``, ``foolbox`` or "" for the worst case, which is drawn in the text's
            colour.
        hue: Place in the colours of its source.
        marker: Place in ``MARKERS``.
        run: Place of its run; every run after the first has its own dashes, and a mixed colour.
    """

    source: str
    hue: int
    marker: int
    run: int

    @property
    def color(self) -> str:
        """On a light ground."""
        return LIGHT[self.source][self.hue] if self.source else "#222222"


def looks(runs: Sequence[Run], p: float) -> dict[tuple[int, str], Look]:
    """By number of the run and label of the attack: those of one norm.

    What Foolbox's and our version of an attack share after ``foolbox_`` and ``ours_`` in
    their labels gives them the same marker.
    """
    families: dict[str, int] = {}
    hues: dict[str, dict[str, int]] = {source: {} for source in LIGHT}
    made: dict[tuple[int, str], Look] = {}
    for number, run in enumerate(runs):
        for series in run.series:
            if series.p != p:
                continue
            marker = families.setdefault(_family(series), len(families))
            own = hues[series.source]
            hue = own.setdefault(series.attack, len(own))
            colors = len(LIGHT[series.source])
            made[number, series.attack] = Look(
                series.source, hue % colors, marker % len(MARKERS), number
            )
        for series in run.worst:
            if series.p == p:
                made[number, series.attack] = Look("", 0, 0, number)
    return made


def _family(series: Series) -> str:
    return series.attack.removeprefix(f"{series.source}_")
