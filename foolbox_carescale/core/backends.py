"""Facts about tensors that EagerPy lacks: traced or concrete, device, NumPy view.

No framework is imported here: a tensor of a framework can only exist when its
framework has been imported, so ``sys.modules`` has it.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import eagerpy as ep
import numpy as np
from eagerpy.tensor.base import BaseTensor

_FAKE = "torch._subclasses"  # the module of tensors without values
_FRAMEWORKS = {
    "NumPyTensor": "numpy",
    "PyTorchTensor": "torch",
    "TensorFlowTensor": "tensorflow",
    "JAXTensor": "jax",
}


# EagerPy's PyTorchTensor.raw is three calls
raw_of: Callable[[ep.Tensor], Any] = vars(BaseTensor)["raw"].fget


def as_eagerpy(value: Any, name: str) -> ep.Tensor:
    """Wrap a native tensor that every engine can read.

    Raises:
        ValueError: It is none; the message names the argument.
    """
    torch = sys.modules.get("torch")
    # the type first: it is the usual case, and the cheapest to tell
    if torch is not None and type(value) is torch.Tensor:
        return _of_torch(value, name, torch)
    if type(value) is np.ndarray:
        return _of_numpy(value)
    if isinstance(value, ep.Tensor):
        wrapped: ep.Tensor = as_eagerpy(value.raw, name)
        return wrapped
    if torch is not None and isinstance(value, torch.Tensor):
        if _root(value) != "torch":
            # subclasses of other packages (torchvision's tv_tensors) that EagerPy does not know
            value = value.as_subclass(torch.Tensor)
        return _of_torch(value, name, torch)
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name}: is a masked array; fill it, for instance {name}.filled(0)")
    if isinstance(value, np.ndarray):
        return _of_numpy(value)
    tf = sys.modules.get("tensorflow")
    if tf is not None and hasattr(value, "handle"):
        value = tf.convert_to_tensor(value)  # tf.Variable
    try:
        tensor: ep.Tensor = ep.astensor(value)
    except ValueError:
        raise ValueError(
            f"{name}: expected a NumPy array, a PyTorch, TensorFlow or JAX tensor, or an "
            f"EagerPy tensor, got {type(value).__name__}"
        ) from None
    if framework(tensor) == "tensorflow" and tensor.raw.shape.rank is None:
        raise ValueError(
            f"{name}: only the batch size may be unknown in a graph, got an unknown number of"
            " dimensions; fix the others with tf.ensure_shape"
        )
    return tensor


def reject_valueless(t: ep.Tensor, name: str) -> None:
    """Raise a ValueError where PyTorch has no numbers for a tensor; the message names it."""
    if framework(t) != "torch":
        return
    raw = t.raw
    if raw.is_meta:
        raise ValueError(f"{name}: is on the device meta, which holds no values")
    if raw.is_quantized:
        raise ValueError(f"{name}: is quantized; give {name}.dequantize()")


def _of_torch(value: Any, name: str, torch: Any) -> ep.Tensor:
    if value.layout is not torch.strided or value.is_nested:
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        raise ValueError(f"{name}: is a {kind} tensor; make it dense, all rows of one length")
    return ep.PyTorchTensor(value)


def _of_numpy(value: np.ndarray[Any, Any]) -> ep.Tensor:
    return ep.NumPyTensor(
        value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))
    )


def framework(t: ep.Tensor) -> str:
    """Return one of ``"numpy"``, ``"torch"``, ``"tensorflow"``, ``"jax"``."""
    return _FRAMEWORKS[type(t).__name__]


def is_traced(*tensors: ep.Tensor) -> bool:
    """Return whether values cannot be read: jit, vmap, grad transforms, graphs, compilation.

    Of one framework; of the tensors any one suffices.
    """
    return are_traced(framework(tensors[0]), [t.raw for t in tensors])


def are_traced(kind: str, raws: list[Any]) -> bool:
    """Return the same for native tensors of a framework."""
    if kind == "torch":
        torch = sys.modules["torch"]
        functorch = torch._C._functorch
        if (
            torch.compiler.is_compiling()
            or torch.jit.is_tracing()
            # inside torch.func: what is not wrapped yet, any operation wraps
            or functorch.peek_interpreter_stack() is not None
        ):
            return True
        # a plain loop: this is asked in every call, and any() takes twice as long
        for raw in raws:
            fake = type(raw) is not torch.Tensor and type(raw).__module__.startswith(_FAKE)
            # the latter: in autograd.grad(is_grads_batched=True) and jacobian(vectorize=True)
            if (
                fake
                or functorch.is_functorch_wrapped_tensor(raw)
                or functorch.is_legacy_batchedtensor(raw)
            ):
                return True
        return False
    if kind == "jax":
        return any(isinstance(raw, sys.modules["jax"].core.Tracer) for raw in raws)
    if kind == "tensorflow":
        return any(sys.modules["tensorflow"].is_symbolic_tensor(raw) for raw in raws)
    return False


def is_compiling(t: ep.Tensor) -> bool:
    """Return whether torch.compile, and nothing that maps or differentiates inside, traces t."""
    torch = sys.modules["torch"]
    inside = torch._C._functorch.peek_interpreter_stack() is not None
    # below Dynamo PyTorch 2.7 does not say that it compiles
    fake = type(t.raw).__module__.startswith(_FAKE)
    return (fake or bool(torch.compiler.is_compiling())) and not inside


def on_cpu(t: ep.Tensor) -> bool:
    """Return whether a concrete tensor lies in the memory of the host."""
    kind = framework(t)
    if kind == "numpy":
        return True
    raw = raw_of(t)
    if kind == "torch":
        return bool(raw.device.type == "cpu")
    if kind == "jax":
        return all(d.platform == "cpu" for d in raw.devices())
    return "GPU" not in raw.device and "TPU" not in raw.device


def on_accelerator(t: ep.Tensor) -> bool:
    """Return whether t is PyTorch's and on a device whose values the host has to wait for."""
    return framework(t) == "torch" and t.raw.device.type != "cpu"


