"""Statistics of some blocks, which can be added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.cli.stats.counting.missing import measure
from fastbn.cli.stats.readers.kind import Kind
from fastbn.cli.stats.settings import NOTHING_MISSING
from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.cli.stats.settings import Missing

EMPTY = {"min": np.inf, "max": -np.inf}     # of a channel without values; all other statistics are 0


@dataclass(frozen=True)
class Tally:
    """Statistics of some values. It is immutable, so an interrupted run always has a consistent one.

    Attributes
    ----------
    stats : ChannelStats
        With extrema.
    omitted : ndarray of int64, shape (C,)
        Number of missing values of each channel, which do not count.
    uint8 : bool
        Whether the dtype is uint8.
    shape : tuple of int or None
        Shape of the first array; None for images.
    """

    stats: ChannelStats
    omitted: NDArray[np.int64]
    uint8: bool
    shape: tuple[int, ...] | None = None

    @property
    def kind(self) -> Kind:
        """The properties that all arrays must share."""
        return Kind(len(self.stats.mean), self.uint8)

    @classmethod
    def of(
        cls, block: NDArray[Any], axis: int, first: int, channels: int, *, threads: int | None = None,
        missing: Missing = NOTHING_MISSING,
    ) -> Tally:
        """Return the statistics of a block, which may have a part of the channels.

        Parameters
        ----------
        block : ndarray
            Not empty.
        axis : int
            The channel axis.
        first : int
            The channel at index 0 of the block.
        channels : int
            The number of channels of the whole array.
        threads : int, optional
        missing : Missing
            Which values are missing.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn.cli.stats.counting.tally import Tally
        >>> a = Tally.of(np.array([[1.0, 5.0], [3.0, 9.0]]), 1, 0, 3)
        >>> b = a + Tally.of(np.array([[8.0, 7.0]]), 1, 1, 3)
        >>> b.stats.count, b.stats.mean, b.stats.max
        (array([2., 3., 1.]), array([2.        , 7.33333333, 7.        ]), array([3., 9., 7.]))
        """
        width = block.shape[axis]
        stats = measure(block, axis, missing, threads)
        omitted = np.zeros(channels, np.int64)
        omitted[first:first + width] = block.size // width - stats.count
        if width < channels:
            spread: dict[str, Any] = {}
            for name, vector in stats.to_arrays().items():
                spread[name] = np.full(channels, EMPTY.get(name, 0.0))
                spread[name][first:first + width] = vector
            stats = ChannelStats.from_arrays(**spread)
        return cls(stats, omitted, block.dtype == np.uint8)

    @property
    def spoilt(self) -> list[int]:
        """The channels with NaN or Inf."""
        stats = self.stats
        return [int(channel) for channel in np.flatnonzero((stats.count > 0) & ~np.isfinite(stats.mean))]

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.stats + other.stats, self.omitted + other.omitted, self.uint8, self.shape or other.shape)


def merged(first: Tally | None, second: Tally | None) -> Tally | None:
    """Return the sum of two tallies, either of which may be None."""
    if first is None or second is None:
        return second if first is None else first
    return first + second
