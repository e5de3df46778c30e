"""Measure how images are read: memory, how often each is decoded, and images per second.

    python -m experiments.loading --output experiments/results
    python -m experiments.loading --images 100 800

Memory: a run of one gradient step on generated images of 224 pixels, in a process of its own for
each number of images. Decodes: of the same run, alone and in shards. Images per second: JPEG files
of 500 x 400 pixels, resized and cropped to 224, with and without threads; on cores that are idle.
The cases alternate. Two independent processes show what the two cores can deliver.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from experiments.benchmarks.environment import describe
from foolbox_carescale.evaluate import AttackConfig, DataConfig, Evaluation, ModelConfig, evaluate
from foolbox_carescale.evaluate.data.sources import open_data
from foolbox_carescale.evaluate.runner.completion import Progress

HERE = "experiments.loading"
BATCH = 50
SIDE = 224
SHARDS = (7, 32)
FILES, SECONDS, ROUNDS = 200, 3, 9
TWICE = "two processes without threads"

DECODED: Counter[int] = Counter()


class Generated:
    """Images made from their numbers, which counts how often each is."""

    def __init__(self, count: int) -> None:
        self.targets = np.arange(count) % 2

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        DECODED[i] += 1
        small = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return Image.fromarray(small).resize((SIDE, SIDE)), int(self.targets[i])


def model() -> torch.nn.Module:
    """A linear model of the mean colours."""
    torch.manual_seed(0)
    layers = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2)
    return torch.nn.Sequential(*layers).eval()


def evaluation(count: int, folder: Path, shard: str | None = None) -> Evaluation:
    """One gradient step on all images."""
    return Evaluation(
        model=ModelConfig(_target_=f"{HERE}.model"),
        data=DataConfig(_target_=f"{HERE}.Generated", params={"count": count}),
        attacks={"fgm": AttackConfig("LinfFastGradientAttack", [0.01])},
        samples=None,
        batch_size=BATCH,
        device="cpu",
        threads=1,
        shard=shard,
        output=str(folder),
    )


def measure_run(count: int, shards: int) -> dict[str, float]:
    """Return decodes until the first task, of all tasks per image, and the most memory in MiB."""
    decoded = importlib.import_module(HERE).DECODED  # of the module that the config names
    decoded.clear()
    first: list[int] = []
    of_tasks = 0
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(shards):
            probed: list[int] = []

            def follow(progress: Progress, probed: list[int] = probed) -> None:
                if progress.setting is None:  # last when the model was probed
                    probed[:] = [decoded.total()]
                if progress.done == 1 and shards == 1:
                    first.append(decoded.total())

            evaluate(
                evaluation(
                    count, Path(folder) / "run", None if shards == 1 else f"{shard}/{shards}"
                ),
                on_progress=follow,
            )
            of_tasks += decoded.total() - probed[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"first": (first or [0])[0], "decodes": of_tasks / count, "peak": peak}


def measure_rate(workers: int, folder: Path) -> dict[str, float]:
    """Return images per second from files, with batches decoded ahead as in a run."""
    config = DataConfig("folder", root=str(folder), size=SIDE, resize=256, workers=workers)
    data = open_data(config)
    batches: list[npt.NDArray[np.int64]] = np.split(np.arange(len(data)), len(data) // 20)
    data.batch(batches[-1])
    print("ready", flush=True)
    sys.stdin.readline()  # so that processes begin together
    images, began = 0, time.perf_counter()
    for number in itertools.count():
        images += len(data.batch(batches[number % len(batches)]))
        for ahead in (1, 2):
            data.prefetch(batches[(number + ahead) % len(batches)])
        if time.perf_counter() - began > SECONDS:
            break
    rate = images / (time.perf_counter() - began)
    data.close()
    return {"rate": rate}


def write_files(folder: Path) -> None:
    """Write JPEG files of smooth random images, in two classes."""
    for i in range(FILES):
        (folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
        small = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((500, 400), Image.Resampling.BICUBIC)
        image.save(folder / str(i % 2) / f"{i}.jpg", quality=92)


def main(arguments: list[str] | None = None) -> None:
    """Measure each case in a process of its own, and print tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 8000])
    parser.add_argument("--output", type=Path, help="folder for loading.md")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.case:
        kind, argument = options.case
        if kind == "rate":
            measured = measure_rate(options.images[0], Path(argument))
        else:
            measured = measure_run(options.images[0], int(argument))
        print(json.dumps(measured))
        return
    packages = ["foolbox-carescale", "numpy", "torch", "Pillow"]
    lines = ["# How images are read", "", describe(packages), ""]
    lines += [
        f"Batches of {BATCH} images of {SIDE} pixels. Before its first task, each process also",
        "decodes one batch to diagnose the model, and 8 images to identify the run. Decodes are",
        "counted until the first task has ended, and of all tasks of all shards, per image.",
        "",
        "| images | shards | decodes until the first task | decodes per image | most memory, MiB |",
        "|---|---|---|---|---|",
    ]
    for count, shards in [
        *((n, 1) for n in options.images),
        *((options.images[0], n) for n in SHARDS),
    ]:
        m = _in_process(count, "run", str(shards))
        first = f"{m['first']:.0f}" if shards == 1 else ""
        lines.append(f"| {count} | {shards} | {first} | {m['decodes']:.2f} | {m['peak']:.0f} |")
    lines += [
        "",
        f"Medians of {ROUNDS} rounds. The goal for two threads: 1.8 times one thread.",
        "",
        "| threads that decode | images per second | times one thread in the same round |",
        "|---|---|---|",
    ]
    for case, rounds in measure_rates().items():
        rate, times = (statistics.median(column) for column in zip(*rounds, strict=True))
        lines.append(f"| {case} | {rate:.0f} | {times:.2f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "loading.md").write_text(text, encoding="utf-8")


def measure_rates() -> dict[str, list[tuple[float, float]]]:
    """Return, per case, for each round: images per second, and their ratio to one thread's."""
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        cases = {str(workers): [workers] for workers in (0, 1, 2)} | {TWICE: [0, 0]}
        for number in range(ROUNDS):
            order = list(cases)[:: -1 if number % 2 else 1]
            rates = {
                case: sum(one["rate"] for one in _in_processes(cases[case], "rate", folder))
                for case in order
            }
            for case in cases:
                found.setdefault(case, []).append((rates[case], rates[case] / rates["1"]))
    return found


def _in_process(number: int, *case: str) -> dict[str, float]:
    return _in_processes([number], *case)[0]


def _in_processes(numbers: list[int], *case: str) -> list[dict[str, float]]:
    command = [sys.executable, "-W", "ignore", "-m", HERE, "--case", *case, "--images"]
    started = [
        subprocess.Popen(
            [*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for number in numbers
    ]
    if case[0] == "rate":
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
    printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(1)
    return [json.loads(text.splitlines()[-1]) for text in printed]


if __name__ == "__main__":
    main()
