"""Attack a torchvision model: a ShuffleNet v2 trained on digits, with weights from the package.

python -m experiments.examples.torchvision_model [--output docs/images/example_attack.png]
"""

import argparse
from pathlib import Path

import foolbox
import matplotlib.pyplot as plt
import torch
import torchvision
from safetensors.torch import load_file

import foolbox_carescale  # noqa: F401  # adds the attacks to foolbox.attacks
from foolbox_carescale.evaluate.data.digits import digits
from foolbox_carescale.evaluate.models.loading import BUNDLED_WEIGHTS

EPSILON = {"L1": 8.0, "L2": 0.6, "Linf": 0.02}


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Robust accuracy by norm; draws an image of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/images/example_attack.png"))
    options = parser.parse_args(arguments)

    model = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    model.load_state_dict(load_file(BUNDLED_WEIGHTS))
    preprocessing = {"mean": 0.5, "std": 0.5}  # those that it was trained with
    fmodel = foolbox.PyTorchModel(
        model.eval(), bounds=(0, 1), preprocessing=preprocessing, device="cpu"
    )
    images, labels = (torch.from_numpy(array[:8]) for array in digits()[:2])

    torch.manual_seed(0)  # of the random starts
    robust = {}
    figure, axes = plt.subplots(1, 4, figsize=(8, 2.4), layout="constrained")
    axes[0].imshow(images[0].permute(1, 2, 0).numpy())
    axes[0].set_title(f"digit {labels[0]}")
    for axis, (norm, epsilon) in zip(axes[1:], EPSILON.items(), strict=True):
        attack = getattr(foolbox.attacks, f"{norm}ClipAwarePGD")(steps=20)
        _, advs, fooled = attack(fmodel, images, labels, epsilons=epsilon)
        robust[norm] = 1 - float(fooled.float().mean())
        order = float(norm.removeprefix("L"))
        norms = torch.linalg.vector_norm((advs - images).flatten(1), ord=order, dim=1)
        print(
            f"{norm:>4}, epsilon {epsilon}: robust accuracy {robust[norm]:.2f}, "
            f"norms {norms.min():.6f} to {norms.max():.6f}"
        )
        axis.imshow(advs[0].permute(1, 2, 0).numpy())
        axis.set_title(f"{norm}, {epsilon}: seen as {fmodel(advs[:1]).argmax()}")
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(options.output, dpi=90)
    plt.close(figure)
    return robust


if __name__ == "__main__":
    main()
