"""Which values of an array count: masks, lengths, weights and NaN policies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from fastbn._core import views
from fastbn._core.checks import listed

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

NanPolicy: TypeAlias = Literal["propagate", "raise", "omit"]
NAN_POLICIES: tuple[NanPolicy, ...] = get_args(NanPolicy)


def selection(
    shape: tuple[int, ...], axis: int, sample_weight: ArrayLike | None, mask: ArrayLike | None,
    lengths: ArrayLike | None,
) -> NDArray[Any] | None:
    """Return which values of an array count, as bool or float64 weights; None if all count.

    Parameters
    ----------
    shape : tuple of int
        Of the array.
    axis : int
        Its channel axis, not negative.
    sample_weight, mask, lengths
        As in `fastbn.ChannelStats.update`.

    Returns
    -------
    ndarray or None
        Of the given shape without the channel axis. With a mask that differs between channels, the channels are the
        last axis.

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
            raise ValueError("lengths need an axis of steps besides that of samples; x has none")
        steps = check_samples(lengths, "lengths", shape[0], "iu", "integers")
        if ((steps < 0) | (steps > shape[1])).any():
            least, most = steps.min(), steps.max()
            raise ValueError(f"lengths must be between 0 and {shape[1]}, the steps of x; got "
                             f"{least if least == most else f'values from {least} to {most}'}")
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
    """Return a mask of `shape`, that of x without its channel axis; of (*shape, C) if it differs between channels."""
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
    base = without_repeats(by_channel)
    return by_channel[..., 0] if (base == base[..., :1]).all() else by_channel


def check_samples(values: ArrayLike, name: str, samples: int, kinds: str, expected: str) -> NDArray[Any]:
    """Return a vector with one value per sample."""
    vector = views.as_plain(values, name)
    if vector.dtype.kind not in kinds:
        raise TypeError(f"{name} has dtype {vector.dtype}; expected {expected}")
    if vector.shape != (samples,):
        raise ValueError(f"{name} has shape {vector.shape}; expected ({samples},), one value per sample")
    return vector


def without_repeats(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view with length 1 along all axes whose stride is zero."""
    return array[tuple(slice(0, 1) if step == 0 else slice(None) for step in array.strides)] if array.size else array


def refuse_nan(missing: NDArray[np.bool_], axis: int) -> None:
    """Raise ValueError if any value of a block is NaN."""
    if missing.any():
        spoilt = missing.any(axis=tuple(k for k in range(missing.ndim) if k != axis))
        raise ValueError(f"x has {np.count_nonzero(missing)} or more NaN, the first in channel {np.argmax(spoilt)}; "
                         "nan_policy is 'raise'")
