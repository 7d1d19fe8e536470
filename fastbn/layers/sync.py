"""Batch normalization over several processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fastbn.checkpoints.settings import Settings
from fastbn.layers.attributes import Check
from fastbn.layers.batchnorm import BatchNorm
from fastbn.layers.ranks import check_timeout
from fastbn.layers.source import Ranks

if TYPE_CHECKING:
    from typing_extensions import Unpack

TIMEOUT = 300.0     # seconds, the default


class BatchNormSettings(Settings, total=False):
    """The arguments of a `BatchNorm` besides num_features."""

    affine: bool
    scale: bool | None
    center: bool | None
    track_running_stats: bool


def refuse_virtual(layer: SyncBatchNorm, value: object, name: str) -> None:
    """Return None, or raise an error for another value."""
    if value is not None:
        raise ValueError(f"{name} must be None in a SyncBatchNorm, whose statistics are those of all ranks, got "
                         f"{value!r}; use a BatchNorm on each rank")


class SyncBatchNorm(BatchNorm):
    """Batch normalization of a batch that is distributed over the ranks of an MPI communicator.

    The result is that of one `BatchNorm` over the whole batch. In training mode each forward pass and each backward
    pass is a collective operation: every rank makes the same calls in the same order, with as many samples as it has,
    or none (an array whose shape has a zero). The forward pass gathers (count, mean, M2) per channel, and the backward
    pass (sum dy, sum dy (x - mean)). Every rank merges them in the order of ranks, after Chan, Golub and LeVeque
    (1983), so statistics, running averages, grad_gamma and grad_beta have the same bits on all ranks. A pass by running
    averages exchanges nothing, in evaluation mode or after `freeze`; only averages that it updates need an exchange.

    `grad_gamma` and `grad_beta` are those of the whole batch, the sums over all ranks; do not sum them again.
    (PyTorch's SyncBatchNorm leaves the part of its rank on each of them.) After a pass by running averages they are the
    part of the rank.

    Parameters
    ----------
    num_features
        As in `BatchNorm`.
    comm : mpi4py.MPI.Intracomm, optional
        COMM_WORLD by default. With one rank the layer gives the bits of a `BatchNorm`.
    timeout : float
        Seconds that a rank waits for the others before it raises TimeoutError; the ranks have to be restarted then.
    **settings
        The other arguments of `BatchNorm`, the same on every rank, except `virtual_batch_size`. `on_single` refers to
        all ranks together: a rank may have a single value per channel.

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

    _checks: ClassVar[Mapping[str, Check]] = {**BatchNorm._checks, "virtual_batch_size": refuse_virtual}

    _source: Ranks

    def __init__(
        self, num_features: int | tuple[int, ...], *, comm: Any = None, timeout: float = TIMEOUT,
        **settings: Unpack[BatchNormSettings],
    ) -> None:
        super().__init__(num_features, **settings)
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
