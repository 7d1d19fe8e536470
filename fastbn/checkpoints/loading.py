"""Load layers from files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastbn._core.checks import check_flag
from fastbn.checkpoints import whole
from fastbn.checkpoints.build import build
from fastbn.checkpoints.conventions import COUNTER, FASTBN, Convention, averaging, find
from fastbn.checkpoints.conversion import ConversionOptions, convert, convert_momentum
from fastbn.checkpoints.formats.files import located, opened
from fastbn.checkpoints.kinds import check_class, check_layer, default, is_averaged, is_whole, name_of, named
from fastbn.checkpoints.matching import check_prefix, check_shapes, checked_vectors, match, without_prefix
from fastbn.checkpoints.prefixes import layers_in
from fastbn.checkpoints.settings import Settings, decode
from fastbn.checkpoints.state import check_exact, check_initial_weight

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from fastbn.checkpoints.formats.archive import Archive
    from fastbn.checkpoints.protocol import Checkpointable, Layer


def load(
    path: str | os.PathLike[str],
    *,
    convention: str | Convention = "fastbn",
    count: int | None = None,
    keep_variance: bool = False,
    fix_gamma: bool | None = None,
    **settings: Unpack[Settings],
) -> dict[str, Any]:
    """Load all layers of a file.

    A layer is a group of arrays with a common prefix that `save` has written, or that has a running mean and a running
    variance under the names of the convention. Other arrays, such as those of convolutions, are not read.

    Parameters
    ----------
    path : path-like
        A .safetensors or .npz file.
    convention, count, keep_variance, fix_gamma
        As in `fastbn.BatchNorm.load`, for all layers.
    **settings
        Arguments of the layers, such as axis, eps and momentum. They override the settings in the file, for all layers
        that have them.

    Returns
    -------
    dict of str to layer
        The layers by prefix, sorted, each as the `load` of its class returns it.

    Raises
    ------
    OSError
        If the file cannot be read.
    TypeError
        If an argument has the wrong type.
    ValueError
        If the file is malformed or has no layer; the message begins with the path and the prefix.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from fastbn import checkpoints
    >>> ones = np.ones(4, np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.npz")
    ...     np.savez(path, **{"conv.weight": np.ones((4, 3, 1, 1)), "bn.running_mean": ones, "bn.running_var": ones})
    ...     layers = checkpoints.load(path, convention="torch")
    >>> list(layers), layers["bn."].num_features, layers["bn."].affine
    (['bn.'], 4, False)
    """
    source = find(convention)
    with opened(path) as archive:
        prefixes = layers_in(archive, source)
        if not prefixes:
            raise ValueError(f"has no batch normalization under the names of {source.name}, such as "
                             f"{source.running_mean!r} and {source.running_var!r}")
        layers: dict[str, Any] = {}
        for prefix in prefixes:
            with located(repr(prefix)):
                layer_type = named(decode(archive.metadata, prefix)[1] or default())
                if is_whole(layer_type):
                    layers[prefix] = whole.read(archive, prefix, whole.chosen(settings, layer_type), layer_type)
                    continue
                stored = _read(archive, prefix, source)
                layers[prefix] = _layer(layer_type, stored, settings, count=count, keep_variance=keep_variance,
                                        fix_gamma=fix_gamma)
        return layers


def load_layer(
    layer_type: type[Layer],
    path: str | os.PathLike[str],
    prefix: str,
    convention: str | Convention,
    settings: Settings,
    **choices: Unpack[ConversionOptions],
) -> Layer:
    """Load one layer from a file; see `fastbn.BatchNorm.load`.

    Parameters
    ----------
    layer_type : type
        The class of the layer.
    path : path-like
    prefix : str
    convention : str or Convention
    settings : dict
        Arguments of `layer_type`, which override the settings in the file.
    **choices
        count, keep_variance and fix_gamma, as in `convert`.

    Returns
    -------
    layer_type

    Raises
    ------
    OSError, TypeError, ValueError
        As `fastbn.BatchNorm.load`.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastbn import BatchNorm, checkpoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "layer.npz")
    ...     BatchNorm(3).save(path, prefix="bn.")
    ...     bn = checkpoints.load_layer(BatchNorm, path, "bn.", "fastbn", {"eps": 1e-3})
    >>> bn.num_features, bn.eps
    (3, 0.001)
    """
    check_class(layer_type)
    check_prefix(prefix)
    source = find(convention)
    with opened(path) as archive:
        _check_kind(layer_type, archive, prefix)
        if is_whole(layer_type):
            return whole.read(archive, prefix, settings, layer_type)
        stored = _read(archive, prefix, source)
        return _layer(layer_type, stored, settings, **choices)


def restore(
    layer: Checkpointable,
    path: str | os.PathLike[str],
    *,
    prefix: str = "",
    convention: str | Convention = "fastbn",
    **choices: Unpack[ConversionOptions],
) -> None:
    """Load the state of a layer from a file: all of it or, after an error, nothing.

    The layer keeps its settings (axis, eps, momentum, num_groups and so on), as in `fastbn.BatchNorm.load_state_dict`.

    Parameters
    ----------
    layer : layer of any class
        Its class, the shapes of its arrays and their names must be those in the file.
    path, prefix, convention
        As in `fastbn.BatchNorm.load`.
    **choices
        count, keep_variance and fix_gamma, as in `convert`.

    Raises
    ------
    OSError
        If the file cannot be read.
    TypeError
        If an argument has the wrong type.
    ValueError
        If the file is malformed, has no such layer, or has one that does not fit.

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
    check_layer(layer, "layer")
    check_prefix(prefix)
    source = find(convention)
    with opened(path) as archive:
        _check_kind(type(layer), archive, prefix)
        if not is_averaged(layer):
            whole.check_choices(type(layer), source, choices)
            whole.load(layer, archive, without_prefix({name: name for name in archive.under(prefix)}, prefix))
            return
        stored = _read(archive, prefix, source)
        layer.load_state_dict(convert(stored.state, stored.convention, averaging(layer.unbiased), **choices))


