"""Evaluation by a blend of stored statistics and those of the batch, forward; `passes` has the backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.checks import channels
from fastbn._core.views import same_memory
from fastbn.layers import passes
from fastbn.layers.base import set_tape
from fastbn.layers.batch import Batch
from fastbn.layers.masked import Marks, read, select
from fastbn.layers.source import FORWARD, MicroBatches
from fastbn.layers.tape import weakly
from fastbn.statistics.channel_stats import ChannelStats
from fastbn.statistics.moments import two_sum

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn.layers.masked import Selection
    from fastbn.layers.source import Source
    from fastbn.layers.tracked import TrackedNorm


@dataclass(frozen=True, slots=True)
class Blend:
    """A blend of stored statistics, which count as `n0` samples, and those of the batch; see `fastbn.adapt`.

    Attributes
    ----------
    n0 : float
    """

    n0: float

    def evaluate(
        self, layer: TrackedNorm, x: ArrayLike, residual: ArrayLike | None, activation: Activation,
        out: NDArray[Any] | None, *, marks: Marks, offsets: NDArray[Any] | None = None,
    ) -> Any:
        """Normalize x, and leave a tape at the layer; the arguments are those of a call.

        Parameters
        ----------
        offsets : ndarray, shape (N + 1,), optional
            Of a jagged batch, of which x has the values.
        """
        try:
            with layer._source.guard(FORWARD):
                view = layer._view(x)
                selection = select(view, *marks)
                operands = passes.Operands.of(view, residual, activation, out)
                mean, var = layer._constant_statistics()
                batch = self._read(layer, view, selection)
                samples = of_all_parts(layer._source, samples_of(view, selection, offsets))
                weight, mixed, distance = self.mix(batch, samples, mean, var)
                y, _, tape = passes.forward(
                    operands, selection, MicroBatches(mixed), layer._parameters(), trains=False)
        except BaseException as error:
            layer._forget_unless_refused(error)
            raise
        if tape.saved is not None:
            with np.errstate(all="ignore"):     # Inf where the batch has no weight, and NaN in a channel that is NaN
                tape.counts = np.asarray(batch.size if batch.counts is None else batch.counts) / weight
                tape.shift = distance * tape.saved.rstd**2
        tape.rows = None
        if out is None or not same_memory(out, x):
            tape.x = weakly(x)
        set_tape(layer, tape)
        return y

    def _read(self, layer: TrackedNorm, view: views.View, selection: Selection | None) -> Batch:
        source = layer._source
        if source.whole and selection is None and view.size > layer.num_features:
            return Batch.from_view(view, layer.num_threads)
        batch = source.reduce(lambda: read(view, selection, layer.num_threads))
        if not self.n0 and batch.single():
            raise ValueError(f"a single value of x counts in {channels(batch.single())}, so there is no variance; use "
                             "a larger batch or an n0 above 0")
        return batch

    def mix(
        self, batch: Batch, samples: NDArray[np.float64], mean: NDArray[Any], var: NDArray[Any]
    ) -> tuple[NDArray[np.float64], Batch, NDArray[np.float64]]:
        """Return the weight of the batch, the blended statistics, and their mean less that of the batch.

        Parameters
        ----------
        batch : Batch
        samples : ndarray of float64, shape (C,)
            Number of samples of each channel.
        mean, var : ndarray, shape (C,)
            The stored statistics.
        """
        width = len(batch.mean)
        weight = np.divide(samples, self.n0 + samples, out=np.zeros(width), where=samples > 0)
        rest = 1 - weight
        low = np.zeros(width) if batch.mean_low is None else batch.mean_low
        with np.errstate(all="ignore"):     # an infinity leaves NaN in its channel, without a warning
            distance = np.where(rest > 0, rest * ((np.asarray(mean, np.float64) - batch.mean) - low), 0.0)
            high, low = two_sum(batch.mean, distance + low)
            mixed = weight * batch.var + np.where(rest > 0, rest * np.asarray(var, np.float64), 0.0)
        return weight, Batch(batch.size, high, mixed, low, counts=batch.counts), distance


def samples_of(
    view: views.View, selection: Selection | None, offsets: NDArray[Any] | None
) -> NDArray[np.float64]:
    """Return the number of samples with a value that counts, in each channel.

    A sample is one index of the first axis other than the channel axis, or one part of a jagged batch.
    """
    number: Any
    if offsets is not None:
        number = np.count_nonzero(np.diff(offsets))
    elif selection is None:
        number = view.array.shape[0 if view.axis else 1] if view.size else 0
    else:
        chosen = selection.chosen
        number = np.count_nonzero(chosen.any(axis=tuple(range(1, chosen.ndim - selection.by_channel))), axis=0)
    return np.full(view.shape[1], number, np.float64)


def of_all_parts(source: Source, samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the number of samples of the whole batch; `samples` are those of the array at hand."""
    if source.whole:
        return samples
    zeros = np.zeros(len(samples))
    batch = source.reduce(lambda: ChannelStats.from_arrays(samples, zeros, zeros))      # counted as if they were values
    return np.full(len(samples), float(batch.size)) if batch.counts is None else batch.counts
