"""Exact running statistics of layers over a data set."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastbn._core import views
from fastbn._core.checks import channels, check_flag, check_iterable
from fastbn._core.extras import missing
from fastbn.layers.batch import Batch, values_per_channel
from fastbn.layers.batchnorm import BatchNorm
from fastbn.layers.domains import DomainSpecificBatchNorm
from fastbn.layers.renorm import BatchRenorm
from fastbn.layers.running import Progress, RunningStatistics, Weights
from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Layers: TypeAlias = BatchNorm | BatchRenorm | Iterable[BatchNorm | BatchRenorm]


def population_statistics(
    bn_layers: Layers,
    batches: Iterable[Any],
    forward: Callable[[Any], object],
    *,
    progress: bool | None = None,
) -> list[ChannelStats]:
    """Replace the running averages of layers by mean and variance of all values of a data set.

    A layer's variance is that of all values, ::

        M2 = sum of M2_i + sum of n_i (mean_i - mean)^2,    running_var = M2 / (n - 1), or M2 / n if not `unbiased`

    over batches i of n_i values per channel. Each value has the same weight, and the differences between batch means
    are included (Chan, Golub and LeVeque, 1983, "Algorithms for Computing the Sample Variance"); averages of batch
    variances have neither property. The sums are in float64, the mean in two words.

    Each batch is normalized by its own statistics, as in training, so the inputs of a layer do not depend on running
    averages. This is PreciseBN of Wu and Johnson (2021), "Rethinking 'Batch' in BatchNorm", section 3,
    https://arxiv.org/abs/2105.07576, with exact sums in place of averages.

    Parameters
    ----------
    bn_layers : BatchNorm, BatchRenorm or iterable of them
        Layers with running averages, which are not frozen. Other layers of the network keep their mode.
    batches : iterable
        The arguments of `forward`. A batch with a single value per channel in a layer is an error, as in training.
    forward : callable
        Runs the network on one batch, without changing the modes of the layers. Its result is ignored.
    progress : bool, optional
        Whether to show a progress bar (tqdm, extra "population"). By default it is shown if tqdm is installed and
        stderr is a terminal.

    Returns
    -------
    list of ChannelStats
        The statistics of each layer, in the order of `bn_layers`.

    Raises
    ------
    ImportError
        If `progress` is True and tqdm is not installed.
    TypeError, ValueError
        If an argument is invalid, a layer gets no values, or its statistics are not finite in its dtype.

    Notes
    -----
    All layers change or, after any error, none. running_mean, running_var and num_batches_tracked, the number of
    batches, are replaced; ``averaging="exact"`` continues from these statistics, and ``debias`` has nothing to correct.
    Mode, gradients and the last forward pass stay as they were. A layer with ``nan_policy="skip_update"`` leaves out
    batches whose statistics are not finite, with a warning. With a `SyncBatchNorm` this holds on each rank: if one
    fails outside the layers, others may have finished, and the ranks should be restarted.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> bn = fastbn.BatchNorm(1, unbiased=False)
    >>> batches = [np.array([[1.0], [3.0]]), np.array([[10.0], [10.0], [16.0]])]
    >>> [stats] = fastbn.population_statistics(bn, batches, bn)
    >>> bn.running_mean, bn.running_var        # of 1, 3, 10, 10, 16
    (array([8.], dtype=float32), array([29.2], dtype=float32))
    """
    layers = check_layers(bn_layers)
    for i, layer in enumerate(layers):
        if isinstance(layer, BatchNorm) and (layer.use_running_stats or not layer.update_running_stats):
            raise ValueError(f"bn_layers[{i}] is frozen; expected use_running_stats=False and "
                             "update_running_stats=True, as after unfreeze()")
    if not callable(forward):
        raise TypeError(f"forward must be callable, got {type(forward).__name__}")
    check_iterable(batches, "batches", "an iterable")
    if progress is not None:
        check_flag(progress, "progress")
    gatherings = [Gathering(layer._running, layer._no_values()) for layer in layers]
    with contextlib.ExitStack() as stack:
        for layer, gathering in zip(layers, gatherings, strict=True):
            stack.enter_context(layer._followed_by(gathering))
        for batch in _watched(batches, progress):
            forward(batch)
    new = [_averages(f"bn_layers[{i}]", layer, gathering)
           for i, (layer, gathering) in enumerate(zip(layers, gatherings, strict=True))]
    targets, values = {}, {}
    for i, (layer, vectors) in enumerate(zip(layers, new, strict=True)):
        for name, vector in vectors.items():
            targets[f"bn_layers[{i}].{name}"], values[f"bn_layers[{i}].{name}"] = getattr(layer, name), vector
    views.assign(targets, values)
    for layer, gathering in zip(layers, gatherings, strict=True):
        layer._running.progress = Progress(gathering.batches, gathering.weights, gathering.stats.copy())
    return [gathering.stats for gathering in gatherings]


class Gathering:
    """Receives the batches of a layer in place of its running statistics, which stay unchanged.

    Parameters
    ----------
    running : RunningStatistics
        Decides which batches to leave out.
    stats : ChannelStats
        Of no values yet.
    """

    exact: bool = True

    def __init__(self, running: RunningStatistics, stats: ChannelStats) -> None:
        self.running: RunningStatistics = running
        self.stats: ChannelStats = stats
        self.weights: Weights = Weights()
        self.batches: int = 0
        self.skipped: int = 0

    def accepts(self, batch: Batch) -> bool:
        """Return whether `nan_policy` allows the batch."""
        return self.running.is_usable(batch)

    def follow(self, batch: Batch) -> bool:
        """Merge a batch; return False if `nan_policy` left it out."""
        if batch.size and not self.accepts(batch):
            self.skipped += 1
            return False
        self.batches += self.running.counts(batch)
        if batch.size:
            self.stats.merge(batch.to_stats())
            self.weights.add(batch.size / values_per_channel(self.stats), batch)
        return True


OF_DOMAINS = "expected the layers of its domains, layer[domain]"


def check_layers(bn_layers: Layers) -> list[BatchNorm | BatchRenorm]:
    """Return distinct layers with running averages, or raise an error."""
    if isinstance(bn_layers, DomainSpecificBatchNorm):
        raise TypeError(f"bn_layers is a DomainSpecificBatchNorm; {OF_DOMAINS}")
    if not isinstance(bn_layers, (BatchNorm, BatchRenorm, Iterable)):
        raise TypeError(f"bn_layers must be a BatchNorm or an iterable of them, got {type(bn_layers).__name__}")
    layers = [bn_layers] if isinstance(bn_layers, (BatchNorm, BatchRenorm)) else list(bn_layers)
    if not layers:
        raise ValueError("bn_layers is empty; expected one BatchNorm or more")
    for i, layer in enumerate(layers):
        if not isinstance(layer, (BatchNorm, BatchRenorm)):
            hint = f"; {OF_DOMAINS}" if isinstance(layer, DomainSpecificBatchNorm) else ""
            raise TypeError(f"bn_layers[{i}] must be a BatchNorm or BatchRenorm, got {type(layer).__name__}{hint}")
        if layer.running_mean is None or layer.running_var is None:
            raise ValueError(f"bn_layers[{i}] keeps no running averages; expected track_running_stats=True")
        if any(layer is other for other in layers[:i]):
            raise ValueError(f"bn_layers[{i}] appears twice; expected each layer once")
    return layers


def _averages(name: str, layer: BatchNorm | BatchRenorm, gathering: Gathering) -> dict[str, NDArray[Any]]:
    # In the dtypes of its arrays, finite.
    stats = gathering.stats
    if not values_per_channel(stats):
        seen = "only values that it skips" if gathering.skipped else "no values in training mode"
        raise ValueError(f"{name} saw {seen}; expected forward to run batches through it")
    empty = np.flatnonzero(stats.count == 0)
    if empty.size:
        raise ValueError(f"{name} saw no values in {channels(empty.tolist())}, by its masks; expected some in each")
    vectors = {"running_mean": stats.mean, "running_var": stats.var(ddof=int(layer.unbiased))}
    for attribute, vector in vectors.items():
        kind = getattr(layer, attribute).dtype      # that of an assigned array may be another one than the layer's
        with np.errstate(all="ignore"):     # seen below
            vectors[attribute] = vector.astype(kind)
        wrong = np.flatnonzero(~np.isfinite(vectors[attribute])).tolist()
        if wrong:
            raise ValueError(f"{name} has a {attribute} that is not finite in {kind} in {channels(wrong)}")
    return vectors


def _watched(batches: Iterable[Any], progress: bool | None) -> Iterable[Any]:
    if progress is False or (progress is None and not sys.stderr.isatty()):
        return batches
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        if progress is None:
            return batches
        raise ImportError(missing("progress=True", "tqdm", "population")) from None
    bar: Iterable[Any] = tqdm(batches, unit="batch", desc="population statistics")
    return bar
