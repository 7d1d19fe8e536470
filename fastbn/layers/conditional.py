"""Conditional batch normalization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_activation, check_flag
from fastbn._core.views import same_memory
from fastbn.checkpoints.kinds import register_whole
from fastbn.functional import conditional
from fastbn.layers.attributes import Check, refusal, set_unchecked
from fastbn.layers.base import set_tape
from fastbn.layers.batch import Batch
from fastbn.layers.running import MOMENTUM, AveragingOptions, RunningStatistics
from fastbn.layers.tape import Tape, weakly
from fastbn.layers.tracked import TrackedNorm

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn.checkpoints.settings import Averaging, UpdatePolicy


@dataclass(slots=True, eq=False)
class ConditionalTape(Tape):
    """One forward pass, with the scale of every sample, (N, C) of float64."""

    gamma: NDArray[np.float64] | None = None


def check_absent(owner: object, value: Any, name: str) -> None:
    """Refuse a vector; the constructor of the base class assigns None."""
    if value is not None:
        refusal("pass it to each call, of shape (N, C)")(owner, value, name)


@register_whole
class ConditionalBatchNorm(TrackedNorm):
    """Batch normalization whose gamma and beta are given with each call, one set for each sample.

    In training mode, y[n] = (x[n] - mean) / sqrt(var + eps) * gamma[n] + beta[n] with the mean and the biased variance
    of the batch, and the running averages move towards them. In evaluation mode mean and var are the running averages.
    gamma and beta come from another part of the network, and `backward` leaves their gradients for it. They depend on
    the style of an image (Dumoulin, Shlens and Kudlur, 2017, https://arxiv.org/abs/1610.07629), on a question (de Vries
    et al., 2017, https://arxiv.org/abs/1707.00683), or on the class of an image to generate (Miyato and Koyama, 2018,
    https://arxiv.org/abs/1802.05637).

    Parameters
    ----------
    num_features : int
        Number of channels, C.
    axis, eps, momentum, track_running_stats, unbiased, dtype, num_threads, averaging, debias, nan_policy
        As in `BatchNorm`. dtype is that of running averages and gradients.

    Attributes
    ----------
    running_mean, running_var, num_batches_tracked, training
        As in `BatchNorm`.
    gamma, beta : None
        The layer has none of its own.
    grad_gamma, grad_beta : ndarray, shape (N, C), or None
        Gradients of the last `backward`; each call replaces them. None if `learn_affine` is False.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.

    Notes
    -----
    The state is that of a batch normalization with ``affine=False``. `frozen` returns the normalization of evaluation
    mode, without scale and shift.

    Examples
    --------
    Scale and shift by class, as in a generator of images: the rows of two tables.

    >>> import numpy as np
    >>> import fastbn
    >>> bn = fastbn.ConditionalBatchNorm(3)
    >>> scales, shifts = np.ones((10, 3), np.float32), np.zeros((10, 3), np.float32)
    >>> x = np.random.default_rng(0).normal(5, 2, (4, 3, 8, 8)).astype(np.float32)
    >>> labels = np.array([7, 0, 7, 1])
    >>> y = bn(x, scales[labels], shifts[labels])
    >>> dx = bn.backward(np.ones_like(y))
    >>> bn.grad_beta[0]
    array([64., 64., 64.], dtype=float32)
    >>> np.add.at(shifts, labels, -0.1 * bn.grad_beta)      # a step; class 7 has two samples
    >>> shifts[7].round(4)
    array([-12.8, -12.8, -12.8], dtype=float32)
    """

    _checks: ClassVar[Mapping[str, Check]] = {**TrackedNorm._checks, "gamma": check_absent, "beta": check_absent}

    def __init__(
        self,
        num_features: int,
        *,
        axis: int = 1,
        eps: float = 1e-5,
        momentum: float | None = MOMENTUM,
        track_running_stats: bool = True,
        unbiased: bool = True,
        dtype: DTypeLike | None = np.float32,
        num_threads: int | None = None,
        averaging: Averaging = "ema",
        debias: bool = False,
        nan_policy: UpdatePolicy = "propagate",
    ) -> None:
        super().__init__(
            num_features, axis=axis, eps=eps, dtype=dtype, num_threads=num_threads, scale=False, center=False)
        self._track(RunningStatistics(
            self.num_features, self.dtype, check_flag(track_running_stats, "track_running_stats"),
            AveragingOptions(
                averaging=averaging, momentum=momentum, unbiased=unbiased, debias=debias, nan_policy=nan_policy)))

    def __call__(
        self,
        x: ArrayLike,
        gamma: ArrayLike | None,
        beta: ArrayLike | None,
        activation: Activation = None,
        out: NDArray[Any] | None = None,
    ) -> Any:
        """Normalize `x`, and scale and shift every sample by its own gamma and beta.

        Parameters
        ----------
        x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
            With num_features channels along the channel axis. The samples lie along the first other axis.
        gamma, beta : array_like of float32 or float64, shape (N, C), or None
            Scale and shift of each sample and channel; None for 1 and 0.
        activation : str, tuple or None
            Applied last; NaN passes through. As in `fastbn.ChannelAffine`.
        out : ndarray, shape and dtype of x, optional
            Buffer for y. With ``out=x`` (in place) no backward pass is possible.

        Returns
        -------
        ndarray
            `out` if it was given, else a new array with the shape and dtype of x.

        Raises
        ------
        TypeError, ValueError
            As `BatchNorm`; also if gamma or beta has another shape.
        """
        try:
            training, by_batch = self.training, self.training or not self.track_running_stats
            view, coded = views.view(x, self.axis, self.num_features), check_activation(activation)
            modulation = conditional.check_modulation(view, gamma, beta)
            target = views.output(view, out)
            self._running.check(training)
            if by_batch:
                statistics = conditional.read(view, self.eps, self.num_threads)
                n, _, s = view.shape
                batch = Batch(n * s, statistics.mean, statistics.var, statistics.low)
                if training:
                    self._follower.accepts(batch)
            else:
                statistics = conditional.given(view, *self._constant_statistics(), self.eps)
            y, saved = conditional.apply(
                view, target, statistics, modulation, activation=coded, num_threads=self.num_threads,
                frozen=not by_batch)
        except BaseException as error:
            self._forget_unless_refused(error)
            raise
        kept = None if out is not None and same_memory(out, x) else x if training else weakly(x)
        followed = not training or self._follower.follow(batch)
        set_tape(self, ConditionalTape(kept, None, coded, saved, gamma=modulation.gamma))
        if not followed:
            self._warn_once(batch)      # last, because it may be an error
        return y

    def _gradients(self, tape: Tape, x: Any, dy: ArrayLike, out: NDArray[Any] | None) -> tuple[Any, ...]:
        assert isinstance(tape, ConditionalTape)
        assert tape.saved is not None
        dx, dgamma, dbeta = conditional.conditional_batch_norm_backward(
            dy, x, tape.saved, tape.gamma, axis=self.axis, out=out, num_threads=self.num_threads)
        return dx, dgamma, dbeta

    def _set_gradients(self, dgamma: NDArray[np.float64], dbeta: NDArray[np.float64]) -> None:
        for name, gradient in (("grad_gamma", dgamma), ("grad_beta", dbeta)):
            set_unchecked(self, name, gradient.astype(self.dtype) if self.learn_affine else None)
