import dataclasses
import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from foolbox_carescale.attacks.model import module_of
from foolbox_carescale.cli import main
from foolbox_carescale.evaluate import UserError, load_evaluation
from foolbox_carescale.evaluate.config.types import DataConfig, ModelConfig, TrackingConfig
from foolbox_carescale.evaluate.models.loading import load_model
from foolbox_carescale.training.checkpoints import load_checkpoint
from foolbox_carescale.training.config import (
    OptimizerConfig,
    RecipeConfig,
    ScheduleConfig,
    Training,
    load_training,
)
from foolbox_carescale.training.loop import Loop, shifted
from foolbox_carescale.training.trainer import _fabric, train
from tests.training import factories


class KilledError(BaseException):  # no error of the network's
    pass


def bytes_of(folder):
    return {name: (folder / name).read_bytes() for name in ("weights.safetensors", "history.csv")}


def stopped_at(step, monkeypatch, training):
    """A training that ends like a killed one: after a step, without a chance to tidy up."""
    taken, original = [], Loop._step

    def counted(self, batch):
        if len(taken) == step:
            raise KilledError
        taken.append(batch)
        original(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_step", counted)
        with pytest.raises(KilledError):
            train(training)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("kills", [(3, 2), pytest.param((1, 3, 2, 5), marks=pytest.mark.nightly)])
def test_killed_again_and_again_it_ends_with_the_same_weights_bit_for_bit(
    processes, tmp_path, kills
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(factories.training(whole, "adversarial-noise", patience=2))
    seen = set()
    for kill in kills:  # checkpoints that appear before the next kill
        child = processes.Process(
            target=factories.run, args=(killed, "adversarial-noise"), kwargs={"patience": 2}
        )
        child.start()
        await_checkpoints(killed / "checkpoint.pt", child, kill)
        child.kill()
        child.join()
        assert child.exitcode == -9
        content = load_checkpoint(killed / "checkpoint.pt")
        seen.add((content["epoch"], content["position"]))
    assert len(seen) == len(kills)
    assert any(position for _, position in seen)  # also in the middle of an epoch
    train(factories.training(killed, "adversarial-noise", patience=2))
    assert bytes_of(killed) == bytes_of(whole)
    assert not list((killed / ".unfinished").iterdir())
    assert not (killed / "checkpoint.pt").exists()


def await_checkpoints(path, child, count):
    def written():
        return path.stat().st_mtime_ns if path.exists() else None

    before, deadline = written(), time.monotonic() + 120
    while count:
        assert child.is_alive(), "it ended before it was killed"
        assert time.monotonic() < deadline
        if (now := written()) != before:
            before, count = now, count - 1
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("clean", {"optimizer": OptimizerConfig("AdamW"), "flip": True}),
        ("gaussian-naive", {"schedule": ScheduleConfig("CosineAnnealingLR")}),
        ("gaussian-exact", {"precision": "bfloat16"}),
        ("adversarial-noise", {"schedule": ScheduleConfig("ConstantLR", {"factor": 0.5})}),
        ("pgd-at", {}),
    ],
)
def test_every_recipe_resumes_from_the_middle_of_an_epoch(recipe, changes, tmp_path, monkeypatch):
    whole = factories.training(tmp_path / "whole", recipe, epochs=2, **changes)
    train(whole)
    # the checkpoint of every fourth step only, so that some steps are lost and taken again
    broken = dataclasses.replace(whole, output=str(tmp_path / "broken"), checkpoint_every=4)
    stopped_at(5, monkeypatch, broken)
    assert load_checkpoint(tmp_path / "broken" / "checkpoint.pt")["position"] == 4
    train(broken)
    assert bytes_of(tmp_path / "broken") == bytes_of(tmp_path / "whole")


