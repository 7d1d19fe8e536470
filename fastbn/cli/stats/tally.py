"""What is known of some values: their ChannelStats, and whether they are bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.cli.stats.kind import Kind
from fastbn.cli.stats.missing import ALL_COUNT, Missing, measure
from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOTHING = {"min": np.inf, "max": -np.inf}     # of no values; everything else is 0


@dataclass(frozen=True)
class Tally:
    """Statistics of the channels of some values; it never changes, so whoever holds one holds a whole one.

    Attributes
    ----------
    stats : ChannelStats
        With extrema.
    uint8 : bool
        Whether the values are of uint8.
    shape : tuple of int or None
        Of the first array; None for images.
    """

    stats: ChannelStats
    uint8: bool
    shape: tuple[int, ...] | None = None

    @property
    def kind(self) -> Kind:
        """Number of channels, and whether the values are of uint8."""
        return Kind(len(self.stats.mean), self.uint8)

    @classmethod
    def of(
        cls, block: NDArray[Any], axis: int, first: int, channels: int, threads: int | None = None,
        missing: Missing = ALL_COUNT,
    ) -> Tally:
        """Return the tally of an array that is not empty.

        Parameters
        ----------
        block : ndarray
        axis : int
            Its channel axis.
        first, channels : int
            Of which channels, of how many, these are the values: of `first` and those behind it.
        threads : int, optional
        missing : Missing
            Which values do not count.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn.cli.stats.tally import Tally
        >>> a = Tally.of(np.array([[1.0, 5.0], [3.0, 9.0]]), 1, 0, 3)
        >>> b = a + Tally.of(np.array([[8.0, 7.0]]), 1, 1, 3)
        >>> b.stats.count, b.stats.mean, b.stats.max
        (array([2., 3., 1.]), array([2.        , 7.33333333, 7.        ]), array([3., 9., 7.]))
        """
        width = block.shape[axis]
        stats = measure(block, axis, missing, threads)
        if width < channels:
            spread: dict[str, Any] = {}
            for name, vector in stats.to_arrays().items():
                spread[name] = np.full(channels, NOTHING.get(name, 0.0))
                spread[name][first:first + width] = vector
            stats = ChannelStats.from_arrays(**spread)
        return cls(stats, block.dtype == np.uint8)

    @property
    def spoilt(self) -> list[int]:
        """The channels that have had NaN or Inf."""
        stats = self.stats
        return [int(channel) for channel in np.flatnonzero((stats.count > 0) & ~np.isfinite(stats.mean))]

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.stats + other.stats, self.uint8, self.shape or other.shape)


def merged(first: Tally | None, second: Tally | None) -> Tally | None:
    """Return the sum of what there is."""
    if first is None or second is None:
        return second if first is None else first
    return first + second
