"""Batch normalization where each channel has its own mask.

Statistics, and the sums of the backward, are those of each channel's own values. The transform goes over all values,
and what it makes of those that do not count is replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn import functional
from fastbn._core import views
from fastbn._core.checks import channels, check_activation, check_eps
from fastbn._core.dispatch import kernels
from fastbn._core.saved import in_range
from fastbn._core.tensors import to_tensor
from fastbn.statistics.selection import chosen_moments

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn._core.saved import Saved


def counts_of(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how many values count in each channel, of a mask whose last axis is the channels'."""
    return np.asarray(np.count_nonzero(chosen, axis=tuple(range(chosen.ndim - 1))), np.float64)


def forward(
    view: views.View, chosen: NDArray[np.bool_], gamma: ArrayLike | None, beta: ArrayLike | None, eps: float,
    residual: NDArray[Any] | None, activation: Activation, num_threads: int | None,
) -> tuple[NDArray[Any], Saved]:
    """Return all values, normalized by the statistics of those that count, and what a backward needs.

    Raises
    ------
    ValueError
        If a channel has a single value that counts.
    """
    counts = counts_of(chosen)
    single = np.flatnonzero(counts == 1)
    if single.size:
        raise ValueError(f"a single value of x counts in {channels(single.tolist())}, so there is no variance to learn "
                         "from; use a larger batch, leave such a value out of the mask, or use eval()")
    moments = chosen_moments(view.array, view.axis, chosen, "propagate", num_threads, extrema=False)
    # 1 in a channel without values, whose gradients are then 0, whatever eps is.
    var = in_range(np.divide(moments.m2, counts, out=np.ones(len(counts)), where=counts > 0))
    code, _ = check_activation(activation, inference=False)
    saved = functional.inference_saved(
        view.array, moments.mean, var, gamma, beta, axis=view.axis, eps=check_eps(eps), relu=code > 0,
        residual=residual, num_threads=num_threads, mean_low=moments.mean_low, count=chosen[..., 0].size)
    constants = kernels.Constants(len(counts), moments.mean, var, gamma, beta, eps, low=moments.mean_low)
    return kernels.apply(
        view.array, view.axis, constants, residual, None, (code, 0.0), num_threads), saved


def backward(
    dy: NDArray[Any], x: NDArray[Any], saved: Saved, chosen: NDArray[np.bool_], axis: int, gamma: ArrayLike | None,
    num_threads: int | None,
) -> tuple[NDArray[Any], ...]:
    """Return what `fastbn.functional.batch_norm_backward` returns; dx only where it counts, dresidual everywhere.

    With n values that count in a channel, dx = gamma rstd (dy - dbeta / n - x_hat dgamma / n). The kernels divide by
    the number of all values instead, so that they are given sums that are larger by as much.
    """
    full = np.moveaxis(chosen, -1, axis)
    dy, x = (np.where(full, array, array.dtype.type(0)) for array in (dy, x))
    if saved._frozen:
        return functional.gradients(dy, x, saved, gamma, axis=axis, out=None, num_threads=num_threads)
    sums = functional.gradient_sums(dy, x, saved, axis=axis, num_threads=num_threads)
    counts = counts_of(chosen)
    share = np.divide(saved._count, counts, out=np.zeros(len(counts)), where=counts > 0)
    dx, _, _, *others = functional.gradients(
        dy, x, saved, gamma, axis=axis, out=None, num_threads=num_threads, sums=sums * share)
    dbeta, about_mean = sums
    with np.errstate(all="ignore"):     # an infinity leaves NaN in its channel, without a warning
        dgamma = about_mean * saved.rstd
    return (dx, dgamma, dbeta, *others)


def placed(
    target: views.View, values: NDArray[Any], chosen: NDArray[np.bool_], kept: NDArray[Any], zero: bool,
    out: NDArray[Any] | None, tensor: bool,
) -> Any:
    """Return values where they count, and elsewhere zeros or what is kept: in `out`, if it was given."""
    full = np.moveaxis(chosen, -1, target.axis)
    if out is None:
        np.copyto(values, values.dtype.type(0) if zero else kept, where=~full)
        return to_tensor(values) if tensor else values
    place = views.as_plain(out, "out")
    if zero:
        np.copyto(place, place.dtype.type(0), where=~full)
    np.copyto(place, values, where=full)
    return out
