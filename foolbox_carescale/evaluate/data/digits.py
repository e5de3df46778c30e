"""The bundled data: scikit-learn's handwritten digits as small RGB images."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

SIDE = 32
"""Height and width in pixels after upsampling from 8 x 8."""

HELD_OUT_EVERY = 3
"""Every third image is held out: a rule that no library version can reshuffle."""


def digits(
    split: Literal["train", "test"] = "test",
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return scikit-learn's digits, upsampled bilinearly to 3 x 32 x 32, in [0, 1].

    The bundled model was trained on ``train`` only; evaluations use ``test``.

    Args:
        split: ``train`` (1198 images) or ``test`` (599 images), always in the same order.

    Returns:
        Images (N, 3, 32, 32), labels (N,), and indices (N,) into scikit-learn's data set.
    """
    import torch
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    index = np.arange(len(data.images))
    held_out = index % HELD_OUT_EVERY == 0
    index = index[held_out if split == "test" else ~held_out]
    grey = torch.from_numpy(data.images[index].astype(np.float32) / 16)[:, None]
    large = torch.nn.functional.interpolate(grey, size=(SIDE, SIDE), mode="bilinear")
    images = large.clamp(0, 1).expand(-1, 3, -1, -1).contiguous().numpy()
    return images, data.target[index].astype(np.int64), index.astype(np.int64)
