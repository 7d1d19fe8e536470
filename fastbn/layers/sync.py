"""The layer over several processes: batch statistics of what all ranks of an MPI communicator hold.

Statistics and sums are exchanged in float64, a few vectors of length C; data never leave their rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fastbn import functional
from fastbn._core import views
from fastbn._core.checks import check_activation
from fastbn._core.dispatch import kernels
from fastbn._core.saved import in_range
from fastbn.layers.averaged import MOMENTUM
from fastbn.layers.batchnorm import BatchNorm
from fastbn.layers.masked import Masked
from fastbn.layers.ranks import BACKWARD, FORWARD, Peers, check_timeout
from fastbn.statistics.channel_stats import ChannelStats
from fastbn.statistics.moments import two_sum

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn._core.saved import Saved


class SyncBatchNorm(BatchNorm):
    """Batch normalization of a batch that is spread over the ranks of an MPI communicator: one `BatchNorm` of it all.

    In training mode each forward and each backward is collective: every rank makes the same calls in the same order,
    with as many samples as it has, or none (an array whose shape has a zero). Each exchange is one all-gather, of
    (count, mean, M2) per channel in the forward and of (sum dy, sum dy (x - mean)) in the backward, which every rank
    merges in the order of ranks, after Chan, Golub and LeVeque (1983). So statistics, running averages, grad_gamma and
    grad_beta have the same bits on every rank. Evaluation mode with running averages exchanges nothing.

    `grad_gamma` and `grad_beta` are those of the whole batch, the sums over all ranks; they must not be summed again.
    (PyTorch's SyncBatchNorm leaves each rank its own part.)

    Parameters
    ----------
    num_features, axis, eps, momentum, affine, scale, center, track_running_stats, unbiased, dtype, num_threads
    averaging, debias, nan_policy
        As in `BatchNorm`, and the same on every rank. One value per channel on a rank is fine; on all of them together
        it is not.
    comm : mpi4py.MPI.Intracomm, optional
        COMM_WORLD if not given. With one rank the layer is a `BatchNorm`, to the bit.
    timeout : float
        Seconds that a rank waits for the others before it raises TimeoutError; after that the ranks have to be
        started again.

    Raises
    ------
    ImportError
        If mpi4py or an MPI library is missing: ``pip install 'fastbn[mpi]'``.
    TypeError, ValueError
        If an argument is not what it must be.

    Notes
    -----
    An error on one rank is an error on all of them: those that were waiting raise RuntimeError with its message, at
    once, and all may go on with the next batch; or TimeoutError, if it came outside the layer. `out` may be partly
    written then. `mask` and `lengths` are refused, and so is `accumulate`. `fastbn.population_statistics` finds the
    statistics of all ranks, if they give it as many batches each.

    Examples
    --------
    ``mpiexec -n 4 python train.py``, where each rank has a part of the batch; without mpiexec there is one rank:

    >>> import numpy as np
    >>> import fastbn
    >>> bn = fastbn.SyncBatchNorm(2, timeout=60)
    >>> y = bn(np.array([[1.0, 10.0], [3.0, 30.0]]))
    >>> bn.running_mean
    array([0.2, 2. ], dtype=float32)
    """

    def __init__(
        self,
        num_features: int,
        *,
        axis: int = 1,
        eps: float = 1e-5,
        momentum: float | None = MOMENTUM,
        affine: bool = True,
        scale: bool | None = None,
        center: bool | None = None,
        track_running_stats: bool = True,
        unbiased: bool = True,
        dtype: DTypeLike | None = np.float32,
        num_threads: int | None = None,
        averaging: str = "ema",
        debias: bool = False,
        nan_policy: str = "propagate",
        comm: Any = None,
        timeout: float = 300.0,
    ) -> None:
        super().__init__(
            num_features, axis=axis, eps=eps, momentum=momentum, affine=affine, scale=scale, center=center,
            track_running_stats=track_running_stats, unbiased=unbiased, dtype=dtype, num_threads=num_threads,
            averaging=averaging, debias=debias, nan_policy=nan_policy)
        self._peers = Peers(comm, timeout, 1 + 3 * self.num_features)

    def __repr__(self) -> str:
        return f"Sync{super().__repr__()}"

    @property
    def comm(self) -> Any:
        """The communicator; assign another one to move the layer there, on all of its ranks."""
        return self._peers.comm

    @comm.setter
    def comm(self, comm: Any) -> None:
        self._peers = Peers(comm, self._peers.timeout, self._peers.width)

    @property
    def timeout(self) -> float:
        """Seconds that a rank waits for the others."""
        return self._peers.timeout

    @timeout.setter
    def timeout(self, timeout: float) -> None:
        self._peers.timeout = check_timeout(timeout)

    def accumulate(self, micro_batches: Iterable[ArrayLike]) -> NoReturn:
        """Refuse: `BatchNorm.accumulate` would take the micro-batches of this rank for all there are.

        Parameters
        ----------
        micro_batches : iterable of array_like

        Raises
        ------
        RuntimeError
            Always.
        """
        raise RuntimeError(
            "accumulate would see the micro-batches of this rank alone; give a SyncBatchNorm all of them as one x")

    def _holds_all(self) -> bool:
        return self._peers.alone

    def _forward_masked(self, *arguments: Any) -> NoReturn:
        raise ValueError("mask and lengths must be None for a SyncBatchNorm, whose ranks exchange whole batches")

    def _forward_batch(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None,
    ) -> NDArray[Any]:
        with self._peers.telling(FORWARD):
            return super()._forward_batch(x, residual, activation, out)

    def _normalize(
        self, view: views.View, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None,
    ) -> tuple[NDArray[Any], Saved]:
        if self._peers.alone:
            return super()._normalize(view, residual, activation, out)
        # All checks come before the exchange, so that what is wrong here is known everywhere.
        relu = activation is not None and check_activation(activation, inference=False)[0] > 0
        functional.check_vectors(self.num_features, gamma=self.gamma, beta=self.beta)
        other = None if residual is None else views.like(view, residual, "residual")
        added = None if other is None else other.array
        target = views.output(view, out, other)
        channels = self.num_features
        own = ChannelStats(channels, axis=self.axis).update(view.array, num_threads=self.num_threads).to_arrays()
        values = np.concatenate([own["count"][:1], own["mean"], own["mean_low"], own["m2"]])
        count, mean, low, var = merge(self._peers.exchange(FORWARD, values))
        var = in_range(var)
        if count == 1:
            raise ValueError("all ranks together have one value per channel, so there is no variance to learn from; "
                             "use a larger batch, or eval()")
        constants = kernels.Constants(channels, mean, var, self.gamma, self.beta, self.eps, low=low)
        saved = functional.inference_saved(     # before y may be written over x
            view.array, mean, var, self.gamma, self.beta, axis=self.axis, eps=self.eps, relu=relu, residual=added,
            num_threads=self.num_threads, mean_low=low, count=count)
        kernels.apply(
            view.array, self.axis, constants, added, target.array, (int(relu), 0.0), self.num_threads)
        return target.finish(), saved

    def backward(self, dy: ArrayLike, out: NDArray[Any] | None = None) -> Any:
        """Gradients of the last forward, which was that of all ranks: see `BatchNorm.backward`.

        Parameters
        ----------
        dy : array_like, shape and dtype of the forward's x
            Of the sum of what the ranks minimize.
        out : ndarray, shape and dtype of x, optional
            As in `BatchNorm.backward`.

        Returns
        -------
        dx : ndarray
            Or, if the forward had a residual, the tuple ``(dx, dresidual)``. `grad_gamma` and `grad_beta` are set, to
            the same on every rank.

        Raises
        ------
        RuntimeError
            As `BatchNorm.backward`, or if another rank has failed.
        TimeoutError
            If a rank does not come.
        TypeError, ValueError
            If `dy` or `out` does not fit.
        """
        if self._took_constants():
            return super().backward(dy, out)
        with self._peers.telling(BACKWARD):
            return super().backward(dy, out)

    def _took_constants(self) -> bool:
        # Whether the last forward took running averages, and its backward is a matter of this rank alone.
        return self._tape.last is not None and self._tape.last[3] is None

    def _gradients(
        self, dy: ArrayLike, x: Any, saved: Saved | Masked, out: NDArray[Any] | None,
    ) -> tuple[NDArray[Any], ...]:
        if isinstance(saved, Masked) or self._peers.alone or self._took_constants():
            return super()._gradients(dy, x, saved, out)
        # Refused before the exchange.
        view = views.view(x, self.axis, self.num_features)
        gradient = views.like(view, dy, "dy")
        if out is not None:
            views.output(view, out, gradient)
        functional.check_vectors(self.num_features, gamma=self.gamma)
        own = functional.gradient_sums(dy, x, saved, axis=self.axis, num_threads=self.num_threads)
        sums = total(self._peers.exchange(BACKWARD, own.ravel())).reshape(own.shape)
        return functional.gradients(
            dy, x, saved, self.gamma, axis=self.axis, out=out, num_threads=self.num_threads, sums=sums)


def total(parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum over ranks, added in their order.

    Parameters
    ----------
    parts : ndarray of float64, shape (ranks, n)

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    # Not sum(), whose order may depend on the shape.
    result: NDArray[np.float64] = parts[0].copy()
    for part in parts[1:]:
        result += part
    return result


def merge(
    parts: NDArray[np.float64],
) -> tuple[int, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return count, mean in two words and biased variance of what all ranks hold.

    With n = sum n_i and d_i = mean_i - m for any m, mean = m + sum n_i d_i / n and
    M2 = sum M2_i + sum n_i (mean_i - mean)^2: Chan, Golub and LeVeque (1983) for any number of groups at once, which is
    several times as fast as one after the other. m is the mean of the first rank that has data.

    Parameters
    ----------
    parts : ndarray of float64, shape (ranks, 1 + 3 * C)
        count, then mean, the second word of the mean and M2 per channel.

    Returns
    -------
    count : int
        Values per channel.
    mean, low, var : ndarray of float64, shape (C,)
        low is the second word of the mean; zero if there are no values.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers.sync import merge
    >>> merge(np.array([[2.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 4.0, 0.0, 0.0]]))
    (3, array([2.]), array([0.]), array([2.66666667]))
    """
    seen = parts[parts[:, 0] > 0]
    channels = parts.shape[1] // 3
    if not len(seen):
        return 0, np.zeros(channels), np.zeros(channels), np.zeros(channels)
    counts = seen[:, :1]
    means, lows, m2 = np.split(seen[:, 1:], 3, axis=1)
    count = counts.sum()    # exact
    with np.errstate(invalid="ignore"):     # an infinity leaves NaN in its channel, without a warning
        d = means - means[0]
        d += lows
        step = total(d * counts) / count
        mean, low = two_sum(means[0], step)
        d -= step
        d *= d
        d *= counts
        d += m2
        return int(count), mean, low, total(d) / count
