"""Where a check runs, and how the engines are chosen there."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

HAS_TRITON = importlib.util.find_spec("triton") is not None


@dataclass(frozen=True)
class Setting:
    """The device, and whether shapes are tiny: to try the check itself."""

    device: torch.device
    tiny: bool

    @property
    def cuda(self) -> bool:
        """Return whether this is a GPU; elsewhere times, waits and graphs mean nothing."""
        return self.device.type == "cuda"


@contextmanager
def engines_of_a_gpu(setting: Setting) -> Iterator[None]:
    """Have the engines of a GPU serve tensors in main memory, where there is no GPU.

    That is Triton's interpreter, or the eager engine without Triton. float64 stays with the
    engine of the CPU: it is what results are compared with.
    """
    from foolbox_carescale import engines

    if setting.cuda:
        yield
        return

    def supports(tensor: Any, *, traced: bool) -> str | None:
        if traced or not HAS_TRITON or tensor.dtype == torch.float64:
            return "not in this trial"
        return None

    def not_float32(tensor: Any, *, traced: bool, before: Any = engines.ENGINES[0].supports) -> Any:
        torch_float = isinstance(tensor.raw, torch.Tensor) and tensor.dtype != torch.float64
        return "not in this trial" if torch_float else before(tensor, traced=traced)

    first, triton, *_ = engines.ENGINES
    with (
        mock.patch.object(triton, "supports", supports),
        mock.patch.object(first, "supports", not_float32),
    ):
        yield


def describe(setting: Setting) -> list[str]:
    """Return lines on the device and the versions."""
    import importlib.metadata
    import sys

    import foolbox_carescale as fc

    names = ("torch", "triton", "torchvision", "foolbox", "eagerpy", "pyautoattack")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    versions.append(f"foolbox-carescale {fc.__version__}")
    lines = [f"Python {sys.version.split()[0]}, {', '.join(versions)}"]
    if setting.cuda:
        p = torch.cuda.get_device_properties(setting.device)
        lines.append(
            f"{p.name}, sm_{p.major}{p.minor}, {p.multi_processor_count} multiprocessors,"
            f" {p.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
        )
    else:
        lines.append("no GPU: results are those of a trial, times and waits mean nothing")
    lines.append(fc.engines.explain(torch.rand(2, 8, device=setting.device)))
    return lines
