import dataclasses
import gc
import json
import operator
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from foolbox import PyTorchModel
from PIL import Image

from foolbox_carescale.attacks.model import module_of
from foolbox_carescale.cli import main
from foolbox_carescale.evaluate import (
    AttackConfig,
    DataConfig,
    Evaluation,
    EvaluationWarning,
    ModelConfig,
    Results,
    UserError,
    evaluate,
    load_evaluation,
)
from foolbox_carescale.evaluate.console import print_settings
from foolbox_carescale.evaluate.models.weights import weights_digest
from foolbox_carescale.evaluate.runner.identity import check_same_model, logit_mixtures
from foolbox_carescale.evaluate.store.checksums import digest
from foolbox_carescale.evaluate.store.folder import FORMAT, RunFolder
from foolbox_carescale.evaluate.store.parquet import VerifiedParquet
from foolbox_carescale.evaluate.store.rows import RowStore
from tests.evaluate import factories
from tests.evaluate.factories import ATTACKS, SAMPLES, computed, rows, tiny

TASKS = SAMPLES * 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that is complete and one that is not, compacted and as a kill leaves them."""
    root = tmp_path_factory.mktemp("runs")
    evaluate(tiny(root / "complete"))
    started(root / "interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowStore, "compact", lambda self: None)
        evaluate(tiny(root / "complete, waiting"))
        started(root / "interrupted, waiting")
    return root


@pytest.fixture(scope="module")
def reference(runs):
    return rows(runs / "complete")


def started(folder, tasks=10, **changes):
    """A run that was interrupted after some tasks."""

    def stop(progress):
        if progress.done == tasks:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny(folder, **changes), on_progress=stop)
    return folder


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    """Return what a task of ``factories`` does, in a process that may fork."""
    path = tmp_path_factory.mktemp("process") / "stderr"
    command = [sys.executable, "-m", factories.__name__]
    with (
        path.open("w") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):

        def answer(task, root, *numbers):
            print(json.dumps([task, str(root), *numbers]), file=process.stdin, flush=True)
            line = process.stdout.readline()
            assert line, path.read_text()
            return json.loads(line)

        yield answer
        process.stdin.close()


def test_only_what_is_missing_is_computed(tmp_path, reference, uncompacted):
    folder = started(tmp_path / "run")
    kept = {p: p.stat().st_mtime_ns for p in (folder / "tasks").iterdir()}
    assert len(kept) == 10
    assert computed(folder) == TASKS - 10
    assert rows(folder) == reference
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_a_complete_run_is_read_without_its_model_and_left_alone(tmp_path, runs):
    shutil.copytree(runs / "complete", tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert computed(tmp_path / "run") == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_run_is_continued_by_its_own_stored_config(tmp_path, reference):
    folder = started(tmp_path / "run")
    stored = load_evaluation(folder / "config.yaml", [f"output={folder}"], allow_code=True)
    assert stored.output == str(folder)
    evaluate(stored)
    assert rows(folder) == reference


def test_progress_counts_what_was_there_before(tmp_path):
    seen = []
    evaluate(tiny(started(tmp_path / "run")), on_progress=seen.append)
    assert [p.done for p in seen] == [10, *range(10, TASKS + 1)]  # the plan is the first
    assert [p.seconds_left > 0 for p in seen] == [True, *[False] * (TASKS - 9)]
    assert {p.resumed for p in seen} == {10}
    last = seen[-1]
    assert (last.setting.label, last.setting_done, last.setting_total) == ("pgd", SAMPLES, SAMPLES)
    robust = [r["robust"] for r in rows(tmp_path / "run") if r["attack"] == "pgd"]
    assert last.robust_accuracy == np.mean(robust)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, ["seed is 0 there and 1 here"]),
        (
            {"attacks": {**ATTACKS, "pgd": AttackConfig("LinfPGD", [0.1], params={"steps": 3})}},
            ["attacks.pgd.steps is 2 there and 3 here"],
        ),
        ({"attacks": {"pgd": ATTACKS["pgd"]}}, ["attacks.noise.", "not given here"]),
        (
            {"attacks": {**ATTACKS, "more": AttackConfig("LinfPGD", [0.2])}},
            ["attacks.more.name is 'LinfPGD' here and not given there"],
        ),
        ({"threads": 2, "batch_size": 2}, ["threads is 1", "batch_size is 1 there and 2 here"]),
        ({"device": "cuda"}, ["device is 'auto' there and 'cuda' here"]),
        ({"save": "adversarial_examples"}, ["save is None there"]),
    ],
)
def test_another_config_is_refused_with_the_keys_that_differ(tmp_path, changes, words):
    folder = started(tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    with pytest.raises(UserError, match="holds a run with another config") as caught:
        evaluate(tiny(folder, **changes))
    assert all(word in str(caught.value) for word in words), caught.value
    assert str(caught.value).endswith(f"{folder}/config.yaml --allow-code")  # a function of ours
    assert "\n" not in str(caught.value)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_what_changes_no_result_may_change(tmp_path, reference):
    folder = started(tmp_path / "run", threads=None)
    evaluation = tiny(folder, threads=None, shard="0/1", device="cpu")
    evaluation.attacks = dict(reversed(ATTACKS.items()))
    evaluation.attacks["noise"] = dataclasses.replace(ATTACKS["noise"], epsilons=[1.0, 0.2])
    evaluation.executor.retries = 5
    evaluate(evaluation)
    assert rows(folder) == reference


def test_other_images_under_the_same_name_are_refused(tmp_path):
    (tmp_path / "images" / "class").mkdir(parents=True)
    image = tmp_path / "images" / "class" / "1.png"
    Image.new("RGB", (4, 4), "white").save(image)
    changes = {"data": DataConfig("folder", root=str(tmp_path / "images")), "samples": 1}
    folder = started(tmp_path / "run", tasks=1, **changes)
    Image.new("RGB", (4, 4), "grey").save(image)
    with pytest.raises(UserError, match="data: the images are not those that the run in"):
        evaluate(tiny(folder, **changes))


def test_other_weights_under_the_same_name_are_refused(tmp_path, monkeypatch):
    folder = started(tmp_path / "run")
    monkeypatch.setattr(factories.Brightness.__init__, "__defaults__", (0.0,))
    original = factories.model
    monkeypatch.setattr(factories, "model", lambda: original(bias=0.5))
    with pytest.raises(UserError, match="model: it is not the model that the run in"):
        evaluate(tiny(folder))


def test_an_image_that_has_changed_since_a_task_saw_it_is_refused(tmp_path, monkeypatch):
    images, labels = np.random.default_rng(0).random((120, 1, 4, 4), np.float32), [0, 1] * 60
    monkeypatch.setattr(factories, "data", lambda: (images, np.array(labels)))
    folder = started(tmp_path / "run")
    for image, line in ((0, "the images are not"), (2, "the images of batch 2 are not")):
        images[image] = 1 - images[image]
        with pytest.raises(UserError, match=f"data: {line} those that .*the run in"):
            evaluate(tiny(folder))
        images[image] = 1 - images[image]
    labels[110] = 1 - labels[110]
    with pytest.raises(UserError, match="data: the labels are not those"):
        evaluate(tiny(folder))


def write_photos(root, damaged=()):
    """Write 24 images of two classes, some of which cannot be read, and return their paths."""
    generator, paths = np.random.default_rng(0), []
    for label in (0, 1):
        (root / str(label)).mkdir(parents=True)
        for i in range(12):
            pixels = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            paths.append(root / str(label) / f"{i:02d}.png")
            Image.fromarray(pixels).save(paths[-1])
    for place in damaged:
        paths[place].write_bytes(b"no image")
    return paths


def of_photos(root, *, on_error="raise"):
    data = DataConfig("folder", root=str(root), on_error=on_error)
    return {"data": data, "batch_size": 3, "samples": None}


def test_an_image_that_cannot_be_read_ends_its_batch_and_not_the_others(tmp_path, monkeypatch):
    paths = write_photos(tmp_path / "images")
    changes = of_photos(tmp_path / "images")
    for name in ("LOOKED_AT", "IDENTIFIED"):
        monkeypatch.setattr(f"foolbox_carescale.evaluate.runner.tasks.{name}", 1)
    evaluate(tiny(tmp_path / "whole", **changes))
    content = paths[7].read_bytes()
    paths[7].write_bytes(b"no image")
    folder = tmp_path / "run"
    with pytest.raises(UserError) as caught:
        evaluate(tiny(folder, **changes))
    assert str(caught.value).startswith(f"data: {str(paths[7])!r} cannot be read as an image")
    assert "of 8 batches 1 could not be computed, the first of them batch 2" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {row["batch"] for row in rows(folder)} == {0, 1, 3, 4, 5, 6, 7}
    paths[7].write_bytes(content)
    assert computed(folder, **changes) == 4
    assert rows(folder) == rows(tmp_path / "whole")


def test_images_that_cannot_be_read_are_left_out_and_listed(tmp_path):
    paths = write_photos(tmp_path / "images", damaged=[0, 7, 8, 20])
    skip = of_photos(tmp_path / "images", on_error="skip")
    with pytest.warns(EvaluationWarning, match=r"4 of 24 samples could not be read") as said:
        results = evaluate(tiny(tmp_path / "run", **skip))
    (line,) = [str(warning.message) for warning in said if "could not be" in str(warning.message)]
    assert "left out of all numbers: 0; 7; 8 and 1 more" in line
    assert str(paths[0]) in line
    assert {row["sample"] for row in rows(tmp_path / "run")} == {*range(24)} - {0, 7, 8, 20}
    assert {setting.samples for setting in results.summary()} == {20}
    assert "skipped" in {warning["code"] for warning in RunFolder(tmp_path / "run").read_warnings()}
    skipped = RunFolder(tmp_path / "run").skipped()
    assert list(skipped) == [0, 7, 8, 20]
    assert all(str(paths[place]) in reason for place, reason in skipped.items())
    assert computed(tmp_path / "run", **skip) == 0

    folder, seen = started(tmp_path / "again", **skip), []
    with pytest.warns(EvaluationWarning, match="could not be read"):
        evaluate(tiny(folder, **skip), on_progress=seen.append)
    assert rows(folder) == rows(tmp_path / "run")
    assert seen[-1].setting_done == seen[-1].setting_total == 20


def test_an_image_that_is_repaired_later_is_another_one(tmp_path, monkeypatch):
    for name in ("LOOKED_AT", "IDENTIFIED"):
        monkeypatch.setattr(f"foolbox_carescale.evaluate.runner.tasks.{name}", 1)
    paths = write_photos(tmp_path / "images")
    skip = of_photos(tmp_path / "images", on_error="skip")
    content = paths[1].read_bytes()
    paths[1].write_bytes(b"no image")
    folder = started(tmp_path / "run", tasks=2, **skip)
    paths[1].write_bytes(content)
    with pytest.raises(UserError, match="data: the images of batch 0 are not those"):
        evaluate(tiny(folder, **skip))


def test_a_batch_without_any_image_that_can_be_read_ends_with_its_first_path(tmp_path):
    paths = write_photos(tmp_path / "images", damaged=[3, 4, 5])
    skip = of_photos(tmp_path / "images", on_error="skip")
    line = f"none of 3 samples of a batch can be read; data: '{paths[3]}' .* of 8 batches 1 could"
    with pytest.raises(UserError, match=line):
        evaluate(tiny(tmp_path / "run", **skip))


def test_threads_that_decode_end_with_the_run_and_change_no_row(tmp_path):
    generator = np.random.default_rng(0)
    for i in range(12):
        (tmp_path / "images" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / str(i % 2) / f"{i}.png")

    def data(workers):
        return {"data": DataConfig("folder", root=str(tmp_path / "images"), workers=workers)}

    evaluate(tiny(tmp_path / "alone", **data(0)))
    folder = started(tmp_path / "run", **data(2))
    assert not [t for t in threading.enumerate() if t.name.startswith("carescale-data")]
    evaluate(tiny(folder, **data(None)))
    assert rows(folder) == rows(tmp_path / "alone")


@pytest.mark.parametrize("compacted", [False, True])
def test_a_stored_task_that_saw_other_images_than_its_batch_is_computed_again(
    tmp_path, monkeypatch, compacted, request
):
    seen, before = [], TASKS  # as they are computed
    if not compacted:
        request.getfixturevalue("uncompacted")
        before += TASKS  # as they are diagnosed

    def told(rows):
        seen.append(rows["batch"][0].as_py())
        return "other" if len(seen) == before + 3 * SAMPLES + 5 else str(seen[-1])

    monkeypatch.setattr("foolbox_carescale.evaluate.store.index.images_digest", told)
    evaluate(tiny(tmp_path / "run"))
    with pytest.warns(EvaluationWarning, match="saw other images than the tasks of its batch"):
        assert computed(tmp_path / "run") == 1


class Linear(torch.nn.Linear):
    factor = 1.0

    def forward(self, x):
        return self.factor * super().forward(x.flatten(1))


def linear():
    return Linear(16, 2).eval()  # seeded


@pytest.mark.parametrize("factor", [1.05, 1.2])
def test_scaled_weights_and_scaled_logits_are_refused(tmp_path, monkeypatch, factor):
    changes = {"model": ModelConfig(_target_=f"{__name__}.linear")}
    folder = started(tmp_path / "run", **changes)
    monkeypatch.setattr(Linear, "factor", factor)
    with pytest.raises(UserError, match=r"not the model that .* the logits of sample 0 differ by"):
        evaluate(tiny(folder, **changes))
    monkeypatch.setattr(Linear, "factor", 1.0)

    unscaled = linear

    def scaled():
        model = unscaled()
        model.weight.data *= factor
        return model

    monkeypatch.setattr(f"{__name__}.linear", scaled)
    with pytest.raises(UserError, match=r"not the model that .*: its weights have changed"):
        evaluate(tiny(folder, **changes))
    monkeypatch.undo()
    evaluate(tiny(folder, **changes))


CHANGES = {
    "classes in another order": lambda y: y.flip(1),
    "the largest logit as before": lambda y: y.where(y == y.amax(1, keepdim=True), 0.9 * y),
    "one sample of many": lambda y: torch.cat([y[:-1], y[-1:] * 1.1]),
    "beside a sample of large logits": lambda y: torch.cat([y[:1], -y[1:]]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_code_that_changes_any_logit_is_another_model(change):
    logits = torch.randn((6, 10), generator=torch.Generator().manual_seed(0)).double()
    logits[0] *= 1000

    def seen(logits):
        return {"weights": None, "logits": logit_mixtures(logits.numpy()).tolist()}

    check_same_model(seen(logits), seen(logits + 0.003 * logits.roll(1, 1)), "there")  # rounding
    with pytest.raises(UserError, match=r"the logits of sample . differ by"):
        check_same_model(seen(logits), seen(change(logits)), "there")


def test_a_change_behind_the_first_batch_is_refused(tmp_path, monkeypatch):
    changes = {"model": ModelConfig(_target_=f"{__name__}.linear"), "batch_size": 2}
    folder = started(tmp_path / "run", **changes)
    images, _ = factories.data()
    last = torch.from_numpy(images[-1:])
    forward = Linear.forward

    def changed(self, x):
        logits = forward(self, x)
        near = (x - last).abs().flatten(1).amax(1, keepdim=True) < 1e-6
        return torch.where(near, -logits, logits)

    monkeypatch.setattr(Linear, "forward", changed)
    with pytest.raises(UserError, match=r"not the model that .* the logits of sample \d+ differ"):
        evaluate(tiny(folder, **changes))


def test_rows_of_different_models_in_one_folder_are_reported(tmp_path, monkeypatch):
    changes = {"model": ModelConfig(_target_=f"{__name__}.linear"), "batch_size": 2}
    folder = started(tmp_path / "run", **changes)
    # as if it had been changed by less than is seen, or behind the first batch
    monkeypatch.setattr("foolbox_carescale.evaluate.runner.identity.ROUNDING", 10.0)
    monkeypatch.setattr(Linear, "factor", 3.0)
    with pytest.warns(EvaluationWarning, match="images have different losses in different attacks"):
        evaluate(tiny(folder, **changes))


def test_a_digest_of_weights_depends_on_every_value_and_not_on_the_device():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    wrapped = PyTorchModel(model.eval(), bounds=(-1, 1)).transform_bounds((0, 1))
    assert module_of(wrapped) is model
    before = weights_digest(model)
    model.to(memory_format=torch.channels_last)
    if torch.cuda.is_available():
        model.to("cuda")
    assert weights_digest(model) == before
    for tensor in (*model.parameters(), model[1].running_var):
        tensor.data.view(-1)[-1] += 1
        assert weights_digest(model) != before
        tensor.data.view(-1)[-1] -= 1
    assert weights_digest(model.half()) != before


def test_an_untrained_network_is_the_same_one_when_a_run_is_continued(tmp_path):
    changes = {
        "model": ModelConfig("resnet18", weights=None, num_classes=10),
        "data": DataConfig(),
        "attacks": {"noise": ATTACKS["noise"]},
        "samples": 4,
        "batch_size": 2,
    }
    folder = started(tmp_path / "run", tasks=1, **changes)
    evaluate(tiny(folder, **changes))
    evaluate(tiny(tmp_path / "other", **changes))
    assert rows(folder) == rows(tmp_path / "other")


def test_another_version_of_the_package_is_warned_about(tmp_path, reference):
    folder = started(tmp_path / "run")
    rewrite_record(folder, versions={"foolbox-carescale": "0.0.1"})
    with pytest.warns(EvaluationWarning, match=r"other versions \(foolbox-carescale 0.0.1, now"):
        evaluate(tiny(folder))
    assert rows(folder) == reference


def rewrite_record(folder, **changes):
    record = json.loads((folder / "run.json").read_text(encoding="utf-8")) | changes
    del record["checksum"]
    checksum = digest(json.dumps(record, sort_keys=True).encode())
    (folder / "run.json").write_text(json.dumps({**record, "checksum": checksum}), encoding="utf-8")


def test_a_folder_of_another_format_is_refused_in_one_line(tmp_path, capsys):
    folder = started(tmp_path / "run", tasks=1)
    rewrite_record(folder, format=1)
    line = f"{folder} is a run folder of format 1, but this version reads format {FORMAT}; read"
    with pytest.raises(UserError, match=line):
        evaluate(tiny(folder))
    for command in (["report", str(folder)], ["compare", str(folder), str(folder)]):
        assert main(command) == 2
        assert line in capsys.readouterr().err


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def emptied(path):
    path.write_bytes(b"")


def of_another_task(path):
    path.write_bytes(next(p for p in path.parent.iterdir() if p != path).read_bytes())


WAITING = "tasks/0000-noise-0.2-00001.parquet"
COMPACTED = "results/00000.parquet"


@pytest.mark.parametrize(
    ("name", "file", "tasks", "damage"),
    [
        ("complete, waiting", WAITING, 1, truncated),
        ("complete, waiting", WAITING, 1, of_another_task),
        ("interrupted, waiting", WAITING, TASKS - 9, flipped),
        ("interrupted, waiting", WAITING, TASKS - 9, emptied),
        ("complete", COMPACTED, TASKS, flipped),
        ("complete", COMPACTED, TASKS, emptied),
        ("interrupted", COMPACTED, TASKS, truncated),
        ("interrupted", COMPACTED, TASKS, of_another_task),
    ],
)
def test_a_damaged_part_is_set_aside_and_computed_again(
    tmp_path, runs, reference, damage, name, file, tasks
):
    folder = shutil.copytree(runs / name, tmp_path / "run")
    victim = folder / file
    if file == COMPACTED:
        shutil.copy(runs / "complete, waiting" / WAITING, victim.parent)
    damage(victim)
    damaged = victim.read_bytes()
    with pytest.warns(EvaluationWarning, match="cannot be trusted .* is computed again") as said:
        assert computed(folder) == tasks
    assert sum("is computed again" in str(one.message) for one in said) == 1
    assert rows(folder) == reference
    (aside,) = (folder / "damaged").iterdir()
    assert aside.read_bytes() == damaged


@pytest.mark.parametrize("name", ["adversarial_examples", "examples"])
def test_a_damaged_file_beside_the_rows_is_found_too(tmp_path, name):
    evaluate(tiny(tmp_path / "run", save="adversarial_examples"))
    flipped(next((tmp_path / "run" / name).glob("0002*")))
    with pytest.warns(EvaluationWarning, match=f"{name}/.* is damaged"):
        assert computed(tmp_path / "run", save="adversarial_examples") == 1
    assert computed(tmp_path / "run", save="adversarial_examples") == 0


def test_a_part_of_another_run_is_set_aside(tmp_path, reference, uncompacted):
    folder = started(tmp_path / "run")
    other = started(tmp_path / "other", seed=1)
    victim = folder / WAITING
    victim.write_bytes((other / WAITING).read_bytes())
    (folder / "tasks" / "9999-x-1.0-00000.parquet").write_bytes(victim.read_bytes())
    with pytest.warns(EvaluationWarning) as said:
        evaluate(tiny(folder))
    reasons = " ".join(str(warning.message) for warning in said)
    assert "it does not belong to this run" in reasons
    assert "it belongs to another run or task" in reasons
    assert rows(folder) == reference


def test_a_damaged_record_is_one_error(tmp_path):
    folder = started(tmp_path / "run")
    flipped(folder / "run.json")
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        evaluate(tiny(folder))


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "run" / "results").mkdir(parents=True)
    with pytest.raises(UserError, match="holds results, but no run that can be continued"):
        evaluate(tiny(tmp_path / "run"))
    assert [p.name for p in tmp_path.rglob("*")] == ["run", "results"]


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.nightly)])
def test_nothing_is_lost_or_doubled_when_a_run_is_killed_again_and_again(
    tmp_path, reference, in_process, times
):
    stored = in_process("kill_at_random_moments", tmp_path, times)
    assert len(stored) == times
    assert any(0 < tasks < TASKS for tasks in stored)
    folders = [path for path in tmp_path.iterdir() if path.name.startswith("killed")]
    assert folders
    for folder in folders:
        assert rows(folder) == reference
        assert not (folder / "damaged").exists()


def test_a_run_survives_a_kill_between_any_two_steps_of_storing(tmp_path, reference, in_process):
    sigkill = -9
    ends, found = in_process("kill_between_all_steps", tmp_path, 20)
    killed = ends.count(sigkill)
    assert ends == killed * [sigkill] + (20 - killed) * [0]  # a complete run takes fewer steps
    assert killed >= 17
    assert found == sorted(found)  # nothing that was seen is ever lost
    assert rows(tmp_path / "steps") == reference
    assert not (tmp_path / "steps" / "damaged").exists()
    assert not list((tmp_path / "steps" / "tasks").iterdir())
    assert len(list((tmp_path / "steps" / "results").iterdir())) >= 4


def test_processes_and_shards_share_a_folder_and_compute_each_task_once(
    tmp_path, reference, in_process
):
    ends, tasks = in_process("several_at_once", tmp_path)
    assert ends == [0, 0, 0, 0]
    assert sum(tasks) == TASKS
    assert rows(tmp_path / "shared") == reference


OF_RESULTS = "foolbox_carescale.evaluate.diagnostics.of_results"


def test_only_who_finds_the_run_complete_diagnoses_it(tmp_path, monkeypatch):
    calls, counts = [], []
    monkeypatch.setattr(OF_RESULTS, lambda results: calls.append(results) or [])
    for shard in ("0/3", "1/3", "2/3", "0/3"):
        evaluate(tiny(tmp_path / "run", shard=shard))
        counts.append(len(calls))
    assert counts == [0, 0, 1, 1]


def test_a_run_that_was_killed_before_it_was_diagnosed_is_diagnosed_by_the_next_start(
    tmp_path, monkeypatch
):
    calls = []

    def stopped(results):
        calls.append(results)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(OF_RESULTS, stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny(tmp_path / "run"))
    for _ in range(2):
        assert computed(tmp_path / "run") == 0
    assert len(calls) == 2


def test_the_plan_of_a_resumed_run_takes_the_times_of_what_is_done(tmp_path, capsys):
    folder = started(tmp_path / "run")
    stored = Results.load(folder).table.to_pandas()[["setting", "seconds"]].fillna(0)
    each = stored.groupby("setting").seconds.agg(["mean", "size"])
    others = 5 - len(each)  # settings of which nothing is done
    left = (each["mean"] * (SAMPLES - each["size"])).sum()
    left += others * SAMPLES * stored.seconds.mean()
    seen = []
    evaluate(tiny(folder), on_progress=seen.append)
    assert seen[0].seconds_left == pytest.approx(left)
    for state in seen[:2]:
        print_settings(dataclasses.replace(state, seconds_left=3600 * state.seconds_left / left))
    plan = f"resuming {folder}: 10 of {TASKS} tasks are done, {TASKS - 10} are left, about 1:00:00"
    assert capsys.readouterr().out == f"{plan} on one worker\n"


def test_a_run_is_resumed_from_the_index_and_the_times_of_its_rows(tmp_path, monkeypatch):
    folder = started(tmp_path / "run")
    read, reads = VerifiedParquet.read, []

    def counted(self, columns=None):
        reads.append(columns or ["all"])
        return read(self, columns)

    monkeypatch.setattr(VerifiedParquet, "read", counted)

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny(folder), on_progress=stop)
    assert {tuple(names) for names in reads} == {("setting", "seconds")}


def test_a_task_is_found_once_at_every_step_of_a_compaction(tmp_path, monkeypatch, reference):
    with monkeypatch.context() as patch:
        patch.setattr(RowStore, "compact", lambda self: None)
        evaluate(tiny(tmp_path / "run"))
    monkeypatch.setattr("foolbox_carescale.evaluate.store.rows.ROWS", 16)
    found = []

    def watched(function):
        def call(*arguments, **keywords):
            found.append(factories.readable(tmp_path / "run"))
            return function(*arguments, **keywords)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((Path, "replace"), (Path, "unlink"), (os, "fsync")):
            patch.setattr(owner, name, watched(getattr(owner, name)))
        folder = RunFolder(tmp_path / "run")
        folder.record()
        folder.compact()
        folder.close()
    assert {own for _, own in found} == {len(reference)}
    others = [others for others, _ in found]
    assert others == sorted(others)
    assert others[0] == 0
    assert others[-1] == len(reference)
    assert rows(tmp_path / "run") == reference


HOLD = """
import pathlib, sys
from foolbox_carescale.evaluate.store.folder import RunFolder
folder = RunFolder(pathlib.Path(sys.argv[1]))
for number in map(int, sys.argv[2:]):
    folder.claim(number)
