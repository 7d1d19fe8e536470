"""Layers in files, and from other frameworks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastbn import checkpoints
from fastbn.layers.base import Norm

if TYPE_CHECKING:
    import os

    from fastbn.checkpoints.protocol import Checkpointable, Layer


class StoredNorm(Norm):
    """A layer that files hold: its arguments as metadata, and its state under the names of PyTorch."""

    @classmethod
    def load(cls: type[Layer], path: str | os.PathLike[str], *, prefix: str = "", **arguments: Any) -> Layer:
        """Return a new layer, in training mode, from a file of `save` or a state of PyTorch.

        Never unpickles. The file has the arguments of a layer that `save` wrote.

        Parameters
        ----------
        path : path-like
            Path of a .safetensors or .npz file.
        prefix : str
            The beginning of the names, such as "encoder.norm1.".
        **arguments
            Those of the constructor. They override the arguments in the file. A state that fastbn did not write has
            none: pass those without a default, and those that differ from their defaults.

        Returns
        -------
        layer

        Raises
        ------
        OSError
            If the file cannot be read.
        TypeError
            If an argument is missing or of the wrong type.
        ValueError
            If the file is malformed or has no such layer; the message begins with the path.
        """
        settings: Any = arguments       # those of the class, which the type of the settings of batch norm does not know
        return checkpoints.load_layer(cls, path, prefix, "fastbn", settings)

    def save(
        self: Checkpointable, path: str | os.PathLike[str], *, prefix: str = "", append: bool = False,
    ) -> None:
        """Write the layer to a file, with its arguments as metadata.

        An existing file is replaced as a whole or, after an error, unchanged. `fastbn.checkpoints.save` writes several
        layers to one file.

        Parameters
        ----------
        path : path-like
            Ends in .safetensors or .npz.
        prefix : str
            The beginning of each name, such as "encoder.norm1.".
        append : bool
            Whether to keep the other content of an existing file and replace this layer in it; without it, other
            content is an error.

        Raises
        ------
        OSError
            If the file cannot be written.
        TypeError
            If an argument is of the wrong type.
        ValueError
            If a value is not finite, the layer has no state, or the existing file is malformed, has other entries that
            would be lost, or has names that would be ambiguous.
        """
        checkpoints.save_layer(self, path, prefix, "fastbn", append)

    @classmethod
    def from_torch(cls: type[Layer], module: Any) -> Layer:
        """Return a layer with the state, the settings and the mode of the PyTorch module of the same name.

        Parameters
        ----------
        module : torch.nn.Module
            On any device; an InstanceNorm of any number of dimensions. Parameters of float16 and bfloat16 become
            float32. A subclass is accepted if it computes what its base does.

        Returns
        -------
        layer

        Raises
        ------
        TypeError
            If it is something else, or overrides ``forward``.
        ValueError
            If it has parametrizations or forward hooks, or values that `load_state_dict` refuses.
        """
        return checkpoints.from_torch(cls, module)