def to_numpy(t: ep.Tensor) -> np.ndarray[Any, Any]:
    """Return the values as a NumPy array, without a copy where the framework allows it."""
    if framework(t) == "torch":
        view: np.ndarray[Any, Any] = t.raw.numpy(force=True)
        return view
    return np.asarray(t.raw)


def from_numpy(like: ep.Tensor, array: np.ndarray[Any, Any]) -> ep.Tensor:
    """Return an array as a tensor of the framework and device of ``like``, in its own dtype."""
    if framework(like) == "torch" and like.raw.device.type == "cpu":
        # EagerPy names the device to PyTorch, which costs six times as long
        tensor: ep.Tensor = type(like)(sys.modules["torch"].from_numpy(array))
        return tensor
    return ep.from_numpy(like, array)


def detach(t: ep.Tensor) -> ep.Tensor:
    """Return the same values, constant for every kind of differentiation."""
    kind, raw = framework(t), t.raw
    if kind == "numpy":
        return t
    if kind == "torch":
        raw = raw.detach()
    elif kind == "jax":
        raw = sys.modules["jax"].lax.stop_gradient(raw)
    else:
        raw = sys.modules["tensorflow"].stop_gradient(raw)
    constant: ep.Tensor = ep.astensor(raw)
    return constant


def may_need_gradient(*tensors: ep.Tensor, concrete: bool) -> bool:
    """Return False only where it is certain that no gradient through these is required.

    ``concrete``: whether none of them is traced.
    """
    kind = framework(tensors[0])
    if kind == "torch":
        if not concrete or carries_tangent(*tensors):
            return True
        if sys.modules["torch"].is_grad_enabled():
            # a plain loop, as above
            for t in tensors:
                if raw_of(t).requires_grad:
                    return True
        return False
    if kind == "jax":
        # a value that jax.grad or jax.jvp follows is a tracer
        return not concrete and is_traced(*tensors)
    if kind == "tensorflow":
        return not concrete or _tape_may_record() or carries_tangent(*tensors)
    return False


