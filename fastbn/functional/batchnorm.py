"""Batch normalization without state: forward with statistics of the batch or given ones, and backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import memory, views
from fastbn._core.checks import NO_ACTIVATION, check_activation, check_eps, check_trainable
from fastbn._core.dispatch import kernels
from fastbn._core.kept import Kept
from fastbn._core.saved import Saved, check_variance, left_over, not_saved
from fastbn._core.tensors import as_constant
from fastbn._core.threads import check as check_threads
from fastbn.functional.ghost import grouped

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation


def check_vectors(channels: int, **vectors: Any) -> None:
    """Raise an error unless each vector is None or of shape (channels,) and a supported dtype."""
    for name, vector in vectors.items():
        views.check_vector(vector, channels, name)


def refuse_single(view: views.View, statistic: str, inference: str, more: str = "") -> None:
    """Raise an error for one value per channel; `inference` is the function that takes given statistics."""
    n, channels, s = view.shape
    if n * s == 1 and channels:
        raise ValueError(
            f"x has shape {view.array.shape}, one value per channel along axis {view.axis}, so there is no {statistic} "
            f"to learn from; use a larger batch, or given statistics ({inference}, or eval() on a layer){more}")


def batch_norm_training(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = 1,
    eps: float = 1e-5,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    virtual_batch_size: int | None = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], Saved]:
    """Normalize each channel of `x` by its mean and biased variance.

    y = (x - mean) / sqrt(var + eps) * gamma + beta [+ residual] [then an activation], after Ioffe and Szegedy (2015),
    "Batch Normalization", https://arxiv.org/abs/1502.03167.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
        May be read-only, strided, misaligned or byte-swapped.
    gamma, beta : array_like of float32 or float64, shape (C,), optional
        Scale and shift; 1 and 0 by default.
    axis : int or tuple of int
        The channel axis; statistics run over all other axes. With several axes, each combination of their indices is a
        channel, and the channels are numbered in the order of the tuple: with (1, 2) and the sizes C1 and C2, channel
        ``i * C2 + j`` is ``x[:, i, j]``. x is copied only if the axes do not follow each other in its memory.
    eps : float
        Added to the variance. With 0, y is NaN in a channel of zero variance.
    residual : array_like, shape and dtype of x, optional
        Added before the activation.
    activation : str, tuple or None
        Applied last; NaN passes through. As in `fastbn.ChannelAffine`; with a residual only "relu".
    virtual_batch_size : int, optional
        Each group of so many consecutive samples along axis 0 is normalized by its own statistics; the last one may
        have fewer: ghost batch norm, after Hoffer, Hubara and Soudry (2017), https://arxiv.org/abs/1705.08741. The
        statistics of `saved` then have the shape (groups, C).
    out : ndarray, shape and dtype of x, optional
        Buffer for y; `x` or `residual` itself to work in place.
    num_threads : int, optional
        For this call; see `fastbn.set_num_threads`.

    Returns
    -------
    y : ndarray
        `out` if it was given.
    saved : Saved
        For `batch_norm_backward`.

    Raises
    ------
    TypeError
        For an unsupported dtype or an argument of the wrong type.
    ValueError
        For shapes that do not fit, an `out` that overlaps an input but is another array, or a single value per channel,
        in the batch or in a group of samples.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import batch_norm_training
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> y, saved = batch_norm_training(x, eps=1e-12)
    >>> y
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> saved.mean, saved.var
    (array([ 2., 20.]), array([  1., 100.]))
    """
    view, samples = views.view(x, axis), None
    if virtual_batch_size is not None:
        view, samples = grouped(x, view, axis, virtual_batch_size)
    return train(
        view, gamma, beta, eps=check_eps(eps), residual=residual, activation=activation, out=out,
        num_threads=num_threads, samples=samples)


def train(
    view: views.View,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    *,
    eps: float,
    residual: ArrayLike | None,
    activation: Activation,
    out: NDArray[Any] | None,
    num_threads: int | None,
    index: NDArray[np.intp] | None = None,
    fill: bool = False,
    samples: int | None = None,
) -> tuple[NDArray[Any], Saved]:
    """Do what `batch_norm_training` does, given a view of x and an eps that is checked.

    `index` lists the positions that the view chose; with `fill` the other positions of the result become zero.
    `samples` is what `grouped` returns.
    """
    coded = NO_ACTIVATION if activation is None else check_trainable(activation, residual is not None)
    if num_threads is not None:
        check_threads(num_threads)
    n, channels, s = view.shape
    other = None if residual is None else views.like(view, residual, "residual")
    refuse_single(view, "variance", "batch_norm_inference", "; a BatchNorm has on_single for it")
    y = views.output(view, out, other)
    if not view.size:
        check_vectors(channels, gamma=gamma, beta=beta)
        zeros = np.zeros(channels)
        kept = Kept(zeros, None, zeros, None, None, None, False, NO_ACTIVATION)
        return y.finish(), Saved(kept, zeros, 0, view.array.shape, view.axis, other is not None)
    bits = coded[0] and other is not None
    mask = memory.empty((kernels.bits_words(view, samples),), np.dtype(np.uint16)) if bits else None
    mean, low, var, rstd = kernels.forward(
        view, y, other, gamma, beta, eps, activation=coded, bits=mask, fill=fill, num_threads=num_threads,
        samples=samples)
    scale = shift = None
    if coded[0] and mask is None:
        scale, shift = forward_coefficients(rstd.reshape(-1, channels), gamma, beta)
    # Calling Kept takes twice as long.
    kept = tuple.__new__(Kept, (mean, low, rstd, scale, shift, mask, False, coded))
    return y.finish(), Saved(
        kept, var, n * s, view.array.shape, view.axis, other is not None,
        arrangement=None if mask is None and samples is None else view.arrangement, index=index, samples=samples)


def forward_coefficients(
    rstd: NDArray[np.float64], gamma: ArrayLike | None, beta: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return gamma * rstd and beta as a forward pass uses them; rstd may have a row for each group of samples."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):      # as the kernels, which do not warn
        scale = rstd.copy() if gamma is None else rstd * np.asarray(as_constant(gamma, "gamma"), np.float64)
    shift = np.zeros(rstd.shape[-1]) if beta is None else np.array(as_constant(beta, "beta"), np.float64)
    return scale.ravel(), shift


def batch_norm_inference(
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = 1,
    eps: float = 1e-5,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Normalize each channel of `x` by a given mean and variance: one linear transform per channel.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
    mean, var : array_like of float32 or float64, shape (C,)
    gamma, beta, axis, eps, residual, out, num_threads
        As in `batch_norm_training`.
    activation : str, tuple or None
        As in `fastbn.ChannelAffine`.

    Returns
    -------
    y : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As in `batch_norm_training`, except that a single value per channel is valid. A variance must not be negative,
        nor 0 with an eps of 0.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import batch_norm_inference
    >>> batch_norm_inference(np.array([[5.0, -1.0]]), [1.0, 0.0], [3.0, 3.0], eps=1.0, activation="relu")
    array([[2., 0.]])
    """
    eps = check_eps(eps)
    coded = check_activation(activation)
    if num_threads is not None:
        check_threads(num_threads)
    if mean is None or var is None:
        raise TypeError("mean and var must be arrays, got None")
    if eps == 0:
        check_variance(var, eps)
    return kernels.apply_once(
        x, axis, mean, var, gamma, beta, eps=eps, residual=residual, out=out, activation=coded,
        num_threads=num_threads)


