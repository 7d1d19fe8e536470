"""Channels with a single value in a batch, which has no variance: what a layer does with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.layers.batch import Statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.checkpoints.settings import OnSingle
    from fastbn.layers.batch import Batch


@dataclass(slots=True, eq=False)
class Singles:
    """The rule of a layer for channels with a single value.

    Attributes
    ----------
    on_single : {"raise", "zero", "running"}
    running : tuple of two ndarray, or None
        The mean and variance of evaluation mode, if there are running averages.
    """

    on_single: OnSingle
    running: tuple[NDArray[Any], NDArray[Any]] | None

    @property
    def refused(self) -> bool:
        """Whether such a channel is an error."""
        return self.on_single == "raise" or (self.on_single == "running" and self.running is None)

    def followed(self, batch: Batch) -> Batch:
        """Return what running averages get of a batch: with "running" a single value counts as none."""
        single = batch.single() if self.on_single == "running" else []
        return batch.without(single) if single else batch

    def statistics(self, batch: Batch) -> Statistics:
        """Return what a batch is normalized by, with constants in channels with a single value.

        With "zero" the rstd of the channel is 0, so that x_hat and dx are.
        """
        single = batch.single()
        statistics = batch.statistics()
        if not single:
            return statistics
        mean, var = statistics.mean.copy(), statistics.var.copy()
        if self.on_single == "zero":
            var[single] = np.inf
            return statistics._replace(var=var)
        assert self.running is not None
        mean[single], var[single] = (vector[single] for vector in self.running)
        low = None if statistics.mean_low is None else statistics.mean_low.copy()
        if low is not None:
            low[single] = 0
        counts = np.full(len(mean), float(batch.size)) if statistics.counts is None else statistics.counts.copy()
        counts[single] = 0
        return Statistics(mean, var, low, counts)
