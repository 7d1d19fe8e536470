"""Conditional batch normalization without state: a scale and a shift for each sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbn._core import views
from fastbn._core.checks import NO_ACTIVATION, check_activation, check_eps
from fastbn._core.dispatch import kernels
from fastbn._core.kept import Kept
from fastbn._core.saved import Saved, check_variance, in_range, normalizing
from fastbn._core.threads import check as check_threads
from fastbn.functional import batchnorm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation, Axis


# Elements of a sample below which a call for each sample takes longer than to copy all of them into planes.
FEW = 4096


class Statistics(NamedTuple):
    """What x is normalized by, each of shape (C,); `low` is the second word of the mean, if it has one."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64] | None
    var: NDArray[np.float64]
    rstd: NDArray[np.float64]


class Modulation(NamedTuple):
    """The scale and the shift of every sample, (N, C) of float64."""

    gamma: NDArray[np.float64]
    beta: NDArray[np.float64]


def conditional_batch_norm_training(
    x: ArrayLike,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    *,
    axis: Axis = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], Saved]:
    """Normalize each channel of `x` by its mean and biased variance, then scale and shift every sample by its own.

    y[n] = (x[n] - mean) / sqrt(var + eps) * gamma[n] + beta[n] [then an activation], with the statistics of
    `batch_norm_training`. After Dumoulin, Shlens and Kudlur (2017), https://arxiv.org/abs/1610.07629, where gamma and
    beta depend on the style of an image, and de Vries et al. (2017), https://arxiv.org/abs/1707.00683, where they
    depend on a question.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
        The samples lie along the first axis other than the channel axis.
    gamma, beta : array_like of float32 or float64, shape (N, C), or None
        Scale and shift of each sample and channel; None for 1 and 0.
    axis, eps, out, num_threads
        As in `batch_norm_training`.
    activation : str, tuple or None
        Applied last. As in `fastbn.ChannelAffine`.

    Returns
    -------
    y : ndarray
        `out` if it was given.
    saved : Saved
        For `conditional_batch_norm_backward`.

    Raises
    ------
    TypeError, ValueError
        As in `batch_norm_training`; also if gamma or beta has another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import conditional_batch_norm_training
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> gamma, beta = [[1.0, 1.0], [2.0, 3.0]], [[0.0, 0.0], [5.0, 5.0]]
    >>> y, saved = conditional_batch_norm_training(x, gamma, beta, eps=1e-12)
    >>> y
    array([[-1., -1.],
           [ 7.,  8.]])
    """
    view = views.view(x, axis)
    eps, coded = check_eps(eps), check_activation(activation)
    if num_threads is not None:
        check_threads(num_threads)
    modulation = check_modulation(view, gamma, beta)
    target = views.output(view, out)
    statistics = read(view, eps, num_threads)
    return apply(view, target, statistics, modulation, activation=coded, num_threads=num_threads)


