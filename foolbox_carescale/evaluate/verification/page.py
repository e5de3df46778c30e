"""The outcome of a verification: a table for the console, and files."""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from ...core.fractions import format_epsilon
from ..config.types import norm_name
from ..errors import StorageError
from ..report.pictures import halve, to_png
from .measure import Verification, as_images
from .runs import VerifiedSetting

Array = npt.NDArray[Any]

SHOWN = 24
"""Pictures of a page: those with the largest excess first."""

SIDE = 128
"""Pixels per side above which pictures are halved."""


def print_verification(found: Verification, console: Console) -> None:
    """Print the norms, the predictions, and each claim with whether it holds."""
    summary = found.to_dict()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("norm", "mean", "least", "median", "greatest"):
        table.add_column(column, justify="left" if column == "norm" else "right")
    for name, spread in summary["norms"].items():
        table.add_row(name, *map(_shown, spread.values()))
    console.print(table)
    lines = [f"{summary['samples']} samples, {summary['unchanged']} of them not perturbed"]
    for key, text in _ACCURACIES.items():
        if summary[key] is not None:
            lines.append(f"{text}: {summary[key]:.4f}")
    for check in found.checks:
        lines.append(f"{'holds' if check.holds else 'FAILS'}: {check.text}")
    for line in lines:
        console.print(line, highlight=False, markup=False)


_ACCURACIES = {
    "clean_accuracy": "clean accuracy",
    "robust_accuracy": "robust accuracy (correct clean and perturbed)",
    "robust_accuracy_after_8_bits": "the same after rounding to 8 bits",
}


def _shown(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.6g}"


def print_settings(settings: Sequence[VerifiedSetting], console: Console) -> None:
    """Print a row per attack and epsilon of a run, and each claim that fails."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ("attack", "claim", "samples", "greatest norm", "fooled", "after 8 bits", "")
    for column in columns:
        table.add_column(column, justify="left" if column in ("attack", "claim", "") else "right")
    for one in settings:
        found, name = one.found, norm_name(one.found.p)
        fooled, rounded = (
            "" if values is None else str(np.count_nonzero(values != found.labels))
            for values in (found.adversarial, found.rounded)
        )
        table.add_row(
            one.attack,
            f"{name} {format_epsilon(found.epsilon)}",
            str(len(found.excess)),
            f"{found.norms[name].max():.6g}",
            fooled,
            rounded,
            "holds" if found.holds else "FAILS",
        )
    console.print(table)
    for one in settings:
        for check in one.found.checks:
            if not check.holds:
                line = f"FAILS: {one.attack}: {check.text}"
                console.print(line, highlight=False, markup=False)


def write_verification(
    found: Verification, clean: Any, adversarial: Any, folder: Path
) -> list[Path]:
    """Write ``verification.json``, a row per sample as CSV, and a page with pictures.

    Args:
        found: What ``verify`` returned
        clean: for these images,
        adversarial: and these.
        folder: Where to; made where it is missing.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        return _write(found, clean, adversarial, folder)
    except OSError as error:
        raise StorageError(
            f"output: {folder} cannot be written ({error.strerror or error}); choose another folder"
        ) from error


def _write(found: Verification, clean: Any, adversarial: Any, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"verification.{kind}" for kind in ("json", "csv", "html")]
    paths[0].write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
    columns: dict[str, Array | None] = {
        **found.norms,
        "excess": found.excess,
        "outside": found.outside,
        "finite": found.finite,
        "label": found.labels,
        "clean_prediction": found.clean,
        "adversarial_prediction": found.adversarial,
        "prediction_after_8_bits": found.rounded,
    }
    known = {name: values.tolist() for name, values in columns.items() if values is not None}
    with paths[1].open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["sample", *known])
        writer.writerows(enumerate_rows(known))
    paths[2].write_text(_page(found, clean, adversarial), encoding="utf-8")
    return paths


def enumerate_rows(columns: dict[str, list[Any]]) -> list[list[Any]]:
    """Return the rows of columns, each with its number first."""
    return [[number, *row] for number, row in enumerate(zip(*columns.values(), strict=True))]


def _page(found: Verification, clean: Any, adversarial: Any) -> str:
    x, z = as_images(clean, "clean"), as_images(adversarial, "adversarial")
    summary = found.to_dict()
    checks = "".join(
        f"<li class='{'holds' if check.holds else 'fails'}'>{html.escape(check.text)}</li>"
        for check in found.checks
    )
    rows = "".join(
        f"<tr><th>{name}</th>" + "".join(f"<td>{_shown(value)}</td>" for value in spread.values())
        for name, spread in summary["norms"].items()
    )
    accuracies = "".join(
        f"<p>{text}: {summary[key]:.4f}</p>"
        for key, text in _ACCURACIES.items()
        if summary[key] is not None
    )
    figures = ""
    if x.ndim == 4 and x.shape[1] in (1, 3):
        order = np.argsort(-np.where(found.finite, found.excess, np.inf), kind="stable")[:SHOWN]
        figures = "".join(_figure(found, int(i), x, z) for i in sorted(order.tolist()))
    template = resources.files(__package__).joinpath("page.html.template")
    return Template(template.read_text(encoding="utf-8")).substitute(
        claim=f"{norm_name(found.p)} {format_epsilon(found.epsilon)}",
        verdict="All claims hold." if found.holds else "A claim does not hold.",
        samples=summary["samples"],
        unchanged=summary["unchanged"],
        checks=checks,
        rows=rows,
        accuracies=accuracies,
        figures=figures,
    )


def _figure(found: Verification, i: int, x: Array, z: Array) -> str:
    clean, perturbed = (_unit_image(images[i]) for images in (x, z))
    change = perturbed - clean
    scale = max(float(np.abs(change).max()), 1e-12)
    words = f"sample {i}: {found.norms[norm_name(found.p)][i]:.6g}"
    if found.adversarial is not None and found.labels is not None:
        words += f", class {found.labels[i]} → {found.adversarial[i]}"
    pictures = {
        "clean": to_png(_small(clean)),
        "adversarial": to_png(_small(perturbed)),
        f"difference, {0.5 / scale:.2g} times": to_png(_small(0.5 + 0.5 * change / scale)),
    }
    shown = "".join(
        f"<span><img src='{source}' alt='{name}'>{name}</span>" for name, source in pictures.items()
    )
    excess = " class='fails'" if found.excess[i] else ""
    return f"<figure><figcaption{excess}>{words}</figcaption><div>{shown}</div></figure>"


def _unit_image(image: Array) -> Array:
    scaled = image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
    unit: Array = np.clip(np.nan_to_num(scaled), 0, 1)
    return unit


def _small(image: Array) -> Array:
    times = 0
    while max(image.shape[1:]) >> times > SIDE:
        times += 1
    return halve(image, times)
