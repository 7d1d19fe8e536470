"""Errors of layer norm and RMS norm, beside other libraries."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import fastbn
from benchmarks.accuracy import installed
from benchmarks.peers import EPS
from benchmarks.report import table

Array: TypeAlias = NDArray[Any]

RATIOS = (1.0, 1e2, 1e4, 1e6)   # mean/std
SHAPE, TINY_SHAPE = (4096, 768), (8, 64)
UNIT = 2.0**-24
OPSET = 23      # the first with RMSNormalization


def exact(x: Array, about_zero: bool = False) -> Array:
    """Return y in extended precision; `about_zero` is that of an RMS norm."""
    wide = x.astype(np.longdouble)
    if not about_zero:
        wide = wide - wide.mean(1, keepdims=True)
    return wide / np.sqrt((wide**2).mean(1, keepdims=True) + np.longdouble(EPS))


def fastbn_forward(x: Array, about_zero: bool = False) -> Array:
    norm = fastbn.functional.rms_norm_inference if about_zero else fastbn.functional.layer_norm_inference
    return norm(x, x.shape[1], eps=EPS)


def torch_forward(x: Array, about_zero: bool = False) -> Array:
    import torch

    norm = torch.nn.functional.rms_norm if about_zero else torch.nn.functional.layer_norm
    y: Array = norm(torch.from_numpy(x), (x.shape[1],), eps=EPS).numpy()
    return y


def onnx_forward(x: Array, about_zero: bool = False) -> Array:
    import onnxruntime
    from onnx import TensorProto, helper

    size = x.shape[1]
    of = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
          for name, shape in (("x", x.shape), ("scale", (size,)), ("y", x.shape))}
    node = helper.make_node("RMSNormalization" if about_zero else "LayerNormalization", ["x", "scale"], ["y"],
                            epsilon=EPS)
    graph = helper.make_graph([node], "norm", [of["x"], of["scale"]], [of["y"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y: Array = session.run(None, {"x": x, "scale": np.ones(size, np.float32)})[0]
    return y


def numpy_forward(x: Array, about_zero: bool = False) -> Array:
    d = x if about_zero else x - x.mean(1, keepdims=True)
    y: Array = d / np.sqrt((d * d).mean(1, keepdims=True) + np.float32(EPS))
    return y


FORWARDS = {"fastbn": fastbn_forward, "PyTorch": torch_forward, "ONNX Runtime": onnx_forward, "NumPy": numpy_forward}


def main(tiny: bool) -> None:
    """Print the table."""
    shape = TINY_SHAPE if tiny else SHAPE
    forwards = installed(FORWARDS, np.ones((2, 4), np.float32))
    noise = np.random.default_rng(0).standard_normal(shape)
    lines = [["mean/std", *(f"{name}: {norm}" for norm in ("layer norm", "RMS norm") for name in forwards)]]
    for ratio in RATIOS:
        x = (noise + ratio).astype(np.float32)
        line = [f"{ratio:g}"]
        for about_zero in (False, True):
            right = exact(x, about_zero)
            for forward in forwards.values():
                error = np.abs(forward(x, about_zero) - right).max() / np.abs(right).max()
                line.append(f"{float(error / UNIT):,.1f}")
        lines.append(line)
    constant = np.full(shape, 1.1e7, np.float32)
    lines.append(["constant 1.1e7: largest abs y, 0 expected", *(
        f"{np.abs(forward(constant, False)).max():g}" for forward in forwards.values()), *("" for _ in forwards)])
    print(f"Largest errors of y over the rows of {shape} normal values, in units of 2^-24 of the largest value.\n")
    print(table(lines))
