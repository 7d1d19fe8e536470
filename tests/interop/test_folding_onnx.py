"""Batch norms in ONNX graphs: each kind of fold, and each reason to leave one."""

import copy
import re

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed: no onnx")
pytest.importorskip("onnxruntime", reason="the onnx extra is not installed: no onnxruntime")

from fastbn.folding.onnx_graph.fold import fold_batch_norms  # noqa: E402
from tests.interop.folding_cases import BN, CONSTANTS, FOLDS, LEFT, NORM  # noqa: E402
from tests.interop.onnx_graphs import constants, graph, operators, run, same  # noqa: E402


@pytest.mark.parametrize("name", CONSTANTS)
def test_arithmetic_with_constants(name):
    body, options, norms, targets, left = CONSTANTS[name]
    model = graph(body, **options)
    original = copy.deepcopy(model)
    outcomes = fold_batch_norms(model)
    assert [outcome.target for outcome in outcomes if outcome.is_batch_norm] == norms
    assert [outcome.target for outcome in outcomes if not outcome.is_batch_norm] == targets
    assert operators(model) == left
    onnx.checker.check_model(model)
    if name != "not finite":
        same(model, original, feed(model))


def feed(model, seed=1):
    """Return normal values for x; an unknown batch size is 2."""
    tensor = model.graph.input[0].type.tensor_type
    shape = [d.dim_value or 2 for d in tensor.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return {"x": np.random.default_rng(seed).standard_normal(shape).astype(dtype)}


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name):
    body, options, targets, left = FOLDS[name]
    model = graph(body, **options)
    original = copy.deepcopy(model)
    outcomes = fold_batch_norms(model)
    assert [outcome.target for outcome in outcomes] == targets
    assert [outcome.reason is None for outcome in outcomes] == [target is not None for target in targets]
    assert all(0 <= outcome.certificate.relative < 1e-6 for outcome in outcomes if outcome.target)
    assert operators(model) == left
    onnx.checker.check_model(model)
    same(model, original, feed(model))
    used = {value for node in model.graph.node for value in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    assert {i.name for i in model.graph.input} <= used
    assert [o.name for o in model.graph.output] == [o.name for o in original.graph.output]


@pytest.mark.parametrize("name", LEFT)
def test_left(name):
    body, options, reason = LEFT[name]
    model = graph(body, **options)
    before = model.SerializeToString(deterministic=True)
    [outcome] = fold_batch_norms(model)
    assert outcome.target is outcome.certificate is None
    assert re.search(reason, outcome.reason), outcome.reason
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", [name for name, (*_, reason) in LEFT.items() if "pads" in reason or "taps" in reason])
def test_what_is_left_at_borders_would_be_wrong(name, monkeypatch):
    for check in ("check_conv_borders", "check_transposed_borders"):
        monkeypatch.setattr(f"fastbn.folding.onnx_graph.nodes.{check}", lambda *_: None)
    body, options, _ = LEFT[name]
    model = graph(body, **options)
    original = copy.deepcopy(model)
    [outcome] = fold_batch_norms(model)
    assert outcome.target
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        same(model, original, feed(model))


def test_float16():
    # ONNX Runtime has no float16 Conv on most CPUs.
    model = graph(f"h = Conv(x, w) {NORM}", dtype="float16")
    [outcome] = fold_batch_norms(model)
    assert 1e-5 < outcome.certificate.relative < 1e-2
    assert [onnx.numpy_helper.to_array(tensor).dtype for tensor in model.graph.initializer] == [np.float16] * 2


def test_a_norm_behind_one_in_training_mode_is_left():
    model = graph(f"r = Relu(x) h = {BN}<training_mode=1>(r, s, t, m, v) {NORM}", "[N, 4, 8]")
    assert [outcome.reason for outcome in fold_batch_norms(model)] == [
        "its training_mode is 1",
        f"{BN} 'h' before it must stay as it is: its training_mode is 1; its output is an output of the graph"]


def test_overflow_is_left():
    model = graph(f"h = Conv(x, w) y = {BN}(h, s, t, m, v)")
    for tensor in model.graph.initializer:
        if tensor.name == "s":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 3e38, 1, 1], np.float32), "s"))
    [outcome] = fold_batch_norms(model)
    assert outcome.reason.startswith("the folded weight overflows float32 in output channels 1; ")


def test_bfloat16_is_left():
    model = graph(f"h = Conv(x, w) y = {BN}(h, s, t, m, v)")
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        name = tensor.name
        tensor.CopyFrom(onnx.helper.make_tensor(name, onnx.TensorProto.BFLOAT16, values.shape, values.ravel()))
    [outcome] = fold_batch_norms(model)
    assert outcome.reason == f"the scale of {BN} 'y' has dtype bfloat16; expected float16, float32 or float64"


def test_a_norm_in_a_function_is_left():
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[2,3] x, float[3] s) => (float[2,3] y) '
        f'{{ y = local.norm(x, s) }} <domain: "local", opset_import: ["" : 17]> norm (a, c) => (b) '
        f'{{ b = {BN}(a, c, c, c, c) }}')
    [outcome] = fold_batch_norms(model)
    assert (outcome.node, outcome.reason) == (f"{BN} 'b'", "it is in function 'norm'")


def test_shared_parameters_are_not_changed_under_others():
    body, options, *_ = FOLDS["weight used elsewhere"]
    model = graph(body, **options)
    fold_batch_norms(model)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(tensors["w"], constants()["w"])
    assert "w_folded" in tensors
    assert not {"s", "t", "m", "v"} & tensors.keys()


def test_values_are_those_of_the_formula():
    model = graph(f"h = Gemm(x, matrix, b) y = {BN}<epsilon=0.25>(h, s, t, m, v)", "[N, 3]", dtype="double")
    fold_batch_norms(model)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    c = constants(np.float64)
    scale = c["s"] / np.sqrt(c["v"] + 0.25)
    np.testing.assert_allclose(tensors["matrix_folded"], c["matrix"] * scale, rtol=1e-15)
    np.testing.assert_allclose(tensors["b_folded"], (c["b"] - c["m"]) * scale + c["t"], rtol=1e-13)


def test_names_that_are_taken():
    model = graph(f"w_folded = Relu(x) h = Conv(w_folded, w) y = {BN}(h, s, t, m, v)")
    original = copy.deepcopy(model)
    fold_batch_norms(model)
    assert operators(model) == ["Relu", "Conv"]
    assert model.graph.node[1].input[1] == "w_folded_1"
    same(model, original, feed(model))


def test_the_comparison_of_these_tests_can_fail():
    model = graph(f"h = Conv(x, w) y = {BN}(h, s, t, m, v)")
    other = copy.deepcopy(model)
    next(n for n in other.graph.node if n.op_type == BN).attribute.append(onnx.helper.make_attribute("epsilon", 0.01))
    assert not np.array_equal(run(model, feed(model))[0], run(other, feed(model))[0])
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        same(other, model, feed(model))
