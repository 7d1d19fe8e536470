"""What a whitening forward pass saves for its backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastbn._core import views
from fastbn._core.saved import read_only
from fastbn._core.tensors import as_constant

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn.functional.inverse_root import Root


class WhiteningSaved:
    """What `whitening_backward` needs from its forward pass; opaque except for the statistics.

    `whitening_training` returns one, and `from_statistics` makes one for `whitening_inference`. It can be copied and
    pickled.

    Attributes
    ----------
    mean : ndarray of float64, shape (C,)
        Read-only.
    matrix : ndarray of float64, shape (G, D, D)
        The whitening matrix of each group of D = C / G channels. Read-only.
    count : int
        Values per channel; 0 for given statistics.
    """

    __slots__ = ("_axis", "_count", "_matrix", "_mean", "_root", "_shape")

    def __init__(
        self, mean: NDArray[np.float64], matrix: NDArray[np.float64], root: Root | None = None, count: int = 0,
        shape: tuple[int, ...] | None = None, axis: int | None = None,
    ) -> None:
        self._mean, self._matrix, self._count = mean, matrix, count
        self._root = root       # None if the matrix is a constant
        self._shape, self._axis = shape, axis       # of x, if there was a forward pass

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each channel."""
        return read_only(self._mean)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Whitening matrix of each group."""
        return read_only(self._matrix)

    @property
    def count(self) -> int:
        """Values per channel."""
        return self._count

    def __repr__(self) -> str:
        return f"WhiteningSaved({len(self._mean)}, groups={len(self._matrix)}, count={self._count})"

    @classmethod
    def from_statistics(cls, mean: ArrayLike, matrix: ArrayLike) -> WhiteningSaved:
        """Return what `whitening_backward` needs after `whitening_inference`.

        Parameters
        ----------
        mean : array_like of float32 or float64, shape (C,)
        matrix : array_like of float32 or float64, shape (G, D, D)

        Returns
        -------
        WhiteningSaved

        Raises
        ------
        TypeError, ValueError
            If an argument has another dtype, or the shapes do not fit.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn.functional import WhiteningSaved
        >>> WhiteningSaved.from_statistics([0.0, 0.0], np.eye(2)[None])
        WhiteningSaved(2, groups=1, count=0)
        """
        matrices = check_matrix(matrix)
        return cls(to_vector(mean, matrices.shape[0] * matrices.shape[1], "mean"), matrices)


def check_matrix(matrix: ArrayLike, channels: int | None = None) -> NDArray[np.float64]:
    """Return whitening matrices of all groups as a new float64 array."""
    given = views.as_plain(as_constant(matrix, "matrix"), "matrix")
    if given.dtype.kind not in "fiu":
        raise TypeError(f"matrix has dtype {given.dtype}; expected float32 or float64")
    if given.ndim != 3 or given.shape[1] != given.shape[2]:
        raise ValueError(f"matrix has shape {given.shape}; expected (G, D, D), one matrix for each of G groups")
    if channels is not None and given.shape[0] * given.shape[1] != channels:
        raise ValueError(f"matrix has shape {given.shape}, for {given.shape[0] * given.shape[1]} channels; x has "
                         f"{channels}")
    return np.array(given, np.float64)


def to_vector(values: ArrayLike, channels: int, name: str) -> NDArray[np.float64]:
    """Return a vector of shape (C,), checked, as a new float64 array."""
    if values is None:
        raise TypeError(f"{name} must be an array, got None")
    views.check_vector(values, channels, name)
    return np.array(as_constant(values, name), np.float64)
