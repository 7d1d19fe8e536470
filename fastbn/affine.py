"""What batch normalization is at inference: one linear transform a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn import _images
from fastbn._checks import check_activation, check_integer
from fastbn._dispatch import kernels
from fastbn._layout import is_uint8
from fastbn._saved import Saved
from fastbn._tensors import as_constant, to_float
from fastbn._threads import check as check_threads
from fastbn.functional import relu_coefficients

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._checks import Activation


class ChannelAffine:
    """An immutable linear transform a channel: y = (x - mean) * scale + shift, with an activation if asked.

    Get one from a trained layer with ``bn.frozen()``, from statistics, or from the mean and standard deviation that
    images are normalized with. It shares nothing with what it came from, and any number of threads may share it.

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

    __slots__ = ("_constants", "_tables", "axis", "mean", "num_threads", "scale", "shift")

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    axis: int
    num_threads: int | None
    _constants: kernels.Constants
    _tables: dict[tuple[np.dtype[Any], tuple[int, float]], NDArray[Any]]     # of uint8 images, made when asked for

    def __init__(
        self, mean: ArrayLike, scale: ArrayLike, shift: ArrayLike, *, axis: int = 1, num_threads: int | None = None
    ) -> None:
        vectors = {"mean": mean, "scale": scale, "shift": shift}
        for name, values in vectors.items():
            vector = np.array(as_constant(values, name), np.float64)
            if vector.ndim != 1 or vector.shape != np.shape(mean):
                raise ValueError(f"{name} has shape {vector.shape}; expected (C,), the same for mean, scale and shift")
            if not np.isfinite(vector).all():
                raise ValueError(f"{name} has values that are not finite")
            vector.flags.writeable = False
            object.__setattr__(self, name, vector)
        object.__setattr__(self, "axis", check_integer(axis, "axis"))
        object.__setattr__(self, "num_threads", None if num_threads is None else check_threads(num_threads))
        object.__setattr__(
            self, "_constants", kernels.Constants(len(self.mean), self.mean, None, self.scale, self.shift, 0.0))
        object.__setattr__(self, "_tables", {})

    @classmethod
    def from_statistics(
        cls,
        mean: ArrayLike,
        var: ArrayLike,
        gamma: ArrayLike | None = None,
        beta: ArrayLike | None = None,
        eps: float = 1e-5,
        *,
        axis: int = 1,
        num_threads: int | None = None,
    ) -> ChannelAffine:
        """Return the batch norm of given statistics: y = (x - mean) / sqrt(var + eps) * gamma + beta.

        Parameters
        ----------
        mean, var : array_like, shape (C,)
        gamma, beta : array_like, shape (C,), optional
            1 and 0 if not given.
        eps : float
            Added to the variance.
        axis, num_threads
            As in the class.

        Returns
        -------
        ChannelAffine

        Raises
        ------
        TypeError, ValueError
            If the vectors do not fit, or a variance is negative.

        Examples
        --------
        >>> from fastbn import ChannelAffine
        >>> ChannelAffine.from_statistics([1.0], [3.0], [4.0], eps=1.0).scale
        array([2.])
        """
        saved = Saved.from_statistics(mean, var, eps=eps)
        for name, vector in (("gamma", gamma), ("beta", beta)):
            if vector is not None and np.shape(vector) != saved.mean.shape:
                raise ValueError(f"{name} has shape {np.shape(vector)}; expected that of mean, {saved.mean.shape}")
        scale, shift = relu_coefficients(saved.rstd, gamma, beta)
        return cls(saved.mean, scale, shift, axis=axis, num_threads=num_threads)

    @classmethod
    def from_mean_std(
        cls,
        mean: ArrayLike,
        std: ArrayLike,
        scale: float = 1 / 255,
        *,
        axis: int = -1,
        num_threads: int | None = None,
    ) -> ChannelAffine:
        """Return what images are normalized with: y = (x * scale - mean) / std.

        Parameters
        ----------
        mean, std : array_like, shape (C,)
            Of the scaled values; for ImageNet (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225).
        scale : float
            Brings x into the range that mean and std are of; 1 for those of values up to 255.
        axis, num_threads
            As in the class, with channels last unless told otherwise, as decoders give them.

        Returns
        -------
        ChannelAffine

        Raises
        ------
        TypeError, ValueError
            If the vectors do not fit, a std is not positive, or scale is zero or not finite.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import ChannelAffine
        >>> normalize = ChannelAffine.from_mean_std([0.5], [0.25])
        >>> normalize(np.array([[[[0], [255]]]], np.uint8), out_axis=1)
        array([[[[-2.,  2.]]]], dtype=float32)
        """
        centre, width = np.array(mean, np.float64), np.array(std, np.float64)
        if centre.ndim != 1 or centre.shape != width.shape:
            raise ValueError(f"mean and std have shapes {centre.shape} and {width.shape}; expected (C,) for both")
        if not (width > 0).all():
            raise ValueError(f"std must be positive, got {width.min()}")
        if isinstance(scale, (bool, str)) or not np.isfinite(scale) or scale == 0:
            raise ValueError(f"scale must be a finite number other than 0, got {scale!r}")
        return cls(centre / scale, scale / width, np.zeros_like(centre), axis=axis, num_threads=num_threads)

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
        activation: Activation = None,
        out: NDArray[Any] | None = None,
        *,
        axis: int | None = None,
        out_axis: int | None = None,
        dtype: DTypeLike | None = None,
    ) -> NDArray[Any]:
        """Transform `x`, in one pass.

        Parameters
        ----------
        x : array_like of float32, float64, float16, bfloat16 or uint8
            With as many channels along the channel axis as this has.
        residual : array_like, shape and dtype of x, optional
            Added before the activation. Not with uint8.
        activation : {None, "relu", "relu6", "leaky_relu", "hardswish", "sigmoid", "silu", "tanh"} or tuple
            Applied last. NaN passes through. ``("leaky_relu", slope)`` has another slope than 0.01.
        out : ndarray, optional
            Where y goes; `x` or `residual` itself for in place.
        axis : int, optional
            The channel axis of x, if not that of this transform.
        out_axis : int, optional
            The channel axis of y, if not that of x: ``axis=-1, out_axis=1`` turns NHWC into NCHW. One pass for uint8,
            two for others.
        dtype : dtype, optional
            Of y, for uint8: float32 (the default), float64, float16 or bfloat16. Each value is that of the formula in
            float64, rounded once. y of other arrays has the dtype of x.

        Returns
        -------
        ndarray
            `out` if it was given, else a new array.

        Raises
        ------
        TypeError, ValueError
            As in `fastbn.functional.batch_norm_training`.
        """
        code, slope = (0, 0.0) if activation is None else check_activation(activation)
        if axis is None:
            axis = self.axis
        if out_axis is not None or dtype is not None or is_uint8(x):
            y: NDArray[Any] = _images.convert(self, x, residual, activation, out, axis, out_axis, dtype)
            return y
        return kernels.inference(x, axis, self._constants, residual, out, code, slope, self.num_threads)

    def bind(
        self,
        shape: tuple[int, ...],
        dtype: DTypeLike = np.float32,
        layout: str | None = None,
        *,
        activation: Activation = None,
    ) -> kernels.Plan:
        """Plan the transform of arrays of one shape, for a service that sees no other.

        Parameters
        ----------
        shape : tuple of int
        dtype : dtype
            float32, float64, float16 or bfloat16.
        layout : str, optional
            The axes by letter, of which C is the channel's: "NCHW", "NHWC", "NC". By default the channel axis is that
            of this transform.
        activation
            As in a call.

        Returns
        -------
        Plan
            ``plan(x, out, residual=None)`` writes into `out` and returns it. All are C-contiguous arrays of that shape
            and dtype, or tensors of PyTorch on the CPU; it allocates nothing, and checks nothing beyond shape, dtype
            and pointer. It can be pickled, and plans anew for the machine that it arrives on.

        Raises
        ------
        TypeError, ValueError
            If the channel axis does not have as many channels as this, or the layout does not fit the shape.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import ChannelAffine
        >>> plan = ChannelAffine([1.0, 2.0], [2.0, 2.0], [0.0, 1.0]).bind((1, 2), np.float32, "NC")
        >>> out = np.empty((1, 2), np.float32)
        >>> plan(np.array([[2.0, 2.0]], np.float32), out)
        array([[2., 1.]], dtype=float32)
        """
        code, slope = check_activation(activation)
        kind = to_float(dtype)
        if not kind.isnative:
            raise TypeError(f"dtype is {kind}; expected one in native byte order")
        if not isinstance(shape, (tuple, list)):
            raise TypeError(f"shape must be a tuple of integers, got {shape!r}")
        shape = tuple(check_integer(length, "shape", 0) for length in shape)
        axis = self.axis
        if layout is not None:
            if not isinstance(layout, str) or len(layout) != len(shape) or layout.count("C") != 1:
                raise ValueError(f"layout must name the {len(shape)} axes of shape {shape} by letter, one of them C, "
                                 f"as NCHW does; got {layout!r}")
            axis = layout.index("C")
        if len(shape) < 2 or not -len(shape) <= axis < len(shape) or shape[axis] != len(self.mean):
            raise ValueError(f"shape is {shape} with its channels along axis {axis}; expected two or more axes, and "
                             f"{len(self.mean)} along that one")
        origin = _bind, (self, shape, kind.name, layout, activation)
        return kernels.Plan(np.empty(shape, kind), axis, self._constants, code, slope, self.num_threads, origin)


def _rebuild(
    mean: NDArray[Any], scale: NDArray[Any], shift: NDArray[Any], axis: int, num_threads: int | None
) -> ChannelAffine:
    return ChannelAffine(mean, scale, shift, axis=axis, num_threads=num_threads)


def _bind(
    affine: ChannelAffine, shape: tuple[int, ...], dtype: str, layout: str | None, activation: Activation
) -> kernels.Plan:
    return affine.bind(shape, dtype, layout, activation=activation)
