"""Whole steps of attacks on ResNet-50, beside Foolbox's PGD and AutoAttack's APGD."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from typing import Any

import foolbox
import torch

from foolbox_carescale import attacks

from . import calls, data, measure
from .report import Report
from .setting import Setting

Run = Callable[[int], Any]
PREFIXES = {"L2": 2.0, "Linf": math.inf, "L1": 1.0}
# PGD is run as a whole, the others for a few steps
STEPS, WHOLE = (2, 8), 40
PGDS = ("ClipAwarePGD", "Foolbox's PGD")
BATCH = 64
# times Foolbox's PGD, with the noise of two runs
SLOWER = 1.05
# what a step of PGD takes beside its model, times Foolbox's
OWN_TIME = {"L2": 1.0, "Linf": 1.0, "L1": 1.5}


class _Network(torch.nn.Module):
    """The model, in bfloat16 by autocast if asked for."""

    def __init__(self, model: Any, autocast: bool) -> None:
        super().__init__()
        self.model, self.autocast = model, autocast

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
            logits: torch.Tensor = self.model(x)
        return logits.float()


def check(report: Report, setting: Setting) -> None:
    """Report milliseconds per step, peak memory, and the ratios to the other packages' attacks."""
    if importlib.util.find_spec("pyautoattack") is None:
        report.add("AutoAttack's APGD", "skipped: pyautoattack is not installed")
    size = 16 if setting.tiny else 224
    x, _ = data.case("uniform", (2 if setting.tiny else BATCH, 3, size, size), setting.device)
    light = calls.small_network(tuple(x.shape[1:]), setting.device)
    _own_times(report, setting, light, x)
    if setting.tiny:
        model = light
    elif importlib.util.find_spec("torchvision") is None:
        report.add("ResNet-50", "skipped: torchvision is not installed")
        return
    else:
        import torchvision

        torch.manual_seed(0)
        model = torchvision.models.resnet50(weights=None).to(setting.device).eval()
    for name, autocast in (("float32", False), ("bfloat16", True)):
        network = _Network(model, autocast).eval()
        with report.attempt(f"{name}: the model alone"):
            alone = measure.microseconds(calls.model_gradient(network, x), least=5) / 1e3
            report.add(f"{name}: forward and backward alone, ms", alone)
            for prefix in PREFIXES:
                _attacks(report, setting, f"{name}, {prefix}", network, x, prefix, alone)


def _own_times(report: Report, setting: Setting, network: Any, x: torch.Tensor) -> None:
    """Compare what a step costs beside a model that costs next to nothing."""
    few, many = (1, 2) if setting.tiny else (10, WHOLE)
    alone = measure.microseconds(calls.model_gradient(network, x)) / 1e3
    for prefix in PREFIXES:
        with report.attempt(f"a step's own time, {prefix}"):
            runs = _runs(network, x, prefix)
            own = {}
            for name in PGDS:
                spent = [_seconds(runs[name], steps, setting) for steps in (few, few, many)]
                own[name] = 1e3 * (spent[2] - spent[1]) / (many - few) - alone
                report.add(f"a step's own time, {prefix}, {name}, ms", own[name])
            if setting.cuda:
                ours, peer = (max(own[name], 1e-3) for name in PGDS)
                label = f"a step's own time, {prefix}, {' / '.join(PGDS)}"
                report.at_most(label, ours / peer, OWN_TIME[prefix])


def _attacks(
    report: Report, setting: Setting, where: str, network: Any, x: torch.Tensor, prefix: str,
    alone: float,
) -> None:  # fmt: skip
    times: dict[str, float] = {}
    whole: dict[str, float] = {}
    memory: dict[str, float] = {}
    for name, run in _runs(network, x, prefix).items():
        few, many = (1, 2) if setting.tiny else (STEPS[0], WHOLE) if name in PGDS else STEPS
        with report.attempt(f"{where}, {name}"):
            held = measure.peak_of(lambda run=run, few=few: run(few)) if setting.cuda else run(few)
            spent = [_seconds(run, steps, setting) for steps in (few, many)]
            whole[name] = spent[1]
            times[name] = 1e3 * (spent[1] - spent[0]) / (many - few)
            beside = times[name] - alone
            label = f"{where}, {name}, ms per step ({beside:.2f} beside the model)"
            report.add(label, times[name])
            if setting.cuda:
                memory[name] = held / 2**20
                report.add(f"{where}, {name}, peak memory, MiB", memory[name])
    for ours, peer in (("ClipAwarePGD", "Foolbox's PGD"), ("ClipAwareAPGD", "AutoAttack's APGD")):
        if setting.cuda and {ours, peer} <= times.keys():
            ratio = times[ours] / times[peer]
            report.at_most(f"{where}, {ours} / {peer}: time per step", ratio, SLOWER)
    ours, peer = PGDS
    if setting.cuda and {ours, peer} <= memory.keys():
        label = f"{where}, {ours} / {peer}"
        report.at_most(f"{label}: all {WHOLE} steps", whole[ours] / whole[peer], SLOWER)
        report.at_most(f"{label}: peak memory", memory[ours] / memory[peer], 1.0)


def _runs(network: Any, x: torch.Tensor, prefix: str) -> dict[str, Run]:
    n = math.prod(x.shape[1:])
    eps = {"L1": 0.004 * n, "L2": 0.005 * n**0.5, "Linf": 4 / 255}[prefix]
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
    with torch.no_grad():
        labels = network(x).argmax(1)

    def run_of(made: Callable[[int], Any]) -> Run:
        return lambda steps: made(steps)(model, x, labels, epsilons=eps)

    p = PREFIXES[prefix]
    peer = getattr(foolbox.attacks, f"{prefix}ProjectedGradientDescentAttack")
    runs = {
        "ClipAwarePGD": run_of(lambda steps: attacks.ClipAwarePGD(p=p, steps=steps)),
        "ClipAwareAPGD": run_of(lambda steps: attacks.ClipAwareAPGD(p=p, steps=steps)),
        "Foolbox's PGD": run_of(lambda steps: peer(steps=steps)),
    }
    if importlib.util.find_spec("pyautoattack") is not None:
        runs["AutoAttack's APGD"] = _autoattack(network, x, labels, prefix, eps)
    return runs


def _autoattack(network: Any, x: Any, labels: Any, prefix: str, eps: float) -> Run:
    from pyautoattack.autopgd_base import APGDAttack

    def run(steps: int) -> Any:
        attack = APGDAttack(network, n_iter=steps, norm=prefix, eps=eps, device=x.device)
        attack.init_hyperparam(x)
        return attack.attack_single_run(x, labels)

    return run


def _seconds(run: Run, steps: int, setting: Setting) -> float:
    if setting.cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    run(steps)
    if setting.cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began