def test_training_learns_and_another_seed_gives_other_weights(tmp_path):
    first = train(factories.training(tmp_path / "a", epochs=8))
    assert first.epochs[-1].loss < 0.5 * first.epochs[0].loss
    assert first.about["accuracy"] == 1.0
    train(factories.training(tmp_path / "b", epochs=8, seed=1))
    assert bytes_of(tmp_path / "a") != bytes_of(tmp_path / "b")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_two_processes_average_their_gradients_to_those_of_the_whole_batch_also_after_a_kill(
    request, processes, tmp_path, killed
):
    changes = {"norm": False, "shift": 0}
    one = train(factories.training(tmp_path / "one", **changes))
    if killed:
        child = processes.Process(
            target=factories.run, args=(tmp_path / "two",), kwargs={"processes": 2, **changes}
        )
        child.start()
        await_checkpoints(tmp_path / "two" / "checkpoint.pt", child, 4)
        child.kill()
        child.join()
    else:
        request.getfixturevalue("prepared")
    two = train(factories.training(tmp_path / "two", processes=2, **changes))
    weights = load_file(two.weights)
    for name, expected in load_file(one.weights).items():
        torch.testing.assert_close(weights[name], expected, rtol=1e-4, atol=1e-6)
    for mine, theirs in zip(one.epochs, two.epochs, strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-4)
        assert mine.accuracy == theirs.accuracy


@pytest.mark.usefixtures("prepared")
@pytest.mark.skipif(sys.platform == "win32", reason="there is no server of forked processes")
def test_two_processes_share_each_batch_and_keep_the_same_weights_also_when_resumed(tmp_path):
    config = dataclasses.replace(
        factories.training(tmp_path, "adversarial-noise", epochs=2), processes=2, threads=1
    )
    pixels, labels = (torch.from_numpy(values) for values in factories.images())
    launched = _fabric(config).launch(factories.in_each_process, config, pixels, labels)
    batches, weights, resumed = launched
    assert batches.shape == (2, 6 * 3)  # half of each of six batches
    assert len(np.unique(batches)) == 36
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(resumed, weights)


def test_early_stop_keeps_the_weights_of_the_best_epoch(tmp_path, monkeypatch):
    kept = {}
    original = Loop._measure

    def remembered(self):
        original(self)
        kept[len(self.history)] = self.network.state_dict()["0.weight"].clone()

    monkeypatch.setattr(Loop, "_measure", remembered)
    changes = {"optimizer": OptimizerConfig("SGD", 2.0), "schedule": ScheduleConfig("ConstantLR")}
    trained = train(factories.training(tmp_path, patience=2, epochs=50, **changes))
    losses = [epoch.perturbed_loss for epoch in trained.epochs]
    best = losses.index(min(losses)) + 1
    assert len(losses) == best + 2 < 50
    assert trained.about["epoch"] == best
    assert torch.equal(load_file(trained.weights)["0.weight"], kept[best])


def test_the_weights_are_what_evaluate_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "epochs=1", "holdout=0.9", "output=out"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines()[-2:] == [
        "out/weights.safetensors",
        "evaluate it with: carescale evaluate out",
    ]
    model, config = load_model(ModelConfig(weights="out/weights.safetensors"))
    assert config.mean == [0.5, 0.5, 0.5]
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    assert main(["train", "epochs=1", "holdout=0.9", "output=out"]) == 0  # nothing left to do
    assert main(["train", "out/config.yaml", "output=out"]) == 0
    assert main(["train", "epochs=2", "holdout=0.9", "output=out"]) == 2
    assert "epochs is 1 there and 2 here" in capsys.readouterr().err


def test_evaluate_takes_model_data_and_weights_from_the_folder_of_a_training(tmp_path):
    changes = {"epochs": 1, "holdout": 0.9, "output": tmp_path / "out"}
    train(Training(ModelConfig("squeezenet1_1", None), **changes))
    run = load_evaluation(tmp_path / "out", ["samples=2"])
    assert run.model.name == "squeezenet1_1"
    assert run.model.weights == str(tmp_path / "out" / "weights.safetensors")
    assert run.data.name == "digits"
    _, config = load_model(run.model)
    assert (config.mean, config.num_classes) == ([0.5] * 3, 10)
    with pytest.raises(UserError, match=r"does not fit .*; its network is squeezenet1_1; check"):
        load_model(ModelConfig("resnet18", run.model.weights))


