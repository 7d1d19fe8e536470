"""The moments of an array.

The kernels reduce what they can address: whole arrays of floating-point numbers and uint8. Other integers are converted
block by block, and selected values are gathered block by block. NumPy reduces blocks with weights, with NaN to omit, or
with a mask that differs between channels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_choice
from fastbn._core.dispatch import kernels
from fastbn.statistics.extrema import extrema, reduced
from fastbn.statistics.moments import Moments
from fastbn.statistics.selection import NAN_POLICIES, NanPolicy, selection, without_repeats
from fastbn.statistics.weighted import weighted_moments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

# Integers without a kernel become floating-point numbers that represent all of them; those of 64 bits are converted
# after the subtraction of an integer.
INTEGERS: dict[np.dtype[Any], type[np.float32] | type[np.float64]] = {
    np.dtype(np.int8): np.float32, np.dtype(np.int16): np.float32, np.dtype(np.uint16): np.float32,
    np.dtype(np.int32): np.float64, np.dtype(np.uint32): np.float64, np.dtype(np.int64): np.float64,
    np.dtype(np.uint64): np.float64,
}
BLOCK_VALUES = 1 << 18      # of a block that is gathered or converted


class Options(NamedTuple):
    """How values are reduced.

    Attributes
    ----------
    nan_policy : {"propagate", "raise", "omit"}
    num_threads : int or None
    extrema : bool
        Whether to find the minimum and maximum too.
    """

    nan_policy: NanPolicy = "propagate"
    num_threads: int | None = None
    extrema: bool = False


def moments(
    x: ArrayLike,
    axis: int,
    channels: int,
    options: Options,
    *,
    sample_weight: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
) -> Moments:
    """Return the moments of an array, or of some of its values; see `fastbn.ChannelStats.update`.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """
    check_choice(options.nan_policy, "nan_policy", NAN_POLICIES)
    array = views.as_plain(x, "x")
    check_dtype(array)
    if array.dtype == np.bool_:
        array = array.view(np.uint8)
    from_axis = views.channel_axis(array, axis, channels, "x")
    selected = selection(array.shape, from_axis, sample_weight, mask, lengths)
    if selected is not None:
        return selected_moments(array, from_axis, selected, options)
    base, times = distinct_values(array, from_axis)
    out = Moments.empty(base.shape[from_axis], options.extrema)
    for block in blocks(base, from_axis):
        out = out.merged(block_moments(block, None, from_axis, options))
    return out if base is array else out.repeated(times, channels)


def selected_moments(array: NDArray[Any], axis: int, selected: NDArray[Any], options: Options) -> Moments:
    """Return the moments of the values that a `selection` leaves."""
    out = Moments.empty(array.shape[axis], options.extrema)
    for rows, weights in selected_rows(np.moveaxis(array, axis, -1), selected):
        out = out.merged(block_moments(rows, weights, 1, options))
    return out


def check_dtype(array: NDArray[Any]) -> None:
    """Raise an error for a dtype without statistics."""
    if array.dtype.newbyteorder("=") not in INTEGERS and array.dtype.name not in (
            "float32", "float64", "float16", "bfloat16", "uint8", "bool"):
        raise TypeError(f"x has dtype {array.dtype}; expected {views.SUPPORTED}, integers of up to 64 bits or bool; "
                        "see astype")


def distinct_values(array: NDArray[Any], axis: int) -> tuple[NDArray[Any], int]:
    """Return an array without values repeated by strides of zero, and the number of repeats.

    An array that the kernels can address is returned unchanged.
    """
    if array.dtype.newbyteorder("=") not in INTEGERS and views.is_walkable(array, axis):
        return array, 1
    base = without_repeats(array)
    if base.shape == array.shape:
        return array, 1
    return base, math.prod(n // m for k, (n, m) in enumerate(zip(array.shape, base.shape, strict=True)) if k != axis)


def blocks(array: NDArray[Any], axis: int) -> Iterator[NDArray[Any]]:
    """Yield an array whole if its dtype has a kernel, else in blocks for conversion."""
    if array.dtype.newbyteorder("=") not in INTEGERS:
        yield array
        return
    # Blocks along the longest axis other than the channel axis.
    along = max((k for k in range(array.ndim) if k != axis), key=lambda k: array.shape[k])
    step = max(1, BLOCK_VALUES * array.shape[along] // max(1, array.size))
    for first in range(0, array.shape[along], step):
        yield array[(slice(None),) * along + (slice(first, first + step),)]


def selected_rows(
    last: NDArray[Any], selected: NDArray[Any],
) -> Iterator[tuple[NDArray[Any], NDArray[np.float64] | None]]:
    """Yield blocks of selected rows, (rows, C), of an array with its channels last, and their weights if there are any.

    The weights are (rows, 1), or (rows, C) if they differ between channels.
    """
    width = last.size // max(1, len(last))
    if width > BLOCK_VALUES and last.ndim > 2:
        for part, here in zip(last, selected, strict=True):
            yield from selected_rows(part, here)
        return
    step = max(1, BLOCK_VALUES // max(1, width))
    for first in range(0, len(last), step):
        part, here = last[first:first + step], selected[first:first + step]
        if here.ndim == last.ndim:
            some = here.any(axis=-1)
            yield part[some], here[some].astype(np.float64)
        elif here.dtype == np.bool_:
            yield part[here], None
        else:
            yield part[here > 0], here[here > 0][:, None]


def block_moments(
    block: NDArray[Any], weights: NDArray[np.float64] | None, axis: int, options: Options,
) -> Moments:
    """Return the moments of a block of any dtype; a block with weights is (rows, C)."""
    floats, origin = to_floats(block, axis)
    if weights is None:
        found = plain_moments(floats, axis, options, whole=block.dtype.kind in "iu")
    else:
        found = weighted_moments(floats.astype(np.float64), weights, options.nan_policy, options.extrema)
    if origin is None:
        return found
    found = found.shifted(origin)
    if options.extrema:
        found.min, found.max = integer_extrema(block, weights, axis)
    return found


def integer_extrema(
    block: NDArray[Any], weights: NDArray[np.float64] | None, axis: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the minimum and maximum of each channel of integers with a weight above zero, rounded once."""
    if weights is None or weights.shape[1] == 1:
        return extrema(block, axis)
    info, absent = np.iinfo(block.dtype), weights == 0
    low, high = np.where(absent, info.max, block).min(axis=0), np.where(absent, info.min, block).max(axis=0)
    none = absent.all(axis=0)
    return np.where(none, np.inf, low), np.where(none, -np.inf, high)


