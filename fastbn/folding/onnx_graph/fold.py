"""The pass over a graph: every batch norm that can be is folded, the others are left with a reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastbn.folding._fold import fold_after, fold_before
from fastbn.folding.errors import FoldingError
from fastbn.folding.onnx_graph.graph import Graph, is_operator, label, subgraphs
from fastbn.folding.onnx_graph.layers import (
    CONVOLUTIONS,
    MATRICES,
    check_borders,
    read_batch_norm,
    read_channels,
    read_constant,
    read_layer,
    write_layer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

    from fastbn.affine import ChannelAffine
    from fastbn.folding._certificate import Certificate

BATCH_NORM = "BatchNormalization"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one BatchNormalization.

    Attributes
    ----------
    node : str
        Its operator and name.
    target : str or None
        The node that it was folded into.
    reason : str or None
        Why it was left, if it was.
    certificate : Certificate or None
        Of the fold.
    """

    node: str
    target: str | None = None
    reason: str | None = None
    certificate: Certificate | None = None


def fold_batch_norms(model: ModelProto) -> list[Outcome]:
    """Fold the batch norms of a model into the layers before or behind them.

    Parameters
    ----------
    model : onnx.ModelProto
        Changed in place.

    Returns
    -------
    list of Outcome
        One for each BatchNormalization, in the order of the graph; those in subgraphs and functions last.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import TensorProto, helper, numpy_helper
    >>> from fastbn.folding.onnx_graph.fold import fold_batch_norms
    >>> x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy")
    >>> nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="linear"),
    ...          helper.make_node("BatchNormalization", ["h", "b", "b", "b", "b"], ["y"], name="norm")]
    >>> constants = [numpy_helper.from_array(np.eye(2, dtype=np.float32), "w"),
    ...              numpy_helper.from_array(np.ones(2, np.float32), "b")]
    >>> model = helper.make_model(helper.make_graph(nodes, "example", [x], [y], constants))
    >>> [outcome] = fold_batch_norms(model)
    >>> outcome.target
    "Gemm 'linear'"
    >>> [node.op_type for node in model.graph.node]
    ['Gemm']
    """
    graph = Graph(model)
    norms = [node for node in graph.nodes if is_operator(node, BATCH_NORM)]
    # All that can go back do so first: a batch norm behind another is then one with it when that one goes forward.
    outcomes = [attempt(fold_back, graph, node) for node in norms]
    for index, node in enumerate(norms):
        if outcomes[index].reason:
            outcomes[index] = either(outcomes[index], attempt(fold_forward, graph, node))
    graph.finish()
    return outcomes + left_inside(model)


def left_inside(model: ModelProto) -> list[Outcome]:
    """Return what is not looked at: batch norms in subgraphs and functions."""
    outcomes = [Outcome(label(inner), reason=f"it is in a subgraph of {label(node)}")
                for node in model.graph.node for inner in norms_in(subgraphs(node))]
    for function in model.functions:
        bodies = [function, *(graph for node in function.node for graph in subgraphs(node))]
        outcomes += [Outcome(label(node), reason=f"it is in function {function.name!r}") for node in norms_in(bodies)]
    return outcomes


def norms_in(bodies: Iterable[GraphProto | FunctionProto]) -> Iterator[NodeProto]:
    """Yield the batch norms among the nodes of graphs or functions."""
    return (node for body in bodies for node in body.node if is_operator(node, BATCH_NORM))


def attempt(
    fold: Callable[[Graph, NodeProto, ChannelAffine], tuple[NodeProto, Certificate]], graph: Graph, node: NodeProto,
) -> Outcome:
    """Return what became of a batch norm when it was to be folded one way."""
    try:
        target, certificate = fold(graph, node, read_batch_norm(graph, node))
    except FoldingError as error:
        return Outcome(graph.label(node), reason=str(error))
    return Outcome(graph.label(node), graph.label(target), certificate=certificate)


def either(back: Outcome, forward: Outcome) -> Outcome:
    """Return the second of two attempts, of which the first failed; if it failed too, with both reasons."""
    if not forward.reason or forward.reason == back.reason:
        return forward
    return replace(forward, reason=f"{back.reason}; {forward.reason}")


def fold_back(graph: Graph, norm: NodeProto, affine: ChannelAffine) -> tuple[NodeProto, Certificate]:
    """Fold a batch norm into the layer before it, together with a constant that is added in between."""
    add, node = None, source(graph, norm.input[0], "Add", BATCH_NORM, *CONVOLUTIONS, *MATRICES)
    if is_operator(node, "Add"):
        add = node
        constants = [graph.constant(name) for name in add.input]
        if (constants[0] is None) == (constants[1] is None):
            raise FoldingError(f"its input comes from {graph.label(add)}, which does not add a constant")
        index = 0 if constants[0] is None else 1
        node = source(graph, add.input[index], *CONVOLUTIONS, *MATRICES)
    layer = read_layer(graph, node)
    if add is not None:
        added = read_channels(read_constant(graph, add, 1 - index, "constant"), layer.out_channels,
                              len(layer.kernel) + 2, f"the constant of {graph.label(add)}")
        layer = replace(layer, bias=layer.bias + added)
    folded = fold_after(layer, affine)
    write_layer(graph, node, folded)
    graph.bypass(node, norm)
    if add is not None:
        graph.remove(add)
    return node, folded.certificate


def fold_forward(graph: Graph, norm: NodeProto, affine: ChannelAffine) -> tuple[NodeProto, Certificate]:
    """Fold a batch norm into the layer behind it."""
    node = graph.require_private(norm.output[0], "its output")
    if not is_operator(node, *CONVOLUTIONS, *MATRICES) or node.input[0] != norm.output[0]:
        raise FoldingError(f"its output goes to {graph.label(node)}")
    layer = read_layer(graph, node)
    folded = fold_before(layer, affine, check_borders(graph, node, layer, affine))
    write_layer(graph, node, folded)
    graph.connect(node, 0, norm.input[0])
    graph.remove(norm)
    return node, folded.certificate


def source(graph: Graph, name: str, *operators: str) -> NodeProto:
    """Return the node that makes a value, if it is one of some operators and nothing else takes the value."""
    if name not in graph.producers:
        raise FoldingError("its input is not the output of a node")
    node = graph.producers[name]
    if not is_operator(node, *operators):
        raise FoldingError(f"its input comes from {graph.label(node)}")
    graph.require_private(name, f"the output of {graph.label(node)} before it")
    return node