def test_evaluate_takes_a_module_of_ones_own_from_the_folder_of_a_training(tmp_path):
    trained = train(factories.training(tmp_path / "out", epochs=1))
    with pytest.raises(UserError, match=r"model\._target_: .* add --allow-code"):
        load_evaluation(trained.folder)
    run = load_evaluation(trained.folder, allow_code=True)
    model, _ = load_model(run.model)
    stored = load_file(trained.weights)
    held = module_of(model).state_dict()
    assert held.keys() == stored.keys()
    assert all(torch.equal(held[name], stored[name]) for name in held)


def test_a_folder_that_evaluate_cannot_take_a_model_from_is_one_line(tmp_path):
    with pytest.raises(UserError, match="is a folder without a training"):
        load_evaluation(tmp_path)
    (tmp_path / "train.json").touch()
    with pytest.raises(UserError, match=r"has not ended; resume it with .*config\.yaml output="):
        load_evaluation(tmp_path)
    (tmp_path / "weights.safetensors").touch()
    for text in (None, "model: 3", "[]", "model: {}"):
        if text is not None:
            (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=r"config\.yaml") as caught:
            load_evaluation(tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is a folder; give a YAML file"):
        load_training(tmp_path)


def test_progress_is_shown_on_a_terminal_only(tmp_path, capsys):
    train(factories.training(tmp_path / "quiet", epochs=1))
    assert capsys.readouterr() == ("", "")
    train(factories.training(tmp_path / "shown", epochs=1), progress=True)
    assert capsys.readouterr().out != ""


def test_tensorboard_gets_every_epoch(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained = train(factories.training(tmp_path, epochs=2, tracking=TrackingConfig("tensorboard")))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    told = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in told] == [1, 2]
    assert told[1][1] == pytest.approx(trained.epochs[1].loss)


def test_a_checkpoint_of_another_training_or_model_is_one_line(tmp_path, monkeypatch):
    mine, other = tmp_path / "mine", tmp_path / "other"
    stopped_at(2, monkeypatch, factories.training(mine))
    stopped_at(2, monkeypatch, factories.training(other, recipe="gaussian-exact"))
    checkpoint = mine / "checkpoint.pt"
    own = checkpoint.read_bytes()
    checkpoint.write_bytes((other / "checkpoint.pt").read_bytes())
    with pytest.raises(UserError, match="belongs to another training"):
        train(factories.training(mine))
    checkpoint.write_bytes(own)
    # the same config, but the code that it names has changed
    monkeypatch.setattr(factories, "network", lambda norm: tiny_wider())
    with pytest.raises(UserError, match=r"belongs to another model .*size mismatch"):
        train(factories.training(mine))


def tiny_wider(network=factories.network):
    return network(width=5)


def test_a_checkpoint_of_the_older_format_is_refused_in_one_line(tmp_path):
    (tmp_path / "checkpoint.safetensors").touch()
    with pytest.raises(UserError, match=r"checkpoint\.safetensors is of an older format.*remove"):
        train(factories.training(tmp_path))


def test_a_damaged_checkpoint_is_one_line(tmp_path, monkeypatch):
    stopped_at(2, monkeypatch, factories.training(tmp_path))
    checkpoint = tmp_path / "checkpoint.pt"
    content = bytearray(checkpoint.read_bytes())
    content[-5] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint\.pt is damaged; remove it"):
        train(factories.training(tmp_path))


def test_other_data_under_the_same_name_are_refused(tmp_path, monkeypatch):
    stopped_at(2, monkeypatch, factories.training(tmp_path))
    pixels, labels = factories.images()
    monkeypatch.setattr(factories, "images", lambda: (1 - pixels, labels))
    with pytest.raises(UserError, match="data: the images are not those"):
        train(factories.training(tmp_path))


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    wild = OptimizerConfig("SGD", 1e30)
    with pytest.raises(UserError, match=r"not a number in epoch \d; lower optimizer\.lr"):
        train(factories.training(tmp_path, optimizer=wild, schedule=ScheduleConfig("ConstantLR")))
    assert not (tmp_path / "weights.safetensors").exists()


@pytest.mark.parametrize("recipe", ["clean", "adversarial-noise", "pgd-at"])
def test_a_network_with_too_few_classes_is_one_line(tmp_path, monkeypatch, recipe):
    pixels, labels = factories.images()
    monkeypatch.setattr(factories, "images", lambda: (pixels, labels + 1))
    line = (
        r"network gives logits of shape \(2,\), but .*images has labels up to 2; set model\.num_c"
    )
    with pytest.raises(UserError, match=line) as caught:
        train(factories.training(tmp_path, recipe))
    assert "\n" not in str(caught.value)


def test_an_error_in_the_network_is_one_line_that_names_it(tmp_path, monkeypatch):
    images, labels = factories.images()
    wider = np.concatenate([images, images], axis=-1)
    monkeypatch.setattr(factories, "images", lambda: (wider, labels))
    with pytest.raises(UserError, match=r"model\._target_: .*network raises RuntimeError: mat1"):
        train(factories.training(tmp_path, "clean"))


def test_wrong_use_is_one_line(tmp_path):
    for number, (changes, line) in enumerate(
        [
            (
                {"recipe": RecipeConfig("pgd")},
                "recipe.name: there is no 'pgd'; did you mean 'pgd-at'",
            ),
            ({"recipe": RecipeConfig("pgd-at")}, "recipe.eps: is missing"),
            (
                {"recipe": RecipeConfig("pgd-at", -1.0)},
                "recipe.eps: -1.0 is less than 0",
            ),
            (
                {"recipe": RecipeConfig("pgd-at", math.nan)},
                "recipe.eps: nan is not a finite number",
            ),
            ({"seed": 1e30}, "seed: 1e+30 is too large for an integer"),
            ({"recipe": RecipeConfig("pgd-at", 1.0, p=0.5)}, "recipe.p: 0.5 is not at least 1"),
            ({"optimizer": OptimizerConfig("Adm")}, "optimizer.name: PyTorch has no 'Adm'"),
            (
                {"optimizer": OptimizerConfig(params={"x": 1})},
                "optimizer: PyTorch cannot make AdamW",
            ),
            ({"schedule": ScheduleConfig("OneCycle")}, "did you mean 'OneCycleLR'"),
            ({"precision": "half"}, "precision: there is no 'half'"),
            ({"precision": "float16"}, "float16 does not train on the CPU; take bfloat16"),
            ({"batch_size": 7, "processes": 2}, "batch_size, 7, cannot be divided among 2"),
            ({"batch_size": 300}, "too few for batches of 300"),
            ({"data": DataConfig("foolbox/mnist")}, "images, for evaluation"),
            ({"model": ModelConfig(weights="none.pt")}, "'none.pt' is no such file"),
            ({"epochs": 0}, "epochs: 0 is less than 1"),
            ({"shift": -1}, "shift: -1 is less than 0"),
            ({"holdout": 1.0}, "holdout: 1.0 is not less than 1"),
            ({"model": ModelConfig(dtype="bfloat16")}, "is for evaluations; set precision instead"),
            ({"optimizer": OptimizerConfig(lr=0.0)}, "optimizer.lr: 0.0 is not greater than 0"),
            ({"schedule": ScheduleConfig("ReduceLROnPlateau")}, "works per epoch"),
            ({"recipe": RecipeConfig("pgd-at", 1.0, share=0.0)}, "share: 0.0 is not greater"),
            ({"recipe": RecipeConfig("pgd-at", 1.0, steps=0)}, "recipe.steps: 0 is less than 1"),
            ({"recipe": RecipeConfig("adversarial-noise", 1.0, kernel_size=2)}, "2 is not odd"),
            (
                {"recipe": RecipeConfig("adversarial-noise", 1.0, generator_lr=0)},
                "0 is not greater than 0",
            ),
        ]
    ):
        with pytest.raises(UserError) as caught:
            train(factories.training(tmp_path / str(number), **changes))
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)


