"""CPU tensors of PyTorch come in and go out as the memory that they are, without a copy."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def is_tensor(x: object) -> bool:
    """Return whether `x` is a tensor of PyTorch, which need not be there."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


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
    if x.device.type != "cpu" or x.layout != torch.strided:
        raise TypeError(f"{name} is a {x.layout} tensor on {x.device}; expected a strided one on the CPU")
    if x.requires_grad:
        raise TypeError(f"{name} requires a gradient, and fastbn is no part of autograd; expected {name}.detach()")
    if x.dtype != torch.bfloat16:
        array: np.ndarray[Any, Any] = x.numpy()
        return array
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        raise ImportError(
            f"{name} is of bfloat16, which NumPy knows only with ml_dtypes: pip install ml_dtypes") from None
    bits: np.ndarray[Any, Any] = x.view(torch.int16).numpy()
    return bits.view(ml_dtypes.bfloat16)


def as_array(x: Any, name: str) -> Any:
    """Return a tensor's memory as an array, and anything else as it is."""
    return to_array(x, name) if is_tensor(x) else x


def to_tensor(array: np.ndarray[Any, Any]) -> Any:
    """Return a tensor of an array's memory."""
    torch = sys.modules["torch"]
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
