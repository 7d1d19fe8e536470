"""ChannelAffine on images of uint8 and uint16, and on arrays whose channel axis moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import check_activation
from fastbn._core.dispatch import kernels
from fastbn._core.rounding import rounded
from fastbn._core.tensors import as_array, is_tensor, to_dtype, to_float, to_tensor
from fastbn._core.views import as_plain, as_target, axis_of, channel_axis, check_writable

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn.affine import ChannelAffine

MOST_TABLES = 16    # that a transform keeps
IMAGES = (np.dtype(np.uint8), np.dtype(np.uint16))
BLOCK = 1 << 17     # values of a uint16 image that are in float64 at a time


def convert(
    affine: ChannelAffine, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None,
    axis: int, out_axis: int | None, dtype: DTypeLike | None,
) -> Any:
    """Return the transform of an array of uint8 or uint16, or of another whose channel axis moves.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit; nothing has been written then.
    """
    array = as_plain(x, "x")
    target = None if out is None else as_target(out)
    if dtype is not None:
        dtype = to_dtype(dtype)
    from_axis = channel_axis(array, axis, len(affine.mean), "x")
    to_axis = from_axis if out_axis is None else axis_of(out_axis, array.ndim, "out_axis")
    if array.dtype.newbyteorder("=") in IMAGES:
        own = affine._integers.get(array.dtype.newbyteorder("="), affine)
        y = transform(own, array, residual, activation, target, from_axis, to_axis, dtype)
    elif dtype is not None and np.dtype(dtype) != array.dtype:
        raise TypeError(f"dtype is {dtype}; expected that of x, {array.dtype}, or None, unless x is uint8 or uint16")
    else:
        other = None if residual is None else as_array(residual, "residual")
        y = moved(affine, array, other, activation, target, from_axis, to_axis)
    if out is not None:
        return out
    return to_tensor(y) if is_tensor(x) else y


def transform(
    affine: ChannelAffine, x: NDArray[Any], residual: object, activation: Activation, out: NDArray[Any] | None,
    from_axis: int, to_axis: int, dtype: DTypeLike | None,
) -> NDArray[Any]:
    """Return the transform of an array of uint8 or uint16."""
    if residual is not None:
        raise ValueError(f"a residual cannot be added to a transform of {x.dtype}")
    shape = moved_shape(x.shape, from_axis, to_axis)
    if out is not None:
        check_out(out, shape, dtype, x)
        dtype = out.dtype
    kind = to_float(np.float32 if dtype is None else dtype)
    y = np.empty(shape, kind) if out is None else out
    if x.dtype == np.uint8:
        look_up(affine, x, activation, y, from_axis, to_axis)
    else:
        compute(affine, x, activation, y, from_axis, to_axis)
    return y


def look_up(
    affine: ChannelAffine, x: NDArray[np.uint8], activation: Activation, y: NDArray[Any], from_axis: int, to_axis: int,
) -> None:
    """Write the transform of a uint8 array, by a table of 256 results a channel."""
    table = table_of(affine, y.dtype, activation)
    threads = affine.num_threads
    if not (y.flags.aligned and y.dtype.isnative and kernels.lookup(x, from_axis, table, y, to_axis, threads)):
        # Packed copies can always be walked.
        packed = np.empty(y.shape, table.dtype)
        kernels.lookup(np.ascontiguousarray(x), from_axis, table, packed, to_axis, threads)
        np.copyto(y, packed)


def compute(
    affine: ChannelAffine, x: NDArray[np.uint16], activation: Activation, y: NDArray[Any], from_axis: int,
    to_axis: int,
) -> None:
    """Write the transform of a uint16 array, in float64 and rounded once, block by block.

    A table would have 65,536 results a channel, more than most images have pixels to gain by it.
    """
    # The longest axis but the channels', so that one block is not the whole array.
    along = max((k for k in range(x.ndim) if k != from_axis), key=lambda k: x.shape[k])
    step = max(1, BLOCK * x.shape[along] // max(1, x.size))
    target = np.moveaxis(y, to_axis, from_axis)
    for start in range(0, x.shape[along], step):
        part = (slice(None),) * along + (slice(start, start + step),)
        exact = affine(x[part].astype(np.float64), activation=activation, axis=from_axis)
        target[part] = rounded(exact, y.dtype.newbyteorder("="))


def check_out(out: NDArray[Any], shape: tuple[int, ...], dtype: DTypeLike | None, x: NDArray[Any]) -> None:
    """Raise an error unless `out` can take the transform of `x`."""
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}; expected {shape}")
    if dtype is not None and out.dtype != np.dtype(dtype):
        raise TypeError(f"out has dtype {out.dtype}; expected {np.dtype(dtype)}")
    check_writable(out)
    if np.may_share_memory(out, x) and np.shares_memory(out, x):
        raise ValueError(f"out shares memory with x; {x.dtype} cannot be transformed in place")


def table_of(affine: ChannelAffine, dtype: np.dtype[Any], activation: Activation) -> NDArray[Any]:
    """Return the (C, 256) transforms of 0 to 255, worked out in float64 and rounded once."""
    tables = affine._tables
    key = dtype.newbyteorder("="), check_activation(activation)
    if key not in tables:
        values = np.repeat(np.arange(256.0)[:, None], len(affine.mean), axis=1)
        exact = affine(values, activation=activation, axis=1).T
        if len(tables) == MOST_TABLES:
            tables.clear()
        tables[key] = np.ascontiguousarray(rounded(exact, key[0]))
    return tables[key]


def moved(
    affine: ChannelAffine, x: NDArray[Any], residual: ArrayLike | None, activation: Activation,
    out: NDArray[Any] | None, from_axis: int, to_axis: int,
) -> NDArray[Any]:
    """Return the transform of an array of floating-point numbers with its channel axis moved."""
    shape = moved_shape(x.shape, from_axis, to_axis)
    if out is None:
        out = np.empty(shape, x.dtype)
    elif out.shape != shape:
        raise ValueError(f"out has shape {out.shape}; expected {shape}")
    elif from_axis != to_axis and np.may_share_memory(out, x) and np.shares_memory(out, x):
        raise ValueError("out shares memory with x, whose channel axis moves; that cannot be done in place")
    affine(x, residual, activation, np.moveaxis(out, to_axis, from_axis), axis=from_axis)
    return out


def moved_shape(shape: tuple[int, ...], axis: int, out_axis: int) -> tuple[int, ...]:
    """Return a shape with one axis moved."""
    rest = [length for k, length in enumerate(shape) if k != axis]
    rest.insert(out_axis, shape[axis])
    return tuple(rest)
