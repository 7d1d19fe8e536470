"""Rounds float64 to any dtype that arrays may have, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def rounded(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return float64 values rounded to nearest, ties to even, once."""
    with np.errstate(all="ignore"):     # Inf beyond the dtype, and 0 below it
        if dtype.name != "bfloat16":
            return values.astype(dtype)
        # There is no direct way. Rounding to odd first (truncate, and set the last bit of what was not exact) keeps the
        # second rounding from seeing a tie that is none.
        near = values.astype(np.float32)
    inner = np.where(np.abs(near.astype(np.float64)) > np.abs(values), np.nextafter(near, np.float32(0)), near)
    odd = inner.view(np.uint32) | (inner.astype(np.float64) != values).astype(np.uint32)
    return np.where(np.isfinite(near), odd.view(np.float32), near).astype(dtype)
