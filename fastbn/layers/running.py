"""How the running averages of a layer follow its batches.

A layer has one of these objects. `Moving` weighs the newest batch by momentum, or all batches alike; `Exact` weighs all
values alike, by merging (count, mean, M2) of all batches; while `fastbn.population_statistics` looks at a data set,
`Gathering` stands in and leaves the averages alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbn._core.checks import channels
from fastbn.checkpoints.state import check_exact, check_initial_weight
from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn._core.saved import Saved
    from fastbn.layers.batchnorm import BatchNorm

AVERAGINGS = ("ema", "cumulative", "exact")
POLICIES = ("propagate", "raise", "skip_update")


class Batch(NamedTuple):
    """Statistics of one training batch, which may have come in parts.

    Attributes
    ----------
    size : int
        Values per channel; the most of any, where channels differ.
    mean, var : ndarray of float64, shape (C,)
        var is biased.
    mean_low : ndarray of float64, shape (C,), or None
        The second word of the mean.
    stats : ChannelStats or None
        The same in double lanes, where that is known.
    counts : ndarray of float64, shape (C,), or None
        Values of each channel, where channels differ; none of them is 1, and a channel of 0 has no mean
        and var.
    """

    size: int
    mean: NDArray[np.float64]
    var: NDArray[np.float64]
    mean_low: NDArray[np.float64] | None = None
    stats: ChannelStats | None = None
    counts: NDArray[np.float64] | None = None

    @classmethod
    def from_saved(cls, saved: Saved, counts: NDArray[np.float64] | None = None) -> Batch:
        """Return what a forward found out on its way."""
        size = saved._count if counts is None else int(counts.max())
        return cls(size, saved._mean, saved._var, saved._mean_low, counts=counts)

    @classmethod
    def from_stats(cls, stats: ChannelStats) -> Batch:
        """Return statistics that were read apart from a forward."""
        arrays = stats.to_arrays()
        counts = arrays["count"]
        var = np.divide(arrays["m2"], counts, out=np.zeros(len(counts)), where=counts > 0)
        counts_differ = counts if (counts != counts[0]).any() else None
        return cls(values_per_channel(stats), arrays["mean"], var, arrays["mean_low"], stats, counts_differ)

    def to_stats(self, axis: int) -> ChannelStats:
        """Return them as they merge."""
        if self.stats is not None:
            return self.stats
        counts = self.size if self.counts is None else self.counts
        return ChannelStats.from_arrays(counts, self.mean, self.var * counts, self.mean_low, axis=axis)

    def running_var(self, unbiased: bool) -> NDArray[np.float64]:
        """Return the variance that running averages follow."""
        if not unbiased:
            return self.var
        if self.counts is None:
            return self.var * (self.size / (self.size - 1))
        return self.var * (self.counts / np.maximum(self.counts - 1, 1))

    def over(self, running: NDArray[Any], new: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return new averages, and in channels without values the running ones."""
        return new if self.counts is None else np.where(self.counts > 0, new, running)


@dataclass(slots=True)
class Weights:
    """The share that each batch has in the running averages, as far as anybody asks.

    Attributes
    ----------
    initial : float
        Weight that the initial 0 and 1 still have; the batches have the rest.
    squares : float
        Sum of the squared weights of the batches; NaN where they are not known.
    squares_by_count : float
        Sum of squared weight / values per channel; NaN where the sizes of the batches are not known. Both sums are NaN
        after a batch whose channels differ in size.
    """

    initial: float = 1.0
    squares: float = 0.0
    squares_by_count: float = 0.0

    def add(self, factor: float, batch: Batch) -> None:
        """Count in a batch of that weight; those before lose in proportion."""
        kept = 1.0 - factor
        if kept == 0:       # whatever was before, known or not
            self.squares = self.squares_by_count = 0.0
        self.initial *= kept
        self.squares = kept * kept * self.squares + factor * factor
        self.squares_by_count = kept * kept * self.squares_by_count + factor * factor / batch.size
        if batch.counts is not None:    # channels differ, and no number is that of all
            self.squares = self.squares_by_count = np.nan

    @classmethod
    def after(cls, batches: int, momentum: float | None) -> Weights:
        """Return the weights after that many batches of unknown size."""
        if not batches:
            return cls()
        if momentum is None:
            return cls(0.0, 1 / batches, np.nan)
        kept = 1.0 - momentum
        squares = momentum * (1 - kept ** (2 * batches)) / (1 + kept)    # of a geometric series
        return cls(kept ** batches, squares, np.nan)


