"""Whitening without state: forward by the covariance of the batch or a given matrix, and backward.

Statistics, matrices and products are float64. NumPy multiplies the matrices by its BLAS, block by block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_choice, check_eps, check_integer
from fastbn._core.dispatch import kernels
from fastbn._core.saved import check_origin, not_saved
from fastbn._core.tensors import as_constant
from fastbn._core.threads import check as check_threads
from fastbn.functional.batchnorm import check_vectors, refuse_single
from fastbn.functional.inverse_root import EigenRoot, NewtonRoot
from fastbn.functional.matrix_blocks import Blocks
from fastbn.functional.whitening_saved import WhiteningSaved, check_matrix, to_vector

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Method: TypeAlias = Literal["zca", "iternorm"]
METHODS = ("zca", "iternorm")
MOST_ITERATIONS = 100       # far more than Newton's iteration takes to converge
ITERATIONS = 5      # the default, as in the paper


def check_groups(groups: object, channels: int, name: str) -> int:
    """Return the number of groups, which must divide the number of channels."""
    number = check_integer(groups, "groups", 1)
    if channels % number:
        raise ValueError(f"groups must divide {name}, got {number} and {channels}")
    return number


def scaled(matrix: NDArray[np.float64], gamma: ArrayLike | None) -> NDArray[np.float64]:
    """Return matrices with each row, an output channel, multiplied by its gamma."""
    if gamma is None:
        return matrix
    with np.errstate(all="ignore"):
        return matrix * np.array(as_constant(gamma, "gamma"), np.float64).reshape(len(matrix), -1, 1)


def check_iterations(iterations: object) -> int:
    """Return a number of iterations."""
    return check_integer(iterations, "iterations", 1, MOST_ITERATIONS)


def whitening_training(
    x: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    groups: int = 1,
    method: Method = "zca",
    iterations: int = ITERATIONS,
    axis: int = 1,
    eps: float = 1e-5,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], WhiteningSaved]:
    """Whiten the channels of `x`: transform them to mean 0 and covariance I within each group of channels.

    With the channels of a group as a vector x at each position, their mean, and
    cov = mean of (x - mean) (x - mean)^T + eps I,

        y = gamma * (cov^(-1/2) (x - mean)) + beta

    "zca" computes the symmetric inverse square root by eigenvalues: Huang et al. (2018), "Decorrelated Batch
    Normalization", https://arxiv.org/abs/1804.08450. "iternorm" approximates it by Newton's iteration: Huang et al.
    (2019), "Iterative Normalization: Beyond Standardization towards Efficient Whitening",
    https://arxiv.org/abs/1904.03441. With groups of one channel this is batch normalization.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
        May be read-only, strided, misaligned or byte-swapped.
    gamma, beta : array_like of float32 or float64, shape (C,), optional
        Scale and shift; 1 and 0 by default.
    groups : int
        Number of groups of consecutive channels, a divisor of C. Each is whitened by itself.
    method : {"zca", "iternorm"}
    iterations : int
        Of Newton's iteration, at most 100; "zca" does not use them.
    axis : int
        The channel axis; statistics run over all other axes.
    eps : float
        Added to the diagonal of the covariance. Without it, a batch with no more values per channel than channels in a
        group, or a channel that depends on others, has a singular covariance. With 0, that is an error for "zca".
    out : ndarray, shape and dtype of x, optional
        Buffer for y; `x` itself to work in place.
    num_threads : int, optional
        For means and sums; see `fastbn.set_num_threads`. NumPy's BLAS, which does the rest, has threads of its own.

    Returns
    -------
    y : ndarray
        `out` if it was given.
    saved : WhiteningSaved
        For `whitening_backward`.

    Raises
    ------
    TypeError
        For an unsupported dtype or an argument of the wrong type.
    ValueError
        For shapes that do not fit, an `out` that overlaps an input but is another array, a single value per channel,
        or a singular covariance with an eps of 0.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import whitening_training
    >>> x = np.random.default_rng(0).normal(size=(1000, 3)) @ [[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 3.0, 1.0]]
    >>> y, saved = whitening_training(x, eps=1e-9)
    >>> bool(abs(np.cov(y.T, bias=True) - np.eye(3)).max() < 1e-6)
    True
    >>> saved.matrix.shape
    (1, 3, 3)
    """
    view = views.view(x, axis)
    groups = check_groups(groups, view.shape[1], "the number of channels")
    check_choice(method, "method", METHODS)
    return train(
        view, gamma, beta, groups=groups, method=method, iterations=check_iterations(iterations),
        eps=check_eps(eps), out=out, num_threads=num_threads)


def train(
    view: views.View,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    *,
    groups: int,
    method: Method,
    iterations: int,
    eps: float,
    out: NDArray[Any] | None,
    num_threads: int | None,
) -> tuple[NDArray[Any], WhiteningSaved]:
    """Do what `whitening_training` does, given a view of x and settings that are checked."""
    if num_threads is not None:
        check_threads(num_threads)
    n, channels, s = view.shape
    refuse_single(view, "covariance", "whitening_inference")
    check_vectors(channels, gamma=gamma, beta=beta)
    y = views.output(view, out)
    if view.size:
        mean = kernels.reduce(view, whole=False, num_threads=num_threads)[0]
        with np.errstate(all="ignore"):     # what is not finite leaves NaN in its group, without a warning
            cov = products(view, view, mean, groups) / (n * s)
            root = EigenRoot(cov, eps) if method == "zca" else NewtonRoot(cov, eps, iterations)
        transform(view, y, mean, root.matrix, gamma, beta)
        saved = WhiteningSaved(mean, root.matrix, root, n * s, view.array.shape, view.axis)
    else:
        width = channels // groups
        saved = WhiteningSaved(
            np.zeros(channels), np.zeros((groups, width, width)), None, 0, view.array.shape, view.axis)
    return y.finish(), saved


def products(
    left: views.View, x: views.View, mean: NDArray[np.float64], groups: int
) -> NDArray[np.float64]:
    """Return the sum over positions of a (x - mean)^T, (G, D, D), where a is x - mean if `left` is x."""
    blocks = Blocks(x, groups)
    total = np.zeros((groups, blocks.c // groups, blocks.c // groups))
    part = np.empty_like(total)
    for block in blocks:
        centred = blocks.load(x, block, "x", mean)
        other = centred if left is x else blocks.load(left, block, "left")
        total += np.matmul(other, centred.swapaxes(1, 2), out=part)
    return total


def transform(
    view: views.View,
    y: views.View,
    mean: NDArray[np.float64],
    matrix: NDArray[np.float64],
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
) -> None:
    """Write gamma * (matrix (x - mean)) + beta to y."""
    matrix = scaled(matrix, gamma)
    shift = None if beta is None else np.array(as_constant(beta, "beta"), np.float64).reshape(len(matrix), -1, 1)
    blocks = Blocks(view, len(matrix))
    with np.errstate(all="ignore"):
        for block in blocks:
            result = blocks.buffer("y", block)
            np.matmul(matrix, blocks.load(view, block, "x", mean), out=result)
            if shift is not None:
                result += shift
            blocks.store(result, y, block)


def whitening_inference(
    x: ArrayLike,
    mean: ArrayLike,
    matrix: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    axis: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Transform the channels of `x` by a given mean and matrix: y = gamma * (matrix (x - mean)) + beta.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
    mean : array_like of float32 or float64, shape (C,)
    matrix : array_like of float32 or float64, shape (G, D, D)
        The matrix of each of G groups of D = C / G consecutive channels.
    gamma, beta, axis, out
        As in `whitening_training`.

    Returns
    -------
    y : ndarray
        `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As in `whitening_training`, except that a single value per channel is valid.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import whitening_inference
    >>> whitening_inference(np.array([[3.0, 1.0]]), [1.0, 1.0], [[[2.0, -1.0], [-1.0, 2.0]]])
    array([[ 4., -2.]])
    """
    return infer(views.view(x, axis), mean, matrix, gamma, beta, out)


