"""Evaluation by a blend of stored statistics and those of the batch, forward; `passes` has the backward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core import views
from fastbn._core.views import same_memory
from fastbn.layers import passes
from fastbn.layers.base import set_tape
from fastbn.layers.batch import Batch
from fastbn.layers.masked import Marks, read, select
from fastbn.layers.source import FORWARD, MicroBatches, reduce_several
from fastbn.layers.tape import weakly
from fastbn.statistics.moments import two_sum

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn.layers.masked import Selection
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
        out: NDArray[Any] | None, *, marks: Marks,
    ) -> Any:
        """Normalize x, and leave a tape at the layer; the arguments are those of a call."""
        try:
            with layer._source.guard(FORWARD):
                view = layer._view(x)
                selection = select(view, *marks)
                operands = passes.Operands.of(view, residual, activation, out)
                mean, var = layer._constant_statistics()
                batch = self._read(layer, view, selection)
                weight, mixed, distance = self.mix(batch, positions_of(view), mean, var)
                y, _, tape = passes.forward(operands, selection, MicroBatches(mixed), layer._parameters())
        except BaseException as error:
            layer._forget_unless_refused(error)
            raise
        assert tape.saved is not None
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
        if source.whole and self.n0:        # with stored statistics, a single value per channel is enough
            return Batch.from_stats(read(view, selection, layer.num_threads))
        return reduce_several(source, lambda: read(view, selection, layer.num_threads))

    def mix(
        self, batch: Batch, positions: int, mean: NDArray[Any], var: NDArray[Any]
    ) -> tuple[NDArray[np.float64], Batch, NDArray[np.float64]]:
        """Return the weight of the batch, the blended statistics, and their mean less that of the batch.

        Parameters
        ----------
        batch : Batch
        positions : int
            Of one sample.
        mean, var : ndarray, shape (C,)
            The stored statistics.
        """
        counts = np.full(len(batch.mean), float(batch.size)) if batch.counts is None else batch.counts
        samples = counts / positions
        weight = np.divide(samples, self.n0 + samples, out=np.zeros(len(counts)), where=samples > 0)
        rest = 1 - weight
        low = np.zeros(len(counts)) if batch.mean_low is None else batch.mean_low
        with np.errstate(all="ignore"):     # an infinity leaves NaN in its channel, without a warning
            distance = np.where(rest > 0, rest * ((np.asarray(mean, np.float64) - batch.mean) - low), 0.0)
            high, low = two_sum(batch.mean, distance + low)
            mixed = weight * batch.var + np.where(rest > 0, rest * np.asarray(var, np.float64), 0.0)
        return weight, Batch(batch.size, high, mixed, low, counts=batch.counts), distance


def positions_of(view: views.View) -> int:
    """Return the number of positions of a sample, along all axes but the first one and the channel axis."""
    others = [length for k, length in enumerate(view.array.shape) if k != view.axis]
    positions: int = math.prod(others[1:])
    return max(1, positions)