def to_floats(block: NDArray[Any], axis: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return a block in a dtype with a kernel, and the integers subtracted from its channels, (C,), if there are any.

    Integers of 64 bits become their distances from the middle of their range. These are exact up to 2**53; beyond, the
    rounding is at most 2**-53 of the value, as for any float64.
    """
    native = block.dtype.newbyteorder("=")
    kind = INTEGERS.get(native)
    if kind is None:
        return block, None
    if native.itemsize < 8 or not block.size:
        return block.astype(kind, order="K"), None
    block = block.astype(native, copy=False)
    # Unsigned differences wrap around at 2**64, so that the distances are right for signed integers too.
    low, high = (reduced(block, axis, ufunc).astype(native).view(np.uint64) for ufunc in (np.minimum, np.maximum))
    middle = low + (high - low) // 2 + (high - low) % 2
    distances = block.view(np.uint64) - middle.reshape([-1 if k == axis else 1 for k in range(block.ndim)])
    return distances.view(np.int64).astype(kind), middle.view(native)


def plain_moments(block: NDArray[Any], axis: int, options: Options, *, whole: bool) -> Moments:
    """Return the moments of all values of an array, by the kernels unless there are NaN to omit.

    Parameters
    ----------
    whole : bool
        Whether all values are integers.
    """
    channels = block.shape[axis]
    view = views.view(block, axis, channels, statistics=True)
    if not view.size:
        return Moments.empty(channels, options.extrema)
    n, _, s = view.shape
    mean, mean_low, m2 = kernels.reduce(view, whole=whole, num_threads=options.num_threads)
    if options.nan_policy != "propagate" and np.isnan(mean).any():
        out = Moments.empty(channels, options.extrema)
        last = np.moveaxis(block, axis, -1)
        for rows, _ in selected_rows(last, np.broadcast_to(np.True_, last.shape[:-1])):
            ones = np.ones((len(rows), 1))
            out = out.merged(weighted_moments(rows.astype(np.float64), ones, options.nan_policy, options.extrema))
        return out
    out = Moments(np.full(channels, float(n * s)), mean, mean_low, m2)
    if options.extrema:
        out.min, out.max = extrema(block, axis)
    return out
