"""Measure the peak memory of every process of a run, for few and for many images.

    python -m experiments.scale_memory --output experiments/results

A small model classifies generated images of 3x224x224, two settings of FGSM, by each executor:
in one process, one shard of four, a process per device, and Ray. Each run is a process of its own;
the model notes the peak of the process that calls it, the run that of its own process.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from experiments.benchmarks.environment import describe
from foolbox_carescale.evaluate import (
    AttackConfig,
    DataConfig,
    Evaluation,
    ExecutorConfig,
    ModelConfig,
    evaluate,
)

HERE = "experiments.scale_memory"
GOAL = 100
RUNS = {
    "local": (ExecutorConfig(), None),
    "local, shard 1/4": (ExecutorConfig(), "1/4"),
    "devices=[cpu, cpu]": (ExecutorConfig(devices=["cpu", "cpu"]), None),
    "ray, 2 workers": (ExecutorConfig("ray", workers=2), None),
}


class Images(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Generated images, each made when it is asked for."""

    def __init__(self, count: int) -> None:
        self.targets = np.arange(count) % 10

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        pixels = np.random.default_rng(i).random((3, 224, 224), np.float32)
        return torch.from_numpy(pixels), int(self.targets[i])


class _Pooled(torch.nn.Module):
    def __init__(self, notes: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.AvgPool2d(16), torch.nn.Flatten(), torch.nn.Linear(588, 10)
        )
        self.notes = Path(notes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        note(self.notes, "worker")
        logits: torch.Tensor = self.layers(x)
        return logits


def model(notes: str) -> torch.nn.Module:
    """Return a model that notes the peak memory of its process."""
    return _Pooled(notes).eval()


def note(folder: Path, kind: str) -> None:
    """Write the peak memory of this process into a file of its own."""
    status = Path("/proc/self/status").read_text()  # getrusage counts what came before exec, too
    peak = re.search(r"VmHWM:\s+(\d+)", status)
    assert peak is not None
    (folder / f"{kind}-{os.getpid()}").write_text(peak[1])


def main(arguments: list[str] | None = None) -> None:
    """Measure each run in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--runs", choices=RUNS, nargs="+", default=[*RUNS])
    parser.add_argument("--run", choices=RUNS, help="in this process")
    parser.add_argument("--samples", type=int, help="of it")
    parser.add_argument("--folder", type=Path, help="of it")
    parser.add_argument("--output", type=Path, help="folder for scale_memory.md")
    options = parser.parse_args(arguments)
    if options.run:
        evaluate(evaluation(options.run, options.samples, options.batch, options.folder))
        note(options.folder, "driver")
        return
    command = f"python -m experiments.scale_memory --few {options.few} --many {options.many}"
    if options.runs != [*RUNS]:
        command += f" --runs {' '.join(map(repr, options.runs))}"
    lines = [
        "# Peak memory, by number of images",
        "",
        describe(("foolbox-carescale", "torch", "ray")) + ".",
        "",
        f"Images of 3x224x224 in batches of {options.batch}, two settings. Command: `{command}"
        f" --batch {options.batch}`. MiB of resident memory; of several workers the largest.",
        "",
        f"| run | process | {options.few} images | {options.many} images | difference | goal |",
        "|---|---|---|---|---|---|",
    ]
    for run in options.runs:
        few, many = (peaks(run, n, options.batch) for n in (options.few, options.many))
        for kind, least in few.items():
            more = many[kind] - least
            goal = f"< {GOAL}, {'met' if more < GOAL else 'missed'}"
            figures = f"{least:.0f} | {many[kind]:.0f} | {more:.0f}"
            lines.append(f"| {run} | {kind} | {figures} | {goal} |")
            print(lines[-1], flush=True)
    if options.output is not None:
        text = "\n".join(lines) + "\n"
        (options.output / "scale_memory.md").write_text(text, encoding="utf-8")


def peaks(run: str, samples: int, batch: int) -> dict[str, float]:
    """Return the peak memory of a run's own process and of its workers, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", HERE, "--run", run, "--folder", folder]
        command += ["--samples", str(samples), "--batch", str(batch)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return noted(Path(folder))


def noted(folder: Path) -> dict[str, float]:
    """Return the largest peak of each kind of process, in MiB."""
    found: dict[str, float] = {}
    for path in sorted(folder.glob("*-*")):
        kind, _, process = path.name.partition("-")
        if kind == "worker" and (folder / f"driver-{process}").exists():
            continue  # it computes itself
        found[kind] = max(found.get(kind, 0.0), int(path.read_text()) / 1024)
    return found


def evaluation(run: str, samples: int, batch: int, folder: Path) -> Evaluation:
    """Return the run."""
    executor, shard = RUNS[run]
    return Evaluation(
        model=ModelConfig(_target_=f"{HERE}.model", params={"notes": str(folder)}),
        data=DataConfig(_target_=f"{HERE}.Images", params={"count": samples}),
        attacks={"fgsm": AttackConfig("LinfFastGradientAttack", [0.01, 0.02])},
        samples=None,
        batch_size=batch,
        threads=1,
        executor=executor,
        shard=shard,
        output=str(folder / "run"),
    )


if __name__ == "__main__":
    main()
