"""Root mean square normalization without state: forward and backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_eps, check_lengths
from fastbn.functional import trailing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn._core.saved_rows import RowSaved


def eps_of(eps: float | None, dtype: np.dtype[Any]) -> float:
    """Return a given eps, checked; None is the rounding unit of the type that PyTorch computes x in."""
    if eps is not None:
        return check_eps(eps)
    return float(np.finfo(np.float64 if dtype == np.float64 else np.float32).eps)


def rms_norm_training(
    x: ArrayLike,
    normalized_shape: int | Sequence[int],
    gamma: ArrayLike | None = None,
    *,
    eps: float | None = None,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], RowSaved]:
    """Normalize the trailing axes of `x`, at each position of the other axes, by their root mean square.

    y = x / sqrt(mean(x**2) + eps) * gamma [+ residual] [then an activation], after Zhang and Sennrich (2019), "Root
    Mean Square Layer Normalization", https://arxiv.org/abs/1910.07467.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        May be read-only, strided, misaligned or byte-swapped.
    normalized_shape : int or sequence of int
        The shape of the trailing axes, as in PyTorch; an integer stands for the last axis.
    gamma : array_like of float32 or float64, shape normalized_shape, optional
        Scale; 1 by default.
    eps : float or None
        Added to the mean square. None is 2**-52 for float64, else 2**-23, which is what PyTorch computes with: for
        float16 and bfloat16 too, where its documentation says ``torch.finfo(x.dtype).eps``. With 0, y is NaN where all
        values are zero.
    residual, activation, out, num_threads
        As in `layer_norm_training`.

    Returns
    -------
    y : ndarray
        `out` if it was given.
    saved : RowSaved
        For `rms_norm_backward`.

    Raises
    ------
    TypeError
        For an unsupported dtype or an argument of the wrong type.
    ValueError
        For shapes that do not fit, or an `out` that overlaps an input but is another array.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import rms_norm_training
    >>> y, saved = rms_norm_training(np.array([[1.0, 7.0]]), 2, [5.0, 5.0])
    >>> y
    array([[1., 7.]])
    >>> saved.rstd
    array([0.2])
    """
    lengths = check_lengths(normalized_shape, "normalized_shape")
    view = views.rows(x, lengths)
    return trailing.train(
        view, gamma, None, lengths, eps=eps_of(eps, view.array.dtype), about_zero=True, residual=residual,
        activation=activation, out=out, num_threads=num_threads)


def rms_norm_inference(
    x: ArrayLike,
    normalized_shape: int | Sequence[int],
    gamma: ArrayLike | None = None,
    *,
    eps: float | None = None,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute the y of `rms_norm_training`, to the same bits, without keeping anything for a backward pass.

    Parameters
    ----------
    x, normalized_shape, gamma, eps, residual, out, num_threads
        As in `rms_norm_training`.
    activation : str, tuple or None
        As in `fastbn.ChannelAffine`.

    Returns
    -------
    y : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As in `rms_norm_training`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import rms_norm_inference
    >>> rms_norm_inference(np.array([[-1.0, 7.0]]), 2, [5.0, 5.0], activation="relu")
    array([[0., 7.]])
    """
    lengths = check_lengths(normalized_shape, "normalized_shape")
    view = views.rows(x, lengths)
    return trailing.infer(
        view, gamma, None, lengths, eps=eps_of(eps, view.array.dtype), about_zero=True, residual=residual,
        activation=activation, out=out, num_threads=num_threads)


def rms_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    saved: RowSaved,
    gamma: ArrayLike | None = None,
    *,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], ...]:
    """Compute the gradients of `rms_norm_training`.

    With x_hat = x * rstd, dgamma is the sum of dy x_hat over all positions, and dx = rstd (v - x_hat mean(v x_hat))
    with v = gamma dy and the mean over the normalized axes. An activation as in `layer_norm_backward`.

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
    dgamma : ndarray of float64, shape normalized_shape
    dresidual : ndarray
        Only if the forward pass had a residual.

    Raises
    ------
    TypeError, ValueError
        As in `rms_norm_training`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import rms_norm_backward, rms_norm_training
    >>> x = np.array([[3.0, 4.0]])
    >>> y, saved = rms_norm_training(x, 2)
    >>> dx, dgamma = rms_norm_backward(y, x, saved)
    >>> bool(abs(dx).max() < 1e-12), dgamma.round(6)
    (True, array([0.72, 1.28]))
    """
    dx, dgamma, _, *dresidual = trailing.gradients(
        dy, x, saved, gamma, about_zero=True, out=out, num_threads=num_threads)
    return (dx, dgamma, *dresidual)
