"""What may be assigned to the attributes of a layer: one table, for the constructor and for later alike.

The table is looked at where an attribute is assigned. Reading stays that of a plain attribute, which a small call in
evaluation mode does a dozen times; properties would slow it down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fastbn._core import views
from fastbn._core.checks import check_choice, check_eps, check_flag, check_integer, check_momentum
from fastbn._core.tensors import as_constant
from fastbn._core.threads import check as check_threads
from fastbn.checkpoints.state import check_tracked
from fastbn.layers import running as _averaging

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbn.layers.batchnorm import BatchNorm

Check = Callable[["BatchNorm", Any, str], Any]


def refuse(layer: BatchNorm, value: Any, name: str) -> NoReturn:
    """Raise an error that says what can be done in place of an assignment."""
    raise AttributeError(f"{name} of a {type(layer).__name__} cannot be assigned; {FIXED[name]}")


def check_vector(layer: BatchNorm, value: Any, name: str) -> NDArray[Any] | None:
    """Return None or the array of a channel vector: that of an array or a tensor itself, a new one of a list."""
    if value is None:
        return None
    vector = as_constant(value, name)
    views.check_vector(vector, layer.num_features, name)
    return vector if isinstance(vector, np.ndarray) else np.array(vector, layer.dtype)


def check_running(layer: BatchNorm, value: Any, name: str) -> NDArray[Any] | None:
    """Return as `check_vector`; None only for a layer whose averaging does without."""
    if value is None and (layer.debias or layer.averaging == "exact"):
        setting = "debias=True" if layer.debias else "averaging='exact'"
        raise ValueError(f"{name} must be an array with {setting}, got None")
    return check_vector(layer, value, name)


def check_debias(layer: BatchNorm, value: Any, name: str) -> bool:
    """Return a bool, True only for a layer whose averages start with a weight that can be taken out."""
    debias = check_flag(value, name)
    if debias and not layer.track_running_stats:
        raise ValueError("track_running_stats must be True with debias=True, got False")
    if debias and layer.averaging != "ema":
        raise ValueError(f"debias must be False where averaging is {layer.averaging!r}, whose start has no weight; "
                         "got True")
    return debias


def check_layer_momentum(layer: BatchNorm, value: Any, name: str) -> float | None:
    """Return a momentum; None only for a layer that does not debias."""
    momentum = check_momentum(value)
    if momentum is None and layer.debias:
        raise ValueError("momentum must be a number where debias is True, got None")
    return momentum


def check_dtype(dtype: Any) -> np.dtype[Any]:
    """Return float32 or float64; None is float32, the default."""
    kind = np.dtype(np.float32 if dtype is None else dtype)
    if kind not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {kind}")
    return kind


FIXED = {
    "num_features": "make a new layer",
    "dtype": "make a new layer",
    "averaging": "make a new layer, or assign momentum, of which None is 'cumulative'",
    "affine": "assign gamma and beta, or None to do without",
    "scale": "assign gamma, or None to do without",
    "center": "assign beta, or None to do without",
    "track_running_stats": "assign running_mean and running_var, or None to do without",
}
PROPERTIES = ("affine", "track_running_stats")     # of these, which were attributes once

# Each returns what is stored, or raises an error.
CHECKS: dict[str, Check] = {
    "axis": lambda _, value, name: check_integer(value, name),
    "eps": lambda _, value, name: check_eps(value),
    "momentum": check_layer_momentum,
    "unbiased": lambda _, value, name: check_flag(value, name),
    "num_threads": lambda _, value, name: None if value is None else check_threads(value),
    "debias": check_debias,
    "nan_policy": lambda _, value, name: check_choice(value, name, _averaging.POLICIES),
    "training": lambda _, value, name: check_flag(value, name),
    "gamma": check_vector,
    "beta": check_vector,
    "running_mean": check_running,
    "running_var": check_running,
    "num_batches_tracked": lambda _, value, name: check_tracked(value),
    **dict.fromkeys(FIXED, refuse),
}


def migrated(state: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a pickled layer under their present names; earlier releases had others."""
    new = {"debias": False, "nan_policy": "propagate", "_exact": False, "_warned": False}
    renamed = {name.removeprefix("_") if name in ("_eps", "_momentum") else name: value
               for name, value in state.items() if name not in ("_constants", "_last")}
    return {**new, **{name: value for name, value in renamed.items() if name not in PROPERTIES}}
