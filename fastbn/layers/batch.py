"""Statistics of one training batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from fastbn._core.saved import in_range
from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn._core.saved import Saved


class Statistics(NamedTuple):
    """What a batch is normalized by.

    Attributes
    ----------
    mean, var : ndarray of float64, shape (C,)
    mean_low : ndarray of float64, shape (C,), or None
        The second word of the mean.
    counts : ndarray of float64, shape (C,), or None
        Values per channel, if channels differ; 0 where the statistics are constants, which have no gradient.
    """

    mean: NDArray[np.float64]
    var: NDArray[np.float64]
    mean_low: NDArray[np.float64] | None
    counts: NDArray[np.float64] | None


@dataclass(slots=True, eq=False)
class Batch:
    """Statistics of one training batch, which may consist of several parts.

    Attributes
    ----------
    size : int
        Values per channel; the largest count if channels differ.
    mean, var : ndarray of float64, shape (C,)
        var is biased, and Inf if it exceeds float64. In a channel without values mean is 0.
    mean_low : ndarray of float64, shape (C,), or None
        The second word of the mean.
    stats : ChannelStats or None
        The same statistics from double lanes, if they are known.
    counts : ndarray of float64, shape (C,), or None
        Values of each channel, if channels differ.
    unbiased : ndarray of float64, shape (C,), or None
        The unbiased variance, if it does not follow from var and the number of values.
    """

    size: int
    mean: NDArray[np.float64]
    var: NDArray[np.float64]
    mean_low: NDArray[np.float64] | None = None
    stats: ChannelStats | None = None
    counts: NDArray[np.float64] | None = None
    unbiased: NDArray[np.float64] | None = None

    @classmethod
    def from_saved(cls, saved: Saved) -> Batch:
        """Return the statistics that a fused forward has found."""
        kept = saved._kept
        return cls(saved._count, kept.mean, saved._var, kept.low)

    @classmethod
    def from_stats(cls, stats: ChannelStats) -> Batch:
        """Return statistics that were read apart from a forward pass."""
        arrays = stats.to_arrays()
        counts = arrays["count"]
        var = np.divide(arrays["m2"], counts, out=np.zeros(len(counts)), where=counts > 0)
        return cls(values_per_channel(stats), arrays["mean"], var, arrays["mean_low"], stats, differing(counts))

    def to_stats(self) -> ChannelStats:
        """Return the statistics in the form that merges."""
        if self.stats is not None:
            return self.stats
        counts = self.size if self.counts is None else self.counts
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            m2 = self.var * counts
        return ChannelStats.from_arrays(counts, self.mean, m2, self.mean_low)

    def statistics(self) -> Statistics:
        """Return what the batch is normalized by: the variance is as `in_range`, and 1 in a channel without values.

        The gradients of such a channel are then 0 for any eps.
        """
        var = np.where(np.asarray(self.size if self.counts is None else self.counts) > 0, in_range(self.var), 1.0)
        return Statistics(self.mean, var, self.mean_low, self.counts)

    def without(self, channels: list[int]) -> Batch:
        """Return the batch as if these channels had no values."""
        counts = np.full(len(self.mean), float(self.size)) if self.counts is None else self.counts.copy()
        counts[channels] = 0
        mean, var, low = (np.where(counts > 0, vector, 0.0) for vector in (
            self.mean, self.var, 0.0 if self.mean_low is None else self.mean_low))
        return Batch(int(counts.max()), mean, var, low, counts=differing(counts))

    def single(self) -> list[int]:
        """Return the channels that have exactly one value, and no variance."""
        counts = np.full(len(self.mean), self.size) if self.counts is None else self.counts
        channels: list[int] = np.flatnonzero(counts == 1).tolist()
        return channels

    def running_var(self, unbiased: bool) -> NDArray[np.float64]:
        """Return the variance that running averages follow; Inf if it exceeds float64."""
        if not unbiased:
            return self.var
        if self.unbiased is not None:
            return self.unbiased
        counts = np.float64(self.size) if self.counts is None else self.counts
        factor = counts / np.maximum(counts - 1, 1)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return self.var * factor

    def over(self, running: NDArray[Any], new: NDArray[np.float64], least: int = 1) -> NDArray[np.float64]:
        """Return the new averages; the running ones in channels with less than `least` values."""
        return np.where((self.size if self.counts is None else self.counts) >= np.float64(least), new, running)


class Follower(Protocol):
    """An object that receives the statistics of each training batch of a layer."""

    @property
    def exact(self) -> bool:
        """Whether it needs batches read in double lanes, apart from the fused forward pass."""

    def accepts(self, batch: Batch) -> bool:
        """Return whether it would follow a batch; may raise an error instead."""

    def follow(self, batch: Batch) -> bool:
        """Take in a batch; return False if the batch was left out."""


def differing(counts: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the counts if they differ by channel, else None."""
    return counts if (counts != counts[0]).any() else None


def values_per_channel(stats: ChannelStats) -> int:
    """Return the count; the largest one if channels differ."""
    return int(stats.count.max())
