"""Shared by the experiments: options, the bundled model with its data, the report."""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import torch
from foolbox.models import PyTorchModel

from experiments.benchmarks.environment import describe
from foolbox_carescale.engines.numba_cpu import arrays as cpu
from foolbox_carescale.evaluate.config.types import ModelConfig
from foolbox_carescale.evaluate.data.digits import digits
from foolbox_carescale.evaluate.models.loading import build_network

PACKAGES = ("torch", "torchvision", "foolbox", "eagerpy", "foolbox-carescale")
RESULTS = Path("experiments/results")
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    quick: bool
    output: Path | None


def options(doc: str, arguments: list[str] | None) -> Options:
    """``--quick`` and ``--output``; a full run writes into experiments/results by default."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a part of it, in seconds")
    parser.add_argument("--output", type=Path, help="folder for the .md, .csv and .png")
    parsed = parser.parse_args(arguments)
    return Options(parsed.quick, parsed.output or (None if parsed.quick else RESULTS))


def digits_network() -> torch.nn.Module:
    """The bundled classifier: images in [0, 1] to logits; no parameter takes a gradient."""
    network, _ = build_network(ModelConfig())
    return network.eval().requires_grad_(False)


def foolbox_model(network: torch.nn.Module) -> PyTorchModel:
    """The network as Foolbox's attacks take it."""
    return PyTorchModel(network, bounds=(0, 1), device="cpu")


def images_and_labels(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The bundled digits as tensors."""
    images, labels, _ = digits(split)  # type: ignore[arg-type]
    return torch.from_numpy(images), torch.from_numpy(labels)


def norm(change: torch.Tensor, p: float) -> torch.Tensor:
    """p-norm per sample, in float64, shape (N,)."""
    return torch.linalg.vector_norm(change.double().flatten(1), ord=p, dim=1)


def side_by_side(
    function: Callable[..., T], jobs: Iterable[Sequence[Any]], processes: int
) -> Iterator[T]:
    """Yield the result of the function for each job, in order.

    Small networks keep two processes with one thread busier than one with two.

    Args:
        function: Of a module.
        jobs: Its arguments.
        processes: How many at a time, on one thread each; one computes in this process.
    """
    if processes == 1:
        yield from (function(*job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context, _one_thread) as pool:
        pending = [pool.submit(function, *job) for job in jobs]
        for done in pending:
            yield done.result()


def _one_thread() -> None:
    torch.set_num_threads(1)
    cpu.set_num_threads(1)


def order(p: float) -> str:
    """P as text."""
    return "inf" if p == math.inf else f"{p:g}"


class Report:
    """Collects rows and text, and writes them.

    Args:
        name: Of the files, without suffix.
        title: First line.
        packages: Whose versions to note.
    """

    def __init__(self, name: str, title: str, packages: Sequence[str] = PACKAGES) -> None:
        self.name, self.title, self.packages = name, title, packages
        self.rows: list[dict[str, Any]] = []
        self.figure: Any = None
        self._started, self._load = time.perf_counter(), os.getloadavg()[0]

    def add(self, **row: Any) -> None:
        """Keep one line of the CSV, and show it."""
        self.rows.append(row)
        shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        print(", ".join(shown), flush=True)

    def write(self, sections: Iterable[str], output: Path | None) -> str:
        """Print the Markdown; with a folder also write it, the CSV, and the figure."""
        head = (
            f"Measured {describe(self.packages)}; {time.perf_counter() - self._started:.0f} s for "
            f"all of it, load average {self._load:.1f} before, {os.getloadavg()[0]:.1f} after."
        )
        text = "\n\n".join([f"# {self.title}", head, *sections]) + "\n"
        print(f"\n{text}")
        if output is None:
            return text
        output.mkdir(parents=True, exist_ok=True)
        (output / f"{self.name}.md").write_text(text)
        with (output / f"{self.name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
                for row in self.rows
            )
        if self.figure is not None:
            self.figure.savefig(output / f"{self.name}.png", dpi=110)
            plt.close(self.figure)
        return text


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
