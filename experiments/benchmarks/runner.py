"""Measure the time and memory that the runner adds to model and attack.

    python -m experiments.benchmarks.runner --output experiments/results

Each run is a process of its own. Time: of a run's seconds, those in the attack, in the model's
answers to clean, perturbed and rounded images, in the setup (reading data, loading the model and
diagnosing it), and all others: the runner's own (seeds, norms, hashes, rows, files, fsync, reading
back, diagnostics of the results). Memory: the process's greatest resident set, in runs of one
sample per task.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.environment import describe
from foolbox_carescale.evaluate import AttackConfig, DataConfig, Evaluation, ModelConfig, evaluate
from foolbox_carescale.evaluate.runner import run as runner_module
from foolbox_carescale.evaluate.runner.executors.local import LocalExecutor
from foolbox_carescale.evaluate.runner.worker import Worker

GOALS = {"default": 0.03, "224": 0.01}
STEPS, IMAGES = 20, 8


def main() -> None:
    """Measure each case in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--case", choices=("default", "224", "tasks"), help="in this process")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tasks")
    parser.add_argument("--output", type=Path, help="folder for runner.md")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(_measure(arguments.case, arguments.tasks)))
        return
    sizes = (100, 1000) if arguments.quick else (1000, 10000)
    lines = [
        "# The runner's own cost",
        "",
        describe(("foolbox-carescale", "foolbox", "torch", "pyarrow")) + ", one thread.",
        "",
        "| run | tasks | KiB per task | whole, s | setup, s | attack, s | model, s | own, s"
        " | own / whole | goal |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    names = {"default": "`carescale evaluate`", "224": f"ResNet-18, 224x224, {STEPS} steps of PGD"}
    for case, name in names.items():
        found = _in_process(case, 0)
        share = found["own"] / found["whole"]
        seconds = [found[key] for key in ("whole", "setup", "attack", "model", "own")]
        goal = f"< {GOALS[case]:.0%}, {'met' if share < GOALS[case] else 'missed'}"
        settings = [name, found["tasks"], f"{found['stored']:.1f}", *(f"{s:.2f}" for s in seconds)]
        lines.append("| " + " | ".join(map(str, [*settings, f"{share:.2%}", goal])) + " |")
    lines += [
        "",
        "| tiny tasks | peak memory, MiB | ms per task, all | ms per task, own |",
        "|---|---|---|---|",
    ]
    for tasks in sizes:
        found = _in_process("tasks", tasks)
        each = [1000 * found[key] / found["tasks"] for key in ("whole", "own")]
        lines.append(f"| {found['tasks']} | {found['peak']:.1f} | {each[0]:.2f} | {each[1]:.2f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "runner.md").write_text(text, encoding="utf-8")


def brightness() -> torch.nn.Module:
    """A model that costs next to nothing."""

    class Brightness(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = x.flatten(1).mean(1)
            return torch.stack([0.5 - mean, mean - 0.5], 1)

    return Brightness().eval()


def grey(count: int) -> tuple[Any, Any]:
    """Small images, dark and bright in turns."""
    levels = np.tile([0.2, 0.8], count)[:count]
    images = np.broadcast_to(levels[:, None, None, None], (count, 1, 4, 4))
    return images.astype(np.float32), (levels > 0.5).astype(np.int64)


def resnet() -> torch.nn.Module:
    """An untrained ResNet-18: its arithmetic costs what a trained one's does."""
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


def photographs() -> tuple[Any, Any]:
    """Random images with the labels that ``resnet`` gives them, so that all are attacked."""
    images = np.random.default_rng(0).random((IMAGES, 3, 224, 224), dtype=np.float32)
    with torch.no_grad():
        return images, resnet()(torch.from_numpy(images)).argmax(1).numpy()


def _run_of(case: str, tasks: int, output: str) -> Evaluation:
    here = "experiments.benchmarks.runner"
    if case == "default":
        return Evaluation(threads=1, output=output)
    if case == "224":
        return Evaluation(
            model=ModelConfig(_target_=f"{here}.resnet"),
            data=DataConfig(_target_=f"{here}.photographs"),
            attacks={
                "l2": AttackConfig("L2ClipAwarePGD", [0.5, 1.0], params={"steps": STEPS}),
                "linf": AttackConfig("LinfClipAwarePGD", [0.01], params={"steps": STEPS}),
            },
            threads=1,
            output=output,
        )
    epsilons = np.linspace(0.01, 1, 10).round(4).tolist()
    return Evaluation(
        model=ModelConfig(_target_=f"{here}.brightness"),
        data=DataConfig(_target_=f"{here}.grey", params={"count": tasks // len(epsilons)}),
        attacks={"noise": AttackConfig("LinfAdditiveUniformNoiseAttack", epsilons)},
        samples=None,
        batch_size=1,
        threads=1,
        output=output,
    )


def _in_process(case: str, tasks: int) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "experiments.benchmarks.runner"]
    done = subprocess.run(
        [*command, "--case", case, "--tasks", str(tasks)], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _measure(case: str, tasks: int) -> dict[str, float]:
    spent = {"setup": 0.0, "attack": 0.0, "model": 0.0}
    inside: list[str] = []

    def timed(owner: Any, name: str, part: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            if inside:  # the setup asks the model too
                return original(*arguments, **keywords)
            inside.append(part)
            began = time.perf_counter()
            try:
                return original(*arguments, **keywords)
            finally:
                spent[part] += time.perf_counter() - began
                inside.pop()

        setattr(owner, name, call)

    timed(runner_module, "_resolve", "setup")
    timed(LocalExecutor, "start", "setup")
    timed(Worker, "_attack", "attack")
    timed(Worker, "_answers", "model")
    done = 0

    def count(progress: runner_module.Progress) -> None:
        nonlocal done
        done = progress.done

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        evaluate(_run_of(case, tasks, f"{folder}/run"), on_progress=count)
        whole = time.perf_counter() - began
        stored = sum(part.stat().st_size for part in Path(folder).glob("run/results/*"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        **spent,
        "whole": whole,
        "own": whole - sum(spent.values()),
        "tasks": done,
        "peak": peak,
        "stored": stored / 1024 / done,
    }


if __name__ == "__main__":
    main()
