"""Batch normalization."""

from __future__ import annotations

from contextlib import nullcontext
from math import prod
from typing import TYPE_CHECKING, Any, overload
from weakref import ref

import numpy as np
from numpy import ndarray

from fastbn._core.checks import NO_ACTIVATION, check_activation, check_flag
from fastbn._core.dispatch import kernels
from fastbn._core.saved import check_variance
from fastbn._core.views import same_memory
from fastbn.checkpoints.kinds import register
from fastbn.layers import by_average, by_batch, inplace
from fastbn.layers.attributes import check_affine
from fastbn.layers.base import set_tape
from fastbn.layers.masked import Marks, check_padding, is_jagged, refuse_marks
from fastbn.layers.options import NormWithOptions, check_features
from fastbn.layers.running import MOMENTUM, AveragingOptions, RunningStatistics
from fastbn.layers.source import FORWARD
from fastbn.layers.tape import weakly

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._core.checks import Activation, Axis
    from fastbn.checkpoints.settings import Averaging, Keep, OnSingle, UpdatePolicy
    from fastbn.layers.accumulate import WholeBatch
    from fastbn.layers.masked import Padding
    from fastbn.layers.tape import Tape

ZERO: Padding = "zero"


@register
class BatchNorm(NormWithOptions):
    """Batch normalization over all axes except the channel axis, like ``torch.nn.BatchNorm1d``, ``2d`` and ``3d``.

    In training mode, y = (x - mean) / sqrt(var + eps) * gamma + beta with the mean and the biased variance of the
    batch, and the running averages move towards them. In evaluation mode mean and var are the running averages. After
    Ioffe and Szegedy (2015), "Batch Normalization", https://arxiv.org/abs/1502.03167.

    Parameters
    ----------
    num_features : int or tuple of int
        Number of channels, C; with several channel axes their product, or the size of each.
    axis : int or tuple of int
        The channel axis: 1 for NCHW, -1 for NHWC. Or several: each combination of their indices is then a channel, in
        the order of the tuple, and all vectors keep the shape (C,). With ``axis=(1, 2)`` and the sizes (C1, C2),
        ``bn.gamma.reshape(C1, C2)`` shows them by axis. x is copied only if the axes are not adjacent in its memory.
    eps : float
        Added to the variance. With 0, a channel of zero variance gives NaN in training mode and an error in evaluation
        mode.
    momentum : float or None
        Weight of a batch in the running averages: running = (1 - momentum) * running + momentum * batch. None averages
        all batches with equal weights.
    affine : bool
        Whether the layer has gamma and beta.
    scale, center : bool, optional
        Whether it has gamma, and beta; `affine` by default. ``center=False`` is PyTorch's ``bias=False``.
    track_running_stats : bool
        Whether it has running averages. Without them evaluation mode normalizes by the batch too.
    unbiased : bool
        Whether the running variance averages the unbiased variance (PyTorch, TensorFlow) or the biased one (Keras,
        Flax, ONNX).
    dtype : dtype or None
        float32 (also for None) or float64, of parameters and running averages. x may have another dtype, also float16
        or bfloat16; y has the dtype of x.
    num_threads : int, optional
        For all calls of this layer; see `fastbn.set_num_threads`.
    averaging : {"ema", "cumulative", "exact"}
        The kind of running averages. "ema" is an exponential moving average with `momentum`. "cumulative" averages all
        batches with equal weights, as ``momentum=None`` does, and accepts only None or the default momentum. "exact"
        gives mean and variance of all values of all batches since the last reset, including the differences between
        batches.
    debias : bool
        Whether evaluation mode removes the share of the initial 0 and 1 from an "ema", as Adam does. The running
        averages themselves stay unchanged.
    nan_policy : {"propagate", "raise", "skip_update"}
        What a training batch does whose mean or variance is not finite. "propagate": the running averages become NaN or
        Inf. "raise": ValueError before anything changes. "skip_update": y is computed; running averages and counter
        stay unchanged, with a warning the first time.
    on_single : {"raise", "zero", "running"}
        What a training batch does with a single value in a channel, which has no variance. "raise": ValueError. "zero":
        x_hat and dx are 0, and y is beta; the running mean moves, and the running variance does not. "running": the
        channel is normalized by its running averages, which do not move.
    virtual_batch_size : int, optional
        Training normalizes each group of so many consecutive samples, along axis 0, by its own statistics (ghost batch
        norm: Hoffer, Hubara and Soudry, 2017, https://arxiv.org/abs/1705.08741). The last group may have fewer. The
        running averages move once, towards the mean over the groups of their means and variances, weighted by their
        numbers of values.
    keep : {"input", "output"}
        What the layer keeps for its backward pass. "output": y instead of x, so that training with ``out=x``, or
        without another reference to x, needs one array less (in-place activated batch norm: Rota Bulò, Porzi and
        Kontschieder, 2018, https://arxiv.org/abs/1712.02616). The activation must then be None, leaky_relu or elu, with
        a positive slope or alpha; no gamma may be 0; residuals, masks, lengths and `accumulate` are not supported.

    Attributes
    ----------
    gamma, beta : ndarray, shape (C,), or None
        Learnable scale and shift, 1 and 0 if None. Change them in place or assign arrays, which are not copied, so that
        layers can share one.
    running_mean, running_var : ndarray, shape (C,), or None
    affine, scale, center, track_running_stats : bool
        Whether there is a gamma or a beta; a gamma; a beta; running averages. They follow from the arrays.
    num_batches_tracked : int
        Number of training batches; without empty ones if it determines the weights of batches (momentum None, debias).
    training : bool
        The mode; see `train` and `eval`.
    use_running_stats, update_running_stats, learn_affine : bool
        Whether training normalizes by the running averages, whether they follow training batches, and whether
        `backward` leaves gradients of gamma and beta, which are None otherwise. False, True and True; see `freeze`.
    grad_gamma, grad_beta : ndarray, shape (C,), or None
        Gradients of the last `backward`; each call replaces them.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.

    Notes
    -----
    Assignments to attributes are checked as the arguments of the constructor: axis, eps, momentum, unbiased,
    num_threads, debias, nan_policy, on_single, virtual_batch_size, keep, num_batches_tracked, the modes, and the shape
    and dtype of gamma, beta, running_mean and running_var, which keep aligned arrays in native byte order as they are,
    and convert lists. num_features, dtype, averaging, the attributes that follow from arrays, and names that the layer
    does not have cannot be assigned (AttributeError). ``copy.copy``, ``copy.deepcopy`` and pickles make an independent
    layer, without the last forward pass.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> bn = fastbn.BatchNorm(3)
    >>> x = np.random.default_rng(0).normal(5, 2, (8, 3, 4, 4)).astype(np.float32)
    >>> y = bn(x)
    >>> bool(abs(y.mean(axis=(0, 2, 3))).max() < 1e-6)
    True
    >>> dx = bn.backward(np.ones_like(y))
    >>> bn.grad_beta
    array([128., 128., 128.], dtype=float32)
    >>> bn.eval()(x[:1]).shape
    (1, 3, 4, 4)
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        axis: Axis = 1,
        eps: float = 1e-5,
        momentum: float | None = MOMENTUM,
        affine: bool = True,
        scale: bool | None = None,
        center: bool | None = None,
        track_running_stats: bool = True,
        unbiased: bool = True,
        dtype: DTypeLike | None = np.float32,
        num_threads: int | None = None,
        averaging: Averaging = "ema",
        debias: bool = False,
        nan_policy: UpdatePolicy = "propagate",
        on_single: OnSingle = "raise",
        virtual_batch_size: int | None = None,
        keep: Keep = "input",
    ) -> None:
        self._channels = channels = check_features(num_features)
        super().__init__(
            channels if isinstance(channels, int) else prod(channels), axis=axis, eps=eps, dtype=dtype,
            num_threads=num_threads, **check_affine(affine, scale, center))
        self._track(RunningStatistics(
            self.num_features, self.dtype, check_flag(track_running_stats, "track_running_stats"),
            AveragingOptions(
                averaging=averaging, momentum=momentum, unbiased=unbiased, debias=debias, nan_policy=nan_policy)))
        self._set_options(on_single, virtual_batch_size, keep)

    @overload
    def __call__(
        self, x: tuple[NDArray[Any], NDArray[Any]], residual: ArrayLike | None = None, activation: Activation = None,
        out: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], NDArray[Any]]: ...

    @overload
    def __call__(
        self, x: ArrayLike, residual: ArrayLike | None = None, activation: Activation = None,
        out: NDArray[Any] | None = None, *, mask: ArrayLike | None = None, lengths: ArrayLike | None = None,
        padding: Padding = "zero",
    ) -> NDArray[Any]: ...

    def __call__(
        self,
        x: Any,
        residual: ArrayLike | None = None,
        activation: Activation = None,
        out: NDArray[Any] | None = None,
        *,
        mask: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        padding: Padding = ZERO,
    ) -> Any:
        """Normalize `x`.

        Parameters
        ----------
        x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
            With num_features channels along the channel axis. Or jagged: a tuple (values, offsets) of an array (K, C)
            and an int array (N + 1,) from 0 to K, in which sequence n begins at offsets[n]. The result is then such a
            tuple, and the gradient an array like values.
        residual : array_like, shape and dtype of x, optional
            Added before the activation.
        activation : str, tuple or None
            Applied last; NaN passes through. As in `fastbn.ChannelAffine`; with a residual only "relu", in training
            mode and for a backward pass.
        out : ndarray, shape and dtype of x, optional
            Buffer for y. With ``out=x`` (in place) no backward pass is possible, unless `keep` is "output".
        mask : array_like of bool, optional
            Which positions count, in statistics, running averages and gradients: of a shape that broadcasts to the
            shape of `x` without its channel axis. Or, if channels differ, which values: with as many axes as `x`, to
            the shape of `x`. If no value counts, the batch is an empty one, which moves no running averages, and there
            is a warning; a channel in which none counts keeps its running averages.
        lengths : array_like of int, shape (N,), optional
            Valid steps of each padded sequence, along the second axis that is not the channel axis.
        padding : {"zero", "keep"}
            The content of y, and of dx, at positions that do not count: zeros, or the content of `out`; without `out`
            that of `x` (in the backward pass of `dy`).

        Returns
        -------
        ndarray
            `out` if it was given, else a new array with the shape and dtype of x; for jagged x a tuple of it and the
            offsets.

        Raises
        ------
        TypeError
            For an unsupported dtype or an argument of the wrong type.
        ValueError
            For shapes that do not fit, or an `out` that overlaps an input but is another array; in training mode for a
            single value per channel; in evaluation mode for a running variance that is negative, or 0 with an eps of 0.
        """
        running = self._running
        mean, var = running.running_mean, running.running_var
        # Without averages evaluation normalizes by the batch too.
        by_statistics = reads = mean is None or var is None
        if self.training and not by_statistics:
            by_statistics = not self.use_running_stats
            reads = by_statistics or self.update_running_stats
        blends = self._blend is not None and not (self.training or by_statistics)
        if padding is not ZERO or (type(x) is not ndarray and isinstance(x, tuple)):
            # Other ranks wait only for statistics of the batch.
            with self._source.guard(FORWARD) if reads or blends else nullcontext():
                check_padding(padding)
                jagged = isinstance(x, tuple) and is_jagged(x)
                if jagged:
                    refuse_marks(mask, lengths)
                    if by_statistics:
                        by_batch.refuse_groups(self, "jagged x")
            if jagged:
                values, offsets = x
                if blends:
                    y = self._blend.evaluate(
                        self, values, residual, activation, out, marks=Marks(None, None, padding), offsets=offsets)
                    return y, offsets
                return self(values, residual, activation, out), offsets
        if blends:
            return self._blend.evaluate(self, x, residual, activation, out, marks=Marks(mask, lengths, padding))
        if reads or mask is not None or lengths is not None or type(self._channels) is tuple or self.keep == "output":
            marks = None if mask is None and lengths is None else Marks(mask, lengths, padding)
            forward = by_batch.forward if by_statistics else by_average.forward
            if not reads or self._source.whole:
                return forward(self, x, residual, activation, out, marks)
            with self._source.guard(FORWARD):
                return forward(self, x, residual, activation, out, marks)
        # The rest of evaluation is here, because a call would take a tenth of its time.
        coded = NO_ACTIVATION if activation is None else check_activation(activation)
        code = coded[0]
        if running.debias:
            mean, var = running.evaluation()
        constants = self._constants
        if constants is None or not constants.made_of(mean, var, self.gamma, self.beta, self.eps):
            assert var is not None
            check_variance(var, self.eps, "running_var")
            # One compiled call reads all parameters and another one loads a state, so no thread sees half of one.
            self._constants = constants = kernels.Constants(
                self.num_features, mean, var, self.gamma, self.beta, self.eps)
        try:
            y = kernels.apply(x, self.axis, constants, residual, out, coded, self.num_threads)
        except BaseException as error:
            self._forget_unless_refused(error)
            raise
        # Over x, no backward pass is possible; over the residual, the bits of a ReLU cannot be computed again.
        lost = out is not None and (
            same_memory(out, x) or (code > 0 and residual is not None and same_memory(out, residual)))
        try:    # as weakly(), in less time
            kept: Any = x if self.training else ref(x)
        except TypeError:
            kept = x
        if residual is not None:
            residual = True if not code else residual if self.training else weakly(residual)
        set_tape(self, (None if lost else kept, residual, coded))
        return y

    def _gradients(self, tape: Tape, x: Any, dy: ArrayLike, out: NDArray[Any] | None) -> tuple[Any, ...]:
        if isinstance(tape, inplace.OutputTape):
            return inplace.gradients(self, tape, x, dy, out)
        return super()._gradients(tape, x, dy, out)

    def accumulate(
        self,
        micro_batches: Iterable[Any],
        *,
        masks: Iterable[ArrayLike | None] | None = None,
        lengths: Iterable[ArrayLike | None] | None = None,
    ) -> WholeBatch:
        """Treat several micro-batches as one training batch: first the statistics, then forward and backward of each.

        The result is that of all micro-batches in one array, and the running averages move once.

        Parameters
        ----------
        micro_batches : iterable of array_like
            Each as x of a forward pass, possibly jagged; one value per channel is enough if there is another
            micro-batch. They are read once, and each of them is passed again to `WholeBatch.__call__`.
        masks : iterable of array_like or None, optional
            The mask of each micro-batch, as in a forward pass; None if all of its values count.
        lengths : iterable of array_like or None, optional
            The lengths of each micro-batch, as in a forward pass.

        Returns
        -------
        WholeBatch

        Raises
        ------
        RuntimeError
            If the layer is in evaluation mode.
        TypeError, ValueError
            As for a forward pass; also if there is no value, or a single one, per channel.

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

        return WholeBatch(self, micro_batches, masks=masks, lengths=lengths)
