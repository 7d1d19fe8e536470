"""Batch normalization over several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.layers.batchnorm import BatchNorm
from fastbn.layers.ranks import check_timeout
from fastbn.layers.running import MOMENTUM
from fastbn.layers.source import Ranks

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from fastbn.checkpoints.settings import Averaging, UpdatePolicy

TIMEOUT = 300.0     # seconds, the default


class SyncBatchNorm(BatchNorm):
    """Batch normalization of a batch that is distributed over the ranks of an MPI communicator.

    The result is that of one `BatchNorm` over the whole batch. In training mode each forward pass and each backward
    pass is a collective operation: every rank makes the same calls in the same order, with as many samples as it has,
    or none (an array whose shape has a zero). The forward pass gathers (count, mean, M2) per channel, and the backward
    pass (sum dy, sum dy (x - mean)). Every rank merges them in the order of ranks, after Chan, Golub and LeVeque
    (1983), so statistics, running averages, grad_gamma and grad_beta have the same bits on all ranks. Evaluation mode
    with running averages exchanges nothing.

    `grad_gamma` and `grad_beta` are those of the whole batch, the sums over all ranks; do not sum them again.
    (PyTorch's SyncBatchNorm leaves the part of its rank on each of them.)

    Parameters
    ----------
    num_features, axis, eps, momentum, affine, scale, center, track_running_stats, unbiased, dtype, num_threads
    averaging, debias, nan_policy
        As in `BatchNorm`, and the same on every rank. A rank may have a single value per channel, but not all ranks
        together.
    comm : mpi4py.MPI.Intracomm, optional
        COMM_WORLD by default. With one rank the layer gives the bits of a `BatchNorm`.
    timeout : float
        Seconds that a rank waits for the others before it raises TimeoutError; the ranks have to be restarted then.

    Raises
    ------
    ImportError
        If mpi4py or an MPI library is missing: ``pip install ".[mpi]"``.
    TypeError, ValueError
        If an argument is invalid.

    Notes
    -----
    An error on one rank raises an error on all ranks: the waiting ranks raise RuntimeError with its message at once,
    and all can continue with the next batch; or TimeoutError, if the error occurred outside the layer. `out` may have
    been written in part.

    Masks and lengths select values on their rank, and may leave none there. If a mask differs by channel on any rank,
    the forward pass makes a second exchange, of the counts per channel. The micro-batches of `accumulate` are those of
    all ranks, of which each may have another number; both exchanges take place once, in `accumulate` and in
    `WholeBatch.backward`. `fastbn.population_statistics` computes the statistics of all ranks if each of them has the
    same number of batches.

    Examples
    --------
    ``mpiexec -n 4 python train.py`` gives each rank a part of the batch; without mpiexec there is one rank:

    >>> import numpy as np
    >>> import fastbn
    >>> bn = fastbn.SyncBatchNorm(2, timeout=60)
    >>> y = bn(np.array([[1.0, 10.0], [3.0, 30.0]]))
    >>> bn.running_mean
    array([0.2, 2. ], dtype=float32)
    """

    _source: Ranks

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
        averaging: Averaging = "ema",
        debias: bool = False,
        nan_policy: UpdatePolicy = "propagate",
        comm: Any = None,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(
            num_features, axis=axis, eps=eps, momentum=momentum, affine=affine, scale=scale, center=center,
            track_running_stats=track_running_stats, unbiased=unbiased, dtype=dtype, num_threads=num_threads,
            averaging=averaging, debias=debias, nan_policy=nan_policy)
        self._source = Ranks(comm, timeout, self.num_features)

    def _hidden(self) -> tuple[str, ...]:
        return ("comm",)

    @property
    def comm(self) -> Any:
        """The communicator; assign another one on all of its ranks to move the layer there."""
        return self._source.peers.comm

    @comm.setter
    def comm(self, comm: Any) -> None:
        self._source = Ranks(comm, self.timeout, self.num_features)

    @property
    def timeout(self) -> float:
        """Seconds that a rank waits for the others."""
        return self._source.peers.timeout

    @timeout.setter
    def timeout(self, timeout: float) -> None:
        self._source.peers.timeout = check_timeout(timeout)
