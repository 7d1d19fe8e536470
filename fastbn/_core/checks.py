"""Checks of arguments: each returns the value in its type, or raises an error that names the argument.

`listed`, `counted` and `channels` format numbers for error messages.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fastbn._core.tensors import as_constant

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# The smallest normal float32.
LEAST_EPS = float(np.finfo(np.float32).tiny)
# The most values of float64 that an array can have.
MOST_VALUES = sys.maxsize // 8

ActivationName: TypeAlias = Literal[
    "relu", "relu6", "leaky_relu", "hardswish", "hard_sigmoid", "sigmoid", "silu", "tanh", "gelu", "gelu_tanh", "mish",
    "softplus", "elu",
]
Activation: TypeAlias = ActivationName | tuple[Literal["leaky_relu", "elu"], float] | None

# The channel axis, or several.
Axis: TypeAlias = int | tuple[int, ...]

# The codes of the kernels (activations.pxi).
NO_ACTIVATION = (0, 0.0)        # its code in the kernels, and no parameter
ACTIVATIONS = {
    "relu": 1, "relu6": 2, "leaky_relu": 3, "hardswish": 4, "hard_sigmoid": 5, "sigmoid": 6, "silu": 7, "tanh": 8,
    "gelu": 9, "gelu_tanh": 10, "mish": 11, "softplus": 12, "elu": 13,
}
RELU = ACTIVATIONS["relu"]      # the last one that has a backward pass after a residual
# Those with a parameter: its name, and its default, which is PyTorch's.
PARAMETERS = {"leaky_relu": ("slope", 0.01), "elu": ("alpha", 1.0)}


def check_integer(value: object, name: str, least: int | None = None, most: int | None = None) -> int:
    """Return an integer between two bounds; a bool is not an integer."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        integer = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if (least is not None and integer < least) or (most is not None and integer > most):
        bounds = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{name} must be {bounds}, got {integer}")
    return integer


def check_size(value: object, name: str) -> int:
    """Return a number of channels: an integer of at least 1, for which there can be an array."""
    size = check_integer(value, name, 1)
    if size > MOST_VALUES:
        raise ValueError(f"{name} must be at most {MOST_VALUES}, the most values of an array, got {size}")
    return size


def check_flag(value: object, name: str) -> bool:
    """Return a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_lengths(value: object, name: str) -> tuple[int, ...]:
    """Return the lengths of one or more axes; an integer stands for one axis."""
    if type(value) is int:      # the usual case, without the cost of the others
        return (check_integer(value, name, 0),)
    given: tuple[object, ...] = (value,)
    if isinstance(value, Iterable) and getattr(value, "shape", None) != ():     # an array without axes is an integer
        if isinstance(value, (Set, Mapping)):
            raise TypeError(f"{name} must be an integer or a sequence of integers, got {value!r}")
        given = tuple(value)
    try:
        lengths = tuple(check_integer(length, name, 0) for length in given)
    except TypeError:
        raise TypeError(f"{name} must be an integer or a sequence of integers, got {value!r}") from None
    if not lengths:
        raise ValueError(f"{name} must have one or more axes, got {value!r}")
    return lengths


def check_iterable(value: object, name: str, expected: str = "an iterable of arrays") -> None:
    """Raise an error unless the value is an iterable other than text."""
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be {expected}, got {type(value).__name__}")


def check_choice(value: object, name: str, choices: tuple[str, ...]) -> str:
    """Return the value if it is one of the choices."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def check_number(value: object, name: str, expected: str = "a number") -> float:
    """Return a float."""
    if isinstance(value, (bool, np.bool_, str)):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be {expected}, got {value!r}") from None
    except OverflowError:
        raise ValueError(f"{name} must be within the range of a float") from None


def check_eps(eps: object) -> float:
    """Return eps: 0, or large enough that 1 / sqrt(eps) is a finite float32, so that a constant channel gives beta."""
    value = check_number(eps, "eps")
    if value != 0 and not LEAST_EPS <= value < math.inf:
        raise ValueError(f"eps must be 0, or finite and at least {LEAST_EPS:.3g}, got {eps!r}")
    return abs(value)       # turns -0.0 into 0.0


def check_momentum(momentum: object, name: str = "momentum") -> float | None:
    """Return the weight of a new batch in the running averages; None stands for a plain average."""
    if momentum is None:
        return None
    value = check_number(momentum, name, "a number or None")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be between 0 and 1, got {momentum!r}")
    return value


