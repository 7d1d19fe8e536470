"""The pass over a graph that folds batch norms; those that cannot be folded are left, with a reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fastbn.affine import ChannelAffine
from fastbn.folding.arithmetic import fold_after, fold_before
from fastbn.folding.errors import FoldingError
from fastbn.folding.onnx_graph.chain import (
    ARITHMETIC,
    LAYERS,
    RESHAPES,
    UNCHANGED,
    Link,
    absorb,
    factor_and_term,
    input_of,
    rank_of,
    splice,
    trace,
)
from fastbn.folding.onnx_graph.graph import Graph, is_operator, label, subgraphs
from fastbn.folding.onnx_graph.nodes import (
    BATCH_NORM,
    CONVOLUTIONS,
    FIRST_OPSET,
    MATRICES,
    WEIGHT,
    check_borders,
    read_batch_norm,
    read_layer,
    write_layer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

    from fastbn.folding.certificate import Certificate


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one BatchNormalization, or for arithmetic with a constant that was folded.

    Attributes
    ----------
    node : str
        Operator and name of the node.
    target : str or None
        The node or nodes that it was folded into, separated by commas.
    reason : str or None
        The reason for leaving it.
    certificate : Certificate or None
        The certificate of the fold; of several folds, the one with the largest relative difference.
    """

    node: str
    target: str | None = None
    reason: str | None = None
    certificate: Certificate | None = None

    @property
    def is_batch_norm(self) -> bool:
        """Whether the node is a BatchNormalization."""
        return self.node.startswith(f"{BATCH_NORM} ")


def fold_batch_norms(model: ModelProto) -> list[Outcome]:
    """Fold the batch norms of a model into the layers before or after them, and constants into the layers before them.

    Parameters
    ----------
    model : onnx.ModelProto
        Changed in place.

    Returns
    -------
    list of Outcome
        One for each BatchNormalization, in the order of the graph; then one for each Add, Sub, Mul or Div with a
        constant that was folded without a batch norm; then batch norms in subgraphs and functions, which are left.

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
    # Fold backward first, so that consecutive batch norms are merged before one is folded forward.
    outcomes = [attempt(fold_back, graph, node) for node in norms]
    constants = [attempt(fold_constant, graph, node) for node in graph.remaining(*ARITHMETIC)]
    for index, node in enumerate(norms):
        if outcomes[index].reason:
            outcomes[index] = either(outcomes[index], attempt(fold_forward, graph, node))
    graph.finish()
    return outcomes + [outcome for outcome in constants if outcome.target] + left_inside(model)


def left_inside(model: ModelProto) -> list[Outcome]:
    """Return the batch norms in subgraphs and functions, which are never folded."""
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
    fold: Callable[[Graph, NodeProto], list[tuple[NodeProto, Certificate]]], graph: Graph, node: NodeProto,
) -> Outcome:
    """Try to fold a node with one of the functions below."""
    try:
        folds = fold(graph, node)
    except FoldingError as error:
        return Outcome(graph.label(node), reason=str(error))
    targets = ", ".join(graph.label(target) for target, _ in folds)
    worst = max((certificate for _, certificate in folds), key=lambda certificate: certificate.relative)
    return Outcome(graph.label(node), targets, certificate=worst)


def either(back: Outcome, forward: Outcome) -> Outcome:
    """Return the second of two attempts, the first of which failed; with both reasons if the second failed too."""
    if not forward.reason or forward.reason == back.reason:
        return forward
    return replace(forward, reason=f"{back.reason}; {forward.reason}")


def fold_back(graph: Graph, norm: NodeProto) -> list[tuple[NodeProto, Certificate]]:
    """Fold a batch norm, and arithmetic with constants in between, into the layer before it."""
    affine = read_batch_norm(graph, norm)
    chain = trace(graph, norm.input[0], 1, LAYERS, (*ARITHMETIC, *UNCHANGED, *RESHAPES, "Transpose"))
    folded = fold_after(absorb(graph, chain, read_layer(graph, chain.node)), affine)
    if is_operator(chain.node, "MatMul") and graph.rank(chain.node.input[0]) != 2:
        # Gemm takes two axes only: the batch norm becomes an Add of the bias.
        graph.connect_constant(chain.node, WEIGHT, np.ascontiguousarray(folded.weight.T))
        rest = (graph.rank(norm.input[0]) or 2) - 2
        graph.turn_into_add(norm, folded.bias.reshape(-1, *(1,) * rest))
    else:
        write_layer(graph, chain.node, folded)
        splice(graph, Link(norm, 0, 1))
    for link in chain.arithmetic:
        splice(graph, link)
    return [(chain.node, folded.certificate)]


def fold_constant(graph: Graph, node: NodeProto) -> list[tuple[NodeProto, Certificate]]:
    """Fold arithmetic with a constant into the convolution or batch norm before it."""
    if graph.opset < FIRST_OPSET:
        raise FoldingError(f"the model has opset {graph.opset}; expected {FIRST_OPSET} or newer")
    index = input_of(graph, node)
    chain = trace(graph, node.input[index], 1, (BATCH_NORM, "Gemm", *CONVOLUTIONS), UNCHANGED)
    layer = read_layer(graph, chain.node)
    link = Link(node, index, 1)
    scale, shift = factor_and_term(graph, link, layer.out_channels, rank_of(graph, chain.node, layer))
    try:
        affine = ChannelAffine(np.zeros_like(scale), scale, shift)
    except ValueError as error:
        raise FoldingError(f"the constant of {graph.label(node)} is not finite: {error}") from error
    folded = fold_after(layer, affine)
    write_layer(graph, chain.node, folded)
    splice(graph, link)
    return [(chain.node, folded.certificate)]


def fold_forward(graph: Graph, norm: NodeProto) -> list[tuple[NodeProto, Certificate]]:
    """Fold a batch norm into the layers after it: into all consumers of its output, or into none."""
    affine = read_batch_norm(graph, norm)
    name = norm.output[0]
    nodes = graph.takers(name, "its output")
    if not nodes:
        raise FoldingError("its output is used 0 times")
    folds = []
    for node in nodes:
        if not is_operator(node, *CONVOLUTIONS, *MATRICES) or node.input[0] != name or name in node.input[1:]:
            raise FoldingError(f"its output goes to {graph.label(node)}")
        layer = read_layer(graph, node)
        folds.append((node, fold_before(layer, affine, check_borders(graph, node, layer, affine))))
    for node, folded in folds:
        write_layer(graph, node, folded)
        graph.connect(node, 0, norm.input[0])
    graph.remove(norm)
    return [(node, folded.certificate) for node, folded in folds]