def test_wrong_use_of_the_command_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for argument, line in (
        ("recipe=gausian", "recipe: there is no 'gausian'; did you mean 'gaussian-"),
        ("recipe.epsilon=1", "recipe.epsilon: there is no such key"),
        ("none.yaml", "none.yaml: there is no such file"),
    ):
        assert main(["train", argument]) == 2
        error = capsys.readouterr().err
        assert line in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("run.json", "holds an evaluation; choose another folder"),
        ("train.json", "is damaged, so it is not known which training the folder holds"),
    ],
)
def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path, name, line):
    (tmp_path / name).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=line):
        train(factories.training(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name]


RECORD = {
    "run": "1",
    "asked": {},
    "inputs": {},
    "resolved": {"threads": 1, "device": "cpu"},
}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**5,
        '{"a": ' * 10**5,
        "[]",
        "{}",
        json.dumps({**RECORD, "asked": [1]}),
        json.dumps({**RECORD, "resolved": {"threads": "many", "device": "cpu"}}),
        json.dumps({**RECORD, "resolved": 3}),
    ],
)
def test_a_record_that_no_training_writes_is_one_line(tmp_path, text):
    (tmp_path / "train.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.json is damaged") as caught:
        train(factories.training(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["train.json", "checkpoint.pt", "history.csv", "weights"])
def test_a_pipe_in_the_folder_of_a_training_is_one_line_and_not_waited_for(tmp_path, name):
    train(factories.training(tmp_path))
    path = tmp_path / ("weights.safetensors" if name == "weights" else name)
    if name == "checkpoint.pt":
        (tmp_path / "weights.safetensors").unlink()
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(UserError, match=path.name) as caught:
        train(factories.training(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_training_writes_through_no_link_in_its_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".unfinished").symlink_to(outside)
    with pytest.raises(UserError, match="cannot be written"):
        train(factories.training(tmp_path / "run"))
    assert not list(outside.iterdir())


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path):
    holder = (
        "import sys; from pathlib import Path;"
        "from foolbox_carescale.evaluate.store.folder import RunFolder;"
        f"store = RunFolder(Path({str(tmp_path)!r})); store.claim(0);"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process trains"):
            train(factories.training(tmp_path))
        process.stdin.close()


def test_the_command_without_words_is_the_python_default():
    assert load_training() == Training()


def test_arguments_stand_beside_the_name_of_what_takes_them():
    training = load_training(None, ["optimizer=sgd", "schedule=constant", "recipe=pgd-at"])
    assert training.optimizer.params == {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    assert training.schedule == ScheduleConfig("ConstantLR", {"factor": 1.0})
    assert training.recipe == RecipeConfig("pgd-at", eps=1.0, share=1.0)


def test_the_config_reads_back_as_the_same_training(tmp_path):
    training = load_training(None, ["recipe=gaussian-exact", "recipe.p=inf", "model=resnet18"])
    path = tmp_path / "train.yaml"
    path.write_text(training.to_yaml(), encoding="utf-8")
    assert load_training(path) == training


def test_each_image_is_moved_on_its_own_and_black_moves_in():
    torch.manual_seed(0)
    images = torch.ones(200, 3, 8, 8)
    moved = shifted(images, 3)
    assert moved.shape == images.shape
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    sums = moved[:, 0].sum((1, 2))
    assert {64.0, 25.0} < set(sums.tolist())  # not at all, and by 3 in both directions
    assert torch.equal(shifted(images, 0), images)


def test_training_starts_from_the_weights_that_are_given(tmp_path):
    start = tmp_path / "start.safetensors"
    from torchvision.models import shufflenet_v2_x0_5

    torch.manual_seed(5)
    save_file(shufflenet_v2_x0_5(num_classes=10).state_dict(), start)
    still = OptimizerConfig("SGD", 1e-30)
    training = Training(
        model=ModelConfig(weights=str(start), mean=[0.5] * 3, std=[0.5] * 3),
        optimizer=still,
        epochs=1,
        holdout=0.9,
        output=str(tmp_path / "out"),
    )
    trained = load_file(train(training).weights)
    for name, value in load_file(start).items():
        if name.endswith(("weight", "bias")):
            torch.testing.assert_close(trained[name], value)
