"""What batch normalization is at inference: one linear transform a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import images
from fastbn._core.checks import channels, check_activation, check_integer
from fastbn._core.dispatch import kernels
from fastbn._core.saved import Saved
from fastbn._core.tensors import as_constant, to_float
from fastbn._core.threads import check as check_threads
from fastbn._core.views import is_image
from fastbn.functional import relu_coefficients

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._core.checks import Activation


class ChannelAffine:
    """An immutable linear transform a channel: y = (x - mean) * scale + shift, with an activation if asked.

    Get one from a trained layer with ``bn.frozen()``, from statistics, or from the mean and standard deviation that
    images are normalized with. It shares nothing with what it came from, and any number of threads may share it. Two
    are equal, and have the same hash, if they have the same vectors, axis and num_threads.

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

    __slots__ = ("_constants", "_integers", "_tables", "axis", "mean", "num_threads", "scale", "shift")

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    axis: int
    num_threads: int | None
    _constants: kernels.Constants
    _integers: dict[np.dtype[Any], ChannelAffine]       # in its place, for images of integers
    _tables: dict[tuple[np.dtype[Any], tuple[int, float]], NDArray[Any]]     # of uint8 images, made when asked for

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
        object.__setattr__(self, "_tables", {})
        object.__setattr__(self, "_integers", {})

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
        vectors = {"mean": as_vector(mean, "mean"), "var": as_vector(var, "var")}
        vectors |= {name: as_vector(values, name) for name, values in (("gamma", gamma), ("beta", beta))
                    if values is not None}
        check_finite(vectors)
        saved = Saved.from_statistics(vectors["mean"], vectors["var"], eps=eps)
        for name in ("gamma", "beta"):
            if name in vectors and vectors[name].shape != saved.mean.shape:
                raise ValueError(f"{name} has shape {vectors[name].shape}; expected that of mean, {saved.mean.shape}")
        with np.errstate(over="ignore"):    # seen below
            scale, shift = relu_coefficients(saved.rstd, vectors.get("gamma"), vectors.get("beta"))
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
        """Return what images are normalized with: y = (x * scale - mean) / std.

        Parameters
        ----------
        mean, std : array_like, shape (C,)
            Of the scaled values; for ImageNet (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225).
        scale : float, optional
            Brings x into the range that mean and std are of. If not given it follows the dtype of x, as in
            torchvision: 1/255 for uint8, 1/65535 for uint16, 1 for floating-point images, whose values are in 0..1
            already. 1 for mean and std of values up to 255.
        axis, num_threads
            As in the class, with channels last unless told otherwise, as decoders give them.

        Returns
        -------
        ChannelAffine
            Its mean, scale and shift, and what `bind` and folds make of it, are those for floating-point x.

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
        if scale is not None and (isinstance(scale, (bool, str)) or np.ndim(scale) or not np.isfinite(scale)
                                  or scale == 0):
            raise ValueError(f"scale must be a finite number other than 0, or None, got {scale!r}")

        def scaled(factor: float) -> ChannelAffine:
            with np.errstate(over="ignore"):    # seen below
                offset, slope = centre / factor, factor / width
            check_finite({"mean / scale": offset, "scale / std": slope})
            return cls(offset, slope, np.zeros_like(centre), axis=axis, num_threads=num_threads)

        if scale is not None:
            return scaled(scale)
        own = scaled(1.0)
        own._integers.update({kind: scaled(1 / np.iinfo(kind).max) for kind in images.IMAGES})
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
        # By value, where -0.0 is 0.0.
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
        """Transform `x`, in one pass.

        Parameters
        ----------
        x : array_like of float32, float64, float16, bfloat16, uint8 or uint16
            With as many channels along the channel axis as this has.
        residual : array_like, shape and dtype of x, optional
            Added before the activation. Not with uint8 and uint16.
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
            Of y, for uint8 and uint16: float32 (the default), float64, float16 or bfloat16. Each value is that of the
            formula in float64, rounded once. y of other arrays has the dtype of x.

        Returns
        -------
        ndarray
            `out` if it was given, else a new array.

        Raises
        ------
        TypeError, ValueError
            As in `fastbn.functional.batch_norm_training`.
        """
        code_and_slope = (0, 0.0) if activation is None else check_activation(activation)
        if axis is None:
            axis = self.axis
        if out_axis is not None or dtype is not None or is_image(x):
            y: NDArray[Any] = images.convert(self, x, residual, activation, out, axis, out_axis, dtype)
            return y
        return kernels.apply(x, axis, self._constants, residual, out, code_and_slope, self.num_threads)

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
        return kernels.Plan(
            np.empty(shape, kind), axis, self._constants, activation=(code, slope), num_threads=self.num_threads,
            origin=origin)


def as_vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return an argument as a new array of float64, or raise an error that names it."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; expected a plain array")
    try:
        given = np.asarray(as_constant(values, name))
    except ValueError as error:
        raise ValueError(f"{name} does not make an array: {error}") from error
    if given.dtype.kind not in "fiu" and given.dtype.name != "bfloat16":
        raise TypeError(f"{name} has dtype {given.dtype}; expected real numbers")
    return np.array(given, np.float64)


def check_finite(vectors: Mapping[str, NDArray[np.float64]]) -> None:
    """Raise an error for the first vector that has values that are not finite, under its name."""
    for name, vector in vectors.items():
        wrong = np.flatnonzero(~np.isfinite(vector)).tolist()
        if wrong:
            raise ValueError(f"{name} has values that are not finite, in {channels(wrong)}")


def _rebuild(
    mean: NDArray[Any], scale: NDArray[Any], shift: NDArray[Any], axis: int, num_threads: int | None,
    integers: Mapping[np.dtype[Any], ChannelAffine] | None = None,      # pickles of 0.1.0 have none
) -> ChannelAffine:
    affine = ChannelAffine(mean, scale, shift, axis=axis, num_threads=num_threads)
    affine._integers.update(integers or {})
    return affine


def _bind(
    affine: ChannelAffine, shape: tuple[int, ...], dtype: str, layout: str | None, activation: Activation
) -> kernels.Plan:
    return affine.bind(shape, dtype, layout, activation=activation)
