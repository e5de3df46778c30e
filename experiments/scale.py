"""Measure a run of very many tasks: killed again and again, resumed, reported, queried.

    python -m experiments.scale --output experiments/results
    python -m experiments.scale --samples 1280000 --settings 2 --real --output results

A linear model classifies generated images of 16 pixels, and each setting is one gradient step at
another epsilon: next to nothing is computed, so that the runner and the run folder are what is
measured. Only the first batch and the last hundredth of the batches are computed, unless ``--real``
is given; rows of the others are made from those of the first, and stored by ``RunFolder.write``, as
the runner does. Processes that store (or compute) are killed by SIGKILL at random moments, the last
one at 99% of the tasks. Each measurement is a process of its own; seconds are those of its
processor, without imports, which are a line of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from experiments.benchmarks.environment import describe
from foolbox_carescale.evaluate import (
    AttackConfig,
    DataConfig,
    Evaluation,
    ModelConfig,
    Results,
    evaluate,
)
from foolbox_carescale.evaluate.runner.completion import Progress
from foolbox_carescale.evaluate.runner.tasks import Task, Tasks, make_settings
from foolbox_carescale.evaluate.store.folder import RunFolder
from foolbox_carescale.evaluate.store.rows import TASKS
from foolbox_carescale.evaluate.store.schema import SCHEMA, TaskResult

HERE = "experiments.scale"
GOALS = {"resume": 5.0, "report": 15.0, "memory": 300.0, "query": 0.5}
SECONDS = 3.0  # that a process is left alive on average


def main(arguments: list[str] | None = None) -> None:
    """Measure each case in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--settings", type=int, default=80)
    parser.add_argument("--batch", type=int, default=100, help="samples of a task")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--real", action="store_true", help="compute all tasks")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--folder", type=Path, help="where the runs are kept; default: nowhere")
    parser.add_argument("--output", type=Path, help="folder for scale.md, or scale_real.md")
    parser.add_argument("--case", choices=CASES, help="in this process")
    options = parser.parse_args(arguments)
    if options.case:
        print(json.dumps(CASES[options.case](options)), flush=True)
        return
    with tempfile.TemporaryDirectory() as temporary:
        lines = _measure(options, options.folder or Path(temporary) / "run")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        name = "scale_real.md" if options.real else "scale.md"
        (options.output / name).write_text(text, encoding="utf-8")


