"""Derivatives of forward passes along a direction: forward mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastbn._core import second_order
from fastbn.functional import members

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.saved import Saved


def batch_norm_jvp(
    x_tangent: ArrayLike | None,
    x: ArrayLike,
    saved: Saved,
    gamma: ArrayLike | None = None,
    gamma_tangent: ArrayLike | None = None,
    beta_tangent: ArrayLike | None = None,
    *,
    axis: int = 1,
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
    normalized_shape: int | Sequence[int],
    gamma: ArrayLike | None = None,
    gamma_tangent: ArrayLike | None = None,
    beta_tangent: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute the tangent of y of a layer norm.

    The formulas are those of `batch_norm_jvp`, with means over the last axes of x. Layer norm is by Ba, Kiros and
    Hinton (2016), "Layer Normalization", https://arxiv.org/abs/1607.06450. The statistics are computed again.

    Parameters
    ----------
    x_tangent : array_like, shape and dtype of x, or None
        None stands for zero, as in the other tangents.
    x : array_like
    normalized_shape : int or sequence of int
        The last axes of x, over which statistics run.
    gamma, gamma_tangent, beta_tangent : array_like of float32 or float64, shape normalized_shape, optional
    eps : float
        As in the forward pass.
    out : ndarray, shape and dtype of x, optional
        Buffer for the result.
    num_threads : int, optional
        For this call; see `fastbn.set_num_threads`.

    Returns
    -------
    y_tangent : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        For an unsupported dtype, or shapes that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import layer_norm_jvp
    >>> x = np.array([[1.0, 2.0, 3.0]])
    >>> np.round(layer_norm_jvp([[0.0, 0.0, 1.0]], x, 3, eps=1e-12), 4)
    array([[ 0.2041, -0.4082,  0.2041]])
    """
    member = members.layer_norm(x, normalized_shape, eps, about_zero=False, num_threads=num_threads)
    return _tangent(
        member, gamma, out, x_tangent=x_tangent, gamma_tangent=gamma_tangent, beta_tangent=beta_tangent)


def rms_norm_jvp(
    x_tangent: ArrayLike | None,
    x: ArrayLike,
    normalized_shape: int | Sequence[int],
    gamma: ArrayLike | None = None,
    gamma_tangent: ArrayLike | None = None,
    *,
    eps: float | None = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute the tangent of y of an RMS norm.

    The formulas are those of `batch_norm_jvp`, with means over the last axes of x, x_hat = x * rstd and
    rstd = 1 / sqrt(<x^2> + eps), and without <v> in P. RMS norm is by Zhang and Sennrich (2019), "Root Mean Square
    Layer Normalization", https://arxiv.org/abs/1910.07467. The statistics are computed again.

    Parameters
    ----------
    x_tangent, x, normalized_shape, gamma, gamma_tangent, out, num_threads
        As in `layer_norm_jvp`.
    eps : float, optional
        As in the forward pass. None is the epsilon of float64 for a float64 x, else that of float32, as in PyTorch.

    Returns
    -------
    y_tangent : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As in `layer_norm_jvp`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import rms_norm_jvp
    >>> np.round(rms_norm_jvp([[1.0, 0.0]], np.array([[3.0, 4.0]]), 2), 4)
    array([[ 0.181 , -0.1358]])
    """
    member = members.layer_norm(x, normalized_shape, eps, about_zero=True, num_threads=num_threads)
    return _tangent(member, gamma, out, x_tangent=x_tangent, gamma_tangent=gamma_tangent, beta_tangent=None)


def group_norm_jvp(
    x_tangent: ArrayLike | None,
    x: ArrayLike,
    num_groups: int,
    gamma: ArrayLike | None = None,
    gamma_tangent: ArrayLike | None = None,
    beta_tangent: ArrayLike | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute the tangent of y of a group norm.

    The formulas are those of `batch_norm_jvp`, with means over C / num_groups consecutive channels of a sample. Group
    norm is by Wu and He (2018), "Group Normalization", https://arxiv.org/abs/1803.08494. The statistics are computed
    again.

    Parameters
    ----------
    x_tangent, x, gamma, gamma_tangent, beta_tangent, out
        As in `batch_norm_jvp`. The first axis of x is that of the samples.
    num_groups : int
        A divisor of the number of channels.
    axis : int
        The channel axis. Arrays whose channels are not the second axis in memory are copied.
    eps : float
        As in the forward pass.
    num_threads : int, optional
        For this call; see `fastbn.set_num_threads`.

    Returns
    -------
    y_tangent : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        For an unsupported dtype, shapes that do not fit, or a number of groups that does not divide the channels.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import group_norm_jvp
    >>> x = np.arange(8.0).reshape(1, 4, 2)
    >>> bool(abs(group_norm_jvp(np.ones_like(x), x, 2)).max() < 1e-15)
    True
    """
    member = members.group_norm(x, num_groups, axis, eps, num_threads)
    return _tangent(
        member, gamma, out, x_tangent=x_tangent, gamma_tangent=gamma_tangent, beta_tangent=beta_tangent)


def instance_norm_jvp(
    x_tangent: ArrayLike | None,
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    gamma_tangent: ArrayLike | None = None,
    beta_tangent: ArrayLike | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Compute the tangent of y of an instance norm.

    It is a group norm with one channel in each group, by Ulyanov, Vedaldi and Lempitsky (2016), "Instance
    Normalization", https://arxiv.org/abs/1607.08022. With given statistics it is a batch norm: see `batch_norm_jvp`.

    Parameters
    ----------
    x_tangent, x, gamma, gamma_tangent, beta_tangent, axis, eps, out, num_threads
        As in `group_norm_jvp`.

    Returns
    -------
    y_tangent : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As in `group_norm_jvp`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import instance_norm_jvp
    >>> x = np.array([[[1.0, 3.0], [2.0, 6.0]]])
    >>> np.round(instance_norm_jvp(None, x, None, np.ones(2), np.ones(2), eps=1e-12), 4)        # x_hat + 1
    array([[[0., 2.],
            [0., 2.]]])
    """
    member = members.group_norm(x, None, axis, eps, num_threads)
    return _tangent(
        member, gamma, out, x_tangent=x_tangent, gamma_tangent=gamma_tangent, beta_tangent=beta_tangent)


def _tangent(
    member: members.Member, gamma: ArrayLike | None, out: NDArray[Any] | None, **tangents: ArrayLike | None
) -> NDArray[Any]:
    scale, given = member.parameter(gamma, "gamma"), member.directions(**tangents)
    target = None if out is None else member.target(out, x_tangent=tangents["x_tangent"])
    if not member.view.size:
        return member.empty(target)
    return member.finished(second_order.tangent(member.normalized(), given, scale), target)