def conditional_batch_norm_inference(
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    *,
    axis: Axis = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Normalize each channel of `x` by a given mean and variance, then scale and shift every sample by its own.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
    mean, var : array_like of float32 or float64, shape (C,)
    gamma, beta, axis, eps, activation, out, num_threads
        As in `conditional_batch_norm_training`.

    Returns
    -------
    y : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As in `conditional_batch_norm_training`, except that a single value per channel is valid. A variance must not be
        negative, nor 0 with an eps of 0.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import conditional_batch_norm_inference
    >>> x = np.array([[5.0, -1.0], [5.0, -1.0]])
    >>> conditional_batch_norm_inference(x, [1.0, 0.0], [3.0, 3.0], [[1.0, 1.0], [2.0, 4.0]], None, eps=1.0)
    array([[ 2. , -0.5],
           [ 4. , -2. ]])
    """
    view = views.view(x, axis)
    eps, coded = check_eps(eps), check_activation(activation)
    if num_threads is not None:
        check_threads(num_threads)
    if mean is None or var is None:
        raise TypeError("mean and var must be arrays, got None")
    modulation = check_modulation(view, gamma, beta)
    statistics = given(view, mean, var, eps)
    target = views.output(view, out)
    y, _ = apply(
        view, target, statistics, modulation, activation=coded, num_threads=num_threads, frozen=True)
    return y


def given(view: views.View, mean: ArrayLike, var: ArrayLike, eps: float) -> Statistics:
    """Return given statistics, checked."""
    check_variance(var, eps)
    mean64, var64, rstd = normalizing(mean, var, eps)
    batchnorm.check_vectors(view.shape[1], mean=mean64)
    return Statistics(mean64, None, var64, rstd)


def check_modulation(view: views.View, gamma: ArrayLike | None, beta: ArrayLike | None) -> Modulation:
    """Return gamma and beta as new arrays, or raise an error unless they fit x."""
    shape = view.array.shape[sample_axis(view)], view.shape[1]
    arrays = []
    for name, values, default in (("gamma", gamma, 1.0), ("beta", beta, 0.0)):
        if values is None:
            arrays.append(np.full(shape, default))
            continue
        array = views.as_plain(values, name)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; expected (N, C), a value for each sample and channel of "
                             f"x, {shape}")
        views.check_vector(array.reshape(-1), array.size, name)     # the dtype
        arrays.append(array.astype(np.float64))
    return Modulation(*arrays)


def sample_axis(view: views.View) -> int:
    """Return the first axis that is not the channel axis."""
    return 1 if view.axis == 0 else 0


def read(view: views.View, eps: float, num_threads: int | None) -> Statistics:
    """Return the statistics of a batch."""
    n, c, s = view.shape
    batchnorm.refuse_single(view, "variance", "conditional_batch_norm_inference")
    if not view.size:
        return Statistics(np.zeros(c), None, np.zeros(c), np.zeros(c))
    mean, low, m2 = kernels.reduce(view, whole=False, num_threads=num_threads)
    with np.errstate(divide="ignore", over="ignore"):
        var = m2 / (n * s)
        return Statistics(mean, low, var, 1 / np.sqrt(in_range(var) + eps))


class Part(NamedTuple):
    """Some samples as the kernels get them: their channels are those of x, or pairs of a sample and a channel.

    Attributes
    ----------
    arrays : list of ndarray
    samples : slice
        Which samples.
    axis : int
        The channel axis of the arrays.
    """

    arrays: list[NDArray[Any]]
    samples: slice
    axis: int

    def of_channels(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a value for each channel of the arrays, given one for each of x."""
        return np.tile(vector, self.samples.stop - self.samples.start)

    def of_samples(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a value for each channel of the arrays, given one for each sample and channel of x."""
        return matrix[self.samples].reshape(-1)


def parts(view: views.View, *arrays: NDArray[Any]) -> Iterator[Part]:
    """Divide arrays of the shape of x, the last of which is written to.

    All samples at once if they lie in memory as (N, C, ...), or after a copy to such memory if they are small; large
    samples one by one.
    """
    sample = sample_axis(view)
    n, c = view.array.shape[sample], view.shape[1]
    planes = [np.moveaxis(array, (sample, view.axis), (0, 1)) for array in arrays]
    contiguous = all(array.flags.c_contiguous for array in planes)
    if contiguous or view.size < FEW * n:
        packed = [np.ascontiguousarray(array) for array in planes]
        yield Part([array.reshape(1, n * c, -1) for array in packed], slice(0, n), 1)
        if packed[-1] is not planes[-1]:
            planes[-1][...] = packed[-1]
        return
    for k in range(n):
        yield Part([array[k:k + 1] for array in planes], slice(k, k + 1), 1)


def apply(
    view: views.View, target: views.View, statistics: Statistics, modulation: Modulation, *,
    activation: tuple[int, float], num_threads: int | None, frozen: bool = False,
) -> tuple[NDArray[Any], Saved]:
    """Return y, which is written to `target`, and what a backward pass needs; with `frozen` statistics are constants.

    `activation` is what `check_activation` returns.
    """
    mean, low, var, rstd = statistics
    n, _, s = view.shape
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):      # as the kernels, which do not warn
        scale = modulation.gamma * rstd
    if view.size:
        for part in parts(view, view.array, target.array):
            x, y = part.arrays
            constants = kernels.Constants(
                x.shape[1], part.of_channels(mean), None, part.of_samples(scale), part.of_samples(modulation.beta), 0.0,
                low=None if low is None else part.of_channels(low))
            kernels.apply(x, part.axis, constants, None, y, activation, num_threads)
    kept = Kept(mean, low, rstd, None, None, None, frozen, activation if view.size else NO_ACTIVATION)
    if kept.activation[0]:
        kept = kept._replace(scale=scale.reshape(-1), shift=modulation.beta.reshape(-1))
    return target.finish(), Saved(kept, var, 0 if frozen else n * s, view.array.shape, view.axis)


def conditional_batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    saved: Saved,
    gamma: ArrayLike | None,
    *,
    axis: Axis = 1,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Compute the gradients of `conditional_batch_norm_training`.

    With x_hat = (x - mean) * rstd, and sums over the space of one sample, dbeta[n] = sum dy and
    dgamma[n] = sum dy x_hat. With m values per channel, S1 = sum_n gamma[n] dbeta[n] and S2 = sum_n gamma[n] dgamma[n],
    dx = rstd (gamma dy - S1 / m - x_hat S2 / m). With an activation, dy is first multiplied by its derivative.
    With ``Saved.from_statistics``, these are the gradients of `conditional_batch_norm_inference` without an activation,
    and dx = rstd gamma dy.

    Parameters
    ----------
    dy : array_like, shape and dtype of x
    x, gamma, axis, num_threads
        As in the forward pass.
    saved : Saved
    out : ndarray, shape and dtype of x, optional
        Buffer for dx; `dy` or `x` itself to work in place.

    Returns
    -------
    dx : ndarray
    dgamma, dbeta : ndarray of float64, shape (N, C)

    Raises
    ------
    TypeError, ValueError
        As in `conditional_batch_norm_training`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import conditional_batch_norm_backward, conditional_batch_norm_training
    >>> x, gamma = np.array([[1.0], [2.0], [4.0]]), np.ones((3, 1))
    >>> y, saved = conditional_batch_norm_training(x, gamma, None)
    >>> dx, dgamma, dbeta = conditional_batch_norm_backward(np.ones((3, 1)), x, saved, gamma)
    >>> bool(abs(dx).max() < 1e-12), bool(abs(dgamma - y).max() < 1e-12), dbeta.tolist()
    (True, True, [[1.0], [1.0], [1.0]])
    """
    view, gradient = batchnorm.backward_views(dy, x, saved, axis, num_threads)
    gamma64 = check_modulation(view, gamma, None).gamma
    kept, shape = saved._kept, gamma64.shape
    if kept.scale is not None and kept.scale.size != gamma64.size:
        raise ValueError("saved must come from conditional_batch_norm_training on this x, and its scale has "
                         f"{kept.scale.size} values; expected {gamma64.size}")
    if saved._residual:
        raise ValueError("saved must come from conditional_batch_norm_training, which has no residual")
    dx = views.output(view, out, gradient)
    dgamma, dbeta = np.zeros(shape), np.zeros(shape)
    if not view.size:
        return dx.finish(), dgamma, dbeta
    # First dx with the statistics as constants, then what depends on x through them: batch norm's gradient.
    constant = dx
    if not kept.frozen and views.same_memory(dx.array, view.array):
        constant = views.output(view)
    for part in parts(view, gradient.array, view.array, constant.array):
        sums = _with_constants(part, kept, gamma64, num_threads)
        dgamma[part.samples], dbeta[part.samples] = (vector.reshape(-1, shape[1]) for vector in sums)
    if not kept.frozen:
        plain = kept._replace(scale=None, shift=None, activation=NO_ACTIVATION)
        with np.errstate(all="ignore"):     # an infinity leaves NaN in its channel, without a warning
            totals = np.stack([(gamma64 * dbeta).sum(0) * kept.rstd, (gamma64 * dgamma).sum(0)])
            inverse = 1 / kept.rstd
        batchnorm.gradients(
            constant.array, view.array, Saved(plain, saved._var, saved._count, view.array.shape, view.axis), inverse,
            axis=view.axis, out=dx.array, num_threads=num_threads, sums=totals)
    return dx.finish(), dgamma, dbeta


def _with_constants(
    part: Part, kept: Kept, gamma: NDArray[np.float64], num_threads: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Writes dx of constant statistics; returns dgamma and dbeta of these samples, flat.
    dy, x, dx = part.arrays
    view = views.view(x, part.axis)
    scale, shift = (None if vector is None else part.of_samples(vector.reshape(gamma.shape))
                    for vector in (kept.scale, kept.shift))
    constants = Kept(
        part.of_channels(kept.mean), None if kept.low is None else part.of_channels(kept.low),
        part.of_channels(kept.rstd), scale, shift, None, True, kept.activation)
    target = views.output(view, dx)
    sums = kernels.backward(
        views.like(view, dy, "dy"), view, target, None, constants, part.of_samples(gamma), fill=False,
        num_threads=num_threads)
    target.finish()
    return sums
