"""Batch normalization."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, overload
from weakref import ref

import numpy as np
from numpy import ndarray

from fastbn._core import views
from fastbn._core.checks import check_activation, check_flag
from fastbn._core.dispatch import kernels
from fastbn._core.saved import check_variance
from fastbn._core.views import same_memory
from fastbn.checkpoints.kinds import register
from fastbn.functional import batchnorm
from fastbn.layers import passes
from fastbn.layers.base import set_tape, warn
from fastbn.layers.batch import Batch
from fastbn.layers.converted import ConvertedNorm
from fastbn.layers.masked import Marks, check_padding, is_jagged, read, refuse_marks, select
from fastbn.layers.running import MOMENTUM, AveragingOptions, RunningStatistics
from fastbn.layers.source import FORWARD
from fastbn.layers.tape import Tape, weakly

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from fastbn._core.checks import Activation
    from fastbn.checkpoints.settings import Averaging, UpdatePolicy
    from fastbn.layers.accumulate import WholeBatch
    from fastbn.layers.masked import Padding, Selection

ZERO: Padding = "zero"


@register
class BatchNorm(ConvertedNorm):
    """Batch normalization over all axes except the channel axis, like ``torch.nn.BatchNorm1d``, ``2d`` and ``3d``.

    In training mode, y = (x - mean) / sqrt(var + eps) * gamma + beta with the mean and the biased variance of the
    batch, and the running averages move towards them. In evaluation mode mean and var are the running averages. After
    Ioffe and Szegedy (2015), "Batch Normalization", https://arxiv.org/abs/1502.03167.

    Parameters
    ----------
    num_features : int
        Number of channels, C.
    axis : int
        The channel axis: 1 for NCHW, -1 for NHWC.
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

    Attributes
    ----------
    gamma, beta : ndarray, shape (C,), or None
        Learnable scale and shift, 1 and 0 if None. Change them in place or assign arrays.
    running_mean, running_var : ndarray, shape (C,), or None
    affine, scale, center, track_running_stats : bool
        Whether there is a gamma or a beta; a gamma; a beta; running averages. They follow from the arrays.
    num_batches_tracked : int
        Number of training batches; without empty ones if it determines the weights of batches (momentum None, debias).
    training : bool
        The mode; see `train` and `eval`.
    grad_gamma, grad_beta : ndarray, shape (C,), or None
        Gradients of the last `backward`; each call replaces them.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.

    Notes
    -----
    Assignments to attributes are checked as the arguments of the constructor: axis, eps, momentum, unbiased,
    num_threads, debias, nan_policy, training, num_batches_tracked, and the shape and dtype of gamma, beta, running_mean
    and running_var, which keep aligned arrays in native byte order as they are, and convert lists. num_features, dtype,
    averaging, the attributes that follow from arrays, and names that the layer does not have cannot be assigned
    (AttributeError). ``copy.copy``, ``copy.deepcopy`` and pickles make an
    independent layer, without the last forward pass.

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
        num_features: int,
        *,
        axis: int = 1,
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
    ) -> None:
        affine = check_flag(affine, "affine")
        super().__init__(
            num_features, axis=axis, eps=eps, dtype=dtype, num_threads=num_threads,
            scale=affine if scale is None else check_flag(scale, "scale"),
            center=affine if center is None else check_flag(center, "center"))
        self._running = RunningStatistics(
            self.num_features, self.dtype, check_flag(track_running_stats, "track_running_stats"),
            AveragingOptions(
                averaging=averaging, momentum=momentum, unbiased=unbiased, debias=debias, nan_policy=nan_policy))
        self._follower = self._running
        self._warned = False

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
            Buffer for y. With ``out=x`` (in place) no backward pass is possible.
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
        if padding is not ZERO or (type(x) is not ndarray and isinstance(x, tuple)):
            # Other ranks wait only for a batch, not in evaluation mode.
            by_batch = self.training or mean is None or var is None
            with self._source.guard(FORWARD) if by_batch else nullcontext():
                check_padding(padding)
                jagged = isinstance(x, tuple) and is_jagged(x)
                if jagged:
                    refuse_marks(mask, lengths)
            if jagged:
                values, offsets = x
                return self(values, residual, activation, out), offsets
        if self.training or mean is None or var is None:
            marks = None if mask is None and lengths is None else Marks(mask, lengths, padding)
            if self._source.whole:
                return self._by_batch(x, residual, activation, out, marks)
            with self._source.guard(FORWARD):
                return self._by_batch(x, residual, activation, out, marks)
        if self._blend is not None:
            return self._blend.evaluate(self, x, residual, activation, out, marks=Marks(mask, lengths, padding))
        if mask is not None or lengths is not None:
            return self._evaluate(x, residual, activation, out, Marks(mask, lengths, padding))
        coded = (0, 0.0) if activation is None else check_activation(activation)
        code = coded[0]
        if running.debias:
            mean, var = running.evaluation()
        constants = self._constants
        if constants is None or not constants.made_of(mean, var, self.gamma, self.beta, self.eps):
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
        if residual is not None:
            residual = weakly(residual) if code else True
        try:    # as weakly(), in less time
            kept: Any = ref(x)
        except TypeError:
            kept = x
        set_tape(self, (None if lost else kept, residual, coded))
        return y

    def _by_batch(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None,
        marks: Marks | None,
    ) -> Any:
        # A forward pass by the statistics of the batch.
        view = views.view(x, self.axis, self.num_features)
        training, source = self.training, self._source
        self._running.check(training)
        selection = None if marks is None else select(view, *marks)
        preview = self._preview(view, selection, out is not None) if training else None
        try:
            if selection is None and source.whole:
                y, saved = batchnorm.train(
                    view, self.gamma, self.beta, eps=self.eps, residual=residual, activation=activation, out=out,
                    num_threads=self.num_threads)
                # Tape.of_batch() takes longer.
                batch, tape = Batch.from_saved(saved), Tape(None, None, saved._kept.activation, saved)
            else:
                operands = passes.Operands.of(view, residual, activation, out)
                y, batch, tape = passes.forward(
                    operands, selection, source, self._parameters(), self._follower.accepts if training else None)
        except BaseException as error:
            self._forget_unless_refused(error)
            raise
        received = batch if preview is None else preview
        none = selection is not None and not batch.size
        followed = not training or self._follower.follow(received)
        if not training:
            tape.rows = None
        if out is None or not same_memory(out, x) or tape.rows is not None:
            tape.x = x if training else weakly(x)
        set_tape(self, tape)
        # Warnings come last, because they may be errors.
        if none:
            warn("the mask selects no position; the running averages are not updated", UserWarning)
        elif not followed:
            self._warn_once(received)
        return y

    def _preview(self, view: views.View, selection: Selection | None, overwrites: bool) -> Batch | None:
        # The statistics of a batch that fused kernels read and write at once, for a follower that wants them precise,
        # or wants to refuse them before x is gone.
        follower = self._follower
        if not (follower.exact or (overwrites and self._running.nan_policy == "raise")):
            return None
        if not self._source.whole or (selection is not None and selection.by_channel):
            return None
        batch = Batch.from_stats(read(view, selection, self.num_threads))
        follower.accepts(batch)
        return batch if follower.exact else None

    def _evaluate(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None, marks: Marks,
    ) -> Any:
        # A forward pass by running averages of values that count.
        view = views.view(x, self.axis, self.num_features)
        selection = select(view, *marks)
        assert selection is not None
        mean, var = self._constant_statistics()
        try:
            operands = passes.Operands.of(view, residual, activation, out)
            y = passes.evaluate(operands, selection, self._parameters(), mean, var)
        except BaseException as error:
            self._forget_unless_refused(error)
            raise
        coded = check_activation(activation)
        lost = out is not None and (
            same_memory(out, x) or (coded[0] > 0 and residual is not None and same_memory(out, residual)))
        if residual is not None:
            residual = weakly(residual) if coded[0] else True
        tape = Tape(None if lost else weakly(x), residual, coded)
        tape.selection = selection
        set_tape(self, tape)
        return y

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
