"""In-place activated batch normalization without state: the backward pass reads y instead of x."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbn._core import views
from fastbn._core.checks import ACTIVATIONS, LEAST_EPS, PARAMETERS, channels, check_activation, check_eps, name_of
from fastbn._core.dispatch import kernels
from fastbn._core.kept import Kept
from fastbn._core.saved import Saved, not_saved
from fastbn._core.tensors import as_constant
from fastbn._core.threads import check as check_threads
from fastbn.functional import batchnorm

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation, Axis

# The code that the kernels have for the inverse of elu.
INVERSE_ELU = max(ACTIVATIONS.values()) + 1


def inplace_batch_norm_training(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: Axis = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], Saved]:
    """Do what `batch_norm_training` does, if `inplace_batch_norm_backward` can compute its gradients without x.

    y may thus be written over x, and one array less is kept for the backward pass. After Rota Bulò, Porzi and
    Kontschieder (2018), "In-Place Activated BatchNorm", https://arxiv.org/abs/1712.02616.

    Parameters
    ----------
    x, beta, axis, eps, out, num_threads
        As in `batch_norm_training`.
    gamma : array_like of float32 or float64, shape (C,), optional
        No value may be 0.
    activation : {None, "leaky_relu", "elu"} or tuple
        One that can be inverted: the slope of leaky_relu, and alpha of elu, must be positive.

    Returns
    -------
    y : ndarray
        `out` if it was given.
    saved : Saved
        For `inplace_batch_norm_backward`.

    Raises
    ------
    TypeError, ValueError
        As in `batch_norm_training`; also if gamma is 0 or the activation cannot be inverted.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import inplace_batch_norm_training
    >>> x = np.array([[1.0], [3.0]])
    >>> y, saved = inplace_batch_norm_training(x, eps=1e-12, activation=("leaky_relu", 0.25), out=x)
    >>> y is x, y.round(9).tolist()
    (True, [[-0.25], [1.0]])
    """
    view = views.view(x, axis)
    check_invertible(activation, gamma, view.shape[1])
    return batchnorm.train(
        view, gamma, beta, eps=check_eps(eps), residual=None, activation=activation, out=out, num_threads=num_threads)


def check_invertible(activation: object, gamma: ArrayLike | None, num_channels: int) -> None:
    """Raise an error unless x_hat can be computed from y."""
    code, parameter = check_activation(activation)
    if code not in (0, *(ACTIVATIONS[name] for name in PARAMETERS)):
        raise ValueError("activation must be None, 'leaky_relu' or 'elu' where the backward pass has y and not x, "
                         f"because it is inverted; got {activation!r}")
    if code and not LEAST_EPS <= parameter <= 1 / LEAST_EPS:
        raise ValueError(f"the {PARAMETERS[name_of(code)][0]} of {name_of(code)} must be positive where the backward "
                         f"pass has y and not x, because it is divided by; got {parameter}")
    divisor(gamma, num_channels)


def divisor(gamma: ArrayLike | None, num_channels: int) -> NDArray[np.float64]:
    """Return gamma as float64, or raise an error if it is 0 in a channel, or close to it."""
    if gamma is None:
        return np.ones(num_channels)
    views.check_vector(gamma, num_channels, "gamma")
    values = np.array(as_constant(gamma, "gamma"), np.float64)
    small = np.flatnonzero(np.abs(values) < LEAST_EPS).tolist()
    if small:
        raise ValueError(f"gamma is {values[small[0]]:g} in {channels(small)}, and the backward pass, which has y and "
                         f"not x, divides by it; expected {LEAST_EPS:.3g} or more in size")
    return values


def inplace_batch_norm_backward(
    dy: ArrayLike,
    y: ArrayLike,
    saved: Saved,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: Axis = 1,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Compute the gradients of `inplace_batch_norm_training` from y.

    With the input z of the activation, computed from y, x_hat = (z - beta) / gamma. The gradients are those of
    `batch_norm_backward`. x_hat has an error of about u (abs(z) + abs(beta)) / abs(gamma), where u is the rounding unit
    of y (2^-24 in float32), so channels with a small gamma and a large beta lose digits.

    Parameters
    ----------
    dy : array_like, shape and dtype of y
    y : array_like
        The result of the forward pass.
    saved : Saved
    gamma, beta, axis, num_threads
        Those of the forward pass; with another gamma or beta, the gradients are wrong, without an error.
    out : ndarray, shape and dtype of y, optional
        Buffer for dx; `dy` or `y` itself to work in place.

    Returns
    -------
    dx : ndarray
    dgamma, dbeta : ndarray of float64, shape (C,)

    Raises
    ------
    TypeError, ValueError
        As in `batch_norm_backward`; also if gamma is 0 or `saved` is of a forward pass that cannot be inverted.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import inplace_batch_norm_backward, inplace_batch_norm_training
    >>> x = np.array([[1.0], [2.0], [4.0]])
    >>> y, saved = inplace_batch_norm_training(x, activation="elu", out=x)
    >>> dx, dgamma, dbeta = inplace_batch_norm_backward(np.ones((3, 1)), y, saved, out=y)
    >>> dbeta.round(4)      # the sum of the derivatives of elu, y + 1 at the two negative values
    array([2.1088])
    """
    if not isinstance(saved, Saved):
        raise not_saved(saved, Saved, "inplace_batch_norm_training")
    if num_threads is not None:
        check_threads(num_threads)
    view = saved._view_of(y, axis, "y")
    gradient = views.like(view, dy, "dy")
    if out is not None:
        views.output(view, out, gradient)       # an error if it overlaps y or dy in part
    of = recover(y, saved, gamma, beta, axis=axis, num_threads=num_threads)
    dx, dgamma, dbeta = batchnorm.gradients(
        dy, of.z, of.saved, of.gamma, axis=axis, out=out, num_threads=num_threads)
    return dx, dgamma, dbeta


