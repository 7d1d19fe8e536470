"""The statistics of an array, or of those of its values that count: by mask, length, weight, or being a number.

What the kernels can walk they walk. What is selected is gathered block by block; weighted and NaN-ridden blocks, and
masks that differ by channel, are worked out by NumPy, in float64, in two passes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_choice, listed
from fastbn._core.dispatch import kernels
from fastbn.statistics.extrema import extrema as find_extrema
from fastbn.statistics.extrema import reduced
from fastbn.statistics.moments import Moments, two_sum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

NanPolicy: TypeAlias = Literal["propagate", "raise", "omit"]
NAN_POLICIES = ("propagate", "raise", "omit")
# What becomes of integers that have no kernel of their own: floating-point numbers that hold them all, or, of 64 bits,
# their distance from an integer that is subtracted first.
INTEGERS = {np.dtype(np.int8): np.float32, np.dtype(np.int16): np.float32, np.dtype(np.uint16): np.float32,
            np.dtype(np.int32): np.float64, np.dtype(np.uint32): np.float64, np.dtype(np.int64): np.float64,
            np.dtype(np.uint64): np.float64}
BLOCK_VALUES = 1 << 18      # of a block that is gathered or converted
SUM_ROWS = 1024             # most rows of a sum in one go: the roundings of longer ones would show


def moments(
    x: ArrayLike, axis: int, channels: int, sample_weight: ArrayLike | None, mask: ArrayLike | None,
    lengths: ArrayLike | None, nan_policy: NanPolicy, num_threads: int | None, extrema: bool,
) -> Moments:
    """Return the moments of the values that count; the arguments are those of `fastbn.ChannelStats.update`.

    Raises
    ------
    TypeError, ValueError
        If they do not fit.
    """
    check_choice(nan_policy, "nan_policy", NAN_POLICIES)
    array = views.as_plain(x, "x")
    check_dtype(array)
    if array.dtype == np.bool_:
        array = array.view(np.uint8)
    from_axis = views.channel_axis(array, axis, channels, "x")
    chosen = selection(array.shape, from_axis, sample_weight, mask, lengths)
    if chosen is None:
        base, times = folded(array, from_axis)
        out = Moments.none(base.shape[from_axis], extrema)
        for block in blocks(base, from_axis):
            out = out.merged(part_moments(block, None, from_axis, nan_policy, num_threads, extrema))
        return out if base is array else out.repeated(times, channels)
    return chosen_moments(array, from_axis, chosen, nan_policy, num_threads, extrema)


def chosen_moments(
    array: NDArray[Any], axis: int, chosen: NDArray[Any], nan_policy: NanPolicy, num_threads: int | None, extrema: bool,
) -> Moments:
    """Return the moments of the values that a `selection` leaves."""
    out = Moments.none(array.shape[axis], extrema)
    for rows, weights in gathered(np.moveaxis(array, axis, -1), chosen):
        out = out.merged(part_moments(rows, weights, 1, nan_policy, num_threads, extrema))
    return out


def check_dtype(array: NDArray[Any]) -> None:
    """Raise an error for what has no statistics."""
    if array.dtype.newbyteorder("=") not in INTEGERS and array.dtype.name not in (
            "float32", "float64", "float16", "bfloat16", "uint8", "bool"):
        raise TypeError(f"x has dtype {array.dtype}; expected {views.SUPPORTED}, integers of up to 64 bits or bool; "
                        "see astype")


def selection(
    shape: tuple[int, ...], axis: int, sample_weight: ArrayLike | None, mask: ArrayLike | None,
    lengths: ArrayLike | None,
) -> NDArray[Any] | None:
    """Return which values of an array of that shape count: bool, or float64 weights; None for all.

    The result has the shape without the channel axis, or, where channels differ, the channels as its last axis.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """
    channels, shape = shape[axis], shape[:axis] + shape[axis + 1:]
    valid: NDArray[Any] | None = None if mask is None else check_mask(mask, shape, axis, channels)
    by_channel = valid is not None and valid.ndim > len(shape)
    if lengths is not None:
        if len(shape) < 2:
            raise ValueError("lengths need an axis of steps beside that of samples; x has none")
        steps = check_samples(lengths, "lengths", shape[0], "iu", "integers")
        if ((steps < 0) | (steps > shape[1])).any():
            raise ValueError(f"lengths must be between 0 and {shape[1]}, the steps of x; got {steps.min()} to "
                             f"{steps.max()}")
        within = np.arange(shape[1]) < steps[:, None]
        within = np.broadcast_to(within.reshape(within.shape + (1,) * (len(shape) - 2)), shape)
        valid = within if valid is None else valid & (within[..., None] if by_channel else within)
    if sample_weight is None:
        return valid
    weight = check_samples(sample_weight, "sample_weight", shape[0], "fiu", "numbers").astype(np.float64)
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        wrong = weight[~(np.isfinite(weight) & (weight >= 0))]
        raise ValueError(f"sample_weight must be finite and not negative, got {listed(wrong.tolist())}")
    with np.errstate(over="ignore"):
        if not np.isfinite(weight.sum() * max(1, math.prod(shape[1:]))):
            raise ValueError("sample_weight has a sum that is not finite")
    weights = np.broadcast_to(weight.reshape(weight.shape + (1,) * (len(shape) - 1)), shape)
    return weights if valid is None else valid * (weights[..., None] if by_channel else weights)


def check_mask(mask: ArrayLike, shape: tuple[int, ...], axis: int, channels: int) -> NDArray[np.bool_]:
    """Return a mask of `shape`, that of x without its channel axis, or, where channels differ, of (*shape, C)."""
    given = views.as_plain(mask, "mask")
    if given.dtype != np.bool_:
        raise TypeError(f"mask has dtype {given.dtype}; expected bool")
    full = (*shape[:axis], channels, *shape[axis:])
    try:
        if given.ndim != len(full):
            return np.broadcast_to(given, shape)
        by_channel = np.moveaxis(np.broadcast_to(given, full), axis, -1)
    except ValueError:
        raise ValueError(f"mask has shape {given.shape}, which does not broadcast against {shape}, the shape of x "
                         f"without its channel axis, nor with as many axes against {full}, that of x") from None
    base = once(by_channel)
    return by_channel[..., 0] if (base == base[..., :1]).all() else by_channel


def check_samples(values: ArrayLike, name: str, samples: int, kinds: str, expected: str) -> NDArray[Any]:
    """Return a vector of one value a sample."""
    vector = views.as_plain(values, name)
    if vector.dtype.kind not in kinds:
        raise TypeError(f"{name} has dtype {vector.dtype}; expected {expected}")
    if vector.shape != (samples,):
        raise ValueError(f"{name} has shape {vector.shape}; expected ({samples},), one value a sample")
    return vector


def folded(array: NDArray[Any], axis: int) -> tuple[NDArray[Any], int]:
    """Return an array without what it repeats by strides of zero, and how often each value is there.

    An array that the kernels can walk is returned as it is.
    """
    if array.dtype.newbyteorder("=") not in INTEGERS and views.is_walkable(array, axis):
        return array, 1
    base = once(array)
    if base.shape == array.shape:
        return array, 1
    return base, math.prod(n // m for k, (n, m) in enumerate(zip(array.shape, base.shape, strict=True)) if k != axis)


def once(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array without its repetitions: of length 1 along axes whose stride is zero."""
    return array[tuple(slice(0, 1) if step == 0 else slice(None) for step in array.strides)] if array.size else array


