"""A training that takes a second: 40 small images and a network of two layers."""

import copy
import os
import signal

import numpy as np
import torch

from foolbox_carescale.evaluate.config.types import DataConfig, ModelConfig
from foolbox_carescale.training.config import OptimizerConfig, RecipeConfig, Training

SIDE, CLASSES = 8, 2


def images():
    random = np.random.default_rng(0)
    labels = np.arange(40) % CLASSES
    pixels = random.uniform(0, 0.6, (40, 3, SIDE, SIDE))
    pixels[labels == 1, :, :4] += 0.4
    return pixels.astype(np.float32), labels


def network(norm=True, width=4):
    layers = [torch.nn.Conv2d(3, width, 3), torch.nn.BatchNorm2d(width)]
    return torch.nn.Sequential(
        *layers[: 2 if norm else 1],
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(width * (SIDE - 2) ** 2, CLASSES),
    )


def training(output, recipe="clean", *, norm=True, **changes):
    defaults = {
        "model": ModelConfig(
            weights=None, _target_="tests.training.factories.network", params={"norm": norm}
        ),
        "data": DataConfig(_target_="tests.training.factories.images"),
        "recipe": RecipeConfig(recipe, eps=1.0, steps=2) if isinstance(recipe, str) else recipe,
        "optimizer": OptimizerConfig("SGD", 0.05, {"momentum": 0.9}),
        "epochs": 3,
        "batch_size": 6,
        "shift": 1,
        "device": "cpu",
        "checkpoint_every": 1,
        "output": str(output),
    }
    return Training(**{**defaults, **changes})


def run(*arguments, **changes):
    """For a process of its own."""
    from foolbox_carescale.training.trainer import train

    train(training(*arguments, **changes))


def run_until_killed(epoch, *arguments, **changes):
    """For a process of its own, which ends after so many epochs as by a kill from outside."""
    from foolbox_carescale.training.loop import Loop

    original = Loop._measure

    def measured(self):
        if self.epoch == epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self)

    Loop._measure = measured
    run(*arguments, **changes)


def in_each_process(fabric, config, pixels, labels):
    """What the processes of a training hold: a row for each, of batches and of weights.

    The weights are those at its end, and those of a second training that resumes from what a
    checkpoint after eight steps, two of them in the second epoch, would hold.
    """
    from foolbox_carescale.training.loop import Loop

    whole = Loop(fabric, config, pixels, labels)
    batches = torch.stack(whole._batches()).flatten()
    for step in whole.steps():
        content = whole.content("run")
        if step == 8:
            stored = copy.deepcopy(content)
    resumed = Loop(fabric, config, pixels, labels)
    resumed.restore(stored, "run", "stored")
    for _ in resumed.steps():
        resumed.content("run")
    found = [batches, *(_learned(loop) for loop in (whole, resumed))]
    # as arrays: a tensor's memory would be gone with the process
    gathered = [whole._gathered(values).numpy() for values in found]
    fabric.barrier()  # a process that ends while the other still speaks with it is aborted
    return gathered


def _learned(loop):
    tensors = [*loop.network.state_dict().values(), *loop.recipe._generator.parameters()]
    return torch.cat([tensor.detach().flatten().double() for tensor in tensors])
