"""Layer normalization without state: forward and backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastbn._core import views
from fastbn._core.checks import check_eps, check_lengths
from fastbn.functional import trailing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn._core.saved_rows import RowSaved


def layer_norm_training(
    x: ArrayLike,
    normalized_shape: int | Sequence[int],
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], RowSaved]:
    """Normalize the trailing axes of `x`, at each position of the other axes, by their mean and biased variance.

    y = (x - mean) / sqrt(var + eps) * gamma + beta [+ residual] [then an activation], after Ba, Kiros and Hinton
    (2016), "Layer Normalization", https://arxiv.org/abs/1607.06450.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        May be read-only, strided, misaligned or byte-swapped.
    normalized_shape : int or sequence of int
        The shape of the trailing axes, as in PyTorch; an integer stands for the last axis.
    gamma, beta : array_like of float32 or float64, shape normalized_shape, optional
        Scale and shift; 1 and 0 by default.
    eps : float
        Added to the variance. With 0, y is NaN where the variance is zero.
    residual : array_like, shape and dtype of x, optional
        Added before the activation.
    activation : str, tuple or None
        Applied last; NaN passes through. As in `fastbn.ChannelAffine`; with a residual only "relu".
    out : ndarray, shape and dtype of x, optional
        Buffer for y; `x` or `residual` itself to work in place.
    num_threads : int, optional
        For this call; see `fastbn.set_num_threads`.

    Returns
    -------
    y : ndarray
        `out` if it was given.
    saved : RowSaved
        For `layer_norm_backward`.

    Raises
    ------
    TypeError
        For an unsupported dtype or an argument of the wrong type.
    ValueError
        For shapes that do not fit, or an `out` that overlaps an input but is another array.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import layer_norm_training
    >>> y, saved = layer_norm_training(np.array([[1.0, 3.0], [10.0, 30.0]]), 2, eps=1e-12)
    >>> y
    array([[-1.,  1.],
           [-1.,  1.]])
    >>> saved.mean
    array([ 2., 20.])
    """
    lengths = check_lengths(normalized_shape, "normalized_shape")
    return trailing.train(
        views.rows(x, lengths), gamma, beta, lengths, eps=check_eps(eps), about_zero=False, residual=residual,
        activation=activation, out=out, num_threads=num_threads)


def layer_norm_inference(
    x: ArrayLike,
    normalized_shape: int | Sequence[int],
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute the y of `layer_norm_training`, to the same bits, without keeping anything for a backward pass.

    Parameters
    ----------
    x, normalized_shape, gamma, beta, eps, residual, out, num_threads
        As in `layer_norm_training`.
    activation : str, tuple or None
        As in `fastbn.ChannelAffine`.

    Returns
    -------
    y : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As in `layer_norm_training`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import layer_norm_inference
    >>> layer_norm_inference(np.array([[1.0, 3.0]]), 2, [2.0, 2.0], [1.0, 1.0], eps=1e-12, activation="relu")
    array([[0., 3.]])
    """
    lengths = check_lengths(normalized_shape, "normalized_shape")
    return trailing.infer(
        views.rows(x, lengths), gamma, beta, lengths, eps=check_eps(eps), about_zero=False, residual=residual,
        activation=activation, out=out, num_threads=num_threads)


def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    saved: RowSaved,
    gamma: ArrayLike | None = None,
    *,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], ...]:
    """Compute the gradients of `layer_norm_training`.

    With x_hat = (x - mean) * rstd, dgamma is the sum of dy x_hat over all positions, dbeta that of dy, and dx = rstd (v
    - mean(v) - x_hat mean(v x_hat)) with v = gamma dy and means over the normalized axes. With a fused ReLU, dy counts
    as zero at outputs that the ReLU set to zero; with another activation, it is multiplied by the derivative.

    Parameters
    ----------
    dy : array_like, shape and dtype of x
    x : array_like
        As in the forward pass.
    saved : RowSaved
    gamma : array_like of float32 or float64, shape normalized_shape, optional
        As in the forward pass.
    out : ndarray, shape and dtype of x, optional
        Buffer for dx; `dy` or `x` itself to work in place.
    num_threads : int, optional
        As in the forward pass.

    Returns
    -------
    dx : ndarray
    dgamma, dbeta : ndarray of float64, shape normalized_shape
    dresidual : ndarray
        Only if the forward pass had a residual.

    Raises
    ------
    TypeError, ValueError
        As in `layer_norm_training`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import layer_norm_backward, layer_norm_training
    >>> x = np.array([[1.0, 2.0, 6.0], [0.0, 1.0, 0.0]])
    >>> y, saved = layer_norm_training(x, 3)
    >>> dx, dgamma, dbeta = layer_norm_backward(np.ones((2, 3)), x, saved)
    >>> bool(abs(dx).max() < 1e-12), dbeta
    (True, array([2., 2., 2.]))
    """
    return trailing.gradients(dy, x, saved, gamma, about_zero=False, out=out, num_threads=num_threads)
