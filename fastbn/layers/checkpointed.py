"""The methods of `BatchNorm` that lead to files and other frameworks; the work is done in fastbn.checkpoints.

That package is imported by the methods, so that who only trains does not pay for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from typing_extensions import Unpack

    from fastbn.checkpoints.conventions import Convention
    from fastbn.checkpoints.protocol import Checkpointable, Layer
    from fastbn.checkpoints.settings import Settings


class Checkpointed:
    """The methods; `BatchNorm` inherits them."""

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
        """Return a new layer, in training mode, from a file that `save` or another framework has written.

        The layer has as many channels, and those of gamma, beta and running averages, that the file has. Its settings
        (axis, eps, momentum, unbiased and the like) are those given; else those that `save` put into the file; else the
        defaults of the convention, because other frameworks keep them elsewhere. It averages the kind of variance that
        the file has, so nothing is converted unless `unbiased` asks for it. Never unpickles anything.

        Parameters
        ----------
        path : path-like
            Of a .safetensors or .npz file. Of a large .safetensors file only what is needed is read.
        prefix : str
            What precedes the names, as "layer1.0.bn1.".
        convention : str or Convention
            Whose names these are: "fastbn", "torch", "keras", "flax", "paddle", "mxnet", "onnx", or one of your own;
            see `fastbn.checkpoints.CONVENTIONS`.
        count, keep_variance, fix_gamma
            As in `fastbn.checkpoints.convert`; needed only if `unbiased` is not as in the file, or for MXNet.
        axis, eps, momentum, unbiased, dtype, num_threads, averaging, debias, nan_policy
            As in `BatchNorm`, in its meaning (momentum is the weight of the new batch). dtype is float64 if a vector of
            the file is, else float32.

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
            If the file is malformed, or has no such layer; the message begins with the path.

        Examples
        --------
        >>> import os, tempfile
        >>> import fastbn
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "layer.safetensors")
        ...     fastbn.BatchNorm(3, eps=1e-3).save(path)
        ...     fastbn.BatchNorm.load(path)
        BatchNorm(3, axis=1, eps=0.001, momentum=0.1, affine=True, track_running_stats=True, dtype=float32)
        """
        from fastbn import checkpoints

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

        The file is written beside its place, flushed to the disk and renamed: a file that was there is replaced at
        once, or, if anything fails, stays as it was. `fastbn.checkpoints.save` writes several layers at once.

        Parameters
        ----------
        path : path-like
            Ends in .safetensors or .npz.
        prefix : str
            Put before each name, as "bn1.".
        convention : str or Convention
            As in `load`.
        count, keep_variance
            As in `fastbn.checkpoints.convert`; needed where the layer's `unbiased` is not the convention's.
        append : bool
            Keep what else is in the file, and replace this layer in it. Without it a file that holds anything else is
            an error. The file is read into memory and rewritten.

        Raises
        ------
        OSError
            If the file cannot be written.
        TypeError
            If an argument is of the wrong type.
        ValueError
            If a value is not finite, the layer has no state, the convention cannot hold it, or the file that is there
            is malformed, has other entries that would be lost, or names that the layer's could not be told from.

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
        from fastbn import checkpoints

        checkpoints.save_layer(self, path, prefix, convention, append, count=count, keep_variance=keep_variance)

    @classmethod
    def from_torch(cls: type[Layer], module: Any) -> Layer:
        """Return a layer with the state, the settings and the mode of a PyTorch module.

        Parameters
        ----------
        module : torch.nn.BatchNorm1d, BatchNorm2d, BatchNorm3d or SyncBatchNorm
            On any device. Parameters of float16 and bfloat16 become float32. Of one with ``bias=False`` beta is None.
            Of a SyncBatchNorm the layer has the averages that all processes share; in training it takes the statistics
            of this process alone, unless it is a `fastbn.SyncBatchNorm`. A subclass is converted if it computes what
            its base does.

        Returns
        -------
        BatchNorm

        Raises
        ------
        TypeError
            If it is something else, or has a ``forward`` of its own, as timm's BatchNormAct2d has.
        ValueError
            If it is lazy and has not seen a batch, has parametrizations or forward hooks, or values that
            `load_state_dict` refuses.
        """
        from fastbn import checkpoints

        return checkpoints.from_torch(cls, module)

    @classmethod
    def from_keras(cls: type[Layer], layer: Any) -> Layer:
        """Return a layer with the state and the settings of a layer of Keras 3.

        It averages biased variances, as Keras does, and is in evaluation mode only if the layer is not trainable: Keras
        passes the mode with each call.

        Parameters
        ----------
        layer : keras.layers.BatchNormalization
            Of any backend, or of a subclass without a ``call`` of its own. A gamma or beta that it does without
            (``scale=False``, ``center=False``) is None here too.

        Returns
        -------
        BatchNorm

        Raises
        ------
        TypeError
            If it is something else, or has a ``call`` of its own.
        ValueError
            If it is not built, renormalizes, or has values that `load_state_dict` refuses.
        """
        from fastbn import checkpoints

        return checkpoints.from_keras(cls, layer)

    @classmethod
    def from_onnx(cls: type[Layer], node: Any, initializers: Mapping[str, Any]) -> Layer:
        """Return a layer that does what a BatchNormalization node does; evaluation mode unless its training_mode is 1.

        Parameters
        ----------
        node : onnx.NodeProto
            Of any opset.
        initializers : mapping of str to ndarray or onnx.TensorProto
            The constants of the graph by name: ``{t.name: t for t in model.graph.initializer}``.

        Returns
        -------
        BatchNorm

        Raises
        ------
        ModuleNotFoundError
            If there are TensorProtos and onnx is not installed.
        TypeError
            If an argument is something else.
        ValueError
            If the node is another, has inputs that are no constants, or values that `load_state_dict` refuses.

        Examples
        --------
        Anything with the attributes of a NodeProto will do:

        >>> from types import SimpleNamespace
        >>> import numpy as np
        >>> import fastbn
        >>> node = SimpleNamespace(op_type="BatchNormalization", domain="", input=list("xsbmv"), attribute=[])
        >>> bn = fastbn.BatchNorm.from_onnx(node, {name: np.ones(2, np.float32) for name in "sbmv"})
        >>> bn.training, bn.running_mean
        (False, array([1., 1.], dtype=float32))
        """
        from fastbn import checkpoints

        return checkpoints.from_onnx(cls, node, initializers)
