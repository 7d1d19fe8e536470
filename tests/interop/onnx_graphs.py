"""Small ONNX graphs, and ONNX Runtime to run them."""

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

CHANNELS, INPUTS = 4, 3


def constants(dtype=np.float32):
    """Constants for the graphs: convolutions and matrices from 3 to 4 channels, norms of 4 and of 3 channels."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    out = {"w": normal(4, 3, 3, 3), "b": normal(4), "w1": normal(4, 3, 1, 1), "wt": normal(3, 4, 3, 3),
           "wt1": normal(3, 4, 1, 1), "wg": normal(4, 2, 3, 3), "wtg": normal(4, 2, 2, 2), "w4": normal(2, 4, 1, 1),
           "matrix": normal(3, 4), "matrix_t": normal(4, 3), "matrix4": normal(4, 2), "row": normal(1, 4),
           "column": normal(4, 1, 1), "scalar": normal(), "many": normal(2, 4), "zero": 0 * normal(4)}
    for norm, channels in (("", 4), ("3", 3), ("other", 4), ("2", 2), ("16", 16)):
        out |= {f"{name}{norm}": normal(channels) for name in ("s", "t", "m")}
        out[f"v{norm}"] = (rng.uniform(0.1, 4, channels)).astype(dtype)
    out["negative"] = -out["v"]
    # Drawn last, so that the values of the others do not change.
    out |= {"other": normal(1, 4, 1, 1) + 2, "square": normal(4, 4), "grid": normal(2, 2), "x1": normal(3, 1, 1)[:1],
            "zero4": 0 * normal(4, 1, 1), "infinity": np.full((4, 1, 1), np.inf, dtype)}
    out["nan"] = np.array([1, 2, np.nan, 4], dtype)
    return out


def graph(body, x="[N, 3, 8, 8]", *, opset=17, ir=8, dtype="float", outputs="y", defaults=()):
    """A model of the nodes in `body`, given in ONNX's text format, and of the constants that they use.

    `defaults` are the constants that callers may override.
    """
    numpy_dtype = {"float": np.float32, "double": np.float64, "float16": np.float16}[dtype]
    results = ", ".join(f"{dtype} {name}" for name in outputs.split())
    model = onnx.parser.parse_model(
        f'<ir_version: {ir}, opset_import: ["" : {opset}]> g ({dtype}{x} x) => ({results}) {{ {body} }}')
    used = {name for node in model.graph.node for name in node.input}
    used |= {name for node in model.graph.node for a in node.attribute for inner in a.g.node for name in inner.input}
    for name, value in constants(numpy_dtype).items():
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(value, name))
            if ir < 4 or name in defaults:
                tensor = model.graph.initializer[-1]
                model.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    return model


def run(model, feed):
    """The outputs of a model, run without optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feed)


def same(folded, original, feed, rtol=1e-5):
    """Assert that two models have the same outputs, and that these depend on the input."""
    flipped = {name: -value for name, value in feed.items()}
    for got, expected, other in zip(run(folded, feed), run(original, feed), run(original, flipped), strict=True):
        assert got.dtype == expected.dtype
        size = np.abs(expected).max()
        assert np.abs(other - expected).max() > 1e-3 * size > 0
        np.testing.assert_allclose(got, expected, rtol=0, atol=rtol * size)


def operators(model):
    return [node.op_type for node in model.graph.node]
