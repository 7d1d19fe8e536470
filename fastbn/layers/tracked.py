"""Layers with a statistic per channel and running averages of it, which evaluation mode uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastbn._core import views
from fastbn._core.checks import as_vector, check_finite, check_integer, check_size
from fastbn._core.saved import Saved, check_variance
from fastbn.affine import ChannelAffine
from fastbn.checkpoints.conventions import COUNTER
from fastbn.checkpoints.state import EXTRA, check_tracked
from fastbn.functional import batchnorm
from fastbn.layers import passes
from fastbn.layers.attributes import Check, forwarded, refusal, set_unchecked
from fastbn.layers.base import FREEZING, flat, set_tape, warn
from fastbn.layers.source import BACKWARD, Local, Source
from fastbn.layers.stored import StoredNorm
from fastbn.layers.tape import Tape, alive
from fastbn.statistics.channel_stats import ChannelStats

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._core.checks import Axis
    from fastbn.checkpoints.settings import Averaging, UpdatePolicy
    from fastbn.layers.batch import Batch, Follower
    from fastbn.layers.report import Report
    from fastbn.layers.running import RunningStatistics


def of_running(name: str, doc: str) -> Any:
    """Return a property that stands for an attribute of the running statistics."""
    return forwarded("_running", name, doc)


class TrackedNorm(StoredNorm):
    """A layer with a statistic per channel, and running averages of it, which evaluation mode uses.

    Parameters
    ----------
    num_features, axis
        The number of channels, and their axis.
    running : RunningStatistics
        Untracked in a layer without running averages.
    **parameters
        As in `Norm`.
    """

    _checks: ClassVar[Mapping[str, Check]] = {
        **StoredNorm._checks,
        "axis": lambda _, value, name: check_integer(value, name),
        "num_features": refusal("make a new layer"),
        "averaging": refusal("make a new layer, or assign momentum, of which None is 'cumulative'"),
        "track_running_stats": refusal("assign running_mean and running_var, or None to do without"),
    }

    _instead: ClassVar[Mapping[str, str]] = {**StoredNorm._instead, **dict.fromkeys(
        FREEZING, "assign learn_affine = False to freeze gamma and beta, and call eval() for constant statistics")}

    num_features: int
    axis: Axis
    running_mean: NDArray[Any] | Any = of_running("running_mean", "Running mean, shape (C,), or None.")
    running_var: NDArray[Any] | Any = of_running("running_var", "Running variance, shape (C,), or None.")
    num_batches_tracked: int = of_running("num_batches_tracked", "Number of training batches.")
    momentum: float | None = of_running("momentum", "Weight of a new batch; None for a plain average.")
    unbiased: bool = of_running("unbiased", "Whether the running variance averages unbiased variances.")
    debias: bool = of_running("debias", "Whether evaluation removes the share of the initial values.")
    nan_policy: UpdatePolicy = of_running("nan_policy", "What a batch that is not finite does.")

    _running: RunningStatistics
    _source: Source         # of batch sums
    _follower: Follower     # the running statistics, unless something else receives the batches
    _warned: bool           # of a batch that was left out
    _constants: Any
    _blend: Any = None      # a Blend of the running averages and the batch, for evaluation

    def __init__(
        self, num_features: int, *, axis: Axis, eps: float, scale: bool, center: bool, dtype: DTypeLike | None,
        num_threads: int | None,
    ) -> None:
        set_unchecked(self, "num_features", check_size(num_features, "num_features"))
        self.axis = axis
        super().__init__(
            (self.num_features,), eps=eps, scale=scale, center=center, dtype=dtype, num_threads=num_threads)
        self._source = Local()
        # What evaluation computes with while the parameters are those that it was made of. They are plain arrays that
        # may change at any time, so they are compared, which takes less time than making the constants again.
        self._constants = None

    def _track(self, running: RunningStatistics) -> None:
        # These averages are those of the layer, and receive its batches.
        self._running = self._follower = running
        self._warned = False

    @property
    def track_running_stats(self) -> bool:
        """Whether there are running averages."""
        return self._running.tracked

    @property
    def averaging(self) -> Averaging:
        """The kind of average: "ema", "cumulative" (momentum is None) or "exact"."""
        return self._running.averaging

    def _positional(self) -> list[str]:
        return [str(self.num_features)]

    def _derived(self) -> dict[str, Any]:
        return {**super()._derived(), "averaging": "cumulative" if self.momentum is None else "ema"}

    def reset_running_stats(self) -> None:
        """Restart the running averages: mean 0, variance 1, no batches.

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
        self._running.reset()
        set_unchecked(self, "_warned", False)

    def _warn_once(self, batch: Batch) -> None:
        # Of a batch that was left out.
        if not self._warned:
            set_unchecked(self, "_warned", True)
            warn(f"{self._running.describe(batch)}; the running averages do not follow such batches (reported once)",
                 RuntimeWarning)

    @contextmanager
    def _followed_by(self, follower: Follower) -> Iterator[None]:
        # In training mode, with another object that receives the batches; afterwards as before.
        training, before, tape = self.training, self._follower, self._tape
        self.train()
        self._follower = follower
        self._forget()
        try:
            yield
        finally:
            self.train(training)
            self._follower = before
            set_tape(self, tape)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_constants": None, "_blend": None}

    def backward(self, dy: ArrayLike, out: NDArray[Any] | None = None) -> Any:
        """Compute the gradients of the last forward pass.

        x, the parameters, eps and axis must be unchanged; after a forward pass in evaluation mode also the residual
        and the running averages. Of such changes, only a result that was written over x or the residual is an error.

        After a forward pass in evaluation mode the running averages are constants, and dx = gamma * rstd * dy. With an
        activation, dy is first multiplied by its derivative.
        Evaluation mode does not keep its inputs alive, but backward needs x and, with a ReLU, the residual: keep
        references to the arrays themselves. A temporary array, as in ``bn(x[:4])`` or ``bn(conv(x))``, no longer exists
        then.

        Parameters
        ----------
        dy : array_like, shape and dtype of x of the forward pass
        out : ndarray, shape and dtype of x, optional
            Buffer for dx; `dy` or x of the forward pass to work in place. Over x, no further backward pass is possible.

        Returns
        -------
        dx : ndarray
            Or the tuple ``(dx, dresidual)`` if the forward pass had a residual. `grad_gamma` and `grad_beta` are set.

        Raises
        ------
        RuntimeError
            If there was no forward pass, its input was overwritten, it was in evaluation mode and its input no longer
            exists, or it had a residual and an activation other than ReLU.
        TypeError, ValueError
            If `dy` or `out` does not fit.
        """
        last = self._tape
        tape = Tape(*last) if isinstance(last, tuple) else last
        if self._source.whole or (tape is not None and (tape.saved is None or tape.saved._kept.frozen)):
            return self._backward(tape, dy, out)
        with self._source.guard(BACKWARD):
            return self._backward(tape, dy, out)

    def _gradients(self, tape: Tape, x: Any, dy: ArrayLike, out: NDArray[Any] | None) -> tuple[Any, ...]:
        saved: Saved | None = tape.saved
        source = self._source
        if saved is None or not tape.whole or not source.whole:
            tape = tape.with_input(x, alive(tape.residual, "residual"))
            if saved is None:
                saved = passes.complete(tape, self.axis, self._parameters(), *self._constant_statistics())
            if not (tape.whole and (saved._kept.frozen or source.whole)):
                gradient = passes.Gradient(dy, tape, self.axis, self._parameters(), out)
                return passes.backward(gradient, source, saved._kept.frozen)
        # The sums of constant statistics belong to gamma and beta only.
        unused = np.zeros((2, self.num_features)) if saved._kept.frozen and not self.learn_affine else None
        return batchnorm.gradients(
            dy, x, saved, self.gamma, axis=self.axis, out=out, num_threads=self.num_threads, sums=unused)

    def _view(self, x: ArrayLike) -> views.View:
        # x as the kernels walk it, with the channels of the layer.
        return views.view(x, self.axis, self.num_features)

    def _no_values(self) -> ChannelStats:
        # Statistics to merge others into. Several channel axes are one axis there.
        return ChannelStats(self.num_features, axis=self.axis if isinstance(self.axis, int) else 1)

    def _constant_statistics(self) -> tuple[NDArray[Any], NDArray[Any]]:
        # Mean and variance of evaluation mode, checked.
        mean, var = self._running.evaluation()
        check_variance(var, self.eps, "running_var")
        return mean, var

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of parameters and running averages under the names of PyTorch.

        Returns
        -------
        dict
            weight and bias, if there are a gamma and a beta; running_mean, running_var and num_batches_tracked, if
            there are running averages. The vectors have the dtype of the layer, also where arrays of another dtype
            were assigned. With ``averaging="exact"`` also exact_count, exact_mean, exact_mean_low and
            exact_m2, of float64 and shape (C,): the statistics of all batches so far, as those of `ChannelStats`. With
            ``debias=True`` also initial_weight, the weight that the initial values still have in the running averages.

        Raises
        ------
        ValueError
            If an assigned array of float64 has values beyond the range of the layer's dtype.

        Examples
        --------
        >>> import fastbn
        >>> sorted(fastbn.BatchNorm(2).state_dict())
        ['bias', 'num_batches_tracked', 'running_mean', 'running_var', 'weight']
        """
        return super().state_dict() | self._running.progress_to_state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load parameters and running averages: all of them or, after an error, none.

        Parameters
        ----------
        state : mapping of str to array_like
            As `state_dict` returns it, or the state of a torch.nn.BatchNorm layer. num_batches_tracked and the names
            that PyTorch does not have are optional, and ignored if the layer does not need them. Without exact_count
            and the like, "exact" averages restart with the next batch, and evaluation uses the loaded averages until
            then. Without initial_weight, "debias" computes it from num_batches_tracked and momentum; averages without a
            counter are taken as they are.

        Raises
        ------
        TypeError
            If a value is not an array of floating-point numbers.
        ValueError
            If a name is missing or unknown, a shape is not (C,), a value is not finite, or a variance is negative.
        """
        vectors = self._vectors()
        loaded = self._checked(state, (*EXTRA, COUNTER))
        progress = self._running.progress_from_state(state, loaded, check_tracked(state.get(COUNTER, 0)))
        views.assign(flat(vectors), flat(loaded))
        self._running.progress = progress
        self._forget()

    def _vectors(self) -> dict[str, NDArray[Any]]:
        return super()._vectors() | self._running.vectors()

    def frozen(self) -> ChannelAffine:
        """Return the transform of evaluation mode as an immutable object. The layer itself stays as it is.

        Returns
        -------
        ChannelAffine

        Raises
        ------
        RuntimeError
            If the layer has no running averages.
        ValueError
            If a running variance is negative, or 0 with an eps of 0; or if there are several channel axes.

        Examples
        --------
        >>> import fastbn
        >>> fastbn.BatchNorm(2).frozen()
        ChannelAffine(2, axis=1)
        """
        given = {"running_mean": self.running_mean, "running_var": self.running_var, "gamma": self.gamma,
                 "beta": self.beta}
        if given["running_mean"] is None or given["running_var"] is None:
            raise RuntimeError("a layer with track_running_stats=False has no statistics to freeze")
        if not isinstance(self.axis, int):
            raise ValueError(f"axis is {self.axis}; expected one axis, because a ChannelAffine has one. Reshape x, and "
                             "use fastbn.ChannelAffine.from_statistics")
        batchnorm.check_vectors(self.num_features, **given)
        check_finite({name: as_vector(values, name) for name, values in given.items() if values is not None})
        saved = Saved.from_statistics(*self._constant_statistics(), eps=self.eps)
        scale, shift = batchnorm.forward_coefficients(saved.rstd, self.gamma, self.beta)
        return ChannelAffine(saved.mean, scale, shift, axis=self.axis, num_threads=self.num_threads)

    def report(self, x: ArrayLike | None = None) -> Report:
        """Return the state of each channel: dead, NaN, negative or out of range, and the drift of a batch.

        Parameters
        ----------
        x : array_like, optional
            A live batch, as in a forward pass, whose statistics are compared with those of evaluation mode. The layer
            does not change.

        Returns
        -------
        Report
            Print it, plot it, or use its arrays.

        Raises
        ------
        RuntimeError
            If the layer has no running averages.
        TypeError, ValueError
            If a training forward pass would refuse `x`.

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

        return make_report(self, x)

    def _observed(self, x: ArrayLike) -> ChannelStats:
        # The statistics of a batch that running averages would follow.
        view = self._view(x)        # refuses dtypes that only statistics accept
        axis = self.axis if isinstance(self.axis, int) else view.axis
        return ChannelStats(self.num_features, axis=axis).update(view.array, num_threads=self.num_threads)
