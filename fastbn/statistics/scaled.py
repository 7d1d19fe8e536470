"""Channel statistics of numbers of any size: by a power of two where squares would leave the range of float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# Sums of squared distances between these neither lose digits nor overflow, whatever is merged with them.
LEAST, MOST = 2.0**-800, 2.0**800
SMALL, LARGE = 2.0**-400, 2.0**400      # values whose squares are beyond


@dataclass(frozen=True)
class Scaled:
    """Statistics of ``x / 2**exponent``.

    Attributes
    ----------
    stats : ChannelStats
    exponent : ndarray of int, shape (C,)
        Zero in channels of ordinary numbers.
    """

    stats: ChannelStats
    exponent: NDArray[np.int64]

    @classmethod
    def of(
        cls, read: Callable[[NDArray[np.int64] | None], ChannelStats], size: Callable[[], NDArray[np.float64]],
    ) -> Scaled:
        """Return the statistics of some values.

        Parameters
        ----------
        read : callable
            Returns the statistics of the values over 2**exponent; of the values themselves for None.
        size : callable
            Returns the largest absolute value of each channel, NaN aside.
        """
        stats = read(None)
        exponent = np.zeros(len(stats.m2), np.int64)
        beyond = ~((stats.m2 >= LEAST) & (stats.m2 <= MOST))      # or NaN, of an overflow, or a constant channel's 0
        if beyond.any():
            largest = size()
            beyond &= (largest > LARGE) | ((largest > 0) & (largest < SMALL))
            exponent[beyond] = np.frexp(largest[beyond])[1]
        return cls(read(exponent) if exponent.any() else stats, exponent)

    def __add__(self, other: Scaled) -> Scaled:
        # By the larger exponent, that of what decides the result; zeros have none.
        ours, theirs = (np.where(_is_zero(part.stats), np.iinfo(np.int64).min, part.exponent) for part in (self, other))
        exponent = np.maximum(ours, theirs)
        exponent[exponent == np.iinfo(np.int64).min] = 0
        return Scaled(self._with(exponent) + other._with(exponent), exponent)

    def _with(self, exponent: NDArray[np.int64]) -> ChannelStats:
        shift = self.exponent - exponent
        if not shift.any():
            return self.stats
        arrays = self.stats.to_arrays()
        for name, power in (("mean", shift), ("mean_low", shift), ("m2", 2 * shift)):
            arrays[name] = power_of_two(arrays[name], power)
        return ChannelStats.from_arrays(**arrays, axis=self.stats.axis)

    def mean(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return both words of the mean, NaN in channels without values."""
        low = self.stats.to_arrays()["mean_low"]
        return power_of_two(self.stats.mean, self.exponent), power_of_two(low, self.exponent)

    def var(self) -> NDArray[np.float64]:
        """Return the biased variance; Inf or 0 where it is beyond float64, whose square root is not."""
        return power_of_two(self.stats.var(), 2 * self.exponent)

    def std(self) -> NDArray[np.float64]:
        """Return the biased standard deviation."""
        return power_of_two(self.stats.std(), self.exponent)


def _is_zero(stats: ChannelStats) -> NDArray[np.bool_]:
    arrays = stats.to_arrays()
    zero: NDArray[np.bool_] = (arrays["mean"] == 0) & (arrays["m2"] == 0)
    return zero


def power_of_two(values: NDArray[Any], exponent: NDArray[np.int64]) -> NDArray[Any]:
    """Return ``values * 2**exponent``, without a warning where that leaves the range of their dtype."""
    with np.errstate(over="ignore", under="ignore"):
        result: NDArray[Any] = np.ldexp(values, np.clip(exponent, -5000, 5000).astype(np.int32))
    return result
