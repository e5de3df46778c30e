"""Send tensors in main memory down the road of CUDA tensors, to a GPU that launches nothing.

Triton compiles for the architecture that is pretended, with its own ptxas; a launch does nothing,
so results are zeros. Everything that Python does before a launch is done.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia
from triton.runtime import driver


@dataclass(frozen=True)
class Architecture:
    """A GPU that is pretended; per multiprocessor there are 65536 registers in all of them."""

    capability: int
    name: str
    multiprocessors: int
    threads: int  # per multiprocessor
    shared: int  # bytes per multiprocessor, of which a block takes 1024 more from sm_80 on
    shared_per_block: int


ARCHITECTURES = {
    a.capability: a
    for a in (
        Architecture(75, "T4", 40, 1024, 65536, 65536),
        Architecture(80, "A100", 108, 2048, 167936, 166912),
        Architecture(90, "H100", 132, 2048, 233472, 232448),
        Architecture(100, "B200", 148, 2048, 233472, 232448),
        Architecture(120, "RTX 5090", 170, 1536, 102400, 101376),
    )
}


@dataclass(frozen=True)
class Loaded:
    """A kernel that Triton compiled: source with the types of arguments, metadata, machine code."""

    source: Any
    metadata: Any
    cubin: bytes


@dataclass
class Driver:
    """Stands for Triton's driver: keeps what is loaded and launched, and launches nothing."""

    architecture: Architecture
    loaded: list[Loaded] = field(default_factory=list)
    launched: list[str] = field(default_factory=list)  # names of kernels

    def __post_init__(self) -> None:
        """Make the functions that Triton looks for under ``utils``."""
        properties = {
            "max_shared_mem": self.architecture.shared_per_block,
            "multiprocessor_count": self.architecture.multiprocessors,
            "warpSize": 32,
        }
        self.utils = types.SimpleNamespace(
            get_device_properties=lambda device: properties,
            load_binary=self._load,
            unload_module=lambda module: None,
            get_current_device=lambda: 0,
            build_signature_metadata=tuple,
        )

    def _load(self, name: str, cubin: bytes, shared: int, device: int) -> tuple[int, ...]:
        self.loaded.append(Loaded(*self._next, cubin))
        found = 0, 0, 128, 0, 1024  # module, function, registers, spills, threads
        return found[:4] if "active" in vars(driver) else found  # Triton 3.3 asks for four

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        """Return what launches a kernel: it notes the name."""
        self._next = source, metadata  # the binary is loaded next
        self.utils.launch = lambda *args: self.launched.append(metadata.name)
        if not hasattr(nvidia, "annotate_arguments"):  # Triton 3.3 compiles its launcher
            return self.utils.launch  # type: ignore[no-any-return]
        # Triton's launcher up to what is in C, and to what that needs to know of the arguments
        kinds = {"ARG_CONSTEXPR": 0, "ARG_KERNEL": 1, "ARG_TUPLE": 2}
        described = {"PyKernelArg": lambda **kind: kind, **kinds}
        with mock.patch.multiple(nvidia, create=True, **described):
            return nvidia.CudaLauncher(source, metadata)  # type: ignore[no-any-return]

    def get_current_target(self) -> GPUTarget:
        """Return the architecture that Triton compiles for."""
        return GPUTarget("cuda", self.architecture.capability, 32)

    def get_current_device(self) -> int:
        """Return the number of the only device."""
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        """Return the default stream."""
        return 0

    def get_active_torch_device(self) -> torch.device:
        """Return the only device."""
        return torch.device("cuda", 0)

    def get_device_interface(self) -> Any:
        """Return PyTorch's module for the device."""
        return torch.cuda


class _OnGPU(TorchFunctionMode):
    """Tensors say that they are on a GPU, new ones are made in main memory, of zeros."""

    _EMPTY = (torch.empty, torch.empty_like, torch.empty_strided, torch.Tensor.new_empty)

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # a property's getter is made at every access, so it is compared by value
        if function == torch.Tensor.device.__get__:
            return torch.device("cuda", 0)
        if function == torch.Tensor.is_cuda.__get__:
            return True
        if function == torch.Tensor.is_cpu.__get__:
            return False
        if function is torch.device:
            return function(*args, **(kwargs or {}))
        args = tuple(_in_main_memory(a) for a in args)
        kwargs = {name: _in_main_memory(a) for name, a in (kwargs or {}).items()}
        kwargs.pop("pin_memory", None)
        result = function(*args, **kwargs)
        return result.zero_() if function in self._EMPTY else result


def _in_main_memory(argument: Any) -> Any:
    if isinstance(argument, torch.device):
        return torch.device("cpu")
    return "cpu" if isinstance(argument, str) and argument.startswith("cuda") else argument


class _Generator(torch.Generator):
    """Random numbers in main memory, whatever device is asked for."""

    def __new__(cls, device: Any = None) -> _Generator:
        return super().__new__(cls)


class _NoDevice:
    """Stands for the context managers of devices and streams."""

    def __init__(self, *args: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *args: object) -> None:
        pass


@contextmanager
def driver_of(capability: int) -> Iterator[Driver]:
    """Give Triton a driver that launches nothing, and PyTorch's CUDA module answers."""
    architecture = ARCHITECTURES[capability]
    pretended = Driver(architecture)
    properties = types.SimpleNamespace(
        multi_processor_count=architecture.multiprocessors,
        major=capability // 10,
        minor=capability % 10,
        name=architecture.name,
        warp_size=32,
    )
    answers: dict[str, Any] = {
        "device": _NoDevice,
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (capability // 10, capability % 10),
        "is_current_stream_capturing": lambda: False,
        "current_stream": lambda device=None: types.SimpleNamespace(cuda_stream=0),
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        # the name of Triton 3.3; reading the newer ones' property would ask for a GPU
        active = "active" if "active" in vars(driver) else "_active"
        before = getattr(driver, active)
        driver.set_active(pretended)  # type: ignore[arg-type]
        try:
            yield pretended
        finally:
            setattr(driver, active, before)


@contextmanager
def gpu(capability: int = 90) -> Iterator[Driver]:
    """Make every tensor one of a GPU, as far as Python sees.

    The engines answer as for CUDA tensors. What is launched is in ``launched``.
    """
    with driver_of(capability) as pretended, _OnGPU():
        yield pretended


@contextmanager
def launcher(capability: int = 90) -> Iterator[Driver]:
    """Do as `gpu` does, by patching PyTorch where engines ask it: for timing, as it costs little.

    Only the functions that make new tensors are patched, so not every operation works.
    """
    makers = ("empty", "empty_like", "zeros", "zeros_like", "ones", "full")
    device = torch.device("cuda", 0)
    with driver_of(capability) as pretended, ExitStack() as stack:
        for name in makers:
            made = _without_device(getattr(torch, name))
            stack.enter_context(mock.patch.object(torch, name, made))
        for name, value in (("device", device), ("is_cuda", True), ("is_cpu", False)):
            # an attribute of the class hides the property of its base
            stack.enter_context(mock.patch.object(torch.Tensor, name, value, create=True))
        yield pretended


def _without_device(function: Callable[..., Any]) -> Callable[..., Any]:
    def in_main_memory(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        made = function(*args, **kwargs)
        # nobody writes the flags of bad values
        return made if made.is_floating_point() else made.zero_()

    return in_main_memory
