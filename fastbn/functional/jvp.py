"""Derivatives of forward passes along a direction: forward mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastbn._core import second_order
from fastbn.functional import members

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Axis
    from fastbn._core.saved import Saved
    from fastbn._core.saved_groups import GroupSaved
    from fastbn._core.saved_rows import RowSaved


def batch_norm_jvp(
    x_tangent: ArrayLike | None,
    x: ArrayLike,
    saved: Saved,
    gamma: ArrayLike | None = None,
    gamma_tangent: ArrayLike | None = None,
    beta_tangent: ArrayLike | None = None,
    *,
    axis: Axis = 1,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute the tangent of y of `batch_norm_training`, or with ``Saved.from_statistics`` of `batch_norm_inference`.

    It is the product of the Jacobian of the forward pass and the tangents of its arguments. With <.> the mean over the
    n values of a channel and x_hat = (x - mean) * rstd,

    | y_tangent = gamma P(x_tangent) + gamma_tangent x_hat + beta_tangent
    | P(v) = rstd * (v - <v> - x_hat * <v x_hat>)

    which follows from the forward pass of Ioffe and Szegedy (2015), "Batch Normalization",
    https://arxiv.org/abs/1502.03167. With given statistics, P(v) = rstd * v.

    Parameters
    ----------
    x_tangent : array_like, shape and dtype of x, or None
        None stands for zero, as in the other tangents.
    x : array_like
        As in the forward pass.
    saved : Saved
        Of a forward pass with neither a residual nor an activation, or from ``Saved.from_statistics``.
    gamma : array_like of float32 or float64, shape (C,), optional
        As in the forward pass.
    gamma_tangent, beta_tangent : array_like of float32 or float64, shape (C,), optional
    axis : int or tuple of int
        As in the forward pass.
    out : ndarray, shape and dtype of x, optional
        Buffer for the result.
    num_threads : int, optional
        As in the forward pass.

    Returns
    -------
    y_tangent : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As in `batch_norm_backward`; also for a forward pass with a residual or an activation.

    Examples
    --------
    Batch norm does not change if x is shifted, and hardly if it is scaled:

    >>> import numpy as np
    >>> from fastbn.functional import batch_norm_jvp, batch_norm_training
    >>> x = np.array([[1.0], [2.0], [4.0]])
    >>> y, saved = batch_norm_training(x)
    >>> bool(abs(batch_norm_jvp(np.ones((3, 1)), x, saved)).max() < 1e-15)
    True
    >>> bool(abs(batch_norm_jvp(x, x, saved)).max() < 1e-5)
    True

    Along gamma and beta:

    >>> bool(np.allclose(batch_norm_jvp(None, x, saved, None, [1.0], [2.0]), y + 2))
    True
    """
    member = members.batch_norm(x, saved, axis, num_threads)
    return _tangent(
        member, gamma, out, x_tangent=x_tangent, gamma_tangent=gamma_tangent, beta_tangent=beta_tangent)


