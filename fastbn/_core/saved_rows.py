"""What a forward pass with statistics of rows saves for its backward pass."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.checks import NO_ACTIVATION, RELU
from fastbn._core.saved import is_activation, is_vector, read_only, refuse

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class RowSaved:
    """What a backward pass of layer or RMS norm needs from its forward pass; opaque except for the statistics.

    It can be copied and pickled. The backward pass checks its private content against the arrays before it computes
    anything.

    Attributes
    ----------
    mean : ndarray of float64, or None
        Mean of each row, of the shape of x without its normalized axes; None after an RMS norm. Read-only.
    rstd : ndarray of float64
        1 / sqrt(var + eps), of an RMS norm 1 / sqrt(mean of x**2 + eps), of that shape. Read-only.
    count : int
        Values of each row.
    """

    __slots__ = ("_activation", "_beta", "_bits", "_lengths", "_residual", "_shape", "_statistics")

    def __init__(
        self,
        statistics: tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, NDArray[np.float64]],
        shape: tuple[int, ...],
        lengths: tuple[int, ...],
        *,
        activation: tuple[int, float] = NO_ACTIVATION,
        residual: bool = False,
        beta: NDArray[np.float64] | None = None,
        bits: NDArray[np.uint16] | None = None,
    ) -> None:
        self._statistics = statistics       # mean in two words, and rstd: as the kernels return them
        self._shape = shape                 # of x
        self._lengths = lengths             # of its normalized axes
        self._activation = activation
        self._residual = residual           # whether the forward pass had one
        self._beta = beta                   # (count,), if there was an activation and no residual
        self._bits = bits                   # where the ReLU was open, if there was a residual too

    @property
    def mean(self) -> NDArray[np.float64] | None:
        """Mean of each row."""
        mean = self._statistics[0]
        return None if mean is None else self._of_rows(mean)

    @property
    def rstd(self) -> NDArray[np.float64]:
        """1 / sqrt(var + eps) of each row."""
        return self._of_rows(self._statistics[2])

    @property
    def count(self) -> int:
        """Values of each row."""
        return math.prod(self._lengths)

    def __repr__(self) -> str:
        return f"RowSaved({self._leading()}, count={self.count})"

    def _leading(self) -> tuple[int, ...]:
        return self._shape[:len(self._shape) - len(self._lengths)]

    def _of_rows(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        return read_only(vector).reshape(self._leading())

    def _view_of(self, x: ArrayLike, about_zero: bool) -> views.View:
        """Return a view of x of the forward pass as rows.

        Raises
        ------
        TypeError, ValueError
            If x is not that of the forward pass, or the content of this object is not what it saves. The kernels trust
            its combinations.
        """
        if not (is_shape(self._shape) and is_shape(self._lengths) and self._lengths
                and self._shape[-len(self._lengths):] == self._lengths):
            refuse("shape", (self._shape, self._lengths))
        if not isinstance(self._statistics, tuple) or len(self._statistics) != 3:
            refuse("statistics", self._statistics)
        if (self._statistics[0] is None) != about_zero:
            raise ValueError(f"saved is of {'a layer norm' if about_zero else 'an RMS norm'}; expected that of "
                             f"{'an RMS norm' if about_zero else 'a layer norm'}")
        rows = math.prod(self._leading())
        mean, low, rstd = self._statistics
        for name, vector in (("rstd", rstd),) if about_zero else (("mean", mean), ("mean", low), ("rstd", rstd)):
            if vector is None or not is_vector(vector, np.float64) or len(vector) != rows:
                refuse(name, vector)
        if about_zero and low is not None:
            refuse("mean", low)
        if type(self._residual) is not bool:
            refuse("residual", self._residual)
        if not is_activation(self._activation) or (self._residual and self._activation[0] > RELU):
            refuse("activation", self._activation)
        if self._beta is not None and not (is_vector(self._beta, np.float64) and len(self._beta) == self.count):
            refuse("beta", self._beta)
        view = views.rows(x, self._lengths)
        if view.whole != self._shape:
            raise ValueError(f"x has shape {view.whole}; expected that of the forward pass, {self._shape}")
        return view


def is_shape(shape: Any) -> bool:
    """Return whether this is the shape of an array."""
    return isinstance(shape, tuple) and all(type(length) is int and length >= 0 for length in shape)
