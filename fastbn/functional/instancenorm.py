"""Instance normalization without state: every channel of every sample is normalized by its own statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastbn._core.checks import check_eps
from fastbn._core.saved_groups import sample_view
from fastbn.functional import groupnorm

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core import views
    from fastbn._core.checks import Activation
    from fastbn._core.saved_groups import GroupSaved


def instance_norm_training(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], GroupSaved]:
    """Normalize each channel of each sample by its mean and biased variance.

    y = (x - mean) / sqrt(var + eps) * gamma + beta [+ residual] [then an activation], after Ulyanov et al. (2016),
    "Instance Normalization", https://arxiv.org/abs/1607.08022. It is `group_norm_training` with C groups.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, three or more dimensions
        The first axis is that of the samples. May be read-only, strided, misaligned or byte-swapped.
    gamma, beta : array_like of float32 or float64, shape (C,), optional
        Scale and shift; 1 and 0 by default.
    axis : int
        The channel axis, not the first axis; statistics run over the other axes after the first.
    eps : float
        Added to the variance. With 0, y is NaN in a channel of zero variance.
    residual, activation, out, num_threads
        As in `group_norm_training`.

    Returns
    -------
    y : ndarray
        `out` if it was given.
    saved : GroupSaved
        For `instance_norm_backward`; its statistics have the shape (N, C).

    Raises
    ------
    TypeError
        For an unsupported dtype or an argument of the wrong type.
    ValueError
        For shapes that do not fit, an `out` that overlaps an input but is another array, or a single value per channel
        of a sample.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import instance_norm_training
    >>> x = np.array([[[1.0, 3.0], [10.0, 30.0]]])
    >>> y, saved = instance_norm_training(x, eps=1e-12)
    >>> y
    array([[[-1.,  1.],
            [-1.,  1.]]])
    >>> saved.mean
    array([[ 2., 20.]])
    """
    view = instance_view(x, axis)
    return groupnorm.train(
        view, view.shape[1], gamma, beta, eps=check_eps(eps), residual=residual, activation=activation, out=out,
        num_threads=num_threads)


def instance_norm_inference(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute y of `instance_norm_training`, with the same bits, and keep nothing for a backward pass.

    Instance norm by running averages is `batch_norm_inference`.

    Parameters
    ----------
    x, gamma, beta, axis, eps, residual, out, num_threads
        As in `instance_norm_training`.
    activation : str, tuple or None
        As in `fastbn.ChannelAffine`.

    Returns
    -------
    y : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As in `instance_norm_training`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import instance_norm_inference
    >>> x = np.array([[[1.0, 3.0], [10.0, 30.0]]])
    >>> instance_norm_inference(x, [1.0, 2.0], eps=1e-12, activation="relu")
    array([[[0., 1.],
            [0., 2.]]])
    """
    view = instance_view(x, axis)
    return groupnorm.infer(
        view, view.shape[1], gamma, beta, eps=check_eps(eps), residual=residual, activation=activation, out=out,
        num_threads=num_threads)


def instance_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    saved: GroupSaved,
    gamma: ArrayLike | None = None,
    *,
    axis: int = 1,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], ...]:
    """Compute the gradients of `instance_norm_training`.

    With n values per channel of a sample, x_hat = (x - mean) * rstd and sums over these n values, dx = gamma rstd
    (dy - sum dy / n - x_hat sum(dy x_hat) / n); dbeta = sum dy and dgamma = sum dy x_hat run over all samples. An
    activation counts as in `group_norm_backward`.

    Parameters
    ----------
    dy, x, saved, axis, out, num_threads
        As in `group_norm_backward`.
    gamma : array_like of float32 or float64, shape (C,), optional
        As in the forward pass.

    Returns
    -------
    dx : ndarray
    dgamma, dbeta : ndarray of float64, shape (C,)
    dresidual : ndarray
        Only if the forward pass had a residual.

    Raises
    ------
    TypeError, ValueError
        As in `instance_norm_training`; also for a `saved` of a group norm with fewer groups than channels.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import instance_norm_backward, instance_norm_training
    >>> x = np.array([[[1.0, 3.0], [10.0, 30.0]]])
    >>> y, saved = instance_norm_training(x)
    >>> dx, dgamma, dbeta = instance_norm_backward(np.ones((1, 2, 2)), x, saved)
    >>> bool(abs(dx).max() < 1e-12), dbeta
    (True, array([2., 2.]))
    """
    return groupnorm.gradients(
        dy, x, saved, gamma, axis=axis, out=out, num_threads=num_threads, instances=True)


def instance_view(x: ArrayLike, axis: int, channels: int | None = None) -> views.View:
    """Return a view of x as `sample_view` does, after a check that channels have more than one value."""
    view = sample_view(x, axis, channels)
    if view.size and view.size == view.array.shape[0] * view.shape[1]:
        raise ValueError(
            f"x has shape {view.array.shape}, one value per channel of each sample, so there is no variance; use batch "
            "norm or group norm")
    return view
