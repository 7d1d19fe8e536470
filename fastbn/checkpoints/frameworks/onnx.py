"""Layers from nodes of ONNX graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.extras import missing
from fastbn.checkpoints.build import build
from fastbn.checkpoints.conventions import CONVENTIONS, FASTBN, averaging
from fastbn.checkpoints.conversion import convert, convert_momentum
from fastbn.checkpoints.kinds import check_class
from fastbn.checkpoints.state import as_native

if TYPE_CHECKING:
    from fastbn.checkpoints.protocol import Layer


def from_onnx(layer_type: type[Layer], node: Any, initializers: Mapping[str, Any]) -> Layer:
    """Create a layer that computes what a BatchNormalization node computes.

    Parameters
    ----------
    layer_type : type
        The class of the layer.
    node : onnx.NodeProto
        See `fastbn.BatchNorm.from_onnx`.
    initializers : mapping of str to ndarray or onnx.TensorProto
        The constants of the graph by name.

    Returns
    -------
    layer_type

    Raises
    ------
    ModuleNotFoundError, TypeError, ValueError
        As `fastbn.BatchNorm.from_onnx`.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import helper
    >>> from fastbn import BatchNorm, checkpoints
    >>> node = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], momentum=0.75)
    >>> bn = checkpoints.from_onnx(BatchNorm, node, {name: np.ones(2, np.float32) for name in "sbmv"})
    >>> bn.momentum, bn.training
    (0.25, False)
    """
    check_class(layer_type, averaged=True)
    if not all(hasattr(node, name) for name in ("op_type", "domain", "input", "attribute")):
        raise TypeError(f"node must be an onnx.NodeProto, got {type(node).__name__}")
    if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
        raise ValueError(f"node must be a BatchNormalization of ONNX, got {node.op_type} of {node.domain or 'ai.onnx'}")
    if not isinstance(initializers, Mapping):
        raise TypeError(f"initializers must be a mapping of names to arrays, got {type(initializers).__name__}")
    if len(node.input) != 5:
        raise ValueError(f"node must have five inputs, got {len(node.input)}")
    absent = [name for name in node.input[1:] if name not in initializers]
    if absent:
        raise ValueError(f"initializers lack {', '.join(absent)}; a layer needs constants")
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if "spatial" in attributes and not attributes["spatial"].i:
        raise ValueError("node has spatial=0, statistics of each position; expected statistics of each channel")
    convention = CONVENTIONS["onnx"]
    names = ("scale", "B", "input_mean", "input_var")
    state = {name: _constant(initializers[key]) for name, key in zip(names, node.input[1:], strict=True)}
    # Attributes are float32, and so are the defaults of missing ones.
    eps = attributes["epsilon"].f if "epsilon" in attributes else float(np.float32(convention.eps))
    momentum = attributes["momentum"].f if "momentum" in attributes else float(np.float32(convention.momentum))
    layer = build(layer_type, convert(state, convention, averaging(unbiased=False)), unbiased=False, eps=eps,
                  momentum=convert_momentum(momentum, convention, FASTBN))
    layer.train("training_mode" in attributes and bool(attributes["training_mode"].i))
    return layer


def _constant(value: Any) -> Any:
    if not hasattr(value, "raw_data"):
        return as_native(value)
    if getattr(value, "data_location", 0):  # reading it would open any path that the tensor names
        raise ValueError(f"initializer {value.name} keeps its data in another file; load the model with onnx.load")
    try:
        from onnx import numpy_helper
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise ModuleNotFoundError(missing("a TensorProto", "onnx", "onnx"), name="onnx") from None
    return numpy_helper.to_array(value)
