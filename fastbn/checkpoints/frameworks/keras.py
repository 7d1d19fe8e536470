"""Layers from Keras 3 layers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fastbn._core.overrides import check_methods
from fastbn.checkpoints.build import build
from fastbn.checkpoints.conventions import CONVENTIONS, FASTBN, averaging
from fastbn.checkpoints.conversion import convert, convert_momentum
from fastbn.checkpoints.kinds import check_class

if TYPE_CHECKING:
    from fastbn.checkpoints.protocol import Layer


def from_keras(layer_type: type[Layer], layer: Any) -> Layer:
    """Create a layer with the state and the settings of a Keras 3 layer.

    Parameters
    ----------
    layer_type : type
        The class of the new layer.
    layer : keras.layers.BatchNormalization
        See `fastbn.BatchNorm.from_keras`.

    Returns
    -------
    layer_type

    Raises
    ------
    TypeError, ValueError
        As `fastbn.BatchNorm.from_keras`.

    Examples
    --------
    >>> from fastbn import BatchNorm, checkpoints
    >>> bn = checkpoints.from_keras(BatchNorm, model.get_layer("bn"))       # doctest: +SKIP
    """
    check_class(layer_type, averaged=True)
    keras = sys.modules.get("keras")
    # Keras 2 has no ops.
    if keras is None or not hasattr(keras, "ops") or not isinstance(layer, keras.layers.BatchNormalization):
        raise TypeError(f"layer must be a keras.layers.BatchNormalization of Keras 3, got {type(layer).__name__}")
    check_methods(layer, "layer", keras.layers.BatchNormalization, ("call", "__call__"))
    if not layer.built:
        raise ValueError("layer is not built, so it has no parameters; run a batch through it first")
    if getattr(layer, "renorm", False):
        raise ValueError("layer has renorm=True, batch renormalization; expected batch normalization")
    convention = CONVENTIONS["keras"]
    variables = {name: getattr(layer, name) for name in convention.names.values()}
    state = {name: keras.ops.convert_to_numpy(value) for name, value in variables.items() if value is not None}
    own = build(
        layer_type, convert(state, convention, averaging(unbiased=False)), axis=layer.axis, eps=layer.epsilon,
        unbiased=False, momentum=convert_momentum(layer.momentum, convention, FASTBN))
    own.train(layer.trainable)
    return own
