"""Normalization over the trailing axes of an array: what layer norm and RMS norm share.

The trailing axes are one row, with its own statistics. Each element of a row has its own gamma and beta.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import memory, views
from fastbn._core.checks import NO_ACTIVATION, check_activation, check_trainable
from fastbn._core.dispatch import kernels
from fastbn._core.saved import not_saved
from fastbn._core.saved_rows import RowSaved
from fastbn._core.tensors import as_constant
from fastbn._core.threads import check as check_threads

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation


def flat_parameter(value: ArrayLike | None, lengths: tuple[int, ...], name: str) -> Any:
    """Return a parameter of the shape of a row as a vector, or raise an error."""
    if value is None or len(lengths) == 1:      # the kernels check vectors
        return value
    array = views.as_plain(as_constant(value, name), name)
    if array.shape != lengths:
        raise ValueError(f"{name} has shape {array.shape}; expected {lengths}")
    numbers = array.dtype.kind in "iu" and not isinstance(value, np.ndarray)        # of a list
    return (array.astype(np.float64) if numbers else array).reshape(-1)


def check_parameters(size: int, **vectors: Any) -> None:
    """Raise an error for parameters of another size or dtype, where no kernel has read them."""
    for name, vector in vectors.items():
        views.check_vector(vector, size, name)


def train(
    view: views.View,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    lengths: tuple[int, ...],
    *,
    eps: float,
    about_zero: bool,
    residual: ArrayLike | None,
    activation: Activation,
    out: NDArray[Any] | None,
    num_threads: int | None,
) -> tuple[NDArray[Any], RowSaved]:
    """Normalize every row of a view by its own statistics; returns y and what `gradients` needs."""
    coded = NO_ACTIVATION if activation is None else check_trainable(activation, residual is not None)
    if num_threads is not None:
        check_threads(num_threads)
    other = None if residual is None else views.like(view, residual, "residual")
    gamma, beta = flat_parameter(gamma, lengths, "gamma"), flat_parameter(beta, lengths, "beta")
    y = views.output(view, out, other)
    bits = kept_beta = None
    if coded[0] and other is None:
        check_parameters(view.shape[1], beta=beta)
        kept_beta = np.zeros(view.shape[1]) if beta is None else np.array(as_constant(beta, "beta"), np.float64)
    elif coded[0]:
        bits = memory.empty((kernels.bits_words(view, 1),), np.dtype(np.uint16))
    statistics: Any
    if view.size:
        statistics = kernels.layer_forward(
            view, y, gamma, beta, eps, about_zero=about_zero, num_threads=num_threads, residual=other,
            activation=coded, bits=bits)
    else:
        check_parameters(view.shape[1], gamma=gamma, beta=beta)
        statistics = (None if about_zero else np.zeros(view.shape[0]),) * 2 + (np.zeros(view.shape[0]),)
    return y.finish(), RowSaved(
        statistics, view.whole, lengths, activation=coded, residual=other is not None, beta=kept_beta, bits=bits)


def infer(
    view: views.View,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    lengths: tuple[int, ...],
    *,
    eps: float,
    about_zero: bool,
    residual: ArrayLike | None,
    activation: Activation,
    out: NDArray[Any] | None,
    num_threads: int | None,
) -> NDArray[Any]:
    """Return the y of `train`, of the same bits; after a residual with any activation."""
    coded = check_activation(activation)
    if num_threads is not None:
        check_threads(num_threads)
    other = None if residual is None else views.like(view, residual, "residual")
    gamma, beta = flat_parameter(gamma, lengths, "gamma"), flat_parameter(beta, lengths, "beta")
    y = views.output(view, out, other)
    if view.size:
        kernels.layer_inference(
            view, y, gamma, beta, eps, about_zero=about_zero, num_threads=num_threads, residual=other,
            activation=coded)
    else:
        check_parameters(view.shape[1], gamma=gamma, beta=beta)
    return y.finish()


def gradients(
    dy: ArrayLike,
    x: ArrayLike,
    saved: RowSaved,
    gamma: ArrayLike | None,
    *,
    about_zero: bool,
    out: NDArray[Any] | None,
    num_threads: int | None,
    parameters: bool = True,
) -> tuple[Any, ...]:
    """Return dx, dgamma, dbeta and, if the forward pass had a residual, dresidual.

    Without `parameters`, dgamma and dbeta are None unless there is a gamma.
    """
    if not isinstance(saved, RowSaved):
        raise not_saved(saved, RowSaved, "rms_norm_training" if about_zero else "layer_norm_training")
    if num_threads is not None:
        check_threads(num_threads)
    view = saved._view_of(x, about_zero)
    lengths = saved._lengths
    gradient = views.like(view, dy, "dy")
    gamma = flat_parameter(gamma, lengths, "gamma")
    dx = views.output(view, out, gradient)
    dresidual = views.output(view) if saved._residual else None
    if gamma is None and (parameters or saved._beta is not None):
        gamma = np.ones(view.shape[1])      # changes no bits
    dgamma: Any = None
    dbeta: Any = None
    if view.size:
        dgamma, dbeta = kernels.layer_backward(
            gradient, view, dx, saved._statistics, gamma, num_threads=num_threads, dresidual=dresidual,
            beta=saved._beta, activation=saved._activation, bits=saved._bits)
    elif gamma is not None:
        check_parameters(view.shape[1], gamma=gamma)
        dgamma, dbeta = np.zeros(view.shape[1]), np.zeros(view.shape[1])
    if dgamma is not None:
        dgamma, dbeta = dgamma.reshape(lengths), dbeta.reshape(lengths)
    return dx.finish(), dgamma, dbeta, *(() if dresidual is None else (dresidual.finish(),))
