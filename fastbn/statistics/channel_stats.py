"""Statistics of channels as a value that can be updated, merged, taken apart and stored."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import check_flag, check_integer, counted
from fastbn._core.files import open_regular, replace
from fastbn._core.threads import check as check_threads
from fastbn.statistics import selection as _selection
from fastbn.statistics.moments import Moments, check_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from fastbn.statistics.selection import NanPolicy


class ChannelStats:
    """Count, mean and sum of squared distances from the mean, per channel, in float64.

    Whatever way the data are split into updates and merges, the variance is right to a relative 1e-12 while the mean
    is within 1e4 standard deviations of zero, and to 1e-11 at 1e6. After Welford (1962), "Note on a Method for
    Calculating Corrected Sums of Squares and Products", and Chan, Golub and LeVeque (1983), "Algorithms for Computing
    the Sample Variance"; for weights, Schubert and Gertz (2018), "Numerically Stable Parallel Computation of
    (Co-)Variance".

    Every array that it gives is a new one, which does not follow later updates.

    Parameters
    ----------
    num_channels : int
    axis : int
        The channel axis of the arrays given to `update`.
    extrema : bool
        Whether to keep the least and the largest value of each channel too.

    Attributes
    ----------
    count : ndarray of float64, shape (C,)
        Values per channel, or the sum of their weights.
    mean : ndarray of float64, shape (C,)
        NaN in a channel without values, as NumPy's; so is `var`.
    m2 : ndarray of float64, shape (C,)
        Sum of squared distances from the mean.
    min, max : ndarray of float64, shape (C,), or None
        With `extrema`: Inf and -Inf while the count is zero, and NaN once a NaN was counted.

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

    __slots__ = ("_moments", "axis")
    __hash__ = None  # type: ignore[assignment]  # it changes

    def __init__(self, num_channels: int, *, axis: int = 1, extrema: bool = False) -> None:
        channels = check_integer(num_channels, "num_channels", 1)
        self.axis = check_integer(axis, "axis")
        self._moments = Moments.none(channels, check_flag(extrema, "extrema"))

    @property
    def count(self) -> NDArray[np.float64]:
        """Values per channel, or the sum of their weights, (C,)."""
        return np.array(self._moments.count)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each channel, (C,), NaN where there are no values."""
        return np.where(self._moments.count > 0, self._moments.mean, np.nan)

    @property
    def m2(self) -> NDArray[np.float64]:
        """Sum of squared distances from the mean, (C,)."""
        return np.array(self._moments.m2)

    @property
    def min(self) -> NDArray[np.float64] | None:
        """Least value of each channel, (C,), if it was asked for."""
        return None if self._moments.min is None else np.array(self._moments.min)

    @property
    def max(self) -> NDArray[np.float64] | None:
        """Largest value of each channel, (C,), if it was asked for."""
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
        """Add the values of `x`, or some of them.

        Parameters
        ----------
        x : array_like, two or more dimensions
            Of float32, float64, float16, bfloat16, bool, or integers of up to 64 bits. The sums of bool and of
            integers of up to 16 bits are exact. Integers of 64 bits may be beyond 2**53: the mean then has two words
            (`to_arrays`), its distance from the values is exact to 2**-53, and only `mean`, `min` and `max` themselves
            are rounded to float64. Memory that `x` repeats, by strides of zero, is not copied.
        sample_weight : array_like of numbers, shape (N,), optional
            How often each sample counts, N being the length of the first axis that is not the channels'; zero or more.
        mask : array_like of bool, optional
            Which values count; of any shape that broadcasts against that of `x` without its channel axis, or, where
            that differs by channel, with as many axes as `x` and against all of them.
        lengths : array_like of int, shape (N,), optional
            How many steps of each sample count, along the second axis that is not the channels'; the others are
            padding.
        nan_policy : {"propagate", "raise", "omit"}
            What a NaN does: makes its channel NaN, is an error, or does not count in its channel.
        num_threads : int, optional

        Returns
        -------
        ChannelStats
            Itself.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit, or for a NaN where that is an error; nothing has changed then.

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
        moments = _selection.moments(
            x, self.axis, len(self._moments.mean), sample_weight, mask, lengths, nan_policy, num_threads,
            self._moments.min is not None)
        self._moments = self._moments.merged(moments)
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
            Itself. Its extrema are None from then on if those of `other` are.

        Raises
        ------
        TypeError, ValueError
            If `other` is no ChannelStats or has another number of channels.
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
        """Return a copy for 0, from which ``sum()`` starts."""
        return self.copy() if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: object) -> ChannelStats:
        """Return what is left without a part that was added before; its extrema are not known.

        The error is that of the whole: a small rest of a large whole has fewer digits.
        """
        if not isinstance(other, ChannelStats):
            return NotImplemented
        self._check_channels(other)
        out = self.copy()
        out._moments = self._moments.without(other._moments)
        return out

    def __eq__(self, other: object) -> bool:
        """Whether all numbers are the same; NaN is the same as NaN."""
        if not isinstance(other, ChannelStats):
            return NotImplemented
        return self.axis == other.axis and self._moments.same(other._moments)

    def _check_channels(self, other: ChannelStats) -> None:
        if len(other._moments.mean) != len(self._moments.mean):
            raise ValueError(f"other has {counted(len(other._moments.mean), 'channel')}; expected "
                             f"{len(self._moments.mean)}")

    def copy(self) -> ChannelStats:
        """Return another one of the same values."""
        return self.__copy__()

    def __copy__(self) -> ChannelStats:
        out = ChannelStats.__new__(ChannelStats)
        out.axis, out._moments = self.axis, self._moments.copied()
        return out

    def var(self, ddof: int = 0) -> NDArray[np.float64]:
        """Variance per channel: M2 / (count - ddof).

        Parameters
        ----------
        ddof : int
            0 for the biased variance, 1 for the unbiased.

        Returns
        -------
        ndarray of float64, shape (C,)
            NaN in a channel that has no more than `ddof` values.

        Raises
        ------
        TypeError, ValueError
            If `ddof` is not an integer, or is negative.
        """
        ddof = check_integer(ddof, "ddof", 0)
        count, m2 = self._moments.count, self._moments.m2
        out = np.full(len(m2), np.nan)
        np.divide(m2, count - ddof, out=out, where=count > ddof)
        return out

    def std(self, ddof: int = 0) -> NDArray[np.float64]:
        """Return the square root of `var`."""
        return np.sqrt(self.var(ddof))

    def to_arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return copies of all numbers: count, mean, mean_low, m2 and, if they are kept, min and max, each (C,).

        mean_low is the second word of the mean, what its rounding left over; without it merges lose digits where the
        mean is many standard deviations. In a channel without values all of them are 0, the neutral element of merging,
        but min and max, which are Inf and -Inf.
        """
        return self._moments.copied().arrays()

    @classmethod
    def from_arrays(
        cls, count: ArrayLike, mean: ArrayLike, m2: ArrayLike, mean_low: ArrayLike | None = None,
        min: ArrayLike | None = None, max: ArrayLike | None = None, *, axis: int = 1,  # noqa: A002
    ) -> ChannelStats:
        """Return statistics of given numbers, those of `to_arrays` or of another library.

        Parameters
        ----------
        count : array_like, shape (C,) or ()
            Zero or more.
        mean, m2 : array_like, shape (C,)
            m2 is the sum of squared distances from the mean, zero or more, or NaN.
        mean_low, min, max : array_like, shape (C,), optional
        axis : int

        Returns
        -------
        ChannelStats

        Raises
        ------
        TypeError, ValueError
            If they do not fit together.

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
        if isinstance(state, tuple):    # of 0.1.0
            state = {**state[1], "mean_low": state[1]["_mean_low"]}
        arrays = {name: value for name, value in state.items() if name != "_mean_low"}
        self.axis = check_integer(arrays.pop("axis"), "axis")
        self._moments = check_parts(arrays)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all numbers into an .npz file, which is replaced as a whole or not at all.

        Parameters
        ----------
        path : path-like

        Raises
        ------
        OSError
            If it cannot be written.
        """
        data = io.BytesIO()
        np.savez(data, axis=np.array(self.axis, np.int64), extrema=np.array(self.min is not None, np.int64),
                 **self.to_arrays())  # type: ignore[arg-type]
        replace(path, data.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ChannelStats:
        """Return what `save` has written. Never unpickles anything.

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
            If it is no such file; the message begins with the path.
        """
        from fastbn.checkpoints.npz import Npz

        with open_regular(path) as file:
            try:
                archive = Npz(file)
                arrays = {name: archive.read(name) for name in archive.names}
                numbers = {}
                for name in ("axis", "extrema"):
                    number = arrays.pop(name, None)
                    if number is None or number.shape != () or number.dtype.kind != "i":
                        raise ValueError(f"{name} is missing or no integer; was this written by ChannelStats.save?")
                    numbers[name] = int(number)
                if numbers["extrema"] != ("min" in arrays):
                    raise ValueError("min and max are not as announced; the file is damaged")
                return cls.from_arrays(**arrays, axis=numbers["axis"])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: {error}") from error
