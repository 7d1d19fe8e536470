"""Batch renormalization."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_activation, check_flag, check_integer, check_trainable, listed
from fastbn._core.dispatch import kernels
from fastbn._core.views import same_memory
from fastbn.checkpoints.conventions import COUNTER
from fastbn.checkpoints.kinds import register_whole
from fastbn.functional import batchnorm
from fastbn.functional.renorm import Ramp, check_limit, corrected, correction, gradient_of_gamma
from fastbn.layers import passes
from fastbn.layers.attributes import Check, check_affine, check_dtype
from fastbn.layers.base import set_tape, warn
from fastbn.layers.batch import Batch
from fastbn.layers.deviations import RunningDeviations
from fastbn.layers.masked import Marks, is_jagged, read, refuse_marks, select
from fastbn.layers.running import MOMENTUM, AveragingOptions
from fastbn.layers.source import MicroBatches, reduce_several
from fastbn.layers.tape import Tape, of_evaluation
from fastbn.layers.tracked import TrackedNorm, of_running

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn.checkpoints.settings import UpdatePolicy
    from fastbn.layers.deviations import Averages
    from fastbn.layers.masked import Padding, Selection

Limit: TypeAlias = float | Callable[[int], float] | tuple[float, float, int, int]
RAMP = f"({', '.join(field.name for field in fields(Ramp))})"
SECOND = {"running_mean": "renorm_mean", "running_var": "renorm_var"}
# The schedules of the paper, section 4.1.
R_MAX, D_MAX = Ramp(1.0, 3.0, 5000, 40000), Ramp(0.0, 5.0, 5000, 25000)


def check_schedule(owner: object, value: Any, name: str) -> Limit:
    """Return a number, or a callable as it is; a tuple has the arguments of a `Ramp`."""
    if isinstance(value, (tuple, list)) and len(value) == len(fields(Ramp)):
        value = Ramp(*value)
    if isinstance(value, Ramp):
        check_limit(value.first, name)
        check_limit(value.last, name)
    if callable(value):
        schedule: Callable[[int], float] = value
        return schedule
    try:
        return check_limit(value, name)
    except TypeError:
        raise TypeError(
            f"{name} must be a number, a callable or a tuple {RAMP}, as for a Ramp, got {value!r}") from None


@register_whole
class BatchRenorm(TrackedNorm):
    """Batch renormalization: batch normalization for small batches and batches that are not independent.

    In training mode, with the mean and std = sqrt(var + eps) of the batch, and running averages of both, ::

        r = clip(std / running_std, 1 / r_max, r_max)
        d = clip((mean - running_mean) / running_std, -d_max, d_max)
        y = ((x - mean) / std * r + d) * gamma + beta

    and the running averages move towards mean and std. r and d are constants in the gradient. Where they are not
    clipped, y is that of evaluation mode, which normalizes by the running averages; with ``r_max=1`` and ``d_max=0``
    it is batch normalization. After Ioffe (2017), "Batch Renormalization: Towards Reducing Minibatch Dependence in
    Batch-Normalized Models", https://arxiv.org/abs/1702.03275.

    Parameters
    ----------
    num_features : int
    axis, eps, momentum, affine, scale, center, dtype, num_threads, nan_policy
        As in `BatchNorm`.
    r_max, d_max : float, callable or tuple
        Limits of at least 1 and 0; Inf does not clip. A callable gets num_batches_tracked, the number of training
        batches before this one, and returns the limit; a tuple has the arguments of a `Ramp`. By default the schedules
        of the paper: batch normalization for 5000 batches, then a `Ramp` to 3 after 40000 batches, and to 5 after
        25000.
    averages : {"std", "var"}
        What the running averages follow besides the mean: the deviation std, as in the paper and in Keras, or the
        variance, as in `BatchNorm`. The layer stores running_var = running_std^2 - eps in either case.
    renorm_momentum : float or None
        Weight of a batch in a second pair of running averages, `renorm_mean` and `renorm_var`, which r and d are then
        relative to; those of `momentum` serve evaluation only. This is Keras' bookkeeping, with 1 - renorm_momentum
        there. None, as in the paper: there is one pair.
    unbiased : bool
        Whether the averages follow the unbiased variance; the paper and Keras use the biased one.
    track_running_stats : bool
        Must be True.

    Attributes
    ----------
    gamma, beta, running_mean, running_var, num_batches_tracked, training, grad_gamma, grad_beta
        As in `BatchNorm`.
    running_std : ndarray of float64, shape (C,)
        sqrt(running_var + eps), a new array.
    renorm_mean, renorm_var : ndarray, shape (C,), or None
        The second pair of running averages.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.

    Notes
    -----
    A callable limit must be defined in a module for the layer to be pickled, and files hold numbers and a `Ramp` only.
    The state is that of a batch normalization, plus renorm_mean and renorm_var if there are any; if a state does not
    have them, they start from the running averages. To fold the layer, fold `frozen()`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> bn = fastbn.BatchRenorm(1, r_max=3.0, d_max=5.0, eps=1e-12, dtype=np.float64)
    >>> bn.running_mean[:], bn.running_var[:] = 1, 4
    >>> x = np.array([[1.0], [3.0]])
    >>> bn(x)                   # (x - 1) / 2, as in evaluation mode
    array([[0.],
           [1.]])
    >>> bn.running_mean, bn.running_std     # moved by 0.1 towards mean 2 and std 1
    (array([1.1]), array([1.9]))
    """

    _checks: ClassVar[Mapping[str, Check]] = {
        **TrackedNorm._checks, "r_max": check_schedule, "d_max": check_schedule}

    r_max: Limit
    d_max: Limit
    eps: float = of_running("eps", "Added to the variance.")
    averages: Averages = of_running("averages", "What the running averages follow besides the mean.")
    renorm_momentum: float | None = of_running("renorm_momentum", "Weight of a batch in the second pair of averages.")
    renorm_mean: NDArray[Any] | Any = of_running("renorm_mean", "Mean of the second pair, shape (C,), or None.")
    renorm_var: NDArray[Any] | Any = of_running("renorm_var", "Variance of the second pair, shape (C,), or None.")
    _running: RunningDeviations

    def __init__(
        self,
        num_features: int,
        *,
        axis: int = 1,
        eps: float = 1e-5,
        momentum: float | None = MOMENTUM,
        affine: bool = True,
        scale: bool | None = None,
        center: bool | None = None,
        track_running_stats: bool = True,
        r_max: Limit = R_MAX,
        d_max: Limit = D_MAX,
        averages: Averages = "std",
        renorm_momentum: float | None = None,
        unbiased: bool = False,
        dtype: DTypeLike | None = np.float32,
        num_threads: int | None = None,
        nan_policy: UpdatePolicy = "propagate",
    ) -> None:
        if not check_flag(track_running_stats, "track_running_stats"):
            raise ValueError("track_running_stats must be True in batch renormalization, got False")
        options = AveragingOptions(momentum=momentum, unbiased=unbiased, nan_policy=nan_policy)
        # Before the base class, which assigns eps.
        self._running = RunningDeviations(
            check_integer(num_features, "num_features", 1), check_dtype(dtype), options, eps=eps, averages=averages,
            renorm_momentum=renorm_momentum)
        super().__init__(
            num_features, axis=axis, eps=eps, dtype=dtype, num_threads=num_threads,
            **check_affine(affine, scale, center))
        self.r_max, self.d_max = r_max, d_max
        self._track(self._running)

    @property
    def running_std(self) -> NDArray[np.float64]:
        """Running deviation, sqrt(running_var + eps), shape (C,); a new array."""
        std: NDArray[np.float64] = np.sqrt(np.asarray(self.running_var, np.float64) + self.eps)
        return std

    def __call__(
        self,
        x: Any,
        residual: ArrayLike | None = None,
        activation: Activation = None,
        out: NDArray[Any] | None = None,
        *,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        padding: Padding = "zero",
    ) -> Any:
        """Normalize `x`.

        Parameters
        ----------
        x, residual, activation, out, mask, lengths, padding
            As in `BatchNorm`.

        Returns
        -------
        ndarray
            `out` if it was given, else a new array with the shape and dtype of x; for jagged x a tuple of it and the
            offsets.

        Raises
        ------
        TypeError, ValueError
            As `BatchNorm`; also if a callable limit returns something else than a limit.
        """
        blends = self._blend is not None and not self.training
        if isinstance(x, tuple) and is_jagged(x):
            refuse_marks(mask, lengths)
            values, offsets = x
            if blends:
                marks = Marks(None, None, padding)
                y = self._blend.evaluate(self, values, residual, activation, out, marks=marks, offsets=offsets)
                return y, offsets
            return self(values, residual, activation, out, padding=padding), offsets
        marks = Marks(mask, lengths, padding)
        if blends:
            return self._blend.evaluate(self, x, residual, activation, out, marks=marks)
        try:
            view = views.view(x, self.axis, self.num_features)
            selection = select(view, *marks)
            operands = passes.Operands.of(view, residual, activation, out)
            if self.training:
                return self._train(operands, selection, x)
            return self._evaluate(operands, selection, x, residual)
        except BaseException as error:
            self._forget_unless_refused(error)
            raise

    def _train(self, operands: passes.Operands, selection: Selection | None, x: ArrayLike) -> Any:
        check_trainable(operands.activation, operands.residual is not None)
        batchnorm.check_vectors(self.num_features, gamma=self.gamma, beta=self.beta)
        self._running.check(training=True)
        limits = self._limit("r_max"), self._limit("d_max")
        reference = self._running.reference()
        batch = self._read(operands.view, selection)
        self._follower.accepts(batch)
        r, d = correction((batch.mean, batch.mean_low), batch.statistics().var, self.eps, reference, limits)
        parameters = passes.Parameters(*corrected(self.gamma, self.beta, r, d), self.eps, self.num_threads)
        y, _, tape = passes.forward(operands, selection, MicroBatches(batch), parameters)
        followed = self._follower.follow(batch)
        tape.correction = r, d
        if operands.out is None or not same_memory(operands.out, x) or tape.rows is not None:
            tape.x = x
        set_tape(self, tape)
        # Warnings come last, because they may be errors.
        if selection is not None and not batch.size:
            warn("the mask selects no position; the running averages are not updated", UserWarning)
        elif not followed:
            self._warn_once(batch)
        return y

    def _read(self, view: views.View, selection: Selection | None) -> Batch:
        if selection is None and view.size > self.num_features:
            return Batch.from_view(view, self.num_threads)
        return reduce_several(self._source, lambda: read(view, selection, self.num_threads))

    def _limit(self, name: str) -> float:
        limit = getattr(self, name)
        return check_limit(limit(self.num_batches_tracked), name) if callable(limit) else limit

    def _evaluate(
        self, operands: passes.Operands, selection: Selection | None, x: ArrayLike, residual: ArrayLike | None
    ) -> Any:
        mean, var = self._constant_statistics()
        coded, out = check_activation(operands.activation), operands.out
        if selection is None:
            kernels.apply_once(
                operands.view.array, operands.view.axis, mean, var, self.gamma, self.beta, eps=self.eps,
                residual=operands.added, out=operands.target.array, activation=coded, num_threads=self.num_threads)
            y = operands.target.finish()
        else:
            y = passes.evaluate(operands, selection, self._parameters(), mean, var)
        set_tape(self, Tape(*of_evaluation(x, residual, coded, out), selection=selection))
        return y

    def _gradients(self, tape: Tape, x: Any, dy: ArrayLike, out: NDArray[Any] | None) -> tuple[Any, ...]:
        if tape.correction is None:
            return super()._gradients(tape, x, dy, out)
        r, d = tape.correction
        parameters = passes.Parameters(corrected(self.gamma, None, r, d)[0], None, self.eps, self.num_threads)
        gradient = passes.Gradient(dy, tape.with_input(x), self.axis, parameters, out)
        dx, dgamma, dbeta, *dresidual = passes.backward(gradient, self._source, frozen=False)
        return (dx, gradient_of_gamma(dgamma, dbeta, r, d), dbeta, *dresidual)

    def _arguments(self) -> dict[str, Any]:
        ramps = {name: astuple(limit) for name in ("r_max", "d_max") if isinstance(limit := getattr(self, name), Ramp)}
        return super()._arguments() | ramps

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load parameters and running averages: all of them or, after an error, none.

        Parameters
        ----------
        state : mapping of str to array_like
            As `state_dict` returns it, or the state of a `BatchNorm` or of a torch.nn.BatchNorm layer, whose running
            averages then serve as renorm_mean and renorm_var too. Without num_batches_tracked, limits that are
            callables start again, with a warning.

        Raises
        ------
        TypeError, ValueError
            As `BatchNorm.load_state_dict`.
        """
        if isinstance(state, Mapping) and self._running.second:
            if not any(name in state for name in SECOND.values()):
                state = {other: state[name] for name, other in SECOND.items() if name in state} | {**state}
        elif isinstance(state, Mapping):
            state = {name: value for name, value in state.items() if name not in SECOND.values()}
        super().load_state_dict(state)
        restarted = [name for name in ("r_max", "d_max") if callable(getattr(self, name))]
        if restarted and COUNTER not in state:
            warn(f"state has no {COUNTER}, which is now 0, so that {listed(restarted)} start again; assign "
                 f"{COUNTER} to continue", UserWarning)
