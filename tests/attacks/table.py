"""Settings of every attack, and what their tests measure of its points."""

import itertools
import math

import numpy as np
import pytest

from foolbox_carescale import attacks
from tests.attacks import model_cases

ORDERS = (1, 1.5, 2, 3, math.inf)
NOISES = (
    attacks.ClipAwareGaussianNoise,
    attacks.ClipAwareUniformNoise,
    attacks.ClipAwareLaplaceNoise,
    attacks.ClipAwareSaltAndPepperNoise,
)


def row(attack, **arguments):
    parts = (f"{name}={value}" for name, value in arguments.items())
    return pytest.param(attack, arguments, id=f"{attack.__name__}({', '.join(parts)})")


GRADIENT_ROWS = [
    *(
        row(attacks.ClipAwarePGD, p=p, constraint=constraint, schedule=schedule, steps=4)
        for p in ORDERS
        for constraint in ("sphere", "ball")
        for schedule in ("cosine", "constant")
    ),
    *(
        row(attacks.ClipAwareBIM, p=p, constraint=constraint, steps=4)
        for p in ORDERS
        for constraint in ("sphere", "ball")
    ),
    *(row(attacks.ClipAwareBIM, p=p, schedule="constant", steps=4) for p in (1, 2, math.inf)),
    *(row(attacks.ClipAwareFGM, p=p) for p in ORDERS),
    row(attacks.ClipAwarePGD, p=2, abs_stepsize=0.3, momentum=0.0, keep="last", steps=4),
    *(row(attacks.ClipAwarePGD, p=p, larger_epsilon=2, steps=4) for p in (1, 2, math.inf)),
    row(attacks.ClipAwareAPGD, p=1, steps=20, restarts=2),
    row(attacks.ClipAwarePGD, p=1, rel_stepsize=0.1, momentum=0.75, sparsity=0.2, steps=4),
    row(attacks.ClipAwarePGD, p=math.inf, random_start=False, steps=4),
    *(
        row(kind, p=p, steps=4)
        for kind in (
            attacks.ClipAwareMomentumPGD,
            attacks.ClipAwareAdamPGD,
            attacks.ClipAwareAPGD,
            attacks.ClipAwareFrankWolfe,
        )
        for p in (1, 2, math.inf)
    ),
    row(attacks.ClipAwareAPGD, p=1, sparsity="adaptive", direction="conjugate", steps=12),
    row(attacks.ClipAwareAPGD, p=2, constraint="ball", steps=20, restarts=2),
    row(attacks.ClipAwareFrankWolfe, p=1.5, constraint="ball", steps=4),
    *(
        row(attacks.ClipAwarePGD, p=2, steps=3, loss=loss)
        for loss in ("margin", "dlr", "dlr_targeted")
    ),
    row(attacks.LpClipAwarePGD, p=1.3, steps=3),
]
NOISE_ROWS = [
    *(row(noise, p=p, repeats=1 + (p == 2)) for noise in NOISES for p in (0.5, *ORDERS)),
]
SEARCH_ROWS = [
    *(row(attacks.ClipAwareSquare, p=p, queries=8) for p in (0.5, *ORDERS)),
    *(
        row(attacks.ClipAwareAutoAttack, p=p, steps=2, restarts=1, queries=3)
        for p in (1, 1.5, 2, math.inf)
    ),
    row(attacks.ClipAwareAutoAttack, attacks=("pgd-margin",), steps=2, restarts=2),
]
ROWS = GRADIENT_ROWS + NOISE_ROWS + SEARCH_ROWS
# one of each kind, where a property does not depend on the setting
SOME_GRADIENT = [
    row(attacks.ClipAwarePGD, p=1, steps=3),
    row(attacks.ClipAwarePGD, p=2, steps=3),
    row(attacks.ClipAwarePGD, p=3, steps=3),
    row(attacks.ClipAwarePGD, p=math.inf, steps=3, constraint="ball"),
    row(attacks.ClipAwareBIM, p=2, steps=3),
    row(attacks.ClipAwareFGM, p=2),
]
SOME = [
    *SOME_GRADIENT,
    row(attacks.ClipAwareFrankWolfe, p=2, steps=3),
    row(attacks.ClipAwareGaussianNoise, p=2, repeats=2),
    row(attacks.ClipAwareSquare, p=1, queries=5),
    row(
        attacks.ClipAwareAutoAttack,
        p=math.inf,
        steps=2,
        targets=1,
        restarts=1,
        queries=3,
        seed=None,
    ),
]


def in_turns(rows, names=("make", "arguments")):
    """Parametrise with each row on PyTorch, and with one in ten on each other model case."""
    pairs = [("torch", row) for row in rows]
    turns = itertools.count(1)
    for name in model_cases.WITH_GRADIENT[1:]:
        for _ in range(max(1, len(rows) // 10)):
            pairs.append((name, rows[int(0.618034 * next(turns) * len(rows)) % len(rows)]))
    pairs = [pytest.param(name, *row.values, id=f"{name}-{row.id}") for name, row in pairs]
    return pytest.mark.parametrize(("case", *names), pairs, indirect=["case"])


every_backend = pytest.mark.parametrize("case", model_cases.WITH_GRADIENT, indirect=True)
on_torch = pytest.mark.parametrize("case", ["torch"], indirect=True)


def iterates_of(attack, case, criterion=None, **arguments):
    """Return what the attack returns, and every iterate on the way."""
    seen = []
    if isinstance(attack, attacks.ClipAwareGradientAttack):
        arguments["on_step"] = seen.append
    criterion = case.labels if criterion is None else criterion
    return attack(case.model, case.x, criterion, **arguments), seen


def assert_norm(case, points, p, epsilon, *, at_most=False):
    excess = case.norm(points, p) - epsilon
    if at_most:
        # each coordinate is rounded once more when it is added to x, which p = inf feels
        rounding = np.spacing(np.float32(max(map(abs, case.model.bounds)))) / 2
        assert np.all(excess <= 1e-6 * epsilon + (rounding if p == math.inf else 0.0))
    else:
        assert np.all(np.abs(excess) <= 1e-5 * epsilon)
    assert case.in_box(points)
