"""Runs of many tasks that each cost a few milliseconds, and processes that carry them out."""

import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from foolbox_carescale.evaluate import (
    AttackConfig,
    DataConfig,
    Evaluation,
    ModelConfig,
    Results,
    evaluate,
)
from foolbox_carescale.evaluate.store import rows as store
from foolbox_carescale.evaluate.store.folder import RunFolder

SAMPLES = 6
HERE = "tests.evaluate.factories"  # not __main__, where this file runs as a program

ATTACKS = {
    "noise": AttackConfig("L2AdditiveUniformNoiseAttack", [0.2, 1.0]),
    "search": AttackConfig("L2DeepFoolAttack", [0.1, 2.0], params={"steps": 3, "overshoot": 0.5}),
    "pgd": AttackConfig("LinfPGD", [0.1], params={"steps": 2}),
}


class Brightness(torch.nn.Module):
    """Says 0 for dark images and 1 for bright ones."""

    def __init__(self, bias=0.0):
        super().__init__()
        self.bias = bias

    def forward(self, x):
        mean = x.flatten(1).mean(1) + self.bias
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def model(bias=0.0):
    return Brightness(bias).eval()


def dying(mark, after=30):
    """A model whose process ends after some answers: once, if it can leave a mark."""

    class Dying(Brightness):
        answers = 0

        def forward(self, x):
            self.answers += 1
            # 20 at most are asked for before its first task: twice for each sample, and a gradient
            if self.answers > after and (mark is None or not os.path.exists(mark)):
                if mark is not None:
                    Path(mark).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().forward(x)

    return Dying().eval()


def data(seed=0):
    generator = np.random.default_rng(seed)
    images = generator.random((SAMPLES, 1, 4, 4), dtype=np.float32)
    labels = (images.mean((1, 2, 3)) > 0.5).astype(np.int64)
    labels[-2:] = 1 - labels[-2:]  # samples that the model gets wrong
    return images, labels


def tiny(output, **changes):
    """A run of SAMPLES x 4 tasks, of which the second attack's have two epsilons each."""
    settings = {
        "model": ModelConfig(_target_=f"{HERE}.model"),
        "data": DataConfig(_target_=f"{HERE}.data"),
        "attacks": ATTACKS,
        "batch_size": 1,
        "threads": 1,
        "output": str(output),
    }
    return Evaluation(**{**settings, **changes})


def rows(folder, *, without=("seconds",)):
    """All that is stored but the time it took, in a fixed order."""
    table = Results.load(folder).table.drop_columns(list(without))
    return table.sort_by([("setting", "ascending"), ("sample", "ascending")]).to_pylist()


def computed(output, **changes):
    """Run it, and count the tasks that this process computed."""
    seen = []
    evaluate(tiny(output, **changes), on_progress=lambda progress: seen.append(progress.setting))
    return sum(setting is not None for setting in seen)


# What follows runs in a process of its own, which never ran autograd, so that it may fork.


def fork(function, *arguments, **changes):
    """The number of a process that calls a function; it ends with code 0 if that returns."""
    process = os.fork()
    if process:
        return process
    try:
        function(*arguments, **changes)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait(process):
    """How a process ended: its code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_at_random_moments(root, times):
    """Kill runs of some folders again and again; what was stored at each kill."""
    store.TASKS, store.ROWS = 3, 16
    chance, stored = random.Random(0), []
    began = time.perf_counter()
    assert wait(fork(computed, root / "reference")) == 0
    duration = time.perf_counter() - began
    folder = 0
    while len(stored) < times:
        process = fork(computed, root / f"killed{folder}")
        time.sleep(chance.uniform(0, duration))
        os.kill(process, signal.SIGKILL)
        if wait(process) == -signal.SIGKILL:
            stored.append(len(RunFolder(root / f"killed{folder}").stored()))
        else:  # it was faster
            folder += 1
    for number in range(folder + 1):
        assert wait(fork(computed, root / f"killed{number}")) == 0
    return stored


def readable(folder):
    """Count the rows that other programs find, and that Results finds; none is there twice."""
    counts = []
    files = sorted((folder / "results").glob("*.parquet"))
    for tables in ([pq.read_table(file) for file in files], [Results(folder).table]):
        keys = [
            key
            for table in tables
            for key in zip(table["setting"].to_pylist(), table["sample"].to_pylist(), strict=True)
        ]
        assert len(set(keys)) == len(keys)
        counts.append(len(keys))
    return counts


def kill_between_all_steps(root, steps):
    """Kill a run before each of the first calls that make or remove a file; how it looks then."""
    store.TASKS, store.ROWS = 3, 8

    def dying(step):
        left = [step]

        def counted(function):
            def call(*arguments, **keywords):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **keywords)

            return call

        os.fsync, os.link = counted(os.fsync), counted(os.link)
        Path.replace, Path.unlink = counted(Path.replace), counted(Path.unlink)
        computed(root / "steps")

    ends, found = [], []
    for step in range(1, steps + 1):
        ends.append(wait(fork(dying, step)))
        if RunFolder(root / "steps").stored():
            found.append(readable(root / "steps"))
    assert wait(fork(computed, root / "steps")) == 0
    return ends, found


def several_at_once(root):
    """Processes that share a folder: two without and two with shards."""

    def one(number, **changes):
        tasks = computed(root / "shared", **changes)
        (root / f"tasks{number}").write_text(str(tasks), encoding="utf-8")

    shards = [None, None, "0/2", "1/2"]
    running = [fork(one, i, shard=shard) for i, shard in enumerate(shards)]
    ends = [wait(process) for process in running]
    return ends, [int((root / f"tasks{i}").read_text(encoding="utf-8")) for i in range(4)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    # what is imported and looked up once is there in all that it forks
    with tempfile.TemporaryDirectory() as folder:
        computed(Path(folder) / "run", attacks={"noise": ATTACKS["noise"]})
    for line in sys.stdin:
        task, root, *numbers = json.loads(line)
        print(json.dumps(globals()[task](Path(root), *numbers)), flush=True)