@dataclass
class Moving:
    """running = (1 - factor) * running + factor * batch; factor is momentum, or 1 / batches if that is None."""

    weights: Weights = field(default_factory=Weights)

    def read(
        self, layer: BatchNorm, x: NDArray[Any], overwrites: bool, chosen: NDArray[np.bool_] | None = None,
    ) -> Batch | None:
        """Look at a batch, or what counts of it, before it is normalized, where it could be too late afterwards.

        Raises
        ------
        ValueError
            For NaN under the policy "raise", or for a channel without values where averages need all.
        """
        if chosen is not None and chosen.ndim == x.ndim:
            refuse_empty(layer, chosen)
        if overwrites and layer.nan_policy == "raise":
            is_usable(layer, Batch.from_stats(read(layer, x, chosen)))
        return None

    def follow(self, layer: BatchNorm, batch: Batch) -> None:
        """Move the averages of a layer, last of all: what could fail has not."""
        if batch.size and not is_usable(layer, batch):
            return
        if layer.running_mean is None or layer.running_var is None:
            return
        tracked = layer.num_batches_tracked + 1
        if batch.size:
            self._move(layer, batch, tracked)
        if counts(layer, batch):
            layer.num_batches_tracked = tracked

    def _move(self, layer: BatchNorm, batch: Batch, tracked: int) -> None:
        factor = 1.0 / tracked if layer.momentum is None else layer.momentum
        assert layer.running_mean is not None
        assert layer.running_var is not None
        with np.errstate(over="ignore", invalid="ignore"):  # Inf beyond the dtype, as documented
            layer.running_mean[...], layer.running_var[...] = (
                np.multiply(running, 1.0 - factor, dtype=np.float64) + factor * new
                for running, new in ((layer.running_mean, batch.over(layer.running_mean, batch.mean)),
                                     (layer.running_var, batch.over(
                                         layer.running_var, batch.running_var(layer.unbiased)))))
        self.weights.add(factor, batch)

    def take(self, stats: ChannelStats, weights: Weights) -> None:
        """Take over what was gathered elsewhere and has been put into the running averages."""
        self.weights = weights

    def to_state(self, layer: BatchNorm) -> dict[str, NDArray[Any]]:
        """Return the entries of a state beside PyTorch's."""
        return {"initial_weight": np.array(self.weights.initial)} if layer.debias else {}

    def from_state(
        self, layer: BatchNorm, state: Mapping[str, Any], vectors: Mapping[str, NDArray[Any]], tracked: int
    ) -> Moving:
        """Return what goes on from a state whose other entries have been checked; entries may be missing."""
        return Moving(loaded_weights(layer.momentum, state, vectors, tracked))


@dataclass
class Exact(Moving):
    """The running averages are mean and variance of all values of all batches."""

    stats: ChannelStats = field(kw_only=True)

    def _move(self, layer: BatchNorm, batch: Batch, tracked: int) -> None:
        stats = self.stats + batch.to_stats(layer.axis)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        with np.errstate(over="ignore", invalid="ignore"):
            whole = Batch.from_stats(stats)
            layer.running_mean[...], layer.running_var[...] = (
                whole.over(layer.running_mean, stats.mean),
                whole.over(layer.running_var, stats.var(ddof=int(layer.unbiased))))
        self.stats = stats
        self.weights.add(batch.size / values_per_channel(stats), batch)

    def take(self, stats: ChannelStats, weights: Weights) -> None:
        """Go on from what was gathered."""
        self.stats, self.weights = stats, weights

    def to_state(self, layer: BatchNorm) -> dict[str, NDArray[Any]]:
        """Return count, mean in two words and M2, float64, shape (C,)."""
        return {f"exact_{name}": vector for name, vector in self.stats.to_arrays().items()}

    def from_state(
        self, layer: BatchNorm, state: Mapping[str, Any], vectors: Mapping[str, NDArray[Any]], tracked: int
    ) -> Exact:
        """Return what goes on from a state, or, where that has none of the entries, begins anew."""
        count, mean, low, m2 = check_exact(state, layer.num_features)
        stats = ChannelStats.from_arrays(count, mean, m2, low, axis=layer.axis)
        each = 1 / count[0] if count.all() and (count == count[0]).all() else np.nan
        weights = Weights(0.0, np.nan, each) if count.any() else loaded_weights(None, state, vectors, tracked)
        return Exact(weights, stats=stats)


@dataclass
class Gathering(Moving):
    """Reads batches exactly and leaves the averages of the layer alone."""

    stats: ChannelStats = field(kw_only=True)
    batches: int = 0
    skipped: int = 0

    def read(
        self, layer: BatchNorm, x: NDArray[Any], overwrites: bool, chosen: NDArray[np.bool_] | None = None,
    ) -> Batch | None:
        """Read a batch while it is there: its normalized values may go over it."""
        if not layer._holds_all():      # the forward finds out about the others
            return super().read(layer, x, overwrites, chosen)
        batch = Batch.from_stats(read(layer, x, chosen))
        if batch.size and layer.nan_policy == "raise":
            is_usable(layer, batch)
        return batch

    def follow(self, layer: BatchNorm, batch: Batch) -> None:
        """Merge a batch that was normalized."""
        if batch.size and not is_usable(layer, batch):
            self.skipped += 1
            return
        self.batches += counts(layer, batch)
        if batch.size:
            self.stats.merge(batch.to_stats(layer.axis))
            self.weights.add(batch.size / values_per_channel(self.stats), batch)


