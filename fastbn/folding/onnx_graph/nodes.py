"""Read the nodes of a graph as layers and batch norms, and write folded layers back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn._core.checks import channels, check_finite
from fastbn.affine import ChannelAffine
from fastbn.folding.arithmetic import constant_of
from fastbn.folding.borders import all_taps_everywhere, check_conv_borders, check_transposed_borders
from fastbn.folding.certificate import Probe
from fastbn.folding.errors import FoldingError
from fastbn.folding.layer import Layer
from fastbn.folding.onnx_graph.graph import attribute, is_operator

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from fastbn.folding.arithmetic import Folded
    from fastbn.folding.onnx_graph.graph import Graph

# Without bfloat16: ONNX Runtime, which compares the models, has no CPU convolution for it.
DTYPES = tuple(np.dtype(name) for name in ("float16", "float32", "float64"))
CONVOLUTIONS = ("Conv", "ConvTranspose")
MATRICES = ("Gemm", "MatMul")
BATCH_NORM = "BatchNormalization"
# The inputs of all these operators; MatMul has no bias.
WEIGHT, BIAS = 1, 2
FIRST_OPSET = 7
FIRST_OPSET_WITH_TRAINING_MODE = 14


def read_batch_norm(graph: Graph, node: NodeProto) -> ChannelAffine:
    """Return the transform of a BatchNormalization at inference.

    Raises
    ------
    FoldingError
        If the node is in training mode, or its parameters are not constant or not valid.
    """
    if graph.opset < FIRST_OPSET:
        raise FoldingError(f"the model has opset {graph.opset}; expected {FIRST_OPSET} or newer")
    if any(node.output[1:]):
        raise FoldingError("it has outputs of training")
    if graph.opset >= FIRST_OPSET_WITH_TRAINING_MODE and attribute(node, "training_mode", 0):
        raise FoldingError("its training_mode is 1")
    if not attribute(node, "spatial", 1):
        raise FoldingError("its spatial is 0: it normalizes every position by itself")
    gamma, beta, mean, var = (read_constant(graph, node, index, name).astype(np.float64)
                              for index, name in enumerate(("scale", "B", "mean", "var"), 1))
    if (var < 0).any():
        raise FoldingError(f"its variance has negative values, down to {var.min():.6g}")
    radicand = var + attribute(node, "epsilon", 1e-5)
    if (radicand == 0).any():
        zero = channels(np.flatnonzero(radicand == 0).tolist())
        raise FoldingError(f"its variance is 0 in {zero} and its epsilon is 0")
    with np.errstate(all="ignore"):  # values that are not finite are refused below
        scale = gamma / np.sqrt(radicand)
    try:
        check_finite({"scale": gamma, "B": beta, "mean": mean, "var": var, "scale / sqrt(var + epsilon)": scale})
        return ChannelAffine(mean, scale, beta)
    except ValueError as error:
        raise FoldingError(f"its parameters do not normalize: {error}") from error


def read_layer(graph: Graph, node: NodeProto) -> Layer:
    """Return the layer of a node. For a BatchNormalization, this is a depthwise layer with the parameters scale and B.

    Raises
    ------
    FoldingError
        If the parameters are not constant, or their shapes or dtypes are invalid.
    """
    weight = read_constant(graph, node, WEIGHT, "weight")
    dtype = weight.dtype
    bias = read_constant(graph, node, BIAS, "bias") if len(node.input) > BIAS and node.input[BIAS] else None
    groups = 1
    if is_operator(node, *MATRICES):
        if weight.ndim != 2:
            raise FoldingError(f"the weight of {graph.label(node)} has {weight.ndim} axes; expected 2")
        if not attribute(node, "transB", 0):
            weight = weight.T
        weight = weight.astype(np.float64) * attribute(node, "alpha", 1.0)
        if bias is not None:
            added = read_channels(bias, len(weight), 2, f"the bias of {graph.label(node)}")
            bias = added * attribute(node, "beta", 1.0)
    elif is_operator(node, *CONVOLUTIONS):
        groups = attribute(node, "group", 1)
    else:
        try:
            read_batch_norm(graph, node)
        except FoldingError as error:
            raise FoldingError(f"{graph.label(node)} before it must stay as it is: {error}") from error
        weight, groups = weight[:, None], len(weight)
    transposed = is_operator(node, "ConvTranspose")
    try:
        layer = Layer.from_parameters(weight, bias, groups=groups, transposed=transposed)
    except (TypeError, ValueError) as error:
        raise FoldingError(f"the parameters of {graph.label(node)} are not valid: {error}") from error
    return replace(layer, dtype=dtype)


def write_layer(graph: Graph, node: NodeProto, folded: Folded) -> None:
    """Replace the parameters of a node. A MatMul with two axes becomes a Gemm, because MatMul has no bias."""
    weight = folded.weight
    if is_operator(node, *MATRICES):
        weight = weight if attribute(node, "transB", 0) else weight.T
        node.op_type = "Gemm"
        for index in reversed(range(len(node.attribute))):
            if node.attribute[index].name in ("alpha", "beta"):   # now part of the parameters
                del node.attribute[index]
    elif not is_operator(node, *CONVOLUTIONS):
        weight = weight[:, 0]
    graph.connect_constant(node, WEIGHT, np.ascontiguousarray(weight))
    graph.connect_constant(node, BIAS, folded.bias)


def read_constant(graph: Graph, node: NodeProto, index: int, name: str) -> NDArray[Any]:
    """Return a constant input of a node.

    Raises
    ------
    FoldingError
        If the input is not constant, or its dtype is not supported.
    """
    value = graph.constant(node.input[index])
    if value is None:
        what = "only the default of an input" if node.input[index] in graph.overridable else "not a constant"
        raise FoldingError(f"the {name} of {graph.label(node)} is {what}")
    if value.dtype not in DTYPES:
        raise FoldingError(f"the {name} of {graph.label(node)} has dtype {value.dtype}; "
                           "expected float16, float32 or float64")
    return value


def read_channels(
    values: NDArray[Any], channels: int, rank: int | None, what: str, axis: int = 1
) -> NDArray[np.float64]:
    """Return a vector over channels from values that broadcast against an array.

    Parameters
    ----------
    values : ndarray
    channels : int
    rank : int or None
        The number of axes of the array, if known.
    what : str
        The name of the values in messages.
    axis : int
        The channel axis of the array.

    Raises
    ------
    FoldingError
        If the values vary along another axis, or would add one.
    """
    if rank is None and values.ndim:
        raise FoldingError(f"{what} has shape {values.shape}, and the number of axes of the other operand is unknown")
    shape = (1,) * axis + (channels,) + (1,) * ((rank or axis + 1) - axis - 1)
    try:
        along = np.broadcast_to(values.astype(np.float64), shape)
    except ValueError:
        raise FoldingError(f"{what} has shape {values.shape}; expected one value for each of {channels} channels, or "
                           "one for all") from None
    return along.ravel()


def check_borders(graph: Graph, node: NodeProto, layer: Layer, affine: ChannelAffine) -> Probe:
    """Check the borders for a fold of a batch norm into the node after it, and return the setup of the measurement.

    Raises
    ------
    FoldingError
        If the fold would change outputs at the borders.
    """
    rank = len(layer.kernel)
    pads = list(attribute(node, "pads", [0] * 2 * rank))
    auto = attribute(node, "auto_pad", b"NOTSET").decode()
    if is_operator(node, "Gemm") and attribute(node, "transA", 0):
        raise FoldingError(f"{graph.label(node)} transposes its input")
    if is_operator(node, "MatMul") and graph.rank(node.input[0]) != 2:
        raise FoldingError(f"the input of {graph.label(node)} is not known to have 2 axes")
    if is_operator(node, "Conv"):
        # SAME never pads a kernel of size 1.
        padded = any(pads) if auto == "NOTSET" else auto != "VALID" and any(k > 1 for k in layer.kernel)
        check_conv_borders(constant_of(affine), padded)
        return Probe(before=True, padding=layer.kernel if padded else ())
    if is_operator(node, "ConvTranspose"):
        ones, zeros = [1] * rank, [0] * rank
        extra = attribute(node, "output_padding", zeros)
        cropped = [min(begin, end - e) for begin, end, e in zip(pads[:rank], pads[rank:], extra, strict=True)]
        explicit = auto in ("NOTSET", "VALID") and not attribute(node, "output_shape", [])
        uniform = explicit and all_taps_everywhere(
            layer.kernel, attribute(node, "strides", ones), attribute(node, "dilations", ones), cropped)
        check_transposed_borders(constant_of(affine), uniform)
        return Probe(before=True, crop=uniform)
    return Probe(before=True)
