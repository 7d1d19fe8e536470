"""What is known of some values: ChannelStats, with the least and the largest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.stats import ChannelStats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FOLD = 1024     # columns that a minimum over rows is taken of at once, where there are fewer channels


@dataclass(frozen=True)
class Tally:
    """Statistics of the channels of some values; it never changes, so whoever holds one holds a whole one.

    Attributes
    ----------
    stats : ChannelStats
    min, max : ndarray of float64, shape (C,)
        NaN where a value is.
    uint8 : bool
        Whether the values are of uint8.
    """

    stats: ChannelStats
    min: NDArray[np.float64]
    max: NDArray[np.float64]
    uint8: bool

    @classmethod
    def of(cls, block: NDArray[Any], axis: int, threads: int | None = None) -> Tally:
        """Return the tally of an array that is not empty.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn.statistics_command.tally import Tally
        >>> a = Tally.of(np.array([[1.0, 5.0], [3.0, 9.0]]), 1)
        >>> b = a + Tally.of(np.array([[8.0, 7.0]]), 1)
        >>> b.count, b.stats.mean, b.min, b.max
        (3, array([4., 7.]), array([1., 5.]), array([8., 9.]))
        """
        stats = ChannelStats(block.shape[axis], axis=axis).update(block, num_threads=threads)
        return cls(stats, extreme(block, axis, np.minimum), extreme(block, axis, np.maximum), block.dtype == np.uint8)

    @property
    def channels(self) -> int:
        """How many there are."""
        return len(self.min)

    @property
    def count(self) -> int:
        """Values per channel, the same for all."""
        return int(np.max(self.stats.count))

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.stats + other.stats, np.minimum(self.min, other.min), np.maximum(self.max, other.max),
                     self.uint8)


def merged(first: Tally | None, second: Tally | None) -> Tally | None:
    """Return the sum of what there is."""
    if first is None or second is None:
        return second if first is None else first
    return first + second


def rebuilt(count: int, mean: NDArray[np.float64], m2: NDArray[np.float64]) -> ChannelStats:
    """Return the ChannelStats that has this state."""
    stats = ChannelStats(len(mean))
    stats.count = stats.count + count
    stats.mean, stats.m2 = mean, m2
    return stats


def joined(groups: Sequence[Tally | None]) -> Tally | None:
    """Return the tally of all channels from those of groups of them, None unless each has seen as many values."""
    known = [group for group in groups if group is not None]
    if len(known) < len(groups) or len({group.count for group in known}) != 1:
        return None
    if len(known) == 1:
        return known[0]
    stats = rebuilt(known[0].count, np.concatenate([group.stats.mean for group in known]),
                    np.concatenate([group.stats.m2 for group in known]))
    return Tally(stats, np.concatenate([group.min for group in known]), np.concatenate([group.max for group in known]),
                 known[0].uint8)


def extreme(block: NDArray[Any], axis: int, ufunc: np.ufunc) -> NDArray[np.float64]:
    """Return the minimum or maximum of each channel."""
    channels, after = block.shape[axis], math.prod(block.shape[axis + 1:])
    if after > 1:
        ends = ufunc.reduce(block.reshape(-1, channels, after), axis=2)
    else:
        # Rows of three channels are no work for a vector unit; some hundred of them side by side are.
        rows = block.reshape(-1, channels)
        fold = max(1, FOLD // channels)
        whole = len(rows) // fold * fold
        ends = rows[whole:]
        if whole:
            wide = ufunc.reduce(rows[:whole].reshape(-1, fold * channels), axis=0)
            ends = np.concatenate([wide.reshape(fold, channels), ends])
    return np.asarray(ufunc.reduce(ends, axis=0), np.float64)
