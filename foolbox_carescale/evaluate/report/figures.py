"""Figures of runs, from what is stored of them; drawn without a display."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation, Transform
from PIL import Image

from ...core.fractions import format_epsilon
from ..config.types import norm_name
from ..statistics import wilson
from . import curve, palette
from .aggregate import Run, title
from .palette import MARKERS, SeriesStyle
from .series import Series

_DPI = 300  # what journals ask of a PNG
_TICK_GAP = 0.14  # of the axis; what a label such as 0.0125 takes
_DASHES: Any = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))  # by run
_COLUMNS = 12  # of the grid of images; more attacks than that are left to the page
_GAP, _WIDTH = 8, 120  # points between attacks that are known at one epsilon, and of all of them
_STEPS = 1000  # of a curve; a panel has about 900 pixels
_PANELS, _LINES, _HISTOGRAMS = 12, 100, 100  # an image has 65,536 pixels per side at most
_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": _DPI,
    "svg.fonttype": "none",  # text stays text: searchable, and set in the paper's own font
    "text.parse_math": False,  # names hold any character, also two dollars
    "svg.hashsalt": "carescale",  # the same results give the same file
}

Example = dict[str, npt.NDArray[Any]]


def curves(runs: Sequence[Run]) -> Figure:
    """Draw robust accuracy by epsilon with 95% intervals: a panel per norm, a line per attack.

    That of a minimum-norm attack is a step at every norm found, with markers at its epsilons.
    The worst case over attacks is left out: it runs along the strongest.
    """
    orders = sorted({series.p for run in runs for series in run.series})[:_PANELS]
    lines = [sum(series.p == p for run in runs for series in run.series) for p in orders]
    height = 3.2 + 0.19 * min(max(lines), _LINES)
    with mpl.rc_context(_STYLE):
        figure = Figure(
            figsize=(max(3.6 * len(orders), 5), height),
            layout="constrained",
        )
        panels = figure.subplots(1, len(orders), sharey=True, squeeze=False)[0]
        for panel, p in zip(panels, orders, strict=True):
            draw_curves(panel, runs, p)
            panel.set_title(norm_name(p))
            panel.legend(
                loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8.5, handlelength=3
            )
        panels[0].set_ylabel("robust accuracy")
        samples = " / ".join(dict.fromkeys(str(run.clean[1]) for run in runs))
        figure.suptitle(f"{title(runs)}, {samples} samples", fontsize=11, parse_math=False)
    return figure


def draw_curves(panel: Axes, runs: Sequence[Run], p: float) -> None:
    """Draw the curves of one norm, without a title and a legend."""
    styles, ends = palette.styles(runs, p), curve.extent(runs, p)
    shifts = _shifts([one for run in runs for one in run.series if one.p == p])
    for number, run in enumerate(runs):
        name = f"clean, {run.name}" if len(runs) > 1 else "clean"
        panel.axhline(run.clean_accuracy, color="0.55", lw=1, ls=_dashes(number + 1), label=name)
        for series in run.series:
            if series.p == p:
                label = f"{series.attack}, {run.name}" if len(runs) > 1 else series.attack
                shift = ScaledTranslation(next(shifts) / 72, 0, panel.figure.dpi_scale_trans)
                _curve(panel, series, styles[number, series.attack], label, ends, shift)
    panel.set_xscale("log")
    epsilons = {c.epsilon for run in runs for s in run.series if s.p == p for c in s.points}
    _label_epsilons(panel, sorted(epsilons))
    panel.set_xlabel("epsilon")
    panel.set_ylim(-0.03, 1.03)
    panel.grid(color="0.92")


def norms(runs: Sequence[Run]) -> Figure:
    """Draw measured norm / epsilon: a histogram per run and attack over samples and epsilons.

    Minimum-norm attacks are left out: they do not aim at epsilon.
    """
    rows = sorted(
        (
            (number, series)
            for number, run in enumerate(runs)
            for series in run.series
            if series.norms is None
        ),
        key=lambda row: row[1].p,
    )[:_HISTOGRAMS]
    everything = [_ratios(series) for _, series in rows]
    low = min([0.9, *(float(ratios.min()) for ratios in everything if len(ratios))])
    low = math.floor(low * 20) / 20
    high = max([1.02, *(float(ratios.max()) * 1.02 for ratios in everything if len(ratios))])
    width = (high - low) / 80
    # an edge half a bin above 1, so that what is exact within rounding falls into one bin
    edges = np.arange(1 + width / 2 - width * math.ceil((1 - low) / width + 1), high + width, width)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, 1.1 + 0.46 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for panel, (number, series), ratios in zip(panels, rows, everything, strict=True):
            color = palette.styles(runs, series.p)[number, series.attack].color
            counts, _ = np.histogram(ratios, edges)
            heights = counts / max(counts.max(), 1)
            panel.stairs(heights, edges, fill=True, color=color, alpha=0.85)
            panel.axvline(1, color="0.3", lw=0.8, ls=(0, (4, 3)), zorder=0)
            panel.set_ylim(0, 1.1)
            panel.yaxis.set_major_locator(NullLocator())
            panel.spines["left"].set_visible(False)
            of_run = f", {runs[number].name}" if len(runs) > 1 else ""
            panel.set_ylabel(
                f"{series.attack}{of_run}  ({norm_name(series.p)})",
                rotation=0,
                ha="right",
                va="center",
                fontsize=9,
                parse_math=False,
            )
            if len(ratios):
                text = f"mean {ratios.mean():.3f}\nmin {ratios.min():.3f}"
                place: Any = {"xycoords": "axes fraction", "va": "center"}
                panel.annotate(text, (1.01, 0.5), fontsize=8, color=color, **place)
        panels[-1].set_xlim(low, high)
        panels[-1].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        panels[-1].set_xlabel("measured norm of the clipped perturbation / epsilon")
        figure.suptitle("Share of epsilon left after the clip", fontsize=11, fontweight="bold")
    return figure


def grid(run: Run, examples: list[Example], samples: int = 2) -> Figure:
    """Draw clean images, and for each attack the perturbed ones above their differences.

    Args:
        run: The run, which may name its classes.
        examples: As ``pictures.of_images`` gives them; at least one.
        samples: Rows, at most.
    """
    examples = examples[:_COLUMNS]
    samples = min([samples, *(len(example["label"]) for example in examples)])
    columns = 1 + len(examples)
    with mpl.rc_context(_STYLE):
        size = (0.3 + 0.95 * columns, 0.75 + 2.0 * samples)
        tight = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
        figure = Figure(figsize=size, layout=tight)
        axes = figure.subplots(2 * samples, columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for row in range(samples):
            first = examples[0]
            _picture(axes[2 * row, 0], first["clean"][row], _class(run, first["label"][row]))
            explained = "difference\n(scaled) →"
            axes[2 * row + 1, 0].text(
                0.5, 0.5, explained, ha="center", va="center", fontsize=8, color="0.25"
            )
            for column, example in enumerate(examples, start=1):
                clean, perturbed = example["clean"][row], example["perturbed"][row]
                fooled = example["prediction"][row] != example["label"][row]
                _picture(
                    axes[2 * row, column],
                    perturbed,
                    _class(run, example["prediction"][row]),
                    color="#b3001b" if fooled else "0.25",
                )
                difference = perturbed - clean
                scale = max(float(np.abs(difference).max()), 1e-12)
                _picture(axes[2 * row + 1, column], 0.5 + 0.5 * difference / scale)
        axes[0, 0].annotate("clean", (0.5, 1.25), xycoords="axes fraction", ha="center", fontsize=8)
        for column, example in enumerate(examples, start=1):
            words = str(example["attack"]).replace("_", "\n").replace("-", "\n")
            axes[0, column].annotate(
                f"{words}\nε = {format_epsilon(float(example['epsilon']))}",
                (0.5, 1.25),
                xycoords="axes fraction",
                ha="center",
                fontsize=8,
                color=palette.LIGHT[palette.palette_of(str(example["library"]))][0],
            )
    return figure


def save(figure: Figure, path: Path, *, few_colors: bool = False) -> list[Path]:
    """Write a figure as PNG and as SVG.

    Args:
        figure: What to write.
        path: Without the ending.
        few_colors: Keep 256 colours: noise on large batches of pixels does not compress, and
            needs no more.
    """
    written = [replaced(path.with_suffix(kind)) for kind in (".png", ".svg")]
    with mpl.rc_context(_STYLE):
        figure.savefig(written[0])
        figure.savefig(written[1], metadata={"Date": None})
    if few_colors:
        with Image.open(written[0]) as image:
            reduced = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        reduced.save(written[0], optimize=True, dpi=(_DPI, _DPI))
    return written


def replaced(path: Path) -> Path:
    """Return a path without what stands there: a link is removed, not written through."""
    path.unlink(missing_ok=True)
    return path


def _shifts(series: list[Series]) -> Iterator[float]:
    """Yield points by which each is shifted: at one epsilon, attacks stand beside each other."""
    known = [one.points[0].epsilon if _is_dot(one) else None for one in series]
    for place, epsilon in enumerate(known):
        count = known.count(epsilon)
        middle = (count - 1) / 2
        step = min(_GAP, _WIDTH / count)
        yield 0.0 if epsilon is None else (known[:place].count(epsilon) - middle) * step


def _is_dot(series: Series) -> bool:
    """Return whether an attack is known at one epsilon only."""
    return series.norms is None and len(series.points) == 1


def _curve(
    panel: Axes,
    series: Series,
    style: SeriesStyle,
    label: str,
    ends: tuple[float, float],
    shift: Transform,
) -> None:
    asked = [point.epsilon for point in series.points]
    line: Any = {"color": style.color, "lw": 1.8, "ls": _dashes(style.run)}
    markers: Any = {"marker": MARKERS[style.marker], "markersize": 5}
    if series.norms is not None:
        epsilons, robust = curve.steps(series.norms, ends, _STEPS)
        total = len(series.norms)
        lower, upper = zip(*(wilson(int(k), total) for k in robust), strict=True)
        panel.fill_between(epsilons, lower, upper, step="post", color=style.color, alpha=0.12, lw=0)
        panel.step(epsilons, robust / total, where="post", **line)
        panel.plot([], [], label=label, **line, **markers)  # for the legend
        line["ls"] = "none"
    else:
        lower, upper = zip(*(point.interval for point in series.points), strict=True)
        if not _is_dot(series):
            panel.fill_between(asked, lower, upper, color=style.color, alpha=0.12, lw=0)
        else:
            line["transform"] = panel.transData + shift
            panel.vlines(asked, lower, upper, color=style.color, lw=1, transform=line["transform"])
            panel.update_datalim([(asked[0], lower[0])])  # shifted, it does not count by itself
            line["ls"] = "none"
        line["label"] = label
    panel.plot(asked, [point.accuracy for point in series.points], **line, **markers)


def _dashes(run: int) -> Any:
    return _DASHES[run % len(_DASHES)]


def _ratios(series: Series) -> npt.NDArray[Any]:
    found = [point.values.get("norm_over_epsilon", np.zeros(0)) for point in series.points]
    return np.concatenate(found)


def _label_epsilons(panel: Axes, epsilons: list[float]) -> None:
    """Put ticks at the epsilons themselves, as far as they do not crowd each other."""
    span = math.log(epsilons[-1] / epsilons[0]) or 1.0
    shown: list[float] = []
    for epsilon in epsilons:
        if not shown or math.log(epsilon / shown[-1]) / span > _TICK_GAP:
            shown.append(epsilon)
    panel.xaxis.set_major_locator(FixedLocator(shown))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(shown, [*map(format_epsilon, shown)], fontsize=8.5)


def _class(run: Run, label: npt.NDArray[np.int64]) -> str:
    return run.class_text(int(label), longest=11)  # what fits above a picture


def _picture(axis: Axes, image: npt.NDArray[Any], title: str = "", color: str = "0.25") -> None:
    pixels = np.moveaxis(np.clip(image, 0, 1), 0, -1)
    pixels = pixels if pixels.shape[-1] in (3, 4) else pixels.mean(-1)
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    if title:
        axis.set_title(title, fontsize=8, pad=2, color=color, fontweight="normal")
