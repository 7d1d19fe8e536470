"""Trace the input of a node back to a layer, through nodes that do not mix channels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fastbn.folding.errors import FoldingError
from fastbn.folding.onnx_graph.graph import attribute, is_operator
from fastbn.folding.onnx_graph.nodes import BATCH_NORM, CONVOLUTIONS, MATRICES, read_channels, read_constant

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from fastbn.folding.layer import Layer
    from fastbn.folding.onnx_graph.graph import Graph

LAYERS = (BATCH_NORM, *CONVOLUTIONS, *MATRICES)
ARITHMETIC = ("Add", "Sub", "Mul", "Div")
UNCHANGED = ("Identity", "Dropout")
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
# From this version on, Dropout takes its mode as an input; before, every model is for inference.
FIRST_OPSET_WITH_DROPOUT_MODE = 12


@dataclass(frozen=True, slots=True)
class Link:
    """A node between a layer and a batch norm.

    Attributes
    ----------
    node : onnx.NodeProto
    index : int
        The index of the input that comes from the layer.
    axis : int
        The channel axis of the output.
    """

    node: NodeProto
    index: int
    axis: int


@dataclass(frozen=True, slots=True)
class Chain:
    """A layer and the nodes between it and a batch norm.

    Attributes
    ----------
    node : onnx.NodeProto
        The layer.
    links : tuple of Link
        In the order of the data flow.
    """

    node: NodeProto
    links: tuple[Link, ...]

    @property
    def arithmetic(self) -> list[Link]:
        """The links that the layer can absorb."""
        return [link for link in self.links if is_operator(link.node, *ARITHMETIC)]


def trace(graph: Graph, name: str, axis: int, layers: tuple[str, ...], between: tuple[str, ...]) -> Chain:
    """Trace a value back to a layer.

    Parameters
    ----------
    graph : Graph
    name : str
        The name of the value.
    axis : int
        The channel axis of the value.
    layers, between : tuple of str
        The operators of layers, and those allowed in between.

    Returns
    -------
    Chain

    Raises
    ------
    FoldingError
        If another operator comes in between, a value is used elsewhere, or channels are mixed.
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
    """Return the producer of a value; raise FoldingError for another operator or a value with other consumers."""
    if name not in graph.producers:
        raise FoldingError("its input is not the output of a node")
    node = graph.producers[name]
    if not is_operator(node, *operators) or name != node.output[0]:
        raise FoldingError(f"its input comes from {graph.label(node)}")
    graph.require_private(name, f"the output of {graph.label(node)} before it")
    return node


def input_of(graph: Graph, node: NodeProto) -> int:
    """Return the index of the only input of a node that is not constant."""
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
        If the input has no such axis, or its shape is unknown.
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
    """Return the axis before a reshape that has the same length, and the same number of values after it."""
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
    raise FoldingError(f"its input comes from {graph.label(node)}, which splits or joins the channels")


def check_dropout(graph: Graph, node: NodeProto) -> None:
    """Raise FoldingError unless a Dropout is in inference mode."""
    if graph.opset < FIRST_OPSET_WITH_DROPOUT_MODE or len(node.input) < 3 or not node.input[2]:
        return
    mode = graph.constant(node.input[2])
    if mode is None or mode.any():
        raise FoldingError(f"its input comes from {graph.label(node)}, which is, or may be, in training mode")


def check_axis(graph: Graph, node: NodeProto, axis: int) -> None:
    """Raise FoldingError unless the output channels of a layer are on this axis."""
    own = 1
    if is_operator(node, "MatMul"):
        rank = graph.rank(node.input[0])
        if rank is None:
            raise FoldingError(f"the input of {graph.label(node)} is not known to have 2 axes")
        own = rank - 1
    if own != axis:
        raise FoldingError(f"the channels of {graph.label(node)} are on axis {own}; expected axis {axis}")


def absorb(graph: Graph, chain: Chain, layer: Layer) -> Layer:
    """Return a layer that includes the arithmetic of the chain.

    Raises
    ------
    FoldingError
        If the arithmetic is not one factor and one term for each channel.
    """
    rank: int | None = rank_of(graph, chain.node, layer)
    for link in chain.links:
        if is_operator(link.node, *ARITHMETIC):
            scale, shift = factor_and_term(graph, link, layer.out_channels, rank)
            with np.errstate(all="ignore"):     # the folded parameters are checked instead
                layer = replace(layer, weight=layer.weight * layer.per_output(scale), bias=layer.bias * scale + shift)
        elif is_operator(link.node, *RESHAPES):
            rank = graph.rank(link.node.output[0])
    return layer


def rank_of(graph: Graph, node: NodeProto, layer: Layer) -> int | None:
    """Return the number of axes of the output of a layer, or None if it is unknown."""
    if is_operator(node, "MatMul", BATCH_NORM):
        return graph.rank(node.input[0])
    return len(layer.kernel) + 2


def factor_and_term(
    graph: Graph, link: Link, channels: int, rank: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the factor and the term of each channel, for a node with a constant operand."""
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
    """Remove a link: the producer of its input produces its output."""
    graph.bypass(graph.producers[link.node.input[link.index]], link.node)
