"""Figures of a run, from its stored results and examples; drawn without a display."""

from __future__ import annotations

import math
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from foolbox_carescale.evaluate.config import norm_name
from foolbox_carescale.evaluate.results import Results

# Blues for ours, oranges for Foolbox's: told apart by colour-blind readers too, and by markers.
_SHADES = {
    "ours": ("#0b5394", "#4a90d9", "#12a3b4"),
    "foolbox": ("#d9580d", "#f4a259", "#8c510a"),
}
_MARKERS = "osD^vP"
_DPI = 130
_TICK_GAP = 0.14  # of the axis; what a label such as 0.0125 takes
_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": _DPI,
    "figure.dpi": _DPI,
}

Example = dict[str, npt.NDArray[Any]]


def curves(results: Results) -> Figure:
    """Robust accuracy by epsilon: a panel per norm, a line per attack."""
    summary = results.summary()
    orders = sorted({cell.p for cell in summary})
    lines = [len({c.attack for c in summary if c.p == p}) for p in orders]
    with mpl.rc_context(_STYLE):
        figure = Figure(
            figsize=(max(3.6 * len(orders), 5), 3.2 + 0.19 * max(lines)), layout="constrained"
        )
        panels = figure.subplots(1, len(orders), sharey=True, squeeze=False)[0]
        for panel, p in zip(panels, orders, strict=True):
            cells = [cell for cell in summary if cell.p == p]
            attacks = list(dict.fromkeys((cell.attack, cell.source) for cell in cells))
            families = list(dict.fromkeys(_family(*attack) for attack in attacks))
            panel.axhline(results.clean_accuracy, color="0.55", lw=1, ls=(0, (4, 3)), label="clean")
            for attack, source in attacks:
                points = [cell for cell in cells if cell.attack == attack]
                number = families.index(_family(attack, source))
                shades = _SHADES[source]
                panel.plot(
                    [cell.epsilon for cell in points],
                    [cell.robust_accuracy for cell in points],
                    label=attack,
                    color=shades[number % len(shades)],
                    marker=_MARKERS[number % len(_MARKERS)],
                    markersize=5,
                    lw=1.8,
                    ls="-" if source == "ours" else (0, (5, 1.5)),
                )
            panel.set_title(norm_name(p))
            panel.set_xscale("log")
            _label_epsilons(panel, sorted({cell.epsilon for cell in cells}))
            panel.set_xlabel("epsilon")
            panel.set_ylim(-0.03, 1.03)
            panel.grid(color="0.92")
            panel.legend(
                loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8.5, handlelength=3
            )
        panels[0].set_ylabel("robust accuracy")
        figure.suptitle(_subject(results), fontsize=11)
    return figure


def norms(results: Results) -> Figure:
    """Realised norm / epsilon, a histogram per attack over its samples and epsilons."""
    ratios, sources = results.column("norm_over_epsilon"), results.column("source")
    labels, orders = results.column("attack"), results.column("p")
    known = ~np.isnan(ratios)
    rows = sorted(dict.fromkeys(zip(orders.tolist(), labels.tolist(), strict=True)), key=_first)
    low = min(0.9, float(np.min(ratios[known], initial=1.0)))
    low = math.floor(low * 20) / 20
    high = max(1.02, float(np.max(ratios[known], initial=1.0)) * 1.02)
    width = (high - low) / 80
    # an edge half a bin above 1, so that what is exact within rounding falls into one bin
    edges = np.arange(1 + width / 2 - width * math.ceil((1 - low) / width + 1), high + width, width)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, 1.1 + 0.46 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for panel, (p, label) in zip(panels, rows, strict=True):
            chosen = known & (labels == label)
            source = str(sources[labels == label][0])
            color = _SHADES[source][0]
            counts, _ = np.histogram(ratios[chosen], edges)
            heights = counts / max(counts.max(), 1)
            panel.stairs(heights, edges, fill=True, color=color, alpha=0.85)
            panel.axvline(1, color="0.3", lw=0.8, ls=(0, (4, 3)), zorder=0)
            panel.set_ylim(0, 1.1)
            panel.yaxis.set_major_locator(NullLocator())
            panel.spines["left"].set_visible(False)
            panel.set_ylabel(
                f"{label}  ({norm_name(p)})", rotation=0, ha="right", va="center", fontsize=9
            )
            if chosen.any():
                text = f"mean {ratios[chosen].mean():.3f}\nmin {ratios[chosen].min():.3f}"
                place: Any = {"xycoords": "axes fraction", "va": "center"}
                panel.annotate(text, (1.01, 0.5), fontsize=8, color=color, **place)
        panels[-1].set_xlim(low, high)
        panels[-1].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        panels[-1].set_xlabel("realised norm of the clipped perturbation / epsilon")
        figure.suptitle("What is left of epsilon after the clip", fontsize=11, fontweight="bold")
    return figure


def grid(examples: list[Example], samples: int = 2) -> Figure:
    """Clean images, and for each attack the perturbed ones and the differences below them."""
    examples = [example for example in examples if len(example["label"])]
    samples = min(samples, *(len(example["label"]) for example in examples))
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
            _picture(axes[2 * row, 0], first["clean"][row], f"{first['label'][row]}")
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
                    f"{example['prediction'][row]}",
                    color="#b3001b" if fooled else "0.25",
                )
                difference = perturbed - clean
                scale = max(float(np.abs(difference).max()), 1e-12)
                _picture(axes[2 * row + 1, column], 0.5 + 0.5 * difference / scale)
        axes[0, 0].annotate("clean", (0.5, 1.25), xycoords="axes fraction", ha="center", fontsize=8)
        for column, example in enumerate(examples, start=1):
            words = str(example["attack"]).replace("_", "\n").replace("-", "\n")
            axes[0, column].annotate(
                f"{words}\nε = {float(example['epsilon']):g}",
                (0.5, 1.25),
                xycoords="axes fraction",
                ha="center",
                fontsize=8,
                color=_SHADES[str(example["source"])][0],
            )
    return figure


def _label_epsilons(panel: Axes, epsilons: list[float]) -> None:
    """Ticks at the epsilons themselves, as far as they do not crowd each other."""
    span = math.log(epsilons[-1] / epsilons[0]) or 1.0
    shown: list[float] = []
    for epsilon in epsilons:
        if not shown or math.log(epsilon / shown[-1]) / span > _TICK_GAP:
            shown.append(epsilon)
    panel.xaxis.set_major_locator(FixedLocator(shown))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(shown, [f"{epsilon:g}" for epsilon in shown], fontsize=8.5)


def _picture(axis: Axes, image: npt.NDArray[Any], title: str = "", color: str = "0.25") -> None:
    pixels = np.moveaxis(np.clip(image, 0, 1), 0, -1)
    pixels = pixels if pixels.shape[-1] in (3, 4) else pixels.mean(-1)
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    if title:
        axis.set_title(title, fontsize=8, pad=2, color=color, fontweight="normal")


def _family(attack: str, source: str) -> str:
    """What Foolbox's and our version of an attack share, if their labels say whose they are."""
    return attack.removeprefix(f"{source}_")


def _subject(results: Results) -> str:
    model, data = results.column("model")[0], results.column("data")[0]
    samples = len(np.unique(results.column("sample")))
    return f"{model} on {data}, {samples} samples"


def _first(row: tuple[float, str]) -> float:
    return row[0]
