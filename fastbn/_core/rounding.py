"""Round float64 to any supported dtype, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def rounded(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return float64 values rounded to a dtype: to nearest, ties to even, in a single rounding."""
    with np.errstate(all="ignore"):     # overflow gives Inf, underflow gives 0
        if dtype.name != "bfloat16":
            return values.astype(dtype)
        # The way to bfloat16 leads through float32. Rounding to odd there (truncate, and set the last bit if that was
        # inexact) cannot produce a false tie for the second rounding.
        near = values.astype(np.float32)
    inner = np.where(np.abs(near.astype(np.float64)) > np.abs(values), np.nextafter(near, np.float32(0)), near)
    odd = inner.view(np.uint32) | (inner.astype(np.float64) != values).astype(np.uint32)
    return np.where(np.isfinite(near), odd.view(np.float32), near).astype(dtype)