def check_pair(layer: BatchNorm) -> None:
    """Raise an error where a layer has one running average without the other."""
    if (layer.running_mean is None) != (layer.running_var is None):
        missing = "running_mean" if layer.running_mean is None else "running_var"
        raise ValueError(f"{missing} is None; expected both running averages, or neither")


def counts(layer: BatchNorm, batch: Batch) -> bool:
    """Return whether num_batches_tracked grows: where the weights of batches follow from it, an empty one has none."""
    return batch.size > 0 or not (layer.momentum is None or layer.debias)


def values_per_channel(stats: ChannelStats) -> int:
    """Return the count; the most of any, where channels differ."""
    return int(stats.count.max())


def read(layer: BatchNorm, x: NDArray[Any], chosen: NDArray[np.bool_] | None = None) -> ChannelStats:
    """Return the statistics of a batch, or of those of its positions or values that count."""
    if chosen is not None and chosen.ndim == x.ndim:
        chosen = np.moveaxis(chosen, -1, layer.axis)
    return ChannelStats(layer.num_features, axis=layer.axis).update(x, mask=chosen, num_threads=layer.num_threads)


def refuse_empty(layer: BatchNorm, chosen: NDArray[np.bool_]) -> None:
    """Raise an error for a channel without values where every batch has a weight in all channels."""
    if layer.running_mean is None or not (layer.debias or layer.averaging == "cumulative"):
        return
    empty = np.flatnonzero(~chosen.any(axis=tuple(range(chosen.ndim - 1))))
    if empty.size:
        wrong = "debias=True" if layer.debias else "averaging='cumulative'"
        raise ValueError(f"mask leaves no values in {channels(empty.tolist())}; with {wrong} a batch has the same "
                         "weight in all channels, and needs values in each")


def is_usable(layer: BatchNorm, batch: Batch) -> bool:
    """Return whether the averages of a layer may follow a batch, by its `nan_policy`.

    Raises
    ------
    ValueError
        If they may not, and the policy is "raise".
    """
    if layer.nan_policy == "propagate":
        return True
    if batch.size < 2:     # refused by the forward, if it is not empty
        return True
    limit = np.finfo(layer.dtype).max
    good = (np.abs(batch.mean) <= limit) & (batch.running_var(layer.unbiased) <= limit)     # and no NaN
    if good.all():
        return True
    wrong = np.flatnonzero(~good)
    message = f"x has a mean or variance that is not finite in {layer.dtype} in {channels(wrong.tolist())}"
    if layer.nan_policy == "raise":
        raise ValueError(f"{message}; expected finite ones under nan_policy='raise'")
    if not layer._warned:
        layer._warned = True
        warnings.warn(f"{message}; the running averages do not follow such batches (this is said once)",
                      RuntimeWarning, stacklevel=5)
    return False


def debiased(layer: BatchNorm) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the running averages without the share that their initial 0 and 1 still have.

    As in Adam (Kingma and Ba, 2015, section 3, https://arxiv.org/abs/1412.6980), but the variance starts from 1:
    mean / (1 - w) and (var - w) / (1 - w), w = (1 - momentum)^batches. Before any batch, the averages as they are.
    """
    mean, var, w = layer.running_mean, layer.running_var, layer._averages.weights.initial
    assert mean is not None
    assert var is not None
    if w in (0.0, 1.0):
        return mean, var
    corrected = np.subtract(var, w, dtype=np.float64) / (1 - w)
    # The rounding of a variance far below 1 may leave less than nothing; what was negative before is not hidden.
    return np.divide(mean, 1 - w, dtype=np.float64), np.where(var < 0, var, np.maximum(corrected, 0))


def loaded_weights(
    momentum: float | None, state: Mapping[str, Any], vectors: Mapping[str, NDArray[Any]], tracked: int
) -> Weights:
    """Return the weights of the batches that a state has seen, as far as it tells."""
    weights = Weights.after(tracked, momentum)
    if not tracked and "running_mean" in vectors and (
            vectors["running_mean"].any() or (vectors["running_var"] != 1).any()):
        # Averages from somewhere, and no counter: they are no initial values.
        weights = Weights(0.0, np.nan, np.nan)
    initial = check_initial_weight(state)
    if initial is not None:
        weights.initial = initial
    return weights
