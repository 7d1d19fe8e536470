"""A layer from a file, into a file, and from the state and the settings that it is made of."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._checks import check_flag
from fastbn.checkpoints import files
from fastbn.checkpoints.conventions import CONVENTIONS, Convention, find
from fastbn.checkpoints.conversion import check_prefix, convert, convert_momentum
from fastbn.checkpoints.settings import Settings, encode

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from fastbn._checkpointed import Checkpointable, Layer

FASTBN = CONVENTIONS["fastbn"]


def build(layer_type: type[Layer], state: Mapping[str, NDArray[Any]], **settings: Unpack[Settings]) -> Layer:
    """Return a layer that has a state under fastbn's names; float64 if an array of the state is."""
    vectors = [array for array in state.values() if array.ndim]
    settings.setdefault("dtype", np.float64 if any(array.itemsize > 4 for array in vectors) else np.float32)
    layer = layer_type(
        len(vectors[0]), affine="weight" in state, track_running_stats="running_mean" in state, **settings)
    layer.load_state_dict(state)
    return layer


def load(
    layer_type: type[Layer],
    path: str | os.PathLike[str],
    *,
    prefix: str = "",
    convention: str | Convention = "fastbn",
    count: int | None = None,
    keep_variance: bool = False,
    fix_gamma: bool | None = None,
    **settings: Unpack[Settings],
) -> Layer:
    """Return a new layer from a file; `BatchNorm.load` documents it."""
    source = find(convention)
    state, stored = files.read(path, prefix, source)
    source = dataclasses.replace(source, unbiased=stored.get("unbiased", source.unbiased))
    defaults: Settings = {
        "axis": source.axis, "eps": source.eps, "unbiased": source.unbiased,
        "momentum": convert_momentum(source.momentum, source, FASTBN)}
    chosen: Settings = {**defaults, **stored, **settings}
    target = dataclasses.replace(FASTBN, unbiased=check_flag(chosen["unbiased"], "unbiased"))
    own = convert(state, source, target, count=count, keep_variance=keep_variance, fix_gamma=fix_gamma)
    return build(layer_type, own, **chosen)


def restore(
    layer: Checkpointable,
    path: str | os.PathLike[str],
    *,
    prefix: str = "",
    convention: str | Convention = "fastbn",
    count: int | None = None,
    keep_variance: bool = False,
    fix_gamma: bool | None = None,
) -> None:
    """Load a file into a layer that is there: all of its state or, with an error, none.

    The layer keeps its settings (axis, eps, momentum and the like), as in `BatchNorm.load_state_dict`.

    Parameters
    ----------
    layer : BatchNorm
        Of as many channels, and with the same vectors, as the file has.
    path, prefix, convention, count, keep_variance, fix_gamma
        As in `BatchNorm.load`.

    Raises
    ------
    OSError
        If the file cannot be read.
    TypeError
        If an argument is of the wrong type.
    ValueError
        If the file is malformed, has no such layer, or one that does not fit.

    Examples
    --------
    >>> import os, tempfile
    >>> import fastbn
    >>> from fastbn.checkpoints import restore
    >>> bn = fastbn.BatchNorm(2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "layer.safetensors")
    ...     bn.save(path)
    ...     bn.gamma[...] = 7
    ...     restore(bn, path)
    >>> bn.gamma
    array([1., 1.], dtype=float32)
    """
    source = find(convention)
    state, stored = files.read(path, prefix, source)
    source = dataclasses.replace(source, unbiased=stored.get("unbiased", source.unbiased))
    layer.load_state_dict(convert(
        state, source, dataclasses.replace(FASTBN, unbiased=layer.unbiased), count=count, keep_variance=keep_variance,
        fix_gamma=fix_gamma))


def save(
    layer: Checkpointable,
    path: str | os.PathLike[str],
    *,
    prefix: str = "",
    convention: str | Convention = "fastbn",
    count: int | None = None,
    keep_variance: bool = False,
) -> None:
    """Write a layer to a file; `BatchNorm.save` documents it."""
    check_prefix(prefix)
    source = dataclasses.replace(FASTBN, unbiased=layer.unbiased)
    target = find(convention)
    if target is FASTBN:  # which of the variances it averages is for the layer to say
        target = source
    state = convert(layer.state_dict(), source, target, count=count, keep_variance=keep_variance)
    unbiased = layer.unbiased if keep_variance else target.unbiased
    files.write(path, {prefix + name: array for name, array in state.items()}, encode(layer, unbiased, prefix))
