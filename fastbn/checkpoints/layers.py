"""A layer from a file, into a file, and from the state and the settings that it is made of."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import check_flag
from fastbn.checkpoints import files
from fastbn.checkpoints.conventions import CONVENTIONS, Convention, find
from fastbn.checkpoints.conversion import Choices, check_prefix, convert, convert_momentum
from fastbn.checkpoints.others import put
from fastbn.checkpoints.settings import Settings, encode

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from fastbn.checkpoints.archive import Archive
    from fastbn.checkpoints.protocol import Checkpointable, Layer

FASTBN = CONVENTIONS["fastbn"]


def build(layer_type: type[Layer], state: Mapping[str, NDArray[Any]], **settings: Unpack[Settings]) -> Layer:
    """Return a layer that has a state under fastbn's names; float64 if an array of the state is."""
    vectors = [array for name, array in state.items() if name in FASTBN.names.values() and array.ndim]
    if settings.get("dtype") is None:
        settings["dtype"] = np.float64 if any(array.itemsize > 4 for array in vectors) else np.float32
    layer = layer_type(len(vectors[0]), scale="weight" in state, center="bias" in state,
                       track_running_stats="running_mean" in state, **settings)
    layer.load_state_dict(state)
    return layer


def read(
    archive: Archive, prefix: str, source: Convention
) -> tuple[dict[str, NDArray[Any]], Convention, Settings]:
    """Return the state of a layer in a file, the convention that it is in, and the settings that are with it."""
    state, stored = files.read(archive, prefix, source)
    return state, dataclasses.replace(source, unbiased=stored.get("unbiased", source.unbiased)), stored


def load_layer(
    layer_type: type[Layer],
    path: str | os.PathLike[str],
    prefix: str,
    convention: str | Convention,
    settings: Settings,
    **choices: Unpack[Choices],
) -> Layer:
    """Return a new layer from a file; `BatchNorm.load` documents it."""
    check_prefix(prefix)
    source = find(convention)
    with files.opened(path) as archive:
        return layer_of(layer_type, archive, prefix, source, settings, **choices)


def layer_of(
    layer_type: type[Layer], archive: Archive, prefix: str, convention: Convention, settings: Settings,
    **choices: Unpack[Choices],
) -> Layer:
    """Return a new layer from an open file."""
    state, source, stored = read(archive, prefix, convention)
    defaults: Settings = {
        "axis": source.axis, "eps": source.eps, "unbiased": source.unbiased,
        "momentum": convert_momentum(source.momentum, source, FASTBN)}
    if settings.get("averaging") == "cumulative":       # which has no momentum, whatever the file or its convention say
        settings = {"momentum": None, **settings}
    chosen: Settings = {**defaults, **stored, **settings}
    target = dataclasses.replace(FASTBN, unbiased=check_flag(chosen["unbiased"], "unbiased"))
    return build(layer_type, convert(state, source, target, **choices), **chosen)


def restore(
    layer: Checkpointable,
    path: str | os.PathLike[str],
    *,
    prefix: str = "",
    convention: str | Convention = "fastbn",
    **choices: Unpack[Choices],
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
    check_prefix(prefix)
    found = find(convention)
    target = dataclasses.replace(FASTBN, unbiased=layer.unbiased)
    with files.opened(path) as archive:
        state, source, _ = read(archive, prefix, found)
        layer.load_state_dict(convert(state, source, target, **choices))


def entries_of(
    layer: Checkpointable, prefix: str, convention: Convention, **choices: Unpack[Choices]
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays and the metadata of a layer in a file."""
    source = dataclasses.replace(FASTBN, unbiased=layer.unbiased)
    # Which of the variances fastbn averages is for the layer to say.
    target = source if convention is FASTBN else convention
    state = convert(layer.state_dict(), source, target, **choices)
    unbiased = layer.unbiased if choices.get("keep_variance") else target.unbiased
    return {prefix + name: array for name, array in state.items()}, encode(layer, unbiased, prefix)


def save_layer(
    layer: Checkpointable,
    path: str | os.PathLike[str],
    prefix: str,
    convention: str | Convention,
    append: bool,
    **choices: Unpack[Choices],
) -> None:
    """Write a layer to a file; `BatchNorm.save` documents it."""
    check_prefix(prefix)
    target = find(convention)
    arrays, metadata = entries_of(layer, prefix, target, **choices)
    put(path, arrays, metadata, [prefix], target, append)
