"""Every example in experiments/ runs, in a short form, as its own first lines say."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from foolbox_carescale.cli import main
from foolbox_carescale.evaluate import Results, load_evaluation

pytestmark = pytest.mark.usefixtures("without_figures")

ROOT = Path(__file__).parent.parent
EXPERIMENTS = ROOT / "experiments"
SHORT = ["~attacks", "attacks.a.name=L2ClipAwarePGD", "attacks.a.steps=1", "epsilons.L2=[1]"]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def evaluated(name, tmp_path, *overrides):
    output = tmp_path / "run"
    file = str(EXPERIMENTS / f"{name}.yaml")
    assert main(["evaluate", file, *SHORT, *overrides, f"output={output}"]) == 0
    return Results.load(output)


def test_every_example_is_tested():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXPERIMENTS.glob("*.yaml")} <= tested


def test_quickstart(tmp_path):
    assert evaluated("quickstart", tmp_path, "samples=5").clean_accuracy == 1


@pytest.mark.nightly
def test_jax_digits(tmp_path):
    pytest.importorskip("jax")
    results = evaluated("jax_digits", tmp_path, "samples=20", "model.epochs=40")
    assert results.clean_accuracy >= 0.8
    assert results.summary()[0].norm_min == pytest.approx(1, abs=1e-5)


def test_efficientnet_lite(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    results = evaluated("efficientnet_lite", tmp_path, "samples=2", "data.seed=1")
    assert results.clean_accuracy >= 0.5  # 0.9 on all 20
    assert results.summary()[0].robust_accuracy < results.clean_accuracy


def test_resnet50_folder(tmp_path, monkeypatch):
    from experiments import resnet50_folder

    size, output = 64, tmp_path / "made"
    arguments = ["--output", str(output), "--size", str(size)]
    monkeypatch.setattr(sys, "argv", ["resnet50_folder", *arguments])
    resnet50_folder.main()
    results = evaluated(
        "resnet50_folder",
        tmp_path,
        f"model.weights={output / 'resnet50.safetensors'}",
        f"data.root={output / 'images'}",
        f"data.size={size}",
        "samples=4",
    )
    assert results.clean_accuracy == 1
    assert results.table["model"][0].as_py() == "resnet50"


@pytest.mark.nightly
def test_a_run_of_many_tasks_survives_kills(tmp_path):
    from experiments import scale

    few = ["--samples", "400", "--settings", "4", "--batch", "2", "--kills", "1"]
    scale.main([*few, "--folder", str(tmp_path / "run"), "--output", str(tmp_path)])
    text = (tmp_path / "scale.md").read_text(encoding="utf-8")
    assert "Of 1600 rows 0 differ from what was stored." in text


@pytest.mark.nightly
def test_memory_is_measured_of_every_process(tmp_path):
    pytest.importorskip("ray")
    from experiments import scale_memory

    few = ["--few", "10", "--many", "20", "--batch", "5"]
    scale_memory.main([*few, "--output", str(tmp_path)])
    text = (tmp_path / "scale_memory.md").read_text(encoding="utf-8")
    assert text.count("| worker |") == 2
    assert text.count("| driver |") == 4


def test_ray(tmp_path):
    executor = load_evaluation(EXPERIMENTS / "ray.yaml").executor
    assert (executor.name, executor.workers) == ("ray", None)
    # on Ray itself: tests/evaluate/test_ray.py
    results = evaluated("ray", tmp_path, "samples=4", "executor=local")
    assert results.table.num_rows == 4


@pytest.mark.nightly
def test_ray_on_ray(tmp_path):
    pytest.importorskip("ray")
    # a process of its own: Ray forks, which JAX, if a test has imported it, warns about
    short = ["samples=4", "batch_size=2", "executor.workers=1", f"output={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "foolbox_carescale", "evaluate", "experiments/ray.yaml"]
    subprocess.run([*command, *SHORT, *short], check=True, timeout=200, capture_output=True)
    assert Results.load(tmp_path / "run").table.num_rows == 4


@pytest.mark.parametrize("orders", [(2.0,), pytest.param(None, marks=pytest.mark.nightly)])
def test_every_call_of_the_benchmark_of_the_operator_runs(monkeypatch, orders):
    pytest.importorskip("tensorflow")
    from experiments.benchmarks import rescaling_calls

    if orders is not None:
        monkeypatch.setattr(rescaling_calls, "ORDERS", orders)
    calls = rescaling_calls.calls_of((2, 3, 8, 8))
    assert len(calls) > 10
    for call in calls.values():
        call()
    for call in rescaling_calls.growth_calls(64).values():
        call()


# one of each kind: an argument, a constant of the module, one of the class
FEW = {"defaults", "one restart", "restart at 0.85", "sparser by 2.0", "first move 0.1"}


@pytest.mark.parametrize(
    ("orders", "some"), [("1", FEW), pytest.param("12", None, marks=pytest.mark.nightly)]
)
def test_the_sweep_of_the_minimum_norm_attack_runs_every_setting(tmp_path, orders, some):
    from experiments import minimum_norm_sweep

    short = ["--models", "digits", "--samples", "2", "--gradients", "24", "--output", str(tmp_path)]
    chosen = ["--settings", *some] if some else []
    minimum_norm_sweep.main([*short, "--orders", *orders, *chosen])
    rows = minimum_norm_sweep.read(tmp_path / "minimum_norm_sweep.csv")
    settings = {row["setting"] for row in rows}
    every = set().union(*(minimum_norm_sweep.settings(float(p)) for p in orders))
    assert settings == (some or every)
    assert all(float(row["ratio"]) > 0 for row in rows)
    assert len({row["ratio"] for row in rows}) > len(settings) / 2, "constants change nothing"
    assert "| defaults |" in (tmp_path / "minimum_norm_sweep.md").read_text()


def test_the_benchmark_of_minimum_norms_measures_attacks_once(tmp_path, monkeypatch):
    from experiments.benchmarks import minimum_norm

    monkeypatch.setitem(minimum_norm.SAMPLES, "digits", 3)
    short = ["--models", "digits", "--orders", "2", "--attacks", "ours", "--gradients", "10", "20"]
    minimum_norm.main([*short, "--output", str(tmp_path)])
    rows = minimum_norm.read(tmp_path / "minimum_norm.csv")
    assert [(float(row.backwards), float(row.forwards)) for row in rows] == [(10, 12), (20, 22)]
    assert all(len(row.found) == 3 and (row.found > 0).all() for row in rows)
    minimum_norm.main([*short, "--output", str(tmp_path)])
    assert len(minimum_norm.read(tmp_path / "minimum_norm.csv")) == 2


def test_a_paired_test_decides_by_the_sizes_of_differences_and_not_by_their_number():
    from experiments.benchmarks.minimum_norm import _verdict

    ours = np.linspace(1, 2, 200)
    other = ours - 0.001  # in 102 samples a little smaller, in 98 much larger or not found
    other[:98] += 0.5
    other[:7] = np.inf
    assert _verdict(ours, other) == "better"
    assert _verdict(other, ours) == "worse"
    assert _verdict(ours, ours) == "level"


@pytest.mark.nightly
def test_the_benchmark_of_curves_counts_the_robust_samples_of_each_attack(tmp_path, monkeypatch):
    from experiments.benchmarks import curves

    monkeypatch.setitem(curves.SAMPLES, "digits", 4)
    monkeypatch.setattr(curves, "EPSILONS", 2)
    curves.main(["--models", "digits", "--orders", "2", "--output", str(tmp_path)])
    with (tmp_path / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4
    by = {row["attack"]: row for row in rows if row["epsilon"] == rows[-1]["epsilon"]}
    assert int(by["minimum norm"]["robust"]) <= int(by["PGD"]["robust"])
    assert by["PGD"]["robust"] == by["PGD, stop_when_broken"]["robust"]
    assert float(by["PGD"]["backwards"]) == 40 > float(by["PGD, stop_when_broken"]["backwards"])
    assert "| minimum norm | " in (tmp_path / "curves.md").read_text()


def test_the_benchmark_of_stages_lists_what_each_breaks(tmp_path, monkeypatch):
    from experiments.benchmarks import stages

    monkeypatch.setitem(stages.SAMPLES, "digits", 4)
    monkeypatch.setattr(stages, "STEPS", 4)
    monkeypatch.setitem(stages.VERSIONS["standard"], "queries", 4)
    stages.main(["--models", "digits", "--orders", "2", "--output", str(tmp_path)])
    text = (tmp_path / "stages.md").read_text()
    for name in ("minimum-norm", "apgd-ce", "square", "apgd-t towards the 6 nearest"):
        assert f"| {name} | " in text


def test_local_optimality_is_1_on_the_envelope_and_0_where_nothing_is_found():
    import numpy as np

    from experiments.benchmarks.minimum_norm import local_optimality

    least = np.array([1.0, 2.0, 3.0])
    assert local_optimality(least, least) == 1
    assert local_optimality(np.full(3, np.inf), least) == 0
    assert local_optimality(np.array([2.0, 2.0, 3.0]), least) == pytest.approx(2 / 3)


def test_each_image_is_decoded_once_for_all_shards_and_the_first_task_needs_two_batches():
    from experiments import loading
    from foolbox_carescale.evaluate.runner.tasks import IDENTIFIED

    alone, shards = loading.measure_run(120, 1), loading.measure_run(120, 3)
    assert alone["first"] <= 2 * loading.BATCH + IDENTIFIED
    assert alone["decodes"] == shards["decodes"] == 1.0


def test_strength_is_compared_sample_by_sample():
    pytest.importorskip("pyautoattack")
    from experiments.benchmarks.strength_recheck import Pair, table

    pair = Pair(("fixed", "digits", 2.0, 0.3), "pgd", "autoattack_apgd", 40)
    outcomes = np.ones((2, 20))

    def verdict(found):
        both = [np.stack([one, 2 - one]) for one in found]  # accuracy, and loss: 1 or 2
        rows = {(cell, 20): both[int(cell.attack != pair.ours)] for cell in pair.cells()}
        accuracy, loss = (table([pair], rows, 20, loss=of)[0].split(" | ") for of in (False, True))
        assert accuracy[-4:] == loss[-4:]
        return accuracy[3:]

    even = ["1.0000", "autoattack_apgd", "1.0000", "0", "0", "1.000", "level |"]
    assert verdict(outcomes) == even
    outcomes[0, :4] = 0  # a coin gives these with chance 1/8, either way
    assert verdict(outcomes) == [
        "0.8000",
        "autoattack_apgd",
        "1.0000",
        "4",
        "0",
        "0.125",
        "level |",
    ]
    outcomes[0, :8] = 0  # 2/256
    assert verdict(outcomes)[-4:] == ["8", "0", "0.008", "better |"]
    assert verdict(outcomes[::-1])[-4:] == ["0", "8", "0.008", "worse |"]