def blocks(array: NDArray[Any], axis: int) -> Iterator[NDArray[Any]]:
    """Yield an array that the kernels know as it is, and another one in parts, to be converted."""
    if array.dtype.newbyteorder("=") not in INTEGERS:
        yield array
        return
    # Along the longest axis that is not the channels'.
    along = max((k for k in range(array.ndim) if k != axis), key=lambda k: array.shape[k])
    step = max(1, BLOCK_VALUES * array.shape[along] // max(1, array.size))
    for first in range(0, array.shape[along], step):
        yield array[(slice(None),) * along + (slice(first, first + step),)]


def gathered(
    last: NDArray[Any], chosen: NDArray[Any],
) -> Iterator[tuple[NDArray[Any], NDArray[np.float64] | None]]:
    """Yield the rows that count of an array whose channels lie last, (rows, C), with their weights if there are any.

    The weights are (rows, 1), or (rows, C) where channels differ.
    """
    width = last.size // max(1, len(last))
    if width > BLOCK_VALUES and last.ndim > 2:
        for part, here in zip(last, chosen, strict=True):
            yield from gathered(part, here)
        return
    step = max(1, BLOCK_VALUES // max(1, width))
    for first in range(0, len(last), step):
        part, here = last[first:first + step], chosen[first:first + step]
        if here.ndim == last.ndim:
            some = here.any(axis=-1)
            yield part[some], here[some].astype(np.float64)
        elif here.dtype == np.bool_:
            yield part[here], None
        else:
            yield part[here > 0], here[here > 0][:, None]


def part_moments(
    block: NDArray[Any], weights: NDArray[np.float64] | None, axis: int, nan_policy: NanPolicy,
    num_threads: int | None, extrema: bool,
) -> Moments:
    """Return the moments of a block of any dtype; of rows, (rows, C), if there are weights."""
    floats, origin = converted(block, axis)
    if weights is None:
        found = plain_moments(floats, axis, nan_policy, num_threads, extrema, block.dtype.kind in "iu")
    else:
        found = weighted_moments(floats.astype(np.float64), weights, nan_policy, extrema)
    if origin is None:
        return found
    found = found.moved(origin)
    if extrema:
        found.min, found.max = integer_extrema(block, weights, axis)
    return found


def integer_extrema(
    block: NDArray[Any], weights: NDArray[np.float64] | None, axis: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the largest integer of each channel, rounded once; of rows, of those with a weight."""
    if weights is None or weights.shape[1] == 1:
        return find_extrema(block, axis)
    info, absent = np.iinfo(block.dtype), weights == 0
    low, high = np.where(absent, info.max, block).min(axis=0), np.where(absent, info.min, block).max(axis=0)
    none = absent.all(axis=0)
    return np.where(none, np.inf, low), np.where(none, -np.inf, high)


def converted(block: NDArray[Any], axis: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return a block in a dtype that the kernels know, and what was subtracted from each channel, (C,), if anything.

    Integers of 64 bits become their distances from the middle of their range, which are exact up to 2**53, and beyond
    that rounded by no more than the 2**-53 that any float64 of their size is.
    """
    native = block.dtype.newbyteorder("=")
    kind = INTEGERS.get(native)
    if kind is None:
        return block, None
    if native.itemsize < 8 or not block.size:
        return block.astype(kind, order="K"), None
    block = block.astype(native, copy=False)
    # Without a sign, differences wrap around at 2**64, and the right ones come out.
    low, high = (reduced(block, axis, ufunc).astype(native).view(np.uint64) for ufunc in (np.minimum, np.maximum))
    middle = low + (high - low) // 2 + (high - low) % 2
    distances = block.view(np.uint64) - middle.reshape([-1 if k == axis else 1 for k in range(block.ndim)])
    return distances.view(np.int64).astype(kind), middle.view(native)


def plain_moments(
    block: NDArray[Any], axis: int, nan_policy: NanPolicy, num_threads: int | None, extrema: bool, whole: bool,
) -> Moments:
    """Return the moments of all values of an array, `whole` if integers, by the kernels unless NaN are left out."""
    channels = block.shape[axis]
    view = views.view(block, axis, channels, statistics=True)
    if not view.size:
        return Moments.none(channels, extrema)
    n, _, s = view.shape
    mean, mean_low, m2 = kernels.reduce(view, whole=whole, num_threads=num_threads)
    if nan_policy != "propagate" and np.isnan(mean).any():
        out = Moments.none(channels, extrema)
        last = np.moveaxis(block, axis, -1)
        for rows, _ in gathered(last, np.broadcast_to(np.True_, last.shape[:-1])):
            out = out.merged(weighted_moments(rows.astype(np.float64), np.ones((len(rows), 1)), nan_policy, extrema))
        return out
    out = Moments(np.full(channels, float(n * s)), mean, mean_low, m2)
    if extrema:
        out.min, out.max = find_extrema(block, axis)
    return out


def weighted_moments(
    rows: NDArray[np.float64], weights: NDArray[np.float64], nan_policy: NanPolicy, extrema: bool,
) -> Moments:
    """Return the moments of (rows, C) float64 values with weights of (rows, 1) or (rows, C), in two passes.

    With d = x - sum(w x) / sum(w): mean = that + sum(w d) / sum(w), M2 = sum(w d^2) - sum(w d)^2 / sum(w).
    """
    channels = rows.shape[1]
    out = Moments.none(channels, extrema)
    for first in range(0, len(rows), SUM_ROWS):
        x, w = rows[first:first + SUM_ROWS], weights[first:first + SUM_ROWS]
        if not (w > 0).all():
            w = np.broadcast_to(w, x.shape)
            x = np.where(w > 0, x, 0.0)     # a NaN that does not count is none
        missing = np.isnan(x)
        if missing.any():
            if nan_policy == "raise":
                raise ValueError(f"x has {int(missing.sum())} or more NaN, the first in channel "
                                 f"{int(np.argmax(missing.any(axis=0)))}; nan_policy is 'raise'")
            if nan_policy == "omit":
                w = np.where(missing, 0.0, w)
                x = np.where(missing, 0.0, x)
        total = w.sum(axis=0)
        count = np.array(np.broadcast_to(total, channels))
        some = count > 0
        low, high = (x.min(axis=0), x.max(axis=0)) if (w > 0).all() else (
            np.where(w > 0, x, np.inf).min(axis=0), np.where(w > 0, x, -np.inf).max(axis=0))
        with np.errstate(all="ignore"):     # an infinity leaves NaN in its channel
            # Shares, because the sum of w x may be beyond float64; no further than the values, for those of constants.
            pivot = (np.divide(w, total, out=np.zeros(w.shape), where=total > 0) * x).sum(axis=0)
            pivot = np.where(some, np.clip(pivot, low, high), 0.0)
            d = x - pivot
            e = (w * d).sum(axis=0)
            step = np.divide(e, count, out=np.zeros(channels), where=some)
            squares = (w * d * d).sum(axis=0)
            m2 = np.where(np.isinf(squares), squares, squares - e * step)
            mean, mean_low = two_sum(pivot, step)
        part = Moments(count, mean, mean_low, np.where(m2 < 0, 0.0, m2))
        if extrema:
            part.min, part.max = low, high
        out = out.merged(part)
    return out
