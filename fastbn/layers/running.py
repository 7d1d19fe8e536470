"""Running averages of means and variances: how they follow training batches, and their state.

`RunningStatistics` holds the averages of a layer and takes statistics of batches; it does not depend on a layer. It
raises errors or returns whether it followed a batch, and the layer decides what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from fastbn._core import views
from fastbn._core.checks import channels, check_choice, check_flag, check_momentum
from fastbn.checkpoints.settings import AVERAGINGS, UPDATE_POLICIES
from fastbn.checkpoints.state import MOST_BATCHES, check_exact, check_initial_weight, check_tracked
from fastbn.layers.attributes import Check, Checked, set_unchecked
from fastbn.layers.batch import Batch, values_per_channel
from fastbn.layers.running_checks import check_debias, check_running, check_running_momentum
from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.checkpoints.settings import Averaging, UpdatePolicy

MOMENTUM = 0.1      # the default


@dataclass(slots=True)
class Weights:
    """The weights of the batches in the running averages.

    Attributes
    ----------
    initial : float
        Remaining weight of the initial 0 and 1; the batches have the rest.
    squares : float
        Sum of the squared weights of the batches; NaN if unknown.
    squares_by_count : float
        Sum of squared weight / values per channel; NaN if the sizes of the batches are unknown. Both sums are NaN after
        a batch whose channels differ in size.
    """

    initial: float = 1.0
    squares: float = 0.0
    squares_by_count: float = 0.0

    def add(self, factor: float, batch: Batch) -> None:
        """Add a batch with this weight; the weights of earlier ones shrink in proportion."""
        kept = 1.0 - factor
        if kept == 0:       # nothing is left of earlier batches, known or unknown
            self.squares = self.squares_by_count = 0.0
        self.initial *= kept
        earlier, new = kept * kept, factor * factor
        self.squares = earlier * self.squares + new
        self.squares_by_count = earlier * self.squares_by_count + new / (batch.size * batch.instances)
        if batch.counts is not None:    # no single number fits all channels
            self.squares = self.squares_by_count = np.nan

    @classmethod
    def after(cls, batches: int, momentum: float | None) -> Weights:
        """Return the weights after this many batches of unknown size."""
        if not batches:
            return cls()
        if momentum is None:
            return cls(0.0, 1 / batches, np.nan)
        kept = 1.0 - momentum
        squares = momentum * (1 - kept ** (2 * batches)) / (1 + kept)    # of a geometric series
        return cls(kept ** batches, squares, np.nan)


class Progress(NamedTuple):
    """What running averages have besides their two vectors.

    Attributes
    ----------
    tracked : int
        Number of training batches.
    weights : Weights
    stats : ChannelStats or None
        All values of all batches; None unless the averaging is "exact".
    """

    tracked: int
    weights: Weights
    stats: ChannelStats | None


@dataclass(kw_only=True, slots=True, eq=False)
class AveragingOptions:
    """How running averages follow batches; the settings of `fastbn.BatchNorm`."""

    averaging: Averaging = "ema"
    momentum: float | None = MOMENTUM
    unbiased: bool = True
    debias: bool = False
    nan_policy: UpdatePolicy = "propagate"


class RunningStatistics(Checked):
    """Running mean and variance, which follow training batches.

    Parameters
    ----------
    num_features : int
    dtype : dtype
        float32 or float64.
    tracked : bool
        Whether there are running averages.
    options : AveragingOptions

    Attributes
    ----------
    running_mean, running_var : ndarray, shape (C,), or None
    num_batches_tracked : int
    weights : Weights
    stats : ChannelStats or None
        All values of all batches, if the averaging is "exact".
    """

    _checks: ClassVar[Mapping[str, Check]] = {
        "running_mean": check_running,
        "running_var": check_running,
        "num_batches_tracked": lambda _, value, name: check_tracked(value),
        "momentum": check_running_momentum,
        "unbiased": lambda _, value, name: check_flag(value, name),
        "debias": check_debias,
        "nan_policy": lambda _, value, name: check_choice(value, name, UPDATE_POLICIES),
    }
    exact: ClassVar[bool] = False       # as a Follower: the sums of the fused forward pass are precise enough

    num_features: int
    dtype: np.dtype[Any]
    running_mean: NDArray[Any] | None
    running_var: NDArray[Any] | None
    num_batches_tracked: int
    momentum: float | None
    unbiased: bool
    debias: bool
    nan_policy: UpdatePolicy
    weights: Weights
    stats: ChannelStats | None

    def __init__(self, num_features: int, dtype: np.dtype[Any], tracked: bool, options: AveragingOptions) -> None:
        averaging, momentum = check_choice(options.averaging, "averaging", AVERAGINGS), options.momentum
        if averaging == "cumulative":
            if check_momentum(momentum) not in (None, MOMENTUM):
                raise ValueError(f"momentum must be None, or not given, with averaging='cumulative', got {momentum!r}")
            momentum = None
        if averaging == "exact" and not tracked:
            raise ValueError("track_running_stats must be True with averaging='exact', got False")
        self.num_features, self.dtype, self._shape = num_features, dtype, (num_features,)
        self.stats = ChannelStats(num_features) if averaging == "exact" else None
        set_unchecked(self, "debias", False)       # until the settings it depends on are there
        self.momentum = momentum
        self.running_mean = np.zeros(num_features, dtype) if tracked else None
        self.running_var = np.ones(num_features, dtype) if tracked else None
        self.num_batches_tracked, self.weights = 0, Weights()
        self.debias, self.unbiased, self.nan_policy = options.debias, options.unbiased, options.nan_policy

    @property
    def tracked(self) -> bool:
        """Whether there are running averages."""
        return self.running_mean is not None or self.running_var is not None

    @property
    def averaging(self) -> Averaging:
        """The kind of average: "ema", "cumulative" (momentum is None) or "exact"."""
        return "exact" if self.stats is not None else "cumulative" if self.momentum is None else "ema"

    def reset(self) -> None:
        """Restart: mean 0, variance 1, no batches."""
        if self.running_mean is not None and self.running_var is not None:
            new = {"running_mean": np.zeros(self.num_features), "running_var": np.ones(self.num_features)}
            views.assign(self.vectors(), new)
        self.progress = Progress(0, Weights(), None if self.stats is None else ChannelStats(self.num_features))

    # Following batches.

    def check(self, training: bool) -> None:
        """Raise an error unless both averages are there, or neither, and training can write to them."""
        mean, var = self.running_mean, self.running_var
        if (mean is None) != (var is None):
            missing = "running_mean" if mean is None else "running_var"
            raise ValueError(f"{missing} is None; expected both running averages, or neither")
        if training and mean is not None and var is not None:
            views.check_averages(mean, var, self.num_features)
            if self.num_batches_tracked == MOST_BATCHES:
                raise ValueError(f"num_batches_tracked is {MOST_BATCHES}, and training cannot count another batch; "
                                 "expected a smaller number")

    def accepts(self, batch: Batch) -> bool:
        """Return whether the averages would follow a batch.

        Raises
        ------
        ValueError
            If a channel has no values and the averages need values in each, or if the batch is not finite and
            `nan_policy` is "raise".
        """
        if (batch.counts is not None or batch.size == 1) and self.running_mean is not None and (
                self.debias or self.averaging == "cumulative"):
            setting = "debias=True" if self.debias else "averaging='cumulative'"
            if batch.single():
                raise ValueError(f"x has a single value in {channels(batch.single())}, which has no variance; with "
                                 f"{setting} the running variance needs two or more, unless on_single='running'")
            empty = [] if batch.counts is None else np.flatnonzero(batch.counts == 0).tolist()
            if empty:
                raise ValueError(f"mask leaves no values in {channels(empty)}; with {setting} a batch has the same "
                                 "weight in all channels, and needs values in each")
        return self.is_usable(batch)

    def is_usable(self, batch: Batch) -> bool:
        """Return whether `nan_policy` lets the averages follow a batch, or raise ValueError if it is "raise"."""
        if self.nan_policy == "propagate" or not batch.size or not (self.tracked or self.nan_policy == "raise"):
            return True
        wrong = self._not_finite(batch)
        if wrong and self.nan_policy == "raise":
            raise ValueError(f"{self.describe(batch)}; nan_policy='raise' requires finite values")
        return not wrong

    def describe(self, batch: Batch) -> str:
        """Return what keeps a batch from being followed, as text."""
        wrong = self._not_finite(batch)
        return f"x has a mean or variance that is not finite in {self._narrowest} in {channels(wrong)}"

    @property
    def _narrowest(self) -> np.dtype[Any]:
        # An array that was assigned may have another dtype than the layer.
        arrays = (array for array in (self.running_mean, self.running_var) if array is not None)
        return min((array.dtype for array in arrays), key=lambda dtype: dtype.itemsize, default=self.dtype)

    def _not_finite(self, batch: Batch) -> list[int]:
        limit = np.finfo(self._narrowest).max
        good = (np.abs(batch.mean) <= limit) & (batch.running_var(self.unbiased) <= limit)     # and no NaN
        wrong: list[int] = np.flatnonzero(~good).tolist()
        return wrong

    def follow(self, batch: Batch) -> bool:
        """Move the averages towards a batch; return False if `nan_policy` left it out.

        A forward pass calls this last, when nothing can fail any more.
        """
        size = batch.size
        if size and not self.accepts(batch):
            return False
        mean, var = self.running_mean, self.running_var
        if mean is None or var is None:
            return True
        tracked = self.num_batches_tracked + 1
        if size and self.stats is not None:
            self._merge(batch, self.stats, mean, var)
        elif size:
            self._move(batch, 1.0 / tracked if self.momentum is None else self.momentum, mean, var)
        if size or self.counts(batch):
            set_unchecked(self, "num_batches_tracked", tracked)
        return True

    def counts(self, batch: Batch) -> bool:
        """Return whether a batch is counted: an empty one is not if the counter determines the weights."""
        return batch.size > 0 or not (self.momentum is None or self.debias)

    def _move(self, batch: Batch, factor: float, mean: NDArray[Any], var: NDArray[Any]) -> None:
        # running = (1 - factor) * running + factor * batch
        # The variance of a single value is not known, and moves nothing.
        if batch.counts is None and batch.size > 1 and batch.unbiased is None:
            ratio = batch.size / (batch.size - 1) if self.unbiased else 1.0
            views.move(mean, var, batch.mean, batch.var, factor, ratio)
        else:
            with np.errstate(all="ignore"):     # Inf beyond the dtype, as documented
                new_var = batch.over(var, batch.running_var(self.unbiased), 2)
                views.move(mean, var, batch.over(mean, batch.mean), new_var, factor, 1.0)
        self.weights.add(factor, batch)

    def _merge(self, batch: Batch, stats: ChannelStats, mean: NDArray[Any], var: NDArray[Any]) -> None:
        # Mean and variance of all values of all batches.
        stats = stats + batch.to_stats()
        with np.errstate(all="ignore"):
            whole = Batch.from_stats(stats)
            mean[...], var[...] = (
                whole.over(mean, stats.mean), whole.over(var, stats.var(ddof=int(self.unbiased)), 2))
        self.stats = stats
        self.weights.add(batch.size / values_per_channel(stats), batch)

    # What evaluation mode uses.

    def evaluation(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return mean and variance for evaluation mode; the averages must be there.

        With debias they come without the share of the initial 0 and 1, as in Adam (Kingma and Ba, 2015, section 3,
        https://arxiv.org/abs/1412.6980), but the variance starts at 1: mean / (1 - w) and (var - w) / (1 - w), with
        w = (1 - momentum)^batches. Before any batch, the averages as they are.
        """
        mean, var, w = self.running_mean, self.running_var, self.weights.initial
        assert mean is not None
        assert var is not None
        if not self.debias or w in (0.0, 1.0):
            return mean, var
        corrected = np.subtract(var, w, dtype=np.float64) / (1 - w)
        # Rounding may leave a variance far below 1 slightly negative; a negative running variance stays visible.
        return np.divide(mean, 1 - w, dtype=np.float64), np.where(var < 0, var, np.maximum(corrected, 0))

    # State.

    def vectors(self) -> dict[str, NDArray[Any]]:
        """Return the averages by name, if there are any."""
        self.check(training=False)
        if self.running_mean is None or self.running_var is None:
            return {}
        return {"running_mean": self.running_mean, "running_var": self.running_var}

    @property
    def progress(self) -> Progress:
        """All but the vectors."""
        return Progress(self.num_batches_tracked, self.weights, self.stats)

    @progress.setter
    def progress(self, progress: Progress) -> None:
        self.num_batches_tracked, self.weights = progress.tracked, progress.weights
        if self.stats is not None:
            self.stats = progress.stats

    def progress_to_state(self) -> dict[str, NDArray[Any]]:
        """Return the progress as entries of a state, of which those after the first are fastbn's own."""
        if not self.tracked:
            return {}
        state: dict[str, NDArray[Any]] = {"num_batches_tracked": np.array(self.num_batches_tracked, np.int64)}
        if self.stats is not None:
            state |= {f"exact_{name}": vector for name, vector in self.stats.to_arrays().items()}
        elif self.debias:
            state["initial_weight"] = np.array(self.weights.initial)
        return state

    def progress_from_state(
        self, state: Mapping[str, Any], vectors: Mapping[str, NDArray[Any]], tracked: int
    ) -> Progress:
        """Return the progress of a state.

        Parameters
        ----------
        state : mapping
            Its entries beside the vectors and the counter may be missing.
        vectors : mapping of str to ndarray
            Those of the state, checked, by attribute.
        tracked : int
            The counter of the state, checked.
        """
        if not self.tracked:
            return self.progress
        if self.stats is None:
            return Progress(tracked, loaded_weights(self.momentum, state, vectors, tracked), None)
        count, mean, low, m2 = check_exact(state, self.num_features)
        stats = ChannelStats.from_arrays(count, mean, m2, low)
        each = 1 / count[0] if count.all() and (count == count[0]).all() else np.nan
        weights = Weights(0.0, np.nan, each) if count.any() else loaded_weights(None, state, vectors, tracked)
        return Progress(tracked, weights, stats)


def loaded_weights(
    momentum: float | None, state: Mapping[str, Any], vectors: Mapping[str, NDArray[Any]], tracked: int
) -> Weights:
    """Return the weights of the batches of a state, as far as they are known."""
    weights = Weights.after(tracked, momentum)
    if not tracked and (vectors["running_mean"].any() or (vectors["running_var"] != 1).any()):
        # Without a counter, averages other than the initial ones have unknown weights.
        weights = Weights(0.0, np.nan, np.nan)
    initial = check_initial_weight(state)
    if initial is not None:
        weights.initial = initial
    return weights
