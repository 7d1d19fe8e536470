"""The moments of an array.

The kernels reduce what they can address: whole arrays of floating-point numbers and uint8. Other integers are converted
block by block, and selected positions are gathered block by block. Where the values that count differ between channels,
as with NaN to omit, the others are replaced block by block. NumPy reduces blocks with weights.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_choice
from fastbn.statistics.dense import dense_moments
from fastbn.statistics.extrema import extrema
from fastbn.statistics.filled import filled_moments
from fastbn.statistics.integers import INTEGERS, from_origin, is_wide, to_floats, without_absent
from fastbn.statistics.moments import Moments
from fastbn.statistics.selection import NAN_POLICIES, NanPolicy, refuse_nan, selection, without_repeats
from fastbn.statistics.weighted import weighted_moments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

BLOCK_VALUES = 1 << 18      # of a block that is gathered, converted or filled


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
    if selected.dtype == np.bool_ and selected.ndim == array.ndim:
        return moments_by_channel(array, np.moveaxis(selected, -1, axis), axis, options)
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
    for box in boxes(array.shape, axis):
        yield array[box]


def boxes(shape: tuple[int, ...], axis: int) -> Iterator[tuple[slice, ...]]:
    """Yield the slices of blocks that have all channels, and extend along the last axes first."""
    steps = [1] * len(shape)
    steps[axis] = shape[axis]
    for k in reversed(range(len(shape))):
        if k != axis:
            steps[k] = max(1, min(shape[k], BLOCK_VALUES // max(1, math.prod(steps))))
    return itertools.product(*([slice(first, first + step) for first in range(0, length, step)]
                               for length, step in zip(shape, steps, strict=True)))


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
            yield part[some], here[some]
        elif here.dtype == np.bool_:
            yield part[here], None
        else:
            yield part[here > 0], here[here > 0][:, None]


def block_moments(
    block: NDArray[Any], weights: NDArray[np.float64] | None, axis: int, options: Options,
) -> Moments:
    """Return the moments of a block of any dtype; a block with weights is (rows, C)."""
    if weights is not None and weights.shape[1] > 1 and is_wide(block.dtype):
        block = without_absent(block, weights == 0, axis)
    floats, origin = to_floats(block, axis)
    if weights is None:
        found = plain_moments(floats, axis, options, whole=block.dtype.kind in "iu")
    else:
        found = weighted_moments(floats.astype(np.float64), weights, options.nan_policy, options.extrema)
    return found if origin is None else from_origin(found, origin, block, axis, with_extrema=options.extrema)


def plain_moments(block: NDArray[Any], axis: int, options: Options, *, whole: bool) -> Moments:
    """Return the moments of all values of an array, or without NaN that are omitted.

    Parameters
    ----------
    whole : bool
        Whether all values are integers.
    """
    if not block.size:
        return Moments.empty(block.shape[axis], options.extrema)
    out = dense_moments(block, axis, options.num_threads, whole=whole)
    if options.nan_policy != "propagate" and np.isnan(out.mean).any():
        return moments_by_channel(block, None, axis, options)
    if options.extrema:
        out.min, out.max = extrema(block, axis)
    return out


def moments_by_channel(
    array: NDArray[Any], counted: NDArray[np.bool_] | None, axis: int, options: Options,
) -> Moments:
    """Return the moments of the values that count, where these differ between channels.

    Parameters
    ----------
    counted : ndarray of bool, optional
        In the shape of the array. By default, the policy for NaN decides alone.

    Raises
    ------
    ValueError
        For a NaN that counts, if the policy is "raise".
    """
    out = Moments.empty(array.shape[axis], options.extrema)
    decided = options._replace(nan_policy="propagate")
    for box in boxes(array.shape, axis):
        block, chosen = array[box], None if counted is None else counted[box]
        if block.dtype.kind not in "iu" and block.dtype.itemsize == 2:
            block = block.astype(np.float32)
        if options.nan_policy != "propagate" and block.dtype.kind == "f":
            missing = np.isnan(block) if chosen is None else np.isnan(block) & chosen
            if missing.any():
                if options.nan_policy == "raise":
                    refuse_nan(missing, axis)
                chosen = ~missing if chosen is None else chosen & ~missing
        if chosen is None or chosen.all():
            out = out.merged(block_moments(block, None, axis, decided))
        elif chosen.any():
            guess = np.where(out.count > 0, out.mean, np.nan)
            out = out.merged(holed_moments(block, ~chosen, axis, guess, decided))
    return out


def holed_moments(
    block: NDArray[Any], absent: NDArray[np.bool_], axis: int, guess: NDArray[np.float64], options: Options,
) -> Moments:
    """Return the moments of a block without its absent values; `guess` is a number near each mean, (C,), or NaN."""
    whole = block.dtype.kind in "iu"
    if is_wide(block.dtype):
        block = without_absent(block, absent, axis)
        guess = np.full(len(guess), np.nan)
    floats, origin = to_floats(block, axis)
    out = filled_moments(floats, absent, axis, guess, whole=whole,
                         with_extrema=options.extrema and origin is None, num_threads=options.num_threads)
    return out if origin is None else from_origin(out, origin, block, axis, with_extrema=options.extrema)
