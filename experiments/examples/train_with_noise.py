"""Train on noise of exactly epsilon: a small network on digits, clean and noisy, side by side.

python -m experiments.examples.train_with_noise [--epochs 15]
"""

import argparse

import torch

from foolbox_carescale import perturb
from foolbox_carescale.evaluate.data.digits import digits
from foolbox_carescale.training import ExactNoise

EPSILON = 15.0  # L2, on 3 x 32 x 32 pixels


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Held-out accuracy under noise at exactly epsilon, by what the network was trained on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args(arguments)

    images, labels = (torch.from_numpy(array) for array in digits("train")[:2])
    held_out, classes = (torch.from_numpy(array) for array in digits("test")[:2])
    torch.manual_seed(0)
    noisy = perturb(held_out, torch.randn_like(held_out), EPSILON)

    accuracy = {}
    augmentations = {"clean": torch.nn.Identity(), "noise": ExactNoise((0.0, EPSILON), p=2)}
    for name, augment in augmentations.items():
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, stride=2), torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2), torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(512, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        for _ in range(options.epochs):
            for batch in torch.randperm(len(images)).split(64):
                logits = network(augment(images[batch]))
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(logits, labels[batch]).backward()
                optimizer.step()
        with torch.no_grad():
            clean = (network(held_out).argmax(1) == classes).float().mean()
            accuracy[name] = float((network(noisy).argmax(1) == classes).float().mean())
        print(f"trained on {name}: {clean:.3f} on clean digits, {accuracy[name]:.3f} on noisy ones")
    return accuracy


if __name__ == "__main__":
    main()
