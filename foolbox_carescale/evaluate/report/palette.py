"""The style of a series, the same on the page and in figures for papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .aggregate import Run
from .series import Series

LIGHT = {
    "own": ("#0b5394", "#12888f", "#6b4fa0", "#4a90d9", "#2e7d4f"),
    "other": ("#c9500c", "#b8860b", "#a61e5c", "#7a4b1e", "#e08a3c"),
}
"""Cold colours for this package's attacks, warm ones for all others; neighbours differ in
lightness too, for readers who do not see the hue, and markers tell them apart again."""

DARK = {
    "own": ("#6db3f2", "#3cc6c6", "#b9a3e3", "#a9cdf5", "#6fd09c"),
    "other": ("#ff9357", "#e6c04a", "#f07ab0", "#d0a070", "#ffc890"),
}
"""The same on a dark ground."""

MARKERS = "osD^vP"
"""Matplotlib's letters; the page draws the same shapes."""


@dataclass(frozen=True)
class SeriesStyle:
    """The style of one series.

    Attributes:
        palette: ``own``, ``other`` or "" for the worst case, which is drawn in the text's
            colour.
        hue: Place in the colours of its palette.
        marker: Place in ``MARKERS``.
        run: Place of its run; every run after the first has its own dashes, and a mixed colour.
    """

    palette: str
    hue: int
    marker: int
    run: int

    @property
    def color(self) -> str:
        """Return the colour on a light ground."""
        return LIGHT[self.palette][self.hue] if self.palette else "#222222"


def styles(runs: Sequence[Run], p: float) -> dict[tuple[int, str], SeriesStyle]:
    """Return the styles of one norm, by number of the run and name of the attack.

    What Foolbox's and our version of an attack share after ``foolbox_`` and ``clip_aware_`` in
    their names gives them the same marker.
    """
    families: dict[str, int] = {}
    hues: dict[str, dict[str, int]] = {palette: {} for palette in LIGHT}
    made: dict[tuple[int, str], SeriesStyle] = {}
    for number, run in enumerate(runs):
        for series in run.series:
            if series.p != p:
                continue
            marker = families.setdefault(_family(series), len(families))
            palette = palette_of(series.library)
            hue = hues[palette].setdefault(series.attack, len(hues[palette]))
            colors = len(LIGHT[palette])
            made[number, series.attack] = SeriesStyle(
                palette, hue % colors, marker % len(MARKERS), number
            )
        for series in run.worst:
            if series.p == p:
                made[number, series.attack] = SeriesStyle("", 0, 0, number)
    return made


def palette_of(library: str) -> str:
    """Return the name of the colours of a library's attacks."""
    return "own" if library == "foolbox_carescale" else "other"


def _family(series: Series) -> str:
    return re.sub("^(foolbox|clip_aware)_", "", series.attack)
