"""Batch normalization at inference: one linear transform per channel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import images
from fastbn._core.checks import as_vector, check_activation, check_finite, check_integer, check_number, counted
from fastbn._core.dispatch import kernels
from fastbn._core.saved import Saved
from fastbn._core.tensors import to_float
from fastbn._core.threads import check as check_threads
from fastbn._core.views import is_image
from fastbn.functional.batchnorm import forward_coefficients

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._core.checks import Activation

__all__ = ["ChannelAffine", "Plan"]


class ChannelAffine:
    """An immutable linear transform per channel, with an optional activation: y = (x - mean) * scale + shift.

    This is what batch normalization is at inference. Get one from a trained layer by `BatchNorm.frozen`, from
    statistics by `from_statistics`, or for images by `from_mean_std`. It copies its vectors, and any number of threads
    may share it. Two transforms are equal, and have the same hash, if their vectors, axis and num_threads are equal.

    Parameters
    ----------
    mean, scale, shift : array_like, shape (C,)
        Stored in float64. The mean is subtracted first, because ``x * scale + (shift - mean * scale)`` loses the digits
        that x and mean have in common.
    axis : int
        The channel axis.
    num_threads : int, optional
        For every call; see `fastbn.set_num_threads`.

    Attributes
    ----------
    mean, scale, shift : ndarray of float64, shape (C,)
        Read-only.
    axis : int
    num_threads : int or None

    Raises
    ------
    TypeError, ValueError
        If the vectors are not one-dimensional, differ in length, or have values that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import ChannelAffine
    >>> double = ChannelAffine([1.0, 2.0], [2.0, 2.0], [0.0, 1.0])
    >>> double(np.array([[2.0, 2.0]]))
    array([[2., 1.]])
    """

    __slots__ = ("_constants", "_integers", "_transforms", "axis", "mean", "num_threads", "scale", "shift")

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    axis: int
    num_threads: int | None
    _constants: kernels.Constants
    _integers: Mapping[np.dtype[Any], ChannelAffine]        # used in its place for images of these dtypes
    _transforms: Mapping[np.dtype[Any] | None, images.Transform]

    def __init__(
        self, mean: ArrayLike, scale: ArrayLike, shift: ArrayLike, *, axis: int = 1, num_threads: int | None = None
    ) -> None:
        given = {"mean": mean, "scale": scale, "shift": shift}
        vectors = {name: as_vector(values, name) for name, values in given.items()}
        for name, vector in vectors.items():
            if vector.ndim != 1 or vector.shape != vectors["mean"].shape:
                raise ValueError(f"{name} has shape {vector.shape}; expected (C,), the same for mean, scale and shift")
            check_finite({name: vector})
            vector.flags.writeable = False
            object.__setattr__(self, name, vector)
        object.__setattr__(self, "axis", check_integer(axis, "axis"))
        object.__setattr__(self, "num_threads", None if num_threads is None else check_threads(num_threads))
        object.__setattr__(
            self, "_constants", kernels.Constants(len(self.mean), self.mean, None, self.scale, self.shift, 0.0))
        self._set_integers({})

    def _set_integers(self, integers: Mapping[np.dtype[Any], ChannelAffine]) -> None:
        own = images.Transform(self._constants, self.num_threads)
        transforms = {None: own} | {kind: other._transforms[None] for kind, other in integers.items()}
        object.__setattr__(self, "_integers", integers)
        object.__setattr__(self, "_transforms", transforms)

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
        """Return batch normalization by given statistics: y = (x - mean) / sqrt(var + eps) * gamma + beta.

        Parameters
        ----------
        mean, var : array_like, shape (C,)
        gamma, beta : array_like, shape (C,), optional
            By default 1 and 0.
        eps : float
            Added to the variance.
        axis : int
        num_threads : int, optional
            As in the class.

        Returns
        -------
        ChannelAffine

        Raises
        ------
        TypeError, ValueError
            If the vectors differ in length or have values that are not finite, or a variance is negative.

        Examples
        --------
        >>> from fastbn import ChannelAffine
        >>> ChannelAffine.from_statistics([1.0], [3.0], [4.0], eps=1.0).scale
        array([2.])
        """
        vectors = {"mean": as_vector(mean, "mean"), "var": as_vector(var, "var")}
        vectors |= {name: as_vector(values, name) for name, values in (("gamma", gamma), ("beta", beta))
                    if values is not None}
        check_finite(vectors)
        saved = Saved.from_statistics(vectors["mean"], vectors["var"], eps=eps)
        for name in ("gamma", "beta"):
            if name in vectors and vectors[name].shape != saved.mean.shape:
                raise ValueError(f"{name} has shape {vectors[name].shape}; expected that of mean, {saved.mean.shape}")
        with np.errstate(over="ignore"):    # checked below
            scale, shift = forward_coefficients(saved.rstd, vectors.get("gamma"), vectors.get("beta"))
        check_finite({"gamma / sqrt(var + eps)": scale})
        return cls(saved.mean, scale, shift, axis=axis, num_threads=num_threads)

    @classmethod
    def from_mean_std(
        cls,
        mean: ArrayLike,
        std: ArrayLike,
        scale: float | None = None,
        *,
        axis: int = -1,
        num_threads: int | None = None,
    ) -> ChannelAffine:
        """Return the usual normalization of images: y = (x * scale - mean) / std.

        Parameters
        ----------
        mean, std : array_like, shape (C,)
            Mean and standard deviation of the scaled values. Those of ImageNet are (0.485, 0.456, 0.406) and
            (0.229, 0.224, 0.225).
        scale : float, optional
            Converts x to the range of mean and std. By default it depends on the dtype of x, as in torchvision: 1/255
            for uint8, 1/65535 for uint16, and 1 for floating-point images, whose values are between 0 and 1 already.
            Pass 1 if mean and std are those of values up to 255.
        axis : int
            The channel axis. By default the channels are last, the layout of image decoders.
        num_threads : int, optional
            As in the class.

        Returns
        -------
        ChannelAffine
            Its mean, scale and shift apply to floating-point x, as do the results of `bind` and of folding.

        Raises
        ------
        TypeError, ValueError
            If mean and std are not vectors of the same length, a std is not positive, or scale is 0 or not finite.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import ChannelAffine
        >>> normalize = ChannelAffine.from_mean_std([0.5], [0.25])
        >>> normalize(np.array([[[[0], [255]]]], np.uint8), out_axis=1)
        array([[[[-2.,  2.]]]], dtype=float32)
        >>> normalize(np.array([[0.0], [1.0]], np.float32))
        array([[-2.],
               [ 2.]], dtype=float32)
        """
        centre, width = as_vector(mean, "mean"), as_vector(std, "std")
        if centre.ndim != 1 or centre.shape != width.shape:
            raise ValueError(f"mean and std have shapes {centre.shape} and {width.shape}; expected (C,) for both")
        check_finite({"mean": centre})
        if not ((width > 0) & (width < np.inf)).all():
            raise ValueError(f"std must be positive and finite, got {width[~((width > 0) & (width < np.inf))][0]}")
        if scale is not None:
            expected = "a finite number other than 0, or None"
            given = math.nan if getattr(scale, "ndim", 0) else check_number(scale, "scale", expected)
            if not math.isfinite(given) or given == 0:
                raise ValueError(f"scale must be {expected}, got {scale!r}")

        def scaled(factor: float) -> ChannelAffine:
            with np.errstate(over="ignore"):    # checked below
                offset, slope = centre / factor, factor / width
            check_finite({"mean / scale": offset, "scale / std": slope})
            return cls(offset, slope, np.zeros_like(centre), axis=axis, num_threads=num_threads)

        if scale is not None:
            return scaled(given)
        own = scaled(1.0)
        own._set_integers({kind: scaled(1 / np.iinfo(kind).max) for kind in images.IMAGES})
        return own

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a ChannelAffine is immutable; cannot set {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a ChannelAffine is immutable; cannot delete {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.mean, self.scale, self.shift, self.axis, self.num_threads, self._integers)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, ChannelAffine) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        # Adding 0.0 turns -0.0 into 0.0, which is equal.
        vectors = ((vector + 0.0).tobytes() for vector in (self.mean, self.scale, self.shift))
        return (*vectors, self.axis, self.num_threads, *(other._key() for other in self._integers.values()))

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
        """Transform an array in one pass.

        Parameters
        ----------
        x : array_like of float32, float64, float16, bfloat16, uint8 or uint16
            With C channels along the channel axis.
        residual : array_like, shape and dtype of x, optional
            Added before the activation. Not supported with uint8 and uint16.
        activation : str, tuple or None
            Applied last; NaN stays NaN. "relu", "relu6", "leaky_relu", "hardswish", "hard_sigmoid", "sigmoid", "silu",
            "tanh", "gelu", "gelu_tanh", "mish", "softplus", "elu", ``("leaky_relu", slope)`` or ``("elu", alpha)``.
        out : ndarray, optional
            The array for y. `x` or `residual` itself is allowed.
        axis : int, optional
            The channel axis of x, if it differs from that of this transform.
        out_axis : int, optional
            The channel axis of y, if it differs from that of x: ``axis=-1, out_axis=1`` converts NHWC to NCHW. This
            takes one pass for uint8 and two for other dtypes.
        dtype : dtype, optional
            The dtype of y for uint8 and uint16: float32 (the default), float64, float16 or bfloat16. Each value is
            computed in float64 and rounded once. For other dtypes, y has the dtype of x.

        Returns
        -------
        ndarray
            `out`, or a new array without it.

        Raises
        ------
        TypeError, ValueError
            As in `fastbn.functional.batch_norm_training`.
        """
        coded = check_activation(activation)
        if axis is None:
            axis = self.axis
        if out_axis is not None or dtype is not None or is_image(x):
            y: NDArray[Any] = images.convert(
                self._transforms, x, residual, out, coded, axis=axis, out_axis=out_axis, dtype=dtype)
            return y
        return kernels.apply(x, axis, self._constants, residual, out, coded, self.num_threads)

    def bind(
        self,
        shape: tuple[int, ...],
        dtype: DTypeLike = np.float32,
        layout: str | None = None,
        *,
        activation: Activation = None,
    ) -> Plan:
        """Plan the transform for arrays of one shape and dtype, so that each call has less to do.

        Parameters
        ----------
        shape : tuple of int
        dtype : dtype
            float32, float64, float16 or bfloat16.
        layout : str, optional
            One letter per axis, with C for the channel axis: "NCHW", "NHWC", "NC". By default the channel axis is that
            of this transform.
        activation : str or tuple, optional
            As in a call.

        Returns
        -------
        Plan

        Raises
        ------
        TypeError, ValueError
            If the shape does not have C channels along the channel axis, or does not fit the layout.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbn import ChannelAffine
        >>> plan = ChannelAffine([1.0, 2.0], [2.0, 2.0], [0.0, 1.0]).bind((1, 2), np.float32, "NC")
        >>> plan(np.array([[2.0, 2.0]], np.float32), np.empty((1, 2), np.float32))
        array([[2., 1.]], dtype=float32)
        """
        coded = check_activation(activation)
        kind = to_float(dtype)
        if not kind.isnative:
            raise TypeError(f"dtype is {kind}; expected native byte order")
        if not isinstance(shape, (tuple, list)):
            raise TypeError(f"shape must be a tuple of integers, got {shape!r}")
        shape = tuple(check_integer(length, "shape", 0) for length in shape)
        axis = self.axis
        if layout is not None:
            if not isinstance(layout, str) or len(layout) != len(shape) or layout.count("C") != 1:
                raise ValueError(f"layout must have one letter for each of the {len(shape)} axes of shape {shape}, one "
                                 f"of them C, like NCHW; got {layout!r}")
            axis = layout.index("C")
        if len(shape) < 2 or not -len(shape) <= axis < len(shape) or shape[axis] != len(self.mean):
            raise ValueError(f"shape is {shape}; expected two or more axes, and {counted(len(self.mean), 'channel')} "
                             f"along axis {axis}")
        try:
            example = np.empty(shape, kind)
        except ValueError as error:     # too many axes or elements
            raise ValueError(f"shape is {shape}; expected that of an array: {error}") from None
        origin = _bind, (self, shape, kind.name, layout, activation)
        return Plan(
            example, axis, self._constants, activation=coded, num_threads=self.num_threads, origin=origin)


class Plan(kernels.Plan):
    """The transform of a `ChannelAffine` for arrays of one shape and dtype; `ChannelAffine.bind` returns it.

    ``plan(x, out, residual=None)`` writes the transform of x into `out` and returns `out`. All arrays are C-contiguous
    and have the shape and dtype of the plan; CPU tensors of PyTorch are accepted as well. `out` may be `x` or
    `residual` itself. A call allocates nothing, and raises a ValueError if an array does not fit.

    A plan is immutable, and any number of threads may share it. It can be pickled; unpickling plans the transform again
    for the machine at hand.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    num_threads : int or None

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import ChannelAffine
    >>> plan = ChannelAffine([0.0, 1.0], [1.0, 1.0], [0.0, 0.0]).bind((2, 2), activation="relu")
    >>> plan
    Plan((2, 2), float32)
    >>> x = np.array([[-1.0, 2.0], [3.0, 0.0]], np.float32)
    >>> plan(x, x) is x
    True
    >>> x
    array([[0., 1.],
           [3., 0.]], dtype=float32)
    """

    __slots__ = ()


def _rebuild(
    mean: NDArray[Any],
    scale: NDArray[Any],
    shift: NDArray[Any],
    axis: int,
    num_threads: int | None,
    integers: Mapping[np.dtype[Any], ChannelAffine],
) -> ChannelAffine:
    affine = ChannelAffine(mean, scale, shift, axis=axis, num_threads=num_threads)
    affine._set_integers(integers)
    return affine


def _bind(
    affine: ChannelAffine, shape: tuple[int, ...], dtype: str, layout: str | None, activation: Activation
) -> Plan:
    return affine.bind(shape, dtype, layout, activation=activation)
