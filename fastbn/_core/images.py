"""Linear transforms of uint8 and uint16 images, and of arrays whose channel axis moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbn._core.dispatch import kernels
from fastbn._core.memory import empty
from fastbn._core.overlap import overlap
from fastbn._core.rounding import rounded
from fastbn._core.tensors import FLOATS, SUPPORTED, as_array, is_tensor, to_dtype, to_float, to_tensor
from fastbn._core.views import as_plain, as_target, axis_of, channel_axis, check_writable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, DTypeLike, NDArray

MOST_TABLES = 16    # kept by one transform
IMAGES = (np.dtype(np.uint8), np.dtype(np.uint16))
BLOCK = 1 << 17     # values of a uint16 image that are in float64 at the same time


class Transform:
    """The constants of a linear transform per channel, with its tables for uint8 images.

    Attributes
    ----------
    constants : kernels.Constants
    num_threads : int or None
    tables : dict
        By dtype of the result and activation; each table has the shape (C, 256).
    """

    __slots__ = ("constants", "num_threads", "tables")

    def __init__(self, constants: kernels.Constants, num_threads: int | None) -> None:
        self.constants: kernels.Constants = constants
        self.num_threads: int | None = num_threads
        self.tables: dict[tuple[np.dtype[Any], tuple[int, float]], NDArray[Any]] = {}

    def __call__(
        self, x: NDArray[Any], axis: int, activation: tuple[int, float], residual: ArrayLike | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return the transform of an array of floating-point numbers."""
        return kernels.apply(x, axis, self.constants, residual, out, activation, self.num_threads)

    def table(self, dtype: np.dtype[Any], activation: tuple[int, float]) -> NDArray[Any]:
        """Return the transforms of 0 to 255, (C, 256), computed in float64 and rounded once."""
        key = dtype.newbyteorder("="), activation
        table = self.tables.get(key)
        if table is None:
            values = np.repeat(np.arange(256.0)[:, None], self.constants.channels, axis=1)
            exact = self(values, 1, activation).T
            if len(self.tables) == MOST_TABLES:
                self.tables.clear()
            table = np.ascontiguousarray(rounded(exact, key[0]))
            self.tables[key] = table        # another thread may clear them at any time
        return table


