"""Half precision, layouts of memory, streams, threads, devices, many elements."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import pad

import foolbox_carescale as fc

from . import data
from .report import Report
from .setting import Setting

Tensor = torch.Tensor
HALF = {torch.float16: 2e-3, torch.bfloat16: 1e-2}  # the rounding of eta
MANY = (20_000, 110_000)  # 2.2e9 elements: indices beyond int32
PER_ELEMENT = 13  # bytes: x, delta and the result, and what the allocator rounds up


def check(report: Report, setting: Setting) -> None:
    """Check that the points are the same however the tensors lie, and whoever calls."""
    shape = (2, 3, 4, 4) if setting.tiny else (32, 3, 64, 64)
    x, delta = data.case("uniform", shape, setting.device)
    eps = 0.1 * math.prod(shape[1:]) ** 0.5
    expected = fc.perturb(x, delta, eps)
    for dtype in HALF:
        with report.attempt(str(dtype)):
            _half(report, x.to(dtype), delta.to(dtype), eps)
    for name, (a, b) in _layouts(x, delta).items():
        with report.attempt(name):
            like = (
                expected
                if b is not None
                else fc.perturb(x, delta[:1].repeat(shape[0], 1, 1, 1), eps)
            )
            found = fc.perturb(a, delta[:1].expand(shape) if b is None else b, eps)
            report.at_most(f"{name}: difference", (found - like).abs().max().item(), 1e-6)
    with report.attempt("two calls"):
        same = torch.equal(expected, fc.perturb(x, delta, eps))
        report.add("two calls give the same bits", same, "True", same)
    with report.attempt("autocast"), torch.autocast(setting.device.type, torch.bfloat16):
        same = torch.equal(expected, fc.perturb(x, delta, eps))
        report.add("autocast changes nothing", same, "True", same)
    if setting.cuda:
        with report.attempt("another stream"):
            _stream(report, lambda a: fc.perturb(a, delta, eps), x, expected)
        with report.attempt("threads"):
            _threads(report, lambda: fc.perturb(x, delta, eps, p=1.7))
        with report.attempt("a second device"):
            _second_device(report, x, delta, eps, expected)
        with report.attempt("many elements"):
            _many(report, setting)


def _half(report: Report, x: Tensor, delta: Tensor, eps: float) -> None:
    moved = fc.perturb(x, delta, eps)
    assert moved.dtype == x.dtype, moved.dtype
    assert ((moved >= 0) & (moved <= 1)).all(), "left the box"
    eta = fc.clipping_aware_rescaling(x, delta, eps)
    found = data.measured_norm(x, delta, eta, 2.0)
    error = data.relative_error(found, torch.full_like(found, eps))
    report.at_most(f"{x.dtype}: relative error of the norm", error, HALF[x.dtype])


def _layouts(x: Tensor, delta: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return the same values in other layouts; without a direction: one for all samples."""
    apart = torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    return {
        "channels last": (x.contiguous(memory_format=torch.channels_last), delta),
        "every second sample": (
            torch.repeat_interleave(x, 2, 0)[::2],
            torch.repeat_interleave(delta, 2, 0)[::2],
        ),
        "a window of a larger image": (pad(x, (3, 5, 1, 2))[..., 1:-2, 3:-5], delta),
        "storage that is not aligned": (apart, delta),
        "a transposed view": (x.transpose(2, 3).contiguous().transpose(2, 3), delta),
        "one direction for all": (x, None),
    }


def _stream(report: Report, call: Callable[[Tensor], Tensor], x: Tensor, expected: Tensor) -> None:
    other = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(other):
        late = x * 1.0
        torch.cuda._sleep(20_000_000)
        found = call(late.mul_(0.5).mul_(2.0))
    other.synchronize()
    same = torch.equal(found, expected)
    report.add("on another stream, behind other work: the same", same, "True", same)


def _threads(report: Report, call: Callable[[], Tensor]) -> None:
    """Call from four threads at once, for an order that nothing was compiled for."""
    torch.cuda.synchronize()
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(call())
        except Exception as error:  # the thread's; it is reported below
            found.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raised = [f for f in found if isinstance(f, Exception)]
    same = not raised and all(torch.equal(found[0], f) for f in found)
    report.add("four threads compile at once", raised[0] if raised else same, "True", same)


def _second_device(report: Report, x: Tensor, delta: Tensor, eps: float, expected: Tensor) -> None:
    if torch.cuda.device_count() < 2:
        report.add("a second device", "there is one only")
        return
    with torch.cuda.device(0):
        found = fc.perturb(x.to("cuda:1"), delta.to("cuda:1"), eps)
    same = torch.equal(found.to(x.device), expected)
    report.add("on cuda:1 while cuda:0 is current: the same", same, "True", same)


def _many(report: Report, setting: Setting) -> None:
    if torch.cuda.mem_get_info()[0] < PER_ELEMENT * math.prod(MANY):
        report.add("2.2e9 elements", "not enough memory")
        return
    x, delta = data.case("uniform", MANY, setting.device)
    moved = fc.perturb(x, delta, 10.0)
    rows = torch.tensor([0, 1, MANY[0] // 2, MANY[0] - 1], device=setting.device)
    found = data.norm(moved[rows].double() - x[rows].double(), 2)
    error = data.relative_error(found, torch.full_like(found, 10.0))
    report.at_most("2.2e9 elements: relative error of the norm", error, 1e-5)
