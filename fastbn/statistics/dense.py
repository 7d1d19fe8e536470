"""The moments of all values of an array, by the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.dispatch import kernels
from fastbn.statistics.moments import Moments

if TYPE_CHECKING:
    from numpy.typing import NDArray


def dense_moments(block: NDArray[Any], axis: int, num_threads: int | None, *, whole: bool) -> Moments:
    """Return the moments without extrema.

    Parameters
    ----------
    block : ndarray
        Not empty, of floating-point numbers or uint8.
    axis : int
        The channel axis, not negative.
    num_threads : int or None
    whole : bool
        Whether all values are integers.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.statistics.dense import dense_moments
    >>> found = dense_moments(np.array([[1.0, 5.0], [3.0, 9.0]]), 1, None, whole=False)
    >>> found.mean, found.m2
    (array([2., 7.]), array([2., 8.]))
    """
    view = views.view(block, axis, block.shape[axis], statistics=True)
    n, channels, s = view.shape
    mean, mean_low, m2 = kernels.reduce(view, whole=whole, num_threads=num_threads)
    return Moments(np.full(channels, float(n * s)), mean, mean_low, m2)
