"""ChannelAffine on uint8 images, and on arrays whose channel axis moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._checks import check_activation
from fastbn._dispatch import kernels
from fastbn._layout import as_plain, as_target, axis_of, channel_axis, check_writable
from fastbn._tensors import as_array, is_tensor, to_dtype, to_float, to_tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._checks import Activation
    from fastbn.affine import ChannelAffine

MOST_TABLES = 16    # that a transform keeps


def convert(
    affine: ChannelAffine, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None,
    axis: int, out_axis: int | None, dtype: DTypeLike | None,
) -> Any:
    """Return the transform of an array of uint8, or of another whose channel axis moves.

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
    if array.dtype == np.uint8:
        y = transform(affine, array, residual, activation, target, from_axis, to_axis, dtype)
    elif dtype is not None and np.dtype(dtype) != array.dtype:
        raise TypeError(f"dtype is {dtype}; expected that of x, {array.dtype}, or None, unless x is uint8")
    else:
        other = None if residual is None else as_array(residual, "residual")
        y = moved(affine, array, other, activation, target, from_axis, to_axis)
    if out is not None:
        return out
    return to_tensor(y) if is_tensor(x) else y


def transform(
    affine: ChannelAffine, x: NDArray[np.uint8], residual: object, activation: Activation, out: NDArray[Any] | None,
    from_axis: int, to_axis: int, dtype: DTypeLike | None,
) -> NDArray[Any]:
    """Return the transform of a uint8 array, by a table of 256 results a channel."""
    if residual is not None:
        raise ValueError("a residual cannot be added to a transform of uint8")
    shape = moved_shape(x.shape, from_axis, to_axis)
    if out is not None:
        check_out(out, shape, dtype, x)
        dtype = out.dtype
    kind = np.dtype(np.float32 if dtype is None else dtype)
    table = table_of(affine, kind, activation)
    y = np.empty(shape, kind) if out is None else out
    threads = affine.num_threads
    if not (y.flags.aligned and y.dtype.isnative and kernels.lookup(x, from_axis, table, y, to_axis, threads)):
        # Packed copies can always be walked.
        packed = np.empty(shape, table.dtype)
        kernels.lookup(np.ascontiguousarray(x), from_axis, table, packed, to_axis, threads)
        np.copyto(y, packed)
    return y


def check_out(out: NDArray[Any], shape: tuple[int, ...], dtype: DTypeLike | None, x: NDArray[Any]) -> None:
    """Raise an error unless `out` can take the transform of `x`."""
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}; expected {shape}")
    if dtype is not None and out.dtype != np.dtype(dtype):
        raise TypeError(f"out has dtype {out.dtype}; expected {np.dtype(dtype)}")
    check_writable(out)
    if np.may_share_memory(out, x) and np.shares_memory(out, x):
        raise ValueError("out shares memory with x; uint8 cannot be transformed in place")


def table_of(affine: ChannelAffine, dtype: np.dtype[Any], activation: Activation) -> NDArray[Any]:
    """Return the (C, 256) transforms of 0 to 255, worked out in float64 and rounded once."""
    tables = affine._tables
    key = dtype.newbyteorder("="), check_activation(activation)
    if key not in tables:
        to_float(dtype)
        values = np.repeat(np.arange(256.0)[:, None], len(affine.mean), axis=1)
        exact = affine(values, activation=activation, axis=1).T
        if len(tables) == MOST_TABLES:
            tables.clear()
        tables[key] = np.ascontiguousarray(rounded(exact, key[0]))
    return tables[key]


def rounded(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return float64 values rounded to nearest, ties to even, once."""
    with np.errstate(all="ignore"):     # Inf beyond the dtype, and 0 below it
        if dtype.name != "bfloat16":
            return values.astype(dtype)
        # There is no direct way. Rounding to odd first (truncate, and set the last bit of what was not exact) keeps the
        # second rounding from seeing a tie that is none.
        near = values.astype(np.float32)
    inner = np.where(np.abs(near.astype(np.float64)) > np.abs(values), np.nextafter(near, np.float32(0)), near)
    odd = inner.view(np.uint32) | (inner.astype(np.float64) != values).astype(np.uint32)
    return np.where(np.isfinite(near), odd.view(np.float32), near).astype(dtype)


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
