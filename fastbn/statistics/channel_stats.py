"""Statistics of channels: a value that can be updated, merged, subtracted and stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastbn._core.checks import check_flag, check_integer, check_size, counted
from fastbn._core.files import open_regular, replace
from fastbn._core.threads import check as check_threads
from fastbn.statistics import reduction, storage
from fastbn.statistics.moments import Moments, check_parts

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from fastbn.statistics.selection import NanPolicy


class ChannelStats:
    """Count, mean and M2, the sum of squared deviations from the mean, of each channel in float64.

    Statistics of parts can be merged in any order. However the data are split, the relative error of the variance is at
    most 1e-12 if the mean is within 1e4 standard deviations of zero, and 1e-11 within 1e6. All arrays returned are
    copies, which do not change with later updates. Concurrent updates of one object lose values: give each thread its
    own, and merge them.

    Parameters
    ----------
    num_channels : int
    axis : int
        The channel axis of the arrays that `update` takes.
    extrema : bool
        Whether to find the minimum and maximum of each channel too.

    Attributes
    ----------
    axis : int
        As above.
    count : ndarray of float64, shape (C,)
        Number of values per channel, or the sum of their weights.
    mean : ndarray of float64, shape (C,)
        Like `var`, NaN in a channel without values.
    m2 : ndarray of float64, shape (C,)
        Sum of squared deviations from the mean.
    min, max : ndarray of float64, shape (C,), or None
        None without `extrema`. Inf and -Inf in a channel without values, and NaN in a channel with a NaN.

    Notes
    -----
    Batches are merged by the formula of Welford [1]_ and Chan, Golub and LeVeque [2]_, and weighted values by that of
    Schubert and Gertz [3]_. The mean has two words of float64.

    References
    ----------
    .. [1] Welford (1962), "Note on a Method for Calculating Corrected Sums of Squares and Products".
    .. [2] Chan, Golub and LeVeque (1983), "Algorithms for Computing the Sample Variance".
    .. [3] Schubert and Gertz (2018), "Numerically Stable Parallel Computation of (Co-)Variance".

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
    array([4., 4.])
    >>> (s + s) - s == s
    True
    """

    __slots__ = ("_axis", "_moments")
    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # it is mutable

    def __init__(self, num_channels: int, *, axis: int = 1, extrema: bool = False) -> None:
        channels = check_size(num_channels, "num_channels")
        self.axis = axis
        self._moments = Moments.empty(channels, check_flag(extrema, "extrema"))

    @property
    def axis(self) -> int:
        """The channel axis of the arrays that `update` takes."""
        return self._axis

    @axis.setter
    def axis(self, axis: int) -> None:
        self._axis = check_integer(axis, "axis")

    @property
    def count(self) -> NDArray[np.float64]:
        """Number of values per channel, or the sum of their weights, (C,)."""
        return np.array(self._moments.count)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each channel, (C,); NaN in a channel without values."""
        return np.where(self._moments.count > 0, self._moments.mean, np.nan)

    @property
    def m2(self) -> NDArray[np.float64]:
        """Sum of squared deviations from the mean, (C,)."""
        return np.array(self._moments.m2)

    @property
    def min(self) -> NDArray[np.float64] | None:
        """Minimum of each channel, (C,); None without `extrema`."""
        return None if self._moments.min is None else np.array(self._moments.min)

    @property
    def max(self) -> NDArray[np.float64] | None:
        """Maximum of each channel, (C,); None without `extrema`."""
        return None if self._moments.max is None else np.array(self._moments.max)

    def __repr__(self) -> str:
        count = self._moments.count
        low, high = float(count.min()), float(count.max())
        values = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        return f"ChannelStats({len(count)}, axis={self.axis}, count={values})"

    def update(
        self,
        x: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        nan_policy: NanPolicy = "propagate",
        num_threads: int | None = None,
    ) -> ChannelStats:
        """Add the values of an array, or those that a mask, lengths or weights select.

        Parameters
        ----------
        x : array_like, two or more dimensions
            Of dtype float32, float64, float16, bfloat16, bool, or integers of up to 64 bits. Sums of bool and of
            integers of up to 16 bits are exact. Memory that `x` repeats by strides of zero is not copied.
        sample_weight : array_like of numbers, shape (N,), optional
            Weight of each sample, zero or more. N is the length of the first axis other than the channel axis.
        mask : array_like of bool, optional
            Which values count. It broadcasts against the shape of `x` without its channel axis; with as many axes as
            `x`, it broadcasts against the shape of `x` and may differ between channels.
        lengths : array_like of int, shape (N,), optional
            Number of steps of each sample that count, along the second axis other than the channel axis. The remaining
            steps are padding.
        nan_policy : {"propagate", "raise", "omit"}
            A NaN makes the statistics of its channel NaN, raises a ValueError, or is ignored.
        num_threads : int, optional

        Returns
        -------
        ChannelStats
            This object.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit, or for a NaN with ``nan_policy="raise"``; the statistics are unchanged then.

        Notes
        -----
        Deviations of integers of 64 bits from their mean have a relative error of at most 2**-53, because the mean has
        two words (`to_arrays`). `mean`, `min` and `max` themselves are rounded to float64.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import ChannelStats
        >>> padded = np.array([[[1.0], [3.0]], [[5.0], [0.0]]])         # (N, T, C)
        >>> ChannelStats(1, axis=-1).update(padded, lengths=[2, 1]).mean
        array([3.])
        >>> by_channel = np.array([[True, False], [True, True]])
        >>> ChannelStats(2).update([[1.0, 9.0], [3.0, 7.0]], mask=by_channel).mean
        array([2., 7.])
        """
        if num_threads is not None:
            check_threads(num_threads)
        options = reduction.Options(nan_policy, num_threads, self._moments.min is not None)
        moments = reduction.moments(
            x, self.axis, len(self._moments.mean), options, sample_weight=sample_weight, mask=mask, lengths=lengths)
        self._moments = self._moments.merged(moments)
        return self

    def merge(self, other: ChannelStats) -> ChannelStats:
        """Add the values of other statistics.

        Parameters
        ----------
        other : ChannelStats
            With the same number of channels. It does not change.

        Returns
        -------
        ChannelStats
            This object. Without the extrema of `other`, it loses its own.

        Raises
        ------
        TypeError, ValueError
            If `other` is not a ChannelStats, or has another number of channels.

        Examples
        --------
        >>> from fastbn import ChannelStats
        >>> first, second = ChannelStats(1).update([[1.0], [3.0]]), ChannelStats(1).update([[5.0]])
        >>> first.merge(second).mean
        array([3.])
        """
        if not isinstance(other, ChannelStats):
            raise TypeError(f"other must be a ChannelStats, got {type(other).__name__}")
        self._check_channels(other)
        self._moments = self._moments.merged(other._moments)
        return self

    def __add__(self, other: object) -> ChannelStats:
        if not isinstance(other, ChannelStats):
            return NotImplemented
        return self.copy().merge(other)

    def __radd__(self, other: object) -> ChannelStats:
        """Return a copy if `other` is 0, the start value of ``sum()``."""
        return self.copy() if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: object) -> ChannelStats:
        """Return the statistics without a part that was added before. The extrema become None.

        The absolute error is that of the whole, so a small rest of a large whole has fewer digits.
        """
        if not isinstance(other, ChannelStats):
            return NotImplemented
        self._check_channels(other)
        out = self.copy()
        out._moments = self._moments.without(other._moments)
        return out

    def __eq__(self, other: object) -> bool:
        """Return whether the axes and all numbers are equal; NaN equals NaN."""
        if not isinstance(other, ChannelStats):
            return NotImplemented
        return self.axis == other.axis and self._moments.equals(other._moments)

    def _check_channels(self, other: ChannelStats) -> None:
        if len(other._moments.mean) != len(self._moments.mean):
            raise ValueError(f"other has {counted(len(other._moments.mean), 'channel')}; expected "
                             f"{len(self._moments.mean)}")

    def copy(self) -> ChannelStats:
        """Return a copy.

        Returns
        -------
        ChannelStats
        """
        return self.__copy__()

    def __copy__(self) -> ChannelStats:
        out = ChannelStats.__new__(ChannelStats)
        out.axis, out._moments = self.axis, self._moments.copied()
        return out

    def var(self, ddof: int = 0) -> NDArray[np.float64]:
        """Return the variance of each channel, M2 / (count - ddof).

        Parameters
        ----------
        ddof : int
            0 for the biased variance, 1 for the unbiased variance.

        Returns
        -------
        ndarray of float64, shape (C,)
            NaN in a channel with `ddof` values or fewer.

        Raises
        ------
        TypeError, ValueError
            If `ddof` is not an integer, or is negative.

        Examples
        --------
        >>> from fastbn import ChannelStats
        >>> ChannelStats(1).update([[1.0], [3.0]]).var(ddof=1)
        array([2.])
        """
        ddof = check_integer(ddof, "ddof", 0)
        count, m2 = self._moments.count, self._moments.m2
        out = np.full(len(m2), np.nan)
        np.divide(m2, count - ddof, out=out, where=count > ddof)
        return out

    def std(self, ddof: int = 0) -> NDArray[np.float64]:
        """Return the standard deviation of each channel, the square root of `var`.

        Parameters
        ----------
        ddof : int
            As in `var`.

        Returns
        -------
        ndarray of float64, shape (C,)
        """
        return np.sqrt(self.var(ddof))

    def to_arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return copies of all numbers, which `from_arrays` accepts.

        Returns
        -------
        dict of str to ndarray of float64, shape (C,)
            count, mean, mean_low, m2, and with `extrema` min and max. mean_low is the second word of the mean, its
            rounding error; without it, merges lose digits if the mean is many standard deviations from zero. In a
            channel without values, min and max are Inf and -Inf, and the other numbers 0.
        """
        return self._moments.copied().arrays()

    @classmethod
    def from_arrays(
        cls, count: ArrayLike, mean: ArrayLike, m2: ArrayLike, mean_low: ArrayLike | None = None,
        min: ArrayLike | None = None, max: ArrayLike | None = None, *, axis: int = 1,  # noqa: A002
    ) -> ChannelStats:
        """Return statistics with given numbers, those of `to_arrays` or of another library.

        Parameters
        ----------
        count : array_like, shape (C,) or ()
            Zero or more.
        mean, m2 : array_like, shape (C,)
            m2 is the sum of squared deviations from the mean, zero or more, or NaN.
        mean_low, min, max : array_like, shape (C,), optional
            min and max go together.
        axis : int
            As in the class.

        Returns
        -------
        ChannelStats

        Raises
        ------
        TypeError, ValueError
            If the arrays differ in shape, or have invalid values.

        Examples
        --------
        >>> from fastbn import ChannelStats
        >>> ChannelStats.from_arrays(100, [2.0], [400.0]).var()
        array([4.])
        """
        moments = check_parts(
            {"count": count, "mean": mean, "mean_low": mean_low, "m2": m2, "min": min, "max": max})
        out = cls(len(moments.mean), axis=axis)
        out._moments = moments
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {"axis": self.axis, **self.to_arrays()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        arrays = dict(state)
        self.axis = arrays.pop("axis")
        self._moments = check_parts(arrays)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all numbers to an .npz file, which is replaced atomically.

        Parameters
        ----------
        path : path-like
            Ends in .npz, in any case of letters.

        Raises
        ------
        OSError
            If the file cannot be written.
        ValueError
            If the path ends otherwise.
        """
        storage.check_suffix(path)
        replace(path, storage.dump(self.to_arrays(), self.axis))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ChannelStats:
        """Read a file that `save` wrote. Nothing is unpickled.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        ChannelStats

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is not such a file; the message begins with the path.
        """
        with open_regular(path) as file:
            try:
                arrays, axis = storage.read(file)
                return cls.from_arrays(**arrays, axis=axis)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: {error}") from error
