"""The interactive page: one HTML file with everything in it, which asks the network for nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

from ..statistics import quantile, wilson
from . import palette
from .aggregate import (
    BINS,
    MANY_CLASSES,
    Difference,
    Run,
    config_differences,
    differences,
    norms,
    title,
)
from .curve import QUANTILES, extent, steps
from .headline import headline_epsilons, strongest
from .pictures import browser
from .series import QUANTITIES, Point, Series

SCRIPTS = (
    *("elements", "save", "series", "zoom", "charts", "tables"),
    *("distributions", "results", "images", "summary", "main"),
)
"""Files in ``page/``, in the order in which they are joined. They are own code, since a charting
library is some hundred times their size, and the page asks the network for nothing."""

ENDS = 12
"""Classes at either end of a sorted profile."""

STEPS = 400
"""Norms at which a curve has a step, at most: about one per pixel of its height."""

PROFILE = 101
"""Points of a sorted profile of many classes."""


def page(runs: Sequence[Run]) -> str:
    """Return the HTML text. Names of attacks, classes and configs are data in it, never markup."""
    files = resources.files(__package__)

    def text(name: str) -> str:
        return files.joinpath(name).read_text(encoding="utf-8")

    script = "".join(text(f"page/{name}.js") for name in SCRIPTS)
    data = json.dumps(_content(runs), allow_nan=False, separators=(",", ":"))
    return Template(text("page.html.template")).substitute(
        colors=_colors(),
        style=text("page.css"),
        data=data.replace("<", "\\u003c"),  # nothing in a JSON text can end the script element
        script=f'"use strict";\n{{\n{script}}}\n',
    )


def _content(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "title": title(runs),
        "runs": [_about(run) for run in runs],
        "norms": [_norm(runs, p, name) for p, name in norms(runs)],
        "differences": [_difference(found) for found in differences(runs)],
        "config": config_differences(runs) if len(runs) > 1 else [],
        "pictures": browser(runs),
    }


def _about(run: Run) -> dict[str, Any]:
    correct, total = run.clean
    low, high = wilson(correct, total)
    points = [point for series in run.series for point in series.points if point.classes.size]
    listed = {row[0] for point in points for row in _classes(point.classes)["rows"]}
    return {
        "name": run.name,
        "model": run.model,
        "data": run.data,
        "clean": {"k": correct, "n": total, "low": _finite(low), "high": _finite(high)},
        "config": run.config,
        "versions": run.versions,
        "made": run.made,
        "classes": {label: run.class_text(label) for label in sorted(listed)},
        "diagnostics": [
            {"code": diagnostic.code, "message": diagnostic.message, "remedy": diagnostic.remedy}
            for diagnostic in run.diagnostics
        ],
    }


def _norm(runs: Sequence[Run], p: float, name: str) -> dict[str, Any]:
    styles = palette.styles(runs, p)
    chosen = [
        (number, series)
        for number, run in enumerate(runs)
        for series in (*run.series, *run.worst)
        if series.p == p
    ]
    epsilons = sorted({point.epsilon for _, series in chosen for point in series.points})
    ends = extent(runs, p)
    edges = {
        (quantity, epsilon): _edges(
            [point.values[quantity] for point in _at(chosen, epsilon) if quantity in point.values]
        )
        for quantity in QUANTITIES
        for epsilon in epsilons
    }
    headline = headline_epsilons(runs, p)
    return {
        "name": name,
        "epsilons": epsilons,
        "headline": headline,
        "outcomes": [
            {"e": epsilon, "runs": [_outcome(run, p, epsilon) for run in runs]}
            for epsilon in sorted({*epsilons, *headline})
        ],
        "ends": ends,
        "edges": {
            quantity: [edges[quantity, epsilon] for epsilon in epsilons] for quantity in QUANTITIES
        },
        "series": [
            {
                "run": number,
                "attack": series.attack,
                "name": series.attack_name,
                "params": series.params,
                "palette": styles[number, series.attack].palette,
                "worst": not series.library,
                "hue": styles[number, series.attack].hue,
                "marker": styles[number, series.attack].marker,
                "points": [_point(point, edges) for point in series.points],
                "minimum": None if series.norms is None else _minimum(series.norms, ends),
            }
            for number, series in chosen
        ],
    }


def _outcome(run: Run, p: float, epsilon: float) -> dict[str, Any] | None:
    """Return what a run withstands at an epsilon, for its headline."""
    found = strongest(run, p, epsilon)
    if found is None:
        return None
    series, point = found
    return {"attack": series.attack, **_accuracy(point)}


def _minimum(found: npt.NDArray[Any], ends: tuple[float, float]) -> dict[str, Any]:
    """Return the steps of a curve, and quantiles of the norms."""
    total = len(found)
    counts = [(float(e), int(k)) for e, k in zip(*steps(found, ends, STEPS), strict=True)]
    return {
        "steps": [
            {"e": e, "k": k, "n": total, "low": wilson(k, total)[0], "high": wilson(k, total)[1]}
            for e, k in counts
        ],
        "quantiles": [[share, _finite(quantile(found, share))] for share in QUANTILES],
        "none": int(np.isinf(found).sum()),
    }


def _at(chosen: list[tuple[int, Series]], epsilon: float) -> list[Point]:
    return [p for _, series in chosen for p in series.points if p.epsilon == epsilon]


def _edges(values: list[npt.NDArray[Any]]) -> tuple[float, float] | None:
    """Return least and greatest of all, a little apart if they are the same; None without any."""
    values = [one for one in values if len(one)]
    if not values:
        return None
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    if high - low < 1e-3 * max(abs(high), 1e-9):
        room = 0.05 * max(abs(high), 1e-9)
        low, high = low - room, high + room
    return low, high


def _point(
    point: Point, edges: dict[tuple[str, float], tuple[float, float] | None]
) -> dict[str, Any]:
    shown = _accuracy(point)
    if not point.classes.size:
        return shown  # of the worst case
    shown["seconds"] = _finite(point.seconds)
    shown["quantised"] = None if point.quantised is None else _finite(point.quantised)
    for quantity, values in point.values.items():
        spread, ends = point.spread(quantity), edges[quantity, point.epsilon]
        if spread is None or ends is None:
            continue
        counts, _ = np.histogram(np.clip(values, ends[0], ends[1]), BINS, range=(ends[0], ends[1]))
        shown[quantity] = {
            "mean": _finite(spread.mean),
            "low": _finite(spread.low),
            "high": _finite(spread.high),
            "median": _finite(float(np.median(values))),
            "counts": counts.tolist(),
        }
    shown["classes"] = _classes(point.classes)
    return shown


def _accuracy(point: Point) -> dict[str, Any]:
    low, high = point.interval
    return {
        "e": point.epsilon,
        "n": len(point.robust),
        "k": int(point.robust.sum()),
        "low": _finite(low),
        "high": _finite(high),
        "attacked": point.attacked,
    }


def _classes(table: npt.NDArray[Any]) -> dict[str, Any]:
    """Count samples and robust ones by class; of many classes, those at the profile's ends."""
    present = np.flatnonzero(table[0])
    total, robust = table[0][present], table[1][present]
    share = robust / total
    order = np.argsort(share, kind="stable")
    if len(present) <= MANY_CLASSES:
        listed = np.arange(len(present))
        profile = []
    else:
        listed = np.concatenate([order[:ENDS], order[-ENDS:]])
        profile = np.quantile(share, np.linspace(0, 1, PROFILE)).round(3).tolist()
    return {
        "count": len(present),
        "rows": [[int(present[i]), int(total[i]), int(robust[i])] for i in listed],
        "profile": profile,
    }


def _difference(found: Difference) -> dict[str, Any]:
    return {
        "run": found.run,
        "base": found.base,
        "attack": found.attack,
        "norm": f"L{found.p:g}",
        "e": found.epsilon,
        "n": found.samples,
        "paired": found.paired,
        "one": _finite(found.accuracy),
        "two": _finite(found.base_accuracy),
        "value": _finite(found.value),
        "low": _finite(found.low),
        "high": _finite(found.high),
        "beyond": found.beyond_chance,
    }


def _colors() -> str:
    """Return the palette as CSS variables."""

    def variables(colors: Mapping[str, Sequence[str]]) -> str:
        return "".join(
            f"--{name}-{i}:{color};"
            for name, those in colors.items()
            for i, color in enumerate(those)
        )

    return (
        f":root{{{variables(palette.LIGHT)}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{variables(palette.DARK)}}}}}"
    )


def _finite(value: float) -> float | None:
    """Return the value, which the page alone rounds; None, JSON's null, if it is not finite."""
    return float(value) if math.isfinite(value) else None
