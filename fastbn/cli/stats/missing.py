"""Values that do not count: NaN, and those that stand for "no data" in rasters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import channels
from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.statistics.selection import NanPolicy


@dataclass(frozen=True)
class Missing:
    """Which values do not count, each in its own channel.

    Attributes
    ----------
    nan : {"propagate", "raise", "omit"}
        What a NaN does: makes its channel NaN, is an error, or does not count.
    nodata : int, float or None
        Values equal to this one do not count. It is rounded to the dtype of an array first; an integer array has none
        that equals a fraction, or a number outside its range.
    """

    nan: NanPolicy = "propagate"
    nodata: int | float | None = None


ALL_COUNT = Missing()


def measure(block: NDArray[Any], axis: int, missing: Missing = ALL_COUNT, threads: int | None = None) -> ChannelStats:
    """Return the statistics, with extrema, of the values of an array that count.

    Parameters
    ----------
    block : ndarray
    axis : int
        Its channel axis.
    missing : Missing
    threads : int, optional

    Raises
    ------
    TypeError, ValueError
        If the dtype has no statistics, or there is a NaN where that is an error.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.cli.stats.missing import Missing, measure
    >>> measure(np.array([[1, -9], [3, 5]], np.int16), 1, Missing(nodata=-9)).count
    array([2., 1.])
    """
    counted = None if missing.nodata is None else ~equal(block, missing.nodata)
    if missing.nan == "raise" and block.dtype.kind == "f":
        refuse_nan(block if counted is None else np.where(counted, block, 0), axis)
    policy: NanPolicy = "omit" if missing.nan == "omit" else "propagate"
    stats = ChannelStats(block.shape[axis], axis=axis, extrema=True)
    return stats.update(block, mask=counted, nan_policy=policy, num_threads=threads)


def equal(x: NDArray[Any], value: int | float) -> NDArray[np.bool_]:
    """Return where an array has a value, rounded to its dtype."""
    here = as_dtype(value, x.dtype)
    if here is None:
        return np.zeros(x.shape, np.bool_)
    where: NDArray[np.bool_] = np.isnan(x) if here != here else np.equal(x, here)
    return where


def as_dtype(value: int | float, dtype: np.dtype[Any]) -> Any:
    """Return a number as a scalar of a dtype, or None if the dtype has no such value."""
    if dtype.kind == "f":
        try:
            with np.errstate(over="ignore"):
                here = dtype.type(value)
        except OverflowError:       # an int that no float holds
            return None
        return None if np.isinf(here) and math.isfinite(value) else here
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return dtype.type(int(value)) if low <= value <= high and value == int(value) else None


def refuse_nan(x: NDArray[Any], axis: int) -> None:
    """Raise ValueError for NaN, naming the channels that have some."""
    others = tuple(k for k in range(x.ndim) if k != axis)
    spoilt = np.flatnonzero(np.isnan(x).any(axis=others)).tolist()
    if spoilt:
        raise ValueError(f"has NaN in {channels(spoilt)}")
