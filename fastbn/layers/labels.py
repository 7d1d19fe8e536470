"""Labels of domains, and states by label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastbn._core.checks import check_integer, listed

if TYPE_CHECKING:
    from collections.abc import Mapping

Domain: TypeAlias = str | int


def differing(names: Iterable[str], parts: Mapping[Domain, Mapping[str, Any]]) -> list[str]:
    """Return the names under which the states of some domains have different values."""
    values = {name: [np.asarray(part[name]) for part in parts.values() if name in part] for name in names}
    return [name for name, arrays in values.items() if any(not np.array_equal(arrays[0], array) for array in arrays)]


def check_domains(domains: object) -> tuple[Domain, ...]:
    """Return labels whose names in a state differ."""
    if not isinstance(domains, Iterable):
        return tuple(range(check_integer(domains, "domains", 1)))
    if isinstance(domains, (str, bytes)):
        raise TypeError(f"domains must be a number or an iterable of labels, got {domains!r}")
    labels = tuple(domains)
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, (str, int)):
            raise TypeError(f"domains must be strings or integers, got {label!r}")
        if isinstance(label, str) and (not label or "." in label):
            raise ValueError(f"domains must be names without a dot, got {label!r}")
    names = list(map(str, labels))
    if not labels or len(set(names)) < len(names):
        given = listed(list(map(repr, labels))) if labels else "none"
        raise ValueError(f"domains must be one label or more, each once, got {given}")
    return labels
