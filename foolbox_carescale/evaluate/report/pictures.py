"""Stored examples as pictures inside a page: PNG, each image once, within a budget."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..config.types import norm_name
from ..store.folder import RunFolder
from .aggregate import Run

BUDGET = 2_000_000
"""Characters that all pictures of a page may take, so that it opens at once."""

_SIZES = ((0, 4), (0, 2), (0, 1), (1, 2), (1, 1), (2, 2), (2, 1), (3, 1), (4, 1), (5, 1))
# how often halved, and how many samples: what is tried, the last whatever it takes

Array = npt.NDArray[Any]


def browser(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the clean images of each run, and what each attack made of them.

    Images are halved, and samples left out, until they fit the budget; ``shown`` and ``size``
    say so.
    """
    examples = [of_images(run) for run in runs]
    sizes = [e["clean"].shape[-1] for one in examples for e in one]
    if not sizes:
        return {"runs": [], "side": 0, "shown": 0}
    side = max(sizes)
    attacks = sum(len(one) for one in examples)
    each = _typical(next(e for one in examples for e in one))
    made: list[dict[str, Any]] = []
    halved = 0
    for halved, samples in _SIZES:
        expected = samples * (2 * attacks + len(runs)) * each / 4**halved
        if expected <= BUDGET or halved == _SIZES[-1][0]:
            pairs = zip(runs, examples, strict=True)
            made = [_run(run, one, samples, halved) for run, one in pairs]
            if _length(made) <= BUDGET:
                break
    return {"runs": made, "side": side, "shown": side >> halved}


def of_images(run: Run) -> list[dict[str, Array]]:
    """Return the stored examples of a run that can be drawn: one or three channels, first.

    Pixels that are not a number, which an attack may return, are black.
    """
    examples = RunFolder(run.results.folder).read_examples()
    return [
        {**e, **{name: np.clip(np.nan_to_num(e[name]), 0, 1) for name in ("clean", "perturbed")}}
        for e in examples
        if len(e["label"]) and e["clean"].ndim == 4 and e["clean"].shape[1] in (1, 3)
    ]


def _typical(example: dict[str, Array]) -> float:
    """Return the characters of one picture in full size."""
    clean, perturbed = example["clean"][0], example["perturbed"][0]
    return float(np.mean([len(to_png(image)) for image in (perturbed, 0.5 + perturbed - clean)]))


def _run(run: Run, examples: list[dict[str, Array]], samples: int, halved: int) -> dict[str, Any]:
    by_image: dict[bytes, dict[str, Any]] = {}
    for example in examples:
        for i in range(len(example["label"])):
            clean = example["clean"][i]
            key = clean.tobytes()
            if key not in by_image:
                if len(by_image) >= samples:
                    continue
                by_image[key] = {
                    "label": run.class_text(int(example["label"][i])),
                    "clean": to_png(halve(clean, halved)),
                    "attacks": [],
                }
            perturbed = example["perturbed"][i]
            change = halve(perturbed - clean, halved)
            scale = max(float(np.abs(change).max()), 1e-12)
            by_image[key]["attacks"].append(
                {
                    "attack": str(example["attack"]),
                    "library": str(example["library"]),
                    "norm": norm_name(float(example["p"])),
                    "epsilon": float(example["epsilon"]),
                    "prediction": run.class_text(int(example["prediction"][i])),
                    "adversarial": to_png(halve(perturbed, halved)),
                    "difference": to_png(0.5 + 0.5 * change / scale),
                    "largest": float(np.abs(perturbed - clean).max()),
                }
            )
    return {"name": run.name, "samples": list(by_image.values())}


def halve(image: Array, times: int) -> Array:
    """Average 2 x 2 pixels, as often as asked; odd rows and columns are cut off."""
    for _ in range(times):
        c, h, w = image.shape
        if min(h, w) < 2:
            return image
        even = image[:, : h // 2 * 2, : w // 2 * 2]
        image = even.reshape(c, h // 2, 2, w // 2, 2).mean((2, 4))
    return image


def to_png(image: Array) -> str:
    """Return an image in [0, 1], channels first, as a data URL."""
    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    pixels = np.moveaxis(pixels, 0, -1)
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _length(made: list[dict[str, Any]]) -> int:
    return sum(
        len(sample["clean"])
        + sum(len(a["adversarial"]) + len(a["difference"]) for a in sample["attacks"])
        for run in made
        for sample in run["samples"]
    )
