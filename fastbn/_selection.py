"""The statistics of an array, or of those of its values that count: by mask, length, weight, or being a number.

What the kernels can walk they walk. What is selected is gathered block by block; weighted and NaN-ridden blocks are
worked out by NumPy, in float64, in two passes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fastbn import _layout
from fastbn._dispatch import kernels
from fastbn._extrema import extrema as find_extrema
from fastbn._moments import Moments, two_sum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

NanPolicy: TypeAlias = Literal["propagate", "raise", "omit"]
NAN_POLICIES = ("propagate", "raise", "omit")
# What becomes of integers that have no kernel of their own: floating-point numbers that hold them all.
INTEGERS = {np.dtype(np.int8): np.float32, np.dtype(np.int16): np.float32, np.dtype(np.uint16): np.float32,
            np.dtype(np.int32): np.float64}
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
    if nan_policy not in NAN_POLICIES:
        raise ValueError(f"nan_policy must be one of {', '.join(map(repr, NAN_POLICIES))}, got {nan_policy!r}")
    array = _layout.as_plain(x, "x")
    check_dtype(array)
    from_axis = _layout.channel_axis(array, axis, channels, "x")
    chosen = selection(array.shape[:from_axis] + array.shape[from_axis + 1:], sample_weight, mask, lengths)
    whole = array.dtype.kind in "iu"
    out = Moments.none(channels, extrema)
    if chosen is None:
        for block in blocks(array, from_axis):
            out = out.merged(plain_moments(block, from_axis, channels, nan_policy, num_threads, extrema, whole))
        return out
    for rows, weights in gathered(array, from_axis, chosen):
        if weights is None:
            out = out.merged(plain_moments(rows, 1, channels, nan_policy, num_threads, extrema, whole))
        else:
            out = out.merged(weighted_moments(rows.astype(np.float64), weights[:, None], nan_policy, extrema))
    return out


def check_dtype(array: NDArray[Any]) -> None:
    """Raise an error for what has no statistics."""
    if array.dtype.newbyteorder("=") not in INTEGERS and array.dtype != np.uint8 and array.dtype.name not in (
            "float32", "float64", "float16", "bfloat16"):
        raise TypeError(f"x has dtype {array.dtype}; expected {_layout.SUPPORTED}, uint8, int8, int16, uint16 or "
                        "int32; see astype")


def selection(
    shape: tuple[int, ...], sample_weight: ArrayLike | None, mask: ArrayLike | None, lengths: ArrayLike | None,
) -> NDArray[Any] | None:
    """Return which positions count, of x's shape without the channel axis: bool, or float64 weights; None for all.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """
    valid: NDArray[Any] | None = None
    if mask is not None:
        given = np.asarray(mask)
        if given.dtype != np.bool_:
            raise TypeError(f"mask has dtype {given.dtype}; expected bool")
        try:
            valid = np.broadcast_to(given, shape)
        except ValueError:
            raise ValueError(f"mask has shape {given.shape}, which does not broadcast against {shape}, the shape of x "
                             "without its channel axis") from None
    if lengths is not None:
        if len(shape) < 2:
            raise ValueError("lengths need an axis of steps beside that of samples; x has none")
        steps = check_samples(lengths, "lengths", shape[0], "iu", "integers")
        if ((steps < 0) | (steps > shape[1])).any():
            raise ValueError(f"lengths must be between 0 and {shape[1]}, the steps of x; got {steps.min()} to "
                             f"{steps.max()}")
        within = np.arange(shape[1]) < steps[:, None]
        within = np.broadcast_to(within.reshape(within.shape + (1,) * (len(shape) - 2)), shape)
        valid = within if valid is None else valid & within
    if sample_weight is None:
        return valid
    weight = check_samples(sample_weight, "sample_weight", shape[0], "fiu", "numbers").astype(np.float64)
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise ValueError("sample_weight must be finite and not negative")
    with np.errstate(over="ignore"):
        if not np.isfinite(weight.sum() * max(1, math.prod(shape[1:]))):
            raise ValueError("sample_weight has a sum that is not finite")
    weights = np.broadcast_to(weight.reshape(weight.shape + (1,) * (len(shape) - 1)), shape)
    return weights if valid is None else weights * valid


def check_samples(values: ArrayLike, name: str, samples: int, kinds: str, expected: str) -> NDArray[Any]:
    """Return a vector of one value a sample."""
    vector = np.asarray(values)
    if vector.dtype.kind not in kinds:
        raise TypeError(f"{name} has dtype {vector.dtype}; expected {expected}")
    if vector.shape != (samples,):
        raise ValueError(f"{name} has shape {vector.shape}; expected ({samples},), one value a sample")
    return vector


