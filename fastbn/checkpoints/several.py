"""Several layers in one file, by their prefixes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastbn.checkpoints import files, kinds
from fastbn.checkpoints.conventions import Convention, find
from fastbn.checkpoints.conversion import check_prefix
from fastbn.checkpoints.layers import entries_of, layer_of
from fastbn.checkpoints.others import layers_in, put

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from fastbn.checkpoints.protocol import Checkpointable
    from fastbn.checkpoints.settings import Settings


def save(
    path: str | os.PathLike[str],
    layers: Mapping[str, Checkpointable],
    *,
    convention: str | Convention = "fastbn",
    append: bool = False,
    count: int | None = None,
    keep_variance: bool = False,
) -> None:
    """Write several layers to one file, each under a prefix of its own and with its settings as metadata.

    The file is put in place at once, with all layers or, if anything fails, as it was.

    Parameters
    ----------
    path : path-like
        Ends in .safetensors or .npz. An npz file has room for some 300 layers.
    layers : mapping of str to BatchNorm
        By prefix, as "layer1.0.bn1.". No prefix may be the beginning of another.
    convention, append, count, keep_variance
        As in `BatchNorm.save`, for all layers.

    Raises
    ------
    OSError
        If the file cannot be written.
    TypeError
        If an argument is of the wrong type.
    ValueError
        As in `BatchNorm.save`, or if there is no layer, or prefixes cannot be told apart.

    Examples
    --------
    >>> import os, tempfile
    >>> import fastbn
    >>> from fastbn import checkpoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "layers.safetensors")
    ...     checkpoints.save(path, {"bn1.": fastbn.BatchNorm(8), "bn2.": fastbn.BatchNorm(16, eps=1e-3)})
    ...     layers = checkpoints.load(path)
    >>> list(layers), layers["bn2."].num_features, layers["bn2."].eps
    (['bn1.', 'bn2.'], 16, 0.001)
    """
    target = find(convention)
    if not isinstance(layers, Mapping):
        raise TypeError(f"layers must be a mapping of prefixes to BatchNorms, got {type(layers).__name__}")
    if not layers:
        raise ValueError("layers is empty; expected at least one layer")
    arrays: dict[str, NDArray[Any]] = {}
    metadata: dict[str, str] = {}
    for prefix, layer in layers.items():
        check_prefix(prefix)
        if not isinstance(layer, kinds.named("BatchNorm")):
            raise TypeError(f"layers[{prefix!r}] must be a BatchNorm, got {type(layer).__name__}")
        with files.located(f"layers[{prefix!r}]"):
            more, texts = entries_of(layer, prefix, target, count=count, keep_variance=keep_variance)
        arrays |= more
        metadata |= texts
    put(path, arrays, metadata, list(layers), target, append)


def load(
    path: str | os.PathLike[str],
    *,
    convention: str | Convention = "fastbn",
    count: int | None = None,
    keep_variance: bool = False,
    fix_gamma: bool | None = None,
    **settings: Unpack[Settings],
) -> dict[str, Checkpointable]:
    """Return all batch norms of a file, by prefix, each as `BatchNorm.load` returns it.

    These are the layers whose settings fastbn has written with them, and whatever has a running mean and a running
    variance under the names of the convention; other arrays, as those of convolutions, are not read.

    Parameters
    ----------
    path : path-like
        Of a .safetensors or .npz file.
    convention, count, keep_variance, fix_gamma
        As in `BatchNorm.load`, for all layers.
    **settings
        Axis, eps, momentum and the like, for all layers, in place of those in the file.

    Returns
    -------
    dict of str to BatchNorm
        Sorted by prefix.

    Raises
    ------
    OSError
        If the file cannot be read.
    TypeError
        If an argument is of the wrong type.
    ValueError
        If the file is malformed or has no such layer; the message begins with the path and the prefix.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from fastbn import checkpoints
    >>> ones = np.ones(4, np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.npz")
    ...     np.savez(path, **{"conv.weight": np.ones((4, 3, 1, 1)), "bn.running_mean": ones, "bn.running_var": ones})
    ...     checkpoints.load(path, convention="torch")
    {'bn.': BatchNorm(4, affine=False)}
    """
    source = find(convention)
    with files.opened(path) as archive:
        prefixes = layers_in(archive, source)
        if not prefixes:
            raise ValueError(f"has no batch normalization under the names of {source.name}, such as "
                             f"{source.running_mean!r} and {source.running_var!r}")
        layers = {}
        for prefix in prefixes:
            with files.located(repr(prefix)):
                layers[prefix] = layer_of(kinds.named("BatchNorm"), archive, prefix, source, settings, count=count,
                                          keep_variance=keep_variance, fix_gamma=fix_gamma)
        return layers
