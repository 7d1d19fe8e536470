"""The gradients of backward passes, for losses that contain gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import second_order
from fastbn.functional import members

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Axis
    from fastbn._core.saved import Saved
    from fastbn._core.saved_groups import GroupSaved
    from fastbn._core.saved_rows import RowSaved


def batch_norm_backward_backward(
    ddx: ArrayLike | None,
    ddgamma: ArrayLike | None,
    ddbeta: ArrayLike | None,
    dy: ArrayLike,
    x: ArrayLike,
    saved: Saved,
    *,
    gamma: ArrayLike | None = None,
    axis: Axis = 1,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Compute the gradients of `batch_norm_backward` with respect to dy, x and gamma.

    A loss that contains gradients, such as a gradient penalty, has a gradient with respect to dx, dgamma and dbeta:
    ddx, ddgamma and ddbeta. With <.> the mean over the n values of a channel, x_hat = (x - mean) * rstd, and
    P(v) = rstd * (v - <v> - x_hat * <v x_hat>), the backward pass is dx = P(gamma dy), and its gradients are

    | grad_dy = gamma P(ddx) + ddgamma x_hat + ddbeta
    | grad_x = P(ddgamma dy) - rstd * (<gamma dy x_hat> P(ddx) + <ddx x_hat> dx + <ddx dx> x_hat)
    | grad_gamma = sum dy P(ddx)

    They follow from the backward pass of Ioffe and Szegedy (2015), "Batch Normalization",
    https://arxiv.org/abs/1502.03167, because P is linear, symmetric, and the derivative of x_hat with respect to x.
    With given statistics P(v) = rstd * v is constant, so that grad_x = rstd * ddgamma * dy.

    Parameters
    ----------
    ddx : array_like, shape and dtype of x, or None
        None stands for zero, here and in the next two.
    ddgamma, ddbeta : array_like of float32 or float64, shape (C,), or None
    dy, x : array_like
        As in the backward pass.
    saved : Saved
        Of a forward pass with neither a residual nor an activation, or from ``Saved.from_statistics``.
    gamma : array_like of float32 or float64, shape (C,), optional
        As in the backward pass.
    axis : int or tuple of int
        As in the backward pass.
    num_threads : int, optional
        As in the backward pass.

    Returns
    -------
    grad_dy, grad_x : ndarray, shape and dtype of x
    grad_gamma : ndarray of float64, shape (C,)

    Raises
    ------
    TypeError, ValueError
        As in `batch_norm_backward`; also for a forward pass with a residual or an activation.

    Notes
    -----
    The call needs up to three temporary arrays of the size of x. float16 and bfloat16 are computed in float32, from
    copies, and rounded once.

    Examples
    --------
    The gradient of the penalty sum dx**2 with respect to dy:

    >>> import numpy as np
    >>> from fastbn.functional import batch_norm_backward, batch_norm_backward_backward, batch_norm_training
    >>> x = np.array([[1.0], [2.0], [4.0]])
    >>> dy = np.array([[1.0], [0.0], [0.0]])
    >>> _, saved = batch_norm_training(x)
    >>> dx, _, _ = batch_norm_backward(dy, x, saved)
    >>> grad_dy, grad_x, grad_gamma = batch_norm_backward_backward(2 * dx, None, None, dy, x, saved)
    >>> np.round(grad_dy.ravel(), 4)
    array([ 0.3673, -0.551 ,  0.1837])

    The penalty is quadratic in dy and in gamma, and of degree -2 in x:

    >>> penalty = (dx**2).sum()
    >>> bool(np.isclose((grad_dy * dy).sum(), 2 * penalty)), bool(np.isclose(grad_gamma[0], 2 * penalty))
    (True, True)
    >>> bool(np.isclose((grad_x * x).sum(), -2 * penalty, rtol=1e-4))
    True
    """
    member = members.batch_norm(x, saved, axis, num_threads)
    return _gradients(member, dy, gamma, ddx=ddx, ddgamma=ddgamma, ddbeta=ddbeta)


