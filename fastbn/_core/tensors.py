"""Arrays and dtypes of other libraries.

CPU tensors of PyTorch, and objects that export their memory by DLPack or the array interface, are used without a copy.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

FLOATS = ("float32", "float64", "float16", "bfloat16")
# Device types of DLPack that the CPU can read: its own memory, pinned for CUDA or ROCm, and managed by CUDA.
READABLE = (1, 3, 11, 13)
DEVICES = {2: "CUDA", 4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 14: "oneAPI", 15: "WebGPU", 16: "Hexagon"}
SUPPORTED = "float32, float64, float16 or bfloat16"


def is_tensor(x: object) -> bool:
    """Return whether `x` is a tensor of PyTorch, without importing it."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)     # None also while the import of torch runs
    return tensor is not None and isinstance(x, tensor)


def to_array(x: Any, name: str) -> np.ndarray[Any, Any]:
    """Return the memory of a tensor as an array.

    Raises
    ------
    TypeError
        If the tensor is not a strided tensor on the CPU, or requires a gradient: fastbn is not part of autograd.
    ImportError
        If its dtype is bfloat16 and ml_dtypes is not installed.
    """
    torch = sys.modules["torch"]
    if x.device.type != "cpu":
        raise TypeError(f"{name} is a tensor on the device {x.device}; expected one on the CPU")
    if x.layout != torch.strided:
        raise TypeError(f"{name} is a {x.layout} tensor; expected a strided one")
    if x.requires_grad:
        raise TypeError(f"{name} requires a gradient, and fastbn is not part of autograd; expected {name}.detach()")
    if x.dtype != torch.bfloat16:
        array: np.ndarray[Any, Any] = x.numpy()
        return array
    kind = bfloat16(f"the dtype of {name}")
    bits: np.ndarray[Any, Any] = x.view(torch.int16).numpy()
    return bits.view(kind)


def as_array(x: Any, name: str) -> Any:
    """Return a tensor, or another object that exports its memory, as an array; any other object unchanged.

    Raises
    ------
    TypeError
        If the object is None or its memory is not on the CPU; or as in `to_array`.
    ImportError
        As in `to_array`.
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
    """Raise an error if an object that supports DLPack has memory that the CPU cannot read."""
    if not hasattr(x, "__dlpack_device__"):
        return
    kind, number = x.__dlpack_device__()
    if int(kind) not in READABLE:
        raise TypeError(f"{name} is on the device {DEVICES.get(int(kind), f'of DLPack type {int(kind)}')} {number}; "
                        "expected memory of the CPU")


def from_dlpack(x: Any, name: str) -> np.ndarray[Any, Any]:
    """Return the memory of an object that supports DLPack as an array.

    Raises
    ------
    TypeError
        If NumPy cannot import it, for example because its dtype is bfloat16.
    """
    try:
        array: np.ndarray[Any, Any] = np.from_dlpack(x)
    except (AttributeError, BufferError, RuntimeError) as error:
        raise TypeError(f"{name} of type {type(x).__name__} cannot be imported by DLPack: {error}") from error
    return array


def as_constant(x: Any, name: str) -> Any:
    """Return the same as `as_array`; a tensor may require a gradient, because fastbn treats it as a constant."""
    return as_array(x.detach() if is_tensor(x) else x, name)


def to_dtype(dtype: Any, name: str = "dtype") -> np.dtype[Any]:
    """Return the NumPy dtype of a dtype of NumPy or PyTorch, or of a name; "bfloat16" is the dtype of ml_dtypes.

    Raises
    ------
    TypeError
        If it is not a dtype.
    ImportError
        If it is bfloat16 and ml_dtypes is not installed.
    """
    text = str(dtype).removeprefix("torch.") if isinstance(dtype, str) or is_torch_dtype(dtype) else dtype
    if isinstance(text, str) and text == "bfloat16":
        return bfloat16(name)
    try:
        return np.dtype(text)
    except TypeError:
        raise TypeError(f"{name} is {dtype!r}, which is not a dtype") from None


def to_float(dtype: Any) -> np.dtype[Any]:
    """Return a supported floating-point dtype, in any byte order.

    Raises
    ------
    TypeError
        If it is another dtype.
    ImportError
        As in `to_dtype`.
    """
    kind = to_dtype(dtype)
    if kind.name not in FLOATS:
        raise TypeError(f"dtype is {kind}; expected {SUPPORTED}")
    return kind


def is_torch_dtype(dtype: object) -> bool:
    """Return whether `dtype` is a dtype of PyTorch."""
    kind = getattr(sys.modules.get("torch"), "dtype", None)
    return kind is not None and isinstance(dtype, kind)


def bfloat16(name: str) -> np.dtype[Any]:
    """Return the dtype bfloat16 of ml_dtypes."""
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        raise ImportError(
            f"{name} is bfloat16, which NumPy knows only with ml_dtypes: pip install ml_dtypes") from None
    kind: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return kind


def to_tensor(array: np.ndarray[Any, Any]) -> Any:
    """Return a tensor of PyTorch that shares the memory of an array."""
    torch = sys.modules["torch"]
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
