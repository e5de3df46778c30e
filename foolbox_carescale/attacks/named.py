"""The gradient attacks by name: settings of ``ClipAwareGradientAttack``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import eagerpy as ep
from foolbox.devutils import atleast_kd

from . import losses, schedules
from .base import lp_distance, variant
from .parameters import integer
from .pgd import ClipAwareGradientAttack
from .state import AttackState, Iterate, Sparsity
from .steps import sparse_step, step


class ClipAwareFGM(ClipAwareGradientAttack):
    """Fast gradient method: one gradient, and the exact maximiser of the linearised loss.

    argmax <grad, s> over ||s||_p <= epsilon with x + s inside the bounds: FGSM for p = inf.
    Coordinates with a zero gradient do not move. If the others cannot reach epsilon, the
    perturbation is as large as they allow.

    For p = 1 the maximiser moves few coordinates as far as they can go, where the loss is no longer
    linear. So the best of it and of steps that move more coordinates by less is returned.

    Args:
        p: Order of the norm, in [1, inf].
        loss: As for ``ClipAwareGradientAttack``.
        candidates: For p = 1: how many steps to choose from, the maximiser included, at one forward
            pass each; 1 takes the maximiser.

    Source: Goodfellow et al. 2015, arXiv 1412.6572; the maximiser is ``steepest_step``.
    """

    kind = "single gradient"
    candidates = integer(least=1)

    LESS = 10**-0.5  # how far a coordinate moves, from one candidate to the next

    def __init__(
        self, *, p: float = 2.0, loss: str | losses.Loss = "ce", candidates: int = 8
    ) -> None:
        super().__init__(
            p=p, loss=loss, steps=1, rel_stepsize=1.0, schedule="constant", momentum=0.0,
            direction="gradient", random_start=False, constraint="ball", keep="last", targets=1,
        )  # fmt: skip
        self.candidates = candidates

    def _run_restart(
        self,
        state: AttackState,
        loss_fn: losses.LossFn,
        restart: int,
        on_step: Callable[[Iterate], None] | None,
    ) -> ep.Tensor:
        if self.p != 1 or self.candidates == 1:
            return super()._run_restart(state, loss_fn, restart, on_step)
        x0, epsilon, bounds = state.x0, state.epsilon, state.model.bounds
        gradient = state.evaluate(x0, loss_fn, gradient=True).gradient
        sparsity = Sparsity("adaptive", x0, bounds)
        best = state.best
        for number in range(self.candidates):
            if number == 0:
                x = step(x0, gradient, epsilon, p=1, bounds=bounds)
            else:
                counts = sparsity.counts(x0, epsilon)
                x = sparse_step(x0, gradient, epsilon, counts, bounds=bounds)
                sparsity.move *= self.LESS
            point = state.evaluate(x, loss_fn, gradient=False)
            best.update(x, point.loss, point.is_adversarial)
        if on_step is not None:
            norm = lp_distance(x0, best.x, 1).raw
            loss, found = best.loss.raw, best.found.raw
            size = getattr(epsilon, "raw", epsilon)
            on_step(Iterate(1, 0, best.x.raw, norm, loss, found, size, 1, state.samples))
        chosen: ep.Tensor = best.x
        return chosen


ClipAwareBIM = variant(
    ClipAwareGradientAttack,
    "ClipAwareBIM",
    """Basic iterative method: ``ClipAwarePGD`` from the input itself, without random start.

    The arguments are those of ``ClipAwareGradientAttack``.

    Source: Kurakin et al. 2017, arXiv 1607.02533.
    """,
    fixed={"random_start": False, "restarts": 1},
    defaults={"steps": 10},
)

ClipAwarePGD = variant(
    ClipAwareGradientAttack,
    "ClipAwarePGD",
    """Projected gradient descent whose every iterate is exactly epsilon away after the clip.

    By default the step decreases from 2 epsilon by a cosine, with momentum of the iterates or, for
    p = 1 and p = inf, of the gradients, and the iterate with the highest loss is returned.
    ``schedule="constant"`` is the classical attack. The arguments are those of
    ``ClipAwareGradientAttack``.

    Source: Madry et al. 2018, arXiv 1706.06083, on the operator of Rauber & Bethge 2020,
    arXiv 2007.07677.
    """,
)

ClipAwareMomentumPGD = variant(
    ClipAwareGradientAttack,
    "ClipAwareMomentumPGD",
    """``ClipAwarePGD`` along accumulated gradients, each of L1 norm 1 (MI-FGSM).

    Each step keeps half of the sum for p = inf, and 0.3 of it for other p, as it does by default
    in ``ClipAwarePGD`` for p = 1 and p = inf; ``decay=1`` keeps all of it, as MI-FGSM does. The
    arguments are those of ``ClipAwareGradientAttack``.

    Source: Dong et al. 2018, arXiv 1710.06081.
    """,
    fixed={"direction": "momentum"},
)

ClipAwareAdamPGD = variant(
    ClipAwareGradientAttack,
    "ClipAwareAdamPGD",
    """``ClipAwarePGD`` along Adam's direction: first over root of second moment.

    Without momentum by default, as the first moment is one. The arguments are those of
    ``ClipAwareGradientAttack``.

    Source: Kingma & Ba 2015, arXiv 1412.6980.
    """,
    fixed={"direction": "adam"},
    defaults={"momentum": 0.0},
)

ClipAwareAPGD = variant(
    ClipAwareGradientAttack,
    "ClipAwareAPGD",
    """Auto-PGD on exact steps and projections: each sample halves its step when it stalls.

    The arguments are those of ``ClipAwareGradientAttack``.

    Source: Croce & Hein 2020, arXiv 2003.01690.
    """,
    fixed={"schedule": "halving"},
    defaults={"steps": 100},
)


class _FrankWolfe(ClipAwareGradientAttack):
    _is_sparse = False

    def _step(
        self, x: ep.Tensor, direction: ep.Tensor, size: Any, state: AttackState, *, overwrite: bool
    ) -> ep.Tensor:
        x0, epsilon, bounds = state.x0, state.epsilon, state.model.bounds
        vertex = step(x0, direction, epsilon, p=self.p, bounds=bounds, overwrite=overwrite)
        part: Any
        if isinstance(epsilon, float):
            part = size / (epsilon or 1.0)
        else:
            part = size / ep.where(epsilon > 0, epsilon, ep.ones_like(epsilon))
        if not isinstance(part, float):
            part = atleast_kd(part, x.ndim).astype(x.dtype)
        move = vertex - x
        del vertex
        move = part * move
        moved: ep.Tensor = x + move
        return moved

    def _schedule(self, fall: int) -> schedules.Schedule:
        if self.rel_stepsize is None and self.schedule == "cosine":
            return schedules.Cosine(1.0, schedules.FINAL_STEP, self.steps)
        return super()._schedule(fall)


ClipAwareFrankWolfe = variant(
    _FrankWolfe,
    "ClipAwareFrankWolfe",
    """Frank-Wolfe: move part of the way to the maximiser of the linearised loss around the input.

    x + gamma (v - x) with v = argmax <grad, v> over ball and box, which is ``steepest_step``
    from the input; gamma decreases from 1 by a cosine; ``rel_stepsize`` is the first one. With
    ``constraint="ball"`` it needs no projection: the iterates are convex combinations. The
    arguments are those of ``ClipAwareGradientAttack``.

    Source: Chen et al. 2020, arXiv 1811.10828.
    """,
    fixed={"abs_stepsize": None, "sparsity": 1.0, "larger_epsilon": 1.0},
    defaults={"momentum": 0.0, "direction": "gradient"},
)
