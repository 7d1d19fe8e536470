"""The moments of values with holes in different places of each channel.

The kernels reduce whole arrays. Holes are therefore filled with copies of one number per channel, and the moments of
the copies are subtracted from those of the array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.statistics.dense import dense_moments
from fastbn.statistics.extrema import extrema, put, reduced
from fastbn.statistics.moments import Moments

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_SPREAD = 2.0       # of the filled array, as a multiple of the M2 of the values


def filled_moments(
    block: NDArray[Any], absent: NDArray[np.bool_], axis: int, guess: NDArray[np.float64], *, whole: bool = False,
    with_extrema: bool = False, num_threads: int | None = None,
) -> Moments:
    """Return the moments of the values that are not absent.

    Parameters
    ----------
    block : ndarray of floating-point numbers or uint8
    absent : ndarray of bool
        In the shape of the block.
    axis : int
        The channel axis, not negative.
    guess : ndarray of float64, shape (C,)
        A number near the mean of each channel; NaN if it is not known.
    whole : bool
        Whether all values are integers.
    with_extrema : bool
    num_threads : int or None

    Notes
    -----
    Let mean and M2 be those of all N values, k of which are copies of v, and delta = v - mean. Those of the other n
    values are then mean - delta k / n and M2 - delta^2 N k / n. Where the last difference would lose digits, v is moved
    to the mean. It always lies between the minimum and the maximum, so that the extrema stay, and M2 of a constant is
    0.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.statistics.filled import filled_moments
    >>> x = np.array([[1.0, 5.0], [np.nan, 7.0], [3.0, 9.0]])
    >>> found = filled_moments(x, np.isnan(x), 1, np.full(2, np.nan))
    >>> found.count, found.mean, found.m2
    (array([2., 3.]), array([2., 7.]), array([2., 8.]))
    """
    channels = block.shape[axis]
    copies = counts(absent, axis)
    some = copies < block.size // channels
    # A copy, in which the kernels accept any number as fill.
    filled = block.astype(np.float64 if block.dtype.newbyteorder("=") == np.float64 else np.float32)
    if not np.array_equal(np.isnan(filled), absent):
        np.copyto(filled, np.nan, where=absent)
    low, high = reduced(filled, axis, np.fmin), reduced(filled, axis, np.fmax)

    def fill(values: NDArray[np.float64]) -> tuple[Moments, Moments]:
        near = np.clip((np.rint(values) if whole else values).astype(filled.dtype), low, high)
        near = np.where(some, np.where(np.isnan(near), low, near), filled.dtype.type(0))
        put(filled, axis, near, absent)
        every = dense_moments(filled, axis, num_threads, whole=whole)
        none = np.zeros(channels)
        return every, every.without(Moments(copies, near.astype(np.float64), none, none))

    with np.errstate(all="ignore"):     # an infinity gives NaN in its channel, without a warning
        every, out = fill(np.where(np.isnan(guess), low / 2 + high / 2, guess))
        if not (every.m2 <= MOST_SPREAD * out.m2).all():
            _, out = fill(out.mean)
    if with_extrema:
        least, most = extrema(filled, axis)
        out.min, out.max = np.where(some, least, np.inf), np.where(some, most, -np.inf)
    return out


def counts(chosen: NDArray[np.bool_], axis: int) -> NDArray[np.float64]:
    """Return the number of True in each channel, (C,).

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.statistics.filled import counts
    >>> counts(np.array([[True, False], [True, True]]), 1)
    array([2., 1.])
    """
    found = dense_moments(chosen.view(np.uint8), axis, 1, whole=True)
    number: NDArray[np.float64] = np.rint((found.mean + found.mean_low) * found.count)
    return number
