"""A user's script as a type checker sees it: `mypy` checks this file, and nothing runs it."""

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import assert_type

from foolbox_carescale import clipping_aware_rescaling, get_attack, perturb, reachable_norm
from foolbox_carescale.attacks import L2ClipAwarePGD, MinimalEpsilon
from foolbox_carescale.evaluate import AttackConfig, Evaluation, Results

x: npt.NDArray[np.float32] = np.zeros((2, 3), np.float32)
assert_type(perturb(x, x, 0.5), npt.NDArray[np.float32])
t = torch.zeros(2, 3)
assert_type(clipping_aware_rescaling(t, t, eps=torch.ones(2), p=1.5), torch.Tensor)
assert_type(reachable_norm(t, t), torch.Tensor)
attack = MinimalEpsilon(L2ClipAwarePGD(steps=3))
other = get_attack("LinfClipAwarePGD")()
config = Evaluation(attacks={"a": AttackConfig("L2ClipAwarePGD", [0.5])}, samples=3)


def robust(results: Results) -> list[float]:
    return [cell.robust_accuracy for cell in results.summary()]


# Mistakes, which mypy must find: it reports a comment that silences nothing.
perturb(x, x)  # type: ignore[call-arg]
robust(3)  # type: ignore[arg-type]
