"""Executors: several devices of a machine, and one of another package, by the guide alone."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foolbox_carescale.evaluate import (
    AttackConfig,
    DataConfig,
    Evaluation,
    ExecutorConfig,
    ModelConfig,
    UserError,
    evaluate,
)
from foolbox_carescale.evaluate.runner.executors.dispatch import BatchQueue
from foolbox_carescale.evaluate.runner.tasks import Tasks, make_settings
from foolbox_carescale.evaluate.store.folder import RunFolder
from tests.evaluate.factories import ATTACKS, HERE, rows, tiny

GUIDE = Path(__file__).parents[2] / "docs/contributing/executor.md"


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    guide = GUIDE.read_text(encoding="utf-8")
    (tmp_path / "backwards.py").write_text(re.search(r"```python\n(.*?)```", guide, re.S)[1])
    offered = re.search(r'```toml\n\[project.entry-points."(.*?)"]\n(\w+ = )"(.*?)"', guide)
    information = tmp_path / "backwards-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: backwards\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        f"[{offered[1]}]\n{offered[2]}{offered[3]}\nbroken = no_such_module:Executor\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("distribution")
def test_an_executor_of_another_package_gives_the_same_rows(tmp_path):
    evaluate(tiny(tmp_path / "local"))
    evaluate(tiny(tmp_path / "backwards", executor=ExecutorConfig("backwards")))
    assert rows(tmp_path / "backwards") == rows(tmp_path / "local")


@pytest.mark.usefixtures("distribution")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("backward", "executor.name: there is no 'backward'; did you mean 'backwards'?"),
        ("broken", "executor.name: 'broken' is offered by no_such_module:Executor"),
    ],
)
def test_an_executor_that_cannot_be_had_is_one_line(tmp_path, name, line):
    with pytest.raises(UserError, match=re.escape(line)):
        evaluate(tiny(tmp_path / "run", executor=ExecutorConfig(name)))


@pytest.fixture
def prepared(processes, monkeypatch):
    """Have the processes of devices fork from one that has imported everything."""

    def context(method):
        assert method == "spawn"
        return processes

    monkeypatch.setattr(multiprocessing, "get_context", context)


forked = pytest.mark.usefixtures("prepared") if hasattr(os, "fork") else lambda test: test


ONE, TWO = (ExecutorConfig(devices=["cpu"] * number) for number in (1, 2))


def test_a_worker_takes_all_tasks_of_a_batch_and_helps_others_at_the_end():
    tasks = Tasks(make_settings(Evaluation(attacks=ATTACKS)), 3, 1, seed=0)
    in_order = [tasks[number] for batch in range(3) for number in tasks.in_batch(batch)]
    queue = BatchQueue(iter(in_order))
    assert not queue
    assert {queue.take("a").batch for _ in range(3)} == {0}
    taken = [queue.take("b") for _ in range(6)]
    assert [task.batch for task in taken] == [1, 1, 1, 1, 2, 2]
    assert [task.ahead for task in taken] == [(), (), (), (2,), (), ()]
    assert [queue.take("a").batch for _ in range(3)] == [0, 2, 2]
    assert queue.take("b") is None
    queue.give_back(in_order[0])  # of a worker that was lost
    assert queue
    assert queue.take("a").number == in_order[0].number
    assert queue.take("a") is None


@forked
def test_processes_on_two_devices_and_any_number_of_shards_give_the_same_rows(tmp_path):
    settings = {"batch_size": 2, "save": "adversarial_examples"}
    evaluate(tiny(tmp_path / "local", **settings))
    evaluate(tiny(tmp_path / "devices", **settings, executor=TWO))
    evaluate(tiny(tmp_path / "mixed", **settings, shard="3/7"))
    for shard in range(3):
        evaluate(tiny(tmp_path / "mixed", **settings, shard=f"{shard}/3"))
    for folder in ("devices", "mixed"):
        assert rows(tmp_path / folder) == rows(tmp_path / "local")
        for kept in (tmp_path / "local" / "adversarial_examples").iterdir():
            same = tmp_path / folder / "adversarial_examples" / kept.name
            assert same.read_bytes() == kept.read_bytes()


@forked
def test_a_process_that_dies_is_one_line_and_its_finished_tasks_are_stored(tmp_path):
    params = {"mark": str(tmp_path / "mark"), "after": 60}
    model = ModelConfig(_target_=f"{HERE}.dying", params=params)
    with pytest.raises(UserError, match=r"the process of cpu ended in task \S+ \(exit code -9\)"):
        evaluate(tiny(tmp_path / "run", model=model, executor=ONE))
    assert multiprocessing.active_children() == []
    stored = len(RunFolder(tmp_path / "run").stored())
    assert stored > 0
    seen = []
    evaluate(tiny(tmp_path / "run", model=model), on_progress=seen.append)
    assert seen[0].resumed == stored
    evaluate(tiny(tmp_path / "local"))
    ours = ("seconds", "model")  # the time it took, and the name of the model
    assert rows(tmp_path / "run", without=ours) == rows(tmp_path / "local", without=ours)


def unusable(*_):
    raise AssertionError("data were read")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"executor": ["cuda:99"]}, r"executor\.devices: there is no cuda:99 among \d+ GPUs"),
        ({"executor": ["cpu", 99]}, r"executor\.devices: there is no cuda:99 among \d+ GPUs"),
        ({"executor": ["gpu"]}, r"executor\.devices: 'gpu' cannot be used"),
        ({"executor": ["cpu"], "device": "cuda"}, "of type cpu, but the run's device is 'cuda'"),
    ],
)
def test_a_device_that_does_not_exist_is_one_line_before_data_are_read(tmp_path, changes, line):
    changes["executor"] = ExecutorConfig(devices=changes["executor"])
    changes["data"] = DataConfig(_target_=f"{__name__}.unusable")
    with pytest.raises(UserError, match=line) as caught:
        evaluate(tiny(tmp_path / "run", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("executor", "line"),
    [
        (ExecutorConfig("ray", devices=[0]), r"executor\.devices: \[0\] is for executor=local"),
        *(
            (ExecutorConfig(devices=wrong), r"executor\.devices: .* are none; give numbers of GPUs")
            for wrong in ([], "cuda", 3, [-1], [True], [0.5])
        ),
    ],
)
def test_devices_of_another_executor_and_none_at_all_are_one_line(executor, line):
    with pytest.raises(UserError, match=line) as caught:
        Evaluation(executor=executor).validated()
    assert "\n" not in str(caught.value)


@forked
def test_an_error_in_a_process_of_a_device_is_that_of_this_one(tmp_path):
    data = DataConfig(_target_=f"{__name__}.refused", params={"process": os.getpid()})
    with pytest.raises(UserError, match=r"^data\._target_: .* no images here \(test_exec"):
        evaluate(tiny(tmp_path / "run", data=data, executor=ONE))
    assert multiprocessing.active_children() == []


def refused(process):
    from tests.evaluate.factories import data

    if os.getpid() != process:
        raise RuntimeError("no images here")
    return data()


@pytest.fixture
def interruptible():
    """Let child processes take Ctrl-C: it is ignored in what a shell starts in the background."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.skipif(os.name != "posix", reason="it sends signals to a group of processes")
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("devices", [ONE, pytest.param(TWO, marks=pytest.mark.nightly)])
def test_ctrl_c_ends_the_processes_of_all_devices(tmp_path, devices):
    epsilons = [number / 1000 for number in range(1, 200)]  # tasks enough to be interrupted
    attacks = {"noise": AttackConfig("L2AdditiveUniformNoiseAttack", epsilons)}
    run = tiny("run", executor=devices, attacks=attacks)
    (tmp_path / "run.yaml").write_text(run.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "foolbox_carescale", "evaluate", "run.yaml", "output=run"]
    with subprocess.Popen(
        [*command, "--allow-code"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not list((tmp_path / "run").glob("tasks/*.parquet")):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=60)  # until all that hold the pipes have ended
    assert process.returncode == 130, errors
    assert errors.startswith("carescale: interrupted;")
    assert errors.count("\n") == 1
