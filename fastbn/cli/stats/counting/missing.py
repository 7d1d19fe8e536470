"""Statistics of an array without its missing values: NaN, and the "no data" values of rasters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import channels
from fastbn.cli.stats.settings import NOTHING_MISSING
from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.cli.stats.settings import Missing
    from fastbn.statistics.selection import NanPolicy


def measure(
    block: NDArray[Any], axis: int, missing: Missing = NOTHING_MISSING, threads: int | None = None
) -> ChannelStats:
    """Return the statistics of an array with extrema, without missing values.

    Parameters
    ----------
    block : ndarray
    axis : int
        The channel axis.
    missing : Missing
        Which values are missing.
    threads : int, optional

    Raises
    ------
    TypeError, ValueError
        If the dtype is not supported, or the array has a NaN and NaN is an error.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.cli.stats.counting.missing import measure
    >>> from fastbn.cli.stats.settings import Missing
    >>> measure(np.array([[1, -9], [3, 5]], np.int16), 1, Missing(nodata=-9)).count
    array([2., 1.])
    """
    counted = None if missing.nodata is None else ~equal(block, missing.nodata)
    if counted is not None and counted.all():
        counted = None      # without a mask, which takes longer
    if missing.nan == "raise" and block.dtype.kind == "f":
        refuse_nan(block if counted is None else np.where(counted, block, 0), axis)
    policy: NanPolicy = "omit" if missing.nan == "omit" else "propagate"
    stats = ChannelStats(block.shape[axis], axis=axis, extrema=True)
    return stats.update(block, mask=counted, nan_policy=policy, num_threads=threads)


def equal(x: NDArray[Any], value: int | float) -> NDArray[np.bool_]:
    """Return a mask of the elements that equal a value rounded to the dtype."""
    rounded = as_dtype(value, x.dtype)
    if rounded is None:
        return np.zeros(x.shape, np.bool_)
    mask: NDArray[np.bool_] = np.isnan(x) if rounded != rounded else np.equal(x, rounded)
    return mask


def as_dtype(value: int | float, dtype: np.dtype[Any]) -> Any:
    """Return a number as a scalar of a dtype, or None if the dtype has no such value."""
    if dtype.kind == "f":
        try:
            with np.errstate(over="ignore"):
                rounded = dtype.type(value)
        except OverflowError:       # an int beyond the range of double
            return None
        return None if np.isinf(rounded) and math.isfinite(value) else rounded
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return dtype.type(int(value)) if low <= value <= high and value == int(value) else None


def refuse_nan(x: NDArray[Any], axis: int) -> None:
    """Raise ValueError if the array has NaN, and name the channels."""
    others = tuple(k for k in range(x.ndim) if k != axis)
    spoilt = np.flatnonzero(np.isnan(x).any(axis=others)).tolist()
    if spoilt:
        raise ValueError(f"has NaN in {channels(spoilt)}")
