"""The methods of `BatchNorm` around its running averages; the work is done in _averaging, accumulation and _health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fastbn._core.checks import check_choice, check_flag, check_momentum
from fastbn._core.views import assign
from fastbn.layers import running as _averaging
from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from fastbn.layers.accumulate import WholeBatch
    from fastbn.layers.batchnorm import BatchNorm
    from fastbn.layers.report import Report


MOMENTUM = 0.1      # the default


class Averaged:
    """The methods; `BatchNorm` inherits them."""

    num_features: int
    axis: int
    momentum: float | None
    debias: bool
    running_mean: NDArray[Any] | None
    running_var: NDArray[Any] | None
    num_batches_tracked: int
    _averages: _averaging.Moving
    _exact: bool
    _warned: bool       # of a batch that the averages do not follow

    def _choose_averaging(self, averaging: object, momentum: object, debias: object) -> None:
        chosen = check_choice(averaging, "averaging", _averaging.AVERAGINGS)
        if chosen == "cumulative":
            if check_momentum(momentum) not in (None, MOMENTUM):
                raise ValueError(f"momentum must be None, or not given, with averaging='cumulative', got {momentum!r}")
            momentum = None
        self._exact = chosen == "exact"
        if self._exact and not self.track_running_stats:
            raise ValueError("track_running_stats must be True with averaging='exact', got False")
        self.momentum = check_momentum(momentum)
        self.debias = check_flag(debias, "debias")
        self._begin()

    def _begin(self) -> None:
        self._averages = (_averaging.Exact(stats=ChannelStats(self.num_features, axis=self.axis)) if self._exact
                          else _averaging.Moving())
        self._warned = False

    @property
    def track_running_stats(self) -> bool:
        """Whether there are running averages."""
        return self.running_mean is not None or self.running_var is not None

    @property
    def averaging(self) -> str:
        """What the running averages are: "ema", "cumulative" (where momentum is None) or "exact"."""
        return "exact" if self._exact else "cumulative" if self.momentum is None else "ema"

    def _evaluation_statistics(self) -> tuple[NDArray[Any], NDArray[Any]]:
        # What evaluation mode normalizes by, of a layer that has running averages.
        assert self.running_mean is not None
        assert self.running_var is not None
        return _averaging.debiased(cast("BatchNorm", self)) if self.debias else (self.running_mean, self.running_var)

    def reset_running_stats(self) -> None:
        """Begin the running averages anew: mean 0, variance 1, no batches.

        Examples
        --------
        >>> import numpy as np
        >>> import fastbn
        >>> bn = fastbn.BatchNorm(2, averaging="exact")
        >>> y = bn(np.array([[1.0, 5.0], [3.0, 5.0]]))
        >>> bn.running_mean, bn.running_var
        (array([2., 5.], dtype=float32), array([2., 0.], dtype=float32))
        >>> bn.reset_running_stats()
        >>> bn.running_mean, bn.running_var
        (array([0., 0.], dtype=float32), array([1., 1.], dtype=float32))
        """
        if self.running_mean is not None and self.running_var is not None:
            new = {"running_mean": np.zeros(self.num_features), "running_var": np.ones(self.num_features)}
            assign({name: getattr(self, name) for name in new}, new)
        self.num_batches_tracked = 0
        self._begin()

    def accumulate(self, micro_batches: Iterable[ArrayLike]) -> WholeBatch:
        """Take several micro-batches as one training batch: statistics first, then forward and backward of each.

        The result is that of all micro-batches in one array, and so is the one step of the running averages.

        Parameters
        ----------
        micro_batches : iterable of array_like
            Each as x of a forward; one value per channel will do, if there is another micro-batch. They are read once,
            here, and must be given again to `WholeBatch.__call__`.

        Returns
        -------
        fastbn.layers.accumulate.WholeBatch

        Raises
        ------
        RuntimeError
            If the layer is in evaluation mode.
        TypeError, ValueError
            As a forward; also if there is no value, or only one, per channel.

        Examples
        --------
        >>> import numpy as np
        >>> import fastbn
        >>> micro_batches = [np.array([[1.0]]), np.array([[2.0], [6.0]])]
        >>> bn = fastbn.BatchNorm(1, eps=1e-12)
        >>> whole = bn.accumulate(micro_batches)
        >>> ys = [whole(x) for x in micro_batches]
        >>> bool(abs(np.concatenate(ys) - bn(np.concatenate(micro_batches))).max() < 1e-12)
        True
        >>> dxs = whole.backward([np.ones_like(y) for y in ys])
        >>> bn.grad_beta
        array([3.], dtype=float32)
        """
        from fastbn.layers.accumulate import WholeBatch

        return WholeBatch(cast("BatchNorm", self), micro_batches)

    def report(self, x: ArrayLike | None = None) -> Report:
        """Return how the layer is: channels that are dead, NaN, negative or out of range, and the drift of a batch.

        Parameters
        ----------
        x : array_like, optional
            A live batch, as x of a forward. Its statistics are compared with those of evaluation mode; nothing changes.

        Returns
        -------
        fastbn.layers.report.Report
            Print it, plot it, or look at its arrays.

        Raises
        ------
        RuntimeError
            If the layer keeps no running averages.
        TypeError, ValueError
            If `x` is not what a training forward takes.

        Examples
        --------
        >>> import fastbn
        >>> bn = fastbn.BatchNorm(3)
        >>> bn.gamma[1] = 0
        >>> bn.report()
        3 channels, 0 batches, no statistics yet
        dead: 1 (channel 1)
        NaN: none
        negative variance: none
        saturated: none
        """
        from fastbn.layers.report import make_report

        return make_report(cast("BatchNorm", self), x)