print("holds", flush=True)
sys.stdin.read()
"""


def test_a_process_that_waits_for_a_claim_of_another_says_so_once(tmp_path, reference, capsys):
    folder = started(tmp_path / "run", tasks=TASKS - 2)
    names = {f"{name[-5:]}-{name[:4]}" for name in RunFolder(folder).stored()}
    assert max(names) == f"{SAMPLES - 1:05d}-0001"  # of the last batch, the last two are missing
    command = [sys.executable, "-c", HOLD, str(folder), str(TASKS - SAMPLES - 1), str(TASKS - 1)]
    waits = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"holds\n"

        def follow(progress):
            print_settings(progress)
            if progress.waiting_for:
                waits.append(progress.waiting_for)
                other.stdin.close()

        evaluate(tiny(folder), on_progress=follow)
    assert len(waits) == 1
    line = f"waiting for task {waits[0]}, which another process computes; {TASKS - 2} of {TASKS}"
    assert capsys.readouterr().out.count(line) == 1
    assert rows(folder) == reference


def test_what_another_process_chose_while_this_one_started_holds(tmp_path, reference, monkeypatch):
    folder, start = tmp_path / "run", RunFolder.start
    backwards = dict(reversed(ATTACKS.items()))

    def late(self, record):
        monkeypatch.setattr(RunFolder, "start", start)
        started(folder, tasks=5, attacks=backwards)
        return start(self, record)

    monkeypatch.setattr(RunFolder, "start", late)
    assert computed(folder) == TASKS - 5
    assert list(RunFolder(folder).record()["resolved"]["attacks"]) == list(backwards)
    found = rows(folder)
    expected = [dict(row) for row in reference]
    for row in (*found, *expected):
        del row["setting"]
    order = operator.itemgetter("attack", "epsilon", "sample")
    assert sorted(found, key=order) == sorted(expected, key=order)


@pytest.mark.parametrize("shards", [4, 7])
def test_shards_one_after_the_other_give_the_same_run(tmp_path, reference, shards):
    parts = [computed(tmp_path / "run", shard=f"{i}/{shards}") for i in range(shards)]
    assert sum(parts) == TASKS
    batches = SAMPLES // shards
    assert set(parts) <= {4 * batches, 4 * (batches + 1)}  # 4 tasks on each batch
    assert rows(tmp_path / "run") == reference


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"shard": "3/3"}, "shard: 3/3 is not one of 3; they count from 0"),
        ({"shard": "1"}, "shard: '1' is not i/n; write 0/4"),
        ({"save": "everything"}, "save: there is no 'everything'"),
    ],
)
def test_a_shard_that_does_not_exist_is_one_line(tmp_path, changes, line):
    with pytest.raises(UserError) as caught:
        evaluate(tiny(tmp_path / "run", **changes))
    assert line in str(caught.value)


def test_shards_need_a_folder_that_they_share():
    with pytest.raises(UserError, match="output: is missing"):
        Evaluation(shard="0/2").validated()


def test_memory_does_not_grow_with_the_number_of_tasks(tmp_path):
    # PyTorch's caches and CPython's free lists fill up in the first tasks; not before the last
    # batch does a setting end, of which pytest keeps what is logged
    used, first, last = {}, 80, 160

    def measure(progress):
        if progress.done in (first, last):
            while len(os.listdir(tmp_path / "run" / "tasks")) < progress.done:
                time.sleep(0.01)  # the last ones are being stored
            time.sleep(0.2)
            gc.collect()
            used[progress.done] = np.array([sys.getallocatedblocks(), pa.total_allocated_bytes()])
        if progress.done == last:
            raise KeyboardInterrupt

    epsilons = np.linspace(0.1, 1, 34).round(4).tolist()
    attacks = {"noise": AttackConfig("L2AdditiveUniformNoiseAttack", epsilons)}
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny(tmp_path / "run", attacks=attacks), on_progress=measure)
    blocks, tables = used[last] - used[first]
    # one that keeps the rows of its tasks keeps 15 objects and 1,700 bytes for each
    assert blocks < 5 * (last - first)
    assert tables < 200 * (last - first)
