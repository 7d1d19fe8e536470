"""Instance normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastbn._core.checks import NO_ACTIVATION, RELU, check_activation, check_flag
from fastbn._core.dispatch import kernels
from fastbn._core.saved import check_variance
from fastbn._core.saved_groups import GroupSaved
from fastbn._core.views import same_memory
from fastbn.checkpoints.kinds import register_whole
from fastbn.functional import groupnorm, instancenorm
from fastbn.layers.attributes import Check, check_affine, check_channel_axis
from fastbn.layers.base import set_tape
from fastbn.layers.batch import Batch
from fastbn.layers.running import MOMENTUM, AveragingOptions, RunningStatistics
from fastbn.layers.tape import Tape, of_evaluation, weakly
from fastbn.layers.tracked import TrackedNorm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn.checkpoints.settings import UpdatePolicy
    from fastbn.statistics.channel_stats import ChannelStats


@register_whole
class InstanceNorm(TrackedNorm):
    """Instance normalization, like ``torch.nn.InstanceNorm1d``, ``2d`` and ``3d``.

    y = (x - mean) / sqrt(var + eps) * gamma + beta, with the mean and the biased variance of each channel of each
    sample. With running averages, which follow the means over the samples of a batch of these means and variances,
    evaluation mode uses the averages: it is then batch norm's. After Ulyanov et al. (2016), "Instance Normalization",
    https://arxiv.org/abs/1607.08022.

    Parameters
    ----------
    num_features : int
        Number of channels, C.
    eps : float
        Added to the variance. With 0, a channel of zero variance gives NaN, and an error if it is a running variance.
    momentum : float or None
        Weight of a batch in the running averages: running = (1 - momentum) * running + momentum * batch. None averages
        all batches with equal weights; PyTorch's layer takes None as 0.
    affine : bool
        Whether the layer has gamma and beta.
    track_running_stats : bool
        Whether it has running averages. Without them evaluation mode normalizes as training mode does.
    axis : int
        The channel axis: 1 for NCHW, -1 for NHWC. The first axis is that of the samples.
    scale, center : bool, optional
        Whether it has gamma, and beta; `affine` by default. ``center=False`` is PyTorch's ``bias=False``.
    unbiased : bool
        Whether the running variance averages unbiased variances, as in PyTorch, or biased ones.
    debias, nan_policy
        As in `BatchNorm`.
    dtype : dtype or None
        float32 (also for None) or float64, of parameters and running averages. x may have another dtype, also float16
        or bfloat16; y has the dtype of x.
    num_threads : int, optional
        For all calls of this layer; see `fastbn.set_num_threads`.

    Attributes
    ----------
    gamma, beta : ndarray, shape (C,), or None
        Learnable scale and shift, 1 and 0 if None. Change them in place or assign arrays.
    running_mean, running_var : ndarray, shape (C,), or None
    affine, scale, center, track_running_stats : bool
        Whether there is a gamma or a beta; a gamma; a beta; running averages. They follow from the arrays.
    num_batches_tracked : int
        Number of training batches. PyTorch's layer does not count them.
    training : bool
        The mode; see `train` and `eval`.
    grad_gamma, grad_beta : ndarray, shape (C,), or None
        Gradients of the last `backward`; each call replaces them. None if `learn_affine` is False.
    learn_affine : bool
        Whether `backward` leaves these gradients; True by default.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.

    Notes
    -----
    Assignments to attributes, copies and pickles are as in `BatchNorm`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> norm = fastbn.InstanceNorm(3, affine=True)
    >>> x = np.random.default_rng(0).normal(5, 2, (8, 3, 4, 4)).astype(np.float32)
    >>> y = norm(x)
    >>> bool(abs(y.mean(axis=(2, 3))).max() < 1e-6)
    True
    >>> dx = norm.backward(np.ones_like(y))
    >>> norm.grad_beta
    array([128., 128., 128.], dtype=float32)
    """

    _checks: ClassVar[Mapping[str, Check]] = {**TrackedNorm._checks, "axis": check_channel_axis}
    axis: int

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = MOMENTUM,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        axis: int = 1,
        scale: bool | None = None,
        center: bool | None = None,
        unbiased: bool = True,
        debias: bool = False,
        nan_policy: UpdatePolicy = "propagate",
        dtype: DTypeLike | None = np.float32,
        num_threads: int | None = None,
    ) -> None:
        super().__init__(
            num_features, axis=axis, eps=eps, dtype=dtype, num_threads=num_threads,
            **check_affine(affine, scale, center))
        self._track(RunningStatistics(
            self.num_features, self.dtype, check_flag(track_running_stats, "track_running_stats"),
            AveragingOptions(momentum=momentum, unbiased=unbiased, debias=debias, nan_policy=nan_policy)))

    def __call__(
        self, x: ArrayLike, residual: ArrayLike | None = None, activation: Activation = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Normalize `x`.

        Parameters
        ----------
        x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
            With num_features channels along the channel axis.
        residual : array_like, shape and dtype of x, optional
            Added before the activation.
        activation : str, tuple or None
            Applied last; NaN passes through. As in `fastbn.ChannelAffine`; with a residual only "relu", in training
            mode and for a backward pass.
        out : ndarray, shape and dtype of x, optional
            Buffer for y. With ``out=x`` (in place) no backward pass is possible.

        Returns
        -------
        ndarray
            `out` if it was given, else a new array with the shape and dtype of x.

        Raises
        ------
        TypeError
            For an unsupported dtype or an argument of the wrong type.
        ValueError
            For shapes that do not fit, or an `out` that overlaps an input but is another array; for a single value per
            channel of a sample, unless running averages normalize; for a running variance that is negative, or 0 with
            an eps of 0.
        """
        self._running.check(self.training)
        try:
            if self.training or not self.track_running_stats:
                return self._by_instance(x, residual, activation, out)
            return self._by_averages(x, residual, activation, out)
        except BaseException as error:
            self._forget_unless_refused(error)
            raise

    def _by_instance(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None
    ) -> NDArray[Any]:
        training, nan_policy = self.training, self._running.nan_policy
        # Without running averages, a policy still examines the statistics, as in a batch norm.
        follows = training and (self.track_running_stats or nan_policy != "propagate")
        view = instancenorm.instance_view(x, self.axis, self.num_features)
        coded = NO_ACTIVATION if training or residual is None else check_activation(activation)
        if coded[0] > RELU:     # no backward pass
            y = groupnorm.infer(
                view, self.num_features, self.gamma, self.beta, eps=self.eps, residual=residual, activation=activation,
                out=out, num_threads=self.num_threads)
            set_tape(self, of_evaluation(x, residual, coded, out))
            return y

        def train(out: NDArray[Any] | None) -> tuple[NDArray[Any], GroupSaved]:
            return groupnorm.train(
                view, self.num_features, self.gamma, self.beta, eps=self.eps, residual=residual, activation=activation,
                out=out, num_threads=self.num_threads)

        if follows and out is not None and nan_policy == "raise":
            self._follower.accepts(batch_of(train(None)[1]))       # before anything is written
        y, saved = train(out)
        followed = True
        if follows:
            batch = batch_of(saved)
            followed = self._follower.follow(batch)
        tape = Tape(None, None, saved._kept.activation, saved)
        if out is None or not same_memory(out, x):
            tape.x = x if training else weakly(x)
        set_tape(self, tape)
        if not followed:        # warnings come last, because they may be errors
            self._warn_once(batch)
        return y

    def _by_averages(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None
    ) -> NDArray[Any]:
        coded, constants = check_activation(activation), self._constants
        mean, var = self._running.evaluation()
        if constants is None or not constants.made_of(mean, var, self.gamma, self.beta, self.eps):
            check_variance(var, self.eps, "running_var")
            self._constants = constants = kernels.Constants(
                self.num_features, mean, var, self.gamma, self.beta, self.eps)
        y = kernels.apply(x, self.axis, constants, residual, out, coded, self.num_threads)
        set_tape(self, of_evaluation(x, residual, coded, out))
        return y

    def _gradients(self, tape: Tape, x: Any, dy: ArrayLike, out: NDArray[Any] | None) -> tuple[Any, ...]:
        if not isinstance(tape.saved, GroupSaved):
            return super()._gradients(tape, x, dy, out)
        return instancenorm.instance_norm_backward(
            dy, x, tape.saved, self.gamma, axis=self.axis, out=out, num_threads=self.num_threads)

    def _observed(self, x: ArrayLike) -> ChannelStats:
        view = instancenorm.instance_view(x, self.axis, self.num_features)
        _, saved = groupnorm.train(
            view, self.num_features, None, None, eps=self.eps, residual=None, activation=None, out=None,
            num_threads=self.num_threads)
        return batch_of(saved).to_stats()


def batch_of(saved: GroupSaved) -> Batch:
    """Return the statistics that running averages follow: the means over the samples."""
    samples, channels = saved.mean.shape
    if not samples or not saved.count:
        return Batch(0, np.zeros(channels), np.zeros(channels))
    with np.errstate(all="ignore"):     # Inf and NaN, without a warning
        return Batch(saved.count, saved.mean.mean(axis=0), saved.var.mean(axis=0), instances=samples)
