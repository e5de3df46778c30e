"""An image folder and a weights file for a torchvision ResNet-50, made without network.

    python -m experiments.resnet50_folder [--output runs/resnet50_folder]
    carescale evaluate experiments/resnet50_folder.yaml

The images are the 20 photographs that come with Foolbox, one directory per class. The network is
untrained but for its last layer, which is fitted to these very images by least squares: enough
for an attack to have something to do, and no measure of anything.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import foolbox
import torch
from safetensors.torch import save_file
from torchvision.models import resnet50

from foolbox_carescale.evaluate import DataConfig
from foolbox_carescale.evaluate.data.sources import load_data

SIZE = 224
MARGIN = 10.0  # of the right class's logit, for a confident network


def make_folder(root: Path) -> None:
    """One directory per class, named for ImageNet's number of it."""
    for file in sorted((Path(foolbox.__file__).parent / "data").glob("imagenet_*")):
        label = int(file.stem.rpartition("_")[2])
        directory = root / f"class_{label:04d}"
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, directory)


def fit(root: Path, size: int) -> dict[str, torch.Tensor]:
    """The state dict of a ResNet-50 that classifies the images of a folder at that size."""
    data = load_data(DataConfig("folder", root=str(root), size=size))
    torch.manual_seed(0)
    network = resnet50(num_classes=data.num_classes).eval()
    head, network.fc = network.fc, torch.nn.Identity()
    with torch.no_grad():
        batches = torch.from_numpy(data.images).split(10)
        features = torch.cat([network(batch) for batch in batches]).double()
        wanted = MARGIN * torch.nn.functional.one_hot(torch.from_numpy(data.labels)).double()
        # the mean is taken out, so that the solution of least norm looks at what differs
        mean = features.mean(0)
        weight = torch.linalg.lstsq(features - mean, wanted, driver="gelsd").solution.T
        head.weight.copy_(weight)
        head.bias.copy_(-weight @ mean)
    network.fc = head
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def main() -> None:
    """Write the folder and the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/resnet50_folder"))
    parser.add_argument("--size", type=int, default=SIZE)
    arguments = parser.parse_args()
    make_folder(arguments.output / "images")
    state = fit(arguments.output / "images", arguments.size)
    save_file(state, arguments.output / "resnet50.safetensors")
    print(f"wrote {arguments.output}/images and {arguments.output}/resnet50.safetensors")


if __name__ == "__main__":
    main()
