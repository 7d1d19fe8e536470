"""Layers whose files can have the names of other frameworks, and that convert their layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastbn import checkpoints
from fastbn.layers.tracked import TrackedNorm

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from typing_extensions import Unpack

    from fastbn.checkpoints.conventions import Convention
    from fastbn.checkpoints.protocol import Checkpointable, Layer
    from fastbn.checkpoints.settings import Settings


class ConvertedNorm(TrackedNorm):
    """A layer whose files can have the names of other frameworks, and that converts their layers."""

    @classmethod
    def load(  # type: ignore[override]     # takes only the settings that conventions know
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
        axis, eps, momentum, unbiased, dtype, num_threads, averaging, debias, nan_policy, on_single, virtual_batch_size,
        keep
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
