"""Group normalization without state: every sample is normalized by the statistics of groups of its channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbn._core import memory, views
from fastbn._core.checks import NO_ACTIVATION, check_activation, check_eps, check_integer, check_trainable
from fastbn._core.dispatch import kernels
from fastbn._core.kept import Kept
from fastbn._core.saved import not_saved
from fastbn._core.saved_groups import GroupSaved, sample_view, samples_of
from fastbn._core.tensors import as_constant
from fastbn._core.threads import check as check_threads
from fastbn.functional.batchnorm import check_vectors, forward_coefficients

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation


def group_norm_training(
    x: ArrayLike,
    num_groups: int,
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
    """Normalize each group of channels of each sample by its mean and biased variance.

    y = (x - mean) / sqrt(var + eps) * gamma + beta [+ residual] [then an activation], after Wu and He (2018),
    "Group Normalization", https://arxiv.org/abs/1803.08494. A group consists of C / num_groups consecutive channels.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
        The first axis is that of the samples. May be read-only, strided, misaligned or byte-swapped.
    num_groups : int
        Number of groups, a divisor of C.
    gamma, beta : array_like of float32 or float64, shape (C,) or (num_groups,), optional
        Scale and shift of each channel (PyTorch, and ONNX from opset 21 on) or of each group (ONNX before); 1 and 0 by
        default.
    axis : int
        The channel axis, not the first axis; statistics run over all axes after the first.
    eps : float
        Added to the variance. With 0, y is NaN in a group of zero variance.
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
    saved : GroupSaved
        For `group_norm_backward`.

    Raises
    ------
    TypeError
        For an unsupported dtype or an argument of the wrong type.
    ValueError
        For shapes that do not fit, an `out` that overlaps an input but is another array, or a single sample with one
        value per group, as in PyTorch. In a larger batch, y is beta in groups of one value.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import group_norm_training
    >>> x = np.array([[1.0, 3.0, 10.0, 30.0]])
    >>> y, saved = group_norm_training(x, 2, eps=1e-12)
    >>> y
    array([[-1.,  1., -1.,  1.]])
    >>> saved.mean, saved.var
    (array([[ 2., 20.]]), array([[  1., 100.]]))
    """
    view = group_view(x, num_groups, axis)
    return train(
        view, int(num_groups), gamma, beta, eps=check_eps(eps), residual=residual, activation=activation, out=out,
        num_threads=num_threads)


def group_norm_inference(
    x: ArrayLike,
    num_groups: int,
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
    """Compute y of `group_norm_training`, with the same bits, and keep nothing for a backward pass.

    Parameters
    ----------
    x, num_groups, gamma, beta, axis, eps, residual, out, num_threads
        As in `group_norm_training`.
    activation : str, tuple or None
        As in `fastbn.ChannelAffine`.

    Returns
    -------
    y : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As in `group_norm_training`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import group_norm_inference
    >>> x = np.array([[1.0, 3.0, 10.0, 30.0]])
    >>> group_norm_inference(x, 2, [1.0, 2.0], eps=1e-12, activation="relu")
    array([[0., 1., 0., 2.]])
    """
    view = group_view(x, num_groups, axis)
    return infer(
        view, int(num_groups), gamma, beta, eps=check_eps(eps), residual=residual, activation=activation, out=out,
        num_threads=num_threads)


def group_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    saved: GroupSaved,
    gamma: ArrayLike | None = None,
    *,
    axis: int = 1,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], ...]:
    """Compute the gradients of `group_norm_training`.

    With n values per group, x_hat = (x - mean) * rstd and means over the n values, dbeta = sum dy, dgamma =
    sum dy x_hat and dx = rstd (gamma dy - mean(gamma dy) - x_hat mean(gamma dy x_hat)). With a fused ReLU, dy counts as
    zero at outputs that the ReLU set to zero; with another activation, it is multiplied by the derivative.

    Parameters
    ----------
    dy : array_like, shape and dtype of x
    x : array_like
        As in the forward pass.
    saved : GroupSaved
    gamma : array_like of float32 or float64, shape (C,) or (num_groups,), optional
        As in the forward pass.
    axis : int
        As in the forward pass.
    out : ndarray, shape and dtype of x, optional
        Buffer for dx; `dy` or `x` itself to work in place.
    num_threads : int, optional
        As in the forward pass.

    Returns
    -------
    dx : ndarray
    dgamma, dbeta : ndarray of float64, shape (C,) or (num_groups,)
        In the shapes of gamma and beta of the forward pass; (C,) without them.
    dresidual : ndarray
        Only if the forward pass had a residual.

    Raises
    ------
    TypeError, ValueError
        As in `group_norm_training`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import group_norm_backward, group_norm_training
    >>> x = np.array([[1.0, 3.0, 10.0, 30.0]])
    >>> y, saved = group_norm_training(x, 2)
    >>> dx, dgamma, dbeta = group_norm_backward(np.ones((1, 4)), x, saved)
    >>> bool(abs(dx).max() < 1e-12), dbeta
    (True, array([1., 1., 1., 1.]))
    """
    return gradients(dy, x, saved, gamma, axis=axis, out=out, num_threads=num_threads)


class Operands(NamedTuple):
    """The arguments of a forward pass, checked; gamma and beta have one value per channel."""

    view: views.View
    groups: int
    gamma: ArrayLike | None
    beta: ArrayLike | None
    residual: views.View | None
    y: views.View


def group_view(x: ArrayLike, num_groups: int, axis: int, channels: int | None = None) -> views.View:
    """Return a view of x as `sample_view` does, after a check of the groups."""
    view = sample_view(x, axis, channels)
    groups = check_integer(num_groups, "num_groups", 1)
    if view.shape[1] % groups:
        raise ValueError(f"num_groups must divide the {view.shape[1]} channels of x, got {groups}")
    if view.size == groups:
        raise ValueError(
            f"x has shape {view.array.shape}, one sample with one value in each of {groups} groups, so there is no "
            "variance; use fewer groups")
    return view


def train(
    view: views.View,
    groups: int,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    *,
    eps: float,
    residual: ArrayLike | None,
    activation: Activation,
    out: NDArray[Any] | None,
    num_threads: int | None,
) -> tuple[NDArray[Any], GroupSaved]:
    """Do what `group_norm_training` does, given a view of x and arguments that are checked."""
    coded = NO_ACTIVATION if activation is None else check_trainable(activation, residual is not None)
    if num_threads is not None:
        check_threads(num_threads)
    call = operands(view, groups, gamma, beta, residual, out)
    per_group = (call.gamma is not gamma, call.beta is not beta)        # as per_channel() does
    if not view.size:
        check_vectors(view.shape[1], gamma=call.gamma, beta=call.beta)
        zeros = np.zeros(view.array.shape[0] * groups)
        kept, var = Kept(zeros, None, zeros, None, None, None, False, NO_ACTIVATION), zeros
    else:
        bits = None
        if coded[0] and call.residual is not None:
            bits = memory.empty((kernels.bits_words(view, samples_of(view)),), np.dtype(np.uint16))
        mean, low, var, rstd = run(call, eps, coded, bits, num_threads)
        scale = shift = None
        if coded[0] and bits is None:
            scale, shift = coefficients(call, rstd)
        kept = Kept(mean, low, rstd, scale, shift, bits, False, coded)
    saved = GroupSaved(kept, var, groups, view=view, residual=residual is not None, per_group=per_group)
    return call.y.finish(), saved


def infer(
    view: views.View,
    groups: int,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    *,
    eps: float,
    residual: ArrayLike | None,
    activation: Activation,
    out: NDArray[Any] | None,
    num_threads: int | None,
) -> NDArray[Any]:
    """Do what `group_norm_inference` does, given a view of x and arguments that are checked."""
    coded = check_activation(activation)
    if num_threads is not None:
        check_threads(num_threads)
    call = operands(view, groups, gamma, beta, residual, out)
    if view.size:
        run(call, eps, coded, None, num_threads)
    else:
        check_vectors(view.shape[1], gamma=call.gamma, beta=call.beta)
    return call.y.finish()


def operands(
    view: views.View, groups: int, gamma: ArrayLike | None, beta: ArrayLike | None, residual: ArrayLike | None,
    out: NDArray[Any] | None,
) -> Operands:
    """Check the arrays of a forward pass."""
    channels = view.shape[1]
    gamma, beta = per_channel(gamma, channels, groups, "gamma"), per_channel(beta, channels, groups, "beta")
    like = None if residual is None else views.like(view, residual, "residual")
    return Operands(view, groups, gamma, beta, like, views.output(view, out, like))


def per_channel(values: ArrayLike | None, channels: int, groups: int, name: str) -> ArrayLike | None:
    """Return gamma or beta with one value per channel: as it is, or a new array if it has one value per group."""
    if values is None or channels == groups or getattr(values, "shape", None) == (channels,):
        return values       # the kernels check it
    shape = views.as_plain(as_constant(values, name), name).shape
    if shape == (groups,):
        views.check_vector(values, groups, name)
        each: NDArray[np.float64] = np.repeat(np.asarray(as_constant(values, name), np.float64), channels // groups)
        return each
    if shape != (channels,):
        raise ValueError(f"{name} has shape {shape}; expected ({channels},), or ({groups},) for one value per group")
    return values


def run(
    call: Operands, eps: float, activation: tuple[int, float], bits: NDArray[np.uint16] | None, num_threads: int | None
) -> tuple[NDArray[np.float64], ...]:
    """Normalize; returns mean in two words, variance and rstd, (N * groups,)."""
    view = call.view
    return kernels.forward(
        view, call.y, call.residual, call.gamma, call.beta, eps, activation=activation, bits=bits, fill=False,
        num_threads=num_threads, samples=samples_of(view), channels=view.shape[1] // call.groups)


def coefficients(call: Operands, rstd: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return gamma * rstd of the channels of each sample, (N * C,), and beta, (C,), as the forward pass uses them."""
    channels = call.view.shape[1]
    each = rstd.repeat(channels // call.groups).reshape(-1, channels)
    scale, shift = forward_coefficients(each, call.gamma, np.zeros(channels) if call.beta is None else call.beta)
    return scale.reshape(-1), shift


def gradients(
    dy: ArrayLike,
    x: ArrayLike,
    saved: GroupSaved,
    gamma: ArrayLike | None,
    *,
    axis: int,
    out: NDArray[Any] | None,
    num_threads: int | None,
    instances: bool = False,
) -> tuple[NDArray[Any], ...]:
    """Do what `group_norm_backward` does or, for `instances`, `instance_norm_backward`."""
    if not isinstance(saved, GroupSaved):
        raise not_saved(saved, GroupSaved, "instance_norm_training" if instances else "group_norm_training")
    if num_threads is not None:
        check_threads(num_threads)
    view = saved._view_of(x, axis, instances)
    channels, groups = view.shape[1], saved._groups
    gradient = views.like(view, dy, "dy")
    gamma = per_channel(gamma, channels, groups, "gamma")
    dx = views.output(view, out, gradient)
    dresidual = views.output(view) if saved._residual else None
    if view.size:
        sums = kernels.backward(
            gradient, view, dx, dresidual, saved._kept, gamma, fill=False, num_threads=num_threads,
            samples=samples_of(view), channels=channels // groups)
    else:
        check_vectors(channels, gamma=gamma)
        sums = np.zeros(channels), np.zeros(channels)
    dgamma, dbeta = (
        each.reshape(groups, -1).sum(axis=1) if per_group else each
        for each, per_group in zip(sums, saved._per_group, strict=True))
    return dx.finish(), dgamma, dbeta, *(() if dresidual is None else (dresidual.finish(),))
