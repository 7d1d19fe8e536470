"""The way from a node back to the layer that its input comes from, through nodes that keep channels apart."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fastbn.folding.errors import FoldingError
from fastbn.folding.onnx_graph.graph import attribute, is_operator
from fastbn.folding.onnx_graph.layers import BATCH_NORM, CONVOLUTIONS, MATRICES, read_channels, read_constant

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from fastbn.folding.layer import Layer
    from fastbn.folding.onnx_graph.graph import Graph

LAYERS = (BATCH_NORM, *CONVOLUTIONS, *MATRICES)
ARITHMETIC = ("Add", "Sub", "Mul", "Div")
UNCHANGED = ("Identity", "Dropout")
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
# From here on Dropout takes its mode as an input; before, a model is for inference.
FIRST_OPSET_WITH_DROPOUT_MODE = 12


@dataclass(frozen=True, slots=True)
class Link:
    """A node between a layer and a batch norm.

    Attributes
    ----------
    node : onnx.NodeProto
    index : int
        The input that the layer's values come in by.
    axis : int
        The channel axis of its output.
    """

    node: NodeProto
    index: int
    axis: int


@dataclass(frozen=True, slots=True)
class Chain:
    """A layer and what comes after it.

    Attributes
    ----------
    node : onnx.NodeProto
        The layer's.
    links : tuple of Link
        In the order of the data.
    """

    node: NodeProto
    links: tuple[Link, ...]

    @property
    def arithmetic(self) -> list[Link]:
        """The links that a layer can take over."""
        return [link for link in self.links if is_operator(link.node, *ARITHMETIC)]


def trace(graph: Graph, name: str, axis: int, layers: tuple[str, ...], between: tuple[str, ...]) -> Chain:
    """Return the way back from a value to a layer.

    Parameters
    ----------
    graph : Graph
    name : str
        Of the value.
    axis : int
        The channel axis of the value.
    layers, between : tuple of str
        Operators that may be at the end of the way, and on it.

    Returns
    -------
    Chain

    Raises
    ------
    FoldingError
        If there is another operator on the way, a value is used elsewhere, or the channels are not kept apart.
    """
    links: list[Link] = []
    node = source(graph, name, *layers, *between)
    while not is_operator(node, *layers):
        index = input_of(graph, node)
        links.append(Link(node, index, axis))
        axis = axis_before(graph, node, axis)
        node = source(graph, node.input[index], *layers, *between)
    check_axis(graph, node, axis)
    return Chain(node, tuple(reversed(links)))


def source(graph: Graph, name: str, *operators: str) -> NodeProto:
    """Return the node that makes a value, if it is one of some operators and nothing else takes the value."""
    if name not in graph.producers:
        raise FoldingError("its input is not the output of a node")
    node = graph.producers[name]
    if not is_operator(node, *operators) or name != node.output[0]:
        raise FoldingError(f"its input comes from {graph.label(node)}")
    graph.require_private(name, f"the output of {graph.label(node)} before it")
    return node


def input_of(graph: Graph, node: NodeProto) -> int:
    """Return which input of a node is no constant; the others must be."""
    if not is_operator(node, *ARITHMETIC):
        return 0
    varying = [index for index, name in enumerate(node.input) if graph.constant(name) is None]
    if len(varying) != 1:
        verbs = {"Add": "add", "Sub": "subtract", "Mul": "multiply by", "Div": "divide by"}
        raise FoldingError(f"its input comes from {graph.label(node)}, which does not {verbs[node.op_type]} a constant")
    return varying[0]


def axis_before(graph: Graph, node: NodeProto, axis: int) -> int:
    """Return the channel axis of a node's input from that of its output.

    Raises
    ------
    FoldingError
        If there is none, or it is not known.
    """
    if is_operator(node, "Dropout"):
        check_dropout(graph, node)
    elif is_operator(node, "Transpose"):
        order = attribute(node, "perm", None)
        if order is None:
            raise FoldingError(f"its input comes from {graph.label(node)}, which has no perm")
        return int(order[axis])
    elif is_operator(node, *RESHAPES):
        return axis_before_reshape(graph, node, axis)
    return axis


def axis_before_reshape(graph: Graph, node: NodeProto, axis: int) -> int:
    """Return the axis that has the channels, and as many values after it, before a reshape."""
    before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
    if before is None or after is None or None in after[axis:]:
        raise FoldingError(f"the shapes before and after {graph.label(node)} are not known")
    inner, rest = math.prod(length for length in after[axis + 1:] if length is not None), 1
    for k in range(len(before) - 1, -1, -1):
        length = before[k]
        if length is None:
            break
        if length == after[axis] and rest == inner:
            return k
        rest *= length
    raise FoldingError(f"its input comes from {graph.label(node)}, which takes the channels apart")


def check_dropout(graph: Graph, node: NodeProto) -> None:
    """Raise FoldingError unless a Dropout does nothing."""
    if graph.opset < FIRST_OPSET_WITH_DROPOUT_MODE or len(node.input) < 3 or not node.input[2]:
        return
    mode = graph.constant(node.input[2])
    if mode is None or mode.any():
        raise FoldingError(f"its input comes from {graph.label(node)}, which is in training mode or may be")


def check_axis(graph: Graph, node: NodeProto, axis: int) -> None:
    """Raise FoldingError unless a layer has its channels on an axis."""
    own = 1
    if is_operator(node, "MatMul"):
        rank = graph.rank(node.input[0])
        if rank is None:
            raise FoldingError(f"the input of {graph.label(node)} is not known to have 2 axes")
        own = rank - 1
    if own != axis:
        raise FoldingError(f"the channels of {graph.label(node)} are on axis {own}, and come as axis {axis}")


def absorb(graph: Graph, chain: Chain, layer: Layer) -> Layer:
    """Return a layer that does the arithmetic behind it too.

    Raises
    ------
    FoldingError
        If that is not one factor and one term for each channel.
    """
    rank: int | None = rank_of(graph, chain.node, layer)
    for link in chain.links:
        if is_operator(link.node, *ARITHMETIC):
            scale, shift = factor_and_term(graph, link, layer.out_channels, rank)
            with np.errstate(all="ignore"):     # the folded parameters are looked at
                layer = replace(layer, weight=layer.weight * layer.per_output(scale), bias=layer.bias * scale + shift)
        elif is_operator(link.node, *RESHAPES):
            rank = graph.rank(link.node.output[0])
    return layer


def rank_of(graph: Graph, node: NodeProto, layer: Layer) -> int | None:
    """Return how many axes the output of a layer has, if that is known."""
    if is_operator(node, "MatMul", BATCH_NORM):
        return graph.rank(node.input[0])
    return len(layer.kernel) + 2


def factor_and_term(
    graph: Graph, link: Link, channels: int, rank: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what a node with a constant multiplies each channel by and what it adds then."""
    node = link.node
    what = f"the constant of {graph.label(node)}"
    values = read_channels(read_constant(graph, node, 1 - link.index, "constant"), channels, rank, what, link.axis)
    ones, zeros = np.ones(channels), np.zeros(channels)
    if is_operator(node, "Add"):
        return ones, values
    if is_operator(node, "Mul"):
        return values, zeros
    if is_operator(node, "Sub"):
        return (ones, -values) if link.index == 0 else (-ones, values)
    if link.index == 1:
        raise FoldingError(f"its input comes from {graph.label(node)}, which divides by it")
    if not values.all():
        raise FoldingError(f"its input comes from {graph.label(node)}, which divides by zero")
    return 1 / values, zeros


def splice(graph: Graph, link: Link) -> None:
    """Remove a link: what makes its input makes its output."""
    graph.bypass(graph.producers[link.node.input[link.index]], link.node)
