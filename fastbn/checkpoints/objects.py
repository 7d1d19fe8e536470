"""A layer from another framework's object. None of the frameworks is needed to import this."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.overrides import check_methods
from fastbn.checkpoints.conventions import CONVENTIONS
from fastbn.checkpoints.conversion import as_array, convert, convert_momentum
from fastbn.checkpoints.layers import FASTBN, build
from fastbn.checkpoints.modules import check_module
from fastbn.checkpoints.settings import Settings

if TYPE_CHECKING:
    from fastbn.checkpoints.protocol import Layer

MODULES = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
LAZY = ("LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d")
# fastbn's convention, for layers of frameworks that average biased variances.
BIASED = dataclasses.replace(FASTBN, unbiased=False)


def from_torch(layer_type: type[Layer], module: Any) -> Layer:
    """Return a layer that goes on where a PyTorch module stands; `BatchNorm.from_torch` documents it."""
    torch = sys.modules.get("torch")  # whoever has a module has imported it
    if torch is not None and isinstance(module, _types(torch, LAZY)):
        raise ValueError(f"module is a {type(module).__name__} without parameters; run a batch through it first")
    if torch is None or not isinstance(module, _types(torch, MODULES)):
        raise TypeError(f"module must be one of torch.nn.{', '.join(MODULES)}, got {type(module).__name__}")
    check_module(module, _types(torch, MODULES))
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise ValueError("module has tensors on the device meta, which hold no values; load its state on a real device")
    settings: Settings = {"eps": module.eps, "momentum": module.momentum}
    state = module.state_dict()
    if state:
        layer = build(layer_type, convert(state, "torch", FASTBN), **settings)
    else:
        layer = layer_type(module.num_features, affine=False, track_running_stats=False, **settings)
    layer.train(module.training)
    return layer


def from_keras(layer_type: type[Layer], layer: Any) -> Layer:
    """Return a layer that goes on where one of Keras 3 stands; `BatchNorm.from_keras` documents it."""
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
        layer_type, convert(state, convention, BIASED), axis=layer.axis, eps=layer.epsilon, unbiased=False,
        momentum=convert_momentum(layer.momentum, convention, FASTBN))
    own.train(layer.trainable)
    return own


def from_onnx(layer_type: type[Layer], node: Any, initializers: Mapping[str, Any]) -> Layer:
    """Return a layer that does what an ONNX node does; `BatchNorm.from_onnx` documents it."""
    if not all(hasattr(node, name) for name in ("op_type", "domain", "input", "attribute")):
        raise TypeError(f"node must be an onnx.NodeProto, got {type(node).__name__}")
    if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
        raise ValueError(f"node must be a BatchNormalization of ONNX, got {node.op_type} of {node.domain or 'ai.onnx'}")
    if not isinstance(initializers, Mapping):
        raise TypeError(f"initializers must be a mapping of names to arrays, got {type(initializers).__name__}")
    if len(node.input) != 5:
        raise ValueError(f"node must have five inputs, got {len(node.input)}")
    missing = [name for name in node.input[1:] if name not in initializers]
    if missing:
        raise ValueError(f"initializers miss {', '.join(missing)}; a layer needs constants")
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if "spatial" in attributes and not attributes["spatial"].i:
        raise ValueError("node has spatial=0, statistics of each position; expected statistics of each channel")
    convention = CONVENTIONS["onnx"]
    names = ("scale", "B", "input_mean", "input_var")
    state = {name: _constant(initializers[key]) for name, key in zip(names, node.input[1:], strict=True)}
    # Attributes are float32, and so are the defaults of those that are not there.
    eps = attributes["epsilon"].f if "epsilon" in attributes else float(np.float32(convention.eps))
    momentum = attributes["momentum"].f if "momentum" in attributes else float(np.float32(convention.momentum))
    layer = build(layer_type, convert(state, convention, BIASED), unbiased=False, eps=eps,
                  momentum=convert_momentum(momentum, convention, FASTBN))
    layer.train("training_mode" in attributes and bool(attributes["training_mode"].i))
    return layer


def _types(torch: Any, names: tuple[str, ...]) -> tuple[type[Any], ...]:
    return tuple(getattr(torch.nn, name) for name in names)


def _constant(value: Any) -> Any:
    if not hasattr(value, "raw_data"):
        return as_array(value)
    if getattr(value, "data_location", 0):  # it would be read from whatever path the tensor names
        raise ValueError(f"initializer {value.name} keeps its data in another file; load the model with onnx.load")
    try:
        from onnx import numpy_helper
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise ModuleNotFoundError(
            "a TensorProto needs onnx, which is not installed: pip install 'fastbn[interop]'", name="onnx") from None
    return numpy_helper.to_array(value)
