"""CPU tensors of PyTorch come in and go out as the memory that they are, without a copy.

So do objects of other libraries that export their memory by DLPack or the array interface.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

FLOATS = ("float32", "float64", "float16", "bfloat16")
# DLPack's numbers: memory of the CPU, pinned for CUDA or ROCm, and managed by CUDA.
READABLE = (1, 3, 11, 13)
DEVICES = {2: "CUDA", 4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 14: "oneAPI", 15: "WebGPU", 16: "Hexagon"}
SUPPORTED = "float32, float64, float16 or bfloat16"


def is_tensor(x: object) -> bool:
    """Return whether `x` is a tensor of PyTorch, which need not be there."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)     # which is not there yet while torch is imported
    return tensor is not None and isinstance(x, tensor)


def to_array(x: Any, name: str) -> np.ndarray[Any, Any]:
    """Return a tensor's memory as an array.

    Raises
    ------
    TypeError
        If the tensor is not in plain memory of the CPU, or expects a gradient, which fastbn does not know of.
    ImportError
        If it is of bfloat16, and ml_dtypes is not installed.
    """
    torch = sys.modules["torch"]
    if x.device.type != "cpu":
        raise TypeError(f"{name} is a tensor on the device {x.device}; expected one on the CPU")
    if x.layout != torch.strided:
        raise TypeError(f"{name} is a {x.layout} tensor; expected a strided one")
    if x.requires_grad:
        raise TypeError(f"{name} requires a gradient, and fastbn is no part of autograd; expected {name}.detach()")
    if x.dtype != torch.bfloat16:
        array: np.ndarray[Any, Any] = x.numpy()
        return array
    kind = bfloat16(f"the dtype of {name}")
    bits: np.ndarray[Any, Any] = x.view(torch.int16).numpy()
    return bits.view(kind)


def as_array(x: Any, name: str) -> Any:
    """Return the memory of a tensor or of an object that exports it as an array; anything else but None as it is.

    Raises
    ------
    TypeError
        If it is None, or as `to_array`, and if an object has no plain memory of the CPU.
    ImportError
        As `to_array`.
    """
    if x is None:
        raise TypeError(f"{name} must be an array, got None")
    if is_tensor(x):
        return to_array(x, name)
    kind = type(x)
    if isinstance(x, np.ndarray) or kind in (list, tuple):
        return x
    if hasattr(kind, "__dlpack__"):
        check_device(x, name)
    if any(hasattr(x, attribute) for attribute in ("__array_interface__", "__array_struct__")):
        return np.asarray(x)
    return from_dlpack(x, name) if hasattr(kind, "__dlpack__") and not hasattr(kind, "__array__") else x


def check_device(x: Any, name: str) -> None:
    """Raise an error unless an object that exports its memory by DLPack has memory that the CPU reads."""
    if not hasattr(x, "__dlpack_device__"):
        return
    kind, number = x.__dlpack_device__()
    if int(kind) not in READABLE:
        raise TypeError(f"{name} is on the device {DEVICES.get(int(kind), f'of DLPack type {int(kind)}')} {number}; "
                        "expected memory of the CPU")


def from_dlpack(x: Any, name: str) -> np.ndarray[Any, Any]:
    """Return the memory of an object that exports it by DLPack.

    Raises
    ------
    TypeError
        If NumPy has no such dtype, as bfloat16.
    """
    try:
        array: np.ndarray[Any, Any] = np.from_dlpack(x)
    except (AttributeError, BufferError, RuntimeError) as error:
        raise TypeError(f"{name} of type {type(x).__name__} cannot be taken over by DLPack: {error}") from error
    return array


def as_constant(x: Any, name: str) -> Any:
    """Return as `as_array`, but of a tensor that may be a parameter of a module: to fastbn it is a constant."""
    return as_array(x.detach() if is_tensor(x) else x, name)


def to_dtype(dtype: Any, name: str = "dtype") -> np.dtype[Any]:
    """Return a dtype of NumPy; of PyTorch's too, and of bfloat16 by name, which NumPy does not know by itself.

    Raises
    ------
    TypeError
        If there is no such dtype.
    ImportError
        If it is bfloat16, and ml_dtypes is not installed.
    """
    text = str(dtype).removeprefix("torch.") if isinstance(dtype, str) or is_torch_dtype(dtype) else dtype
    if isinstance(text, str) and text == "bfloat16":
        return bfloat16(name)
    try:
        return np.dtype(text)
    except TypeError:
        raise TypeError(f"{name} is {dtype!r}, which is no dtype") from None


def to_float(dtype: Any) -> np.dtype[Any]:
    """Return a dtype that arrays may have, in any byte order.

    Raises
    ------
    TypeError
        If it is another.
    ImportError
        As `to_dtype`.
    """
    kind = to_dtype(dtype)
    if kind.name not in FLOATS:
        raise TypeError(f"dtype is {kind}; expected {SUPPORTED}")
    return kind


def is_torch_dtype(dtype: object) -> bool:
    """Return whether `dtype` is one of PyTorch's."""
    kind = getattr(sys.modules.get("torch"), "dtype", None)
    return kind is not None and isinstance(dtype, kind)


def bfloat16(name: str) -> np.dtype[Any]:
    """Return the dtype of ml_dtypes, or say how to get it."""
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        raise ImportError(
            f"{name} is bfloat16, which NumPy knows only with ml_dtypes: pip install ml_dtypes") from None
    kind: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return kind


def to_tensor(array: np.ndarray[Any, Any]) -> Any:
    """Return a tensor of an array's memory."""
    torch = sys.modules["torch"]
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
