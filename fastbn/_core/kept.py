"""What the kernels of a backward pass read of its forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Kept(NamedTuple):
    """What a forward pass leaves for the kernels of its backward pass.

    The kernels unpack it by position. A batch norm has one statistic per channel, and one group of samples.

    Attributes
    ----------
    mean, low : ndarray of float64, shape (statistics,)
        The mean in two words; without a second word `low` is None.
    rstd : ndarray of float64, shape (statistics,)
    scale : ndarray of float64, shape (groups * C,), or None
        gamma * rstd, if there was an activation and no residual.
    shift : ndarray of float64, shape (C,), or None
        beta, likewise.
    bits : ndarray of uint16, or None
        Where the ReLU was open, if there was a residual too.
    frozen : bool
        Whether the statistics are constants.
    activation : tuple of int and float
        What `check_activation` returned.
    """

    mean: NDArray[np.float64]
    low: NDArray[np.float64] | None
    rstd: NDArray[np.float64]
    scale: NDArray[np.float64] | None
    shift: NDArray[np.float64] | None
    bits: NDArray[np.uint16] | None
    frozen: bool
    activation: tuple[int, float]
