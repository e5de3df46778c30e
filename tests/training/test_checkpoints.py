import json
import math
import os

import pytest
import torch
from safetensors import safe_open

from foolbox_carescale.evaluate.errors import StorageError, UserError
from foolbox_carescale.training.checkpoints import (
    load_checkpoint,
    read_about,
    save_checkpoint,
    save_weights,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pt"


def saved(path, content):
    save_checkpoint(path, content, temporary=path.parent)
    return load_checkpoint(path)


def test_numbers_strings_and_nesting_come_back_as_they_were(path):
    content = {
        "none": None,
        "float": 0.1,
        "limits": [math.inf, -math.inf],
        "tuple": (1, (True, "a"), []),
        "numbers as keys": {0: {"x": 1.5}, 7: {}},
        "empty": {},
    }
    assert saved(path, content) == content


def test_tensors_keep_type_shape_and_every_bit(path):
    tensors = [
        torch.tensor(3.0),
        torch.tensor([[True, False]]),
        torch.arange(6).reshape(2, 3).t(),  # not contiguous
        torch.tensor([1.0, math.nan]),
        torch.ones(2, 3, dtype=torch.bfloat16),
        torch.get_rng_state(),
    ]
    for tensor, back in zip(tensors, saved(path, {"a": tensors})["a"], strict=True):
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(
            back.reshape(-1).view(torch.uint8), tensor.contiguous().reshape(-1).view(torch.uint8)
        )


@pytest.mark.parametrize(
    ("optimizer", "params"),
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.AdamW, {"lr": 0.1, "amsgrad": True}),
        (torch.optim.RMSprop, {"lr": 0.1, "centered": True}),
        (torch.optim.NAdam, {"lr": 0.1}),
    ],
)
def test_optimisers_and_schedulers_resume_from_what_is_stored(path, optimizer, params):
    def made():
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 2)
        learner = optimizer(network.parameters(), **params)
        return network, learner, torch.optim.lr_scheduler.OneCycleLR(learner, 0.3, total_steps=9)

    def steps(parts, count):
        network, learner, schedule = parts
        for i in range(count):
            learner.zero_grad()
            network(torch.full((4, 3), i + 1.0)).square().sum().backward()
            learner.step()
            schedule.step()

    whole, first, second = made(), made(), made()
    for count in (3, 4):
        steps(whole, count)
    steps(first, 3)
    content = saved(path, {str(i): part.state_dict() for i, part in enumerate(first)})
    for i, part in enumerate(second):
        part.load_state_dict(content[str(i)])
    steps(second, 4)
    assert torch.equal(second[0].weight, whole[0].weight)
    assert second[2].get_last_lr() == whole[2].get_last_lr()


def test_every_flipped_byte_and_every_truncation_is_noticed(path):
    save_checkpoint(path, {"a": torch.arange(3.0), "b": [1, "x"]}, temporary=path.parent)
    whole = path.read_bytes()
    damaged = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    for content in damaged + [whole[:length] for length in range(0, len(whole), 7)]:
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            load_checkpoint(path)


def test_a_checkpoint_that_would_run_code_is_refused(path):
    class Payload:
        def __reduce__(self):
            return (path.with_name("ran").touch, ())

    save_checkpoint(path, {"a": Payload()}, temporary=path.parent)
    with pytest.raises(UserError, match="holds more than tensors and numbers; remove it"):
        load_checkpoint(path)
    assert not path.with_name("ran").exists()


def test_a_file_that_is_not_there_is_one_line(path):
    with pytest.raises(UserError, match="checkpoint: there is no file"):
        load_checkpoint(path)


def test_weights_of_a_network_are_no_checkpoint(path):
    save_weights(path, {"w": torch.ones(2)}, {"num_classes": 3}, temporary=path.parent)
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_one_line_and_leaves_what_was_there(path):
    save_checkpoint(path, {"a": 1}, temporary=path.parent)
    path.parent.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="cannot be written"):
            save_checkpoint(path, {"a": 2}, temporary=path.parent)
    finally:
        path.parent.chmod(0o700)
    assert load_checkpoint(path) == {"a": 1}


def test_a_missing_folder_is_one_line(path):
    with pytest.raises(StorageError, match="cannot be written"):
        save_checkpoint(path, {"a": 2}, temporary=path.parent / "nowhere")


def test_weights_carry_what_describes_them_and_are_the_same_bytes_each_time(path):
    about = {"num_classes": 3, "mean": [0.5], "accuracy": 0.25}
    state = {f"layer{i}": torch.ones(i + 1) for i in range(20)}
    save_weights(path, state, about, temporary=path.parent)
    first = path.read_bytes()
    assert read_about(path) == about
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["carescale"]) == about
    save_weights(path, state, about, temporary=path.parent)
    assert path.read_bytes() == first
