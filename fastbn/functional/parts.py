"""A batch in parts: the forward pass of a part by statistics of the whole batch, and the sums of its backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.checks import RELU
from fastbn._core.dispatch import kernels
from fastbn._core.kept import Kept
from fastbn._core.saved import Saved, check_variance, left_over, normalizing
from fastbn.functional.batchnorm import backward_views, forward_coefficients

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def normalize(
    x: ArrayLike,
    mean: NDArray[np.float64],
    var: NDArray[np.float64],
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    *,
    axis: int | tuple[int, ...],
    eps: float,
    activation: tuple[int, float],
    residual: ArrayLike | None,
    num_threads: int | None,
    mean_low: NDArray[np.float64] | None,
    count: int,
    out: NDArray[Any] | None,
) -> tuple[NDArray[Any], Saved | None]:
    """Normalize a part of a training batch of `count` values per channel by the statistics of the whole.

    Returns y and what `batch_norm_backward` needs, as `batch_norm_training` does; None for a residual with an
    activation that has no backward pass.
    """
    trainable = residual is None or activation[0] <= RELU
    saved = None if not trainable else inference_saved(        # before y may be written over x
        x, mean, var, gamma, beta, axis=axis, eps=eps, activation=activation, residual=residual,
        num_threads=num_threads, mean_low=mean_low, count=count)
    constants = kernels.Constants(len(mean), mean, var, gamma, beta, eps, low=mean_low)
    return kernels.apply(x, axis, constants, residual, out, activation, num_threads), saved


def inference_saved(
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    *,
    axis: int | tuple[int, ...],
    eps: float,
    activation: tuple[int, float],
    residual: ArrayLike | None,
    num_threads: int | None,
    mean_low: NDArray[np.float64] | None = None,
    count: int | None = None,
) -> Saved:
    """Return what `batch_norm_backward` needs of a `batch_norm_inference`.

    `activation` is what `check_trainable` returns. Without one the values of a residual are not used, and True can
    stand for it. `count` is that of the training batch of which x is a part; None if the statistics are constants.
    """
    if count is None:
        check_variance(var, eps)
    mean64, var64, rstd = normalizing(mean, var, eps)
    if count == 0:
        rstd[...] = 0       # as in an empty training batch
    view = views.view(x, axis)
    scale = shift = mask = arrangement = None
    if activation[0] and residual is None:
        scale, shift = forward_coefficients(rstd, gamma, beta)
    elif activation[0] and residual is not None:
        arrangement = view.arrangement
        constants = kernels.Constants(view.shape[1], mean, var, gamma, beta, eps, low=mean_low)
        mask = kernels.apply_bits(view, residual, constants, num_threads=num_threads)
    kept = Kept(mean64, mean_low, rstd, scale, shift, mask, count is None, activation)
    return Saved(kept, var64, count or 0, view.array.shape, view.axis, residual is not None, arrangement=arrangement)


def gradient_sums(
    dy: ArrayLike, x: ArrayLike, saved: Saved, *, axis: int | tuple[int, ...], num_threads: int | None
) -> NDArray[np.float64]:
    """Return sum dy and sum dy * (x - mean), (2, C), with dy before the activation; see `batchnorm.gradients`."""
    view, gradient = backward_views(dy, x, saved, axis, num_threads)
    out = np.zeros((2, view.shape[1]))
    if view.size:
        products, out[0] = kernels.reduce_gradient(gradient, view, saved._kept, num_threads=num_threads)
        with np.errstate(all="ignore"):
            out[1] = products - left_over(saved, view) * out[0]
    return out
