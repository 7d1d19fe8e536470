"""Layers from the objects of frameworks that are not installed, and from other objects."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fastbn import BatchNorm
from tests.checkpoints.conventions import VALUES


def onnx_node(**changes):
    fields = {"op_type": "BatchNormalization", "domain": "", "input": ["x", "s", "b", "m", "v"], "attribute": []}
    return SimpleNamespace(**fields | changes)


def attribute(name, value):
    return SimpleNamespace(name=name, f=value, i=value)


CONSTANTS = {name: np.array(value, np.float32) for name, value in zip("sbmv", VALUES.values(), strict=True)}


def test_onnx_node():
    bn = BatchNorm.from_onnx(onnx_node(), CONSTANTS)
    assert (bn.axis, bn.unbiased, bn.training) == (1, False, False)
    assert bn.eps == np.float32(1e-5)                   # attributes of ONNX are float32
    assert bn.momentum == pytest.approx(0.1, rel=1e-6)
    np.testing.assert_array_equal(bn.gamma, VALUES["gamma"])
    np.testing.assert_array_equal(bn.running_var, VALUES["var"])
    assert BatchNorm.from_onnx(onnx_node(attribute=[attribute("epsilon", 0.0)]), CONSTANTS).eps == 0
    attributes = [attribute("epsilon", 0.25), attribute("momentum", 0.75), attribute("training_mode", 1)]
    bn = BatchNorm.from_onnx(onnx_node(attribute=attributes), CONSTANTS)
    assert (bn.eps, bn.momentum, bn.training) == (0.25, 0.25, True)


BAD_NODES = {
    "a string": ("BatchNormalization", CONSTANTS, TypeError, "node must be an onnx.NodeProto, got str"),
    "other operator": (onnx_node(op_type="Conv"), CONSTANTS, ValueError, "node must be a .*, got Conv"),
    "other domain": (onnx_node(domain="com.x"), CONSTANTS, ValueError, "got BatchNormalization of com.x"),
    "few inputs": (onnx_node(input=["x", "s"]), CONSTANTS, ValueError, "node must have five inputs, got 2"),
    "not constant": (onnx_node(input=["x", "s", "b", "m", "w"]), CONSTANTS, ValueError, "initializers lack w;"),
    "a list": (onnx_node(), [], TypeError, "initializers must be a mapping of names to arrays, got list"),
    "spatial": (onnx_node(attribute=[attribute("spatial", 0)]), CONSTANTS, ValueError, "node has spatial=0"),
    "NaN": (onnx_node(), CONSTANTS | {"v": [1, np.nan]}, ValueError, "input_var has values that are not finite"),
}


@pytest.mark.parametrize("name", BAD_NODES)
def test_bad_nodes(name):
    node, constants, error, message = BAD_NODES[name]
    with pytest.raises(error, match=message):
        BatchNorm.from_onnx(node, constants)


def test_a_tensor_without_onnx_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r'needs onnx, .*pip install "\.\[onnx\]"'):
        BatchNorm.from_onnx(onnx_node(), CONSTANTS | {"s": SimpleNamespace(raw_data=b"")})


@pytest.mark.parametrize("value", [None, "BatchNorm2d", np.ones(3), BatchNorm], ids=repr)
@pytest.mark.parametrize(("module", "method", "message"), [
    ("torch", BatchNorm.from_torch, r"module must be one of torch.nn.BatchNorm1d, .*SyncBatchNorm, got"),
    ("keras", BatchNorm.from_keras, r"layer must be a keras.layers.BatchNormalization of Keras 3, got")])
def test_what_is_no_layer_is_refused(module, method, message, value, monkeypatch):
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(TypeError, match=message):
        method(value)


def test_keras_2_is_refused(monkeypatch):
    class BatchNormalization:
        built = True

    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(
        layers=SimpleNamespace(BatchNormalization=BatchNormalization)))
    with pytest.raises(TypeError, match="of Keras 3, got BatchNormalization"):
        BatchNorm.from_keras(BatchNormalization())
