"""Layers with running averages: their attributes, report and transform, and their files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastbn import checkpoints, functional
from fastbn._core.checks import as_vector, check_finite
from fastbn._core.saved import Saved
from fastbn.affine import ChannelAffine
from fastbn.layers.attributes import Check, forwarded, refusal, set_unchecked
from fastbn.layers.base import Norm, set_tape, warn

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from typing import ClassVar

    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Unpack

    from fastbn.checkpoints.conventions import Convention
    from fastbn.checkpoints.protocol import Checkpointable, Layer
    from fastbn.checkpoints.settings import Averaging, Settings, UpdatePolicy
    from fastbn.layers.batch import Batch, Follower
    from fastbn.layers.report import Report


def of_running(name: str, doc: str) -> Any:
    """Return a property that stands for an attribute of the running statistics."""
    return forwarded("_running", name, doc)


class TrackedNorm(Norm):
    """A layer with running averages, which evaluation mode uses."""

    _checks: ClassVar[Mapping[str, Check]] = {
        **Norm._checks,
        "averaging": refusal("make a new layer, or assign momentum, of which None is 'cumulative'"),
        "track_running_stats": refusal("assign running_mean and running_var, or None to do without"),
    }

    running_mean: NDArray[Any] | Any = of_running("running_mean", "Running mean, shape (C,), or None.")
    running_var: NDArray[Any] | Any = of_running("running_var", "Running variance, shape (C,), or None.")
    num_batches_tracked: int = of_running("num_batches_tracked", "Number of training batches.")
    momentum: float | None = of_running("momentum", "Weight of a new batch; None for a plain average.")
    unbiased: bool = of_running("unbiased", "Whether the running variance averages unbiased variances.")
    debias: bool = of_running("debias", "Whether evaluation removes the share of the initial values.")
    nan_policy: UpdatePolicy = of_running("nan_policy", "What a batch that is not finite does.")

    _follower: Follower     # the running statistics, unless something else receives the batches
    _warned: bool           # of a batch that was left out

    @property
    def track_running_stats(self) -> bool:
        """Whether there are running averages."""
        return self._running.tracked

    @property
    def averaging(self) -> Averaging:
        """The kind of average: "ema", "cumulative" (momentum is None) or "exact"."""
        return self._running.averaging

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

    def frozen(self) -> ChannelAffine:
        """Return the transform of evaluation mode as an immutable object.

        Returns
        -------
        ChannelAffine

        Raises
        ------
        RuntimeError
            If the layer has no running averages.
        ValueError
            If a running variance is negative, or 0 with an eps of 0.

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
        functional.check_vectors(self.num_features, **given)
        check_finite({name: as_vector(values, name) for name, values in given.items() if values is not None})
        saved = Saved.from_statistics(*self._constant_statistics(), eps=self.eps)
        scale, shift = functional.forward_coefficients(saved.rstd, self.gamma, self.beta)
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

    @classmethod
    def load(
        cls: type[Layer],
        path: str | os.PathLike[str],
        *,
        prefix: str = "",
        convention: str | Convention = "fastbn",
        count: int | None = None,
        keep_variance: bool = False,
        fix_gamma: bool | None = None,
        **settings: Unpack[Settings],
    ) -> Layer:
        """Return a new layer, in training mode, from a file of `save` or of another framework.

        The layer has the channels of the file, and a gamma, a beta and running averages if the file has them. Its
        settings (axis, eps, momentum, unbiased and the like) are the given ones, else those that `save` wrote to the
        file, else the defaults of the convention, because other frameworks store them elsewhere. The layer averages
        the kind of variance in the file, so nothing is converted unless `unbiased` requires it. Never unpickles.

        Parameters
        ----------
        path : path-like
            Path of a .safetensors or .npz file. Only the required part of a large .safetensors file is read.
        prefix : str
            The beginning of the names, such as "layer1.0.bn1.".
        convention : str or Convention
            The names in the file: "fastbn", "torch", "keras", "flax", "paddle", "mxnet", "onnx", or a convention of
            yours; see `fastbn.checkpoints.CONVENTIONS`.
        count, keep_variance, fix_gamma
            As in `fastbn.checkpoints.convert`; required only if `unbiased` differs from the file, or for MXNet.
        axis, eps, momentum, unbiased, dtype, num_threads, averaging, debias, nan_policy
            As in `BatchNorm`; momentum is the weight of the new batch. dtype is float64 by default if a vector in the
            file is, else float32.

        Returns
        -------
        BatchNorm

        Raises
        ------
        OSError
            If the file cannot be read.
        TypeError
            If an argument is of the wrong type.
        ValueError
            If the file is malformed or has no such layer; the message begins with the path.

        Examples
        --------
        >>> import os, tempfile
        >>> import fastbn
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "layer.safetensors")
        ...     fastbn.BatchNorm(3, eps=1e-3).save(path)
        ...     fastbn.BatchNorm.load(path)
        BatchNorm(3, eps=0.001)
        """
        return checkpoints.load_layer(
            cls, path, prefix, convention, settings, count=count, keep_variance=keep_variance, fix_gamma=fix_gamma)

    def save(
        self: Checkpointable,
        path: str | os.PathLike[str],
        *,
        prefix: str = "",
        convention: str | Convention = "fastbn",
        count: int | None = None,
        keep_variance: bool = False,
        append: bool = False,
    ) -> None:
        """Write the layer to a file, with axis, eps, momentum, unbiased and the like as metadata.

        The data go to a temporary file in the same folder, which is flushed to disk and renamed: an existing file is
        replaced as a whole or, after an error, unchanged. `fastbn.checkpoints.save` writes several layers to one file.

        Parameters
        ----------
        path : path-like
            Ends in .safetensors or .npz.
        prefix : str
            The beginning of each name, such as "bn1.".
        convention : str or Convention
            As in `load`.
        count, keep_variance
            As in `fastbn.checkpoints.convert`; required if the layer's `unbiased` differs from the convention's.
        append : bool
            Whether to keep the other content of an existing file and replace this layer in it; without it, other
            content is an error. The file is read into memory and rewritten.

        Raises
        ------
        OSError
            If the file cannot be written.
        TypeError
            If an argument is of the wrong type.
        ValueError
            If a value is not finite, the layer has no state, the convention cannot represent it, or the existing file
            is malformed, has other entries that would be lost, or has names that would be ambiguous.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> import fastbn
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "layer.npz")
        ...     fastbn.BatchNorm(3, unbiased=False).save(path, convention="keras", prefix="bn/")
        ...     sorted(np.load(path))
        ['bn/beta', 'bn/gamma', 'bn/moving_mean', 'bn/moving_variance']
        """
        checkpoints.save_layer(self, path, prefix, convention, append, count=count, keep_variance=keep_variance)

    @classmethod
    def from_torch(cls: type[Layer], module: Any) -> Layer:
        """Return a layer with the state, the settings and the mode of a PyTorch module.

        Parameters
        ----------
        module : torch.nn.BatchNorm1d, BatchNorm2d, BatchNorm3d or SyncBatchNorm
            On any device. Parameters of float16 and bfloat16 become float32. With ``bias=False``, beta is None. A
            SyncBatchNorm has running averages that all processes share; the new layer trains on the batch of its own
            process, unless it is a `fastbn.SyncBatchNorm`. A subclass is accepted if it computes what its base does.

        Returns
        -------
        BatchNorm

        Raises
        ------
        TypeError
            If it is something else, or overrides ``forward``, as timm's BatchNormAct2d does.
        ValueError
            If it is lazy and has seen no batch, has parametrizations or forward hooks, or has values that
            `load_state_dict` refuses.
        """
        return checkpoints.from_torch(cls, module)

    @classmethod
    def from_keras(cls: type[Layer], layer: Any) -> Layer:
        """Return a layer with the state and the settings of a layer of Keras 3.

        It averages biased variances, as Keras does. It is in evaluation mode only if the Keras layer is not trainable,
        because Keras passes the mode with each call.

        Parameters
        ----------
        layer : keras.layers.BatchNormalization
            Of any backend; or of a subclass that does not override ``call``. With ``scale=False`` gamma is None, and
            with ``center=False`` beta.

        Returns
        -------
        BatchNorm

        Raises
        ------
        TypeError
            If it is something else, or overrides ``call``.
        ValueError
            If it is not built, uses batch renormalization, or has values that `load_state_dict` refuses.
        """
        return checkpoints.from_keras(cls, layer)

    @classmethod
    def from_onnx(cls: type[Layer], node: Any, initializers: Mapping[str, Any]) -> Layer:
        """Return the layer of a BatchNormalization node, in evaluation mode unless its training_mode is 1.

        Parameters
        ----------
        node : onnx.NodeProto
            Of any opset.
        initializers : mapping of str to ndarray or onnx.TensorProto
            The constants of the graph by name, ``{t.name: t for t in model.graph.initializer}``.

        Returns
        -------
        BatchNorm

        Raises
        ------
        ModuleNotFoundError
            For a TensorProto if onnx is not installed.
        TypeError
            If an argument has the wrong type.
        ValueError
            If the node has another type, inputs that are not constants, or values that `load_state_dict` refuses.

        Examples
        --------
        Any object with the attributes of a NodeProto is accepted:

        >>> from types import SimpleNamespace
        >>> import numpy as np
        >>> import fastbn
        >>> node = SimpleNamespace(op_type="BatchNormalization", domain="", input=list("xsbmv"), attribute=[])
        >>> bn = fastbn.BatchNorm.from_onnx(node, {name: np.ones(2, np.float32) for name in "sbmv"})
        >>> bn.training, bn.running_mean
        (False, array([1., 1.], dtype=float32))
        """
        return checkpoints.from_onnx(cls, node, initializers)
