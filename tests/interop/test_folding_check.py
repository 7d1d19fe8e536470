"""The comparison of two models: differences, and kinds of outputs."""

import math

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed: no onnx")
pytest.importorskip("onnxruntime", reason="the onnx extra is not installed: no onnxruntime")

from fastbn.folding.onnx_graph.check import CheckError, Reference, distance, leaves  # noqa: E402

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(("a", "b", "expected"), [
    ([1.0, -4.0], [1.5, -4.0], (0.5, 4.0)),
    ([0.0], [0.0], (0.0, 0.0)),
    ([NAN, INF, 2.0], [NAN, INF, 3.0], (1.0, 2.0)),
    ([NAN], [1.0], (INF, 0.0)),
    ([1.0], [NAN], (INF, 0.0)),
    ([INF], [-INF], (INF, 0.0)),
    ([INF], [NAN], (INF, 0.0)),
    ([1.0, 2.0], [1.0], (INF, 0.0)),
    ([], [], (0.0, 0.0)),
    ([1], [1.0], (INF, 0.0)),
    ([1, 5], [2, 5], (1.0, 5.0)),
    ([True], [False], (1.0, 1.0)),
    (["a"], ["a"], (0.0, 0.0)),
    (["a"], ["b"], (INF, 0.0)),
], ids=str)
def test_distance(a, b, expected):
    assert distance(np.array(a), np.array(b)) == expected


def test_leaves():
    values = [np.arange(2), [np.ones(1), {"k": 3.0}], "text"]
    assert [leaf.tolist() for leaf in leaves(values)] == [[0, 1], [1.0], "k", 3.0, "text"]


HEAD = '<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => '
# Two models, and whether they agree.
PAIRS = {
    "integers": (HEAD + "(int64 y) { y = ArgMax<axis=0>(x) }", HEAD + "(int64 y) { y = ArgMin<axis=0>(x) }", False),
    "the same integers": (HEAD + "(int64 y) { y = ArgMax<axis=0>(x) }",
                          HEAD + "(int64 y) { z = Neg(x) y = ArgMin<axis=0>(z) }", True),
    "sequences": (HEAD + "(seq(float[4]) y) { z = Neg(x) y = SequenceConstruct(x, z) }",
                  HEAD + "(seq(float[4]) y) { z = Neg(x) y = SequenceConstruct(z, x) }", False),
    "the same sequences": (HEAD + "(seq(float[4]) y) { z = Neg(x) y = SequenceConstruct(x, z) }",
                           HEAD + "(seq(float[4]) y) { z = Neg(x) w = Neg(z) y = SequenceConstruct(w, z) }", True),
    "lengths": (HEAD + "(seq(float[4]) y) { y = SequenceConstruct(x, x) }",
                HEAD + "(seq(float[4]) y) { y = SequenceConstruct(x) }", False),
    "NaN": (HEAD + "(float[4] y) { y = Sqrt(x) }", HEAD + "(float[4] y) { z = Abs(x) y = Sqrt(z) }", False),
    "the same NaN": (HEAD + "(float[4] y) { y = Sqrt(x) }",
                     HEAD + "(float[4] y) { z = Identity(x) y = Sqrt(z) }", True),
}


@pytest.mark.parametrize("name", PAIRS)
def test_compare(name, tmp_path):
    *texts, agree = PAIRS[name]
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path, text in zip(paths, texts, strict=True):
        onnx.save(onnx.parser.parse_model(text), path)
    reference = Reference(paths[0], {})
    assert reference.compare(paths[0].read_bytes()).absolute == 0
    if agree:
        assert reference.compare(paths[1].read_bytes()).absolute == 0
    else:
        with pytest.raises(CheckError, match="output 'y' of the folded model differs by "):
            reference.compare(paths[1].read_bytes())
