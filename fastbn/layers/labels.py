"""Labels of domains, and states by label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastbn._core.checks import check_integer, listed

if TYPE_CHECKING:
    from collections.abc import Sequence

Domain: TypeAlias = str | int


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


def prefix_of(domain: Domain) -> str:
    """Return what the names of a domain begin with in a state."""
    return f"bns.{domain}."


def joined(states: Mapping[Domain, Mapping[str, Any]], shared: Sequence[str]) -> dict[str, Any]:
    """Return the state of all domains, in which what they share is there once; the inverse of `parts_of`."""
    first = next(iter(states.values()))
    return {name: first[name] for name in shared} | {
        prefix_of(domain) + name: value for domain, state in states.items() for name, value in state.items()
        if name not in shared}


def same_settings(settings: Mapping[Domain, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of the layers of all domains.

    Raises
    ------
    ValueError
        If they differ in more than the number of threads.
    """
    (first, common), *others = settings.items()
    for domain, other in others:
        changed = [name for name in common if name != "num_threads" and other[name] != common[name]]
        if changed:
            raise ValueError(f"domains {first!r} and {domain!r} differ in {listed(changed)}, and a file holds one set "
                             "of settings")
    return dict(common)


def parts_of(state: object, domains: Iterable[Domain], shared: Sequence[str]) -> dict[Domain, dict[str, Any]]:
    """Return the part of a state that belongs to each domain, with the vectors that all of them share.

    Parameters
    ----------
    state : mapping of str to array_like
    domains : iterable of str or int
    shared : sequence of str
        The names of what the domains share, which may also be in the part of each.

    Raises
    ------
    TypeError, ValueError
        If it is not a mapping, or has other names, or vectors that the domains share and that differ.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping of names to arrays, got {type(state).__name__}")
    prefixes = {domain: prefix_of(domain) for domain in domains}
    common = {name: state[name] for name in shared if name in state}
    unknown = [name for name in state if name not in common and not str(name).startswith((*prefixes.values(),))]
    if unknown:
        expected = listed([*shared, f"names that begin with {listed([*prefixes.values()])}"])
        raise ValueError(f"state also has {listed(sorted(map(str, unknown)))}; expected {expected}")
    parts = {domain: common | {name.removeprefix(prefix): value for name, value in state.items()
                               if name.startswith(prefix)} for domain, prefix in prefixes.items()}
    values = {name: [np.asarray(part[name]) for part in parts.values() if name in part] for name in shared}
    different = [name for name, arrays in values.items()
                 if any(not np.array_equal(arrays[0], array) for array in arrays)]
    if different:
        raise ValueError(f"{listed(different)} differs between the domains, which share one")
    return parts
