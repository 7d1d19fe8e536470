"""What batch normalization is at inference: one linear transform a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._checks import check_activation, check_integer
from fastbn._dispatch import kernels
from fastbn._threads import check as check_threads

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class ChannelAffine:
    """An immutable linear transform a channel: y = (x - mean) * scale + shift.

    Get one from a trained layer with ``bn.frozen()``. It shares nothing with the layer, so training may go on.

    Parameters
    ----------
    mean, scale, shift : array_like, shape (C,)
        Held in float64. The subtraction comes first: ``x * scale + (shift - mean * scale)`` would lose the digits that
        x and mean have in common.
    axis : int
        The channel axis.
    num_threads : int, optional
        For every call; see `fastbn.set_num_threads`.

    Raises
    ------
    TypeError, ValueError
        If the vectors are not finite, one-dimensional and of one length.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import ChannelAffine
    >>> double = ChannelAffine([1.0, 2.0], [2.0, 2.0], [0.0, 1.0])
    >>> double(np.array([[2.0, 2.0]]))
    array([[2., 1.]])
    """

    __slots__ = ("axis", "mean", "num_threads", "scale", "shift")

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    axis: int
    num_threads: int | None

    def __init__(
        self, mean: ArrayLike, scale: ArrayLike, shift: ArrayLike, *, axis: int = 1, num_threads: int | None = None
    ) -> None:
        vectors = {"mean": mean, "scale": scale, "shift": shift}
        for name, values in vectors.items():
            vector = np.array(values, np.float64)
            if vector.ndim != 1 or vector.shape != np.shape(mean):
                raise ValueError(f"{name} has shape {vector.shape}; expected (C,), the same for mean, scale and shift")
            if not np.isfinite(vector).all():
                raise ValueError(f"{name} has values that are not finite")
            vector.flags.writeable = False
            object.__setattr__(self, name, vector)
        object.__setattr__(self, "axis", check_integer(axis, "axis"))
        object.__setattr__(self, "num_threads", None if num_threads is None else check_threads(num_threads))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a ChannelAffine is immutable; cannot set {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a ChannelAffine is immutable; cannot delete {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.mean, self.scale, self.shift, self.axis, self.num_threads)

    def __repr__(self) -> str:
        return f"ChannelAffine({len(self.mean)}, axis={self.axis})"

    def __call__(
        self,
        x: ArrayLike,
        residual: ArrayLike | None = None,
        activation: str | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Transform `x`.

        Parameters
        ----------
        x : array_like of float32 or float64
            With as many channels along `axis` as this has.
        residual, activation, out
            As in `fastbn.functional.batch_norm_training`.

        Returns
        -------
        ndarray
            `out` if it was given, else a new array of x's shape and dtype.

        Raises
        ------
        TypeError, ValueError
            As in `fastbn.functional.batch_norm_training`.
        """
        relu = activation is not None and check_activation(activation)
        return kernels.inference(x, self.axis, self.mean.shape[0], residual, out, self.mean, None, self.scale,
                                 self.shift, 0.0, relu, self.num_threads)


def _rebuild(
    mean: NDArray[Any], scale: NDArray[Any], shift: NDArray[Any], axis: int, num_threads: int | None
) -> ChannelAffine:
    return ChannelAffine(mean, scale, shift, axis=axis, num_threads=num_threads)
