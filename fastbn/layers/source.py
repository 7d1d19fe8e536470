"""Sources: where the statistics and the gradient sums of a whole training batch come from.

A forward pass needs the statistics of the whole batch, and a backward pass its sums of dy and of dy (x - mean). The
array at hand may be all of the batch (`Local`), one of several micro-batches (`MicroBatches`), or the part of one rank
(`Ranks`). A source takes a function that reads the array, and returns what belongs to the whole batch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol

import numpy as np

from fastbn._core.checks import channels
from fastbn.layers.batch import Batch, differing
from fastbn.layers.ranks import BACKWARD, FORWARD, Peers
from fastbn.statistics.moments import two_sum

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fastbn.statistics.channel_stats import ChannelStats

__all__ = ["BACKWARD", "FORWARD", "Local", "MicroBatches", "Ranks", "Source", "merge", "reduce_several", "total"]


class Source(Protocol):
    """Where the sums of a whole batch come from."""

    @property
    def whole(self) -> bool:
        """Whether the array at hand is the whole batch, so that the fused kernels can do all of the work."""

    def reduce(self, read: Callable[[], ChannelStats]) -> Batch:
        """Return the statistics of the whole batch; `read` returns those of the array at hand."""

    def refuse_single(self, batch: Batch, settable: bool = False) -> NoReturn:
        """Raise an error for a batch with a single value in some channels; `settable` if the layer has on_single."""

    def reduce_gradient(self, read: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return sum dy and sum dy (x - mean), (2, C), of the whole batch; `read` returns those of the array."""

    def guard(self, operation: int) -> AbstractContextManager[None]:
        """Return a context in which an error reaches all parts of the batch; `operation` is FORWARD or BACKWARD."""


