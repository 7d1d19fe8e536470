"""Build a layer from a state and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.checkpoints.conventions import FASTBN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from fastbn.checkpoints.protocol import Layer
    from fastbn.checkpoints.settings import Settings


def build(layer_type: type[Layer], state: Mapping[str, NDArray[Any]], **settings: Unpack[Settings]) -> Layer:
    """Return a new layer.

    Parameters
    ----------
    layer_type : type
    state : mapping of str to ndarray
        Under fastbn's names. The layer has the vectors of the state.
    **settings
        Arguments of `layer_type`. The default dtype is float64 if a vector of the state is, else float32.
    """
    vectors = [array for name, array in state.items() if name in FASTBN.names.values() and array.ndim]
    if settings.get("dtype") is None:
        settings["dtype"] = np.float64 if any(array.itemsize > 4 for array in vectors) else np.float32
    layer = construct(
        layer_type, len(vectors[0]), scale="weight" in state, center="bias" in state,
        track_running_stats="running_mean" in state, **settings)
    layer.load_state_dict(state)
    return layer


def construct(layer_type: type[Layer], num_features: int, **arguments: Any) -> Layer:
    """Return ``layer_type(num_features, **arguments)``; no Protocol states the constructors, which differ."""
    constructor: Any = layer_type
    layer: Layer = constructor(num_features, **arguments)
    return layer