class Recovered(NamedTuple):
    """The forward pass whose x is the input of the activation: its gradients are the wanted ones.

    Attributes
    ----------
    z : array_like
        A new array; y itself without an activation.
    saved : Saved
        With the mean beta and the rstd 1 / gamma, so that (z - mean) * rstd is x_hat.
    gamma : ndarray of float64, shape (C,)
        gamma^2 * rstd, so that it is multiplied by 1 / gamma to the factor of dx, gamma * rstd.
    """

    z: Any
    saved: Saved
    gamma: NDArray[np.float64]


def recover(
    y: ArrayLike, saved: Saved, gamma: ArrayLike | None, beta: ArrayLike | None, *, axis: Axis,
    num_threads: int | None,
) -> Recovered:
    """Return what y, and what its forward pass saved, tell about its input.

    Raises
    ------
    TypeError, ValueError
        If gamma is 0, or the forward pass had a residual or an activation that cannot be inverted.
    """
    kept = saved._kept
    code, parameter = kept.activation
    count = len(kept.mean)
    if saved._residual:
        raise ValueError("saved must be of a forward pass without a residual, which y does not determine")
    if saved._samples is not None:
        raise ValueError("saved must be of a forward pass without a virtual batch size")
    activation: Any = None if not code else name_of(code)
    check_invertible((activation, parameter) if activation in PARAMETERS else activation, None, count)
    scale = divisor(gamma, count)
    views.check_vector(beta, count, "beta")
    shift = np.zeros(count) if beta is None else np.array(as_constant(beta, "beta"), np.float64)
    z = y
    if code:
        inverse = (INVERSE_ELU, parameter) if activation == "elu" else (code, 1 / parameter)
        same = kernels.Constants(count, None, None, None, None, 0.0)
        z = kernels.apply(y, axis, same, None, None, inverse, num_threads)
    of_z = Kept(
        shift, None, 1 / scale, np.ones(count) if code else None, shift if code else None, None, kept.frozen,
        kept.activation)
    return Recovered(z, Saved(of_z, saved._var, saved._count, saved._shape, saved._axis), scale * scale * kept.rstd)