def layer_norm_backward_backward(
    ddx: ArrayLike | None,
    ddgamma: ArrayLike | None,
    ddbeta: ArrayLike | None,
    dy: ArrayLike,
    x: ArrayLike,
    saved: RowSaved,
    *,
    gamma: ArrayLike | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Compute the gradients of `layer_norm_backward` with respect to dy, x and gamma.

    The formulas are those of `batch_norm_backward_backward`, with means over the last axes of x.

    Parameters
    ----------
    ddx : array_like, shape and dtype of x, or None
        None stands for zero, here and in the next two.
    ddgamma, ddbeta : array_like of float32 or float64, shape normalized_shape, or None
    dy, x : array_like
        As in the backward pass.
    saved : RowSaved
        Of a forward pass with neither a residual nor an activation.
    gamma : array_like of float32 or float64, shape normalized_shape, optional
        As in the backward pass.
    num_threads : int, optional
        As in the backward pass.

    Returns
    -------
    grad_dy, grad_x : ndarray, shape and dtype of x
    grad_gamma : ndarray of float64, shape normalized_shape

    Raises
    ------
    TypeError, ValueError
        As in `layer_norm_backward`; also for a forward pass with a residual or an activation.

    Examples
    --------
    Layer norm does not change if x is shifted, and hardly if it is scaled, so that P(x) is nearly zero:

    >>> import numpy as np
    >>> from fastbn.functional import layer_norm_backward_backward, layer_norm_training
    >>> x = dy = np.array([[0.0, 1.0, 5.0], [2.0, 3.0, 2.0]])
    >>> _, saved = layer_norm_training(x, 3)
    >>> grad_dy, grad_x, grad_gamma = layer_norm_backward_backward(x, None, None, dy, x, saved)
    >>> bool(abs(grad_dy).max() < 1e-4), grad_gamma.shape
    (True, (3,))
    """
    member = members.layer_norm(x, saved, num_threads)
    return _gradients(member, dy, gamma, ddx=ddx, ddgamma=ddgamma, ddbeta=ddbeta)


def rms_norm_backward_backward(
    ddx: ArrayLike | None,
    ddgamma: ArrayLike | None,
    dy: ArrayLike,
    x: ArrayLike,
    saved: RowSaved,
    *,
    gamma: ArrayLike | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Compute the gradients of `rms_norm_backward` with respect to dy, x and gamma.

    The formulas are those of `batch_norm_backward_backward`, with means over the last axes of x, x_hat = x * rstd, and
    without <v> in P.

    Parameters
    ----------
    ddx, ddgamma, dy, x, saved, gamma, num_threads
        As in `layer_norm_backward_backward`.

    Returns
    -------
    grad_dy, grad_x : ndarray, shape and dtype of x
    grad_gamma : ndarray of float64, shape normalized_shape

    Raises
    ------
    TypeError, ValueError
        As in `rms_norm_backward`; also for a forward pass with a residual or an activation.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import rms_norm_backward_backward, rms_norm_training
    >>> x = dy = np.array([[1.0, 7.0]])
    >>> _, saved = rms_norm_training(x, 2)
    >>> grad_dy, grad_x, grad_gamma = rms_norm_backward_backward(None, [5.0, 0.0], dy, x, saved)
    >>> np.round(grad_dy, 6)        # ddgamma * x / 5
    array([[1., 0.]])
    """
    member = members.layer_norm(x, saved, num_threads, about_zero=True)
    return _gradients(member, dy, gamma, ddx=ddx, ddgamma=ddgamma, ddbeta=None)


def group_norm_backward_backward(
    ddx: ArrayLike | None,
    ddgamma: ArrayLike | None,
    ddbeta: ArrayLike | None,
    dy: ArrayLike,
    x: ArrayLike,
    saved: GroupSaved,
    *,
    gamma: ArrayLike | None = None,
    axis: int = 1,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Compute the gradients of `group_norm_backward` with respect to dy, x and gamma.

    The formulas are those of `batch_norm_backward_backward`, with means over C / num_groups consecutive channels of a
    sample. Arrays whose channels are not the second axis in memory are copied.

    Parameters
    ----------
    ddx : array_like, shape and dtype of x, or None
        None stands for zero, here and in the next two.
    ddgamma, ddbeta : array_like of float32 or float64, shape of gamma and of beta in the forward pass, or None
    dy, x : array_like
        As in the backward pass.
    saved : GroupSaved
        Of a forward pass with neither a residual nor an activation.
    gamma : array_like of float32 or float64, shape (C,) or (num_groups,), optional
        As in the forward pass.
    axis : int
        As in the backward pass.
    num_threads : int, optional
        As in the backward pass.

    Returns
    -------
    grad_dy, grad_x : ndarray, shape and dtype of x
    grad_gamma : ndarray of float64, shape of gamma

    Raises
    ------
    TypeError, ValueError
        As in `group_norm_backward`; also for a forward pass with a residual or an activation.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import group_norm_backward_backward, group_norm_training
    >>> x = dy = np.array([[1.0, 3.0, 10.0, 30.0]])
    >>> _, saved = group_norm_training(x, 2, eps=1e-12)
    >>> grad_dy, grad_x, grad_gamma = group_norm_backward_backward(None, np.ones(4), None, dy, x, saved)
    >>> np.round(grad_dy, 6)        # x_hat
    array([[-1.,  1., -1.,  1.]])
    """
    member = members.group_norm(x, saved, axis, num_threads)
    return _gradients(member, dy, gamma, ddx=ddx, ddgamma=ddgamma, ddbeta=ddbeta)


def instance_norm_backward_backward(
    ddx: ArrayLike | None,
    ddgamma: ArrayLike | None,
    ddbeta: ArrayLike | None,
    dy: ArrayLike,
    x: ArrayLike,
    saved: GroupSaved,
    *,
    gamma: ArrayLike | None = None,
    axis: int = 1,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Compute the gradients of `instance_norm_backward` with respect to dy, x and gamma.

    Instance norm is a group norm of C groups. By running averages it is a batch norm with given statistics: see
    `batch_norm_backward_backward`.

    Parameters
    ----------
    ddx, ddgamma, ddbeta, dy, x, saved, gamma, axis, num_threads
        As in `group_norm_backward_backward`.

    Returns
    -------
    grad_dy, grad_x : ndarray, shape and dtype of x
    grad_gamma : ndarray of float64, shape (C,)

    Raises
    ------
    TypeError, ValueError
        As in `instance_norm_backward`; also for a forward pass with a residual or an activation.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import instance_norm_backward_backward, instance_norm_training
    >>> x = dy = np.array([[[1.0, 3.0], [10.0, 30.0]]])
    >>> _, saved = instance_norm_training(x, eps=1e-12)
    >>> grad_dy, grad_x, grad_gamma = instance_norm_backward_backward(None, np.ones(2), None, dy, x, saved)
    >>> np.round(grad_dy, 6)        # x_hat
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """
    member = members.group_norm(x, saved, axis, num_threads, instances=True)
    return _gradients(member, dy, gamma, ddx=ddx, ddgamma=ddgamma, ddbeta=ddbeta)


def _gradients(
    member: members.Member, dy: ArrayLike, gamma: ArrayLike | None, **upstream: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    operands = member.directions(**upstream), member.array(dy, "dy"), member.gamma(gamma)
    if not member.view.size:
        return member.target().finish(), member.target().finish(), np.zeros(member.gamma_shape)
    grads = second_order.backward_backward(member.normalized(), *operands)
    return member.finished(grads.dy), member.finished(grads.x), member.summed(grads.gamma)