def layer_norm_jvp(
    x_tangent: ArrayLike | None,
    x: ArrayLike,
    saved: RowSaved,
    gamma: ArrayLike | None = None,
    gamma_tangent: ArrayLike | None = None,
    beta_tangent: ArrayLike | None = None,
    *,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute the tangent of y of `layer_norm_training`.

    The formulas are those of `batch_norm_jvp`, with means over the last axes of x.

    Parameters
    ----------
    x_tangent : array_like, shape and dtype of x, or None
        None stands for zero, as in the other tangents.
    x : array_like
        As in the forward pass.
    saved : RowSaved
        Of a forward pass with neither a residual nor an activation.
    gamma : array_like of float32 or float64, shape normalized_shape, optional
        As in the forward pass.
    gamma_tangent, beta_tangent : array_like of float32 or float64, shape normalized_shape, optional
    out : ndarray, shape and dtype of x, optional
        Buffer for the result.
    num_threads : int, optional
        As in the forward pass.

    Returns
    -------
    y_tangent : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As in `layer_norm_backward`; also for a forward pass with a residual or an activation.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import layer_norm_jvp, layer_norm_training
    >>> x = np.array([[1.0, 2.0, 3.0]])
    >>> _, saved = layer_norm_training(x, 3, eps=1e-12)
    >>> np.round(layer_norm_jvp([[0.0, 0.0, 1.0]], x, saved), 4)
    array([[ 0.2041, -0.4082,  0.2041]])
    """
    member = members.layer_norm(x, saved, num_threads)
    return _tangent(
        member, gamma, out, x_tangent=x_tangent, gamma_tangent=gamma_tangent, beta_tangent=beta_tangent)


def rms_norm_jvp(
    x_tangent: ArrayLike | None,
    x: ArrayLike,
    saved: RowSaved,
    gamma: ArrayLike | None = None,
    gamma_tangent: ArrayLike | None = None,
    *,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute the tangent of y of `rms_norm_training`.

    The formulas are those of `batch_norm_jvp`, with means over the last axes of x, x_hat = x * rstd, and without <v> in
    P.

    Parameters
    ----------
    x_tangent, x, saved, gamma, gamma_tangent, out, num_threads
        As in `layer_norm_jvp`.

    Returns
    -------
    y_tangent : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As in `rms_norm_backward`; also for a forward pass with a residual or an activation.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import rms_norm_jvp, rms_norm_training
    >>> x = np.array([[1.0, 7.0]])
    >>> _, saved = rms_norm_training(x, 2)
    >>> np.round(rms_norm_jvp([[5.0, 0.0]], x, saved), 4)
    array([[ 0.98, -0.14]])
    """
    member = members.layer_norm(x, saved, num_threads, about_zero=True)
    return _tangent(member, gamma, out, x_tangent=x_tangent, gamma_tangent=gamma_tangent, beta_tangent=None)


def group_norm_jvp(
    x_tangent: ArrayLike | None,
    x: ArrayLike,
    saved: GroupSaved,
    gamma: ArrayLike | None = None,
    gamma_tangent: ArrayLike | None = None,
    beta_tangent: ArrayLike | None = None,
    *,
    axis: int = 1,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute the tangent of y of `group_norm_training`.

    The formulas are those of `batch_norm_jvp`, with means over C / num_groups consecutive channels of a sample. Arrays
    whose channels are not the second axis in memory are copied.

    Parameters
    ----------
    x_tangent : array_like, shape and dtype of x, or None
        None stands for zero, as in the other tangents.
    x : array_like
        As in the forward pass.
    saved : GroupSaved
        Of a forward pass with neither a residual nor an activation.
    gamma : array_like of float32 or float64, shape (C,) or (num_groups,), optional
        As in the forward pass.
    gamma_tangent, beta_tangent : array_like of float32 or float64, shape of gamma and of beta, optional
    axis : int
        As in the forward pass.
    out : ndarray, shape and dtype of x, optional
        Buffer for the result.
    num_threads : int, optional
        As in the forward pass.

    Returns
    -------
    y_tangent : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As in `group_norm_backward`; also for a forward pass with a residual or an activation.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import group_norm_jvp, group_norm_training
    >>> x = np.array([[1.0, 3.0, 10.0, 30.0]])
    >>> y, saved = group_norm_training(x, 2)
    >>> bool(abs(group_norm_jvp(np.ones((1, 4)), x, saved)).max() < 1e-12)
    True
    """
    member = members.group_norm(x, saved, axis, num_threads)
    return _tangent(
        member, gamma, out, x_tangent=x_tangent, gamma_tangent=gamma_tangent, beta_tangent=beta_tangent)


def instance_norm_jvp(
    x_tangent: ArrayLike | None,
    x: ArrayLike,
    saved: GroupSaved,
    gamma: ArrayLike | None = None,
    gamma_tangent: ArrayLike | None = None,
    beta_tangent: ArrayLike | None = None,
    *,
    axis: int = 1,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute the tangent of y of `instance_norm_training`.

    Instance norm is a group norm of C groups. By running averages it is a batch norm with given statistics: see
    `batch_norm_jvp`.

    Parameters
    ----------
    x_tangent, x, saved, gamma, gamma_tangent, beta_tangent, axis, out, num_threads
        As in `group_norm_jvp`.

    Returns
    -------
    y_tangent : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As in `instance_norm_backward`; also for a forward pass with a residual or an activation.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import instance_norm_jvp, instance_norm_training
    >>> x = np.array([[[1.0, 3.0], [10.0, 30.0]]])
    >>> y, saved = instance_norm_training(x)
    >>> bool(np.allclose(instance_norm_jvp(None, x, saved, None, [1.0, 1.0], [2.0, 2.0]), y + 2))
    True
    """
    member = members.group_norm(x, saved, axis, num_threads, instances=True)
    return _tangent(
        member, gamma, out, x_tangent=x_tangent, gamma_tangent=gamma_tangent, beta_tangent=beta_tangent)


def _tangent(
    member: members.Member, gamma: ArrayLike | None, out: NDArray[Any] | None, **tangents: ArrayLike | None
) -> NDArray[Any]:
    scale, given = member.gamma(gamma), member.directions(**tangents)
    target = None if out is None else member.target(out, x_tangent=tangents["x_tangent"])
    if not member.view.size:
        return (member.target() if target is None else target).finish()
    return member.finished(second_order.tangent(member.normalized(), given, scale), target)
