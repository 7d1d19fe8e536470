"""Match a state with a convention: names, shapes, dtypes and values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fastbn._core.checks import listed, shortened
from fastbn.checkpoints.conventions import COUNTER, VECTORS
from fastbn.checkpoints.state import as_native

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.checkpoints.conventions import Convention

Value = TypeVar("Value")


def check_prefix(prefix: object) -> None:
    """Raise an error unless a prefix is a string."""
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, got {prefix!r}")


def without_prefix(state: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """Return the entries whose names begin with a prefix, and remove the prefix."""
    check_prefix(prefix)
    if not all(isinstance(name, str) for name in state):
        raise TypeError(f"state must have strings as names, got {sorted({type(name).__name__ for name in state})}")
    own = {name[len(prefix):]: value for name, value in state.items() if name.startswith(prefix)}
    if not own:
        raise ValueError(f"state has no name that begins with {prefix!r}" if prefix else "state is empty")
    return own


def match(names: Collection[str], convention: Convention) -> dict[str, str]:
    """Return fastbn's name of each vector or counter in a state, and its name in a convention.

    Raises
    ------
    ValueError
        If a required name is missing, or a name is unknown.
    """
    known = convention.names
    present = {vector for vector in VECTORS if known[vector] in names}
    omitted = omissible(present, convention)
    missing = [known[vector] for vector in VECTORS if vector not in present and vector not in omitted]
    if not missing and not any(known[vector] in names for vector in VECTORS):
        missing = [known[vector] for vector in VECTORS]
    unknown = sorted(map(shortened, set(names) - {*known.values(), *convention.extra}))
    if missing or unknown:
        wrong = [f"is missing {', '.join(missing)}"] if missing else []
        wrong += [f"also has {listed(unknown, 4)}"] if unknown else []
        raise ValueError(f"state {' and '.join(wrong)}; expected {', '.join(known.values())} of {convention.name}")
    return {field: name for field, name in known.items() if name in names}


def omissible(present: Collection[str], convention: Convention) -> set[str]:
    """Return the vectors that a convention allows to be missing, given the vectors present."""
    return {vector for group in convention.optional if not set(group) & set(present) for vector in group}


def check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise an error unless all shapes are (C,), with the same C of at least 1."""
    channels = None
    for name, shape in shapes.items():
        if len(shape) != 1 or shape[0] < 1 or channels not in (None, shape[0]):
            raise ValueError(f"{name} has shape {shape}; expected ({'C' if channels is None else channels},)")
        channels = shape[0]


def checked_vectors(state: Mapping[str, Any], convention: Convention) -> tuple[dict[str, NDArray[Any]], int]:
    """Return new arrays of the vectors under fastbn's names, and the counter.

    Raises
    ------
    TypeError, ValueError
        As `fastbn.checkpoints.convert`.
    """
    names = match(state.keys(), convention)
    vectors = {vector: as_native(state[name]) for vector, name in names.items() if vector != COUNTER}
    check_shapes({names[vector]: array.shape for vector, array in vectors.items()})
    for vector, array in vectors.items():
        if array.dtype.kind != "f":
            raise TypeError(f"{names[vector]} has dtype {array.dtype}; expected a floating-point type")
        if not np.isfinite(array).all():
            raise ValueError(f"{names[vector]} has values that are not finite")
    if "running_var" in vectors and (vectors["running_var"] < 0).any():
        raise ValueError(f"{names['running_var']} has negative values, down to {vectors['running_var'].min()}")
    tracked = _tracked(as_native(state[names[COUNTER]]), names[COUNTER]) if COUNTER in names else 0
    return vectors, tracked


def _tracked(array: NDArray[Any], name: str) -> int:
    # Some writers store the counter as a float, or in an array of length 1.
    if array.dtype.kind not in "iuf" or array.size != 1:
        raise TypeError(f"{name} must be one integer, got dtype {array.dtype} and shape {array.shape}")
    value = array.reshape(()).item()
    if not 0 <= value < 1 << 63 or value != int(value):
        raise ValueError(f"{name} must be an integer from 0 to 2**63 - 1, got {value}")
    return int(value)