def infer(
    view: views.View,
    mean: ArrayLike,
    matrix: ArrayLike,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    out: NDArray[Any] | None,
) -> NDArray[Any]:
    """Do what `whitening_inference` does, given a view of x."""
    channels = view.shape[1]
    matrices, means = check_matrix(matrix, channels), to_vector(mean, channels, "mean")
    check_vectors(channels, gamma=gamma, beta=beta)
    y = views.output(view, out)
    if view.size:
        transform(view, y, means, matrices, gamma, beta)
    return y.finish()


def whitening_backward(
    dy: ArrayLike,
    x: ArrayLike,
    saved: WhiteningSaved,
    gamma: ArrayLike | None = None,
    *,
    axis: int = 1,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Compute the gradients of `whitening_training` or, with ``WhiteningSaved.from_statistics``, of inference.

    With n values per channel, W the whitening matrix, z = W (x - mean), and S the gradient of the covariance, which
    follows from that of W, sum gamma dy (x - mean)^T: dbeta = sum dy, dgamma = sum dy z and
    dx = W^T (gamma (dy - dbeta / n)) + 2 / n S (x - mean). With a given matrix dx = W^T (gamma dy).

    Parameters
    ----------
    dy : array_like, shape and dtype of x
    x : array_like
        As in the forward pass.
    saved : WhiteningSaved
    gamma : array_like of float32 or float64, shape (C,), optional
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
    dgamma, dbeta : ndarray of float64, shape (C,)

    Raises
    ------
    TypeError, ValueError
        As in `whitening_training`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.functional import whitening_backward, whitening_training
    >>> x = np.array([[1.0, 0.0], [2.0, 5.0], [4.0, 1.0]])
    >>> y, saved = whitening_training(x)
    >>> dx, dgamma, dbeta = whitening_backward(np.ones((3, 2)), x, saved)
    >>> bool(abs(dx).max() < 1e-12), dbeta
    (True, array([3., 3.]))
    """
    if not isinstance(saved, WhiteningSaved):
        raise not_saved(saved, WhiteningSaved, "whitening_training")
    if num_threads is not None:
        check_threads(num_threads)
    view = views.view(x, axis, len(saved._mean))
    if saved._shape is not None:
        check_origin(view, axis, saved._shape, saved._axis)
    gradient = views.like(view, dy, "dy")
    channels = view.shape[1]
    check_vectors(channels, gamma=gamma)
    dx = views.output(view, out, gradient)
    if not view.size:
        return dx.finish(), np.zeros(channels), np.zeros(channels)
    mean, matrix, root = saved._mean, saved._matrix, saved._root
    with np.errstate(all="ignore"):
        sums = products(gradient, view, mean, len(matrix))
        dgamma = (sums * matrix).sum(axis=2).reshape(-1)
        dbeta = kernels.reduce(gradient, whole=False, num_threads=num_threads)[0] * (view.size // channels)
        back = scaled(matrix, gamma).swapaxes(1, 2)     # from dy to x - mean
        if root is not None:
            through = root.gradient(scaled(sums, gamma)) * (2 / saved._count)
            shift = back @ (dbeta / -saved._count).reshape(len(matrix), -1, 1)
        blocks = Blocks(view, len(matrix))
        for block in blocks:
            result = blocks.buffer("dx", block)
            np.matmul(back, blocks.load(gradient, block, "dy"), out=result)
            if root is not None:
                product = blocks.buffer("product", block)
                result += np.matmul(through, blocks.load(view, block, "x", mean), out=product)
                result += shift
            blocks.store(result, dx, block)
    return dx.finish(), dgamma, dbeta
