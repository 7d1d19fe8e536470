"""The minimum and maximum of each channel, and assignment of one number to each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH = 1024        # narrow rows are joined into vectors of about this length


def extrema(array: NDArray[Any], axis: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the minimum and maximum of each channel; NaN in a channel with a NaN.

    Parameters
    ----------
    array : ndarray
        Not empty.
    axis : int
        The channel axis, not negative.

    Returns
    -------
    tuple of two ndarray of float64, shape (C,)

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.statistics.extrema import extrema
    >>> extrema(np.array([[1, 7], [5, 3]], np.uint8), 1)
    (array([1., 3.]), array([5., 7.]))
    """
    with np.errstate(invalid="ignore"):     # bfloat16 of ml_dtypes warns of NaN, unlike the dtypes of NumPy
        low, high = (np.asarray(reduced(array, axis, ufunc), np.float64) for ufunc in (np.minimum, np.maximum))
    return low, high


def reduced(array: NDArray[Any], axis: int, ufunc: np.ufunc) -> NDArray[Any]:
    """Return the reduction of all axes but the channel axis."""
    channels = array.shape[axis]
    if not array.flags.c_contiguous or math.prod(array.shape[axis + 1:]) > 1 or 2 * channels > WIDTH:
        result: NDArray[Any] = ufunc.reduce(array, axis=tuple(k for k in range(array.ndim) if k != axis))
        return result
    # NumPy loops over one row at a time: a megapixel of uint8 RGB took 23 ms, and 0.2 ms in wide rows.
    rows = array.reshape(-1, channels)
    fold = WIDTH // channels
    whole = len(rows) // fold * fold
    ends = rows[whole:]
    if whole:
        wide = ufunc.reduce(rows[:whole].reshape(-1, fold * channels), axis=0)
        ends = np.concatenate([wide.reshape(fold, channels), ends])
    result = ufunc.reduce(ends, axis=0)
    return result


def put(array: NDArray[Any], axis: int, values: NDArray[Any], where: NDArray[np.bool_]) -> None:
    """Write the number of each channel, (C,), to some places of an array.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.statistics.extrema import put
    >>> x = np.zeros((2, 2))
    >>> put(x, 1, np.array([3.0, 5.0]), np.array([[True, False], [True, True]]))
    >>> x
    array([[3., 0.],
           [3., 5.]])
    """
    channels = len(values)
    if axis == array.ndim - 1 and array.flags.c_contiguous and where.flags.c_contiguous and 2 * channels <= WIDTH:
        # NumPy loops over one row at a time; narrow rows are joined.
        array, where, axis = array.reshape(-1, channels), where.reshape(-1, channels), 1
        fold = WIDTH // channels
        whole, wide = len(array) // fold * fold, (-1, fold * channels)
        np.copyto(array[:whole].reshape(wide), np.tile(values, fold), where=where[:whole].reshape(wide))
        array, where = array[whole:], where[whole:]
    np.copyto(array, values.reshape([-1 if k == axis else 1 for k in range(array.ndim)]), where=where)
