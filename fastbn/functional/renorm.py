"""Batch renormalization without state: forward with statistics of the batch that are corrected towards given ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.checks import channels, check_eps, check_integer, check_number, check_trainable
from fastbn._core.dispatch import kernels
from fastbn._core.saved import Saved, in_range, not_saved
from fastbn._core.tensors import as_constant
from fastbn._core.threads import check as check_threads
from fastbn.functional import batchnorm, parts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation

# The smallest value of each limit, with which batch renormalization is batch normalization.
LEAST = {"r_max": 1.0, "d_max": 0.0}


@dataclass(frozen=True, slots=True, eq=False)
class SavedRenorm:
    """What `batch_renorm_backward` needs from its forward pass.

    Attributes
    ----------
    batch : Saved
        Of the batch normalization, with its mean, var, rstd and count.
    r, d : ndarray of float64, shape (C,)
        The correction, as it was clipped.
    """

    batch: Saved
    r: NDArray[np.float64]
    d: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ramp:
    """A schedule of `r_max` or `d_max`: constant, then linear, then constant.

    Parameters
    ----------
    first, last : float
        The values before and after.
    begin, end : int
        The steps between which the value changes.

    Examples
    --------
    >>> import fastbn
    >>> r_max = fastbn.Ramp(1.0, 3.0, 5000, 40000)
    >>> r_max(0), r_max(22500), r_max(10**6)
    (1.0, 2.0, 3.0)
    """

    first: float
    last: float
    begin: int
    end: int

    def __post_init__(self) -> None:
        for name in ("first", "last"):
            object.__setattr__(self, name, check_number(getattr(self, name), name))
        begin = check_integer(self.begin, "begin", 0)
        object.__setattr__(self, "begin", begin)
        object.__setattr__(self, "end", check_integer(self.end, "end", begin))

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        if step >= self.end or step <= self.begin:      # exactly, and without the product of 0 and Inf
            return self.last if step >= self.end else self.first
        share = (step - self.begin) / (self.end - self.begin)
        return (1 - share) * self.first + share * self.last


def check_limit(value: object, name: str) -> float:
    """Return a number of at least that of batch normalization; Inf does not clip."""
    limit = check_number(value, name)
    if not limit >= LEAST[name]:
        raise ValueError(f"{name} must be at least {LEAST[name]:g}, got {value!r}")
    return limit


def batch_renorm_training(
    x: ArrayLike,
    running_mean: ArrayLike,
    running_std: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    r_max: float = 3.0,
    d_max: float = 5.0,
    axis: int = 1,
    eps: float = 1e-5,
    residual: ArrayLike | None = None,
    activation: Activation = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], SavedRenorm]:
    """Normalize each channel of `x` by its mean and deviation, corrected towards a running mean and deviation.

    With the mean and the deviation std = sqrt(var + eps) of the batch, ::

        r = clip(std / running_std, 1 / r_max, r_max)
        d = clip((mean - running_mean) / running_std, -d_max, d_max)
        y = ((x - mean) / std * r + d) * gamma + beta [+ residual] [then an activation]

    after Ioffe (2017), "Batch Renormalization", https://arxiv.org/abs/1702.03275. Where nothing is clipped, y is
    that of inference with the running mean and deviation; with ``r_max=1`` and ``d_max=0`` it is that of
    `batch_norm_training`. The running mean and deviation do not change.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
    running_mean, running_std : array_like of float32 or float64, shape (C,)
        running_std is the square root of a variance plus `eps`; its values must be positive.
    gamma, beta
        As in `batch_norm_training`.
    r_max, d_max : float
        At least 1 and 0; Inf does not clip.
    axis, eps, residual, activation, out, num_threads
        As in `batch_norm_training`.

    Returns
    -------
    y : ndarray
        `out` if it was given.
    saved : SavedRenorm
        For `batch_renorm_backward`.

    Raises
    ------
    TypeError, ValueError
        As in `batch_norm_training`; also if a running deviation is not positive, or a limit is too small.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import batch_renorm_training
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> y, saved = batch_renorm_training(x, [0.0, 0.0], [2.0, 1.0], eps=1e-12)
    >>> y       # (x - 0) / 2 in channel 0; in channel 1 r and d are clipped to 3 and 5
    array([[0.5, 2. ],
           [1.5, 8. ]])
    >>> saved.r, saved.d
    (array([0.5, 3. ]), array([1., 5.]))
    """
    view = views.view(x, axis)
    n, c, s = view.shape
    eps, coded = check_eps(eps), check_trainable(activation, residual is not None)
    limits = check_limit(r_max, "r_max"), check_limit(d_max, "d_max")
    if num_threads is not None:
        check_threads(num_threads)
    if running_mean is None or running_std is None:
        raise TypeError("running_mean and running_std must be arrays, got None")
    batchnorm.check_vectors(c, running_mean=running_mean, running_std=running_std, gamma=gamma, beta=beta)
    mean, std = (np.array(as_constant(vector, name), np.float64)
                 for vector, name in ((running_mean, "running_mean"), (running_std, "running_std")))
    wrong = np.flatnonzero(std <= 0).tolist()
    if wrong:
        raise ValueError(f"running_std must be positive, got {std[wrong[0]]:g} in {channels(wrong)}")
    if n * s < 2 or not view.size:      # an empty batch, or an error
        y, batch = batchnorm.train(
            view, gamma, beta, eps=eps, residual=residual, activation=activation, out=out, num_threads=num_threads)
        return y, SavedRenorm(batch, np.ones(c), np.zeros(c))
    batch_mean, low, m2 = kernels.reduce(view, whole=False, num_threads=num_threads)
    var = in_range(m2 / (n * s))
    r, d = correction((batch_mean, low), var, eps, (mean, std), limits)
    y, saved = parts.normalize(
        x, batch_mean, var, *corrected(gamma, beta, r, d), axis=axis, eps=eps, activation=coded, residual=residual,
        num_threads=num_threads, mean_low=low, count=n * s, out=out)
    assert saved is not None        # the activation is trainable
    return y, SavedRenorm(saved, r, d)


def correction(
    mean: tuple[NDArray[np.float64], NDArray[np.float64] | None],
    var: NDArray[np.float64],
    eps: float,
    running: tuple[NDArray[np.float64], NDArray[np.float64]],
    limits: tuple[float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return r and d.

    Parameters
    ----------
    mean : tuple of ndarray
        Of the batch, in two words.
    var : ndarray
        Of the batch.
    eps : float
    running : tuple of ndarray
        The running mean and deviation.
    limits : tuple of float
        r_max and d_max.
    """
    r_max, d_max = limits
    with np.errstate(all="ignore"):     # NaN and Inf stay in their channel, without a warning
        r = np.clip(np.sqrt(var + eps) / running[1], 1 / r_max, r_max)
        distance = mean[0] - running[0] if mean[1] is None else mean[0] - running[0] + mean[1]
        d = np.clip(distance / running[1], -d_max, d_max)
    return r, d