def check_activation(activation: object) -> tuple[int, float]:
    """Return the code of an activation in the kernels, and the slope of a leaky ReLU or alpha of an ELU."""
    if activation is None:
        return NO_ACTIVATION
    name: object = activation
    value: object = None
    if isinstance(activation, tuple) and len(activation) == 2 and (
            isinstance(activation[0], str) and activation[0] in PARAMETERS):
        name, value = activation
    if not isinstance(name, str) or name not in ACTIVATIONS:
        pairs = " or ".join(f"({other!r}, {parameter})" for other, (parameter, _) in PARAMETERS.items())
        raise ValueError(f"activation must be None, {', '.join(map(repr, ACTIVATIONS))}, {pairs}, got {activation!r}")
    parameter, number = PARAMETERS.get(name, ("", 0.0))
    if name is not activation:
        number = check_number(value, f"the {parameter} of {name}")
        if not math.isfinite(number):
            raise ValueError(f"the {parameter} of {name} must be finite, got {number}")
    return ACTIVATIONS[name], number


def check_trainable(activation: object, residual: bool) -> tuple[int, float]:
    """Return as `check_activation`, if there is a backward pass; `residual` tells whether it follows one."""
    coded = check_activation(activation)
    if residual and coded[0] > RELU:
        raise ValueError(f"activation must be None or 'relu' after a residual in training, got {activation!r}; leave "
                         "it out and apply it to the result")
    return coded


def name_of(code: int) -> str:
    """Return the name of an activation."""
    return next(name for name, other in ACTIVATIONS.items() if other == code)


def decoded(coded: tuple[int, float]) -> Activation:
    """Return an activation as a caller gives it: the argument of `check_activation` that returns this.

    Examples
    --------
    >>> from fastbn._core.checks import check_activation, decoded
    >>> decoded((0, 0.0)), decoded(check_activation("relu")), decoded(check_activation("elu"))
    (None, 'relu', ('elu', 1.0))
    """
    if not coded[0]:
        return None
    name: Any = name_of(coded[0])
    pair: Any = (name, coded[1])
    return pair if name in PARAMETERS else name     # type: ignore[no-any-return]


def as_vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return real numbers as a new float64 array."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; expected a plain array")
    try:
        given = np.asarray(as_constant(values, name))
    except ValueError as error:
        raise ValueError(f"{name} cannot be converted to an array: {error}") from error
    if given.dtype.kind not in "fiu" and given.dtype.name != "bfloat16":
        raise TypeError(f"{name} has dtype {given.dtype}; expected real numbers")
    return np.array(given, np.float64)


def check_finite(vectors: Mapping[str, NDArray[np.float64]]) -> None:
    """Raise an error for the first vector with a value that is not finite."""
    for name, vector in vectors.items():
        wrong = np.flatnonzero(~np.isfinite(vector)).tolist()
        if wrong:
            raise ValueError(f"{name} has values that are not finite, in {channels(wrong)}")


def listed(items: Sequence[object], most: int = 8) -> str:
    """Return channel numbers or names as text, and only the first of a long list.

    Examples
    --------
    >>> from fastbn._core.checks import listed
    >>> listed([0, 2, 5], most=2)
    '0, 2 and 1 more'
    """
    text = ", ".join(map(str, items[:most]))
    return text if len(items) <= most else f"{text} and {len(items) - most} more"


def shortened(name: str) -> str:
    """Return the repr of a name from a file, cut to a readable length.

    Examples
    --------
    >>> from fastbn._core.checks import shortened
    >>> shortened("bn1.weight")
    "'bn1.weight'"
    """
    return repr(name if len(name) <= 80 else f"{name[:80]}...")


def check_complete(data: bytes, size: int, name: str) -> bytes:
    """Return the bytes read from a file for the array `name`, or raise an error if the file ended too early."""
    if len(data) != size:
        raise ValueError(f"{shortened(name)} ends after {len(data)} of its {size} bytes")
    return data


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a number and its noun, in the singular or the plural.

    Examples
    --------
    >>> from fastbn._core.checks import counted
    >>> counted(1, "channel"), counted(3, "batch", "batches")
    ('1 channel', '3 batches')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"


def channels(numbers: Sequence[int]) -> str:
    """Return channel numbers as text.

    Examples
    --------
    >>> from fastbn._core.checks import channels
    >>> channels([3]), channels(range(2000))
    ('channel 3', 'channels 0, 1, 2, 3, 4, 5, 6, 7 and 1992 more')
    """
    return f"channel{'' if len(numbers) == 1 else 's'} {listed(numbers)}"