class Local:
    """The array at hand is the whole batch."""

    whole: ClassVar[bool] = True

    def reduce(self, read: Callable[[], ChannelStats]) -> Batch:
        """Return the statistics of the array."""
        return Batch.from_stats(read())

    def refuse_single(self, batch: Batch, settable: bool = False) -> NoReturn:
        """Raise an error."""
        raise ValueError(f"a single value of x counts in {channels(batch.single())}, so there is no variance to learn "
                         f"from; use a larger batch, leave such a value out of the mask, {'set on_single, ' * settable}"
                         "or use eval()")

    def reduce_gradient(self, read: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the sums of the array."""
        return read()

    def guard(self, operation: int) -> AbstractContextManager[None]:
        """Return a context that does nothing: there are no other parts."""
        return nullcontext()


@dataclass(slots=True, eq=False)
class MicroBatches:
    """The array at hand is one of several micro-batches, all of which have been read before.

    Attributes
    ----------
    batch : Batch
        Statistics of all micro-batches.
    sums : ndarray of float64, shape (2, C), or None
        Gradient sums of all micro-batches, for a backward pass.
    """

    whole: ClassVar[bool] = False
    batch: Batch
    sums: NDArray[np.float64] | None = None

    def reduce(self, read: Callable[[], ChannelStats]) -> Batch:
        """Return the statistics of all micro-batches, without reading the array again."""
        return self.batch

    def refuse_single(self, batch: Batch, settable: bool = False) -> NoReturn:
        """Raise an error."""
        have = "1 value per channel in total" if batch.size == 1 else (
            f"a single value that counts in {channels(batch.single())}")
        raise ValueError(f"micro_batches have {have}; expected two or more, or none")

    def reduce_gradient(self, read: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the sums of all micro-batches, without reading the array again."""
        assert self.sums is not None
        return self.sums

    def guard(self, operation: int) -> AbstractContextManager[None]:
        """Return a context that does nothing: all micro-batches are guarded together."""
        return nullcontext()


class Ranks:
    """The array at hand is the part of one rank of an MPI communicator.

    Statistics and sums are exchanged in float64, a few vectors of length C; data stay on their rank. Every rank merges
    them in the order of ranks, so that all have the same bits.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm or None
        None for COMM_WORLD.
    timeout : float
        Seconds to wait for the other ranks.
    num_features : int
    """

    def __init__(self, comm: Any, timeout: float, num_features: int) -> None:
        self.peers: Peers = Peers(comm, timeout, 1 + 3 * num_features)

    @property
    def whole(self) -> bool:
        """Whether there is one rank only."""
        return self.peers.alone

    def reduce(self, read: Callable[[], ChannelStats]) -> Batch:
        """Return the statistics of all ranks, merged in their order; a collective operation.

        Counts of channels are exchanged by themselves if they differ on a rank, which NaN in place of the common count
        announces.
        """
        if self.whole:
            return Local().reduce(read)
        own = read().to_arrays()
        counts = own["count"]
        common = counts[:1] if differing(counts) is None else np.full(1, np.nan)
        parts = self.peers.exchange(FORWARD, np.concatenate([common, own["mean"], own["mean_low"], own["m2"]]))
        every = parts[:, :1]
        if np.isnan(every).any():
            every = self.peers.exchange(FORWARD, counts)
        count, mean, low, var = merge(every, parts[:, 1:])
        return Batch(int(count.max()), mean, var, low, counts=differing(count))

    def refuse_single(self, batch: Batch, settable: bool = False) -> NoReturn:
        """Raise an error, which is that of all ranks."""
        if self.whole:
            Local().refuse_single(batch, settable)
        have = "one value per channel" if batch.counts is None else (
            f"a single value that counts in {channels(batch.single())}")
        raise ValueError(f"all ranks together have {have}, so there is no variance to learn from; use a larger batch, "
                         f"{'set on_single, ' * settable}or use eval()")

    def reduce_gradient(self, read: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the sums of all ranks, added in their order; a collective operation."""
        own = read()
        if self.whole:
            return own
        return total(self.peers.exchange(BACKWARD, own.ravel())).reshape(own.shape)

    def guard(self, operation: int) -> AbstractContextManager[None]:
        """Return a context that reports an error to the other ranks."""
        return self.peers.telling(operation)


def reduce_several(source: Source, read: Callable[[], ChannelStats]) -> Batch:
    """Return the statistics of the whole batch; a channel with a single value, which has no variance, is an error."""
    batch = source.reduce(read)
    if batch.single():
        source.refuse_single(batch)
    return batch


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
    counts: NDArray[np.float64], moments: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return count, mean in two words and biased variance of the values of all ranks.

    With n = sum n_i and d_i = mean_i - m for any m, mean = m + sum n_i d_i / n and
    M2 = sum M2_i + sum n_i (mean_i - mean)^2: Chan, Golub and LeVeque (1983) for any number of groups at once, which is
    several times as fast as merging one after the other. m is the mean of the first rank that has data.

    Parameters
    ----------
    counts : ndarray of float64, shape (ranks, 1) or (ranks, C)
        Values per channel.
    moments : ndarray of float64, shape (ranks, 3 * C)
        Mean, the second word of the mean and M2 per channel; zeros in a channel without values.

    Returns
    -------
    count : ndarray of float64, shape (1,) or (C,)
    mean, low, var : ndarray of float64, shape (C,)
        low is the second word of the mean. Zeros in a channel without values.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers.source import merge
    >>> merge(np.array([[2.0], [0.0], [1.0]]), np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0], [4.0, 0.0, 0.0]]))
    (array([3.]), array([2.]), array([0.]), array([2.66666667]))
    """
    means, lows, m2 = np.split(moments, 3, axis=1)
    first = (counts > 0).argmax(axis=0)
    pivot = means[first, np.arange(means.shape[1])]
    count = counts.sum(axis=0)      # exact
    divisor = np.maximum(count, 1.0)
    with np.errstate(over="ignore", invalid="ignore"):      # an infinity leaves NaN in its channel, without a warning
        d = np.where(counts > 0, means - pivot, 0.0)
        d += lows
        step = total(d * counts) / divisor
        mean, low = two_sum(pivot, step)
        d -= step
        d *= d
        d *= counts
        d += m2
        var = total(d) / divisor
        finite = np.isfinite(mean)
        if not finite.all():
            far = np.isfinite(means).all(axis=0) & ~finite      # differences of means overflow, but not their mean
            mean[far], low[far], var[far] = total(means * (counts / divisor))[far], 0, np.inf
        return count, mean, low, var
