"""Channel statistics of values whose squares leave the range of float64, scaled by powers of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# An M2 between these neither loses digits nor overflows in a merge.
LEAST, MOST = 2.0**-800, 2.0**800
SMALL, LARGE = 2.0**-400, 2.0**400      # larger and smaller values are scaled


@dataclass(frozen=True)
class Scaled:
    """Statistics of ``x / 2**exponent``.

    Attributes
    ----------
    stats : ChannelStats
    exponent : ndarray of int, shape (C,)
        Zero in channels that need no scaling.
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
            Returns the statistics of ``x / 2**exponent``; of x for None.
        size : callable
            Returns the largest absolute value of each channel, ignoring NaN.
        """
        stats = read(None)
        exponent = np.zeros(len(stats.m2), np.int64)
        beyond = ~((stats.m2 >= LEAST) & (stats.m2 <= MOST))      # includes NaN, of an overflow, and 0
        if beyond.any():
            largest = size()
            beyond &= (largest > LARGE) | ((largest > 0) & (largest < SMALL))
            exponent[beyond] = np.frexp(largest[beyond])[1]
        return cls(read(exponent) if exponent.any() else stats, exponent)

    def __add__(self, other: Scaled) -> Scaled:
        # The larger exponent decides; channels of zeros have none.
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
        """Return both words of the mean; NaN in channels without values."""
        low = self.stats.to_arrays()["mean_low"]
        return power_of_two(self.stats.mean, self.exponent), power_of_two(low, self.exponent)

    def var(self) -> NDArray[np.float64]:
        """Return the biased variance; Inf or 0 if it leaves the range of float64, even if its square root does not."""
        return power_of_two(self.stats.var(), 2 * self.exponent)

    def std(self) -> NDArray[np.float64]:
        """Return the biased standard deviation."""
        return power_of_two(self.stats.std(), self.exponent)


def _is_zero(stats: ChannelStats) -> NDArray[np.bool_]:
    arrays = stats.to_arrays()
    zero: NDArray[np.bool_] = (arrays["mean"] == 0) & (arrays["m2"] == 0)
    return zero


def power_of_two(values: NDArray[Any], exponent: NDArray[np.int64]) -> NDArray[Any]:
    """Return ``values * 2**exponent``, without warnings of overflow and underflow."""
    with np.errstate(over="ignore", under="ignore"):
        result: NDArray[Any] = np.ldexp(values, np.clip(exponent, -5000, 5000).astype(np.int32))
    return result
