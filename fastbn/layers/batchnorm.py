"""The layer: parameters, running averages and modes around the functions of fastbn.functional."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np

from fastbn import functional
from fastbn._core import views
from fastbn._core.checks import (
    ACTIVATIONS,
    check_activation,
    check_flag,
    check_integer,
)
from fastbn._core.dispatch import kernels
from fastbn._core.saved import Saved, check_variance
from fastbn._core.views import same_memory
from fastbn.affine import ChannelAffine, as_vector, check_finite
from fastbn.layers import attributes as _attributes
from fastbn.layers import masked as _masked
from fastbn.layers import running as _averaging
from fastbn.layers.averaged import MOMENTUM, Averaged
from fastbn.layers.checkpointed import Checkpointed
from fastbn.layers.masked import Masked
from fastbn.layers.stateful import Stateful
from fastbn.layers.tape import Tape, alive, weakly

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray
    from typing_extensions import Self

    from fastbn._core.checks import Activation
    from fastbn.layers.masked import Padding


_set = object.__setattr__       # without a check


class BatchNorm(Averaged, Stateful, Checkpointed):
    """Batch normalization over every axis but one, as ``torch.nn.BatchNorm1d``, ``2d`` and ``3d``.

    In training mode, y = (x - mean) / sqrt(var + eps) * gamma + beta with the batch's mean and biased variance, and the
    running averages move towards them; in evaluation mode, with the running averages, one linear transform a channel.
    After Ioffe and Szegedy (2015), "Batch Normalization", https://arxiv.org/abs/1502.03167.

    Parameters
    ----------
    num_features : int
        The number of channels, C.
    axis : int
        The channel axis: 1 for NCHW, -1 for NHWC.
    eps : float
        Added to the variance. With 0 a training batch makes NaN of a channel of zero variance, and such a running
        variance is an error in evaluation mode.
    momentum : float or None
        How far one batch moves the running averages: running = (1 - momentum) * running + momentum * batch. None
        averages over all batches so far.
    affine : bool
        Whether there are gamma and beta.
    scale, center : bool, optional
        Whether there is a gamma, and a beta; `affine` if not given. ``center=False`` is PyTorch's ``bias=False``.
    track_running_stats : bool
        Whether there are running averages. Without them evaluation mode normalizes by the batch too.
    unbiased : bool
        Whether the running variance takes the unbiased variance of the batch (PyTorch, TensorFlow) or the biased one
        (Keras, Flax, ONNX).
    dtype : dtype or None
        float32 or float64, of parameters and running averages; None is float32. x may be float16 or bfloat16 too. y has
        the dtype of x.
    num_threads : int, optional
        For every call of this layer; see `fastbn.set_num_threads`.
    averaging : {"ema", "cumulative", "exact"}
        What the running averages are: "ema" moves them by `momentum`; "cumulative" averages over all batches alike,
        which is ``momentum=None``, and takes no momentum but the default; "exact" takes mean and variance of all values
        of all batches since the last reset, the differences between batches included.
    debias : bool
        Whether evaluation takes the "ema" without the weight that its initial 0 and 1 still have, as Adam does. The
        running averages themselves stay as they are.
    nan_policy : {"propagate", "raise", "skip_update"}
        What a training batch with a mean or variance that is not finite does. "propagate": the running averages become
        NaN or Inf too. "raise": ValueError before anything is changed. "skip_update": y as usual; the running averages
        and the counter stay, with a warning the first time.

    Attributes
    ----------
    gamma, beta : ndarray, shape (C,), or None
        The scale and shift to be learned. Change them in place or assign new ones; None is 1, and 0.
    running_mean, running_var : ndarray, shape (C,), or None
    affine, scale, center, track_running_stats : bool
        Whether there is a gamma or a beta; a gamma; a beta; running averages. They follow from the arrays.
    num_batches_tracked : int
        Training batches seen; without empty ones where the weights of batches follow from it (momentum None, debias).
    training : bool
        The mode; see `train` and `eval`.
    grad_gamma, grad_beta : ndarray, shape (C,), or None
        Of the last `backward`; each one replaces them.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it must be.

    Notes
    -----
    What the constructor checks is checked again where an attribute is assigned: axis, eps, momentum, unbiased,
    num_threads, debias, nan_policy, training, num_batches_tracked, and the shape and dtype of gamma, beta, running_mean
    and running_var, of which arrays are kept as they are and lists become arrays. num_features, dtype, averaging and
    what follows from the arrays cannot be assigned (AttributeError). ``copy.copy``, as ``copy.deepcopy`` and a pickle,
    makes an independent layer, without what the last forward left for `backward`.

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

    # Checked where they are assigned (_attributes).
    eps: float
    unbiased: bool
    dtype: np.dtype[Any]
    num_threads: int | None
    nan_policy: str
    training: bool
    gamma: NDArray[Any] | None
    beta: NDArray[Any] | None
    grad_gamma: NDArray[Any] | None
    grad_beta: NDArray[Any] | None

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
        averaging: str = "ema",
        debias: bool = False,
        nan_policy: str = "propagate",
    ) -> None:
        _set(self, "num_features", check_integer(num_features, "num_features", 1))      # once and for all
        _set(self, "dtype", _attributes.check_dtype(dtype))
        self.axis = axis
        self.eps = eps
        self.unbiased = unbiased
        self.num_threads = num_threads
        self.nan_policy = nan_policy
        self.training = True
        self.momentum, self._exact, self.debias = MOMENTUM, False, False        # until the averaging is chosen
        affine = check_flag(affine, "affine")
        scale = affine if scale is None else check_flag(scale, "scale")
        center = affine if center is None else check_flag(center, "center")
        tracked = check_flag(track_running_stats, "track_running_stats")
        shape = self.num_features
        self.gamma = np.ones(shape, self.dtype) if scale else None
        self.beta = np.zeros(shape, self.dtype) if center else None
        self.running_mean = np.zeros(shape, self.dtype) if tracked else None
        self.running_var = np.ones(shape, self.dtype) if tracked else None
        self.num_batches_tracked = 0
        self.grad_gamma = None
        self.grad_beta = None
        self._choose_averaging(averaging, momentum, debias)
        self._tape = Tape()
        # What evaluation mode computes with, while the parameters are what it was made of. They are plain arrays that
        # anybody may change, so they are compared, which takes less time than making the constants again.
        self._constants: kernels.Constants | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        check = _attributes.CHECKS.get(name)
        _set(self, name, value if check is None else check(self, value, name))

    @property
    def affine(self) -> bool:
        """Whether there is a gamma or a beta."""
        return self.scale or self.center

    @property
    def scale(self) -> bool:
        """Whether there is a gamma."""
        return self.gamma is not None

    @property
    def center(self) -> bool:
        """Whether there is a beta."""
        return self.beta is not None

    def __repr__(self) -> str:
        more = "".join(f", {name}={value!r}" for name, value, default in (
            ("scale", self.scale, self.affine), ("center", self.center, self.affine),
            ("averaging", self.averaging, "cumulative" if self.momentum is None else "ema"),
            ("debias", self.debias, False), ("nan_policy", self.nan_policy, "propagate")) if value != default)
        return (f"BatchNorm({self.num_features}, axis={self.axis}, eps={self.eps}, momentum={self.momentum}, "
                f"affine={self.affine}, track_running_stats={self.track_running_stats}, dtype={self.dtype}{more})")

    def __copy__(self) -> Self:
        # A layer that shared arrays, but not the counter and the weights that go with them, would be neither one.
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        # The constants are made again when they are needed; what a backward needs belongs to the arrays of a forward.
        return {name: value for name, value in self.__dict__.items() if name not in ("_constants", "_tape")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(_attributes.migrated(state), _constants=None, _tape=Tape())
        if "_averages" not in state:
            self._averages = _averaging.Moving(_averaging.Weights.after(self.num_batches_tracked, self.momentum))

    def train(self, mode: bool = True) -> BatchNorm:
        """Normalize by batch statistics from now on; with ``mode=False``, as `eval`. Returns the layer."""
        self.training = check_flag(mode, "mode")
        return self

    def eval(self) -> BatchNorm:
        """Normalize by the running averages from now on. Returns the layer."""
        return self.train(False)

    def __call__(
        self,
        x: ArrayLike,
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
        x : array_like of float32, float64, float16 or bfloat16, two or more dimensions
            With num_features channels along the channel axis. Or jagged: a tuple (values, offsets) of an array (K, C)
            and int offsets (N + 1,) from 0 to K, of which offsets[n] is where sequence n begins; the result is such a
            tuple too, and the gradient an array like values.
        residual : array_like, shape and dtype of x, optional
            Added before the activation.
        activation : str, tuple or None
            Applied last. NaN passes through. "relu", and in evaluation mode, without a backward, any that
            `fastbn.ChannelAffine` knows.
        out : ndarray, shape and dtype of x, optional
            Where y goes. With ``out=x`` (in place) there is nothing left for a backward.
        mask : array_like of bool, optional
            Which positions count, for the statistics, the running averages and the gradients; of any shape that
            broadcasts against that of `x` without its channel axis. Or which values, where channels differ: with as
            many axes as `x`, against all of them. If none counts, the statistics are left out, with a warning; a
            channel of which none counts keeps its running averages.
        lengths : array_like of int, shape (N,), optional
            How many steps of each padded sequence count, along the second axis that is not the channels'.
        padding : {"zero", "keep"}
            What positions that do not count hold in y, and in dx: zeros, or what `out` has there, or, without `out`,
            what `x` (in the backward `dy`) has.

        Returns
        -------
        ndarray
            `out` if it was given, else a new array of x's shape and dtype; of jagged x a tuple of it and the offsets.

        Raises
        ------
        TypeError
            For another dtype, or arguments of the wrong type.
        ValueError
            For shapes that do not fit, an `out` that overlaps an input without being it, in training mode one value per
            channel, or in a channel by the mask, or in evaluation mode a running variance that is negative, or 0 where
            eps is 0 too.
        """
        if type(padding) is not str or padding != "zero":
            _masked.check_padding(padding)
        if type(x) is not np.ndarray and isinstance(x, tuple) and _masked.is_jagged(x):     # the first test spares time
            if mask is not None or lengths is not None:
                raise ValueError("mask and lengths must be None where x is jagged, (values, offsets)")
            values, offsets = x
            return self(values, residual, activation, out), offsets
        if mask is not None or lengths is not None:
            return self._forward_masked(x, residual, activation, out, mask, lengths, padding)
        mean, var = self.running_mean, self.running_var
        if self.training or mean is None or var is None:
            return self._forward_batch(x, residual, activation, out)
        code_and_slope = (0, 0.0) if activation is None else check_activation(activation)
        code = code_and_slope[0]
        if self.debias:
            mean, var = _averaging.debiased(self)
        constants = self._constants
        if constants is None or not constants.made_of(mean, var, self.gamma, self.beta, self.eps):
            check_variance(var, self.eps, "running_var")
            # One compiled call reads all parameters and another one loads a state, so that no thread sees half of one.
            self._constants = constants = kernels.Constants(
                self.num_features, mean, var, self.gamma, self.beta, self.eps)
        try:    # as _forgetting(), in less time
            y = kernels.apply(x, self.axis, constants, residual, out, code_and_slope, self.num_threads)
        except BaseException as error:
            self._forget_unless_refused(error)
            raise
        # Over x, nothing is left to go back from; over the residual, the bits of a ReLU cannot be worked out again.
        lost = out is not None and (
            same_memory(out, x) or (code > 0 and residual is not None and same_memory(out, residual)))
        if residual is not None:
            residual = weakly(residual) if code else True
        try:    # as weakly(), in less time
            kept: Any = ref(x)
        except TypeError:
            kept = x
        self._tape.last = (None if lost else kept, residual, code, None)
        return y

    def _forget_unless_refused(self, error: BaseException) -> None:
        # A call that is refused has written nothing; one that was interrupted may have written over the last x.
        if not isinstance(error, (TypeError, ValueError)):
            self._tape.last = None

    @contextlib.contextmanager
    def _forgetting(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._forget_unless_refused(error)
            raise

    def _forward_batch(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None,
    ) -> NDArray[Any]:
        view = views.view(x, self.axis, self.num_features)
        self._check_running()
        read = self._averages.read(self, view.array, out is not None) if self.training else None
        with self._forgetting():
            y, saved = self._normalize(view, residual, activation, out)
        if self.training:
            self._averages.follow(self, _averaging.Batch.from_saved(saved) if read is None else read)
        lost = out is not None and same_memory(out, x)
        self._tape.last = (
            None if lost else x if self.training else weakly(x), None, int(activation is not None), saved)
        return y

    def _forward_masked(
        self, x: ArrayLike, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None,
        mask: ArrayLike | None, lengths: ArrayLike | None, padding: Padding,
    ) -> Any:
        view = views.view(x, self.axis, self.num_features)
        chosen = _masked.counted(view, mask, lengths, padding)
        if self.training or self.running_mean is None or self.running_var is None:
            self._check_running()
            read = self._averages.read(self, view.array, out is not None, chosen) if self.training else None
            with self._forgetting():
                y, masked = _masked.forward(
                    view, chosen, padding, self.gamma, self.beta, self.eps, residual, activation, out, self.num_threads)
            if self.training and masked.saved is not None:
                self._averages.follow(
                    self, _averaging.Batch.from_saved(masked.saved, masked.counts) if read is None else read)
        else:
            mean, var = self._constant_statistics()
            with self._forgetting():
                y, masked = _masked.evaluate(
                    view, chosen, padding, mean, var, self.gamma, self.beta, self.eps, residual, activation, out,
                    self.num_threads)
        code = check_activation(activation)[0]
        if self.training:
            lost = out is not None and same_memory(out, x) and masked.rows is None
            self._tape.last = (None if lost else x, None, code, masked)
            return y
        used = residual if masked.pending and code else None    # a backward works out again where the ReLU was open
        lost = out is not None and (same_memory(out, x) or (used is not None and same_memory(out, used)))
        self._tape.last = (None if lost else weakly(x), weakly(used), code, dataclasses.replace(masked, rows=None))
        return y

    def _constant_statistics(self) -> tuple[NDArray[Any], NDArray[Any]]:
        # What evaluation mode normalizes by, where there is something to divide by.
        mean, var = self._evaluation_statistics()
        check_variance(var, self.eps, "running_var")
        return mean, var

    def _check_running(self) -> None:
        _averaging.check_pair(self)
        if self.training:
            for name in ("running_mean", "running_var"):
                running = getattr(self, name)
                views.check_vector(running, self.num_features, name)
                if running is not None and not running.flags.writeable:
                    raise ValueError(f"{name} is read-only, and training updates it")

    def backward(self, dy: ArrayLike, out: NDArray[Any] | None = None) -> Any:
        """Gradients of the last forward.

        x must not have changed since; nor, after a forward in evaluation mode, residual, parameters and running
        averages.

        After a forward in evaluation mode the running averages are constants, and dx = gamma * rstd * dy. Evaluation
        mode keeps no array alive, and backward needs x, and with a ReLU the residual: hold on to the arrays themselves
        that were passed. A slice or a result that was passed on without a name, as in ``bn(x[:4])`` or ``bn(conv(x))``,
        is gone by then.

        Parameters
        ----------
        dy : array_like, shape and dtype of the forward's x
        out : ndarray, shape and dtype of x, optional
            Where dx goes; `dy` or the forward's x for in place. Over x, nothing is left for another backward.

        Returns
        -------
        dx : ndarray
            Or, if the forward had a residual, the tuple ``(dx, dresidual)``. `grad_gamma` and `grad_beta` are set.

        Raises
        ------
        RuntimeError
            If there was no forward, or it wrote over its own input, or its activation has no backward, or it was in
            evaluation mode and its input is gone.
        TypeError, ValueError
            If `dy` or `out` does not fit.
        """
        last = self._tape.last
        if last is None:
            raise RuntimeError("backward needs a forward before it")
        x, residual, activation, saved = last
        if x is None:
            raise RuntimeError(
                "the last forward wrote its result over its input, which backward needs; pass another out")
        if activation > ACTIVATIONS["relu"]:
            raise RuntimeError("backward knows no activation but relu, and the last forward had another")
        if type(x) is ref:
            x = alive(x, "x")
        if type(saved) is not Saved:
            saved = self._saved(x, alive(residual, "residual"), activation > 0, saved)
        try:
            dx, dgamma, dbeta, *dresidual = self._gradients(dy, x, saved, out)
        except BaseException as error:
            # One that was interrupted may have written over a part of x.
            if not isinstance(error, Exception) and out is not None and same_memory(out, x):
                self._tape.last = None
            raise
        if out is not None and same_memory(out, x):
            self._tape.last = (None, residual, activation, saved)
        self._set_gradients(dgamma, dbeta)
        return (dx, *dresidual) if dresidual else dx

    def _saved(self, x: Any, residual: Any, relu: bool, saved: Saved | Masked | None) -> Saved | Masked:
        # An evaluation forward saves nothing, so that inference does not pay for a backward that hardly ever comes.
        if saved is None:
            mean, var = self._constant_statistics()
            return functional.inference_saved(
                x, mean, var, self.gamma, self.beta, axis=self.axis, eps=self.eps, relu=relu, residual=residual,
                num_threads=self.num_threads)
        if isinstance(saved, Masked) and saved.pending:
            mean, var = self._constant_statistics()
            return _masked.completed(
                saved, x, residual, mean, var, self.gamma, self.beta, self.eps, relu, self.num_threads)
        return saved

    def _set_gradients(self, dgamma: NDArray[np.float64], dbeta: NDArray[np.float64]) -> None:
        # There is nothing to check, and a small backward would take a tenth longer.
        _set(self, "grad_gamma", None if self.gamma is None else dgamma.astype(self.dtype))
        _set(self, "grad_beta", None if self.beta is None else dbeta.astype(self.dtype))

    def frozen(self) -> ChannelAffine:
        """Return the transform of evaluation mode as an immutable value.

        Returns
        -------
        ChannelAffine

        Raises
        ------
        RuntimeError
            If the layer keeps no running averages.
        ValueError
            If a running variance is negative, or 0 where eps is 0 too.

        Examples
        --------
        >>> import fastbn
        >>> fastbn.BatchNorm(2).frozen()
        ChannelAffine(2, axis=1)
        """
        if self.running_mean is None or self.running_var is None:
            raise RuntimeError("a layer with track_running_stats=False has no statistics to freeze")
        functional.check_vectors(self.num_features, running_mean=self.running_mean, running_var=self.running_var,
                                 gamma=self.gamma, beta=self.beta)
        given = {name: getattr(self, name) for name in ("running_mean", "running_var", "gamma", "beta")}
        check_finite({name: as_vector(values, name) for name, values in given.items() if values is not None})
        saved = Saved.from_statistics(*self._constant_statistics(), eps=self.eps)
        scale, shift = functional.relu_coefficients(saved.rstd, self.gamma, self.beta)
        return ChannelAffine(saved.mean, scale, shift, axis=self.axis, num_threads=self.num_threads)

    # What a layer over several processes does in its own way.

    def _holds_all(self) -> bool:
        # Whether the batch is what this layer is given.
        return True

    def _normalize(
        self, view: views.View, residual: ArrayLike | None, activation: Activation, out: NDArray[Any] | None,
    ) -> tuple[NDArray[Any], Saved]:
        # By the statistics of the batch.
        return functional.train(view, self.gamma, self.beta, self.eps, residual, activation, out, self.num_threads)

    def _gradients(
        self, dy: ArrayLike, x: Any, saved: Saved | Masked, out: NDArray[Any] | None,
    ) -> tuple[NDArray[Any], ...]:
        if isinstance(saved, Masked):
            return _masked.backward(dy, x, saved, self.gamma, out, self.num_threads)
        return functional.batch_norm_backward(
            dy, x, saved, self.gamma, axis=self.axis, out=out, num_threads=self.num_threads)
