"""Layers that are stored as a whole: the arguments of the constructor as JSON, and the state as it is."""

from __future__ import annotations

import json
import math
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import listed, shortened
from fastbn.checkpoints.conventions import FASTBN
from fastbn.checkpoints.kinds import name_of
from fastbn.checkpoints.matching import without_prefix
from fastbn.checkpoints.settings import ARGUMENTS, KIND, Settings, key_of
from fastbn.checkpoints.state import as_native

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from fastbn.checkpoints.conventions import Convention
    from fastbn.checkpoints.formats.archive import Archive
    from fastbn.checkpoints.protocol import Checkpointable, Layer

# A layer may have as many values as its arrays in the file, or this many: a small file cannot demand huge arrays.
LARGEST = 1 << 20
# Arguments whose numbers are lengths of arrays, and those that do not multiply them. Other numbers are small.
LENGTHS = ("num_features", "num_channels", "normalized_shape")
PLACES = ("num_groups", "groups", "axis", "virtual_batch_size", "r_max", "d_max")
MOST = 1024


def entries(layer: Checkpointable, prefix: str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays and the metadata of a layer in a file.

    Raises
    ------
    ValueError
        If the layer has no state, a value is not finite, or an argument has no representation in JSON.
    """
    state = layer.state_dict()
    if not state:
        raise ValueError("layer has neither parameters nor statistics, so there is nothing to store")
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are not finite")
    arguments = {name: encoded(name, value) for name, value in layer._arguments().items()}
    texts = {KIND: name_of(type(layer)) or "", ARGUMENTS: json.dumps(arguments)}
    return ({prefix + name: array for name, array in state.items()},
            {key_of(prefix, name): text for name, text in texts.items()})


def encoded(name: str, value: Any) -> Any:
    """Return an argument as JSON has it."""
    if isinstance(value, np.dtype):
        return value.name
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [encoded(name, item) for item in value]
    expected = "a number or a Ramp" if name in ("r_max", "d_max") else "a number, a text or a tuple of them"
    raise ValueError(f"{name} is a {type(value).__name__}, which a file cannot hold; expected {expected}")


def check_choices(layer_type: type, convention: Convention, choices: Mapping[str, Any]) -> None:
    """Raise an error for choices of a conversion, because these layers are stored without one."""
    if convention is not FASTBN:
        raise ValueError(f"convention must be 'fastbn' for a {layer_type.__name__}, got {convention.name!r}")
    given = [name for name, value in choices.items() if value is not None and value is not False]
    if given:
        raise ValueError(f"{listed(given)} cannot be given for a {layer_type.__name__}, whose file has its state as it "
                         "is")


def arguments_in(archive: Archive, prefix: str) -> dict[str, Any]:
    """Return the arguments of a layer in a file; none for a file of other origin."""
    text = archive.metadata.get(key_of(prefix, ARGUMENTS))
    if text is None:
        return {}
    return decoded(text, sum(math.prod(archive.shape(name)) for name in archive.under(prefix)))


def decoded(text: str, values: int) -> dict[str, Any]:
    """Return arguments from the metadata of a file.

    Parameters
    ----------
    text : str
    values : int
        The number of values in the arrays of the layer.

    Raises
    ------
    ValueError
        If they are not as `entries` writes them.
    """
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"metadata has {shortened(text)} as arguments of a layer; expected JSON") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"metadata has {shortened(text)} as arguments of a layer; expected an object of JSON")
    if "num_threads" in arguments:
        raise ValueError("metadata has num_threads as an argument of a layer; expected none, because files do not "
                         "decide about threads")
    most, demand = max(values, LARGEST), 1
    for name, value in arguments.items():
        items = value if isinstance(value, list) else [value]
        simple = all(item is None or isinstance(item, (bool, int, float, str)) for item in items)
        number = size(name, value) if simple else 0
        demand *= 1 if name in PLACES else number
        large = isinstance(value, int) and number > MOST and name not in LENGTHS + PLACES
        if not simple or large or max(number, demand) > most:
            raise ValueError(f"metadata has {shortened(json.dumps(value))} as {name} of a layer")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}


def size(name: str, value: Any) -> int:
    """Return the factor by which an argument may multiply the values of a layer; 1 if it is not a number.

    Examples
    --------
    >>> from fastbn.checkpoints.whole import size
    >>> size("normalized_shape", [3, 4]), size("axis", -1), size("domains", ["day", "night"]), size("eps", 1e-5)
    (12, 1, 2, 1)
    """
    if isinstance(value, list) and name not in LENGTHS:
        return max(1, len(value))
    items = value if isinstance(value, list) else [value]
    return math.prod(max(1, abs(item)) for item in items if isinstance(item, int))


def chosen(settings: Mapping[str, Any], layer_type: type) -> dict[str, Any]:
    """Return those of the settings for all layers of a file that are arguments of a layer.

    Raises
    ------
    TypeError
        For a name that is neither a setting nor an argument of the layer.
    """
    parameters = signature(layer_type).parameters
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    shared = Settings.__annotations__.keys()
    unknown = sorted(settings.keys() - shared - parameters.keys())
    if unknown:
        raise TypeError(f"a layer has no argument {listed(unknown)}; expected some of {', '.join(shared)}")
    return {name: value for name, value in settings.items() if passes_on or name in parameters}


def read(archive: Archive, prefix: str, arguments: Mapping[str, Any], layer_type: type[Layer]) -> Layer:
    """Return a layer from a file.

    Parameters
    ----------
    archive : Archive
    prefix : str
    arguments : mapping of str to object
        They override those in the file.
    layer_type : type

    Raises
    ------
    TypeError, ValueError
        If an argument is missing or invalid, or the state does not fit.
    """
    full = without_prefix({name: name for name in archive.under(prefix)}, prefix)
    stored = arguments_in(archive, prefix)
    described = key_of(prefix, ARGUMENTS) in archive.metadata
    check_given(layer_type, arguments)
    if not described:
        check_complete(layer_type, arguments, prefix, full)
    constructor: Any = layer_type
    try:
        layer: Layer = constructor(**{**stored, **arguments})
    except (MemoryError, OverflowError):
        raise ValueError("metadata describes a layer that is too large") from None
    except TypeError as error:
        # An argument that the caller gave, or a missing one, is a TypeError; one in the file is not.
        if described and not arguments:
            raise ValueError(str(error)) from error
        raise
    try:
        load(layer, archive, full)
    except ValueError as error:
        if described:
            raise
        raise ValueError(f"{error}; {advice(prefix, full)}") from error
    return layer


def advice(prefix: str, names: Iterable[str]) -> str:
    """Return what may be wrong with the arguments for a file of other origin."""
    if any(name.startswith(".") for name in names):
        return f"prefix is {prefix!r}; did you mean {prefix + '.'!r}?"
    return "pass the arguments of the layer that differ from their defaults"


def check_given(layer_type: type[Layer], given: Mapping[str, Any]) -> None:
    """Raise a TypeError for an argument that the class does not have."""
    known = signature(layer_type).parameters
    unknown = [name for name in given if name not in known]
    if unknown and not any(p.kind is Parameter.VAR_KEYWORD for p in known.values()):
        raise TypeError(f"{layer_type.__name__} has no argument {listed(unknown)}; expected some of {', '.join(known)}")


def check_complete(layer_type: type[Layer], given: Mapping[str, Any], prefix: str, entries: Iterable[str]) -> None:
    """Raise a TypeError if a layer of another origin lacks arguments, which the caller has to give."""
    needed = [name for name, p in signature(layer_type).parameters.items()
              if p.default is Parameter.empty and p.kind is Parameter.POSITIONAL_OR_KEYWORD and name not in given]
    if needed:
        raise TypeError(f"the file has no arguments of a {layer_type.__name__} with the prefix {prefix!r}, only "
                        f"{listed(sorted(map(shortened, entries)), 4)}; pass {' and '.join(needed)}")


def load(layer: Checkpointable, archive: Archive, full: Mapping[str, str]) -> None:
    """Load the state of a layer from a file, given the full name of each of its entries."""
    shapes = {name: array.shape for name, array in layer.state_dict().items()}
    wrong = [f"{name} of shape {archive.shape(full[name])}" for name in shapes.keys() & full.keys()
             if archive.shape(full[name]) != shapes[name]]
    if wrong:
        raise ValueError(f"the file has {listed(sorted(wrong))}; expected {listed(list(map(str, shapes.values())))}")
    try:
        layer.load_state_dict(read_all(archive, full, shapes))
    except TypeError as error:      # a dtype in the file, not the type of an argument
        raise ValueError(str(error)) from error


def read_all(archive: Archive, full: Mapping[str, str], expected: Iterable[str]) -> dict[str, Any]:
    """Return the arrays of a layer; those that it does not have are named and not read."""
    known = set(expected)
    return {name: as_native(archive.read(entry)) if name in known else None for name, entry in full.items()}
