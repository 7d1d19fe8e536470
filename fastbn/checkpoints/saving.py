"""Save layers to files, next to other arrays if requested."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastbn._core.checks import check_flag, listed, shortened
from fastbn.checkpoints import whole
from fastbn.checkpoints.conventions import FASTBN, Convention, averaging, find
from fastbn.checkpoints.conversion import ConversionOptions, convert
from fastbn.checkpoints.formats.files import format_of, located, opened, write
from fastbn.checkpoints.kinds import check_layer, is_averaged, name_in_file
from fastbn.checkpoints.matching import check_prefix
from fastbn.checkpoints.prefixes import check_apart, layers_in, names_of_layers
from fastbn.checkpoints.settings import encode, prefix_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from fastbn.checkpoints.formats.archive import Archive
    from fastbn.checkpoints.protocol import Checkpointable


def save(
    path: str | os.PathLike[str],
    layers: Mapping[str, Checkpointable],
    *,
    convention: str | Convention = "fastbn",
    append: bool = False,
    count: int | None = None,
    keep_variance: bool = False,
) -> None:
    """Save several layers to one file, each under its own prefix, with their settings as metadata.

    The file is replaced as a whole: after an error the previous file is unchanged.

    Parameters
    ----------
    path : path-like
        Ends in .safetensors or .npz. An npz file has room for about 300 layers.
    layers : mapping of str to layer
        Layers of any class, by prefix, such as "layer1.0.bn1.". No prefix may begin with another one.
    convention, append, count, keep_variance
        As in `fastbn.BatchNorm.save`, for all layers; if one is not a `fastbn.BatchNorm`, convention is "fastbn".

    Raises
    ------
    OSError
        If the file cannot be written.
    TypeError
        If an argument has the wrong type.
    ValueError
        As in `fastbn.BatchNorm.save`; also if `layers` is empty, or one prefix begins with another.

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
        raise TypeError(f"layers must be a mapping of prefixes to layers, got {type(layers).__name__}")
    if not layers:
        raise ValueError("layers is empty; expected at least one layer")
    arrays: dict[str, NDArray[Any]] = {}
    metadata: dict[str, str] = {}
    for prefix, layer in layers.items():
        check_prefix(prefix)
        check_layer(layer, f"layers[{prefix!r}]")
        with located(f"layers[{prefix!r}]"):
            more, texts = _entries(layer, prefix, target, count=count, keep_variance=keep_variance)
        arrays |= more
        metadata |= texts
    _put(path, arrays, metadata, list(layers), target, append)


def save_layer(
    layer: Checkpointable,
    path: str | os.PathLike[str],
    prefix: str,
    convention: str | Convention,
    append: bool,
    **choices: Unpack[ConversionOptions],
) -> None:
    """Save one layer to a file; see `fastbn.BatchNorm.save`.

    Parameters
    ----------
    layer : layer of any class
    path : path-like
    prefix : str
    convention : str or Convention
    append : bool
        Whether to keep other content of the file.
    **choices
        count and keep_variance, as in `convert`.

    Raises
    ------
    OSError, TypeError, ValueError
        As `fastbn.BatchNorm.save`.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from fastbn import BatchNorm, checkpoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "layer.npz")
    ...     checkpoints.save_layer(BatchNorm(3, affine=False), path, "bn.", "flax", False, keep_variance=True)
    ...     sorted(np.load(path))
    ['bn.mean', 'bn.var']
    """
    check_prefix(prefix)
    target = find(convention)
    arrays, metadata = _entries(layer, prefix, target, **choices)
    _put(path, arrays, metadata, [prefix], target, append)


def _entries(
    layer: Checkpointable, prefix: str, convention: Convention, **choices: Unpack[ConversionOptions]
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    # The arrays and the metadata of a layer in a file.
    if not is_averaged(layer):
        whole.check_choices(type(layer), convention, choices)
        return whole.entries(layer, prefix)
    source = averaging(layer.unbiased)
    target = source if convention is FASTBN else convention     # fastbn keeps the variance that the layer averages
    state = convert(layer.state_dict(), source, target, **choices)
    unbiased = layer.unbiased if choices.get("keep_variance") else target.unbiased
    arrays = {prefix + name: array for name, array in state.items()}
    return arrays, encode(layer, prefix, unbiased, name_in_file(type(layer)))


def _put(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str],
    prefixes: Collection[str],
    convention: Convention,
    append: bool,
) -> None:
    # Without `append`, a file with anything but these layers is not replaced.
    check_flag(append, "append")
    format_of(path)
    check_apart(prefixes)
    kept: dict[str, Any] = {}
    texts: dict[str, str] = {}
    if _has_content(path):
        with opened(path) as archive:
            own = {prefix + name for prefix in prefixes for name in names_of_layers(convention)} | arrays.keys()
            others = [name for name in archive.names if name not in own]
            if others and not append:
                raise ValueError(f"also holds {listed(list(map(shortened, others)), 4)}, which would be lost; pass "
                                 "append=True to keep these entries, or remove the file first")
            if append:
                _check_apart_from(archive, others, prefixes, convention)
                kept = {name: archive.entry(name) for name in others}
                replaced = set(prefixes)
                texts = {key: text for key, text in archive.metadata.items() if prefix_of(key) not in replaced}
    write(path, arrays, {**texts, **metadata}, kept)


def _check_apart_from(
    archive: Archive, others: Iterable[str], prefixes: Collection[str], convention: Convention
) -> None:
    check_apart({*prefixes, *layers_in(archive, convention)})
    foreign = set(others)
    for prefix in prefixes:
        taken = [shortened(name) for name in archive.under(prefix) if name in foreign]
        if taken:
            raise ValueError(f"prefix {prefix!r} is the beginning of {listed(taken, 4)} in the file, which would "
                             "belong to the layer")


def _has_content(path: str | os.PathLike[str]) -> bool:
    # An empty file holds nothing to keep; pipes and devices are written to directly.
    return os.path.isfile(path) and os.path.getsize(path) > 0
