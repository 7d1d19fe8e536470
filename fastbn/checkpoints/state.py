"""Check the state of a layer before it is loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import channels as channels_text
from fastbn._core.checks import check_integer, listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT = ("exact_count", "exact_mean", "exact_mean_low", "exact_m2")
# Optional entries beyond PyTorch's names. A layer ignores those that it does not need.
EXTRA = (*EXACT, "initial_weight")
MOST_BATCHES = 2 ** 63 - 1      # the counter in a state is an int64


def check_state(
    state: object, targets: Mapping[str, tuple[str, np.dtype[Any]]], shape: tuple[int, ...],
    optional: Collection[str] = (),
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a state by attribute.

    Parameters
    ----------
    state : mapping of str to array_like
    targets : mapping of str to tuple of str and dtype
        The attribute of each required name, and the dtype of the result.
    shape : tuple of int
        Of all arrays.
    optional : collection of str
        Other names that the state may have.

    Raises
    ------
    TypeError, ValueError
        As `fastbn.BatchNorm.load_state_dict`.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping of names to arrays, got {type(state).__name__}")
    missing = sorted(targets.keys() - state.keys())
    unknown = sorted(map(str, state.keys() - targets.keys() - {*optional}))
    if missing or unknown:
        wrong = [f"is missing {listed(missing)}"] if missing else []
        wrong += [f"also has {listed(unknown)}"] if unknown else []
        raise ValueError(f"state {' and '.join(wrong)}; expected {', '.join(targets) or 'no names'}")
    return {attribute: state_array(name, state[name], shape, dtype) for name, (attribute, dtype) in targets.items()}


def state_array(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return one array of a state, converted to a dtype."""
    if getattr(value, "is_meta", False):
        raise TypeError(f"{name} is a tensor on the device meta, which holds no values")
    given = as_native(value)
    if given.dtype.kind != "f":
        raise TypeError(f"{name} has dtype {given.dtype}; expected a floating-point type")
    if given.shape != shape:
        raise ValueError(f"{name} has shape {given.shape}; expected {shape}")
    with np.errstate(over="ignore"):  # checked below: overflow gives an infinite value
        array = given.astype(dtype)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are not finite in {dtype}, in {places(~np.isfinite(array))}")
    if name in ("running_var", "renorm_var") and (array < 0).any():
        raise ValueError(f"{name} has negative values, down to {array.min()}, in {places(array < 0)}")
    return array


def as_native(value: Any) -> NDArray[Any]:
    """Return a new array, in native byte order, from an array or a tensor; float16 and bfloat16 become float32."""
    if hasattr(value, "detach"):    # NumPy accepts only CPU tensors of PyTorch without a gradient, and no bfloat16
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    array = np.asarray(value)
    wide = np.dtype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array.dtype.newbyteorder("=")
    return array.astype(wide)


def places(wrong: NDArray[np.bool_]) -> str:
    """Return where an array is True as text: channels of a vector, else the first index."""
    if wrong.ndim == 1:
        return channels_text(np.flatnonzero(wrong).tolist())
    return f"{int(wrong.sum())} places, first at {tuple(np.argwhere(wrong)[0].tolist())}"


def check_tracked(value: object) -> int:
    """Return a number of training batches, from a state or an assignment to a layer."""
    if type(value) is int and 0 <= value <= MOST_BATCHES:      # the common case, once for each batch
        return value
    if type(value) is not int:
        array = np.asarray(value)
        if array.dtype.kind not in "iu" or array.size != 1:
            raise TypeError(f"num_batches_tracked must be one integer, got {value!r}")
        value = array.item()
    return check_integer(value, "num_batches_tracked", 0, MOST_BATCHES)


def check_exact(
    state: Mapping[str, Any], channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return counts, means (high and low words) and M2 of each channel; zeros if the state has none of them.

    Raises
    ------
    TypeError, ValueError
        If the state has some of the entries and not the others, or one of them is invalid.
    """
    absent = [name for name in EXACT if name not in state]
    if len(absent) == len(EXACT):
        return np.zeros(channels), np.zeros(channels), np.zeros(channels), np.zeros(channels)
    if absent:
        raise ValueError(f"state is missing {', '.join(absent)}; expected all of {', '.join(EXACT)}, or none")
    count, mean, low, m2 = (state_array(name, state[name], (channels,), np.dtype(np.float64)) for name in EXACT)
    wrong = np.flatnonzero((count < 0) | (count != np.floor(count)))
    if wrong.size:
        raise ValueError(f"exact_count must be whole numbers, not negative; channel {wrong[0]} has {count[wrong[0]]:g}")
    if (m2 < 0).any():
        raise ValueError(f"exact_m2 has negative values, down to {m2.min()}")
    return count, mean, low, m2


def check_initial_weight(state: Mapping[str, Any]) -> float | None:
    """Return the weight of the initial values in the running averages, or None if the state does not have it."""
    if "initial_weight" not in state:
        return None
    array = np.asarray(state["initial_weight"])
    if array.dtype.kind != "f" or array.size != 1:
        raise TypeError(f"initial_weight must be one floating-point number, got {state['initial_weight']!r}")
    weight = float(array.reshape(()))
    if not 0 <= weight <= 1:
        raise ValueError(f"initial_weight must be between 0 and 1, got {weight}")
    return weight
