"""Train the classifier whose weights ship with the package.

A torchvision ShuffleNet v2 x0.5 on scikit-learn's digits. Every third image is
held out; it is never seen here except for the accuracy that is printed at the end.

    python -m experiments.train_digits [--output PATH]
    python -m experiments.train_digits --adversarial 1.0 --output robust.safetensors

With ``--adversarial EPSILON`` every batch is first attacked by ``ClipAwarePGD`` (Madry et al.
2018, arXiv 1706.06083), in the L2 or with ``--norm Linf`` in the Linf norm: the robust models of
the strength benchmark.

Single-threaded and seeded: on one machine and one torch version, two runs write
the same bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from foolbox.models import PyTorchModel
from safetensors.torch import save_file
from torchvision.models import shufflenet_v2_x0_5

from foolbox_carescale.attacks import ClipAwarePGD
from foolbox_carescale.evaluate.data.digits import digits
from foolbox_carescale.evaluate.models.loading import BUNDLED_WEIGHTS, Normalized

MEAN = STD = (0.5, 0.5, 0.5)
EPOCHS = 40
BATCH = 64
PEAK_LEARNING_RATE = 1e-2
ADVERSARIAL_STEPS = 5
NORMS = {"L2": 2.0, "Linf": math.inf}
SHIFT = 3  # pixels, of 32: less than one pixel of the original 8 x 8 image


def train(seed: int = 0, epochs: int = EPOCHS, epsilon: float = 0.0, p: float = 2.0) -> Normalized:
    """A classifier of the digits, in evaluation mode; adversarially trained where epsilon > 0."""
    torch.manual_seed(seed)
    images_, labels_, _ = digits("train")
    images, labels = torch.from_numpy(images_), torch.from_numpy(labels_)
    model = Normalized(shufflenet_v2_x0_5(num_classes=10), MEAN, STD)
    steps_per_epoch = len(images) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=5e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=epochs * steps_per_epoch
    )
    for epoch in range(epochs):
        model.train()
        total = 0.0
        # batches of equal size: a last batch of one or two would spoil batch norm
        for batch in torch.randperm(len(images))[: steps_per_epoch * BATCH].split(BATCH):
            inputs = shifted(images[batch])
            if epsilon:
                inputs = attacked(model, inputs, labels[batch], epsilon, p)
            logits = model(inputs)
            loss = torch.nn.functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1:2d}/{epochs}  loss {total / steps_per_epoch:.4f}", flush=True)
    return model.eval()


def attacked(
    model: Normalized, images: torch.Tensor, labels: torch.Tensor, epsilon: float, p: float
) -> torch.Tensor:
    """The images under a short attack on the model in evaluation mode."""
    attack = ClipAwarePGD(p=p, steps=ADVERSARIAL_STEPS, keep="last", random_start=False)
    model.eval()
    advs = attack.run(PyTorchModel(model, bounds=(0, 1)), images, labels, epsilon=epsilon)
    model.train()
    return advs.detach()  # type: ignore[no-any-return]


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Each image moved by up to SHIFT pixels; the background, 0, moves in."""
    side = images.shape[-1]
    padded = torch.nn.functional.pad(images, (SHIFT,) * 4)
    offsets = torch.randint(0, 2 * SHIFT + 1, (len(images), 2)).tolist()
    return torch.stack(
        [
            image[:, top : top + side, left : left + side]
            for image, (top, left) in zip(padded, offsets, strict=True)
        ]
    )


def accuracy(model: torch.nn.Module, split: str) -> float:
    """The share of a split's images that the model classifies correctly."""
    images, labels, _ = digits(split)  # type: ignore[arg-type]
    with torch.no_grad():
        predictions = model(torch.from_numpy(images)).argmax(1).numpy()
    return float(np.mean(predictions == labels))


def main() -> None:
    """Train, print the accuracy, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=BUNDLED_WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--adversarial", type=float, default=0.0, metavar="EPSILON")
    parser.add_argument("--norm", choices=NORMS, default="L2", help="of the adversarial training")
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # the order of summation, so the bytes, depend on the thread count
    torch.use_deterministic_algorithms(True)
    started = time.perf_counter()
    model = train(arguments.seed, arguments.epochs, arguments.adversarial, NORMS[arguments.norm])
    held_out = accuracy(model, "test")
    print(f"training {accuracy(model, 'train'):.4f}, held out {held_out:.4f}", end=", ")
    print(f"{time.perf_counter() - started:.0f} s")
    save_file(
        {name: value.contiguous() for name, value in model.model.state_dict().items()},
        arguments.output,
        # one entry only: safetensors writes several in random order
        metadata={
            "carescale": json.dumps(
                {
                    "architecture": "shufflenet_v2_x0_5",
                    "num_classes": 10,
                    "mean": MEAN,
                    "std": STD,
                    "accuracy": round(held_out, 4),
                }
            )
        },
    )
    arguments.output.chmod(0o644)  # it goes into the wheel as it is
    print(f"wrote {arguments.output} ({arguments.output.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
