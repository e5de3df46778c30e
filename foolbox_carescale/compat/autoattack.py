"""``ClipAwareAutoAttack`` under the signature of AutoAttack."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ..attacks import ClipAwareAutoAttack
from ..attacks.arguments import checked_epsilons
from ..attacks.ensemble import STAGES, VERSIONS

Tensor = torch.Tensor

ORDERS = {"L1": 1.0, "L2": 2.0, "Linf": float("inf")}

ALIASES = {"apgd-dlr": "pgd-margin", "fab": "minimum-norm", "fab-t": "minimum-norm"}
"""AutoAttack's attacks that the ensemble has under another name, as they differ more."""


class AutoAttack:
    """Run ``ClipAwareAutoAttack``, called as AutoAttack is.

    ::

        adversary = AutoAttack(model, norm="Linf", eps=8 / 255)
        x_adv = adversary.run_standard_evaluation(x, y, bs=250)

    Every attack runs on the samples that are still robust, batch by batch, and a line tells the
    robust accuracy after it. The attacks are those of the ensemble: see ``ClipAwareAutoAttack``.

    Args:
        model: A PyTorch module, or a function, from images in [0, 1] to logits.
        norm: "L1", "L2" or "Linf".
        eps: Norm of the perturbation.
        seed: Of all random numbers; None draws others in each run.
        verbose: Print lines.
        attacks_to_run: For ``version="custom"``: stages of the ensemble, or AutoAttack's names of
            its attacks. Assigning ``adversary.attacks_to_run`` does the same.
        version: "standard", "plus", "fast", "rand" or "custom".
        is_tf_model: False; a TensorFlow model takes ``ClipAwareAutoAttack`` itself.
        device: Of the batches; by default that of the model, and of the images if it is a function.
        log_path: A file that gets the lines too.

    Source: Croce & Hein 2020, arXiv 2003.01690; https://github.com/fra31/auto-attack.
    """

    def __init__(
        self,
        model: Any,
        norm: Literal["L1", "L2", "Linf"] = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: Any = None,
        log_path: str | Path | None = None,
    ) -> None:
        if is_tf_model:
            raise ValueError(
                "is_tf_model: expected False; call ClipAwareAutoAttack with a"
                " foolbox.TensorFlowModel"
            )
        if norm not in ORDERS:
            raise ValueError(f"norm: expected one of {', '.join(ORDERS)}, got {norm!r}")
        self.model: Any = model if isinstance(model, torch.nn.Module) else _Function(model)
        self.norm, self.seed = norm, seed
        self.epsilon = checked_epsilons(eps, minimizes=False, name="eps")
        self.verbose, self.log_path = verbose, log_path
        self.device = device or device_of(self.model)
        self.set_version(version)
        if attacks_to_run:
            if version != "custom":
                raise ValueError(
                    f"attacks_to_run: version={version!r} has its own; set version='custom'"
                )
            self.attacks_to_run = list(attacks_to_run)

    def set_version(self, version: str = "standard") -> None:
        """Take the attacks of a version; those of "standard" for "custom", until others are set."""
        versions = {str(name): settings for name, settings in VERSIONS.items()}
        versions["custom"] = VERSIONS["standard"]
        if version not in versions:
            raise ValueError(f"version: expected one of {', '.join(versions)}, got {version!r}")
        self.version = version
        self._settings = versions[version]
        self.attacks_to_run = list(self._settings["attacks"])

    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: None = None,
    ) -> Any:
        """Attack, and print the robust accuracy after each attack.

        Args:
            x_orig: Images in [0, 1], shape (N, ...).
            y_orig: Labels, shape (N,).
            bs: Images in a batch.
            return_labels: Return predictions too.
            state_path: None; ``carescale evaluate`` stores and resumes.

        Returns:
            The images, adversarial where an attack succeeded; with ``return_labels`` a pair of them
            and their predictions, shape (N,).
        """
        if state_path is not None:
            raise ValueError(
                "state_path: expected None; a run that can be resumed is one of carescale evaluate"
            )
        attacks = {name: self._attack(name) for name in self.attacks_to_run}
        self._log(f"using {self.version} version including {', '.join(attacks)}.")
        predicted = self._predict(x_orig, bs)
        robust, x_adv = predicted == y_orig.to(predicted.device), x_orig.detach().clone()
        self._log(f"initial accuracy: {robust.double().mean().item():.2%}")
        started = time.perf_counter()
        for name, attack in attacks.items():
            if not robust.any():
                break
            left = robust.nonzero()[:, 0]
            batches = torch.split(left, bs)
            for number, batch in enumerate(batches, 1):
                x, y = self._batch(x_orig, batch), self._batch(y_orig, batch)
                found, labels = self._broken(attack, x, y)
                broken = labels != y
                at = batch[broken.to(batch.device)]
                x_adv[at] = found[broken].to(x_adv)
                predicted[at] = labels[broken].to(predicted)
                robust[at] = False
                self._log(
                    f"{name} - {number}/{len(batches)} - {int(broken.sum())} out of {len(x)}"
                    " successfully perturbed"
                )
            self._log(
                f"robust accuracy after {name.upper()}: {robust.double().mean().item():.2%}"
                f" (total time {time.perf_counter() - started:.1f} s)"
            )
        moved = (x_adv - x_orig).flatten(1).double()
        size = torch.linalg.vector_norm(moved, ord=ORDERS[self.norm], dim=1)
        self._log(
            f"max {self.norm} perturbation: {size.max().item():.5f}, nan in tensor:"
            f" {int(x_adv.isnan().sum())}, max: {x_adv.max().item():.5f}, min:"
            f" {x_adv.min().item():.5f}"
        )
        self._log(f"robust accuracy: {robust.double().mean().item():.2%}")
        return (x_adv, predicted) if return_labels else x_adv

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Any]:
        """Run each attack by itself, on all samples; return its results by its name."""
        given, verbose = self.attacks_to_run, self.verbose
        results = {}
        try:
            for name in given:
                started = time.perf_counter()
                self.attacks_to_run, self.verbose = [name], False
                found = self.run_standard_evaluation(x_orig, y_orig, bs, return_labels=True)
                self.verbose = verbose
                right = (found[1] == y_orig.to(found[1].device)).double().mean().item()
                self._log(
                    f"robust accuracy by {name.upper()}: {right:.2%}"
                    f" (time attack: {time.perf_counter() - started:.1f} s)"
                )
                results[name] = found if return_labels else found[0]
        finally:
            self.attacks_to_run, self.verbose = given, verbose
        return results

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """Return the part of the images that the model classifies correctly."""
        predicted = self._predict(x_orig, bs)
        accuracy = (predicted == y_orig.to(predicted.device)).double().mean().item()
        self._log(f"clean accuracy: {accuracy:.2%}")
        return accuracy

    def __getattr__(self, name: str) -> Any:
        """Say where the settings are that AutoAttack keeps in attributes such as ``apgd``."""
        remedy = ""
        if name in ("apgd", "apgd_targeted", "fab", "square"):
            remedy = "; ClipAwareAutoAttack takes steps, restarts and queries as arguments"
        raise AttributeError(f"AutoAttack has no attribute {name!r}{remedy}", name=name, obj=self)

    def _attack(self, name: str) -> ClipAwareAutoAttack:
        stage = ALIASES.get(name, name)
        if stage not in STAGES:
            known = ", ".join([*STAGES, *ALIASES])
            raise ValueError(f"attacks_to_run: there is no {name!r}; known are {known}")
        settings = {**self._settings, "attacks": [stage]}
        return ClipAwareAutoAttack(p=ORDERS[self.norm], seed=self.seed, **settings)

    def _broken(self, attack: ClipAwareAutoAttack, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the adversarial examples of an attack, and their predictions."""
        found = attack.run(self.model, x, y, epsilon=self.epsilon)
        return found, self._predict(found, len(found))

    def _batch(self, values: Tensor, batch: Tensor) -> Tensor:
        return values[batch.to(values.device)].to(self.device or values.device)

    @torch.no_grad()
    def _predict(self, x: Tensor, bs: int) -> Tensor:
        parts = (part.to(self.device or x.device) for part in torch.split(x, bs))
        return torch.cat([self.model(part).argmax(dim=1) for part in parts])

    def _log(self, line: str) -> None:
        if not self.verbose:
            return
        print(line, flush=True)
        if self.log_path is not None:
            with Path(self.log_path).open("a", encoding="utf-8") as file:
                file.write(line + "\n")


class _Function(torch.nn.Module):
    """A function as a module in evaluation mode."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def device_of(model: torch.nn.Module) -> torch.device | None:
    """Return the device of a module's first parameter; None where it has none."""
    return next((parameter.device for parameter in model.parameters()), None)
