"""Checks of what is assigned to the attributes of a layer, in its constructor and later.

A class annotates its attributes, and lists its checks in a table. Only assignments look at them; reading remains the
access of a plain attribute, because a small call in evaluation mode reads a dozen of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import get_annotations, getattr_static
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeAlias, TypedDict

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_eps, check_flag, check_integer
from fastbn._core.tensors import as_constant
from fastbn._core.threads import check as check_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Takes the object, the value and the name of the attribute; returns what is stored, or raises an error.
Check: TypeAlias = Callable[[Any, Any, str], Any]
# Assigns an attribute past its check.
set_unchecked: Callable[[object, str, Any], None] = object.__setattr__

# Names of other libraries.
RENAMED = {"weight": "gamma", "bias": "beta", "moving_mean": "running_mean", "moving_variance": "running_var",
           "epsilon": "eps"}


class Checked:
    """An object whose attributes are checked when they are assigned.

    It has no public attributes but those of its class, so that a misspelt setting is an error. A class that is derived
    from it outside of this package may have others.
    """

    __slots__ = ()
    _checks: ClassVar[Mapping[str, Check]] = {}
    _names: ClassVar[frozenset[str]] = frozenset()      # of attributes that are annotated
    # What to do in place of something that the class does not have.
    _instead: ClassVar[Mapping[str, str]] = {"activation": "pass it to each call"}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._names = cls._names.union(get_annotations(cls))

    def __setattr__(self, name: str, value: Any) -> None:
        check = self._checks.get(name)
        if check is not None:
            value = check(self, value, name)
        elif not (name in self._names or name.startswith("_")) and type(self).__module__.partition(".")[0] == "fastbn":
            if callable(getattr(type(self), name, None)) and not (value is None or callable(value)):
                raise AttributeError(f"{with_article(type(self))} has a method {name}; call it")
            if not hasattr(type(self), name):
                raise AttributeError(unknown(type(self), name))
        set_unchecked(self, name, value)


def unknown(cls: type[Checked], name: str) -> str:
    """Return an error message for an attribute that a class does not have."""
    names = [known for known in {*cls._names, *dir(cls)}
             if not (known.startswith("_") or isinstance(getattr_static(cls, known, None), Absent))]
    similar = get_close_matches(name, names, 1)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    if name in cls._instead:
        hint = f"; {cls._instead[name]}"
    elif name in RENAMED:
        hint = f"; it is called {RENAMED[name]}"
    return f"{with_article(cls)} has no attribute {name}{hint}"


def with_article(cls: type) -> str:
    """Return the name of a class after "a" or "an".

    Examples
    --------
    >>> from fastbn.layers.attributes import with_article
    >>> with_article(int), with_article(type("RMSNorm", (), {}))
    ('an int', 'an RMSNorm')
    """
    name = cls.__name__
    spelt = name[:2].isupper()      # the first letter by its name: an RMSNorm
    return f"{'an' if name[0] in ('AEFHILMNORSX' if spelt else 'AEIOaeio') else 'a'} {name}"


class Absent:
    """A name that a class does not have: reading it is an error that tells what to use.

    `hasattr` is False, and a class outside of this package may have an attribute of this name.
    """

    def __set_name__(self, owner: type[Checked], name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type[Checked]) -> NoReturn:
        raise AttributeError(unknown(owner, self._name))


def forwarded(part: str, name: str, doc: str) -> Any:
    """Return a property that stands for an attribute of a part of the object.

    Parameters
    ----------
    part : str
        The attribute that holds the part.
    name : str
        The attribute of the part, which checks what is assigned.
    doc : str
    """
    def assign(owner: object, value: object) -> None:
        setattr(getattr(owner, part), name, value)

    return property(attrgetter(f"{part}.{name}"), assign, doc=doc)


def refusal(hint: str) -> Check:
    """Return a check that refuses every assignment, with a hint at the alternative."""
    def refuse(owner: object, value: object, name: str) -> NoReturn:
        raise AttributeError(f"{name} of {with_article(type(owner))} cannot be assigned; {hint}")

    return refuse


def check_vector(owner: Any, value: Any, name: str) -> NDArray[Any] | None:
    """Return None or the array of a parameter: the memory of an array or tensor, or a new array for a list.

    The owner has the shape as `_shape`. Misaligned and byte-swapped arrays are refused, because no copy of them is free
    of Python code; so are several axes that are not contiguous, which have no view as a vector.
    """
    if value is None:
        return None
    given = as_constant(value, name)
    if len(owner._shape) == 1:
        views.check_vector(given, owner._shape[0], name)
    else:
        given = check_shape(given, owner._shape, name)
    if not isinstance(given, np.ndarray):
        return np.array(given, owner.dtype)
    views.check_plain(given, name)
    return given


def check_shape(value: Any, shape: tuple[int, ...], name: str) -> Any:
    """Return an array or list of floats of several axes as it is, or raise an error."""
    array = views.as_plain(value, name)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
    if not isinstance(value, np.ndarray):
        return value
    views.check_vector(array.reshape(-1), array.size, name)     # the dtype
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} is not contiguous; use np.ascontiguousarray({name})")
    return value


def check_channel_axis(owner: Any, value: Any, name: str) -> int:
    """Return the channel axis of a layer whose first axis is that of the samples."""
    axis = check_integer(value, name)
    if axis == 0:
        raise ValueError(f"{name} must be that of the channels, and 0 is that of the samples; got 0")
    return axis


class Parameters(TypedDict):
    """Whether a layer has a gamma, and a beta."""

    scale: bool
    center: bool


def check_affine(affine: object, scale: object, center: object, name: str = "affine") -> Parameters:
    """Return whether a layer has a gamma, and a beta; without `scale` or `center`, `affine` decides."""
    both = check_flag(affine, name)
    return {"scale": both if scale is None else check_flag(scale, "scale"),
            "center": both if center is None else check_flag(center, "center")}


def check_dtype(dtype: Any) -> np.dtype[Any]:
    """Return float32 or float64; None stands for float32."""
    try:
        kind = np.dtype(np.float32 if dtype is None else dtype)
    except TypeError:
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}") from None
    if kind not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {kind}")
    return kind


# Of all layers.
CHECKS: Mapping[str, Check] = {
    "eps": lambda _, value, name: check_eps(value),
    "num_threads": lambda _, value, name: None if value is None else check_threads(value),
    "training": lambda _, value, name: check_flag(value, name),
    "learn_affine": lambda _, value, name: check_flag(value, name),
    "gamma": check_vector,
    "beta": check_vector,
    "dtype": refusal("make a new layer"),
    "affine": refusal("assign gamma and beta, or None to do without"),
    "scale": refusal("assign gamma, or None to do without"),
    "center": refusal("assign beta, or None to do without"),
}
