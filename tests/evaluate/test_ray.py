import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from foolbox_carescale.evaluate import (
    AttackConfig,
    DataConfig,
    ExecutorConfig,
    ModelConfig,
    UserError,
    evaluate,
)
from foolbox_carescale.evaluate.data.dataset import Batch
from foolbox_carescale.evaluate.errors import SampleError
from foolbox_carescale.evaluate.store.folder import RunFolder
from tests.evaluate.factories import HERE, rows, tiny

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from foolbox_carescale.evaluate.runner.executors.ray import RayExecutor, ReceivedData  # noqa: E402

MEMORY = 100 * 2**20  # of each node's object store: the least that Ray takes is 75 MiB

pytestmark = pytest.mark.filterwarnings(
    # sockets and files of Ray's own processes, which it leaves to the garbage collector
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:no worker has started",  # yet, on a machine that is busy with other tests
)

OURS = ("seconds", "model")  # the time it took, and the name of the model below

DIGITS = {
    "model": ModelConfig(),
    "data": DataConfig(),
    "attacks": {
        "noise": AttackConfig("L2AdditiveGaussianNoiseAttack", [4.0, 8.0]),
        "pgd": AttackConfig("LinfPGD", [0.03], params={"steps": 3}),
        "ours": AttackConfig("L1ClipAwarePGD", [4.0], params={"steps": 3}),
    },
    "samples": 12,
    "batch_size": 5,
    "save": "adversarial_examples",
}


@pytest.fixture(scope="module")
def cluster():
    """A head without room for workers, and two nodes with room for one each."""
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False},
    )
    made.nodes = [made.add_node(num_cpus=1, object_store_memory=MEMORY) for _ in range(2)]
    yield made
    ray.shutdown()
    made.shutdown()


def on(cluster, **settings):
    return ExecutorConfig("ray", address=cluster.address, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 2, "save": "adversarial_examples"},
        pytest.param(DIGITS, marks=pytest.mark.nightly),
    ],
)
def test_two_workers_complete_a_run_bit_identically_to_this_process(
    cluster, tmp_path, monkeypatch, settings
):
    evaluate(tiny(tmp_path / "local", **settings))
    evaluate(tiny(tmp_path / "ray", **settings, shard="1/3"))
    taken, ahead = [], []
    claim = RunFolder.claim

    def counted(self, number, **keywords):
        taken.append(number)
        return claim(self, number, **keywords)

    monkeypatch.setattr(RunFolder, "claim", counted)
    evaluate(
        tiny(tmp_path / "ray", **settings, executor=on(cluster)),
        on_progress=lambda p: ahead.append(len(taken) - (p.done - p.resumed)),
    )
    assert len(set(taken)) == 2 * 4 + 2  # of two batches with four tasks each, and the batches
    assert max(ahead) <= 2 * 5 + 1  # of each worker one batch, and the first task of the next
    assert rows(tmp_path / "ray") == rows(tmp_path / "local")
    for kept in (tmp_path / "local" / "adversarial_examples").iterdir():
        assert (
            kept.read_bytes()
            == (tmp_path / "ray" / "adversarial_examples" / kept.name).read_bytes()
        )


def test_a_task_that_always_kills_its_worker_is_one_error(cluster, tmp_path):
    model = ModelConfig(_target_=f"{HERE}.dying", params={"mark": None})
    with pytest.raises(UserError, match=r"task 000\d-\S+-0000\d lost its worker 1 times"):
        evaluate(tiny(tmp_path / "run", model=model, executor=on(cluster, retries=0, workers=1)))


def test_an_error_in_a_worker_is_that_of_this_process(cluster, tmp_path):
    with pytest.raises(UserError, match="device: 'cuda:99' cannot be used"):
        evaluate(tiny(tmp_path / "run", device="cuda:99", executor=on(cluster, workers=1)))


def test_more_than_the_cluster_has_is_one_error(cluster, tmp_path):
    with pytest.raises(UserError, match="executor: no node of the cluster has 9 CPU"):
        evaluate(tiny(tmp_path / "run", executor=on(cluster, cpus=9)))


