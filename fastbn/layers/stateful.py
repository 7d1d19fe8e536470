"""The methods of `BatchNorm` that give and take a state; what that must be is in _state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fastbn._core import views
from fastbn.checkpoints.state import check_state
from fastbn.layers.running import check_pair

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.layers.batchnorm import BatchNorm
    from fastbn.layers.running import Moving
    from fastbn.layers.tape import Tape


# What PyTorch calls the attributes.
NAMES = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}


class Stateful:
    """The methods; `BatchNorm` inherits them."""

    num_features: int
    dtype: np.dtype[Any]
    num_batches_tracked: int
    _averages: Moving
    _tape: Tape

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of parameters and running averages under PyTorch's names.

        Returns
        -------
        dict
            weight and bias, where there is a gamma and a beta; running_mean, running_var and num_batches_tracked, where
            they are kept. With ``averaging="exact"`` also exact_count, exact_mean, exact_mean_low and exact_m2, of
            float64 and shape (C,): the statistics of all batches so far, as those of `ChannelStats`. With
            ``debias=True`` also initial_weight, the weight that the initial values still have in the running averages.

        Examples
        --------
        >>> import fastbn
        >>> sorted(fastbn.BatchNorm(2).state_dict())
        ['bias', 'num_batches_tracked', 'running_mean', 'running_var', 'weight']
        """
        names = self._state_names()
        out = {name: np.empty(self.num_features, self.dtype) for name in names}
        views.assign(out, {name: getattr(self, attribute) for name, attribute in names.items()})
        if "running_mean" in names:
            out["num_batches_tracked"] = np.array(self.num_batches_tracked, np.int64)
            out |= self._averages.to_state(cast("BatchNorm", self))
        return out

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over parameters and running averages; all of them or, with an error, none.

        Parameters
        ----------
        state : mapping of str to array_like
            As `state_dict` returns it, or that of a torch.nn.BatchNorm layer. num_batches_tracked and what goes beyond
            PyTorch's names may be missing, or be there without need. Without exact_count and its relatives "exact"
            begins anew with the next batch, and evaluates by the averages loaded until then; without initial_weight
            "debias" takes it from num_batches_tracked and momentum, and averages without a counter as they are.

        Raises
        ------
        TypeError
            If a value is not an array of floating-point numbers.
        ValueError
            If a name is missing or unknown, a shape is not (C,), a value is not finite, or a variance is negative.
        """
        loaded, tracked = check_state(state, self._state_names(), self.num_features, self.dtype)
        averages = self._averages.from_state(cast("BatchNorm", self), state, loaded, tracked)
        views.assign({attribute: getattr(self, attribute) for attribute in loaded}, loaded)
        if "running_mean" in loaded:
            self.num_batches_tracked = tracked
        self._averages = averages
        self._tape.last = None

    def _state_names(self) -> dict[str, str]:
        check_pair(cast("BatchNorm", self))
        return {name: attribute for name, attribute in NAMES.items() if getattr(self, attribute) is not None}
