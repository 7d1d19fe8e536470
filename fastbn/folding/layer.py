"""Convolutions and linear layers in one common shape, for one implementation of folding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import check_flag, check_integer, listed
from fastbn._core.rounding import rounded
from fastbn._core.tensors import FLOATS, SUPPORTED, as_constant
from fastbn.folding.errors import FoldingError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A convolution, ordinary or transposed, or a linear layer, which is a convolution without spatial axes.

    Attributes
    ----------
    weight : ndarray of float64, shape (groups, outputs, inputs, *kernel)
        With the outputs and inputs of one group.
    bias : ndarray of float64, shape (groups * outputs,)
    dtype : dtype
        The dtype that `parameters` rounds to.
    transposed : bool
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    dtype: np.dtype[Any]
    transposed: bool = False

    @classmethod
    def from_parameters(
        cls, weight: ArrayLike, bias: ArrayLike | None, *, groups: int = 1, transposed: bool = False
    ) -> Layer:
        """Create a layer from parameters in PyTorch's shapes.

        Parameters
        ----------
        weight : array_like of float32, float64, float16 or bfloat16
            (O, I / groups, *kernel), or (I, O / groups, *kernel) if transposed.
        bias : array_like, shape (O,), or None
        groups : int
        transposed : bool

        Returns
        -------
        Layer

        Raises
        ------
        TypeError, ValueError
            If shapes do not match, or a value is not finite.
        """
        array = check_floats(weight, "weight")
        if array.ndim < 2 or not array.size:
            raise ValueError(f"weight has shape {array.shape}; expected two or more axes, none of them empty")
        groups, transposed = check_integer(groups, "groups", 1), check_flag(transposed, "transposed")
        if len(array) % groups:
            raise ValueError(f"groups must divide the first axis of weight, {len(array)}, got {groups}")
        split = array.astype(np.float64).reshape(groups, -1, *array.shape[1:])
        grouped = split.swapaxes(1, 2) if transposed else split
        channels = groups * grouped.shape[1]
        vector = np.zeros(channels) if bias is None else check_floats(bias, "bias").astype(np.float64)
        if vector.shape != (channels,):
            raise ValueError(f"bias has shape {vector.shape}; expected ({channels},), the output channels of weight")
        return cls(grouped, vector, array.dtype.newbyteorder("="), transposed)

    @property
    def groups(self) -> int:
        """The number of groups of channels."""
        return len(self.weight)

    @property
    def out_channels(self) -> int:
        """The number of output channels in all groups."""
        return len(self.weight) * int(self.weight.shape[1])

    @property
    def in_channels(self) -> int:
        """The number of input channels in all groups."""
        return len(self.weight) * int(self.weight.shape[2])

    @property
    def kernel(self) -> tuple[int, ...]:
        """The spatial shape of the weight; () for a linear layer."""
        return self.weight.shape[3:]

    def per_output(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a vector over output channels, shaped to broadcast against the weight."""
        return vector.reshape(self.groups, -1, 1, *(1 for _ in self.kernel))

    def per_input(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a vector over input channels, shaped to broadcast against the weight."""
        return vector.reshape(self.groups, 1, -1, *(1 for _ in self.kernel))

    def parameters(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return weight and bias in PyTorch's shapes, rounded to `dtype`, with zeros for subnormal values.

        Raises
        ------
        FoldingError
            If a value overflows; the message lists the output channels.
        """
        weight, bias = rounded(self.weight, self.dtype), rounded(self.bias, self.dtype)
        per_channel = weight.reshape(self.out_channels, math.prod(self.weight.shape[2:]))
        for name, finite in (("weight", np.isfinite(per_channel).all(axis=1)), ("bias", np.isfinite(bias))):
            if not finite.all():
                channels = listed(np.flatnonzero(~finite).tolist())
                raise FoldingError(f"the folded {name} overflows {self.dtype} in output channels {channels}")
        # NumPy has no finfo for bfloat16, whose exponent range is that of float32.
        tiny = np.finfo(np.float32 if self.dtype.name == "bfloat16" else self.dtype).tiny
        for array in (weight, bias):
            array[np.abs(array) < tiny] = 0
        split = weight.swapaxes(1, 2) if self.transposed else weight
        return np.ascontiguousarray(split).reshape(-1, *split.shape[2:]), bias


def check_floats(values: ArrayLike, name: str) -> NDArray[Any]:
    """Return an array of finite floating-point numbers; errors call the argument `name`."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; expected an array without a mask")
    array = np.asarray(as_constant(values, name))
    if array.dtype.name not in FLOATS:
        raise TypeError(f"{name} has dtype {array.dtype}; expected {SUPPORTED}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are not finite")
    return array