def corrected(
    gamma: ArrayLike | None, beta: ArrayLike | None, r: NDArray[np.float64], d: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return gamma * r and beta + gamma * d: batch normalization with these is batch renormalization."""
    with np.errstate(all="ignore"):
        scale, shift = r, d
        if gamma is not None:
            values = np.asarray(as_constant(gamma, "gamma"), np.float64)
            scale, shift = values * r, values * d
        return scale, shift if beta is None else shift + np.asarray(as_constant(beta, "beta"), np.float64)


def batch_renorm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    saved: SavedRenorm,
    gamma: ArrayLike | None = None,
    *,
    axis: int = 1,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], ...]:
    """Compute the gradients of `batch_renorm_training`, in which r and d are constants.

    With n values per channel and z = (x - mean) / std, dbeta = sum dy, dgamma = sum dy (z r + d) and
    dx = gamma r / std (dy - sum dy / n - z sum (dy z) / n), after Ioffe (2017), https://arxiv.org/abs/1702.03275.

    Parameters
    ----------
    dy : array_like, shape and dtype of x
    x : array_like
        As in the forward pass.
    saved : SavedRenorm
    gamma, axis, out, num_threads
        As in `batch_norm_backward`.

    Returns
    -------
    dx : ndarray
    dgamma, dbeta : ndarray of float64, shape (C,)
    dresidual : ndarray
        Only if the forward pass had a residual.

    Raises
    ------
    TypeError, ValueError
        As in `batch_norm_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import batch_renorm_backward, batch_renorm_training
    >>> x = np.array([[1.0], [3.0]])
    >>> y, saved = batch_renorm_training(x, [0.0], [2.0])
    >>> dx, dgamma, dbeta = batch_renorm_backward(np.array([[1.0], [1.0]]), x, saved)
    >>> bool(abs(dgamma - y.sum()) < 1e-12), dbeta
    (True, array([2.]))
    """
    if not isinstance(saved, SavedRenorm):
        raise not_saved(saved, SavedRenorm, "batch_renorm_training")
    batchnorm.check_vectors(len(saved.r), gamma=gamma)
    dx, dgamma, dbeta, *dresidual = batchnorm.gradients(
        dy, x, saved.batch, corrected(gamma, None, saved.r, saved.d)[0], axis=axis, out=out, num_threads=num_threads)
    return dx, gradient_of_gamma(dgamma, dbeta, saved.r, saved.d), dbeta, *dresidual


def gradient_of_gamma(
    dgamma: NDArray[np.float64], dbeta: NDArray[np.float64], r: NDArray[np.float64], d: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return dgamma of batch renormalization, given the sums of batch normalization."""
    with np.errstate(all="ignore"):
        total: NDArray[np.float64] = r * dgamma + d * dbeta
    return total
