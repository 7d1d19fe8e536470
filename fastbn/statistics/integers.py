"""Integers of up to 64 bits as floating-point numbers for the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.statistics.extrema import extrema, put, reduced

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.statistics.moments import Moments

# Integers without a kernel become floating-point numbers that represent all of them; those of 64 bits are converted
# after the subtraction of an integer.
INTEGERS: dict[np.dtype[Any], type[np.float32] | type[np.float64]] = {
    np.dtype(np.int8): np.float32, np.dtype(np.int16): np.float32, np.dtype(np.uint16): np.float32,
    np.dtype(np.int32): np.float64, np.dtype(np.uint32): np.float64, np.dtype(np.int64): np.float64,
    np.dtype(np.uint64): np.float64,
}


def to_floats(block: NDArray[Any], axis: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return a block in a dtype with a kernel, and the integers subtracted from its channels, (C,), if there are any.

    Integers of 64 bits become their distances from the middle of their range. These are exact up to 2**53; beyond, the
    rounding is at most 2**-53 of the value, as for any float64.
    """
    native = block.dtype.newbyteorder("=")
    kind = INTEGERS.get(native)
    if kind is None:
        return block, None
    if native.itemsize < 8 or not block.size:
        return block.astype(kind, order="K"), None
    block = block.astype(native, copy=False)
    # Unsigned differences wrap around at 2**64, so that the distances are right for signed integers too.
    low, high = (reduced(block, axis, ufunc).astype(native).view(np.uint64) for ufunc in (np.minimum, np.maximum))
    middle = low + (high - low) // 2 + (high - low) % 2
    distances = block.view(np.uint64) - middle.reshape([-1 if k == axis else 1 for k in range(block.ndim)])
    return distances.view(np.int64).astype(kind), middle.view(native)


def is_wide(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype has integers of 64 bits, whose range in a block decides about their digits."""
    return dtype.kind in "iu" and dtype.itemsize == 8


def without_absent(block: NDArray[Any], absent: NDArray[np.bool_], axis: int) -> NDArray[Any]:
    """Return a copy of integers, in which those that are absent do not extend the range of their channel."""
    filled = block.astype(block.dtype.newbyteorder("="))
    np.copyto(filled, np.iinfo(filled.dtype).min, where=absent)
    put(filled, axis, reduced(filled, axis, np.maximum), absent)
    return filled


def from_origin(
    found: Moments, origin: NDArray[Any], block: NDArray[Any], axis: int, *, with_extrema: bool,
) -> Moments:
    """Return the moments of the integers of a block from those of their distances from an origin.

    Minimum and maximum are rounded once.
    """
    out = found.shifted(origin)
    if with_extrema:
        some, (low, high) = out.count > 0, extrema(block, axis)
        out.min, out.max = np.where(some, low, np.inf), np.where(some, high, -np.inf)
    return out