@pytest.mark.nightly
def test_a_module_that_a_node_lacks_is_named_and_copied_there_on_request(
    cluster, tmp_path, monkeypatch
):
    (tmp_path / "mine_alone.py").write_text("from tests.evaluate.factories import model\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = ModelConfig(_target_="mine_alone.model")
    with pytest.raises(
        UserError, match=r"no module 'mine_alone' .*executor\.runtime_env"
    ) as caught:
        evaluate(tiny(tmp_path / "run", model=model, executor=on(cluster, workers=1)))
    assert "\n" not in str(caught.value)
    executor = on(cluster, workers=1, runtime_env={"py_modules": [str(tmp_path / "mine_alone.py")]})
    evaluate(tiny(tmp_path / "run", model=model, executor=executor, samples=1))


def test_batches_are_sent_to_workers_that_cannot_open_the_data(cluster, tmp_path, monkeypatch):
    (tmp_path / "data_alone.py").write_text("from tests.evaluate.factories import data\n")
    monkeypatch.syspath_prepend(tmp_path)
    data, sent, send = DataConfig(_target_="data_alone.data"), set(), RayExecutor._send
    monkeypatch.setattr(RayExecutor, "_send", lambda self, n: sent.add(n) or send(self, n))
    evaluate(tiny(tmp_path / "run", data=data, batch_size=2, executor=on(cluster, workers=1)))
    evaluate(tiny(tmp_path / "local", batch_size=2))
    assert sent == {0, 1, 2}
    named = ("seconds", "data")
    assert rows(tmp_path / "run", without=named) == rows(tmp_path / "local", without=named)


def test_a_node_has_as_many_workers_as_fractions_of_its_gpus_allow(monkeypatch):
    nodes = [{"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    for gpus, workers in ((0.25, 8), (0.1, 16), (0.6, 2), (1, 2), (2, 1)):
        evaluation = tiny("run", executor=ExecutorConfig("ray", gpus=gpus))
        assert RayExecutor(evaluation, None, None)._slots() == workers


LACKS_THIS_PACKAGE = """
import sys

class Finder:
    def find_spec(self, name, *_):
        if name == "foolbox_carescale":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Finder())
"""


def test_a_node_without_this_package_is_named(cluster, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(LACKS_THIS_PACKAGE)
    environment = {"env_vars": {"PYTHONPATH": str(tmp_path)}}
    executor = on(cluster, workers=1, runtime_env=environment)
    with pytest.raises(UserError, match="has no module 'foolbox_carescale'; install it") as caught:
        evaluate(tiny(tmp_path / "run", executor=executor))
    assert "\n" not in str(caught.value)


class AuthenticationError(Exception):
    """Named like Ray's."""


@pytest.mark.parametrize(
    ("address", "error", "line"),
    [
        ("auto", AuthenticationError("no token"), r"asks for authentication .*RAY_AUTH_TOKEN"),
        (None, OSError("no room\nin a folder"), r"start a cluster on this machine \(no room\)"),
    ],
)
def test_what_ray_raises_at_its_start_is_one_line(tmp_path, monkeypatch, address, error, line):
    def raise_it(*_, **__):
        raise error

    monkeypatch.setattr(ray, "init", raise_it)
    with pytest.raises(UserError, match=line) as caught:
        evaluate(tiny(tmp_path / "run", executor=ExecutorConfig("ray", address=address)))
    assert "\n" not in str(caught.value)


ROOT = str(Path(__file__).parents[2])
TINY = [f"model._target_={HERE}.model", f"data._target_={HERE}.data"]


def command(*arguments, cwd, **environment):
    """Run the command in a process of its own, whose environment Ray reads once."""
    return subprocess.run(
        [sys.executable, "-m", "foolbox_carescale", "evaluate", "executor=ray", *TINY, *arguments],
        cwd=cwd,
        env={**os.environ, "HOME": str(cwd), "PYTHONPATH": ROOT, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.nightly
def test_a_missing_token_is_named_in_a_process(cluster, tmp_path):
    pytest.importorskip("ray._private.authentication", reason="Ray 2.52 has it first")
    address = f"executor.address={cluster.address}"
    done = command(address, cwd=tmp_path, RAY_AUTH_MODE="token")
    assert done.returncode == 2, done.stderr
    assert "asks for authentication" in done.stderr
    assert "RAY_AUTH_TOKEN" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.nightly
def test_a_cluster_that_cannot_start_here_is_named_in_a_process(tmp_path):
    (tmp_path / "file").touch()
    done = command(cwd=tmp_path, RAY_TMPDIR=str(tmp_path / "file"))
    assert done.returncode == 2, done.stderr
    assert "executor: Ray cannot start a cluster on this machine (" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_runtime_environment_that_cannot_be_made_is_named(cluster, tmp_path):
    executor = on(cluster, workers=1, runtime_env={"working_dir": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="nowhere") as caught:
        evaluate(tiny(tmp_path / "run", executor=executor))
    assert "\n" not in str(caught.value)


# at night last: the cluster has one node less after it
@pytest.mark.parametrize("node", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_a_worker_and_a_node_that_are_lost_in_mid_run_lose_no_result(cluster, tmp_path, node):
    model = ModelConfig(_target_=f"{HERE}.dying", params={"mark": str(tmp_path / "mark")})
    evaluate(tiny(tmp_path / "reference"))

    def lose(progress):
        if node and progress.done == 7:
            mine = ray.get_runtime_context().get_node_id()  # Ray does not let go of this one
            cluster.remove_node(next(node for node in cluster.nodes if node.node_id != mine))

    evaluate(tiny(tmp_path / "run", model=model, executor=on(cluster)), on_progress=lose)
    assert (tmp_path / "mark").exists()
    assert rows(tmp_path / "run", without=OURS) == rows(tmp_path / "reference", without=OURS)
    assert not (tmp_path / "run" / "damaged").exists()


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:1", "[::1]:1", "nowhere.invalid:6379"])
def test_a_cluster_that_is_not_there_is_one_error(tmp_path, address):
    executor = ExecutorConfig("ray", address=address)
    ray.shutdown()
    with pytest.raises(UserError, match=f"Ray cannot be reached at {re.escape(address)}") as caught:
        evaluate(tiny(tmp_path / "run", executor=executor))
    assert "\n" not in str(caught.value)


def test_a_connection_that_is_closed_in_mid_run_is_not_opened_again(cluster, tmp_path, monkeypatch):
    opened = []

    def close(progress):
        ray.shutdown()
        monkeypatch.setattr(ray, "init", lambda *_, **__: opened.append(1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny(tmp_path / "run", executor=on(cluster, workers=1)), on_progress=close)
    assert not opened


def test_a_batch_that_the_driver_sends_may_lack_samples_or_be_an_error():
    images = np.zeros((2, 3, 4, 4), np.uint8)
    sent = Batch("x", images, np.array([0, 1]), np.array([5, 7]), 2, {6: "a hole"})
    data = ReceivedData("x", np.array([5, 6, 7]), None, 2, (3, 4, 4), [sent])
    assert data.batch([0, 1, 2]).index.tolist() == [5, 7]
    data.received = [SampleError("a hole")]
    with pytest.raises(SampleError, match="a hole"):
        data.batch([0, 1, 2])