@dataclass(frozen=True, slots=True)
class _Stored:
    """A layer in a file: its state, the convention of the state, and its settings."""

    state: dict[str, NDArray[Any]]
    convention: Convention
    settings: Settings


def _read(archive: Archive, prefix: str, convention: Convention) -> _Stored:
    full = without_prefix({name: name for name in archive.under(prefix)}, prefix)
    names = match(full, convention)
    # Check the shapes before reading: an array that does not belong to a layer may be as large as the file.
    check_shapes({name: archive.shape(full[name]) for field, name in names.items() if field != COUNTER})
    if COUNTER in names and archive.shape(full[names[COUNTER]]) not in ((), (1,)):
        raise ValueError(f"{names[COUNTER]} has shape {archive.shape(full[names[COUNTER]])}; expected ()")
    extra = [name for name in convention.extra if name in full]
    channels = next(archive.shape(full[name]) for field, name in names.items() if field != COUNTER)
    for name in extra:
        if archive.shape(full[name]) not in ((), channels):
            raise ValueError(f"{name} has shape {archive.shape(full[name])}; expected {channels} or ()")
    state = {name: archive.read(full[name]) for name in (*names.values(), *extra)}
    try:
        checked_vectors(state, convention)
        if extra:
            check_exact(state, channels[0])
            check_initial_weight(state)
    except TypeError as error:      # a dtype in the file, not the type of an argument
        raise ValueError(str(error)) from error
    settings, _ = decode(archive.metadata, prefix)
    return _Stored(state, replace(convention, unbiased=settings.get("unbiased", convention.unbiased)), settings)


def _check_kind(layer_type: type[Checkpointable], archive: Archive, prefix: str) -> None:
    settings, kind = decode(archive.metadata, prefix)
    if kind is None:        # of the default class, or of other origin
        kind = default() if settings else None
    else:
        named(kind)         # an unknown name is an error
    expected = name_of(layer_type)
    if kind not in (None, expected):
        raise ValueError(f"the layer is of the class {kind}; expected {expected}; use {kind}.load")


def _layer(layer_type: type[Layer], stored: _Stored, settings: Settings, **choices: Unpack[ConversionOptions]) -> Layer:
    source = stored.convention
    defaults: Settings = {
        "axis": source.axis, "eps": source.eps, "unbiased": source.unbiased,
        "momentum": convert_momentum(source.momentum, source, FASTBN)}
    if settings.get("averaging") == "cumulative":       # implies momentum=None, regardless of the file
        settings = {"momentum": None, **settings}
    chosen: Settings = {**defaults, **stored.settings, **settings}
    target = averaging(check_flag(chosen["unbiased"], "unbiased"))
    return build(layer_type, convert(stored.state, source, target, **choices), **chosen)
