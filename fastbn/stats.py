"""Statistics of channels as a value that can be updated and merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn import _layout
from fastbn._checks import check_integer
from fastbn._dispatch import kernels
from fastbn._threads import check as check_threads

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class ChannelStats:
    """Count, mean and sum of squared distances from the mean, per channel, in float64.

    Whatever way the data are split into updates and merges, the variance is right to a relative 1e-12 while the mean
    is within 1e4 standard deviations of zero. After Chan, Golub and LeVeque (1983), "Algorithms for Computing the
    Sample Variance".

    Parameters
    ----------
    num_channels : int
    axis : int
        The channel axis of the arrays given to `update`.

    Attributes
    ----------
    count : int
        Values per channel.
    mean : ndarray of float64, shape (C,)
        Zero while the count is.
    m2 : ndarray of float64, shape (C,)
        Sum of squared distances from the mean.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import ChannelStats
    >>> s = ChannelStats(2, axis=-1)
    >>> s.update(np.array([[1.0, 10.0], [3.0, 30.0]]))
    ChannelStats(2, axis=-1, count=2)
    >>> s.mean, s.var()
    (array([ 2., 20.]), array([  1., 100.]))
    >>> (s + s).count
    4
    """

    __slots__ = ("_mean_low", "axis", "count", "m2", "mean")

    def __init__(self, num_channels: int, *, axis: int = 1) -> None:
        channels = check_integer(num_channels, "num_channels", 1)
        self.axis = check_integer(axis, "axis")
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(channels)
        self.m2: NDArray[np.float64] = np.zeros(channels)
        # A second word of the mean: many small updates would otherwise each leave a rounding of its size.
        self._mean_low: NDArray[np.float64] = np.zeros(channels)

    def __repr__(self) -> str:
        return f"ChannelStats({len(self.mean)}, axis={self.axis}, count={self.count})"

    def update(self, x: ArrayLike, *, num_threads: int | None = None) -> ChannelStats:
        """Add the values of `x`.

        Parameters
        ----------
        x : array_like of float32 or float64, two or more dimensions
        num_threads : int, optional

        Returns
        -------
        ChannelStats
            Itself.

        Raises
        ------
        TypeError, ValueError
            If `x` has another dtype or number of channels, or for a bad thread count; nothing has changed then.
        """
        if num_threads is not None:
            check_threads(num_threads)
        view = _layout.view(x, self.axis, len(self.mean), statistics=True)
        if view.size:
            n, _, s = view.shape
            mean, low, m2 = kernels.statistics(view, num_threads)
            self._add(n * s, mean, m2, low)
        return self

    def merge(self, other: ChannelStats) -> ChannelStats:
        """Add the values that `other` has seen.

        Parameters
        ----------
        other : ChannelStats
            Of as many channels; it does not change.

        Returns
        -------
        ChannelStats
            Itself.

        Raises
        ------
        TypeError, ValueError
            If `other` is no ChannelStats or has another number of channels.
        """
        if not isinstance(other, ChannelStats):
            raise TypeError(f"other must be a ChannelStats, got {type(other).__name__}")
        if len(other.mean) != len(self.mean):
            raise ValueError(f"other has {len(other.mean)} channels; expected {len(self.mean)}")
        self._add(other.count, other.mean, other.m2, other._mean_low)
        return self

    def __add__(self, other: object) -> ChannelStats:
        if not isinstance(other, ChannelStats):
            return NotImplemented
        out = ChannelStats(len(self.mean), axis=self.axis)
        return out.merge(self).merge(other)

    def _add(self, count: int, mean: NDArray[Any], m2: NDArray[Any], mean_low: NDArray[Any]) -> None:
        # The one formula, as in lanes.pxi, with a mean of two words.
        if not count:
            return
        if not self.count:
            self.count, self.mean, self.m2, self._mean_low = count, mean.copy(), m2.copy(), mean_low.copy()
            return
        total = self.count + count
        weight = count / total
        with np.errstate(invalid="ignore"):  # an infinity leaves NaN in its channel, without a warning
            delta = (mean - self.mean) + (mean_low - self._mean_low)
            step = delta * weight + self._mean_low
            new_mean = self.mean + step
            # What the addition lost (Knuth's two-sum)
            part = new_mean - self.mean
            new_low = (self.mean - (new_mean - part)) + (step - part)
            new_m2 = self.m2 + m2 + delta * delta * (self.count * weight)
        self.count, self.mean, self.m2, self._mean_low = total, new_mean, new_m2, new_low

    def var(self, ddof: int = 0) -> NDArray[np.float64]:
        """Variance per channel: M2 / (count - ddof).

        Parameters
        ----------
        ddof : int
            0 for the biased variance, 1 for the unbiased.

        Returns
        -------
        ndarray of float64, shape (C,)

        Raises
        ------
        ValueError
            If there are no more than `ddof` values.
        """
        ddof = check_integer(ddof, "ddof", 0)
        if self.count <= ddof:
            raise ValueError(
                f"the variance with ddof={ddof} needs more than {ddof} values per channel, got {self.count}")
        return self.m2 / (self.count - ddof)

    def std(self, ddof: int = 0) -> NDArray[np.float64]:
        """Return the square root of `var`."""
        return np.sqrt(self.var(ddof))