class Axes(NamedTuple):
    """The channel axis of x and that of y, neither negative."""

    x: int
    y: int

    def move(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of y for a shape of x."""
        rest = [length for k, length in enumerate(shape) if k != self.x]
        rest.insert(self.y, shape[self.x])
        return tuple(rest)


def convert(
    transforms: Mapping[np.dtype[Any] | None, Transform],
    x: ArrayLike,
    residual: ArrayLike | None,
    out: NDArray[Any] | None,
    activation: tuple[int, float],
    *,
    axis: int,
    out_axis: int | None,
    dtype: DTypeLike | None,
) -> Any:
    """Return the transform of a uint8 or uint16 array, or of a floating-point array whose channel axis moves.

    Parameters
    ----------
    transforms : mapping of dtype to Transform
        None is the key of the transform for the dtypes that are not in it.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit; nothing has been written then.
    """
    array = as_plain(x, "x")
    target = None if out is None else as_target(out)
    if dtype is not None:
        dtype = to_dtype(dtype)
    from_axis = channel_axis(array, axis, transforms[None].constants.channels, "x")
    axes = Axes(from_axis, from_axis if out_axis is None else axis_of(out_axis, array.ndim, "out_axis"))
    native = array.dtype.newbyteorder("=")
    transform = transforms.get(native, transforms[None])
    if native in IMAGES:
        if residual is not None:
            raise ValueError(f"a residual cannot be added to a transform of {array.dtype}")
        y = image(transform, array, target, activation, axes, dtype)
    elif dtype is not None and np.dtype(dtype) != array.dtype:
        raise TypeError(f"dtype is {dtype}; expected that of x, {array.dtype}, or None, unless x is uint8 or uint16")
    else:
        other = None if residual is None else as_array(residual, "residual")
        y = moved(transform, array, other, target, activation, axes)
    if out is not None:
        return out
    return to_tensor(y) if is_tensor(x) else y


def image(
    transform: Transform, x: NDArray[Any], out: NDArray[Any] | None, activation: tuple[int, float], axes: Axes,
    dtype: DTypeLike | None,
) -> NDArray[Any]:
    """Return the transform of a uint8 or uint16 array, in `out` if that is given."""
    shape = axes.move(x.shape)
    if out is not None:
        check_out(out, shape, dtype, x)
        dtype = out.dtype
    kind = to_float(np.float32 if dtype is None else dtype)
    y = empty(shape, kind) if out is None else out
    compute = look_up if x.dtype == np.uint8 else compute_in_blocks
    compute(transform, x, y, activation, axes)
    return y


def check_out(out: NDArray[Any], shape: tuple[int, ...], dtype: DTypeLike | None, x: NDArray[Any]) -> None:
    """Raise an error unless `out` can take the transform of an image."""
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}; expected {shape}")
    if out.dtype.name not in FLOATS:
        raise TypeError(f"out has dtype {out.dtype}; expected {SUPPORTED}")
    if dtype is not None and out.dtype != np.dtype(dtype):
        raise TypeError(f"out has dtype {out.dtype}; expected {np.dtype(dtype)}")
    check_writable(out)
    if overlap(out, x):
        raise ValueError(f"out shares memory with x; {x.dtype} cannot be transformed in place")


def look_up(
    transform: Transform, x: NDArray[np.uint8], y: NDArray[Any], activation: tuple[int, float], axes: Axes,
) -> None:
    """Write the transform of a uint8 array, from a table of 256 results per channel."""
    table = transform.table(y.dtype, activation)
    threads = transform.num_threads
    if not (y.flags.aligned and y.dtype.isnative and kernels.lookup(x, axes.x, table, y, axes.y, threads)):
        # The kernel accepts any contiguous, aligned, native arrays.
        packed = empty(y.shape, table.dtype)
        kernels.lookup(np.ascontiguousarray(x), axes.x, table, packed, axes.y, threads)
        np.copyto(y, packed)


def compute_in_blocks(
    transform: Transform, x: NDArray[np.uint16], y: NDArray[Any], activation: tuple[int, float], axes: Axes,
) -> None:
    """Write the transform of a uint16 array, computed in float64 and rounded once, block by block.

    A table would have 65,536 results per channel; most images have too few pixels for that to pay off.
    """
    # Blocks along the longest axis other than the channel axis.
    along = max((k for k in range(x.ndim) if k != axes.x), key=lambda k: x.shape[k])
    step = max(1, BLOCK * x.shape[along] // max(1, x.size))
    target = np.moveaxis(y, axes.y, axes.x)
    for start in range(0, x.shape[along], step):
        part = (slice(None),) * along + (slice(start, start + step),)
        exact = transform(x[part].astype(np.float64), axes.x, activation)
        target[part] = rounded(exact, y.dtype.newbyteorder("="))


def moved(
    transform: Transform, x: NDArray[Any], residual: ArrayLike | None, out: NDArray[Any] | None,
    activation: tuple[int, float], axes: Axes,
) -> NDArray[Any]:
    """Return the transform of a floating-point array with its channel axis moved, in `out` if that is given."""
    shape = axes.move(x.shape)
    if out is None:
        out = empty(shape, x.dtype)
    elif out.shape != shape:
        raise ValueError(f"out has shape {out.shape}; expected {shape}")
    elif axes.x != axes.y and overlap(out, x):
        raise ValueError("out shares memory with x, whose channel axis moves; that cannot be done in place")
    transform(x, axes.x, activation, residual, np.moveaxis(out, axes.y, axes.x))
    return out