def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    saved: Saved,
    gamma: ArrayLike | None = None,
    *,
    axis: int | tuple[int, ...] = 1,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], ...]:
    """Compute the gradients of `batch_norm_training` or, with ``Saved.from_statistics``, of `batch_norm_inference`.

    With n values per channel and x_hat = (x - mean) * rstd, dbeta = sum dy, dgamma = sum dy x_hat and
    dx = gamma rstd (dy - dbeta / n - x_hat dgamma / n); with given statistics dx = gamma rstd dy. With a fused ReLU, dy
    counts as zero at outputs that the ReLU set to zero; with another activation, it is multiplied by the derivative.

    Parameters
    ----------
    dy : array_like, shape and dtype of x
    x : array_like
        As in the forward pass.
    saved : Saved
    gamma : array_like of float32 or float64, shape (C,), optional
        As in the forward pass.
    axis : int or tuple of int
        As in the forward pass.
    out : ndarray, shape and dtype of x, optional
        Buffer for dx; `dy` or `x` itself to work in place.
    num_threads : int, optional
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
        As in `batch_norm_training`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import batch_norm_backward, batch_norm_training
    >>> x = np.array([[1.0], [2.0], [4.0]])
    >>> y, saved = batch_norm_training(x)
    >>> dx, dgamma, dbeta = batch_norm_backward(np.ones((3, 1)), x, saved)
    >>> bool(abs(dx).max() < 1e-12), dbeta
    (True, array([3.]))
    """
    return gradients(dy, x, saved, gamma, axis=axis, out=out, num_threads=num_threads)


def gradients(
    dy: ArrayLike,
    x: ArrayLike,
    saved: Saved,
    gamma: ArrayLike | None,
    *,
    axis: int | tuple[int, ...],
    out: NDArray[Any] | None,
    num_threads: int | None,
    fill: bool = False,
    sums: NDArray[np.float64] | None = None,
) -> tuple[NDArray[Any], ...]:
    """Do what `batch_norm_backward` does.

    With `fill` the positions of dx that did not count become zero. `sums`, (2, C), is the total of
    `parts.gradient_sums` over all parts of a batch of ``saved.count`` values per channel; x is one of these parts.
    """
    view, gradient = backward_views(dy, x, saved, axis, num_threads)
    dx = views.output(view, out, gradient)
    dresidual = views.output(view) if saved._residual else None
    if not view.size:
        check_vectors(view.shape[1], gamma=gamma)
        dgamma, dbeta = np.zeros(view.shape[1]), np.zeros(view.shape[1])
    elif sums is None:
        dgamma, dbeta = kernels.backward(
            gradient, view, dx, dresidual, saved._kept, gamma, fill=fill, num_threads=num_threads,
            samples=saved._samples)
    if sums is not None:
        dbeta, about_mean = sums
        with np.errstate(all="ignore"):     # an infinity leaves NaN in its channel, without a warning
            dgamma = about_mean * saved._kept.rstd
            products = about_mean + left_over(saved, view) * dbeta
        if view.size:
            kernels.apply_gradient(
                gradient, view, dx, dresidual, saved._kept, gamma, sums=(products, dbeta), count=saved._count,
                fill=fill, num_threads=num_threads)
    return dx.finish(), dgamma, dbeta, *(() if dresidual is None else (dresidual.finish(),))


def backward_views(
    dy: ArrayLike, x: ArrayLike, saved: Saved, axis: int | tuple[int, ...], num_threads: int | None
) -> tuple[views.View, views.View]:
    """Return views of x and dy, after a check that they fit the forward pass."""
    if not isinstance(saved, Saved):
        raise not_saved(saved, Saved, "batch_norm_training")
    if num_threads is not None:
        check_threads(num_threads)
    view = saved._view_of(x, axis)
    return view, views.like(view, dy, "dy")
