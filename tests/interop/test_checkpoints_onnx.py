"""Layers from ONNX nodes, compared with ONNX's reference evaluator."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the interop extra is not installed: no onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from fastbn import BatchNorm  # noqa: E402
from fastbn.checkpoints import convert  # noqa: E402
from tests.compare import close, same_bits  # noqa: E402

NAMES = ("scale", "B", "input_mean", "input_var")
ATTRIBUTES = {"default": {}, "settings": {"epsilon": 0.25, "momentum": 0.75}}
DTYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


def constants(dtype="float32"):
    rng = np.random.default_rng(4)
    return {name: (rng.random(5) + 0.5).astype(dtype) for name in NAMES}


def model(dtype="float32", arrays=None, **attributes):
    node = helper.make_node("BatchNormalization", ["x", *NAMES], ["y"], **attributes)
    arrays = constants(dtype) if arrays is None else arrays
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", DTYPES[dtype], (4, 5, 3, 3))],
        [helper.make_tensor_value_info("y", DTYPES[dtype], (4, 5, 3, 3))],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    onnx.checker.check_model(made)
    return made


def batch(dtype):
    return np.random.default_rng(1).normal(1, 2, (4, 5, 3, 3)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("attributes", ATTRIBUTES)
def test_from_onnx(attributes, dtype):
    made = model(dtype, **ATTRIBUTES[attributes])
    bn = BatchNorm.from_onnx(made.graph.node[0], {t.name: t for t in made.graph.initializer})
    assert bn.dtype == dtype
    assert (bn.axis, bn.unbiased, bn.training) == (1, False, False)
    assert bn.eps == pytest.approx(ATTRIBUTES[attributes].get("epsilon", 1e-5))
    assert bn.momentum == pytest.approx(1 - ATTRIBUTES[attributes].get("momentum", 0.9))
    x = batch(dtype)
    close(bn(x), ReferenceEvaluator(made).run(None, {"x": x})[0], dtype)


def test_there_and_back():
    bn = BatchNorm(5, unbiased=False)
    for _ in range(3):
        bn(batch("float32"))
    made = model(arrays=convert(bn.state_dict(), "fastbn", "onnx", keep_variance=True), epsilon=bn.eps)
    x = batch("float32")
    close(bn.eval()(x), ReferenceEvaluator(made).run(None, {"x": x})[0], np.float32)
    back = BatchNorm.from_onnx(made.graph.node[0], {t.name: t for t in made.graph.initializer})
    same_bits(back.running_var, bn.running_var)


def test_training_mode():
    node = helper.make_node("BatchNormalization", ["x", *NAMES], ["y", "m", "v"], training_mode=1)
    bn = BatchNorm.from_onnx(node, constants())
    assert bn.training
    node_model = helper.make_model(helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", *NAMES)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "m", "v")]),
        opset_imports=[helper.make_opsetid("", 15)])
    x = batch("float32")
    y, mean, var = ReferenceEvaluator(node_model).run(None, {"x": x} | constants())
    np.testing.assert_allclose(bn(x), y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bn.running_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(bn.running_var, var, rtol=1e-5)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_halves_become_float32(kind):
    node = helper.make_node("BatchNormalization", ["x", *NAMES], ["y"])
    tensors = {name: helper.make_tensor(name, kind, (5,), [0.5, 1, 1.5, 2, 4]) for name in NAMES}
    bn = BatchNorm.from_onnx(node, tensors)
    same_bits(bn.running_var, np.array([0.5, 1, 1.5, 2, 4], np.float32))


def test_data_in_other_files_are_not_read(tmp_path):
    node = helper.make_node("BatchNormalization", ["x", *NAMES], ["y"])
    tensors = {name: numpy_helper.from_array(array, name) for name, array in constants().items()}
    onnx.external_data_helper.set_external_data(tensors["B"], str(tmp_path / "elsewhere"))
    tensors["B"].data_location = TensorProto.EXTERNAL
    with pytest.raises(ValueError, match="initializer B keeps its data in another file"):
        BatchNorm.from_onnx(node, tensors)


def test_old_nodes_of_each_position():
    node = helper.make_node("BatchNormalization", ["x", *NAMES], ["y"], spatial=0)
    with pytest.raises(ValueError, match="node has spatial=0"):
        BatchNorm.from_onnx(node, constants())