def carries_tangent(*tensors: ep.Tensor) -> bool:
    """Return False only where it is certain that forward mode follows none of the tensors.

    That is ``torch.autograd.forward_ad`` and ``tf.autodiff.ForwardAccumulator``, which know
    nothing of a custom function's derivative. JAX's forward mode is a trace.
    """
    kind = framework(tensors[0])
    # nothing public tells, in either
    if kind == "torch":
        return bool(sys.modules["torch"].autograd.forward_ad._current_level >= 0)
    if kind == "tensorflow":
        forward = sys.modules.get("tensorflow.python.eager.forwardprop_util")
        return forward is not None and bool(
            forward.pack_tangents([t.raw for t in tensors]).tangents
        )
    return False


def without_nan(t: ep.Tensor, value: float) -> ep.Tensor:
    """Return a number in the place of each NaN."""
    if framework(t) == "torch":  # one pass
        filled = t.raw.nan_to_num(nan=value, posinf=math.inf, neginf=-math.inf)
        return type(t)(filled)
    replaced: ep.Tensor = ep.where(t == t, t, ep.ones_like(t) * value)
    return replaced


def one_hot(like: ep.Tensor, classes: ep.Tensor) -> ep.Tensor:
    """Return 1 in the column of each row's class, else 0, shape (N, K) of ``like``."""
    if framework(like) == "torch":  # EagerPy's indices are NumPy's
        zeros = like.raw.new_zeros(like.shape)
        return type(like)(zeros.scatter_(1, classes.raw.long()[:, None], 1.0))
    hot: ep.Tensor = ep.onehot_like(like, classes)
    return hot


def dtype_name(t: ep.Tensor) -> str:
    """Return ``"float32"`` and so on, spelt alike for every framework."""
    return name_of(t.dtype)


@functools.cache
def name_of(dtype: Any) -> str:
    """Return the same of a dtype."""
    return str(getattr(dtype, "name", dtype)).removeprefix("torch.")


def largest(t: ep.Tensor) -> float:
    """Return the largest finite value of the dtype of ``t``."""
    return largest_of(dtype_name(t))


@functools.cache
def largest_of(dtype: str) -> float:
    """Return the largest finite value of a dtype, by its name."""
    return 3.3895313892515355e38 if dtype == "bfloat16" else float(np.finfo(dtype).max)


def widen(t: ep.Tensor) -> ep.Tensor:
    """Return the tensor in float64 where the framework and the device have it, else as it is."""
    kind = framework(t)
    if kind == "jax" and not sys.modules["jax"].config.jax_enable_x64:
        return t
    if kind == "torch" and t.raw.device.type == "mps":
        return t
    # EagerPy 0.30: JAXTensor.float64 gives float32
    return t.astype(np.float64) if kind == "jax" else t.float64()


def reshape(t: ep.Tensor, shape: tuple[int, ...]) -> ep.Tensor:
    """Return the tensor in another shape."""
    if framework(t) == "tensorflow":
        # TensorFlow converts a tuple three times as long as it reshapes
        reshaped: ep.Tensor = ep.astensor(
            sys.modules["tensorflow"].reshape(t.raw, np.array(shape, np.int32))
        )
        return reshaped
    return t.reshape(shape)


def at_least_float32(t: ep.Tensor) -> ep.Tensor:
    """Return the tensor, half precision as float32."""
    return t.float32() if dtype_name(t) in ("float16", "bfloat16") else t


def _tape_may_record() -> bool:
    # nothing that is public in TensorFlow tells; where this is gone, a tape is taken for granted
    record = sys.modules.get("tensorflow.python.eager.record")
    asked = getattr(record, "could_possibly_record", None)
    return True if asked is None else bool(asked())


def _root(value: Any) -> str:
    return type(value).__module__.split(".")[0]
