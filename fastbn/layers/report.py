"""Report of a layer: the health of its parameters and running averages, and the drift of a live batch from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fastbn._core import views
from fastbn._core.checks import channels, counted
from fastbn._core.tensors import as_constant
from fastbn.layers.batch import values_per_channel
from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    import os

    from numpy.typing import ArrayLike, NDArray

    from fastbn._core.checks import Axis
    from fastbn.layers.running import RunningStatistics

# A variance below this share of eps gives a standard deviation below 0.032 before gamma.
DEAD_SHARE = 1e-3
# Numbers above the largest of the dtype divided by this are within three decimal digits of the end of its range.
HEADROOM = 1024.0


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The result of `BatchNorm.report`; its text is a summary.

    Attributes
    ----------
    mean, var : ndarray of float64, shape (C,)
        The statistics that evaluation mode uses.
    scale : ndarray of float64, shape (C,)
        gamma / sqrt(var + eps), the factor of evaluation mode.
    dead : ndarray of bool, shape (C,)
        gamma is 0, or the variance is below a thousandth of eps: the output hardly depends on the input.
    nan : ndarray of bool, shape (C,)
        gamma, beta, the mean or the variance is NaN.
    negative : ndarray of bool, shape (C,)
        The variance is below 0, which evaluation mode refuses.
    saturated : ndarray of bool, shape (C,)
        The scale, the mean or the variance is above 1/1024 of the largest number of the layer's dtype, or infinite.
    num_batches_tracked : int
    effective_batches : float
        Number of batches of equal weight that would leave as much noise in the averages: (sum w)^2 / sum w^2 over the
        weights of the batches (Kish, 1965, "Survey Sampling"). For an EMA of many batches it tends to
        (2 - momentum) / momentum. 0 before any batch; NaN if the weights are unknown, as after loading a state without
        a counter.
    effective_samples : float
        The same of values per channel: (sum w)^2 / sum (w^2 / n), batch by batch of n values. With
        ``averaging="exact"`` it is the count. NaN if batch sizes are unknown, because a state does not contain them.
    live : ChannelStats or None
        Statistics of the live batch.
    drift : ndarray of float64, shape (C,), or None
        Distance of the batch from the stored statistics: the Kullback-Leibler divergence in nats of the normal
        distribution with the batch's mean m and variance v from the one with the stored mean and variance, ::

            KL = (v / var - 1 - ln(v / var) + (m - mean)^2 / var) / 2

        with eps added to both variances, because the layer cannot distinguish smaller ones. v is biased or unbiased as
        the stored variance. 0 if they agree, and about 1 / n for n values of the stored distribution. Kullback and
        Leibler (1951), "On Information and Sufficiency", https://doi.org/10.1214/aoms/1177729694.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> bn = fastbn.BatchNorm(1, eps=1e-12, momentum=1.0, unbiased=False)
    >>> y = bn(np.array([[-1.0], [1.0]]))
    >>> report = bn.report(np.array([[2.0], [6.0]]))     # mean 4 and variance 4, where the layer has 0 and 1
    >>> report.drift.round(4), round((4 - 1 - np.log(4) + 16) / 2, 4)
    (array([8.8069]), np.float64(8.8069))
    """

    mean: NDArray[np.float64]
    var: NDArray[np.float64]
    scale: NDArray[np.float64]
    dead: NDArray[np.bool_]
    nan: NDArray[np.bool_]
    negative: NDArray[np.bool_]
    saturated: NDArray[np.bool_]
    num_batches_tracked: int
    effective_batches: float
    effective_samples: float
    live: ChannelStats | None = None
    drift: NDArray[np.float64] | None = None

    @property
    def healthy(self) -> bool:
        """Whether no channel is dead, NaN, negative or saturated."""
        return not (self.dead | self.nan | self.negative | self.saturated).any()

    def __repr__(self) -> str:
        lines = [f"{counted(len(self.mean), 'channel')}, {counted(self.num_batches_tracked, 'batch', 'batches')}, "
                 f"{self._worth()}"]
        for name, found in (("dead", self.dead), ("NaN", self.nan), ("negative variance", self.negative),
                            ("saturated", self.saturated)):
            wrong = np.flatnonzero(found).tolist()
            text = f"{len(wrong)} ({channels(wrong)})" if wrong else "none"
            lines.append(f"{name}: {text}")
        if self.drift is not None:
            known = np.where(np.isnan(self.drift), -np.inf, self.drift)
            worst = int(known.argmax())
            text = "unknown"
            if known[worst] > -np.inf:
                text = (f"{np.nanmedian(self.drift):.3g} nats in the median, "
                        f"{known[worst]:.3g} at most (channel {worst})")
            lines.append(f"drift of the batch: {text}")
        return "\n".join(lines)

    def _worth(self) -> str:
        if self.effective_batches == 0:
            return "no statistics yet"
        worth = []
        if not math.isnan(self.effective_batches):
            number = f"{self.effective_batches:.4g}"
            worth.append(f"{number} batch" if number == "1" else f"{number} batches")
        if not math.isnan(self.effective_samples):
            worth.append(f"{self.effective_samples:.6g} values per channel")
        return f"worth {' or '.join(worth)}" if worth else "of unknown weight"

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw mean, deviation, scale and the drift of a live batch per channel, and mark unhealthy channels.

        Parameters
        ----------
        path : path-like
            The suffix determines the format: .png, .svg, .pdf.

        Raises
        ------
        ImportError
            If matplotlib is not installed; the extra "population" includes it.
        """
        from fastbn.layers.report_picture import draw

        draw(self, path)


class Reported(Protocol):
    """What a report needs of a layer."""

    num_features: int
    axis: Axis
    eps: float
    dtype: np.dtype[Any]
    num_threads: int | None
    gamma: Any
    beta: Any
    _running: RunningStatistics


def make_report(layer: Reported, x: ArrayLike | None) -> Report:
    """Return the report of a layer; `BatchNorm.report` documents it."""
    running = layer._running
    vectors = {"running_mean": running.running_mean, "running_var": running.running_var, "gamma": layer.gamma,
               "beta": layer.beta}
    if vectors["running_mean"] is None or vectors["running_var"] is None:
        raise RuntimeError("a layer with track_running_stats=False has no statistics to report")
    for name, vector in vectors.items():
        views.check_vector(vector, layer.num_features, name)
    mean, var = (np.array(v, np.float64) for v in running.evaluation())
    gamma, beta = (np.full(layer.num_features, missing) if v is None else np.array(as_constant(v, name), np.float64)
                   for v, name, missing in ((layer.gamma, "gamma", 1.0), (layer.beta, "beta", 0.0)))
    with np.errstate(invalid="ignore", divide="ignore"):  # of a negative or zero variance
        scale = gamma / np.sqrt(var + layer.eps)
    limit = float(np.finfo(layer.dtype).max) / HEADROOM
    weights = running.weights
    known = 1 - weights.initial
    live, drift = (None, None) if x is None else _drift(layer, x, mean, var)
    return Report(
        mean, var, scale,
        dead=(gamma == 0) | ((var >= 0) & (var <= DEAD_SHARE * layer.eps)),
        nan=np.isnan(mean) | np.isnan(var) | np.isnan(gamma) | np.isnan(beta),
        negative=var < 0,
        saturated=(np.abs(mean) > limit) | (np.abs(var) > limit) | (np.abs(scale) > limit),
        num_batches_tracked=running.num_batches_tracked,
        effective_batches=_effective(known, weights.squares),
        effective_samples=_effective(known, weights.squares_by_count),
        live=live, drift=drift)


def divergence(
    mean: NDArray[Any], var: NDArray[Any], other_mean: NDArray[Any], other_var: NDArray[Any]
) -> NDArray[np.float64]:
    """Return KL(N(mean, var) || N(other_mean, other_var)) in nats, elementwise.

    Examples
    --------
    >>> import numpy as np
    >>> divergence(np.array([0.0, 1.0]), np.array([1.0, 1.0]), np.zeros(2), np.ones(2))
    array([0. , 0.5])
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # of statistics that are not finite or negative
        # The ratio of the variances minus 1 keeps the digits of small differences.
        excess = (var - other_var) / other_var
        logarithm = np.where(np.abs(excess) < 0.5, np.log1p(excess), np.log(var) - np.log(other_var))
        distance = (mean - other_mean) / np.sqrt(other_var)
        result: NDArray[np.float64] = (excess - logarithm + distance * distance) / 2
    return result


def _drift(
    layer: Reported, x: ArrayLike, mean: NDArray[Any], var: NDArray[Any]
) -> tuple[ChannelStats, NDArray[np.float64]]:
    view = views.view(x, layer.axis, layer.num_features)      # refuses dtypes that only statistics accept
    axis = layer.axis if isinstance(layer.axis, int) else view.axis
    live = ChannelStats(layer.num_features, axis=axis).update(view.array, num_threads=layer.num_threads)
    count = values_per_channel(live)
    if count < 2:
        raise ValueError(f"x has {counted(count, 'value')} per channel; expected two or more")
    live_var = live.var(ddof=int(layer._running.unbiased))
    return live, divergence(live.mean, live_var + layer.eps, mean, var + layer.eps)


def _effective(known: float, squares: float) -> float:
    return known * known / squares if squares else 0.0