def model() -> torch.nn.Module:
    """Return a linear classifier of 16 pixels."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10)).eval()


def images(count: int) -> tuple[Any, Any]:
    """Return generated images with the labels that ``model`` gives them, but for a fifth."""
    made = np.random.default_rng(0).random((count, 1, 4, 4), dtype=np.float32)
    with torch.no_grad():
        labels = model()(torch.from_numpy(made)).argmax(1).numpy()
    labels[::5] = (labels[::5] + 1) % 10
    return made, labels


def evaluation(options: argparse.Namespace) -> Evaluation:
    """Return the run that is measured."""
    epsilons = np.linspace(0.001, 0.2, options.settings).round(5).tolist()
    return Evaluation(
        model=ModelConfig(_target_=f"{HERE}.model"),
        data=DataConfig(_target_=f"{HERE}.images", params={"count": options.samples}),
        attacks={"fgsm": AttackConfig("LinfFastGradientAttack", epsilons)},
        samples=None,
        batch_size=options.batch,
        threads=1,
        output=str(options.folder),
    )


def _measure(options: argparse.Namespace, folder: Path) -> list[str]:
    killed, resumed, same, report, query = (
        _case(case, options, folder) for case in ("kill", "resume", "compare", "report", "query")
    )
    files = [len(list((folder / name).iterdir())) for name in ("results", "tasks")]
    tasks = -(-options.samples // options.batch) * options.settings

    def judged(value: float, goal: str, unit: str) -> str:
        return f"<= {GOALS[goal]:g} {unit}, {'met' if value <= GOALS[goal] else 'missed'}"

    kept = (
        f"Each of {same['rows']} rows was there once"
        if options.real
        else f"Of {same['rows']} rows {same['different']} differ from what was stored"
    )
    command = f"--samples {options.samples} --settings {options.settings} --kills {options.kills}"
    made = "computed" if options.real else "stored by `RunFolder.write`, but for 1%, computed"
    return [
        "# A run of very many tasks",
        "",
        describe(("foolbox-carescale", "torch", "pyarrow", "duckdb")) + ", one thread, load"
        f" {os.getloadavg()[0]:.1f} at the end.",
        "",
        f"{tasks} tasks of {options.batch} samples, {options.settings} settings, {query['rows']}"
        f" rows, {made}: a linear model, 16 pixels, one gradient step. Command:"
        f" `python -m experiments.scale {command}{' --real' * options.real}`.",
        "",
        f"The run was killed {killed['kills']} times at random moments, {killed['compacting']} of"
        f" them while tasks were compacted, and once more at {killed['done'] / tasks:.1%} of its"
        f" tasks, with {killed['waiting']} tasks not compacted. In the end there were {files[0]}"
        f" files in `results/` and {files[1]} in `tasks/`, with every task once. {kept}.",
        "",
        "| measurement | figure | goal |",
        "|---|---|---|",
        f"| resume at 99%, until the first missing task begins | {resumed['cpu']:.2f} s of a"
        f" processor | {judged(resumed['cpu'], 'resume', 's')} |",
        f"| report: console, page, tables, figures | {report['cpu']:.2f} s of a processor"
        f" | {judged(report['cpu'], 'report', 's')} |",
        f"| the same, peak memory above its start | {report['memory']:.0f} MiB"
        f" | {judged(report['memory'], 'memory', 'MiB')} |",
        f"| diagnostics of the results | {report['diagnostics']:.2f} s of a processor | |",
        f"| DuckDB: robust accuracy by attack and epsilon | {query['wall']:.2f} s"
        f" | {judged(query['wall'], 'query', 's')} |",
        f"| imports, in each process that computes | {resumed['imports']:.1f} s of a processor | |",
    ]


def _case(case: str, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", HERE, "--case", case, "--folder", str(folder)]
    for name in ("samples", "settings", "batch", "kills", "seed"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--real"] * options.real
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(case, found, file=sys.stderr)
    return found


def _kill(options: argparse.Namespace) -> dict[str, float]:
    """Start and kill processes, the last at 99% of the tasks; how the folder was at the kills."""
    moments = random.Random(options.seed)
    compacting = kills = 0
    # the folder, and its first batch; a process that has run autograd may not fork
    assert _wait(_fork(_compute, options, options.settings)) == 0
    tasks, rows = _tasks(options), _first_batch(options)
    while True:
        last = kills == options.kills
        process = _fork(_store, options, tasks, rows)
        if not last:
            time.sleep(moments.uniform(0, 2 * SECONDS))
            os.kill(process, signal.SIGKILL)
        ended = _wait(process)
        assert ended == -signal.SIGKILL, ended
        store = RunFolder(options.folder)
        store.record()
        waiting = set(store.waiting())
        # so many that it had begun to compact, with results not there yet, or there twice
        unfinished = any((options.folder / ".unfinished").glob("?????.parquet.*"))
        doubled = waiting & {one.task for one in store.news()}
        done = len(store.stored())
        print(f"{done} tasks, {len(waiting)} not compacted", file=sys.stderr)
        if last:
            found = {"kills": kills, "compacting": compacting, "waiting": len(waiting)}
            return {**found, "done": done}
        compacting += bool(len(waiting) >= TASKS or unfinished or doubled)
        kills += 1


def _fork(function: Callable[..., None], *arguments: Any) -> int:
    process = os.fork()
    if process:
        return process
    try:
        function(*arguments)
        os._exit(0)
    finally:
        os._exit(1)


def _wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _store(options: argparse.Namespace, tasks: Tasks, rows: dict[int, pa.Table]) -> None:
    """Store tasks up to 99%, and end as if killed."""
    end = round(0.99 * tasks.batches)
    if options.real:
        _compute(options, stop=end * options.settings, kill=True)
    folder = RunFolder(options.folder)
    folder.record()
    stored = folder.stored()
    for batch in range(end):
        for task in map(tasks.__getitem__, tasks.in_batch(batch)):
            if task.name not in stored:
                folder.write(TaskResult(task.name, _made(task, rows)))
    os.kill(os.getpid(), signal.SIGKILL)


def _tasks(options: argparse.Namespace) -> Tasks:
    settings = make_settings(evaluation(options).validated())
    return Tasks(settings, options.samples, options.batch, seed=0)


def _first_batch(options: argparse.Namespace) -> dict[int, pa.Table]:
    table = Results.load(options.folder).table
    rows = table.filter(pc.equal(table["batch"], 0)).sort_by("sample")
    return {n: rows.filter(pc.equal(rows["setting"], n)) for n in range(options.settings)}


def _made(task: Task, first: dict[int, pa.Table]) -> pa.Table:
    """Return rows of a task, from those of the first batch at its setting."""
    rows = first[task.setting.number]
    if task.batch == 0:
        return rows
    count = len(task.samples)
    columns = {
        "batch": np.full(count, task.batch),
        "seed": np.full(count, task.seed),
        "sample": task.samples,
        "input_hash": [f"{sample:032x}" for sample in task.samples.tolist()],
    }
    for name, values in columns.items():
        field = SCHEMA.get_field_index(name)
        rows = rows.set_column(field, SCHEMA.field(field), pa.array(values, SCHEMA.types[field]))
    return rows


def _compute(options: argparse.Namespace, stop: int, *, kill: bool = False) -> None:
    """Compute tasks until so many are done."""

    def follow(progress: Progress) -> None:
        if progress.done >= stop:
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        evaluate(evaluation(options), on_progress=follow)


def _resume(options: argparse.Namespace) -> dict[str, float]:
    imports = time.process_time()
    seen: dict[str, float] = {}

    def follow(progress: Progress) -> None:
        seen.setdefault("cpu", time.process_time() - imports)

    evaluate(evaluation(options), on_progress=follow)
    return {**seen, "imports": imports}


def _report(options: argparse.Namespace) -> dict[str, float]:
    from rich.console import Console

    from foolbox_carescale.evaluate import diagnostics, print_report, write_report
    from foolbox_carescale.evaluate.report import figures  # noqa: F401 - imports matplotlib

    with Path("/proc/self/statm").open() as file:
        start = int(file.read().split()[1]) * resource.getpagesize() / 2**20
    began = time.process_time()
    results = Results.load(options.folder)
    print_report(results, Console(file=sys.stderr))
    write_report(results)
    cpu = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    began = time.process_time()
    diagnostics.of_results(Results.load(options.folder))
    return {"cpu": cpu, "memory": peak - start, "diagnostics": time.process_time() - began}


def _query(options: argparse.Namespace) -> dict[str, float]:
    import duckdb

    rows = f"read_parquet('{options.folder}/results/*.parquet')"
    began = time.perf_counter()
    query = f"SELECT attack, epsilon, avg(robust::INT) FROM {rows} GROUP BY ALL ORDER BY ALL"
    duckdb.sql(query).fetchall()
    wall = time.perf_counter() - began
    counted = duckdb.sql(f"SELECT count(*) FROM {rows}").fetchall()[0][0]
    return {"wall": wall, "rows": counted}


def _compare(options: argparse.Namespace) -> dict[str, float]:
    """Count rows that differ from those that were stored, and check that each is there once."""
    tasks, first = _tasks(options), _first_batch(options)
    rows = Results.load(options.folder).select(*SCHEMA.names)
    assert rows.num_rows == options.samples * options.settings
    different = 0
    for number in range(options.settings):
        own = rows.slice(number * options.samples, options.samples).select(SCHEMA.names)
        assert pc.all(pc.equal(own["setting"], number)).as_py()
        assert pc.count_distinct(own["sample"]).as_py() == options.samples
        if not options.real:
            end = round(0.99 * tasks.batches)
            numbers = range(number * tasks.batches, number * tasks.batches + end)
            expected = pa.concat_tables(_made(tasks[i], first) for i in numbers)
            found = own.slice(0, len(expected)).cast(SCHEMA)
            if not found.equals(expected):
                pairs = zip(found.to_pylist(), expected.to_pylist(), strict=True)
                different += sum(one != other for one, other in pairs)
    return {"rows": rows.num_rows, "different": different}


CASES: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "kill": _kill,
    "resume": _resume,
    "report": _report,
    "query": _query,
    "compare": _compare,
}


if __name__ == "__main__":
    main()
