"""Count how often each image is decoded where shards share a run.

    python -m experiments.scale_shards --output experiments/results

A linear model classifies generated images of 16 pixels. Each shard is computed by a call of
``evaluate``, one after the other, and the data set counts how often it is asked for a sample.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import tempfile
from pathlib import Path

import numpy as np
import torch

from experiments.benchmarks.environment import describe
from foolbox_carescale.evaluate import AttackConfig, DataConfig, Evaluation, ModelConfig, evaluate

HERE = "experiments.scale_shards"
DECODED: collections.Counter[int] = collections.Counter()


class Images(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Generated images, of 16 pixels and one of ten classes."""

    def __init__(self, count: int) -> None:
        self.images = np.random.default_rng(0).random((count, 1, 4, 4), dtype=np.float32)
        self.targets = np.arange(count) % 10

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        DECODED[i] += 1
        return torch.from_numpy(self.images[i]), int(self.targets[i])


def model() -> torch.nn.Module:
    """Return a linear classifier of 16 pixels."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10)).eval()


def main(arguments: list[str] | None = None) -> None:
    """Count for each number of shards, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 7, 8, 32, 256])
    parser.add_argument("--output", type=Path, help="folder for scale_shards.md")
    options = parser.parse_args(arguments)
    lines = [
        "# Decoded images, by number of shards",
        "",
        describe(("foolbox-carescale", "torch")) + ".",
        "",
        f"{options.samples} images in batches of {options.batch}, two settings. Command:"
        f" `python -m experiments.scale_shards --samples {options.samples} --batch"
        f" {options.batch}`. A pass is one decode of each image.",
        "",
        "| shards | decodes | passes | images not decoded |",
        "|---|---|---|---|",
    ]
    decoded = importlib.import_module(HERE).DECODED  # this file runs as another module
    for shards in options.shards:
        decoded.clear()
        with tempfile.TemporaryDirectory() as folder:
            for shard in range(shards):
                evaluate(evaluation(options, Path(folder) / "run", f"{shard}/{shards}"))
        decodes, missed = sum(decoded.values()), options.samples - len(decoded)
        passes = decodes / options.samples
        lines.append(f"| {shards} | {decodes} | {passes:.3f} | {missed} |")
        print(lines[-1], flush=True)
    if options.output is not None:
        text = "\n".join(lines) + "\n"
        (options.output / "scale_shards.md").write_text(text, encoding="utf-8")


def evaluation(options: argparse.Namespace, folder: Path, shard: str) -> Evaluation:
    """Return one shard of the run."""
    return Evaluation(
        model=ModelConfig(_target_=f"{HERE}.model"),
        data=DataConfig(_target_=f"{HERE}.Images", params={"count": options.samples}),
        attacks={"fgsm": AttackConfig("LinfFastGradientAttack", [0.05, 0.1])},
        samples=None,
        batch_size=options.batch,
        threads=1,
        shard=shard,
        output=str(folder),
    )


if __name__ == "__main__":
    main()