def blocks(array: NDArray[Any], axis: int) -> Iterator[NDArray[Any]]:
    """Yield an array that the kernels know as it is, and another one converted, part by part."""
    kind = INTEGERS.get(array.dtype.newbyteorder("="))
    if kind is None:
        yield array
        return
    # Along the longest axis that is not the channels'.
    along = max((k for k in range(array.ndim) if k != axis), key=lambda k: array.shape[k])
    step = max(1, BLOCK_VALUES * array.shape[along] // max(1, array.size))
    for first in range(0, array.shape[along], step):
        part = array[(slice(None),) * along + (slice(first, first + step),)]
        yield part.astype(kind, order="K")


def gathered(
    array: NDArray[Any], axis: int, chosen: NDArray[Any],
) -> Iterator[tuple[NDArray[Any], NDArray[np.float64] | None]]:
    """Yield the rows that count, (rows, C), with their weights if there are any, block by block."""
    last = np.moveaxis(array, axis, -1)
    kind = INTEGERS.get(array.dtype.newbyteorder("="), array.dtype)
    width = max(1, array.size // max(1, len(last)))
    step = max(1, BLOCK_VALUES // width)
    for first in range(0, len(last), step):
        here = chosen[first:first + step]
        counted = here if here.dtype == np.bool_ else here > 0
        rows = last[first:first + step][counted].astype(kind, copy=False)
        yield rows, None if here.dtype == np.bool_ else here[counted]


def plain_moments(
    block: NDArray[Any], axis: int, channels: int, nan_policy: NanPolicy, num_threads: int | None, extrema: bool,
    whole: bool,
) -> Moments:
    """Return the moments of all values of an array, `whole` if integers, by the kernels unless NaN are left out."""
    view = _layout.view(block, axis, channels, statistics=True)
    if not view.size:
        return Moments.none(channels, extrema)
    n, _, s = view.shape
    mean, mean_low, m2 = (kernels.byte_statistics(view, num_threads) if block.dtype == np.uint8
                          else kernels.statistics(view, whole, num_threads))
    if nan_policy != "propagate" and np.isnan(mean).any():
        out = Moments.none(channels, extrema)
        for rows, _ in gathered(block, axis, np.ones(block.shape[:axis] + block.shape[axis + 1:], np.bool_)):
            out = out.merged(weighted_moments(rows.astype(np.float64), np.ones((len(rows), 1)), nan_policy, extrema))
        return out
    out = Moments(np.full(channels, float(n * s)), mean, mean_low, m2)
    if extrema:
        out.min, out.max = find_extrema(block, axis)
    return out


def weighted_moments(
    rows: NDArray[np.float64], weights: NDArray[np.float64], nan_policy: NanPolicy, extrema: bool,
) -> Moments:
    """Return the moments of (rows, C) float64 values with weights of (rows, 1), in two passes.

    With d = x - sum(w x) / sum(w): mean = that + sum(w d) / sum(w), M2 = sum(w d^2) - sum(w d)^2 / sum(w).
    """
    channels = rows.shape[1]
    out = Moments.none(channels, extrema)
    for first in range(0, len(rows), SUM_ROWS):
        x = rows[first:first + SUM_ROWS]
        w = np.broadcast_to(weights[first:first + SUM_ROWS], x.shape)
        missing = np.isnan(x)
        if missing.any():
            if nan_policy == "raise":
                raise ValueError(f"x has {int(missing.sum())} or more NaN, the first in channel "
                                 f"{int(np.argmax(missing.any(axis=0)))}; nan_policy is 'raise'")
            if nan_policy == "omit":
                w = np.where(missing, 0.0, w)
                x = np.where(missing, 0.0, x)
        count = w.sum(axis=0)
        some = count > 0
        with np.errstate(all="ignore"):     # an infinity leaves NaN in its channel
            pivot = np.divide((w * x).sum(axis=0), count, out=np.zeros(channels), where=some)
            d = x - pivot
            e = (w * d).sum(axis=0)
            step = np.divide(e, count, out=np.zeros(channels), where=some)
            m2 = (w * d * d).sum(axis=0) - e * step
            mean, mean_low = two_sum(pivot, step)
        part = Moments(count, mean, mean_low, np.where(m2 < 0, 0.0, m2))
        if extrema:
            counted = w > 0
            part.min = np.where(counted, x, np.inf).min(axis=0)
            part.max = np.where(counted, x, -np.inf).max(axis=0)
        out = out.merged(part)
    return out
